"""A process that listens to all events over the channel layer, as a dashboard's server would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from benchmarks.cluster import ROOT
from benchmarks.environment import LAYER_VARIABLE
from benchmarks.workloads import POLL_SECONDS, WrongResultError, check_equal
from scripts import watchdog


class Listener:
    """The process, for the length of a ``with`` block; it writes what it has heard so far into a file."""

    def __init__(self, layer: str, folder: Path) -> None:
        self.environment = {**os.environ, LAYER_VARIABLE: layer}
        self.heard = folder / "heard.json"
        self.before = {"messages": 0, "steps": 0, "runs": 0}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.heard.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.listener", str(self.heard)], cwd=ROOT, env=self.environment
        )
        watchdog.watch(self.process, stop_with=signal.SIGKILL)
        self._wait(self.heard.exists)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        watchdog.forget(self.process)

    def messages_of(self, *, runs: int, steps: int) -> float:
        """Wait until so many runs were heard to end, and each of their steps to begin and end; count the messages."""
        self._wait(lambda: self._since()["runs"] >= runs)
        since = self._since()
        check_equal("events heard", (since["runs"], since["steps"]), (runs, 2 * steps))
        self.before = self._read()
        return float(since["messages"])

    def _since(self) -> dict[str, int]:
        return {name: count - self.before[name] for name, count in self._read().items()}

    def _read(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(self.heard.read_text(encoding="ascii"))
        return found

    def _wait(self, condition: Any) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            if time.monotonic() > deadline:
                message = f"the listener has heard only {self._since()}"
                raise WrongResultError(message)
            time.sleep(POLL_SECONDS)


async def listen(heard: Path) -> None:
    """Join the group of all events, and count."""
    from channels.layers import get_channel_layer  # noqa: PLC0415 - needs a configured Django

    from baton.events import all_group  # noqa: PLC0415 - needs a configured Django

    layer = get_channel_layer()
    assert layer is not None
    channel = await layer.new_channel()
    await layer.group_add(all_group(), channel)
    counts = {"messages": 0, "steps": 0, "runs": 0}
    reporting = asyncio.create_task(report(counts, heard))
    while not reporting.done():
        message = await layer.receive(channel)
        counts["messages"] += 1
        for event in message.get("events", [message]):
            counts["runs" if event["type"] == "workflow.finished" else "steps"] += 1


async def report(counts: dict[str, int], heard: Path) -> None:
    """Write the counts, every now and then."""
    scratch = heard.with_suffix(".new")
    while True:
        scratch.write_text(json.dumps(counts), encoding="ascii")
        scratch.replace(heard)
        await asyncio.sleep(POLL_SECONDS)


if __name__ == "__main__":
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    django.setup()
    asyncio.run(listen(Path(sys.argv[1])))
