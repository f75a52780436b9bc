"""What a page shows of states, times, money and lists: plain values for the templates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import Any, Self
from urllib.parse import urlencode

from django.apps import apps
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton import money
from baton.conf import get_settings
from baton.explain.words import number
from baton.states import StepState

ORDER = ("completed", "executing", "retryable", "snoozed", "available", "pending", "cancelled", "discarded")
"""In which order the parts of a bar stand."""
WORST_FIRST = ("discarded", "retryable", "executing", "snoozed", "available", "pending", "cancelled", "completed")
"""In which order steps are listed, and which of many states a cell shows."""
SHAPES = {"running": "executing", "failed": "discarded"}
"""The states of runs that have the shape and colour of a step's state."""
_LEAST_PERCENT = 1.2
_GAP_PERCENT = 0.3
_NAMED = 2
_AMBER, _RED = 80, 100
_MOST_DIGITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a bar."""

    state: str
    count: int
    x: str
    width: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """How much of a budget is spent."""

    percent: str
    """The width of the bar."""
    tone: str
    """``plain``, ``amber`` from 80 %, ``red`` from 100 %."""
    of: str
    """The budget, in words."""

    @classmethod
    def within(cls, budget: Decimal, *, spent: Decimal) -> Self:
        """How much of a budget is spent."""
        part = min(Decimal(100), 100 * spent / budget) if budget else Decimal(100)
        tone = "red" if part >= _RED else "amber" if part >= _AMBER else "plain"
        of = _("of {budget}").format(budget=money.short(budget, get_settings().currency))
        return cls(percent=f"{part:.1f}%", tone=tone, of=of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """How far a run or a group of steps is."""

    total: int
    completed: int
    parts: tuple[Part, ...]
    label: str
    """All counts, in words."""
    rest: str
    """The counts that matter most besides what completed, in words."""

    @property
    def done(self) -> str:
        """How many of how many have completed, in words."""
        return _("{done} of {total}").format(done=number(self.completed), total=number(self.total))

    @classmethod
    def of(cls, states: Mapping[str, int]) -> Bar:
        """A bar of counts by state."""
        total = sum(states.values())
        return cls(
            total=total,
            completed=states.get("completed", 0),
            parts=tuple(_parts(states)),
            label=", ".join(counted(state, states[state]) for state in ORDER if states.get(state)),
            rest=", ".join(_worst(states)),
        )


def counted(state: str, count: int) -> str:
    """A count with its state: ``3 discarded``."""
    return f"{number(count)} {StepState(state).label}"


def shape(state: str) -> str:
    """The shape and colour of a step's or a run's state."""
    return SHAPES.get(state, state)


def steps(count: int) -> str:
    """So many steps, in words."""
    return ngettext("{count} step", "{count} steps", count).format(count=number(count))


def writable(text: str) -> str:
    """The text as a page can hold it: what JSON may bring are halves of surrogate pairs, which are no characters."""
    return text.encode("utf-8", "backslashreplace").decode()


def who(meta: Any) -> str:
    """Who inserted a run, where the caller said so in ``meta["by"]``; else empty."""
    by = meta.get("by") if isinstance(meta, dict) else None
    return writable(by) if isinstance(by, str) else ""


def measured(progress: Any) -> tuple[float, float] | None:
    """How far a step says it is, and of how much; None where that is no part of a whole. A body may report anything."""
    if not isinstance(progress, dict):
        return None
    try:
        current, total = float(progress.get("current", "")), float(progress.get("total", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    return (current, total) if isfinite(current) and isfinite(total) and total > 0 else None


def whole(text: str | None) -> int | None:
    """A number that an address says; nothing where it says none, or one that is no use."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS else None


def permission_name(codename: str) -> str:
    """A permission, as the admin calls it."""
    action, _separator, model = codename.partition("_")
    if action == "control":
        return _("Can control runs")
    return _("Can view {model}").format(model=apps.get_model("baton", model)._meta.verbose_name)  # noqa: SLF001


def permission_needed(codename: str) -> str:
    """The sentence for who lacks a permission."""
    return _("You need the permission “{permission}” for this.").format(permission=permission_name(codename))


def not_known() -> str:
    """What stands where there is nothing to show."""
    return _("—")


def _worst(states: Mapping[str, int]) -> list[str]:
    others = [state for state in WORST_FIRST if state != "completed" and states.get(state)]
    return [counted(state, states[state]) for state in others[:_NAMED]]


def _parts(states: Mapping[str, int]) -> Iterable[Part]:
    """Where each part begins and how wide it is, in percent; none is too narrow to be seen."""
    total = sum(states.values())
    present = [(state, states[state]) for state in ORDER if states.get(state)]
    widths = [max(_LEAST_PERCENT, 100 * count / total) for _state, count in present]
    scale, at = 100 / (sum(widths) or 1), 0.0
    for (state, count), width in zip(present, widths, strict=True):
        shown = max(0.4, width * scale - _GAP_PERCENT)
        yield Part(state=state, count=count, x=f"{at:.2f}%", width=f"{shown:.2f}%")
        at += width * scale


def admin_address(name: str, *args: Any) -> str:
    """A page of the admin; empty in a project that serves none, and shows runs in pages of its own."""
    try:
        return reverse(f"admin:baton_{name}", args=args)
    except NoReverseMatch:
        return ""


def list_address(model: str, **lookups: str) -> str:
    """The admin's list of a model, filtered."""
    return reverse(f"admin:baton_{model}_changelist") + "?" + urlencode(lookups)


def step_address(run_id: Any, name: str) -> str:
    """The page of a run with the panel of a step."""
    return reverse("admin:baton_workflowrun_change", args=[run_id]) + "?" + urlencode({"step": name})
