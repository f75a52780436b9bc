"""What one step's row shows: waits hollow, attempts solid, pauses between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton.dashboard.timeline.axis import Axis, Interval, percent
from baton.explain.words import duration
from baton.models import WorkflowNode

_FAILED = ("failed", "timed_out", "discarded")
_COLOURS = {"failed": "discarded", "timed_out": "discarded", "worker_lost": "discarded", None: "executing"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time in the life of a step, of one kind."""

    kind: str
    """``wait``, ``bar``, ``retry``, ``snooze`` or ``hold``."""
    start: float
    end: float
    state: str = ""
    """Whose colour a bar has."""
    ending: str = ""
    """``fail`` or ``lost``, where an attempt ended so."""

    def mark(self, axis: Axis) -> Mark:
        """Where it is drawn."""
        x, end = axis.x(self.start), axis.x(self.end)
        return Mark(
            kind=self.kind,
            state=self.state,
            ending=self.ending if axis.shows(self.end, self.end) else "",
            x=percent(x),
            width=percent(max(0.0, end - x)),
            end=percent(end),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something drawn in a row."""

    kind: str
    state: str
    ending: str
    x: str
    width: str
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """The life of a step so far."""

    spans: tuple[Span, ...]
    attempts: int

    @property
    def busy(self) -> list[Interval]:
        """When it ran."""
        return [(span.start, span.end) for span in self.spans if span.kind == "bar"]

    @property
    def start(self) -> float | None:
        """When it first was ready."""
        return self.spans[0].start if self.spans else None

    @property
    def elapsed(self) -> float:
        """How long it took, waits and pauses included."""
        return self.spans[-1].end - self.spans[0].start if self.spans else 0.0

    @property
    def own_time(self) -> str:
        """How long it ran; with its pauses, where it was tried again."""
        bars = [span for span in self.spans if span.kind == "bar"]
        tried = [span for span in bars if span.state != "snoozed"] or bars
        return duration(tried[-1].end - tried[0].start) if tried else ""

    @property
    def words(self) -> str:
        """The row in words."""
        parts = []
        if waited := sum(span.end - span.start for span in self.spans if span.kind == "wait"):
            parts.append(_("queued {time}").format(time=duration(waited)))
        if failed := sum(bool(span.ending) for span in self.spans):
            text = ngettext("{count} attempt failed", "{count} attempts failed", failed)
            parts.append(text.format(count=failed))
        parts += [_pause(span) for span in self.spans if span.kind in ("retry", "snooze", "hold")][-1:]
        bars = [span for span in self.spans if span.kind == "bar" and not span.ending and span.state != "snoozed"]
        if bars:
            time = duration(bars[-1].end - bars[-1].start)
            is_running = bars[-1].state == "executing"
            parts.append((_("running for {time}") if is_running else _("ran {time}")).format(time=time))
        return "; ".join(parts) or _("has not run")


def life_of(node: WorkflowNode, *, now: float, most: int) -> Life:
    """Read the life of a step from its row.

    Args:
        node: The step.
        now: The time at which it is looked at.
        most: How many executions are shown, the newest.
    """
    entries = node.attempts
    spans = [*_past(entries[-most:], now), *_present(node, entries, now)]
    return Life(spans=tuple(spans), attempts=node.attempt)


def seconds(moment: datetime | str | None) -> float | None:
    """A time in seconds since 1970."""
    if isinstance(moment, str):
        moment = parse_datetime(moment)
    return None if moment is None else moment.timestamp()


def _past(entries: list[dict[str, Any]], now: float) -> Iterator[Span]:
    before: Span | None = None
    for entry in entries:
        queued, start = seconds(entry.get("queued_at")), seconds(entry.get("started_at"))
        if start is None:
            continue
        ended = seconds(entry.get("ended_at"))
        outcome = entry.get("outcome")
        ready = start if queued is None else min(queued, start)
        if before is not None:
            ready = max(ready, before.end)
            yield Span(kind="snooze" if before.state == "snoozed" else "retry", start=before.end, end=ready)
        if start > ready:
            yield Span(kind="wait", start=ready, end=start)
        end = max(start, now if ended is None else ended)
        ending = "fail" if outcome in _FAILED else "lost" if outcome == "worker_lost" else ""
        state = _COLOURS.get(outcome, str(outcome))
        # Snoozes in a row share an entry: when the first began, and when the last ended.
        kind = "snooze" if outcome == "snoozed" and entry.get("count", 1) > 1 else "bar"
        before = Span(kind=kind, start=start, end=end, state=state, ending=ending)
        yield before


def _present(node: WorkflowNode, entries: list[dict[str, Any]], now: float) -> Iterator[Span]:
    """What it does since its last execution."""
    last = seconds(entries[-1].get("ended_at")) if entries else None
    since = last if last is not None else seconds(node.changed_at)
    ready = seconds(node.queued_at)
    match str(node.state):
        case "available" if ready is not None:
            if last is not None and ready > last:
                is_snoozed = entries[-1].get("outcome") == "snoozed"
                yield Span(kind="snooze" if is_snoozed else "retry", start=last, end=ready)
            yield Span(kind="wait", start=ready, end=max(ready, now))
        case "retryable" if since is not None:
            yield Span(kind="retry", start=since, end=max(since, now))
        case "snoozed" if since is not None:
            yield Span(kind="hold" if node.due_at is None else "snooze", start=since, end=max(since, now))


def _pause(span: Span) -> str:
    time = duration(span.end - span.start)
    words = {
        "retry": _("waited {time} to be tried again"),
        "snooze": _("snoozed {time}"),
        "hold": _("waits for a person or a budget for {time}"),
    }
    return words[span.kind].format(time=time)
