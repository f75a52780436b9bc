"""What runs of a workflow usually take and cost: medians of those that completed at the first go."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from statistics import median
from typing import Any

from django.core.cache import cache
from django.db.models import Max, Min
from django.utils.translation import ngettext

from baton.conf import get_settings
from baton.dashboard.calls import costs_of
from baton.explain.words import number
from baton.models import WorkflowNode, WorkflowRun
from baton.states import RunState, StepState

LEAST_RUNS = 5
"""Of fewer runs nothing is said."""
_NEWEST_RUNS = 200
_RUNS_OF_A_PART = 50
_RUNS_OF_STEPS = 20
_MOST_STEPS = 2_000
_MOST_NAMES = 200
_KEPT_SECONDS = 300
_EDITION = 1
"""To be raised when what is kept has other fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What runs of a workflow, or a part of them, usually take and cost; None where too few are known."""

    runs: int = 0
    """How many are known."""
    seconds: float | None = None
    costed: int = 0
    """Of how many of them every call has a price."""
    cost: Decimal | None = None
    steps: dict[str, float] = field(default_factory=dict)
    """Under how many seconds four of five executions of a function took, where at least five are known."""

    @property
    def basis(self) -> str:
        """What the time is a median of, in words."""
        return _basis(self.runs)

    @property
    def basis_of_cost(self) -> str:
        """What the cost is a median of, in words."""
        return _basis(self.costed)

    def end_of(self, run: WorkflowRun) -> datetime | None:
        """When a run that goes on ends as usual; nothing where it is run again, or has taken longer already."""
        if self.seconds is None or run.is_settled or run.round > 1:
            return None
        return run.inserted_at + timedelta(seconds=self.seconds)

    def cost_at_end_of(self, run: WorkflowRun, totals: Mapping[str, Any]) -> Decimal | None:
        """What a run that goes on costs at the end as usual; nothing where its own cost is not known, or is more."""
        if run.is_settled or not self.cost or totals["unpriced"] or totals["ambiguous"]:
            return None
        return None if self.cost < (totals["cost"] or 0) else self.cost


def usual_of(run: WorkflowRun) -> Usual:
    """What runs of that name take and cost, in three queries; in one where too few are known."""
    took = _earlier(run, _NEWEST_RUNS)
    if len(took) < LEAST_RUNS:
        return _usual(took, {})
    usual = _usual(took, costs_of(took, using=_alias(run)))
    return replace(usual, steps=_most_take(list(took)[:_RUNS_OF_STEPS], _alias(run)))


def usual_kept(run: WorkflowRun) -> Usual:
    """The same as it was five minutes ago at most, from Django's cache."""
    words = repr((_EDITION, _alias(run), get_settings().currency, run.name))
    key = "baton-usual-" + blake2b(words.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
    found = None
    # A cache that is down, or that holds what another version wrote, is no reason to show nothing.
    with suppress(Exception):
        found = cache.get(key)
    if isinstance(found, Usual):
        return found
    usual = usual_of(run)
    with suppress(Exception):
        cache.set(key, usual, _KEPT_SECONDS)
    return usual


def usual_part(run: WorkflowRun, names: Collection[str]) -> Usual | None:
    """What these steps took and cost in runs of that name, in three queries; None where they are too many."""
    if len(names) > _MOST_NAMES:
        return None
    using = _alias(run)
    earlier = _earlier(run, _RUNS_OF_A_PART)
    if len(earlier) < LEAST_RUNS:
        return Usual(runs=len(earlier))
    nodes = WorkflowNode.objects.using(using).filter(run__in=list(earlier), name__in=list(names)).order_by()
    ends: Any = nodes.values_list("run_id").annotate(first=Min("started_at"), last=Max("settled_at"))
    took = {run_id: (last - first).total_seconds() for run_id, first, last in ends if first and last}
    return _usual(took, costs_of(took, using=using, names=names))


def _most_take(runs: list[Any], using: str) -> dict[str, float]:
    """Under how many seconds four of five completed executions of each function took in these runs."""
    nodes = WorkflowNode.objects.using(using).filter(run__in=runs, state=StepState.COMPLETED, started_at__isnull=False)
    found: dict[str, list[float]] = {}
    for step, started, settled in nodes.order_by().values_list("step", "started_at", "settled_at")[:_MOST_STEPS]:
        if started is not None and settled is not None:
            found.setdefault(step, []).append((settled - started).total_seconds())
    return {
        step: sorted(seconds)[len(seconds) * 4 // 5 - 1]
        for step, seconds in found.items()
        if len(seconds) >= LEAST_RUNS
    }


def _usual(took: dict[Any, float], costs: dict[Any, tuple[Decimal | None, int]]) -> Usual:
    """Medians; a run without calls cost nothing, unless none had any."""
    known = [cost or Decimal(0) for cost, unpriced in (costs.get(each, (None, 0)) for each in took) if not unpriced]
    has_cost = bool(costs) and len(known) >= LEAST_RUNS
    return Usual(
        runs=len(took),
        seconds=median(took.values()) if len(took) >= LEAST_RUNS else None,
        costed=len(known),
        cost=median(known) if has_cost else None,
    )


def _earlier(run: WorkflowRun, most: int) -> dict[Any, float]:
    """How many seconds the newest runs of that name took that completed and were not run again."""
    runs = WorkflowRun.objects.using(_alias(run)).filter(name=run.name).exclude(pk=run.pk)
    newest = runs.order_by("-inserted_at", "-id").values_list("id", "state", "round", "inserted_at", "finished_at")
    return {
        run_id: (finished - inserted).total_seconds()
        for run_id, state, round_, inserted, finished in newest[:most]
        if state == RunState.COMPLETED and round_ == 1 and finished is not None
    }


def _basis(runs: int) -> str:
    text = ngettext("median of {count} earlier run", "median of {count} earlier runs", runs)
    return text.format(count=number(runs))


def _alias(run: WorkflowRun) -> str:
    return run._state.db or get_settings().database  # noqa: SLF001 - its own alias
