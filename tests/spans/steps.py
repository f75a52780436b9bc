"""Bodies that make spans of their own."""

from __future__ import annotations

import asyncio

from asgiref.sync import sync_to_async
from opentelemetry import context, trace

from baton import StepContext, Workflow, step


@step
def work(ctx: StepContext) -> str:
    """Do something within a span."""
    return _work()


@step
async def work_later(ctx: StepContext) -> list[str]:
    """Do something within a span in the coroutine and in a thread."""
    await asyncio.sleep(0)
    return [_work(), await sync_to_async(_work)()]


@step(atomic=True, timeout=10)
def work_atomically(ctx: StepContext) -> str:
    """Do something within a span, inside the transaction that settles the step."""
    return _work()


@step
def insert_another(ctx: StepContext) -> str:
    """Insert a run from within a body."""
    return str(Workflow("inner").add("inside", work).insert().pk)


@step
def leave_a_context(ctx: StepContext) -> None:
    """Make a context current and never put back the one before."""
    context.attach(trace.set_span_in_context(trace.get_tracer("tests").start_span("left")))


@step
def work_and_hook(ctx: StepContext) -> None:
    """Has a hook."""


@work_and_hook.on_dependency_discarded
def work_in_hook(ctx: StepContext, reason: str) -> None:
    """Do something within a span."""
    _work()


@step(backoff=0)
def fail_at_first(ctx: StepContext) -> str:
    """Fail in the first attempt."""
    if ctx.attempt == 1:
        msg = "not yet"
        raise RuntimeError(msg)
    return _work()


def _work() -> str:
    with trace.get_tracer("tests").start_as_current_span("work") as span:
        return f"{span.get_span_context().span_id:016x}"
