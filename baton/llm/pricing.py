"""What a call of a language model costs, exactly; or in words why nobody can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol


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
    """What else the price may depend on, ``service_tier`` for instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The price of a call and where it comes from."""

    cost: Decimal | None = None
    """None where the price is not known, which is never the same as zero."""
    currency: str = ""
    """What it is counted in."""
    unit_prices: Mapping[str, str] | None = None
    """Prices per million tokens, as text, by what they are of."""
    source: str = ""
    """Who says so: ``PRICES``, ``genai-prices``, or the dotted path of the project's class."""
    version: str = ""
    """The version of that source, where it has one."""
    reason: str = ""
    """Why there is no cost."""


class Pricing(Protocol):
    """What ``BATON["PRICING"]`` names: a class without arguments that prices calls."""

    def cost(self, usage: Usage) -> Decimal | None:
        """Return what a call costs in ``BATON["CURRENCY"]``, None where that is not known."""


class DefaultPricing:
    """The prices of ``BATON["PRICES"]``, then those of genai-prices where that is installed."""

    def cost(self, usage: Usage) -> Decimal | None:
        """Return what a call costs, None where that is not known."""
        return self.quote(usage).cost

    def quote(self, usage: Usage) -> Quote:
        """Return what a call costs, and why."""
        return Quote(reason=f"no price for model {usage.model!r}")


def price(usage: Usage) -> Quote:
    """Ask the project's pricing what a call costs. Never raises: whatever goes wrong is the quote's reason."""
    return DefaultPricing().quote(usage)
