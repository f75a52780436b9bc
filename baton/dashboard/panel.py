"""The panel of a step: why it is where it is, what it waits for, what it was given and what it gave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton.dashboard.calls import Call, calls_of, cost_of
from baton.dashboard.look import Look
from baton.dashboard.shown import admin_address, not_known, permission_name, writable
from baton.dashboard.steps_tab import progress_of
from baton.explain.executions import error_class
from baton.explain.steps import explain_marked
from baton.explain.words import between, clock, duration, number, paragraph, parts
from baton.llm import capture
from baton.models import WorkflowEdge, WorkflowNode
from baton.states import AttemptOutcome, StepState

MOST_CHARACTERS = 4_000
"""How much of a value is shown before somebody asks for all of it."""
_PRETTY_UP_TO = 200_000
_MOST_CALLS = 20
_MOST_NEIGHBOURS = 12
_OPENS = {
    "discarded": frozenset({"error", "attempts"}),
    "retryable": frozenset({"error", "attempts"}),
    "cancelled": frozenset({"error"}),
    "snoozed": frozenset({"attempts"}),
    "executing": frozenset({"calls", "logs"}),
    "completed": frozenset({"result"}),
}
_SHAPES = {"failed": "discarded", "timed_out": "discarded", "worker_lost": "warning"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A step that this one waits for, or that waits for it."""

    name: str
    state: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value as JSON that can be read."""

    text: str
    size: str
    """How much all of it is, in words."""
    more: str = ""
    """Where all of it is shown; empty where it is."""
    less: str = ""
    """Where less of it is shown, after somebody asked for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An execution, or how long the step slept between two."""

    number: str
    shape: str
    ended: str
    """How it ended, in a few words."""
    error: str
    """All that is known of that, where it is more."""
    queued: str
    ran: str
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What the panel of a step shows."""

    node: WorkflowNode
    state: str
    state_label: str
    why: list[tuple[str, str]]
    """Why it is where it is, in pieces, each with whether it is what the sentence is about."""
    facts: list[tuple[str, str]]
    needs: list[Neighbour]
    needs_more: int
    then: list[Neighbour]
    then_more: int
    error: str
    attempts: list[Attempt]
    executions: str
    """How many there were."""
    calls: list[Call]
    debug_logs: list[dict[str, Any]]
    logs: list[dict[str, Any]]
    args: Value | None
    result: Value | None
    opens: frozenset[str]
    """Which sections answer the state, or what was asked for."""
    needed: list[str]
    """What somebody lacks who sees less than there is."""
    close: str
    """The address without the panel."""
    page: str
    """The address of the step's own page."""
    rerun: str
    """Where a re-run from this step is asked for; empty while the run goes on, and for who may not act."""


def panel_of(look: Look, node: WorkflowNode) -> Panel:
    """Read what the panel of a step shows."""
    known = look.known
    needs, then = _beside(look, node)
    sees, has_logs = look.may_see_values, look.may_see_prompts and known.has_captured
    logs = capture.entries(look.run, node.name)[-_MOST_CALLS:] if has_logs else []
    calls: list[Call] = []
    if look.may_see_calls and known.called:
        has_unpaid = node.state == StepState.EXECUTING or bool(known.totals["ambiguous"])
        calls = calls_of(look.run.pk, node_id=node.pk, most=_MOST_CALLS, has_unpaid=has_unpaid)
    return Panel(
        node=node,
        state=str(node.state),
        state_label=str(node.get_state_display()),
        why=parts(paragraph(explain_marked(node, now=known.now, run=look.run), _as_usual(look, node))),
        facts=_facts(node, calls),
        needs=needs,
        needs_more=max(0, node.n_deps - _MOST_NEIGHBOURS),
        then=then,
        then_more=max(0, node.n_out - _MOST_NEIGHBOURS),
        error=node.error or "" if sees and node.state != "completed" else "",
        attempts=_attempts(node, sees=sees),
        executions=number(sum(each["outcome"] != AttemptOutcome.SNOOZED for each in node.attempts)),
        calls=calls,
        debug_logs=[_debug_log(look, each) for each in logs],
        logs=[
            {**line, "at": parse_datetime(line.get("at") or "")}
            for line in (node.logs if sees and node.attempt else ())
        ],
        args=_value(look, "args", _pretty(node.args)) if sees and node.args else None,
        result=_stored(look, node.result_json) if sees and node.has_result else None,
        opens=_OPENS.get(str(node.state), frozenset()) | {look.params.get("whole", "")},
        needed=_needed(look, node),
        close=look.without_panel,
        page=admin_address("workflownode_change", node.pk),
        rerun=_rerun(look, node),
    )


def _as_usual(look: Look, node: WorkflowNode) -> str:
    """How long such a step usually runs, of one that does."""
    seconds = look.usual.steps.get(node.step) if node.state == StepState.EXECUTING else None
    if seconds is None:
        return ""
    return _("80 % of its past runs took at most {time}.").format(time=duration(seconds))


def _needed(look: Look, node: WorkflowNode) -> list[str]:
    """Which permissions would show more of this step, and what."""
    lacks = []
    if not look.may_see_values and (node.args or node.has_result or node.error or node.attempt):
        lacks.append((_("Arguments, result, error and logs"), "view_workflownode"))
    if not look.may_see_calls and look.known.called:
        lacks.append((_("Calls of language models"), "view_stepstat"))
    if not look.may_see_prompts and look.known.has_captured:
        lacks.append((_("Captured prompts"), "view_debuglog"))
    words = _("{what} need the permission “{permission}”.")
    return [words.format(what=what, permission=permission_name(codename)) for what, codename in lacks]


def _rerun(look: Look, node: WorkflowNode) -> str:
    if not (look.may_act and look.run.is_settled):
        return ""
    words = urlencode({"from_step": node.name}, quote_via=quote)
    return f"{reverse('admin:baton_workflowrun_retry', args=[look.run.pk])}?{words}"


def _facts(node: WorkflowNode, calls: Sequence[Call]) -> list[tuple[str, str]]:
    facts = [(_("Queue"), _queue(node))]
    if node.attempt:
        facts.append((_("Attempt"), _("{attempt} of {most}").format(attempt=node.attempt, most=node.max_attempts)))
    if node.started_at is not None and node.state not in ("pending", "available", "snoozed", "retryable"):
        facts.append((_("Ran"), between(node.started_at, node.settled_at or timezone.now())))
    if node.worker:
        facts.append((_("Worker"), node.worker))
    if progress := progress_of(node):
        facts.append((_("Progress"), progress))
    if model := node.options.get("model"):
        facts.append((_("Model"), str(model)))
    if calls and len(calls) < _MOST_CALLS:
        cost = cost_of(calls)
        facts.append((_("Cost"), cost if node.settled_at else _("{cost} so far").format(cost=cost)))
    if node.due_at is not None:
        facts.append((_("Due"), clock(node.due_at)))
    return facts


def _queue(node: WorkflowNode) -> str:
    if node.queued_at is None or node.started_at is None or node.started_at < node.queued_at:
        return node.queue
    return _("{queue}, waited {time}").format(queue=node.queue, time=between(node.queued_at, node.started_at))


def _beside(look: Look, node: WorkflowNode) -> tuple[list[Neighbour], list[Neighbour]]:
    """What it waits for, and what waits for it: in one query where they are few."""
    if max(node.n_deps, node.n_out) > _MOST_NEIGHBOURS:
        nodes = WorkflowNode.objects.using(look.using).of_workflow(look.run.pk)
        needs = _neighbours(look, nodes.filter(edges_out__node_id=node.pk)) if node.n_deps else []
        return needs, _neighbours(look, nodes.filter(edges_in__dependency_id=node.pk)) if node.n_out else []
    edges = WorkflowEdge.objects.using(look.using).filter(Q(node=node.pk) | Q(dependency=node.pk)).order_by()
    ends = ("dependency_id", "dependency__name", "dependency__state", "node_id", "node__name", "node__state")
    found = {(row[:3], row[3:]) for row in edges.values_list(*ends)} if node.n_deps or node.n_out else set()
    needs = [_neighbour(look, *source[1:]) for source, target in sorted(found) if target[0] == node.pk]
    return needs, [_neighbour(look, *target[1:]) for source, target in sorted(found) if source[0] == node.pk]


def _neighbour(look: Look, name: str, state: str) -> Neighbour:
    return Neighbour(name=name, state=str(state), address=look.address(step=name, whole=""))


def _neighbours(look: Look, rows: QuerySet[WorkflowNode]) -> list[Neighbour]:
    found = rows.order_by("id").values_list("name", "state")[:_MOST_NEIGHBOURS]
    return [_neighbour(look, name, state) for name, state in found]


def _attempts(node: WorkflowNode, *, sees: bool) -> list[Attempt]:
    """The executions, the newest first; where the step slept in between stands how long."""
    entries = node.attempts
    following = [*(parse_datetime(each["queued_at"] or each["started_at"] or "") for each in entries[1:]), node.due_at]
    rows = [_attempt(entry, until, sees=sees) for entry, until in zip(entries, following, strict=False)]
    return rows[::-1]


def _attempt(entry: dict[str, Any], until: datetime | None, *, sees: bool) -> Attempt:
    queued, started, ended = (parse_datetime(entry[key] or "") for key in ("queued_at", "started_at", "ended_at"))
    outcome, times = str(entry["outcome"] or "executing"), entry["count"] or 1
    label = str(AttemptOutcome(outcome).label) if outcome in AttemptOutcome.values else _("executing")
    error = entry["error"] or "" if sees else ""
    if outcome == AttemptOutcome.SNOOZED:
        slept = between(started if times > 1 else ended, until) if until is not None else ""
        words = ngettext("{label} {time}", "{label} {count} times, {time} in all", times)
        ends = words.format(label=label, count=number(times), time=slept).strip(" ,")
        return Attempt(number=not_known(), shape=outcome, ended=ends, error="", queued="", ran="", worker="")
    short = error_class(error) or label
    return Attempt(
        number=number(entry["number"]),
        shape=_SHAPES.get(outcome, outcome),
        ended=short if outcome == AttemptOutcome.FAILED else label,
        error=error,
        queued=between(queued, started) if queued and started and started >= queued else "",
        ran=between(started, ended or timezone.now()) if started else "",
        worker=entry["worker"] or "",
    )


def _debug_log(look: Look, entry: dict[str, Any]) -> dict[str, Any]:
    shown = {part: _part(look, entry[part]) for part in ("request", "response", "upstream")}
    took = "" if entry["duration"] is None else duration(entry["duration"])
    return {"model": entry["model"], "key": entry["key"], "took": took, "at": entry["created_at"], **shown}


def _part(look: Look, value: Any) -> Value | None:
    if value is None:
        return None
    return _value(look, "captured", value if isinstance(value, str) else _pretty(value))


def _stored(look: Look, text: str | None) -> Value | None:
    if text is None:
        return None
    most = _PRETTY_UP_TO if look.params.get("whole") == "result" else 10 * MOST_CHARACTERS
    return _value(look, "result", text if len(text) > most else _pretty(json.loads(text)))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _value(look: Look, name: str, text: str) -> Value:
    whole = writable(text)
    size = _("{count} kB").format(count=number(max(1, round(len(whole.encode()) / 1000))))
    if len(whole) <= MOST_CHARACTERS:
        return Value(text=whole, size=size)
    if look.params.get("whole") == name:
        return Value(text=whole, size=size, less=look.address(whole=""))
    return Value(text=whole[:MOST_CHARACTERS], size=size, more=look.address(whole=name))
