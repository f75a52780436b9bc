"""Bodies that measure what each of their calls takes, in milliseconds; the function that is called answers at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from baton import StepContext, llm

ANSWER = {
    "model": "bench",
    "choices": [{"message": {"role": "assistant", "content": "An answer of some length. " * 40}}],
    "usage": {"prompt_tokens": 1200, "completion_tokens": 250, "prompt_tokens_details": {"cached_tokens": 400}},
}
CHUNKS = [*({"choices": [{"delta": {"content": "some words "}}]} for _ in range(19)), ANSWER]


@contextmanager
def measured(spent: list[float]) -> Iterator[None]:
    """Add what a block takes."""
    started = time.perf_counter()
    yield
    spent.append((time.perf_counter() - started) * 1000)


def answer() -> dict[str, Any]:
    """Answer at once."""
    return ANSWER


async def aanswer() -> dict[str, Any]:
    """The same."""
    return ANSWER


@llm.llm_step(max_attempts=1)
def calls(ctx: StepContext, calls: int) -> list[float]:
    """Call so many times."""
    spent: list[float] = []
    for index in range(calls):
        with measured(spent):
            llm.call(ctx, f"call {index}", answer, model="bench", max_output_tokens=300, max_input_tokens=1500)
    return spent


@llm.llm_step(max_attempts=1)
def replays(ctx: StepContext, calls: int) -> list[float]:
    """Call once, and ask for the same so many times."""
    spent: list[float] = []
    llm.call(ctx, "call", answer, model="bench")
    for _ in range(calls):
        with measured(spent):
            llm.call(ctx, "call", answer, model="bench")
    return spent


@llm.llm_step(max_attempts=1)
def streams(ctx: StepContext, calls: int) -> list[float]:
    """Read so many streams."""
    spent: list[float] = []
    for index in range(calls):
        with measured(spent):
            list(llm.stream(ctx, f"stream {index}", lambda: iter(CHUNKS), model="bench"))
    return spent


@llm.llm_step(max_attempts=1)
async def acalls(ctx: StepContext, calls: int) -> list[float]:
    """Call so many times from an event loop."""
    spent: list[float] = []
    for index in range(calls):
        with measured(spent):
            await llm.acall(ctx, f"call {index}", aanswer, model="bench")
    return spent


@llm.llm_step(max_attempts=1)
def effects(ctx: StepContext, calls: int) -> list[float]:
    """Do so many other things once."""
    spent: list[float] = []
    for index in range(calls):
        with measured(spent):
            ctx.once(f"effect {index}", answer)
    return spent


captured = llm.llm_step(name="benchmarks.captured", max_attempts=1, capture=True)(calls.function)

KINDS = {
    "call": calls,
    "budget": calls,
    "capture": captured,
    "replay": replays,
    "stream": streams,
    "acall": acalls,
    "once": effects,
}
