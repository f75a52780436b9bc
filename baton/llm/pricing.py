"""What a call of a language model costs, exactly; or in words why nobody can say."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache
from threading import RLock
from typing import Any, Protocol

from django.core.signals import setting_changed
from django.db import connections, transaction
from django.utils.module_loading import import_string

from baton.conf import MAX_AMOUNT, get_settings, shown
from baton.engine.errors import error_message, storable_text
from baton.engine.ledger import in_event_loop
from baton.models.fields import as_money, as_units

logger = logging.getLogger("baton.llm")

MILLION = Decimal(1_000_000)
EXTRAS = ("cache_write_1h_tokens", "input_audio_tokens", "output_audio_tokens", "storage_searches", "web_searches")
"""What an answer may count besides, with prices of its own; kept in a usage's context."""
IMAGES = ("input_image_tokens", "output_image_tokens")
"""What it may count besides, and what few models have a price of its own for; to the others it is input and output."""
UNREADABLE = "unreadable"
"""In a usage's context: the counts that the answer gives and nobody can read."""

# How long the columns are.
_MAX_REASON, _MAX_SOURCE, _MAX_VERSION = 500, 255, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one call of a language model used."""

    provider: str = ""
    """Who answered, by OpenTelemetry's names: ``openai``, ``anthropic``, ``gcp.gemini``; empty where nobody knows."""
    model: str
    """The model that answered, by its full name."""
    input_tokens: int
    """All of the input: what was read from a cache and written to one is part of it."""
    output_tokens: int
    """All of the output, reasoning included."""
    cached_input_tokens: int = 0
    """What of the input was read from the provider's cache."""
    cache_write_tokens: int = 0
    """What of the input was written to the provider's cache."""
    reasoning_tokens: int = 0
    """What of the output was reasoning."""
    at: datetime
    """When it was called, for prices change."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What else the price may depend on: ``service_tier``, ``speed``, ``processing`` and what the answer counts besides
    tokens of text, such as ``web_searches``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The price of a call and where it comes from."""

    cost: Decimal | None = None
    """None where the price is not known, which is never the same as zero."""
    currency: str = ""
    """What it is counted in."""
    unit_prices: Mapping[str, str] | None = None
    """Prices per million tokens (of searches and ``requests``, per thousand), as text, by what they are of."""
    source: str = ""
    """Who says so: ``PRICES``, ``genai-prices``, or the dotted path of the project's class."""
    version: str = ""
    """The version of that source, where it has one."""
    reason: str = ""
    """Why there is no cost; empty where there is."""


class Pricing(Protocol):
    """What ``BATON["PRICING"]`` names: a class that is made once, without arguments, and prices calls."""

    def cost(self, usage: Usage) -> Decimal | None:
        """Return what a call costs in ``BATON["CURRENCY"]``, None where that is not known."""


class DefaultPricing:
    """The prices of ``BATON["PRICES"]``, then those of genai-prices where that is installed."""

    def cost(self, usage: Usage) -> Decimal | None:
        """Return what a call costs, None where that is not known."""
        return self.quote(usage).cost

    def quote(self, usage: Usage) -> Quote:
        """Return what a call costs, and why."""
        settings = get_settings()
        prices = _find(settings.prices or {}, usage)
        if prices is not None:
            return _by_table(usage, prices)
        # That package counts in US dollars.
        if settings.currency.upper() == "USD" and (quote := _by_genai_prices(usage)) is not None:
            return quote
        return Quote(reason=f"no price for model {usage.model!r}")


def price(usage: Usage) -> Quote:
    """Ask the project's pricing what a call costs.

    Never raises: whatever goes wrong there is the quote's reason, and is logged once for each kind of fault.
    """
    try:
        settings = get_settings()
        # The body's own decimal context may round.
        with localcontext(Context(prec=60, rounding=ROUND_HALF_EVEN)):
            fault = _fault_of(usage)
            quote = Quote(reason=fault) if fault else _ask(settings.pricing, usage)
            return _storable(replace(quote, currency=settings.currency))
    except Exception as exc:  # noqa: BLE001 - a price must never fail a step that has paid
        reason = f"the price could not be found out: {error_message(exc)}"
        _tell_once("price", exc, reason)
        return _storable(Quote(reason=reason))


def _fault_of(usage: Usage) -> str:
    """What is wrong with the counts, so that no price of them can be right."""
    if unreadable := usage.context.get(UNREADABLE):
        return f"the answer's {' and '.join(unreadable)} cannot be read"
    if not usage.model:
        return "the model is not known"
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    if min(usage.input_tokens, usage.output_tokens, cached, written, usage.reasoning_tokens) < 0:
        return "a count of tokens is negative"
    if cached + written > usage.input_tokens:
        return f"of {usage.input_tokens} input tokens, {cached} cannot be cached and {written} written to a cache"
    if usage.reasoning_tokens > usage.output_tokens:
        return f"of {usage.output_tokens} output tokens, {usage.reasoning_tokens} cannot be reasoning"
    return ""


# The project's class ----------------------------------------------------------------------------------------------


def _ask(path: str, usage: Usage) -> Quote:
    try:
        pricing = _made(path)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a foreign module raises what it likes
        reason = f"BATON['PRICING'] is {path!r}, which cannot be used: {error_message(exc)}"
        _tell_once(path, exc, reason)
        return Quote(reason=reason)
    try:
        return _answer_of(pricing, path, usage)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a price must never fail a step that has paid
        reason = f"{path} raised {error_message(exc)}"
        _tell_once(path, exc, reason)
        return Quote(source=path, reason=reason)


def _answer_of(pricing: Pricing, path: str, usage: Usage) -> Quote:
    # A class derived from ours that has a cost() of its own is asked for that.
    if isinstance(pricing, DefaultPricing) and type(pricing).cost is DefaultPricing.cost:
        quote = pricing.quote(usage)
        who, found = quote.source, quote.cost
    else:
        with _apart():
            who, found = path, pricing.cost(usage)
        quote = Quote(source=path, reason="" if found is not None else f"no price for model {usage.model!r}")
    if found is None:
        return quote
    if fault := _fault_of_amount(found):
        reason = f"{who} says {shown(found)}, which {fault}"
        _tell_once(path, None, reason, kind=fault)
        return replace(quote, cost=None, reason=reason)
    return replace(quote, cost=as_money(as_units(found)))


@contextmanager
def _apart() -> Iterator[None]:
    """Let a query of the project's that fails undo nothing else, where a body has a transaction open."""
    with ExitStack() as opened:
        # In an event loop nobody queries.
        for connection in [] if in_event_loop() else connections.all(initialized_only=True):
            if connection.in_atomic_block and not connection.needs_rollback:
                opened.enter_context(transaction.atomic(using=connection.alias))
        yield


def _fault_of_amount(found: object) -> str:
    if not isinstance(found, Decimal):
        return "is no Decimal"
    if not found.is_finite():
        return "is no number"
    if found < 0:
        return "is negative"
    return "is more than a row holds" if found > MAX_AMOUNT else ""


_lock = RLock()


def _made(path: str) -> Pricing:
    with _lock:
        return _make(path)


@cache
def _make(path: str) -> Pricing:
    made: Pricing = import_string(path)()
    return made


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "BATON":
        _make.cache_clear()
        _told.clear()


setting_changed.connect(_forget, dispatch_uid="baton.llm.pricing")

_told: set[tuple[str, str]] = set()


def _tell_once(source: str, exc: BaseException | None, reason: str, *, kind: str = "") -> None:
    key = (source, kind or type(exc).__name__)
    if key not in _told:
        _told.add(key)
        logger.error("A call has no price: %s", reason, exc_info=exc)


def _storable(quote: Quote) -> Quote:
    return replace(
        quote,
        unit_prices=quote.unit_prices and {str(kind): str(each) for kind, each in quote.unit_prices.items()},
        source=storable_text(quote.source)[:_MAX_SOURCE],
        version=storable_text(quote.version)[:_MAX_VERSION],
        reason=storable_text(quote.reason)[:_MAX_REASON],
    )


# The project's table ----------------------------------------------------------------------------------------------

# What stands before a model's name, and who that is to genai-prices; what it does not know stays as it is.
_PREFIXES = {
    "anthropic": "anthropic",
    "azure": "azure",
    "bedrock": "aws",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "google": "google",
    "google-gla": "google",
    "google-vertex": "google",
    "groq": "groq",
    "mistral": "mistral",
    "models": "",
    "openai": "openai",
    "openrouter": "openrouter",
    "perplexity": "perplexity",
    "together_ai": "together",
    "vertex_ai": "google",
    "x-ai": "x-ai",
    "xai": "x-ai",
}
_DATE = re.compile(r"[-@]20\d\d(-?)(0[1-9]|1[0-2])\1(0[1-9]|[12]\d|3[01])$")


def _find(table: Mapping[str, Mapping[str, Decimal]], usage: Usage) -> Mapping[str, Decimal] | None:
    """The prices of a model: by its name, with and without who serves it, then without a date at its end."""
    names = [usage.model, f"{usage.provider}/{usage.model}", *(name for _, name in _without_prefixes(usage.model))]
    for name in [*names, *(_DATE.sub("", name) for name in names)]:
        if name in table:
            return table[name]
    return None


def _without_prefixes(model: str) -> Iterator[tuple[str, str]]:
    """Take off one known prefix after the other; "ft:" is none, for a model that was tuned has another price."""
    while match := re.match(r"([\w-]+)[/:](.+)", model):
        prefix, model = match.groups()
        if prefix not in _PREFIXES:
            return
        yield prefix, model


def _by_table(usage: Usage, prices: Mapping[str, Decimal]) -> Quote:
    source = "PRICES"
    for extra in EXTRAS:
        if usage.context.get(extra):
            return Quote(source=source, reason=f"no {extra} price for {usage.model!r}")
    cost = Decimal(0)
    for kind, count in _counts(usage).items():
        if kind in prices:
            cost += count * prices[kind]
        elif count:
            return Quote(source=source, reason=f"no {kind} price for {usage.model!r}")
    return Quote(cost=cost / MILLION, unit_prices={kind: str(each) for kind, each in prices.items()}, source=source)


def _counts(usage: Usage) -> dict[str, int]:
    """How many tokens are charged by each price."""
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    return {
        "input": usage.input_tokens - cached - written,
        "cached_input": cached,
        "cache_write": written,
        "output": usage.output_tokens,
    }


# genai-prices -----------------------------------------------------------------------------------------------------

# OpenTelemetry's names of providers, where genai-prices has another or takes it for somebody else.
_PROVIDERS = {
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "x_ai": "x-ai",
}
# What a price may depend on there, and the values that mean the usual one.
_CHOICES = ("processing", "service_tier", "speed", "inference_geo")
_USUAL = {"", "auto", "default", "global", "not_available", "on_demand", "standard"}
_PRICE_KEYS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h_tokens": "cache_write_1h_mtok",
    "input_audio_tokens": "input_audio_mtok",
    "output_audio_tokens": "output_audio_mtok",
    "input_image_tokens": "input_image_mtok",
    "output_image_tokens": "output_image_mtok",
    "reasoning_tokens": "output_reasoning_mtok",
    "storage_searches": "storage_searches_kcount",
    "web_searches": "web_searches_kcount",
    "requests": "requests_kcount",
}


def _by_genai_prices(usage: Usage) -> Quote | None:
    """Ask genai-prices; None where it is missing or does not know the model."""
    try:
        # Loading it takes more than a second, which only who needs a price should wait for.
        import genai_prices  # noqa: PLC0415
    except ImportError:
        return None
    quote = Quote(source="genai-prices", version=genai_prices.__version__)
    used = _counts(usage) | {extra: usage.context.get(extra, 0) for extra in EXTRAS}
    parts = used | {kind: usage.context.get(kind, 0) for kind in IMAGES} | {"reasoning_tokens": usage.reasoning_tokens}
    choices = _choices(usage)
    counted = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens or None,
        cache_write_tokens=usage.cache_write_tokens or None,
        output_reasoning_tokens=usage.reasoning_tokens or None,
        **{kind: parts[kind] or None for kind in (*EXTRAS, *IMAGES)},
    )
    for provider, model in _names_there(usage):
        try:
            found = genai_prices.calc_price(
                counted, model, provider_id=provider, genai_request_timestamp=usage.at, price_context=choices
            )
        except LookupError:
            continue
        except ValueError as exc:
            return replace(quote, reason=f"genai-prices: {exc}")
        per_unit = {kind: _unit_price(found.model_price, key, usage) for kind, key in _PRICE_KEYS.items()}
        # What has no price of its own there is charged as plain input, or not at all.
        if unknown := [kind for kind, count in used.items() if count and per_unit[kind] is None]:
            return replace(quote, reason=f"no {unknown[0]} price for {usage.model!r}")
        if choice := _unheeded(choices, found, usage.at):
            return replace(quote, reason=f"no price for {usage.model!r} with {choice} {choices[choice]!r}")
        unit_prices = {
            kind: str(each)
            for kind, each in per_unit.items()
            if each is not None and (kind in _counts(usage) or parts.get(kind, 1))
        }
        return replace(quote, cost=found.total_price, unit_prices=unit_prices)
    return None


def _names_there(usage: Usage) -> Iterator[tuple[str | None, str]]:
    provider = _PROVIDERS.get(usage.provider, usage.provider) or None
    yield provider, usage.model
    for prefix, model in _without_prefixes(usage.model):
        there = _PREFIXES[prefix] or provider
        # The client of OpenAI talks to gateways too; but who was named otherwise has prices of their own.
        if provider in (None, "openai", there):
            yield there, model


def _choices(usage: Usage) -> dict[str, str]:
    choices = {key: value for key, value in usage.context.items() if isinstance(value, str)}
    # Anthropic calls a batch a tier.
    return choices | {"processing": "batch", "service_tier": ""} if choices.get("service_tier") == "batch" else choices


def _unheeded(choices: Mapping[str, str], found: Any, at: datetime) -> str:
    """The first choice that has its price, which genai-prices does not know and so has not used."""
    known = {
        pair
        for variant in found.model.price_variants or ()
        if variant.constraint is None or variant.constraint.active(at)
        for pair in variant.when.items()
    }
    unheeded = (key for key in _CHOICES if choices.get(key, "") not in _USUAL and (key, choices[key]) not in known)
    return next(unheeded, "")


def _unit_price(prices: Any, key: str, usage: Usage) -> Decimal | None:
    """A price there; of those that depend on how long the input is, the one that holds."""
    found: Any = getattr(prices, key)
    tiers = getattr(found, "tiers", ())
    reached = [tier.price for tier in tiers if usage.input_tokens > tier.start]
    price_there: Decimal | None = reached[-1] if reached else getattr(found, "base", found)
    return price_there
