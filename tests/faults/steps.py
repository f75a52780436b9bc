"""Steps whose results tell which execution stored them, and what it was given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from baton import Discard, step
from baton.context import StepContext


def strike() -> None:
    """The place in a body where a fault may be planted."""


@step(max_attempts=8, backoff=0.05)
def work(ctx: StepContext, *, folder: str, fails: bool = False) -> Any:
    """Note that it ran, and return who it was and which executions its dependencies' results are of."""
    me = uuid4().hex
    _note(folder, {"step": ctx.step_name, "attempt": ctx.attempt, "me": me})
    strike()
    if fails:
        return Discard("as asked")
    return {"by": me, "saw": {name: result["by"] for name, result in ctx.results.items()}}


@work.on_dependency_discarded
def note_hook(ctx: StepContext, reason: str) -> None:
    _note(ctx.args["folder"], {"hook": ctx.step_name, "reason": reason})


def notes(folder: Path) -> list[dict[str, Any]]:
    """Everything that was noted."""
    return [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]


def _note(folder: str, note: dict[str, Any]) -> None:
    with (Path(folder) / str(os.getpid())).open("ab", buffering=0) as file:
        file.write(json.dumps(note).encode() + b"\n")
