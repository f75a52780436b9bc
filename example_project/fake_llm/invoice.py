"""What requests took and what they cost: the provider's own books."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

Prices = Mapping[str, Mapping[str, str | Decimal]]

PRICES: Prices = {
    "gpt-4o": {"input": "2.50", "cached_input": "1.25", "output": "10"},
    "gpt-4o-mini": {"input": "0.15", "cached_input": "0.075", "output": "0.60"},
    "gpt-5-mini": {"input": "0.25", "cached_input": "0.025", "output": "2"},
    "claude-haiku-4-5": {"input": "1", "cached_input": "0.10", "cache_write": "1.25", "output": "5"},
    "claude-sonnet-4-6": {"input": "3", "cached_input": "0.30", "cache_write": "3.75", "output": "15"},
    "gemini-2.5-flash": {"input": "0.30", "cached_input": "0.03", "output": "2.50"},
}
"""US dollars per million tokens, in the shape of ``BATON["PRICES"]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """How many tokens a request took; the parts are counted in their wholes."""

    input: int
    output: int
    cached: int = 0
    """The part of the input that was read from a cache."""
    cache_write: int = 0
    """The part of the input that was written to a cache."""
    reasoning: int = 0
    """The part of the output that nobody gets to see."""

    def __post_init__(self) -> None:
        """Refuse parts that are larger than their wholes."""
        fresh = self.input - self.cached - self.cache_write
        if min(fresh, self.cached, self.cache_write, self.reasoning, self.output - self.reasoning) < 0:
            raise ValueError(f"{self} has parts that are larger than their wholes, or negative.")

    def cost(self, prices: Mapping[str, str | Decimal]) -> Decimal:
        """Return the exact price; a cache without a price of its own costs as much as other input."""
        price = {name: Decimal(value) for name, value in prices.items()}
        total = (
            (self.input - self.cached - self.cache_write) * price["input"]
            + self.cached * price.get("cached_input", price["input"])
            + self.cache_write * price.get("cache_write", price["input"])
            + self.output * price["output"]
        )
        return total / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One line of the invoice."""

    id: str
    """The id that the answer carries too."""
    number: int
    """Which request it was, counted from 1."""
    provider: str
    model: str
    """The model as it was asked for."""
    idempotency_key: str
    tokens: Tokens
    cost: Decimal
    delivered: bool = False
    """Whether the whole answer was sent, as far as a provider can know."""


class Invoice:
    """Every request that was charged for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._charges: dict[str, Charge] = {}

    @property
    def charges(self) -> tuple[Charge, ...]:
        """The lines, oldest first."""
        with self._lock:
            return tuple(self._charges.values())

    def total(self) -> Decimal:
        """Return what all of them cost."""
        return sum((charge.cost for charge in self.charges), Decimal(0))

    def add(self, charge: Charge) -> None:
        """Write a line."""
        with self._lock:
            self._charges[charge.id] = charge

    def note_delivery(self, id_: str, *, delivered: bool) -> None:
        """Say whether the answer of a line was sent; nothing happens to a line that a reset has taken away."""
        with self._lock:
            if charge := self._charges.get(id_):
                self._charges[id_] = replace(charge, delivered=delivered)

    def clear(self) -> None:
        """Forget every line."""
        with self._lock:
            self._charges.clear()

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data, money as text."""
        charges = self.charges
        return {
            "total": str(sum((charge.cost for charge in charges), Decimal(0))),
            "charges": [{**asdict(charge), "cost": str(charge.cost)} for charge in charges],
        }
