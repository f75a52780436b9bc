"""Amounts of money as people read them; what is not known is said, and never shown as nothing."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

_ENOUGH = Context(prec=60)
_FINE, _COARSE = Decimal("0.0001"), Decimal("0.01")


def amount(value: Decimal | None, currency: str) -> str:
    """An amount: four decimals under one unit, else two.

    Returns:
        ``0.0123 USD``, ``1,234.50 USD``, ``< 0.0001 USD``, or ``unpriced`` where there is none.
    """
    if value is None:
        return _("unpriced")
    sign, size = ("-" if value < 0 else ""), value.copy_abs()
    if 0 < size < _FINE:
        return f"{sign}< {_FINE} {currency}".rstrip()
    places = _FINE if 0 < size < 1 else _COARSE
    return f"{sign}{size.quantize(places, ROUND_HALF_EVEN, _ENOUGH):,} {currency}".rstrip()


def total(cost: Decimal | None, unpriced: int, currency: str) -> str:
    """A sum, which says what it lacks.

    Args:
        cost: What the priced calls cost together; None where none is.
        unpriced: How many calls have no price.
        currency: What it is counted in.

    Returns:
        ``0.0123 USD``, ``0.0123 USD + 3 unpriced``, ``3 unpriced``, or ``0.00 USD`` where there was no call at all.
    """
    lacks = ngettext("{count} unpriced", "{count} unpriced", unpriced).format(count=f"{unpriced:,}")
    if cost is None:
        return lacks if unpriced else amount(Decimal(0), currency)
    return f"{amount(cost, currency)} + {lacks}" if unpriced else amount(cost, currency)
