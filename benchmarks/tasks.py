"""The plain django-q2 tasks that Baton is compared with."""

from __future__ import annotations

import time


def noop() -> None:
    """Do nothing: what is measured is everything around it."""


def stamp() -> float:
    """Return when the body started."""
    return time.time()


def nap(seconds: float) -> None:
    """Keep a worker busy, so that others have to warm up too."""
    time.sleep(seconds)
