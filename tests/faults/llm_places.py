"""Places around a paid call where a process can be struck, and who strikes there: the body that is under way.

As in `places.py` the processes of these tests wrap the moves as they start. Here every body brings what is to strike
it, so that hundreds of runs can go on side by side; each strike falls once, and each waits for the one before it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Any

from tests.faults.places import holder_of

FOLDER = "BATON_TEST_LLM_FOLDER"
PROVIDER = "BATON_TEST_LLM_PROVIDER"
HEADER = "x-strike"
"""How a request tells the provider whom to strike while it answers."""


class Place(StrEnum):
    """A moment of a call."""

    BEFORE_INTENT = "before the intent"
    IN_INTENT = "in the intent's transaction, after the money is reserved"
    AFTER_INTENT = "after the intent, before the request"
    BEFORE_CHARGE = "while the provider answers, before it charges"
    AFTER_CHARGE = "while the provider answers"
    BETWEEN_CHUNKS = "between two chunks of a stream"
    BEFORE_STORE = "after the answer, before it is stored"
    BEFORE_USAGE = "in the storing transaction, between the answer and its usage"
    IN_STORE = "in the storing transaction, before the commit"
    AFTER_STORE = "after the answer is stored"
    BEFORE_NOTE = "after an error, before it is noted"
    AFTER_NOTE = "after an error is noted"
    AFTER_MARK = "after a lost call is marked, before the next"
    BEFORE_SERVED = "before an answer is given again"
    AFTER_SERVED = "after an answer is given again"
    BEFORE_SETTLE = "before the settle"
    IN_SETTLE = "in the settle, before the commit"
    AFTER_SETTLE = "after the settle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One signal at one place."""

    place: str
    key: str = ""
    """Of the call that is struck; empty where the place belongs to no call."""
    signal: int = signal.SIGKILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    """A strike that has fallen."""

    pid: int
    at: float
    place: str
    signal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """A function that is wrapped."""

    path: str
    key: Callable[[Sequence[Any]], str] = lambda _arguments: ""
    is_after: bool = False


def _of_begin(arguments: Sequence[Any]) -> str:
    return str(arguments[1])


def _of_entry(arguments: Sequence[Any]) -> str:
    return str(arguments[1].key)


_LEDGER = "baton.engine.ledger.Ledger"
_MOVES = {
    Place.BEFORE_INTENT: _Move(path=f"{_LEDGER}._open", key=_of_begin),
    Place.AFTER_INTENT: _Move(path=f"{_LEDGER}._open", key=_of_begin, is_after=True),
    Place.BEFORE_STORE: _Move(path=f"{_LEDGER}.store", key=_of_entry),
    Place.BEFORE_USAGE: _Move(path="baton.llm.calls._insert", key=_of_entry),
    Place.IN_STORE: _Move(path="baton.llm.calls._insert", key=_of_entry, is_after=True),
    Place.AFTER_STORE: _Move(path=f"{_LEDGER}.store", key=_of_entry, is_after=True),
    Place.BEFORE_NOTE: _Move(path=f"{_LEDGER}.give_up", key=_of_entry),
    Place.AFTER_NOTE: _Move(path=f"{_LEDGER}.give_up", key=_of_entry, is_after=True),
    Place.AFTER_MARK: _Move(path=f"{_LEDGER}._after", key=_of_begin, is_after=True),
    Place.BEFORE_SERVED: _Move(path="baton.llm.calls.note_served", key=_of_entry),
    Place.AFTER_SERVED: _Move(path="baton.llm.calls.note_served", key=_of_entry, is_after=True),
    Place.IN_INTENT: _Move(path="baton.engine.accounts.reserve", is_after=True),
    Place.BEFORE_SETTLE: _Move(path="baton.engine.runner.settle"),
    Place.IN_SETTLE: _Move(path="baton.engine.settle._ring_for", is_after=True),
    Place.AFTER_SETTLE: _Move(path="baton.engine.runner.settle", is_after=True),
}
OF_NO_CALL = {Place.IN_INTENT, Place.BEFORE_SETTLE, Place.IN_SETTLE, Place.AFTER_SETTLE}
"""Places where nobody knows which call it is about."""


@dataclass(slots=True)
class _Body:
    folder: Path
    strikes: Sequence[Strike]


_body: _Body | None = None
"""Of this process, which runs one at a time."""


def plant(folder: Path) -> None:
    """Wrap the moves in this process and in what is forked from it, with the clients at hand before that."""
    from tests.faults.llm_steps import warm_up

    warm_up()
    for place, move in _MOVES.items():
        _wrap(place, move)

    def note_idle() -> None:
        (folder / "idle" / str(os.getpid())).touch()

    holder, name = holder_of("baton.engine.runner.answer_bell")
    original = getattr(holder, name)

    @wraps(original)
    def answer_bell(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        note_idle()

    setattr(holder, name, answer_bell)


def enter(folder: str, strikes: Sequence[Strike]) -> None:
    """Say which body this process is at from now on, until it is at another."""
    global _body  # noqa: PLW0603 - a process has one body
    _body = _Body(Path(folder), strikes)


def strike(place: Place, key: str = "") -> None:
    """Strike this process, if that is due."""
    if due := _take(place, key):
        os.kill(os.getpid(), due.signal)


def asked_of_provider(key: str) -> dict[str, str]:
    """The header by which the provider strikes this process while it answers, if that is due."""
    for place in (Place.BEFORE_CHARGE, Place.AFTER_CHARGE):
        if due := _take(place, key):
            charges = place is Place.AFTER_CHARGE
            return {HEADER: json.dumps({"pid": os.getpid(), "signal": int(due.signal), "charges": charges})}
    return {}


def fallen(folder: Path) -> list[Struck]:
    """Every strike of a body that has fallen, in their order."""
    found = []
    for file in sorted(folder.iterdir()):
        with contextlib.suppress(json.JSONDecodeError):  # it is being written
            found.append(Struck(**json.loads(file.read_text())))
    return found


def _take(place: Place, key: str) -> Strike | None:
    """The strike that is due at a place, taken from whoever else comes by."""
    if _body is None:
        return None
    for number, each in enumerate(_body.strikes):
        file = _body.folder / str(number)
        if file.exists():
            continue
        if each.place != place or each.key not in ("", key):
            return None
        struck = Struck(pid=os.getpid(), at=time.time(), place=place, signal=int(each.signal))
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        os.write(descriptor, json.dumps(asdict(struck)).encode())
        os.close(descriptor)
        return each
    return None


def _wrap(place: Place, move: _Move) -> None:
    holder, name = holder_of(move.path)
    original = getattr(holder, name)

    @wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not move.is_after:
            strike(place, move.key(args))
        returned = original(*args, **kwargs)
        if move.is_after and (place is not Place.AFTER_INTENT or returned is not None):
            strike(place, move.key(args))
        return returned

    setattr(holder, name, wrapper)
