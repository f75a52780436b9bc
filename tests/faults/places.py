"""Places where a process can be struck: before or after the engine's and the sweep's moves, by their names.

The seam costs nothing in production, for it is not there: the processes of these tests wrap the moves as they start. A
place strikes once each time it is armed, with the signal that the file says which arms it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

ENVIRONMENT = "BATON_TEST_FAULTS_FOLDER"
ROLE = "BATON_TEST_FAULTS_ROLE"

CLUSTER, SWEEP = "cluster", "sweep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A moment in the life of a run."""

    name: str
    move: str
    """Dotted path of the function that is wrapped."""
    is_after: bool = False
    """Strike after the function has returned, not before it is called."""
    role: str = CLUSTER
    fails: bool = False
    """Reached only in a run whose root is discarded."""
    after: str = ""
    """The place where a worker must have been killed before this one is reached."""
    twice: bool = False
    """The ending may be announced twice: the announcer dies between sending and noting."""
    redis: bool = True
    """Reached under the Redis broker, too."""


IN_BODY = "in the body"
BEFORE_ENDING = "before the ending is noted"
BEFORE_ANNOUNCEMENT = "before the ending is announced"

_RUNNER, _SETTLE, _FINISH = "baton.engine.runner", "baton.engine.settle", "baton.engine.finish"

PLACES: dict[str, Place] = {
    place.name: place
    for place in [
        Place(name="before the claim", move=f"{_RUNNER}.claim_next"),
        Place(name="after the claim, before its event", move=f"{_RUNNER}.claim_next", is_after=True),
        Place(name="before the body", move=f"{_RUNNER}._run_and_settle"),
        Place(name=IN_BODY, move="tests.faults.steps.strike"),
        Place(name="after the body", move=f"{_RUNNER}.settle"),
        Place(name="in the settle, before the step's row", move=f"{_SETTLE}._write_settled"),
        Place(name="in the settle, after the step's row", move=f"{_SETTLE}._write_settled", is_after=True),
        Place(name="in the settle, after the dependents", move=f"{_SETTLE}._take_next"),
        Place(name="in the settle, after the next claim", move=f"{_SETTLE}._take_next", is_after=True),
        Place(name="in the settle, before the commit", move=f"{_SETTLE}._ring_for", is_after=True),
        Place(name="after the commit", move=f"{_RUNNER}.settle", is_after=True),
        Place(name="in the cascade, before its rows", move="baton.engine.cascade._write", fails=True),
        Place(name="in the cascade, after its rows", move="baton.engine.cascade._write", is_after=True, fails=True),
        Place(name="before the hook", move=f"{_RUNNER}.call_hooks", fails=True),
        Place(name="before the event", move=f"{_RUNNER}._follow_up"),
        Place(name="after the event", move=f"{_RUNNER}.announce", is_after=True),
        Place(name=BEFORE_ENDING, move=f"{_FINISH}._note_ending"),
        Place(name=BEFORE_ANNOUNCEMENT, move=f"{_FINISH}.announce_ending"),
        Place(name="after the ending is announced", move=f"{_FINISH}.send", is_after=True, twice=True),
        Place(name="before the acknowledgement", move=f"{_RUNNER}.answer_bell", is_after=True),
        Place(name="at the acknowledgement", move="django_q.brokers.orm.ORM.acknowledge", redis=False),
        Place(
            name="after the acknowledgement", move="django_q.brokers.orm.ORM.acknowledge", is_after=True, redis=False
        ),
        Place(
            name="sweep: holds its lease", move="baton.sweep.lease.SweeperLease.__enter__", is_after=True, role=SWEEP
        ),
        Place(name="sweep: before a rescue", move="baton.sweep.rescue.settle", role=SWEEP, after=IN_BODY),
        Place(name="sweep: after a rescue", move="baton.sweep.rescue.settle", is_after=True, role=SWEEP, after=IN_BODY),
        Place(name="sweep: before an ending", move=f"{_FINISH}._note_ending", role=SWEEP, after=BEFORE_ENDING),
        Place(name="sweep: after an ending", move=f"{_FINISH}.announce_ending", role=SWEEP, after=BEFORE_ENDING),
        Place(
            name="sweep: before an announcement",
            move=f"{_FINISH}.announce_ending",
            role=SWEEP,
            after=BEFORE_ANNOUNCEMENT,
        ),
        Place(
            name="sweep: before it rings",
            move="baton.sweep.backstop._ready_queues",
            role=SWEEP,
            after="before the claim",
        ),
        Place(name="sweep: before it gives its lease back", move="baton.sweep.lease.SweeperLease.__exit__", role=SWEEP),
    ]
}

ENDS = {
    CLUSTER: ["baton.engine.runner.answer_bell", "django_q.brokers.orm.ORM.acknowledge"],
    SWEEP: ["baton.sweep.lease.SweeperLease.__exit__"],
}
"""With what a process of each role is done with all that it was in the middle of."""


def plant(folder: Path, role: str) -> None:
    """Wrap the moves in this process and in what is forked from it.

    Args:
        folder: Where the places are armed and tell that they have struck.
        role: Whether this is a cluster or a sweep.
    """
    if role == SWEEP:
        import baton.sweep.lease

        # Another sweeper takes over within the time that these tests have.
        baton.sweep.lease.LEASE_SECONDS = 1.0
    for place in PLACES.values():
        if place.role != role:
            continue
        strike = _striker(folder, place.name)
        _wrap(place.move, **({"after": strike} if place.is_after else {"before": strike}))

    def note_idle() -> None:
        (folder / "idle" / str(os.getpid())).touch()  # of the process that was forked

    for move in ENDS[role]:
        _wrap(move, after=note_idle)


def _striker(folder: Path, name: str) -> Callable[[], None]:
    armed, struck = folder / "armed" / name, folder / "struck" / name

    def strike() -> None:
        if not armed.exists():
            return
        with contextlib.suppress(FileNotFoundError):
            number = int(armed.read_text())
            armed.rename(folder / "taken" / name)  # one process only
            struck.write_text(f"{os.getpid()} {time.time()}")
            os.kill(os.getpid(), number)

    return strike


def _nothing() -> None:
    pass


def _wrap(move: str, *, before: Callable[[], None] = _nothing, after: Callable[[], None] = _nothing) -> None:
    holder, name = holder_of(move)
    original = getattr(holder, name)

    @wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        before()
        returned = original(*args, **kwargs)
        after()
        return returned

    setattr(holder, name, wrapper)


def holder_of(move: str) -> tuple[Any, str]:
    """The module or class that holds a function."""
    path, _, name = move.rpartition(".")
    try:
        return import_module(path), name
    except ModuleNotFoundError:
        module, _, attribute = path.rpartition(".")
        return getattr(import_module(module), attribute), name


def arm(folder: Path, name: str, number: signal.Signals) -> None:
    """Let a place strike the next process that comes by."""
    for kept in ("taken", "struck"):
        (folder / kept / name).unlink(missing_ok=True)
    waiting = folder / "armed" / f".{name}"
    waiting.write_text(str(int(number)))
    waiting.rename(folder / "armed" / name)


def struck(folder: Path, name: str) -> tuple[int, float] | None:
    """Which process a place has struck, and when by this host's clock; None until it has."""
    try:
        pid, moment = (folder / "struck" / name).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid), float(moment)
