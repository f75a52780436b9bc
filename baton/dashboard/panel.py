"""The panel of a step: why it is where it is, what it waits for, what it was given and what it gave."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from baton.dashboard.calls import Call, calls_of
from baton.explain.steps import explain_step
from baton.explain.words import between, clock, duration, number
from baton.llm import capture
from baton.models import WorkflowEdge, WorkflowNode

if TYPE_CHECKING:
    from baton.dashboard.page import Look

MOST_CHARACTERS = 4_000
"""How much of a value is shown before somebody asks for all of it."""
_MOST_CALLS = 20
_MOST_NEIGHBOURS = 12


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
    is_cut: bool
    length: str
    """How long all of it is, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What the panel of a step shows."""

    node: WorkflowNode
    state: str
    state_label: str
    why: str
    facts: list[tuple[str, str]]
    needs: list[Neighbour]
    needs_more: int
    then: list[Neighbour]
    then_more: int
    error: str
    attempts: list[dict[str, Any]]
    calls: list[Call]
    debug_logs: list[dict[str, Any]]
    logs: list[dict[str, Any]]
    args: Value | None
    result: Value | None
    opens: str
    """Which section answers the state."""
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
    return Panel(
        node=node,
        state=str(node.state),
        state_label=str(node.get_state_display()),
        why=explain_step(node, now=known.now, run=look.run),
        facts=_facts(node),
        needs=needs,
        needs_more=max(0, node.n_deps - _MOST_NEIGHBOURS),
        then=then,
        then_more=max(0, node.n_out - _MOST_NEIGHBOURS),
        error=node.error or "" if sees and node.state != "completed" else "",
        attempts=[_attempt(each) for each in reversed(node.attempts)],
        calls=calls_of(look.run.pk, node_id=node.pk, most=_MOST_CALLS, has_unknown=bool(known.totals["ambiguous"]))
        if look.may_see_calls and known.called
        else [],
        debug_logs=[_debug_log(each) for each in logs],
        logs=[
            {**line, "at": parse_datetime(line.get("at") or "")}
            for line in (node.logs if sees and node.attempt else ())
        ],
        args=_value(json.dumps(node.args, indent=2, ensure_ascii=False)) if sees and node.args else None,
        result=_stored(node.result_json) if sees and node.has_result else None,
        opens={"discarded": "error", "retryable": "error", "completed": "result"}.get(str(node.state), "attempts"),
        close=look.without_panel,
        page=reverse("admin:baton_workflownode_change", args=[node.pk]),
        rerun=_rerun(look, node),
    )


def _rerun(look: Look, node: WorkflowNode) -> str:
    if not (look.may_act and look.run.is_settled):
        return ""
    words = urlencode({"from_step": node.name}, quote_via=quote)
    return f"{reverse('admin:baton_workflowrun_retry', args=[look.run.pk])}?{words}"


def _facts(node: WorkflowNode) -> list[tuple[str, str]]:
    facts = [(_("Queue"), _queue(node))]
    if node.attempt:
        facts.append((_("Attempt"), _("{attempt} of {most}").format(attempt=node.attempt, most=node.max_attempts)))
    if node.started_at is not None and node.state not in ("pending", "available", "snoozed", "retryable"):
        facts.append((_("Ran"), between(node.started_at, node.settled_at or timezone.now())))
    if node.worker:
        facts.append((_("Worker"), node.worker))
    if isinstance(node.progress, dict):
        facts.append((_("Progress"), _progress(node.progress)))
    if model := node.options.get("model"):
        facts.append((_("Model"), str(model)))
    if node.due_at is not None:
        facts.append((_("Due"), clock(node.due_at)))
    return facts


def _queue(node: WorkflowNode) -> str:
    if node.queued_at is None or node.started_at is None or node.started_at < node.queued_at:
        return node.queue
    return _("{queue}, waited {time}").format(queue=node.queue, time=between(node.queued_at, node.started_at))


def _progress(progress: dict[str, Any]) -> str:
    current, total, message = (progress.get(key) for key in ("current", "total", "message"))
    shown = f"{current:g}" if total is None else _("{current} of {total}").format(current=current, total=total)
    return f"{message} {shown}".strip() if message else shown


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
    return Neighbour(name=name, state=str(state), address=look.address(step=name))


def _neighbours(look: Look, rows: QuerySet[WorkflowNode]) -> list[Neighbour]:
    found = rows.order_by("id").values_list("name", "state")[:_MOST_NEIGHBOURS]
    return [_neighbour(look, name, state) for name, state in found]


def _attempt(entry: dict[str, Any]) -> dict[str, Any]:
    started, ended = (parse_datetime(entry[key] or "") for key in ("started_at", "ended_at"))
    return {**entry, "started_at": started, "took": between(started, ended or timezone.now()) if started else ""}


def _debug_log(entry: dict[str, Any]) -> dict[str, Any]:
    shown = {part: _part(entry[part]) for part in ("request", "response", "upstream")}
    took = "" if entry["duration"] is None else duration(entry["duration"])
    return {"model": entry["model"], "key": entry["key"], "took": took, "at": entry["created_at"], **shown}


def _part(value: Any) -> Value | None:
    if value is None:
        return None
    return _value(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))


def _stored(text: str | None) -> Value | None:
    if text is None:
        return None
    if len(text) > 10 * MOST_CHARACTERS:
        return _value(text)
    return _value(json.dumps(json.loads(text), indent=2, ensure_ascii=False))


def _value(text: str) -> Value:
    # What rows may hold and no page can: halves of surrogate pairs.
    whole = text.encode("utf-8", "backslashreplace").decode()
    size = _("{count} characters").format(count=number(len(whole)))
    return Value(text=whole[:MOST_CHARACTERS], is_cut=len(whole) > MOST_CHARACTERS, length=size)
