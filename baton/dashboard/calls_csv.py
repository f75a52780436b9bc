"""The calls of a run as a table of comma-separated values, in pieces, so that a large one is never whole in memory."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterator, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from baton.conf import get_settings
from baton.dashboard.shown import writable
from baton.llm import stats
from baton.models import StepStat
from baton.telemetry import timestamp

COLUMNS = (
    "at", "step", "attempt", "key", "model", "provider", "outcome", "times", "input_tokens", "cached_input_tokens",
    "cache_write_tokens", "output_tokens", "reasoning_tokens", "seconds", "cost", "saved", "currency", "note",
)  # fmt: skip
_READ = (
    "id", "at", "step_name", "attempt", "key", "model", "provider", "from_ledger", "count", "input_tokens",
    "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "duration", "cost", "currency",
    "unpriced_because",
)  # fmt: skip
_FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n")
"""What formulas begin with, in some countries in the wide forms."""


def answer_with_csv(request: HttpRequest, run_id: UUID) -> StreamingHttpResponse:
    """Answer with the calls of a run, whose reader may see them."""
    pieces = csv_of(run_id)
    # Under ASGI Django would read a plain iterator to its end before it sends anything.
    content = _in_a_thread(pieces) if isinstance(request, ASGIRequest) else pieces
    named = f'attachment; filename="calls-{str(run_id)[:8]}.csv"'
    return StreamingHttpResponse(
        content, content_type="text/csv; charset=utf-8", headers={"Content-Disposition": named}
    )


def csv_of(run_id: UUID, *, at_once: int = 1_000) -> Iterator[str]:
    """The calls in the order in which they were recorded, then those of unknown outcome.

    Amounts are exact, in the currency beside them; where there is no price the cell is empty. Words of columns and
    outcomes are the same in every language.

    Args:
        run_id: The run.
        at_once: How many calls are read at a time.
    """
    yield _lines([COLUMNS])
    calls = StepStat.objects.using(get_settings().database).filter(run_id=run_id).order_by("id").values(*_READ)
    last = 0
    while batch := list(calls.filter(id__gt=last)[:at_once]):
        last = batch[-1]["id"]
        yield _lines([_paid(call) for call in batch])
    if unknown := stats.unknown_outcomes(run_id):
        yield _lines([_unknown(call) for call in unknown])


async def _in_a_thread(pieces: Iterator[str]) -> AsyncIterator[str]:
    @sync_to_async
    def following() -> str | None:
        return next(pieces, None)

    while (piece := await following()) is not None:
        yield piece


def _paid(call: Mapping[str, Any]) -> list[Any]:
    is_served, cost = call["from_ledger"], call["cost"]
    tokens = [
        "" if is_served else call[name]
        for name in (
            "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
        )
    ]  # fmt: skip
    saved = cost * call["count"] if is_served and cost is not None else None
    return [
        timestamp(call["at"]), call["step_name"], call["attempt"], call["key"], call["model"], call["provider"],
        "from ledger" if is_served else "ok", call["count"], *tokens, "" if is_served else call["duration"],
        _amount(Decimal(0) if is_served else cost), _amount(saved), call["currency"], call["unpriced_because"],
    ]  # fmt: skip


def _unknown(call: Mapping[str, Any]) -> list[Any]:
    note = f"may have been paid; {_amount(call['reserved'])} reserved" if call["reserved"] else "may have been paid"
    return [
        timestamp(call["started_at"]), call["step_name"], call["attempt"], call["key"], call["model"],
        call["provider"], "unknown outcome", 1, *[""] * 6, "", "", get_settings().currency, note,
    ]  # fmt: skip


def _amount(value: Decimal | None) -> str:
    return "" if value is None else f"{value:f}"


def _lines(rows: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: Any) -> Any:
    """Text that no spreadsheet takes for a formula, and that can be written."""
    if not isinstance(cell, str):
        return cell
    whole = writable(cell)
    return f"'{whole}" if whole.startswith(_FORMULAS) else whole
