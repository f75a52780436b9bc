"""What is read of a run once, for its head, its tabs and its panel alike: three queries at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db.models import Count, Exists, Max, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Now

from baton.conf import get_settings
from baton.engine.accounts import run_account
from baton.explain.runs import counting
from baton.llm import stats
from baton.models import BudgetAccount, DebugLog, Hold, StepStat, WorkflowNode, WorkflowRun
from baton.states import HoldKind, StepState

_BESIDE = ("now", "called", "unknown", "captured", "held", "asks", "spent", "reserved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a run."""

    now: datetime
    """The database's time of reading."""
    counted: Sequence[tuple[Any, ...]]
    """Its steps by state and queue, as headlines want them."""
    states: dict[str, int]
    steps: int
    last: int | None
    """The highest id of its steps: with their number it tells whether the run has grown."""
    edges: int
    attempts: int
    retried: int
    totals: dict[str, Any]
    """What its calls cost."""
    has_captured: bool
    """Whether requests were kept."""
    is_held: bool
    """Whether a step of it waits for a person or for money."""
    spent: Decimal
    reserved: Decimal
    """What of its budget is spent and reserved."""

    @property
    def called(self) -> bool:
        """Whether it called language models, as far as anybody knows."""
        return bool(self.totals["calls"] or self.totals["served"] or self.totals["ambiguous"])


def with_known(runs: QuerySet[WorkflowRun], run_id: Any) -> QuerySet[WorkflowRun]:
    """The query of one run, which then also reads what :func:`known_of` would have to ask for."""
    using = get_settings().database
    mine = {"run_id": OuterRef("pk")}
    unknown = stats.unknown_calls().filter(**mine).values("run_id").annotate(count=Count("id")).values("count")
    asks = Hold.objects.using(using).filter(**mine, kind=HoldKind.QUESTION).order_by("since", "node_id")
    account = BudgetAccount.objects.using(using).filter(pk=run_account(run_id))
    read = {
        "now": Now(),
        "called": Exists(StepStat.objects.using(using).filter(**mine).order_by()),
        "unknown": Subquery(unknown),
        "captured": Exists(DebugLog.objects.using(using).filter(**mine).order_by()),
        "held": Exists(Hold.objects.using(using).filter(**mine).order_by()),
        "asks": Subquery(asks.values("node__name")[:1]),
        "spent": Subquery(account.values("spent")),
        "reserved": Subquery(account.values("reserved")),
    }
    return runs.filter(pk=run_id).annotate(**{f"beside_{name}": read[name] for name in _BESIDE})


def step_that_asks(run: WorkflowRun) -> str:
    """The step of a run, read by :func:`with_known`, that has waited longest for a person's word; empty for none."""
    return vars(run).get("beside_asks") or ""


def known_of(run: WorkflowRun) -> Known:
    """Read what is to be known of a run."""
    using = run._state.db or get_settings().database  # noqa: SLF001 - its own alias
    beside = _beside(run, using)
    nodes = WorkflowNode.objects.using(using).of_workflow(run.pk).order_by()
    rows = nodes.values_list("state", "queue").annotate(
        **counting(beside["now"]),
        tried=Sum("attempt"),
        tried_again=Count("id", filter=Q(attempt__gt=1)),
        last=Max("id"),
        edges=Sum("n_deps"),
    )
    found = list(rows)
    states: Counter[str] = Counter()
    for state, _queue, count, *_rest in found:
        states[str(StepState(state))] += count
    unknown = beside["unknown"] or 0
    return Known(
        now=beside["now"],
        counted=[row[:9] for row in found],
        states=dict(states),
        steps=sum(states.values()),
        attempts=sum(row[9] for row in found),
        retried=sum(row[10] for row in found),
        last=max((row[11] for row in found), default=None),
        edges=sum(row[12] for row in found),
        totals=stats.totals_beside(run.pk, unknown) if beside["called"] else stats.no_totals(unknown),
        has_captured=beside["captured"],
        is_held=beside["held"],
        spent=beside["spent"] or Decimal(0),
        reserved=beside["reserved"] or Decimal(0),
    )


def _beside(run: WorkflowRun, using: str) -> dict[str, Any]:
    """What was read with the run, or what one query reads now."""
    names = [f"beside_{name}" for name in _BESIDE]
    kept = vars(run)
    if all(name in kept for name in names):
        values = [kept[name] for name in names]
    else:
        values = with_known(WorkflowRun.objects.using(using).order_by(), run.pk).values_list(*names).get()
    return dict(zip(_BESIDE, values, strict=True))
