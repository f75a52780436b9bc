"""The guide to local servers with a real model. Opt-in: `make test-local-model` brings what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.llm.stats import steps_for_workflow
from baton.models import WorkflowRun
from scripts import watchdog
from scripts.local_model import FOLDER
from tests.pages import DOCS, ROOT, blocks_of
from tests.test_docs import Reader, isolated_steps

__all__ = ["isolated_steps"]

GUIDE = DOCS / "howto" / "use-a-local-server.md"


@pytest.fixture
def address() -> Iterator[str]:
    """A server with a model, as a process of its own."""
    code = "import sys; from scripts import local_model; local_model.serve(sys.argv[1])"
    server = subprocess.Popen(
        [sys.executable, "-c", code, os.environ[FOLDER]],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    watchdog.watch(server, stop_with=9)
    try:
        yield next(line.strip() for line in server.stdout if line.startswith("http"))
    finally:
        server.kill()
        server.communicate()
        watchdog.forget(server)


@pytest.mark.django_db
def test_guide_to_local_servers_holds_with_a_real_model(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated_steps: None
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")

    with Reader(tmp_path) as reader:
        for block in blocks_of(GUIDE):
            reader.follow(block)

    run = WorkflowRun.objects.get()
    calls = steps_for_workflow(run)
    for call in calls:
        text = run.steps[call["step_name"]].result
        sys.stdout.write(
            f"\n{call['step_name']}: {call['input_tokens']} tokens in, {call['cached_input_tokens']} of them cached, "
            f"{call['output_tokens']} out, {call['duration']:.2f} s: {text!r}"
        )
    assert [call["provider"] for call in calls] == ["local", "local"]
    assert all(0 < call["output_tokens"] <= 60 for call in calls)
    assert all(run.steps[name].result for name in ("title", "continuation"))
