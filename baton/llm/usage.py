"""What an answer of a language model says that it used."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, lru_cache
from numbers import Integral
from typing import Any

from baton.engine.errors import storable_text
from baton.llm.pricing import EXTRAS, IMAGES, UNREADABLE, Usage

logger = logging.getLogger("baton.llm")

MAX_TOKENS = 10**12
"""A larger count is a fault of the answer; the sum of as many as a table holds still fits a column."""
_MAX_MODEL, _MAX_PROVIDER, _MAX_WORD = 255, 100, 255

# Where a count may stand in what an answer says of its usage; the first place that holds something wins.
_PLACES: dict[str, tuple[str, ...]] = {
    "input": ("input_tokens",),
    "prompt": ("prompt_tokens", "prompt_token_count"),
    "output": ("output_tokens", "completion_tokens", "candidates_token_count"),
    "total": ("total_tokens", "total_token_count"),
    "cached": (
        "cached_input_tokens",
        "prompt_tokens_details.cached_tokens",
        "input_tokens_details.cached_tokens",
        "input_token_details.cache_read",
        "cached_content_token_count",
        "prompt_cache_hit_tokens",
        "cached_tokens",
        "cache_read_tokens",
    ),
    "cache_write": (
        "cache_write_tokens",
        "prompt_tokens_details.cache_write_tokens",
        "input_tokens_details.cache_write_tokens",
        "input_token_details.cache_creation",
    ),
    "reasoning": (
        "reasoning_tokens",
        "completion_tokens_details.reasoning_tokens",
        "output_tokens_details.reasoning_tokens",
        "output_tokens_details.thinking_tokens",
        "output_token_details.reasoning",
    ),
    # Anthropic counts these beside its input, Google these beside input and output.
    "cached_beside": ("cache_read_input_tokens",),
    "cache_write_beside": ("cache_creation_input_tokens", "cache_write_input_tokens"),
    "tools_beside": ("tool_use_prompt_token_count",),
    "reasoning_beside": ("thoughts_token_count",),
    "cache_write_1h_tokens": ("cache_creation.ephemeral_1h_input_tokens",),
    "input_audio_tokens": (
        "prompt_tokens_details.audio_tokens",
        "input_token_details.audio",
        "prompt_tokens_details.AUDIO.token_count",
    ),
    "output_audio_tokens": (
        "completion_tokens_details.audio_tokens",
        "output_token_details.audio",
        "candidates_tokens_details.AUDIO.token_count",
    ),
    "input_image_tokens": (
        "prompt_tokens_details.image_tokens",
        "input_tokens_details.image_tokens",
        "prompt_tokens_details.IMAGE.token_count",
    ),
    "output_image_tokens": (
        "completion_tokens_details.image_tokens",
        "output_tokens_details.image_tokens",
        "candidates_tokens_details.IMAGE.token_count",
    ),
    "web_searches": ("server_tool_use.web_search_requests",),
}
_USAGES = ("llm_usage", "usage", "usage_metadata")
# What tells the usage itself from an answer that has one.
_BARE = ("input_tokens", "prompt_tokens", "prompt_token_count")
_WORDS = ("service_tier", "speed", "inference_geo")
# Where an event of a stream keeps the answer that it tells of; and a step may return an answer for its usage.
_WRAPPERS = ("response", "message", "chunk", "llm_usage")


def read_usage(
    answer: object, *, provider: str = "", model: str = "", at: datetime, context: Mapping[str, Any] | None = None
) -> Usage | None:
    """Read what an answer used: None where it does not say. Never raises, whatever its shape.

    An answer whose input or output is no count (text, a negative number, a bool, or more than a million million) does
    not say either. A part of them that is no count is taken for 0 and, where the price depends on it, named under
    ``unreadable`` in the context, so that nobody prices it as if it were.

    Args:
        answer: What a provider's client returned, or the JSON of it.
        provider: Wins over what the answer looks like.
        model: Taken where the answer names none.
        at: When the call was made.
        context: What else the price may depend on; what the answer says itself wins.
    """
    return usage_of_chunks([answer], provider=provider, model=model, at=at, context=context)


def usage_of_chunks(
    chunks: Iterable[object],
    *,
    provider: str = "",
    model: str = "",
    at: datetime,
    context: Mapping[str, Any] | None = None,
) -> Usage | None:
    """Read what a streamed answer used from all of its chunks: None where they do not say. Never raises.

    Each count is that of the last chunk that has it. One that ends before the provider has said what the output was
    says nothing.
    """
    try:
        told = _Told()
        for chunk in chunks:
            told.hear(chunk)
        return told.usage(
            provider=provider or told.provider, model=told.model or model, at=at, context=_kept(context) | told.words
        )
    except Exception:
        logger.exception("What an answer used cannot be read")
        return None


def named_model(chunks: Iterable[object]) -> str:
    """The model that an answer names, or a streamed one in its chunks; empty where it names none. Never raises."""
    try:
        told = _Told()
        for chunk in chunks:
            told.hear(chunk)
    except Exception:
        logger.exception("Which model gave an answer cannot be read")
        return ""
    return told.model


def guess_provider(answer: object) -> str:
    """Name who gave an answer, or a chunk of one, by its class or its shape; empty where neither says. Never raises.

    The client of OpenAI is used with many servers, all of which are taken for OpenAI.
    """
    try:
        return _by_class(answer) or _by_shape(answer)
    except Exception:
        logger.exception("Who gave an answer cannot be guessed")
        return ""


@dataclass(slots=True)
class _Told:
    """What the chunks so far have said."""

    counts: dict[str, Any] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    model: str = ""
    provider: str = ""

    def hear(self, chunk: object) -> None:
        holders = [chunk, *(inner for name in _WRAPPERS if (inner := _get(chunk, name)) is not None)]
        counts, block = _counts_of(holders)
        if _get(chunk, "type") == "message_start":
            # Anthropic says there how much has been written so far, which is next to nothing.
            counts.pop("output", None)
        if counts:
            counts |= _searches(holders)
        self.counts |= counts
        places = [block, *holders]
        self.model = _first_word(places, "model", "model_version", limit=_MAX_MODEL) or self.model
        self.provider = self.provider or _word(_get(block, "provider"), _MAX_PROVIDER) or guess_provider(chunk)
        if counts:
            self.words |= {name: word for name in _WORDS if (word := _first_word(places, name, limit=_MAX_WORD))}

    def usage(self, *, provider: str, model: str, at: datetime, context: dict[str, Any]) -> Usage | None:
        read = {name: _count(value) for name, value in self.counts.items()}
        if None in [read.get(name, 0) for name in ("input", "prompt", "output")]:
            return None
        unreadable = [shown for name, shown in _PRICED_PARTS.items() if read.get(name, 0) is None]
        count = {name: number or 0 for name, number in read.items()}
        whole = _whole(count)
        if whole is None:
            return None
        extras = {name: count[name] for name in (*EXTRAS, *IMAGES) if count.get(name)}
        return Usage(
            provider=_word(provider, _MAX_PROVIDER),
            model=_word(model, _MAX_MODEL),
            **whole,
            at=at,
            context=context | extras | ({UNREADABLE: unreadable} if unreadable else {}),
        )


_PRICED_PARTS = {
    "cached": "cached_input_tokens",
    "cached_beside": "cached_input_tokens",
    "cache_write": "cache_write_tokens",
    "cache_write_beside": "cache_write_tokens",
    "tools_beside": "input_tokens",
    "reasoning_beside": "output_tokens",
    **{extra: extra for extra in (*EXTRAS, *IMAGES)},
}


def _whole(count: dict[str, int]) -> dict[str, int] | None:
    """The five counts with the parts inside the wholes; None where input or output is not told."""
    if "input" not in count and "prompt" not in count:
        return None
    cached = count.get("cached", count.get("cached_beside", 0))
    written = count.get("cache_write", count.get("cache_write_beside", 0))
    entire = count.get("input", count.get("prompt", 0)) + count.get("tools_beside", 0)
    if "input" in count and "cached" not in count and "cache_write" not in count:
        entire += cached + written
    reasoning = count.get("reasoning", count.get("reasoning_beside", 0))
    output = _output(count, entire, reasoning)
    if output is None:
        return None
    return {
        "input_tokens": entire,
        "output_tokens": output,
        "cached_input_tokens": cached,
        "cache_write_tokens": written,
        "reasoning_tokens": reasoning,
    }


def _output(count: dict[str, int], entire: int, reasoning: int) -> int | None:
    total = count.get("total", 0)
    if "output" in count:
        # Some servers count reasoning beside the output, and say so by their total only.
        is_beside = "reasoning_beside" in count or (reasoning and total == entire + count["output"] + reasoning)
        return count["output"] + (reasoning if is_beside else 0)
    # Embeddings have no output, and JSON from Google leaves out what is zero.
    if "total" in count and total >= entire:
        return total - entire
    return count.get("reasoning_beside")


def _counts_of(holders: list[object]) -> tuple[dict[str, Any], object]:
    """What is said of usage, and the object that says it."""
    blocks = [block for holder in holders for name in _USAGES if (block := _get(holder, name)) is not None]
    if any(_get(holders[0], name) is not None for name in _BARE):
        blocks.append(holders[0])
    return next(((counts, block) for block in blocks if (counts := dict(_counts(block)))), ({}, None))


def _counts(block: object) -> Iterator[tuple[str, Any]]:
    for name, places in _PLACES.items():
        found = next((value for place in places if (value := _at(block, place)) is not None), None)
        if found is not None:
            yield name, found


def _searches(holders: list[object]) -> dict[str, Any]:
    """Searches that are charged for and not told of in the usage."""
    made = [_get(item, "type") for holder in holders for item in _list(_get(holder, "output"))]
    found: dict[str, Any] = {
        name: made.count(kind)
        for name, kind in (("web_searches", "web_search_call"), ("storage_searches", "file_search_call"))
        if kind in made
    }
    candidates = (each for holder in holders for each in _list(_get(holder, "candidates")))
    if any(_at(each, "grounding_metadata.web_search_queries") for each in candidates):
        # Google charges for some of them and by rules that change with the model and the day.
        found["web_searches"] = "some"
    return found


def _list(value: object) -> list[Any] | tuple[Any, ...]:
    return value if isinstance(value, list | tuple) else ()


def _at(block: object, place: str) -> Any:
    for name in place.split("."):
        block = _get(block, name)
        if block is None:
            return None
    return block


def _get(holder: object, name: str) -> Any:
    """What a dict or an object has under a name, None where it has nothing or refuses."""
    if holder is None or isinstance(holder, str | bytes | int | float):
        return None
    try:
        if isinstance(holder, Mapping):
            found = holder.get(name)
            return holder.get(_camel(name)) if found is None else found
        if isinstance(holder, list | tuple) and name.isupper():
            # Google lists what it counts by modality.
            return next((each for each in holder if _get(each, "modality") == name), None)
        return getattr(holder, name, None) if _may_have(holder, name) else None
    except Exception:  # noqa: BLE001 - a property may raise anything
        return None


def _may_have(holder: object, name: str) -> bool:
    """False where an object of pydantic's has no such attribute, which it takes long to say; a stream has many."""
    kind: Any = type(holder)
    return not hasattr(kind, "__pydantic_extra__") or _is_declared(kind, name) or name in (_extra_of(holder) or ())


def _extra_of(holder: Any) -> dict[str, Any] | None:
    extra: dict[str, Any] | None = holder.__pydantic_extra__
    return extra


@lru_cache(maxsize=1000)
def _is_declared(kind: Any, name: str) -> bool:
    return name in kind.__pydantic_fields__ or hasattr(kind, name)


@cache
def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _count(value: object) -> int | None:
    """A number of tokens, None for what is none."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    number = int(value)
    return number if 0 <= number <= MAX_TOKENS else None


def _first_word(places: list[object], *names: str, limit: int) -> str:
    words = (_word(_get(place, name), limit) for place in places for name in names)
    return next(filter(None, words), "")


def _word(value: object, limit: int) -> str:
    return storable_text(value).strip()[:limit] if isinstance(value, str) else ""


def _kept(context: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of what a caller says, what every database takes."""
    kept: dict[str, Any] = {}
    for key, value in (context or {}).items():
        if isinstance(value, str):
            kept[_word(key, _MAX_WORD)] = _word(value, _MAX_WORD)
        elif isinstance(value, bool) or _count(value) is not None:
            kept[_word(key, _MAX_WORD)] = value
    return kept


# Providers --------------------------------------------------------------------------------------------------------

_PACKAGES = {
    "anthropic": "anthropic",
    "cohere": "cohere",
    "google.genai": "gcp.gemini",
    "google.generativeai": "gcp.gemini",
    "groq": "groq",
    "mistralai": "mistral_ai",
    "openai": "openai",
    "vertexai": "gcp.vertex_ai",
}


def _by_class(answer: object) -> str:
    modules = [f"{kind.__module__}." for kind in type(answer).__mro__]
    return next((name for package, name in _PACKAGES.items() for each in modules if each.startswith(f"{package}.")), "")


def _by_shape(answer: object) -> str:
    kind, what = _get(answer, "type"), _get(answer, "object")
    if (
        kind in ("message", "message_start", "message_delta")
        or _at(answer, "usage.cache_read_input_tokens") is not None
    ):
        return "anthropic"
    if what in ("chat.completion", "chat.completion.chunk", "text_completion", "response"):
        return "openai"
    if isinstance(kind, str) and kind.startswith("response."):
        return "openai"
    return "gcp.gemini" if _get(answer, "usage_metadata") is not None and _get(answer, "candidates") is not None else ""
