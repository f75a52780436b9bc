"""Checks of what stands between a call and its debug log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.utils.module_loading import import_string

from baton.checks.configured import TAG, usable_settings


@register(TAG)
def check_redact_hook(**kwargs: Any) -> Iterator[CheckMessage]:
    path = usable_settings().redact_hook
    if path is not None and (fault := _fault_of_function(path)):
        yield Error(
            f"BATON['REDACT_HOOK'] is {path!r}, {fault}",
            hint="Give the dotted path of a function (kind, value); while it is missing, nothing of a call is kept.",
            id="baton.E025",
        )


def _fault_of_function(path: str) -> str:
    try:
        found = import_string(path)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a foreign module raises is what is reported
        return f"which cannot be imported: {exc}"
    return "" if callable(found) else "which cannot be called."
