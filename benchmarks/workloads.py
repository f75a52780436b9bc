"""What both sides have in common: sizes, a way to wait, errors and the shape of a measurement."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cluster import Cluster

POLL_SECONDS = 0.01
PATIENCE_SECONDS = 180.0

Figures = dict[str, float]
"""What was measured, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything one repetition does."""

    noops: int = 2000
    chain: int = 100
    diamonds: int = 200
    width: int = 1000
    layers: int = 100
    layer_width: int = 100
    single_runs: int = 20
    waiting: int = 300
    waiting_seconds: float = 0.005
    urgent_runs: int = 3
    busy: int = 200
    busy_seconds: float = 0.02
    plain_tasks: int = 20
    slope: tuple[int, ...] = (100, 1000, 10000)


class WrongResultError(Exception):
    """Raised when what was measured did not do what it should have done."""


def check_equal(what: str, found: object, expected: object) -> None:
    """Raise unless a result is the expected one."""
    if found != expected:
        message = f"{what}: found {found!r}, expected {expected!r}"
        raise WrongResultError(message)


def wait_until(condition: Callable[[], bool], *, cluster: Cluster, what: str) -> None:
    """Ask every 10 ms, for either side alike, until it is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        cluster.assert_alive()
        if time.monotonic() > deadline:
            message = f"{what}: not done after {PATIENCE_SECONDS:.0f} s"
            raise WrongResultError(message)
        time.sleep(POLL_SECONDS)


def pause(random_source: random.Random) -> None:
    """Let the cluster fall idle, and meet its poll at another moment each time."""
    time.sleep(random_source.uniform(0.03, 0.09))
