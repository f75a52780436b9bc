"""The limit on a body's time: a timer of our own inside the bell, django-q2's guard behind it."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from baton import q2
from baton.conf import get_settings


class TimeIsUp(BaseException):
    """Raised inside a body when its time is up."""


class Timer:
    """Raises :class:`TimeIsUp` in the body after a number of seconds.

    Signals reach the main thread only; elsewhere, as under ``drain`` in a server, there is no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.fired = False
        self._armed = False
        self._previous: Any = None

    @property
    def works(self) -> bool:
        """True where the limit can be enforced."""
        return (
            self.seconds is not None
            and hasattr(signal, "setitimer")
            and threading.current_thread() is threading.main_thread()
        )

    def __enter__(self) -> Self:
        if self.works and self.seconds is not None:
            self._previous = signal.signal(signal.SIGALRM, self._strike)
            q2.guard(math.ceil(self.seconds) + get_settings().timeout_grace_seconds)
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.disarm()

    def disarm(self) -> None:
        """End the limit. From here on a late signal does nothing."""
        was_armed, self._armed = self._armed, False
        _shield.has_struck = False
        if was_armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._previous)
            q2.guard(None)

    def _strike(self, _signum: int, _frame: FrameType | None) -> None:
        if self._armed:
            self.fired = True
            if _shield.depth:
                _shield.has_struck = True
            else:
                raise TimeIsUp


class _Shield:
    """How deep the main thread is in what must not be torn, and whether its time ran out meanwhile."""

    depth = 0
    has_struck = False


_shield = _Shield()


@contextmanager
def shielded() -> Iterator[None]:
    """Hold :class:`TimeIsUp` back while something is written that was paid for; it is raised behind it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _shield.depth += 1
    try:
        yield
    finally:
        _shield.depth -= 1
        if not _shield.depth and _shield.has_struck:
            _shield.has_struck = False
            raise TimeIsUp
