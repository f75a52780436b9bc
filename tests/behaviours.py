"""Fixture steps whose bodies do what they are told; workers import them by their dotted names."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baton import Cancel, Discard, Snooze, step
from baton.context import StepContext
from tests.interpreter import Act, combined

FOREVER = 600.0

Numbers = dict[str, int]

ROUND = " round "
"""The name under which the beginning of a round is noted."""


# Bodies that follow a script ------------------------------------------------------------------------------------


@step
def behave(
    ctx: StepContext,
    *,
    folder: str,
    script: list[str],
    number: int,
    pause: float = 0.0,
    whole: dict[str, Numbers | None] | None = None,
    parts: Numbers | None = None,
    again: Sequence[str] = (),
) -> Any:
    """Do what the script says for this execution, and note in the folder that it ran and what it was given.

    Args:
        ctx: The context.
        folder: Where the notes are kept.
        script: Acts of the interpreter, one for each execution; the last repeats.
        number: Goes into the result.
        pause: Seconds that a snooze asks for.
        whole: References to whole results, by the step's name.
        parts: References to parts of results, by the step's name.
        again: The script of the rounds that were marked in the folder, where it is another one.
    """
    act = _begin(ctx, folder, script, again)
    if act == Act.TIME_OUT:
        time.sleep(FOREVER)
    return _carry_out(ctx, act, folder=folder, number=number, pause=pause, whole=whole or {}, parts=parts or {})


@step
async def behave_async(
    ctx: StepContext,
    *,
    folder: str,
    script: list[str],
    number: int,
    pause: float = 0.0,
    whole: dict[str, Numbers | None] | None = None,
    parts: Numbers | None = None,
    again: Sequence[str] = (),
) -> Any:
    """The same as a coroutine."""
    await asyncio.sleep(0)
    act = _begin(ctx, folder, script, again)
    if act == Act.TIME_OUT:
        await asyncio.sleep(FOREVER)
    return _carry_out(ctx, act, folder=folder, number=number, pause=pause, whole=whole or {}, parts=parts or {})


@behave.on_dependency_cancelled
@behave_async.on_dependency_cancelled
def note_cancelled_dependency(ctx: StepContext, reason: str) -> None:
    _note(Path(ctx.args["folder"]), f"{ctx.step_name}.hooks", {"state": "cancelled", "reason": reason})


@behave.on_dependency_discarded
@behave_async.on_dependency_discarded
def note_discarded_dependency(ctx: StepContext, reason: str) -> None:
    _note(Path(ctx.args["folder"]), f"{ctx.step_name}.hooks", {"state": "discarded", "reason": reason})


def notes(folder: Path, name: str) -> list[dict[str, Any]]:
    """What was noted under a name, in order."""
    return [json.loads(line) for line in _lines(folder) if line.startswith(_head(name))]


def begin_round(folder: Path) -> None:
    """Mark that what follows belongs to another round."""
    _note(folder, ROUND, {"began": time.monotonic_ns()})


def notes_of_round(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Everything that was noted since the last mark, by name."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in _lines(folder):
        note = json.loads(line)
        if note["name"] == ROUND:
            found.clear()
        else:
            found[note["name"]].append(note)
    return found


def _begin(ctx: StepContext, folder: str, script: Sequence[str], again: Sequence[str]) -> Act:
    lines = _lines(Path(folder))
    marks = [index for index, line in enumerate(lines) if line.startswith(_head(ROUND))]
    if marks:
        script, lines = again or script, lines[marks[-1] :]
    execution = sum(line.startswith(_head(ctx.step_name)) and "started" in json.loads(line) for line in lines)
    started = {"started": time.monotonic_ns(), "attempt": ctx.attempt, "results": sorted(ctx.results)}
    _note(Path(folder), ctx.step_name, started)
    return Act(script[min(execution, len(script) - 1)])


def _carry_out(
    ctx: StepContext,
    act: Act,
    *,
    folder: str,
    number: int,
    pause: float,
    whole: dict[str, Numbers | None],
    parts: Numbers,
) -> Any:
    _note(Path(folder), ctx.step_name, {"ended": time.monotonic_ns()})
    # Raised by the odd attempts, returned by the even ones: both mean the same.
    raises = ctx.attempt % 2 == 1
    match act:
        case Act.RAISE:
            msg = f"told to fail at attempt {ctx.attempt}"
            raise RuntimeError(msg)
        case Act.SNOOZE if raises:
            raise Snooze(pause)
        case Act.SNOOZE:
            return Snooze(pause)
        case Act.DISCARD if raises:
            raise Discard("told to discard")
        case Act.DISCARD:
            return Discard("told to discard")
        case Act.CANCEL if raises:
            raise Cancel("told to cancel")
        case Act.CANCEL:
            return Cancel("told to cancel")
        case Act.NOTHING:
            return None
    return combined(
        number,
        [ctx.results[name]["sum"] for name in sorted(ctx.results)],
        [None if value is None else value["sum"] for _, value in sorted(whole.items())],
        [value for _, value in sorted(parts.items())],
    )


def _note(folder: Path, name: str, note: dict[str, Any]) -> None:
    # One write of a few bytes to a file opened for appending: whole, or after a kill not there at all.
    with (folder / "notes").open("ab", buffering=0) as file:
        file.write(json.dumps({"name": name, **note}).encode() + b"\n")


def _lines(folder: Path) -> list[str]:
    file = folder / "notes"
    return file.read_text().splitlines() if file.exists() else []


def _head(name: str) -> str:
    return json.dumps({"name": name})[:-1] + ","


# Bodies that meet -----------------------------------------------------------------------------------------------


class MeetingPoint:
    """Where the bodies of two threads wait for each other, so that both settle at the same instant."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.side = threading.local()
        """Which of the two this thread is: ``number``, 0 or 1."""
        self.delays = (0.0, 0.0)
        """Seconds that each of them leaves later."""

    def wait(self) -> None:
        """Wait for the other thread."""
        self.barrier.wait(timeout=60)
        if seconds := self.delays[self.side.number]:
            time.sleep(seconds)


meeting_point = MeetingPoint()


@step(max_attempts=1)
def meet(ctx: StepContext, act: str = Act.VALUE) -> Any:
    """Wait for the other body, then do as told."""
    meeting_point.wait()
    match act:
        case Act.DISCARD:
            raise Discard("told to discard")
        case Act.RAISE:
            msg = "told to fail"
            raise RuntimeError(msg)
    return {"from": ctx.step_name}


@step
def follow(ctx: StepContext) -> Any:
    """Return what the dependencies returned."""
    return sorted(ctx.results)


# Bodies of real workers -----------------------------------------------------------------------------------------


@step
def leave_a_trace(ctx: StepContext, folder: str, seconds: float = 0.0) -> str:
    """Note that the body began and ended, with the process that ran it, and take some time between."""
    trace = {"attempt": ctx.attempt, "pid": os.getpid()}
    _note(Path(folder), ctx.step_name, {"began": time.monotonic_ns(), **trace})
    time.sleep(seconds)
    _note(Path(folder), ctx.step_name, {"ended": time.monotonic_ns(), **trace})
    return ctx.step_name


@step
def wait_for_file(ctx: StepContext, folder: str, name: str) -> str:
    """Note that the body began and wait until a file is there."""
    _note(Path(folder), ctx.step_name, {"began": time.monotonic_ns(), "attempt": ctx.attempt, "pid": os.getpid()})
    deadline = time.monotonic() + 60
    while not (Path(folder) / name).exists():
        if time.monotonic() > deadline:
            msg = f"{name} never came"
            raise TimeoutError(msg)
        time.sleep(0.01)
    return ctx.step_name


# Plain tasks of django-q2, no steps -----------------------------------------------------------------------------


def keep_busy(folder: str, seconds: float) -> None:
    """Occupy a worker, and say so."""
    (Path(folder) / f"busy-{os.getpid()}").touch()
    time.sleep(seconds)
