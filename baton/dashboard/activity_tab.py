"""The tab of activity: what happened to the steps and what people did, newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.contenttypes.models import ContentType
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from baton.dashboard.look import Look
from baton.dashboard.shown import steps, who, whole
from baton.explain.words import between, clock, first_line, number
from baton.models import WorkflowNode, WorkflowRun
from baton.states import AttemptOutcome, StepState

PAGE = 100
_ROWS = 2_000
"""How many steps are looked through: those that changed last."""
_KINDS = ("person", "discarded", "retryable", "snoozed", "executing", "completed", "cancelled")
_SHAPES = {"timed_out": "retryable", "failed": "retryable", "worker_lost": "retryable"}


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

    @property
    def when(self) -> str:
        """The time, with the date where it was another day."""
        return clock(self.at)


_Happening = tuple[datetime, str, Callable[[], Event]]
"""When it was, its shape, and what tells it in words, which is asked of those that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of events that can be shown alone."""

    name: str
    label: str
    address: str
    is_on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityTab:
    """What the tab shows."""

    events: list[Event]
    older: str
    kinds: list[Kind]
    kind: str
    of: str
    """A part of the names of the steps that are shown."""
    clear: str


def shown(look: Look) -> ActivityTab:
    """Read the newest events of a run from its rows; there is no table of events."""
    limit = PAGE * max(1, min(20, (whole(look.params.get("n")) or 0) // PAGE))
    kind, of = look.params.get("kind", ""), look.params.get("of", "").replace("\0", "")
    kind = kind if kind in _KINDS else ""
    nodes = WorkflowNode.objects.using(look.using).of_workflow(look.run.pk).exclude(changed_at=None)
    if of:
        nodes = nodes.filter(name__icontains=of)
    events = [] if of else [*_of_people(look), *_of_run(look)]
    columns = ("name", "state", "attempt", "attempt_log", "worker", "queued_at", "started_at", "settled_at", "error")
    found: list[_Happening] = [(each.at, each.shape, partial(replace, each)) for each in events]
    for node in nodes.order_by("-changed_at").only(*columns)[:_ROWS]:
        found += _of_step(look, node)
    found = [each for each in found if not kind or each[1] == kind]
    found.sort(key=itemgetter(0), reverse=True)
    return ActivityTab(
        events=[tell() for _at, _shape, tell in found[:limit]],
        older=look.address(n=str(limit + PAGE)) if len(found) > limit else "",
        kinds=[_kind(look, each, is_on=each == kind) for each in _KINDS],
        kind=kind,
        of=of,
        clear=look.address(kind="", of="", n="") if kind or of else "",
    )


def _kind(look: Look, name: str, *, is_on: bool) -> Kind:
    label = _("by hand") if name == "person" else str(StepState(name).label)
    return Kind(name=name, label=label, address=look.address(kind="" if is_on else name, n=""), is_on=is_on)


def _of_step(look: Look, node: WorkflowNode) -> Iterator[_Happening]:
    entries = node.attempts
    for entry, following in zip(entries, [*entries[1:], None], strict=False):
        started, ended = parse_datetime(entry["started_at"] or ""), parse_datetime(entry["ended_at"] or "")
        if started is not None and entry["count"] == 1:
            yield started, "executing", partial(_start, look, node, entry, started)
        if ended is not None:
            outcome, is_last = str(entry["outcome"]), following is None and node.state == StepState.DISCARDED
            shape = "discarded" if is_last else _SHAPES.get(outcome, outcome)
            word = str(StepState.DISCARDED.label) if is_last else _word(outcome)
            tell = partial(_end, look, node, entry, (started, ended, following), shape=shape, word=word)
            yield ended, shape, tell
    # Most steps that are cancelled never ran, or not any more, so that no execution tells of it.
    told = entries[-1]["outcome"] if entries else ""
    if node.settled_at is not None and (not told or (node.state == StepState.CANCELLED and told != node.state)):
        yield node.settled_at, str(node.state), partial(_settle, look, node, node.settled_at)


def _settle(look: Look, node: WorkflowNode, at: datetime) -> Event:
    word, address, text = str(node.get_state_display()), look.address(step=node.name), first_line(node.error)
    return Event(at=at, shape=str(node.state), word=word, step=node.name, address=address, text=text)


def _start(look: Look, node: WorkflowNode, entry: dict[str, Any], started: datetime) -> Event:
    word, address = str(StepState.EXECUTING.label), look.address(step=node.name)
    text = _started(entry, started)
    return Event(at=started, shape="executing", word=word, step=node.name, address=address, text=text)


def _end(
    look: Look,
    node: WorkflowNode,
    entry: dict[str, Any],
    times: tuple[datetime | None, datetime, dict[str, Any] | None],
    *,
    shape: str,
    word: str,
) -> Event:
    text, address = _ended(entry, *times), look.address(step=node.name)
    return Event(at=times[1], shape=shape, word=word, step=node.name, address=address, text=text)


def _started(entry: dict[str, Any], started: datetime) -> str:
    queued = parse_datetime(entry["queued_at"] or "")
    text = _("attempt {number} on {worker}").format(number=entry["number"], worker=entry["worker"] or "?")
    if queued is None or queued > started:
        return text
    return _("{text}, queued {time}").format(text=text, time=between(queued, started))


def _ended(entry: dict[str, Any], started: datetime | None, ended: datetime, following: dict[str, Any] | None) -> str:
    if not entry["error"]:
        if entry["count"] > 1:
            return _("{count} times").format(count=number(entry["count"]))
        return _("attempt {number}, {time}").format(number=entry["number"], time=between(started, ended))
    text = first_line(entry["error"])
    again = None if following is None else parse_datetime(following["queued_at"] or following["started_at"] or "")
    if again is None or again < ended:
        return text
    return _("{error}; again after {time}").format(error=text, time=between(ended, again))


def _word(outcome: str) -> str:
    if outcome == AttemptOutcome.FAILED:
        return str(StepState.RETRYABLE.label)
    return str(AttemptOutcome(outcome).label) if outcome in AttemptOutcome.values else outcome


def _of_run(look: Look) -> list[Event]:
    run = look.run
    known = look.known
    text = _("{steps}, {count} dependencies").format(steps=steps(known.steps), count=number(known.edges))
    events = [
        Event(
            at=run.inserted_at,
            shape="available",
            word=_("inserted"),
            step="",
            address="",
            text=text,
            by=who(run.meta),
        )
    ]
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
