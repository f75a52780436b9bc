"""The head of a run's page: its state, a sentence on what is going on, and four facts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton import money
from baton.conf import get_settings
from baton.dashboard.calls import saved_of
from baton.dashboard.estimates import Usual
from baton.dashboard.known import Known, known_of
from baton.dashboard.shown import Bar, Meter, counted, shape, who
from baton.explain.runs import headline_of
from baton.explain.words import between, duration, number
from baton.models import WorkflowRun

_MARKS = {"executing": "▶", "completed": "✓", "discarded": "✕", "cancelled": "⊘"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the head of a run's page shows."""

    state: str
    state_label: str
    shape: str
    headline: str
    said: list[tuple[str, str]]
    """The headline in pieces, each with whether it is what it is about."""
    tone: str
    """The state whose colour the headline has."""
    by: str
    """Who inserted it, where the caller said so in ``meta["by"]``."""
    bar: Bar
    bar_note: str
    is_over: bool
    since: datetime
    """From when a running run's time counts."""
    took: str
    ends_at: datetime | None
    """When it ends if it takes as long as usual; nothing where too few runs are known, and where it is over."""
    time_note: str
    """About how long it goes on; of a run that is over, how long runs usually take."""
    time_basis: str
    """What that is reckoned from."""
    cost: str
    unpriced: str
    """Which calls have no price, in words; empty where all have."""
    meter: Meter | None
    at_end: str
    """About what it costs at the end."""
    cost_basis: str
    """What that is reckoned from."""
    has_calls: bool
    attempts: int
    attempts_note: str

    @property
    def mark(self) -> str:
        """The shape of its state as a sign, for the title of the page."""
        return _MARKS.get(self.shape, "○")

    @property
    def attempts_shown(self) -> str:
        """The number of attempts, as people read it."""
        return number(self.attempts)


def header_of(run: WorkflowRun, known: Known | None = None, usual: Usual | None = None) -> Header:
    """Read what the head of a run's page shows, or take it from what is known of the run and of its like."""
    known = known_of(run) if known is None else known
    states, totals = known.states, known.totals
    bar = Bar.of(states)
    headline = headline_of(run, now=known.now, counted=known.counted, is_held=known.is_held)
    usual = usual or Usual()
    ends_at = usual.end_of(run)
    if ends_at is not None and ends_at <= known.now:
        ends_at = None
    at_end = _at_end(run, usual, totals)
    return Header(
        state=str(run.state),
        state_label=str(run.get_state_display()),
        shape=shape(str(run.state)),
        headline=headline.text,
        said=headline.parts,
        tone=headline.tone.value,
        by=who(run.meta),
        bar=bar,
        bar_note=", ".join(counted(state, states[state]) for state in states if state != "completed"),
        is_over=run.is_settled,
        since=run.inserted_at,
        took=between(run.inserted_at, run.finished_at or timezone.now()),
        ends_at=ends_at,
        time_note=_time_note(run, usual, known.now, ends_at),
        time_basis=usual.basis,
        cost=_cost(totals),
        unpriced=_unpriced(totals),
        meter=None if run.budget is None else Meter.within(run.budget, spent=known.spent),
        at_end=at_end,
        cost_basis=usual.basis_of_cost,
        has_calls=known.called or run.budget is not None,
        attempts=known.attempts,
        attempts_note=" · ".join(_attempt_notes(known.attempts, known.retried, totals)),
    )


def _time_note(run: WorkflowRun, usual: Usual, now: datetime, ends_at: datetime | None) -> str:
    if ends_at is not None:
        return _("about {time} left").format(time=between(now, ends_at))
    if usual.seconds is None:
        return ""
    return _("usually {time}").format(time=duration(usual.seconds))


def _at_end(run: WorkflowRun, usual: Usual, totals: dict[str, Any]) -> str:
    cost = usual.cost_at_end_of(run, totals)
    if cost is None:
        return ""
    return _("about {amount} at the end").format(amount=money.amount(cost, get_settings().currency))


def _cost(totals: dict[str, Any]) -> str:
    if not totals["calls"]:
        return "—"
    return "—" if totals["cost"] is None else money.amount(totals["cost"], totals["currency"])


def _unpriced(totals: dict[str, Any]) -> str:
    if not totals["unpriced"]:
        return ""
    return _("+ {count} unpriced").format(count=number(totals["unpriced"]))


def _attempt_notes(attempts: int, retried: int, totals: dict[str, Any]) -> list[str]:
    notes = []
    if attempts:
        notes.append(ngettext("{count} retried", "{count} retried", retried).format(count=number(retried)))
    if saved := saved_of(totals):
        notes.append(_("{saved} not paid again").format(saved=saved))
    return notes
