"""What an answer of a language model says that it used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from baton.llm.pricing import Usage


def read_usage(
    answer: object, *, provider: str = "", model: str = "", at: datetime, context: Mapping[str, Any] | None = None
) -> Usage | None:
    """Read what an answer used: None where it does not say, whatever its shape. Never raises.

    Args:
        answer: What a provider's client returned, or the JSON of it.
        provider: Wins over what the answer looks like.
        model: Taken where the answer names none.
        at: When the call was made.
        context: What else the price may depend on; what the answer says itself wins.
    """
    return None


def usage_of_chunks(
    chunks: Iterable[object],
    *,
    provider: str = "",
    model: str = "",
    at: datetime,
    context: Mapping[str, Any] | None = None,
) -> Usage | None:
    """Read what a streamed answer used from all of its chunks: None where they do not say. Never raises."""
    return None


def guess_provider(answer: object) -> str:
    """Name who gave an answer, or a chunk of one, by its class or its shape; empty where neither says."""
    return ""
