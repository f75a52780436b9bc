"""The steps of the measured workflows."""

from __future__ import annotations

import time

from baton import StepContext, step


@step
def hop(ctx: StepContext) -> int:
    """Count on from the predecessor's result."""
    return int(sum(ctx.results.values())) + 1


@step
def seed(ctx: StepContext, number: int) -> int:
    """Return the number it was given."""
    return number


@step
def double(ctx: StepContext) -> int:
    """Double the only dependency's result."""
    (number,) = ctx.results.values()
    return int(number) * 2


@step
def total(ctx: StepContext) -> int:
    """Add up all dependencies' results."""
    return sum(ctx.results.values())


@step
def stamp(ctx: StepContext) -> float:
    """Return when the body started."""
    return time.time()


@step
def nap(ctx: StepContext, seconds: float) -> None:
    """Keep a worker busy."""
    time.sleep(seconds)


ticks: list[float] = []
"""When each body of `tick` started, in this process."""


@step
def tick(ctx: StepContext) -> None:
    """Note when it started."""
    ticks.append(time.perf_counter())
