"""What calls of language models took and cost, in a run or a window of time, summed by the database."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connections
from django.db.models import BigIntegerField, Count, F, Func, QuerySet, Sum

from baton.conf import get_settings
from baton.models import LedgerEntry, StepStat, WorkflowRun
from baton.models.fields import as_money, as_units
from baton.models.ledger import unknown_outcome

_TOKENS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
_OF_A_CALL = (
    "step_name", "step", "model", "provider", "key", "attempt", *_TOKENS, "cost", "currency", "unpriced_because",
    "duration", "at", "from_ledger", "count",
)  # fmt: skip
_COLUMN_OF_ENTRIES = {"model": "model", "step": "node__step", "step_name": "node__name", "workflow_name": "run__name"}
_PARTS = ("from_ledger", "count", "currency")
"""What every sum is taken apart by: of a few groups, Python counts no more than it must."""
_HALF = 1_000_000_000


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
    return totals_beside(run_id, unknown_calls().filter(run_id=run_id).count())


def totals_beside(run_id: UUID, ambiguous: int) -> dict[str, Any]:
    """The same in one query, for who has counted the calls of unknown outcome."""
    return _totals(_stats().filter(run_id=run_id).values(*_PARTS).annotate(**_sums()), ambiguous)


def no_totals(ambiguous: int) -> dict[str, Any]:
    """The same in no query, for a run without any other calls."""
    return _totals((), ambiguous)


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


def cost_in_run(column: str, run_id: UUID, *, has_unknown: bool) -> list[dict[str, Any]]:
    """The same for one run by ``model``, ``step`` or ``step_name``, in one query where no outcome is unknown."""
    return _grouped(column, None, None, run_id, has_unknown=has_unknown)


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
    entries = unknown_calls().filter(run_id=_id_of(workflow_id))
    if node_id is not None:
        entries = entries.filter(node_id=node_id)
    names = {"step_name": F("node__name"), "step": F("node__step")}
    columns = ("key", "number", "model", "provider", "attempt", "started_at", "reserved", "resolution")
    return list(entries.order_by("started_at", "id").values(*columns, **names))


def _stats() -> QuerySet[StepStat]:
    return StepStat.objects.using(get_settings().database).order_by()


def unknown_calls() -> QuerySet[LedgerEntry]:
    """Calls of unknown outcome."""
    return LedgerEntry.objects.using(get_settings().database).order_by().filter(unknown_outcome(), is_call=True)


def _grouped(
    column: str,
    start: datetime | None,
    end: datetime | None,
    run: WorkflowRun | UUID | str | None,
    *,
    has_unknown: bool = True,
) -> list[dict[str, Any]]:
    stats, entries = _stats(), unknown_calls()
    for name, bound, is_before in (("start", start, False), ("end", end, True)):
        if bound is not None:
            _check_aware(name, bound)
            lookup = "lt" if is_before else "gte"
            stats = stats.filter(**{f"at__{lookup}": bound})
            entries = entries.filter(**{f"started_at__{lookup}": bound})
    if run is not None:
        stats, entries = stats.filter(run_id=_id_of(run)), entries.filter(run_id=_id_of(run))
    sums = defaultdict[str, list[dict[str, Any]]](list)
    for part in stats.values(column, *_PARTS).annotate(**_sums()):
        sums[part[column]].append(part)
    counted = entries.values_list(_COLUMN_OF_ENTRIES[column]).annotate(Count("id"))
    unknown = dict(counted) if has_unknown else {}
    rows = [
        {column: name, **_totals(sums.get(name, ()), unknown.get(name, 0))} for name in sums.keys() | unknown.keys()
    ]
    return sorted(rows, key=lambda row: (row["cost"] is None, (row["cost"] or Decimal(0)).copy_negate(), row[column]))


def _sums() -> dict[str, Any]:
    columns = (*_TOKENS, "cost")
    counts = {"calls": Count("id"), "priced": Count("cost")}
    if connections[get_settings().database].vendor == "postgresql":
        return counts | {f"sum_of_{column}": Sum(column, output_field=BigIntegerField()) for column in columns}
    # SQLite adds in 64 bits, which is nine million of a currency: it adds the halves.
    halves = {"sum_of": f"%(expressions)s %%%% {_HALF}", "high_of": f"%(expressions)s / {_HALF}"}
    return counts | {
        f"{half}_{column}": Sum(Func(F(column), template=template, output_field=BigIntegerField()))
        for column in columns
        for half, template in halves.items()
    }


def _totals(parts: Iterable[dict[str, Any]], ambiguous: int) -> dict[str, Any]:
    currency = get_settings().currency
    sums = Counter[str]()
    for part in parts:
        calls = part["calls"] * part["count"]
        priced = part["priced"] * part["count"] if part["currency"] == currency else 0
        if part["from_ledger"]:
            sums.update(served=calls, served_unpriced=calls - priced)
            sums.update(saved=_sum_of("cost", part) * part["count"] if priced else 0)
        else:
            sums.update(calls=part["calls"], unpriced=part["calls"] - priced, priced=priced)
            sums.update({name: _sum_of(name, part) for name in _TOKENS})
            sums.update(cost=_sum_of("cost", part) if priced else 0)
    return {
        "calls": sums["calls"],
        **{name: sums[name] for name in _TOKENS},
        "cost": as_money(sums["cost"]) if sums["priced"] else None,
        "unpriced": sums["unpriced"],
        "currency": currency,
        "served": sums["served"],
        "saved": as_money(sums["saved"]),
        "served_unpriced": sums["served_unpriced"],
        "ambiguous": ambiguous,
    }


def _sum_of(column: str, part: dict[str, Any]) -> int:
    return (part[f"sum_of_{column}"] or 0) + (part.get(f"high_of_{column}") or 0) * _HALF


def _call(row: dict[str, Any]) -> dict[str, Any]:
    if not row["from_ledger"]:
        return {**row, "saved": Decimal(0)}
    saved = None if row["cost"] is None else as_money(as_units(row["cost"]) * row["count"])
    return {**row, **dict.fromkeys(_TOKENS, 0), "cost": Decimal(0), "saved": saved}


def _check_aware(name: str, bound: object) -> None:
    if not isinstance(bound, datetime) or bound.utcoffset() is None:
        msg = f"{name} is {bound!r}, which is no time: give a datetime with a time zone."
        raise ValueError(msg)


def _id_of(workflow_id: WorkflowRun | UUID | str) -> UUID:
    if isinstance(workflow_id, WorkflowRun):
        return workflow_id.pk
    if isinstance(workflow_id, UUID):
        return workflow_id
    try:
        return UUID(workflow_id)
    except (AttributeError, TypeError, ValueError):
        msg = f"workflow_id is {workflow_id!r}, which is no id: give a run, its id or the text of that."
        raise ValueError(msg) from None
