"""Places between the moves of the engine where a worker kills itself, once each.

A step, or for the last place a workflow, is named after the place where the worker that runs it dies.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from baton.engine import finish, runner

ENVIRONMENT = "BATON_TEST_KILLS_FOLDER"

Move = Callable[..., Any]

BEFORE_BODY = "between claim and body"
BEFORE_SETTLE = "between body and settle"
AFTER_SETTLE = "between settle and acknowledgement"
AFTER_SETTLE_WITH_NEXT = "between settle and the next body"
BEFORE_HOOK = "between cascade and hook"
BEFORE_ANNOUNCEMENT = "between ending and announcement"


def plant(folder: Path) -> None:
    """Wrap the engine's moves in this process and in what is forked from it.

    Args:
        folder: Where a file for each place tells that a worker has died there.
    """
    kills = _Kills(folder)
    _wrap(runner, "_run_and_settle", kills.run_and_settle)
    _wrap(runner, "settle", kills.settle)
    _wrap(runner, "call_hooks", kills.call_hooks)
    _wrap(finish, "announce_ending", kills.announce_ending)


class _Kills:
    """The moves, each with the places around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run_and_settle(self, original: Move, connection: Any, held: runner.Held, *args: Any) -> Any:
        if held.claim.name == BEFORE_BODY:
            self.die_at(BEFORE_BODY)
        return original(connection, held, *args)

    def settle(self, original: Move, connection: Any, claim: Any, *args: Any, **options: Any) -> Any:
        if claim.name == BEFORE_SETTLE:
            self.die_at(BEFORE_SETTLE)
        settled = original(connection, claim, *args, **options)
        if claim.name in {AFTER_SETTLE, AFTER_SETTLE_WITH_NEXT}:
            self.die_at(claim.name)
        return settled

    def call_hooks(self, original: Move, connection: Any, falls: Any) -> None:
        if any(fall.hook for fall in falls):
            self.die_at(BEFORE_HOOK)
        original(connection, falls)

    def announce_ending(self, original: Move, connection: Any, *, workflow_name: str, **ending: Any) -> None:
        if workflow_name == BEFORE_ANNOUNCEMENT:
            self.die_at(BEFORE_ANNOUNCEMENT)
        original(connection, workflow_name=workflow_name, **ending)

    def die_at(self, place: str) -> None:
        try:
            (self.folder / place).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def _wrap(module: ModuleType, name: str, wrapper: Move) -> None:
    original = getattr(module, name)

    def wrapped(*args: Any, **options: Any) -> Any:
        return wrapper(original, *args, **options)

    setattr(module, name, wrapped)
