"""Checks of what prices the calls of language models."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004 - Django's name for it
from django.utils.module_loading import import_string

from baton.checks.configured import TAG, usable_settings
from baton.conf import Settings


@register(TAG)
def check_pricing(**kwargs: Any) -> Iterator[CheckMessage]:
    path = usable_settings().pricing
    if path != Settings().pricing and (fault := _fault_of_class(path)):
        yield Error(
            f"BATON['PRICING'] is {path!r}, {fault}",
            hint="Give the dotted path of a class that is made without arguments and has a method cost(usage).",
            id="baton.E024",
        )


@register(TAG)
def check_currency_has_prices(**kwargs: Any) -> Iterator[CheckMessage]:
    settings = usable_settings()
    is_default = settings.pricing == Settings().pricing
    if is_default and settings.currency.upper() != "USD" and not settings.prices:
        yield Warning(
            f"BATON['CURRENCY'] is {settings.currency!r}, and genai-prices, which counts in USD, is not asked: "
            "no call has a price.",
            hint="Say what your models cost in BATON['PRICES'], or name a class of yours in BATON['PRICING'].",
            id="baton.W013",
        )


def _fault_of_class(path: str) -> str:
    try:
        found = import_string(path)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a foreign module raises is what is reported
        return f"which cannot be imported: {exc}"
    if not callable(found):
        return "which is no class."
    if not callable(getattr(found, "cost", None)):
        return "which has no method cost()."
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError) as exc:
        return f"which cannot be made without arguments: {exc}"
    return ""
