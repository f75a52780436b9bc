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
