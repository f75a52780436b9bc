"""What the rows of groups show: how many of their steps execute at once, counted by the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from math import ceil
from operator import or_
from typing import Any

from django.db.models import (
    Case,
    Count,
    F,
    FloatField,
    Func,
    IntegerField,
    Max,
    Min,
    Q,
    QuerySet,
    Sum,
    Value,
    When,
    Window,
)
from django.db.models.functions import Cast, Coalesce, Floor, Mod, RowNumber
from django.db.models.lookups import Exact

from baton.dashboard.timeline.axis import Axis, Interval
from baton.dashboard.timeline.structure import Line
from baton.models import WorkflowNode

BUCKETS = 60
_WIDTH = 100.0 / BUCKETS
_RAN = ("executing", "completed", "discarded")
_MOST_SERIES = 40
_NOTHING = 1e-6

_Parts = dict[int, tuple[int, float]]
"""For parts of the width how many steps began or ended there, and the sum of where."""


class Epoch(Func):
    """A time in seconds since 1970."""

    output_field = FloatField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """As PostgreSQL says it."""
        template = "EXTRACT(EPOCH FROM %(expressions)s)::double precision"
        return self.as_sql(compiler, connection, template=template, **context)

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """As SQLite says it; it knows milliseconds and no less."""
        template = "((julianday(%(expressions)s) - 2440587.5) * 86400.0)"
        return self.as_sql(compiler, connection, template=template, **context)


@dataclass(slots=True, kw_only=True)
class Crowd:
    """A group of steps in time."""

    states: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    heights: list[float] = field(default_factory=list)
    """How many executed at once on average, in each part of the width."""
    failures: list[int] = field(default_factory=list)
    """The parts of the width in which steps were discarded."""
    start: float | None = None
    end: float | None = None

    @property
    def peak(self) -> int:
        """The most that executed at once, as far as averages tell."""
        return ceil(max(self.heights, default=0.0) - _NOTHING)


def group_of(lines: Mapping[int, Line]) -> Case:
    """To which row a step belongs, by its id; none where it has a row of its own."""
    whens = [When(_is_in(line), then=Value(index)) for index, line in lines.items()]
    return Case(*whens, output_field=IntegerField())


def crowds_of(steps: QuerySet[WorkflowNode], lines: Mapping[int, Line], axis: Axis) -> dict[int, Crowd]:
    """Count what executes at once in groups, in two queries.

    Of each part of the width is known how many steps began and ended there, and where on average: that gives how many
    there were at once, exactly as an average over the part, with no step read. Of a step that was tried again only the
    last attempt counts: the others stand in its log, which no query adds up.
    """
    steps = steps.order_by().annotate(group=group_of(lines))
    begins = (
        steps.filter(started_at__isnull=False, state__in=_RAN)
        .annotate(part=part_of(axis, "started_at"), at=place(axis, "started_at"))
        .values("group", "part")
        .annotate(count=Count("id"), sum=Sum("at"), first=Min("started_at"))
    )
    # A step that was settled without having run ended nothing.
    ran = Q(started_at__isnull=False, state__in=_RAN)
    ends = (
        steps.annotate(part=part_of(axis, "settled_at"), at=place(axis, "settled_at"))
        .values("group", "state", "part")
        .annotate(all=Count("id"), count=Count("id", filter=ran), sum=Sum("at", filter=ran), last=Max("settled_at"))
    )
    found = {index: Crowd() for index in lines}
    came, went = defaultdict[int, _Parts](dict), defaultdict[int, _Parts](dict)
    for begun in begins:
        if begun["group"] in found:
            _begin(found[begun["group"]], came[begun["group"]], begun)
    for ended in ends:
        if ended["group"] in found:
            _end(found[ended["group"]], went[ended["group"]], ended, axis)
    now = axis.x(axis.end)
    for index, crowd in found.items():
        crowd.heights = _heights(came[index], went[index], now)
        if crowd.states.get("executing"):
            crowd.end = axis.end
    return found


def busy(crowds: Mapping[int, Crowd], axis: Axis) -> list[Interval]:
    """When something ran in one of the groups, by the parts of an axis without gaps."""
    scale = (axis.segments[-1].end - axis.start) / BUCKETS
    parts = {part for crowd in crowds.values() for part, height in enumerate(crowd.heights) if height > _NOTHING}
    return [(axis.start + part * scale, axis.start + (part + 1) * scale) for part in sorted(parts)]


def notable(steps: QuerySet[WorkflowNode], lines: Mapping[int, Line], most: int) -> QuerySet[WorkflowNode]:
    """The query of some steps of each group: discarded first, then those that execute longest, then the slowest."""
    if not most or not lines:
        return steps.none()
    worst = Case(When(state="discarded", then=Value(0)), When(state="executing", then=Value(1)), default=Value(2))
    # None has ended yet of those that execute: the one that began first is the slowest.
    took = Epoch(Coalesce("settled_at", Value(datetime(9999, 1, 1, tzinfo=UTC)))) - Epoch(F("started_at"))
    steps = steps.order_by().filter(started_at__isnull=False, state__in=_RAN).annotate(group=group_of(lines))
    place = Window(RowNumber(), partition_by="group", order_by=[worst.asc(), took.desc(), F("id").asc()])
    return steps.annotate(place=place).filter(group__isnull=False, place__lte=most)


def place(axis: Axis, column: str) -> Case:
    """Where a time stands on the axis, in percent: at its ends what is not shown."""
    moment = Epoch(F(column))
    whens = [When(_is_before(axis, column), then=Value(0.0))]
    for part in axis.segments:
        scale = part.width / (part.end - part.start)
        x = Value(part.x) + (moment - Value(part.start)) * Value(scale)
        whens.append(When(**{f"{column}__lt": datetime.fromtimestamp(part.end, UTC)}, then=x))
    return Case(*whens, When(**{f"{column}__isnull": False}, then=Value(100.0)), output_field=FloatField())


def part_of(axis: Axis, column: str, parts: int = BUCKETS) -> Case:
    """In which part of the width a time stands: before the first, -1; after the last, their number."""
    part = Cast(Floor(place(axis, column) / Value(100.0 / parts)), IntegerField())
    return Case(When(_is_before(axis, column), then=Value(-1)), default=part, output_field=IntegerField())


def _is_before(axis: Axis, column: str) -> Q:
    return Q(**{f"{column}__lt": datetime.fromtimestamp(axis.start, UTC)})


def _begin(crowd: Crowd, parts: _Parts, row: Mapping[str, Any]) -> None:
    part = _bound(row["part"])
    count, total = parts.get(part, (0, 0.0))
    parts[part] = (count + row["count"], total + row["sum"])
    first = row["first"].timestamp()
    crowd.start = first if crowd.start is None else min(crowd.start, first)


def _end(crowd: Crowd, parts: _Parts, row: Mapping[str, Any], axis: Axis) -> None:
    crowd.states[row["state"]] += row["all"]
    if row["part"] is None:
        return
    part = _bound(row["part"])
    count, total = parts.get(part, (0, 0.0))
    parts[part] = (count + row["count"], total + (row["sum"] or 0.0))
    if row["count"]:
        last = row["last"].timestamp()
        crowd.end = last if crowd.end is None else max(crowd.end, last)
    if row["state"] == "discarded" and (0 <= row["part"] < BUCKETS or (row["part"] >= 0 and axis.reaches_end)):
        crowd.failures.append(part)


def _bound(part: int) -> int:
    return max(0, min(BUCKETS - 1, part))


def _heights(came: Mapping[int, tuple[int, float]], went: Mapping[int, tuple[int, float]], now: float) -> list[float]:
    inside, heights = 0, []
    for part in range(BUCKETS):
        start, end = part * _WIDTH, min((part + 1) * _WIDTH, now)
        begun, begun_at = came.get(part, (0, 0.0))
        ended, ended_at = went.get(part, (0, 0.0))
        width = end - start
        area = inside * width + (begun * end - begun_at) - (ended * end - ended_at)
        heights.append(max(0.0, area / width) if width > _NOTHING else 0.0)
        inside += begun - ended
    return heights


def _is_in(line: Line) -> Q:
    series = line.members.series
    if len(series) > _MOST_SERIES:
        return Q(id__in=list(line.members))
    parts = []
    for first, last, stride in series:
        part = Q(id__gte=first, id__lte=last)
        if stride > 1:
            # In series that lie within each other the remainder tells which is which.
            part &= Q(Exact(Mod(F("id") - Value(first), Value(stride)), Value(0)))
        parts.append(part)
    return reduce(or_, parts)
