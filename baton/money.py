"""Amounts of money as people read them; what is not known is said, and never shown as nothing."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

_ENOUGH = Context(prec=60)
_FINE, _COARSE = Decimal("0.0001"), Decimal("0.01")

_SIGNS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}
"""The signs that people know; any other currency is named by its code."""


def amount(value: Decimal | None, currency: str) -> str:
    """An amount: four decimals under one unit, else two.

    Returns:
        ``$0.0123``, ``$1,234.50``, ``< $0.0001``, ``$0``, ``0.0123 CHF``, or ``unpriced`` where there is none.
    """
    if value is None:
        return _("unpriced")
    size = value.copy_abs()
    if 0 < size < _FINE:
        return f"{'-' if value < 0 else ''}< {_in(currency, str(_FINE))}"
    if not size:
        return _in(currency, "0")
    return _signed(value, currency, _FINE if size < 1 else _COARSE)


def short(value: Decimal, currency: str) -> str:
    """An amount without the zeros that say nothing, as budgets are given: ``$12``, ``$0.50``, ``$0.0125``."""
    if not _ENOUGH.remainder(value, Decimal(1)):
        return _signed(value, currency, Decimal(1))
    if not _ENOUGH.remainder(value, _COARSE):
        return _signed(value, currency, _COARSE)
    return amount(value, currency)


def exact(value: Decimal, currency: str) -> str:
    """An amount to its last digit, where rounded ones would read the same: ``$0.00005``."""
    return ("-" if value < 0 else "") + _in(currency, f"{value.copy_abs().normalize(_ENOUGH):,f}")


def total(cost: Decimal | None, unpriced: int, currency: str) -> str:
    """A sum, which says what it lacks.

    Args:
        cost: What the priced calls cost together; None where none is.
        unpriced: How many calls have no price.
        currency: What it is counted in.

    Returns:
        ``$0.0123``, ``$0.0123 + 3 unpriced``, ``3 unpriced``, or ``$0`` where there was no call at all.
    """
    lacks = ngettext("{count} unpriced", "{count} unpriced", unpriced).format(count=f"{unpriced:,}")
    if cost is None:
        return lacks if unpriced else amount(Decimal(0), currency)
    return f"{amount(cost, currency)} + {lacks}" if unpriced else amount(cost, currency)


def _signed(value: Decimal, currency: str, digits: Decimal) -> str:
    size = value.copy_abs().quantize(digits, ROUND_HALF_EVEN, _ENOUGH)
    return ("-" if value < 0 else "") + _in(currency, f"{size:,}")


def _in(currency: str, number: str) -> str:
    sign = _SIGNS.get(currency.upper())
    return f"{sign}{number}" if sign else f"{number} {currency}".rstrip()
