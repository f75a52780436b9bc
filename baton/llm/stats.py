"""What calls of language models took and cost, in a run or a window of time, summed by the database."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import BigIntegerField, Count, F, Func, Q, QuerySet, Sum
from django.db.models.functions import Coalesce

from baton.conf import get_settings
from baton.models import LedgerEntry, StepStat, WorkflowRun
from baton.models.fields import as_money
from baton.states import EntryState, StepState

_TOKENS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
_OF_A_CALL = (
    "step_name", "step", "model", "provider", "key", "attempt", *_TOKENS, "cost", "currency", "unpriced_because",
    "duration", "at", "from_ledger", "count",
)  # fmt: skip
_PAID, _SERVED = Q(from_ledger=False), Q(from_ledger=True)
_COLUMN_OF_ENTRIES = {"model": "model", "step": "node__step", "workflow_name": "run__name"}
# Sums are taken of the two halves of an amount: 64 bits hold no more than nine million of a currency.
_HALF = 1_000_000


def workflow_totals(workflow_id: WorkflowRun | UUID | str) -> dict[str, Any]:
    """What all calls of a run took and cost, in two queries.

    Args:
        workflow_id: The run, or its id.

    Returns:
        ``calls``, the five counts of tokens, ``cost`` (None where no call has a price), ``unpriced`` (how many calls
        have none in this currency), ``currency``, ``served`` (how many answers came from the ledger), ``saved`` (what
        these would have cost), ``served_unpriced`` (how many of them have no price) and ``ambiguous`` (calls of which
        nobody knows whether they were paid for; they are in none of the other numbers). All zero for an unknown run.

    Raises:
        ValueError: The text is no id.
    """
    run_id = _id_of(workflow_id)
    found = _stats().filter(run_id=run_id).aggregate(**_sums())
    return _totals(found, _unknown().filter(run_id=run_id).count())


def cost_by_model(
    start: datetime | None = None, end: datetime | None = None, *, run: WorkflowRun | UUID | str | None = None
) -> list[dict[str, Any]]:
    """What the calls of each model took and cost, the dearest first, in two queries.

    Args:
        start: Calls at this time or later; an aware datetime.
        end: Calls before this time; an aware datetime.
        run: Calls of this run only.

    Returns:
        A dict for each, with ``model`` and the keys of ``workflow_totals``.

    Raises:
        ValueError: A time is no datetime or has no time zone, or a text is no id.
    """
    return _grouped("model", start, end, run)


def cost_by_step(
    start: datetime | None = None, end: datetime | None = None, *, run: WorkflowRun | UUID | str | None = None
) -> list[dict[str, Any]]:
    """The same for each step, in all workflows: ``step`` is the registered name, as in events."""
    return _grouped("step", start, end, run)


def cost_by_workflow(start: datetime | None = None, end: datetime | None = None) -> list[dict[str, Any]]:
    """The same for all runs of each name together: ``workflow_name``."""
    return _grouped("workflow_name", start, end, None)


def steps_for_workflow(
    workflow_id: WorkflowRun | UUID | str, *, node_id: int | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """The calls of a run in the order of their times, in one query.

    Args:
        workflow_id: The run, or its id.
        node_id: Those of this step only.
        limit: No more than so many, the newest.

    Returns:
        A dict for each call: ``step_name``, ``step``, ``model``, ``provider``, ``key``, ``attempt``, the five counts of
        tokens (None where the answer did not say), ``cost`` (None where there is no price, and then
        ``unpriced_because``), ``currency``, ``duration``, ``at``, ``from_ledger``, ``count`` and ``saved``. What an
        attempt took from the ledger is a dict, too, ``count`` times in one: it cost nothing and used no tokens, and
        ``saved`` is what it would have cost.

    Raises:
        ValueError: The text is no id.
    """
    rows = _stats().filter(run_id=_id_of(workflow_id))
    if node_id is not None:
        rows = rows.filter(node_id=node_id)
    newest_first = list(rows.order_by("-at", "-id").values(*_OF_A_CALL)[:limit])
    return [_call(row) for row in reversed(newest_first)]


def unknown_outcomes(workflow_id: WorkflowRun | UUID | str, *, node_id: int | None = None) -> list[dict[str, Any]]:
    """The calls of a run of which nobody knows whether they were done and paid for, in the order they began.

    Their worker vanished, or the connection broke, between the request and the answer. They are in no total.

    Args:
        workflow_id: The run, or its id.
        node_id: Those of this step only.

    Returns:
        A dict for each: ``step_name``, ``step``, ``key``, ``number`` (which call of this key it was), ``model``,
        ``provider``, ``attempt``, ``started_at``, ``reserved`` (the most it may have cost, where a budget had to know),
        and ``resolution``: ``repay``, ``fail``, or empty while nobody has decided.

    Raises:
        ValueError: The text is no id.
    """
    entries = _unknown().filter(run_id=_id_of(workflow_id))
    if node_id is not None:
        entries = entries.filter(node_id=node_id)
    names = {"step_name": F("node__name"), "step": F("node__step")}
    columns = ("key", "number", "model", "provider", "attempt", "started_at", "reserved", "resolution")
    return list(entries.order_by("started_at", "id").values(*columns, **names))


def _stats() -> QuerySet[StepStat]:
    return StepStat.objects.using(get_settings().database).order_by()


def _unknown() -> QuerySet[LedgerEntry]:
    """Calls of unknown outcome: those that are marked, and those whose execution is over and that nobody marked yet.

    In the words of the indexes baton_entry_ambiguous and baton_entry_calling.
    """
    is_over = ~Q(node__state=StepState.EXECUTING) | ~Q(node__fence=F("fence"))
    outcome = Q(state=EntryState.AMBIGUOUS) | (Q(state=EntryState.CALLING) & is_over)
    return LedgerEntry.objects.using(get_settings().database).order_by().filter(outcome, is_call=True)


def _grouped(
    column: str, start: datetime | None, end: datetime | None, run: WorkflowRun | UUID | str | None
) -> list[dict[str, Any]]:
    stats, entries = _stats(), _unknown()
    for name, bound, is_before in (("start", start, False), ("end", end, True)):
        if bound is not None:
            _check_aware(name, bound)
            lookup = "lt" if is_before else "gte"
            stats = stats.filter(**{f"at__{lookup}": bound})
            entries = entries.filter(**{f"started_at__{lookup}": bound})
    if run is not None:
        stats, entries = stats.filter(run_id=_id_of(run)), entries.filter(run_id=_id_of(run))
    sums = {row[column]: row for row in stats.values(column).annotate(**_sums())}
    unknown = dict(entries.values_list(_COLUMN_OF_ENTRIES[column]).annotate(Count("id")))
    rows = [
        {column: name, **_totals(sums.get(name, {}), unknown.get(name, 0))} for name in sums.keys() | unknown.keys()
    ]
    return sorted(rows, key=lambda row: (row["cost"] is None, -(row["cost"] or 0), row[column]))


def _sums() -> dict[str, Any]:
    is_priced = Q(cost__isnull=False, currency=get_settings().currency)
    priced, known = _PAID & is_priced, _SERVED & is_priced
    return {
        "paid_calls": Count("id", filter=_PAID),
        "priced_calls": Count("id", filter=priced),
        "served_calls": Coalesce(Sum("count", filter=_SERVED), 0),
        "served_priced": Coalesce(Sum("count", filter=known), 0),
        **{f"sum_of_{name}": Coalesce(Sum(name, filter=_PAID), 0) for name in _TOKENS},
        "cost_high": Sum(_half("/"), filter=priced),
        "cost_low": Sum(_half("%%%%"), filter=priced),
        "saved_high": Sum(_half("/") * F("count"), filter=known, output_field=BigIntegerField()),
        "saved_low": Sum(_half("%%%%") * F("count"), filter=known, output_field=BigIntegerField()),
    }


def _half(operator: str) -> Func:
    return Func(F("cost"), template=f"(%(expressions)s {operator} {_HALF})", output_field=BigIntegerField())


def _totals(found: dict[str, Any], ambiguous: int) -> dict[str, Any]:
    calls, served = found.get("paid_calls", 0), found.get("served_calls", 0)
    return {
        "calls": calls,
        **{name: found.get(f"sum_of_{name}", 0) for name in _TOKENS},
        "cost": _joined(found, "cost"),
        "unpriced": calls - found.get("priced_calls", 0),
        "currency": get_settings().currency,
        "served": served,
        "saved": _joined(found, "saved") or Decimal(0),
        "served_unpriced": served - found.get("served_priced", 0),
        "ambiguous": ambiguous,
    }


def _joined(found: dict[str, Any], name: str) -> Decimal | None:
    high, low = found.get(f"{name}_high"), found.get(f"{name}_low")
    return None if high is None or low is None else as_money(high * _HALF + low)


def _call(row: dict[str, Any]) -> dict[str, Any]:
    if not row["from_ledger"]:
        return {**row, "saved": Decimal(0)}
    saved = None if row["cost"] is None else row["cost"] * row["count"]
    return {**row, **dict.fromkeys(_TOKENS, 0), "cost": Decimal(0), "saved": saved}


def _check_aware(name: str, bound: object) -> None:
    if not isinstance(bound, datetime) or bound.utcoffset() is None:
        msg = f"{name} is {bound!r}, which is no time: give a datetime with a time zone."
        raise ValueError(msg)


def _id_of(workflow_id: WorkflowRun | UUID | str) -> UUID:
    if isinstance(workflow_id, WorkflowRun):
        return workflow_id.pk
    return workflow_id if isinstance(workflow_id, UUID) else UUID(workflow_id)
