"""JSON kept as ASCII text, so that every string that Python can hold is the same on every database."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from django.db import models
from django.db.models.expressions import Combinable

from baton.values import decode, encode


class JSONTextField(models.TextField):  # type: ignore[type-arg] # not subscriptable at run time
    """A value in JSON text; ``jsonb`` would refuse NUL and lone surrogates after the work was done."""

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Any:
        """Decode what the row holds."""
        return None if value is None else decode(value)

    def to_python(self, value: Any) -> Any:
        """Take values as they are: text in JSON is a value too."""
        return value

    def get_prep_value(self, value: Any) -> str | None:
        """Encode for the row."""
        return None if value is None else encode(value)


MONEY_PLACES = 12
"""How many decimal places money keeps: a price per million tokens with six of them is exact for each token."""
_UNIT = Decimal(1).scaleb(-MONEY_PLACES)
# Never that of the thread: a body may have set it to a few digits for sums of its own.
_EXACT = Context(prec=60)


class MoneyField(models.BigIntegerField):  # type: ignore[type-arg] # not subscriptable at run time
    """An exact amount of money, kept as a whole number of its smallest part; SQLite has no decimals and would round."""

    _pyi_private_set_type: Decimal | int | str | Combinable  # type: ignore[assignment]
    _pyi_private_get_type: Decimal  # type: ignore[assignment]

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Decimal | None:
        """Read an amount, or the sum of some."""
        return None if value is None else as_money(value)

    def to_python(self, value: Any) -> Any:
        """Take text and whole numbers for the amounts that they say."""
        return Decimal(value) if isinstance(value, int | str) and not isinstance(value, bool) else value

    def get_prep_value(self, value: Any) -> int | None:
        """Write an amount."""
        return None if value is None else as_units(value)

    def formfield(self, *args: Any, **kwargs: Any) -> Any:
        """Ask for a decimal number."""
        from django import forms  # noqa: PLC0415 - only where forms are made

        return forms.DecimalField(max_digits=19, decimal_places=MONEY_PLACES, min_value=0, required=not self.blank)


def as_units(amount: Decimal | int | str) -> int:
    """An amount of money as its column holds it, rounded half to even behind the twelfth decimal place."""
    exact = Decimal(amount).quantize(_UNIT, rounding=ROUND_HALF_EVEN, context=_EXACT)
    return int(exact.scaleb(MONEY_PLACES, context=_EXACT))


def as_money(units: int | Decimal) -> Decimal:
    """An amount of money from its column, or from the sum of some; without needless zeros."""
    amount = Decimal(int(units)).scaleb(-MONEY_PLACES, context=_EXACT).normalize(_EXACT)
    return amount.quantize(Decimal(1), context=_EXACT) if amount == amount.to_integral_value() else amount


SMALLEST = as_money(1)
"""The smallest amount of money that a row holds."""
