"""Steps that spend; workers import them by their dotted names."""

from __future__ import annotations

from typing import Any

from baton import llm
from tests.llm import scripted


def costs_a_tenth() -> Any:
    return {"model": "fixed", "usage": {"input_tokens": 0, "output_tokens": 100}}


@llm.llm_step(backoff=0)
def pays(ctx: Any, **options: Any) -> Any:
    """Pay 0.1 for an answer."""
    return llm.call(ctx, "k", costs_a_tenth, model="fixed", **options)


@llm.llm_step(backoff=0)
def asks_with_request(ctx: Any, **options: Any) -> Any:
    """Call with the keywords of a request."""
    return llm.call(ctx, "k", lambda **_: scripted.answer(), **options)


@llm.llm_step(backoff=0)
def says_so_later(ctx: Any) -> None:
    """Say only in the second attempt what the call of the first has cost: 0.1."""
    llm.call(ctx, "k", lambda: {"model": "fixed"}, model="fixed", max_cost=1)
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    llm.record_usage(ctx, model="fixed", input_tokens=0, output_tokens=100, key="k")


TOLD: list[str] = []
"""The idempotency keys that the provider was told."""


@llm.llm_step(backoff=0)
def tells_its_key(ctx: Any) -> Any:
    """Call with the idempotency key."""

    def answer(call: llm.Call) -> Any:
        TOLD.append(call.idempotency_key)
        return scripted.answer()

    return llm.call(ctx, "k", answer, model="fixed")
