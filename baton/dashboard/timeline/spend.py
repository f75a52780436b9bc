"""What was spent by when, as a line under the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from baton import money
from baton.conf import get_settings
from baton.dashboard.calls import sums_of_calls
from baton.dashboard.timeline.axis import Axis, percent
from baton.dashboard.timeline.crowds import part_of
from baton.models import StepStat, WorkflowRun

PARTS = 120
TOP, FLOOR = 8, 52
"""Between which heights the line is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tread:
    """A level part of the line, and how it rises at its beginning."""

    x: str
    end: str
    width: str
    y: int
    before: int
    """The height from which it rises."""
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """The row of money."""

    treads: list[Tread]
    unpriced: list[tuple[str, int]]
    """Where on the line calls stand that have no price."""
    total: str
    is_unpriced: bool
    budget: str
    budget_y: int
    label: str


def spend_of(run: WorkflowRun, axis: Axis, *, using: str) -> Spend | None:
    """Read what was spent by when, in one query; None where no model was called and there is no budget."""
    currency = get_settings().currency
    rows = (
        StepStat.objects.using(using)
        .filter(run_id=run.pk, from_ledger=False)
        .order_by()
        .annotate(part=part_of(axis, "at", PARTS))
        .values("part")
        .annotate(**sums_of_calls())
    )
    found: dict[int, Mapping[str, Any]] = {row["part"]: row for row in rows}
    if not found and run.budget is None:
        return None
    spent = sum((row["spent"] or Decimal(0) for row in found.values()), Decimal(0))
    unpriced = sum(row["lacks"] or 0 for row in found.values())
    top = max(spent, run.budget or Decimal(0)) or Decimal(1)
    treads, ticks = _line(found, axis, top)
    total = money.total(spent if spent or not unpriced else None, unpriced, currency)
    budget = "" if run.budget is None else money.short(run.budget, currency)
    label = _("spent {total}").format(total=total)
    return Spend(
        treads=treads,
        unpriced=ticks,
        total=money.amount(spent, currency) if spent or not unpriced else _("unpriced"),
        is_unpriced=bool(unpriced),
        budget=_("budget {amount}").format(amount=budget) if budget else "",
        budget_y=0 if run.budget is None else _height(run.budget, top),
        label=_("{spent} of {budget}").format(spent=label, budget=budget) if budget else label,
    )


def _line(
    found: Mapping[int, Mapping[str, Any]], axis: Axis, top: Decimal
) -> tuple[list[Tread], list[tuple[str, int]]]:
    now = axis.x(axis.end)
    sum_so_far = sum((row["spent"] or Decimal(0) for part, row in found.items() if part < 0), Decimal(0))
    at, before = 0.0, _height(sum_so_far, top)
    treads: list[Tread] = []
    ticks = []
    # What was spent after what is shown is only in the sum.
    for part in sorted(part for part in found if 0 <= part < PARTS or (part == PARTS and axis.reaches_end)):
        # What was spent within a part is shown at its middle.
        x = min((part + 0.5) * 100 / PARTS, now)
        y = _height(sum_so_far, top)
        treads.append(_tread(at, x, y, before))
        sum_so_far += found[part]["spent"] or Decimal(0)
        at, before = x, y
        if found[part]["lacks"]:
            ticks.append((percent(x), _height(sum_so_far, top)))
    treads.append(_tread(at, now, _height(sum_so_far, top), before))
    return treads, ticks


def _tread(start: float, end: float, y: int, before: int) -> Tread:
    return Tread(
        x=percent(start), end=percent(end), width=percent(max(0.0, end - start)), y=y, before=before, height=FLOOR - y
    )


def _height(value: Decimal, top: Decimal) -> int:
    return round(FLOOR - (FLOOR - TOP) * min(Decimal(1), value / top))
