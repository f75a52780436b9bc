"""Steps that tests use: ``steps.add`` and the like."""

from __future__ import annotations

from typing import Any

from baton import Cancel, Discard, Snooze, StepContext, step


@step
def nothing(ctx: StepContext) -> None:
    """Return nothing."""


@step
def value(ctx: StepContext, value: Any = 1) -> Any:
    """Return what it is given."""
    return value


@step
def total(ctx: StepContext) -> int:
    """Add up the results of the dependencies."""
    return sum(ctx.results.values())


@step
def fail(ctx: StepContext, message: str = "it failed") -> None:
    """Raise each time."""
    raise RuntimeError(message)


@step(backoff=0)
def fail_times(ctx: StepContext, times: int) -> str:
    """Raise for so many attempts, then complete."""
    if ctx.attempt <= times:
        msg = f"attempt {ctx.attempt}"
        raise RuntimeError(msg)
    return "done"


@step
def snooze_once(ctx: StepContext, seconds: float = 30) -> Any:
    """Snooze the first time, told by the progress it keeps in its arguments' list."""
    raise Snooze(seconds)


@step
def discard(ctx: StepContext, reason: str = "no use") -> None:
    """Give up at once."""
    raise Discard(reason)


@step
def cancel(ctx: StepContext, reason: str = "not wanted") -> None:
    """Call itself off."""
    raise Cancel(reason)


@step
async def later(ctx: StepContext, value: Any = "async") -> Any:
    """An async body."""
    return value
