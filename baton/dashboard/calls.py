"""Calls of language models as every page lists them, of which some nobody knows the outcome."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

from django.db.models import ExpressionWrapper, F, Q, Sum
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton import money
from baton.conf import get_settings
from baton.dashboard.shown import not_known
from baton.explain.words import between, clock, duration, number
from baton.llm import stats
from baton.models import LedgerEntry, StepStat
from baton.models.fields import MoneyField
from baton.states import EntryState, Resolution

_OF_ENTRIES = ("key", "model", "attempt", "started_at", "ended_at", "reserved", "resolution", "state", "fence")
_OF_THEIR_STEPS = {"step_name": F("node__name"), "node_state": F("node__state"), "now": F("node__fence")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call, or what an attempt took from the ledger instead, in words."""

    at: datetime
    step: str
    key: str
    attempt: int
    model: str
    outcome: str
    tokens_in: str
    """Empty where nothing was sent, and where nobody knows."""
    tokens_out: str
    took: str
    cost: str
    is_unpriced: bool
    """Whether no sum has it."""
    note: str
    paid: Decimal | None = None
    """What was paid for it, where that is known."""

    @property
    def when(self) -> str:
        """The time, with the date where it was another day."""
        return clock(self.at)

    @property
    def tokens(self) -> str:
        """Both counts in a line."""
        if not self.tokens_in:
            return ""
        return _("{tokens_in} in · {tokens_out} out").format(tokens_in=self.tokens_in, tokens_out=self.tokens_out)

    @classmethod
    def of(cls, call: Mapping[str, Any]) -> Self:
        """One of :func:`baton.llm.stats.steps_for_workflow`."""
        is_served, times = call["from_ledger"], call["count"]
        worth = call["saved"] if is_served else call["cost"]
        cost = money.amount(worth, call["currency"])
        return cls(
            at=call["at"],
            step=call["step_name"],
            key=call["key"],
            attempt=call["attempt"],
            model=call["model"] or not_known(),
            outcome=_served(times) if is_served else _("ok"),
            tokens_in="" if is_served else _tokens(call["input_tokens"]),
            tokens_out="" if is_served else _tokens(call["output_tokens"]),
            took="" if call["duration"] is None or is_served else duration(call["duration"]),
            cost=_("saved {amount}").format(amount=cost) if is_served else cost,
            is_unpriced=worth is None,
            note=call["unpriced_because"] if worth is None else "",
            paid=None if call["currency"] != get_settings().currency else call["cost"],
        )

    @classmethod
    def unknown(cls, call: Mapping[str, Any]) -> Self:
        """One of :func:`baton.llm.stats.unknown_outcomes`."""
        reserved, resolution = call["reserved"], call["resolution"]
        held = money.amount(reserved, get_settings().currency) if reserved else ""
        notes = [str(Resolution(resolution).label)] if resolution else []
        notes += [_("{amount} reserved").format(amount=held)] if held else []
        words = {"outcome": _("unknown outcome"), "cost": _("unknown"), "note": ", ".join(notes)}
        return cls._unpaid(call, **words, is_unpriced=True)

    @classmethod
    def open(cls, call: Mapping[str, Any]) -> Self:
        """One that goes on, or that failed without being paid for."""
        goes_on = call["state"] == EntryState.CALLING
        took = between(call["started_at"], timezone.now() if goes_on else call["ended_at"])
        outcome = str(EntryState(call["state"]).label)
        return cls._unpaid(call, outcome=outcome, took=took if goes_on or call["ended_at"] else "", cost=not_known())

    @classmethod
    def _unpaid(cls, call: Mapping[str, Any], **words: Any) -> Self:
        common = {"took": "", "note": "", "is_unpriced": False, "tokens_in": "", "tokens_out": ""}
        return cls(
            at=call["started_at"],
            step=call["step_name"],
            key=call["key"],
            attempt=call["attempt"],
            model=call["model"] or not_known(),
            **{**common, **words},
        )


def calls_of(run_id: UUID, *, node_id: int | None = None, most: int, has_unpaid: bool = True) -> list[Call]:
    """The newest calls of a run or a step in the order of their times, in at most two queries.

    Args:
        run_id: The run.
        node_id: Those of this step only.
        most: How many at most.
        has_unpaid: Whether there may be any that go on, failed, or are of unknown outcome.
    """
    found = [Call.of(each) for each in stats.steps_for_workflow(run_id, node_id=node_id, limit=most)]
    if has_unpaid:
        found += _unpaid(run_id, node_id, most)
    return sorted(found, key=lambda call: call.at)[-most:]


def _unpaid(run_id: UUID, node_id: int | None, most: int) -> Iterator[Call]:
    entries = LedgerEntry.objects.using(get_settings().database).filter(run_id=run_id, is_call=True)
    if node_id is not None:
        entries = entries.filter(node_id=node_id)
    unpaid = entries.exclude(state=EntryState.ANSWERED).order_by("-started_at", "-id")
    for each in unpaid.values(*_OF_ENTRIES, **_OF_THEIR_STEPS)[:most]:
        entry = LedgerEntry(state=each["state"], fence=each["fence"])
        is_unknown = entry.is_unknown(each["node_state"], each["now"])
        yield Call.unknown(each) if is_unknown else Call.open(each)


def cost_of(calls: Sequence[Call]) -> str:
    """What calls cost together, which says what it lacks; empty where there are none."""
    if not calls:
        return ""
    known = [call.paid for call in calls if call.paid is not None]
    lacks = sum(call.is_unpriced for call in calls)
    return money.total(sum(known, Decimal(0)) if known else None, lacks, get_settings().currency)


def saved_of(totals: Mapping[str, Any]) -> str:
    """What the ledger saved, which says what it lacks; empty where it served nothing."""
    if not totals["served"]:
        return ""
    saved = None if totals["served"] == totals["served_unpriced"] else totals["saved"]
    return money.total(saved, totals["served_unpriced"], totals["currency"])


def sums_of_calls() -> dict[str, Sum]:
    """What to add up of paid calls: ``spent``, None where none has a price, and ``lacks``, how many have none."""
    priced = Q(cost__isnull=False, currency=get_settings().currency)
    paid = ExpressionWrapper(F("cost") * F("count"), output_field=MoneyField())
    return {"spent": Sum(paid, filter=priced), "lacks": Sum("count", filter=~priced)}


def costs_of(
    keys: Collection[Any], *, using: str | None, by: str = "run_id", names: Collection[str] | None = None
) -> dict[Any, tuple[Decimal | None, int]]:
    """What the calls of each run or step cost, None where none has a price, and how many have none; in one query.

    Args:
        keys: The ids of runs or steps; those without calls are left out.
        using: The alias of the database.
        by: ``run_id`` or ``node_id``.
        names: Calls of steps of these names only.
    """
    if not keys:
        return {}
    calls = StepStat.objects.using(using).filter(**{f"{by}__in": list(keys)}, from_ledger=False).order_by()
    if names is not None:
        calls = calls.filter(step_name__in=list(names))
    rows = calls.values_list(by).annotate(**sums_of_calls())
    return {key: (spent, unpriced or 0) for key, spent, unpriced in rows}


def _served(times: int) -> str:
    text = ngettext("from ledger", "from ledger, {count} times", times)
    return text.format(count=number(times))


def _tokens(count: int | None) -> str:
    return _("not told") if count is None else number(count)
