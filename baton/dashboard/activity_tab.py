"""The tab of activity: what happened to the steps and what people did, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from baton.dashboard.shown import whole
from baton.explain.words import between, first_line
from baton.models import WorkflowNode, WorkflowRun
from baton.states import AttemptOutcome

if TYPE_CHECKING:
    from baton.dashboard.page import Look

PAGE = 100
_ROWS = 2_000
"""How many steps are looked through: those that changed last."""
_SHAPES = {"timed_out": "discarded", "failed": "retryable", "worker_lost": "retryable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    at: datetime
    shape: str
    word: str
    step: str
    address: str
    text: str
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityTab:
    """What the tab shows."""

    events: list[Event]
    older: str


def shown(look: Look) -> ActivityTab:
    """Read the newest events of a run from its rows; there is no table of events."""
    limit = PAGE * max(1, min(20, (whole(look.params.get("n")) or 0) // PAGE))
    nodes = WorkflowNode.objects.using(look.using).of_workflow(look.run.pk).exclude(changed_at=None)
    events = [*_of_people(look), *_of_run(look)]
    for node in nodes.order_by("-changed_at").only("name", "state", "attempt_log", "error")[:_ROWS]:
        events += _of_step(look, node)
    events.sort(key=lambda each: each.at, reverse=True)
    return ActivityTab(
        events=events[:limit],
        older=look.address(n=str(limit + PAGE)) if len(events) > limit else "",
    )


def _of_step(look: Look, node: WorkflowNode) -> list[Event]:
    events = []
    for entry in node.attempt_log:
        at = parse_datetime(entry.get("ended_at") or "")
        if at is None:
            continue
        outcome = str(entry.get("outcome"))
        events.append(
            Event(
                at=at,
                shape=_SHAPES.get(outcome, outcome),
                word=_word(outcome),
                step=node.name,
                address=look.address(step=node.name),
                text=_text(entry),
            )
        )
    return events


def _text(entry: dict[str, Any]) -> str:
    if entry.get("error"):
        return first_line(entry["error"])
    took = between(parse_datetime(entry.get("started_at") or ""), parse_datetime(entry.get("ended_at") or ""))
    return _("attempt {number}, {time}").format(number=entry.get("number"), time=took)


def _word(outcome: str) -> str:
    return str(AttemptOutcome(outcome).label) if outcome in AttemptOutcome.values else outcome


def _of_run(look: Look) -> list[Event]:
    run = look.run
    events = [Event(at=run.inserted_at, shape="available", word=_("inserted"), step="", address="", text="")]
    for ending in run.completions.order_by("round").only("round", "outcome", "finished_at"):
        text = _("round {number}").format(number=ending.round) if run.round > 1 else ""
        shape = "discarded" if ending.outcome == "failed" else str(ending.outcome)
        label = str(ending.get_outcome_display())
        events.append(Event(at=ending.finished_at, shape=shape, word=label, step="", address="", text=text))
    return events


def _of_people(look: Look) -> list[Event]:
    kind = ContentType.objects.get_for_model(WorkflowRun)
    entries = LogEntry.objects.filter(content_type=kind, object_id=str(look.run.pk)).select_related("user")
    return [
        Event(
            at=each.action_time,
            shape="person",
            word=_("by hand"),
            step="",
            address="",
            text=each.get_change_message(),
            by=each.user.get_username(),
        )
        for each in entries[:PAGE]
    ]
