"""What a cancel or a re-run of a run would do: shown before anybody says yes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db.models import Count, Q, QuerySet, Sum
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton import money
from baton.conf import get_settings
from baton.dashboard.estimates import usual_of, usual_part
from baton.dashboard.shown import counted, not_known, shape, steps
from baton.engine.retry import RetryPlan
from baton.explain.words import between, duration, listed, number
from baton.llm import stats
from baton.models import StepStat, WorkflowNode, WorkflowRun
from baton.models.node import WorkflowNodeQuerySet
from baton.states import StepState

MOST_NAMED = 12
"""How many steps a list names."""
MOST_MARKED = 500
"""How many steps the graph behind a preview is told of; of more it marks none."""
_STOPS_FIRST = ("executing", "retryable", "snoozed", "available", "pending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A step in a list."""

    name: str
    state: str
    label: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Some of the steps that something happens to."""

    title: str
    rows: list[Row]
    more: str
    """How many are not named, in words; empty where all are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What it takes or costs."""

    name: str
    value: str
    note: str = ""
    is_unknown: bool = False
    """Whether something of it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What happens to one run."""

    title: str
    sentence: str
    button: str
    keep: str
    """The words of the link that changes nothing."""
    shape: str
    """The shape and colour of the run's state."""
    lists: list[Listing]
    facts: list[Fact]
    notes: list[str]
    names: str
    """The names of the steps concerned, as JSON, for the graph behind; an empty list where they are too many."""


def rerun_of(run: WorkflowRun, plan: RetryPlan, *, sentence: str, from_step: str, has_answers: bool) -> Preview:
    """What a re-run would do.

    Args:
        run: The run, settled.
        plan: What runs again.
        sentence: The same in numbers.
        from_step: The step it begins with; empty for all that failed.
        has_answers: Whether language models have answered in the run.
    """
    nodes = _nodes(run)
    again = _listing(nodes, plan.reruns, _("Runs again"), _last_time)
    kept = _listing(nodes, plan.keeps, _("Keeps its result"), lambda node: "")
    if any(row.state != StepState.COMPLETED for row in kept.rows):
        kept = Listing(title=_("Stays as it is"), rows=kept.rows, more=kept.more)
    facts = [*_estimates(run, plan), _cost_of(run, set(plan.reruns))]
    facts.append(Fact(name=_("Attempts"), value=_("start again at 1")))
    notes = [_("Whoever follows the run hears of its end once more.")]
    if has_answers:
        notes.append(_("Answers of language models that are paid for are kept and not paid again."))
    return Preview(
        title=_("Re-run from {step}").format(step=from_step) if from_step else _("Retry the failed part"),
        sentence=sentence,
        button=_("Re-run {steps}").format(steps=steps(len(plan.reruns))),
        keep=_("Keep as it is"),
        shape=shape(str(run.state)),
        lists=[again, kept] if plan.keeps else [again],
        facts=facts,
        notes=notes,
        names=_marked(plan.reruns),
    )


def cancel_of(run: WorkflowRun) -> Preview:
    """What a cancel would do."""
    nodes = _nodes(run)
    counts = dict(nodes.order_by().values_list("state").annotate(Count("id")))
    stops = [state for state in _STOPS_FIRST if counts.get(state)]
    finished = [state for state in ("completed", "discarded", "cancelled") if counts.get(state)]
    number_stopped, number_finished = sum(counts[each] for each in stops), sum(counts[each] for each in finished)
    lists = [_of_states(nodes, stops, _("Stops"), number_stopped)]
    if finished:
        lists.append(_of_states(nodes, finished, _("Is finished"), number_finished))
    notes = []
    if running := counts.get("executing", 0):
        text = ngettext(
            "The step that executes now is told; what it returns is dropped.",
            "The {count} steps that execute now are told; what they return is dropped.",
            running,
        )
        notes.append(text.format(count=number(running)))
    notes.append(_("Finished steps keep their results, and the run can be retried."))
    return Preview(
        title=_("Cancel {run}").format(run=run.name),
        sentence=_cancel_sentence([counted(each, counts[each]) for each in stops], number_stopped, number_finished),
        button=_("Cancel run"),
        keep=_("Let it run"),
        shape=shape(str(run.state)),
        lists=lists,
        facts=[Fact(name=_("Running for"), value=_since(run.inserted_at)), _spent(run)],
        notes=notes,
        names=_marked(list(nodes.unsettled().order_by("id").values_list("name", flat=True)[: MOST_MARKED + 1])),
    )


def _cancel_sentence(stops: Sequence[str], stopped: int, finished: int) -> str:
    cancelled = ngettext("{count} step is cancelled.", "{count} steps are cancelled.", stopped)
    parts = [cancelled.format(count=number(stopped))]
    if stops:
        parts.append(_("Now: {states}.").format(states=listed(stops)))
    if finished:
        ends = ngettext("{count} is finished and stays so.", "{count} are finished and stay so.", finished)
        parts.append(ends.format(count=number(finished)))
    return " ".join(parts)


# Lists ----------------------------------------------------------------------------------------------------------------


def _marked(names: Sequence[str]) -> str:
    return json.dumps([] if len(names) > MOST_MARKED else list(names))


def _nodes(run: WorkflowRun) -> WorkflowNodeQuerySet:
    using = run._state.db  # noqa: SLF001 - its own alias
    return WorkflowNode.objects.using(using).of_workflow(run.pk)


def _listing(
    nodes: QuerySet[WorkflowNode], names: Sequence[str], title: str, note: Callable[[WorkflowNode], str]
) -> Listing:
    shown = names[:MOST_NAMED]
    found = {node.name: node for node in _lean(nodes.filter(name__in=shown))}
    rows = [_row(found[name], note(found[name])) for name in shown if name in found]
    return Listing(title=title, rows=rows, more=_more(len(names) - len(shown)))


def _of_states(nodes: QuerySet[WorkflowNode], states: Sequence[str], title: str, total: int) -> Listing:
    """The first steps of the states, the states in their order; a query for each that has room."""
    rows: list[Row] = []
    for state in states:
        if len(rows) < MOST_NAMED:
            found = _lean(nodes.filter(state=state).order_by("id"))[: MOST_NAMED - len(rows)]
            rows += [_row(node, _now(node)) for node in found]
    return Listing(title=title, rows=rows, more=_more(total - len(rows)))


def _lean(nodes: QuerySet[WorkflowNode]) -> QuerySet[WorkflowNode]:
    return nodes.only("id", "name", "state", "started_at", "settled_at")


def _row(node: WorkflowNode, note: str) -> Row:
    return Row(name=node.name, state=str(node.state), label=str(node.get_state_display()), note=note)


def _more(count: int) -> str:
    return _("and {count} more").format(count=number(count)) if count > 0 else ""


def _last_time(node: WorkflowNode) -> str:
    if node.started_at is None or node.settled_at is None or node.settled_at < node.started_at:
        return _("never ran") if node.started_at is None else ""
    return _("last time {time}").format(time=between(node.started_at, node.settled_at))


def _now(node: WorkflowNode) -> str:
    label = str(node.get_state_display())
    if node.state == StepState.EXECUTING and node.started_at is not None:
        return _("{state} for {time}").format(state=label, time=_since(node.started_at))
    return label


def _since(moment: datetime) -> str:
    return between(moment, timezone.now())


# Time and money -------------------------------------------------------------------------------------------------------


def _estimates(run: WorkflowRun, plan: RetryPlan) -> list[Fact]:
    """About how long and how much, by runs in which the same steps ran; of too many steps by whole runs."""
    part = usual_part(run, plan.reruns)
    usual = usual_of(run) if part is None else part
    whole = _("A whole run takes"), _("A whole run costs")
    takes, costs = whole if part is None and plan.keeps else (_("Takes"), _("Costs"))
    facts = []
    if usual.seconds is not None:
        value = _("about {time}").format(time=duration(usual.seconds))
        facts.append(Fact(name=takes, value=value, note=usual.basis))
    if usual.cost is not None:
        value = _("about {amount}").format(amount=money.amount(usual.cost, get_settings().currency))
        note = _("{basis}, if all answers are new").format(basis=usual.basis_of_cost)
        facts.append(Fact(name=costs, value=value, note=note))
    return facts


def _cost_of(run: WorkflowRun, names: set[str]) -> Fact:
    """What the steps that run again have cost until now."""
    currency = get_settings().currency
    priced = Q(cost__isnull=False, currency=currency)
    calls = StepStat.objects.using(run._state.db).filter(run=run.pk, from_ledger=False).order_by()  # noqa: SLF001
    sums = {"paid": Sum("cost", filter=priced), "all": Count("id"), "lacks": Count("id", filter=~priced)}
    rows: Any = calls.values("step_name").annotate(**sums)  # what is summed is no column
    found = [row for row in rows if row["step_name"] in names]
    paid = [row["paid"] for row in found if row["paid"] is not None]
    return _money(
        _("They have cost"),
        sum(paid, Decimal(0)) if paid else None,
        calls=sum(row["all"] for row in found),
        unpriced=sum(row["lacks"] for row in found),
        unknown=sum(call["step_name"] in names for call in stats.unknown_outcomes(run.pk)),
    )


def _spent(run: WorkflowRun) -> Fact:
    totals = stats.workflow_totals(run.pk)
    return _money(
        _("Spent"),
        totals["cost"],
        calls=totals["calls"],
        unpriced=totals["unpriced"],
        unknown=totals["ambiguous"],
    )


def _money(name: str, cost: Decimal | None, *, calls: int, unpriced: int, unknown: int) -> Fact:
    if not calls and not unknown:
        return Fact(name=name, value=not_known(), note=_("no call of a language model"))
    lacks = []
    if unpriced:
        lacks.append(_("{count} unpriced").format(count=number(unpriced)))
    if unknown:
        lacks.append(_("{count} of unknown outcome").format(count=number(unknown)))
    value = not_known() if cost is None else money.amount(cost, get_settings().currency)
    note = _("+ {lacks}").format(lacks=listed(lacks)) if lacks else ""
    return Fact(name=name, value=value, note=note, is_unknown=bool(lacks))
