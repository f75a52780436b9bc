"""The tab of steps: every step in a table, what needs somebody first; the text equivalent of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db.models import Case, F, IntegerField, Q, QuerySet, Value, When
from django.db.models.functions import Concat, Least, StrIndex, Substr
from django.db.models.lookups import IContains
from django.utils import timezone
from django.utils.translation import gettext as _

from baton import money
from baton.conf import get_settings
from baton.dashboard.calls import costs_of
from baton.dashboard.look import Look
from baton.dashboard.shown import WORST_FIRST, counted, not_known, whole, writable
from baton.explain.executions import error_class
from baton.explain.words import LINE_LENGTH, between, clock, first_line, number
from baton.models import WorkflowNode
from baton.states import StepState

PAGE = 100
MOST = 500
"""How many rows a page has at most, however often more were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A state that can be shown or hidden."""

    state: str
    label: str
    is_on: bool
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsTab:
    """What the tab shows."""

    chips: list[Chip]
    rows: list[dict[str, Any]]
    shown: str
    """How many of how many are shown, in words."""
    has_costs: bool
    search: str
    states: str
    """Those that somebody chose, as the address has them."""
    more: str
    """The address of the page with a hundred more rows; empty where there are none."""
    is_filtered: bool
    clear: str


def shown(look: Look) -> StepsTab:
    """Read a page of steps."""
    nodes = WorkflowNode.objects.using(look.using).of_workflow(look.run.pk)
    counts = look.known.states
    present = [state for state in WORST_FIRST if counts.get(state)]
    asked = [state for state in look.params.get("states", "").split(",") if state in StepState.values]
    search = look.params.get("q", "").replace("\0", "")
    # What somebody looks for by name may have completed.
    usual = [state for state in present if search or state != "completed"] or present
    states = asked or usual
    limit = min(MOST, max(PAGE, whole(look.params.get("n")) or 0))
    found = _found(nodes.filter(state__in=states), search, look)
    rows = list(found[: limit + 1])
    has_more, rows = len(rows) > limit, rows[:limit]
    costs = costs_of([node.pk for node in rows], using=look.using, by="node_id") if look.known.called else {}
    return StepsTab(
        chips=[_chip(look, state, counts[state], states, present) for state in present],
        rows=[_row(look, node, costs.get(node.pk)) for node in rows],
        shown=_shown(len(rows), look.known.steps, present),
        has_costs=look.known.called,
        search=search,
        states=",".join(asked),
        more=look.address(n=str(limit + PAGE)) if has_more and limit < MOST else "",
        is_filtered=bool(asked or search),
        clear=look.address(states="", q="", n=""),
    )


def of_error(look: Look, text: str) -> Q:
    """Steps with a text in their error: in as much of it as the reader may see, or searching would tell the rest."""
    if look.may_see_values:
        return Q(error__icontains=text)
    # As `first_line` of baton.explain.words.
    ends = StrIndex(Concat("error", Value("\n")), Value("\n"))
    return Q(IContains(Substr("error", 1, Least(ends - 1, LINE_LENGTH)), text))


def _found(nodes: QuerySet[WorkflowNode], search: str, look: Look) -> QuerySet[WorkflowNode]:
    whens = [When(state=state, then=Value(place)) for place, state in enumerate(WORST_FIRST)]
    if search:
        nodes = nodes.filter(Q(name__icontains=search) | of_error(look, search) | Q(worker__icontains=search))
    # The ids follow the order of the graph, in which the children of a fan-out stand in their order.
    order = (Case(*whens, output_field=IntegerField()), F("id"))
    return nodes.order_by(*order).defer("args", "refs", "result_json", "attempt_log")


def _shown(count: int, total: int, present: Sequence[str]) -> str:
    words = _("{count} of {total} shown, {state} first.") if len(present) > 1 else _("{count} of {total} shown.")
    state = StepState(present[0]).label if present else ""
    return words.format(count=number(count), total=number(total), state=state)


def _row(look: Look, node: WorkflowNode, paid: tuple[Decimal | None, int] | None) -> dict[str, Any]:
    queued, ran = times_of(node)
    cost, unpriced = paid or (None, 0)
    return {
        "node": node,
        "address": look.address(step=node.name),
        "state": str(node.state),
        "label": node.get_state_display(),
        "now": now_of(node),
        "queued": queued,
        "ran": ran,
        "tried": tried_of(node),
        "cost": money.total(cost, unpriced, get_settings().currency) if paid else not_known(),
        "is_unpriced": bool(unpriced),
    }


def tried_of(node: WorkflowNode) -> str:
    """In which attempt it is, of how many."""
    return _("{attempt} of {most}").format(attempt=number(node.attempt), most=number(node.max_attempts))


def times_of(node: WorkflowNode) -> tuple[str, str]:
    """How long it waited for a worker and how long it has run, in words; nothing where it has not."""
    has_run = node.started_at is not None and node.state in ("executing", "completed", "discarded", "cancelled")
    if not has_run:
        return "", ""
    queued = node.queued_at is not None and node.started_at is not None and node.started_at >= node.queued_at
    ran = between(node.started_at, node.settled_at or timezone.now())
    return (between(node.queued_at, node.started_at) if queued else ""), ran


def now_of(node: WorkflowNode) -> str:
    """In a few words why it is where it is."""
    match str(node.state):
        case "discarded" | "cancelled":
            now = first_line(node.error)
        case "retryable":
            error = error_class(node.error) or first_line(node.error)
            now = _("{error}, again at {time}").format(error=error, time=clock(node.due_at)).removeprefix(", ")
        case "pending":
            now = _("waits for {count} of {total}").format(count=number(node.remaining), total=number(node.n_deps))
        case "available":
            now = _("waits for a worker of {queue}").format(queue=node.queue)
        case "executing":
            on = _("on {worker}").format(worker=node.worker)
            now = ", ".join(part for part in (on, progress_of(node)) if part)
        case "snoozed" if node.due_at is None:
            now = _("held")
        case "snoozed" if node.due_at == node.not_before:
            now = _("not before {time}, as inserted").format(time=clock(node.due_at))
        case "snoozed":
            now = _("until {time}, asked by the step").format(time=clock(node.due_at))
        case _:
            now = ""
    return now


def progress_of(node: WorkflowNode) -> str:
    """What it says of its own progress; empty where it says nothing."""
    if not isinstance(node.progress, dict):
        return ""
    current, total, message = (node.progress.get(key) for key in ("current", "total", "message"))
    shown = _figure(current) if total is None else _("{current} of {total}").format(current=current, total=total)
    return writable(f"{first_line(str(message or ''))} {first_line(shown)}".strip())


def _figure(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _chip(look: Look, state: str, count: int, states: list[str], present: list[str]) -> Chip:
    is_on = state in states
    others = [each for each in present if (each in states) != (each == state)]
    return Chip(
        state=state,
        label=counted(state, count),
        is_on=is_on,
        address=look.address(states=",".join(others or present), n=""),
    )
