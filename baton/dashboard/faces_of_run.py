"""How the nodes of a graph look now: few queries, which count in the database and return no more than is drawn."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import (
    BigIntegerField,
    Case,
    CharField,
    Count,
    DateTimeField,
    DurationField,
    ExpressionWrapper,
    F,
    Field,
    FloatField,
    Func,
    IntegerField,
    Max,
    Min,
    Q,
    QuerySet,
    Sum,
    TextField,
    Value,
    When,
)
from django.db.models.functions import Cast, Substr
from django.db.models.sql.compiler import SQLCompiler
from django.utils.translation import gettext as _

from baton import money
from baton.conf import get_settings
from baton.dashboard.graph import labels
from baton.dashboard.graph.faces import GroupFace, StepFace
from baton.dashboard.graph.folding import Fold
from baton.dashboard.graph.members import Series
from baton.dashboard.graph.plan import Plan
from baton.dashboard.shown import measured
from baton.explain.cancels import BY_DEPENDENCY
from baton.explain.words import clock
from baton.models import StepStat, WorkflowNode, WorkflowRun
from baton.models.fields import as_money

RUN_STATES = ("executing", "completed", "discarded", "cancelled")
"""States in which the time from the start on is that of the step's body."""
RAN = ExpressionWrapper(F("settled_at") - F("started_at"), output_field=DurationField())
_MOST_CELLS = 1000
_MOST_SERIES = 600
_COUNTED = ("count", "longest", "since", "caused")
_OF_A_STEP: dict[str, type[Field[Any, Any]]] = {
    "attempt": IntegerField,
    "max_attempts": IntegerField,
    "queue": CharField,
    "n_deps": IntegerField,
    "remaining": IntegerField,
    "due_at": DateTimeField,
    "settled_at": DateTimeField,
    "options": TextField,
    "progress": TextField,
}
"""What else is read of steps that are drawn by themselves; JSON as text, to be read beside what has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faces:
    """The faces of all that is drawn."""

    steps: dict[int, StepFace] = field(default_factory=dict)
    groups: dict[str, GroupFace] = field(default_factory=dict)


class Counted(NamedTuple):
    """Steps of one state in one cell of a group."""

    thing: int
    cell: int
    state: str
    steps: int
    seconds: float
    """How long the longest of them ran."""
    by_dependency: bool
    """Some of them were cancelled because of others."""


class Money(NamedTuple):
    """What calls cost, in words, and the model that was called."""

    cost: str
    model: str


_NO_MONEY = Money("", "")


class Part(NamedTuple):
    """A series of ids that all belong to one thing."""

    series: Series
    thing: int
    before: int = 0
    """How many ids of the thing come before."""
    share: int = 0
    """For how many ids a cell stands; 0 where cells do not matter."""


def parts_of(one: Fold, thing: int, share: int = 0) -> list[Part]:
    """The ids that a fold stands for."""
    parts, before = [], 0
    for series in one.members.series:
        parts.append(Part(series, thing, before, share))
        before += series.length
    return parts


class Coded(Func):
    """Which thing an id belongs to, and which cell of it: a thousand for each thing. Null for all other ids.

    Ranges are looked up by halves, so that a hundred groups cost each row seven comparisons. The text is written here,
    of numbers alone, for to put it together from Django's expressions takes longer than to run it.
    """

    def __init__(self, column: str, parts: tuple[Part, ...], **options: Any) -> None:
        """Read where the ids of each thing are."""
        super().__init__(F(column), output_field=BigIntegerField(), **options)
        self.clusters: list[list[Part]] = []
        last = -1
        for part in sorted(parts):
            if part.series.first > last:
                self.clusters.append([])
            self.clusters[-1].append(part)
            last = max(last, part.series.last)

    def as_sql(
        self,
        compiler: SQLCompiler,
        connection: BaseDatabaseWrapper,
        function: str | None = None,
        template: str | None = None,
        arg_joiner: str | None = None,
        **extra_context: Any,
    ) -> tuple[str, tuple[str | int, ...]]:
        """Write it."""
        column, params = compiler.compile(self.get_source_expressions()[0])
        return _tree(self.clusters, column), tuple(params)


def _tree(clusters: Sequence[Sequence[Part]], column: str) -> str:
    if len(clusters) == 1:
        return f"CASE {' '.join(_when(part, column) for part in clusters[0])} ELSE NULL END"
    middle = len(clusters) // 2
    first = clusters[middle][0].series.first
    before, after = _tree(clusters[:middle], column), _tree(clusters[middle:], column)
    return f"CASE WHEN {column} < {first:d} THEN {before} ELSE {after} END"


def _when(part: Part, column: str) -> str:
    first, last, stride = part.series
    condition = f"{column} BETWEEN {first:d} AND {last:d}"
    if stride > 1:
        condition += f" AND ({column} - {first:d}) %% {stride:d} = 0"
    code = f"{part.thing * _MOST_CELLS:d}"
    if part.share:
        code += f" + (({column} - {first:d}) / {stride:d} + {part.before:d}) / {part.share:d}"
    return f"WHEN {condition} THEN {code}"


def faces_of(run: WorkflowRun, using: str, plan: Plan, *, now: datetime, has_calls: bool = True) -> Faces:
    """Read how all looks that is drawn: in one query, and one more for money.

    Args:
        run: The run.
        using: Its database.
        plan: What is drawn.
        now: Until when what executes has run.
        has_calls: Whether it called language models at all.
    """
    nodes = WorkflowNode.objects.using(using).of_workflow(run.pk).order_by()
    spent = _spent(run, plan.folded.folds) if has_calls else {}
    steps, cells = _steps_and_cells(nodes, plan, now)
    return Faces(steps=_steps(steps, plan, spent, now), groups=_groups(cells, plan, spent))


def _steps_and_cells(
    nodes: QuerySet[WorkflowNode], plan: Plan, now: datetime
) -> tuple[Iterable[_StepRow], Iterable[Counted]]:
    """What is drawn by itself, and what is counted; both together, where the database can be asked for both."""
    alone = [step_id for one in plan.folded.folds for step_id in _alone(one)]
    parts = [
        part
        for index, one in enumerate(plan.folded.folds)
        if one.is_group and not one.opened
        for part in parts_of(one, index, plan.shares[index])
    ]
    steps = _step_rows(nodes.filter(id__in=alone))
    if not alone or not parts or len(parts) > _MOST_SERIES:
        return _read_steps(steps if alone else ()), counted_cells(nodes, parts, now)
    nothing = {f"no_{name}": Value(None, output_field=kind()) for name, kind in _OF_A_STEP.items()}
    cells = _cell_rows(nodes, parts).annotate(**nothing)
    # From Django 6.1 a union has the model's order again.
    rows = list(cells.values_list("code", "state", *_COUNTED, *nothing).union(steps, all=True).order_by())
    # Codes of steps are negative.
    is_step = [row[0] is not None and row[0] < 0 for row in rows]
    return (
        _read_steps(row for row, by_itself in zip(rows, is_step, strict=True) if by_itself),
        _read_cells((row[:6] for row, by_itself in zip(rows, is_step, strict=True) if not by_itself), now),
    )


# Steps ----------------------------------------------------------------------------------------------------------------


class _StepRow(NamedTuple):
    """What is read of a step that is drawn by itself."""

    id: int
    state: str
    started_at: datetime | None
    by_dependency: bool
    attempt: int
    max_attempts: int
    queue: str
    n_deps: int
    remaining: int
    due_at: datetime | None
    settled_at: datetime | None
    options: Any
    progress: Any


def _step_rows(nodes: QuerySet[WorkflowNode]) -> QuerySet[WorkflowNode, tuple[Any, ...]]:
    """Steps, told in the columns in which cells are counted, and some more."""
    by_dependency = When(state="cancelled", error__startswith=BY_DEPENDENCY, then=1)
    told = nodes.annotate(
        code=ExpressionWrapper(Value(-1) * F("id"), output_field=BigIntegerField()),
        count=Value(1),
        longest=Value(None, output_field=DurationField()),
        since=F("started_at"),
        caused=Case(by_dependency, default=0, output_field=IntegerField()),
        text_of_options=Cast("options", TextField()),
        text_of_progress=Cast("progress", TextField()),
    )
    columns = [f"text_of_{name}" if kind is TextField else name for name, kind in _OF_A_STEP.items()]
    return told.values_list("code", "state", *_COUNTED, *columns)


def _read_steps(rows: Iterable[tuple[Any, ...]]) -> Iterator[_StepRow]:
    for code, state, _count, _longest, since, caused, *rest, options, progress in rows:
        yield _StepRow._make((-code, str(state), since, bool(caused), *rest, _json(options), _json(progress)))


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _steps(
    rows: Iterable[_StepRow], plan: Plan, spent: Mapping[int | str, Money], now: datetime
) -> dict[int, StepFace]:
    waited = _waited(plan)
    drawn = {step_id: index for index, one in enumerate(plan.folded.folds) for step_id in _alone(one)}
    return {row.id: _step(row, waited.get(drawn[row.id], ""), spent.get(row.id, _NO_MONEY), now) for row in rows}


def _alone(one: Fold) -> Iterable[int]:
    """The steps of a fold that are drawn by themselves."""
    return (step_id for step_id, _name in one.opened) if one.is_group else one.members


def _step(row: _StepRow, waits_for: str, spent: Money, now: datetime) -> StepFace:
    started = row.started_at if row.state in RUN_STATES else None
    is_held = row.state == "snoozed" and row.due_at is None
    return StepFace(
        state=row.state,
        seconds=None if started is None else ((row.settled_at or now) - started).total_seconds(),
        since=started.isoformat() if started is not None and row.state == "executing" else "",
        detail=_detail(row, waits_for, spent.model, now),
        cost=spent.cost,
        progress=_progress(row.progress),
        icon="person" if is_held else "",
        by_dependency=row.by_dependency,
    )


def _detail(row: _StepRow, waits_for: str, model: str, now: datetime) -> str:
    if row.state == "snoozed":
        return _("held") if row.due_at is None else _("until {time}").format(time=clock(row.due_at, now=now))
    options = row.options if isinstance(row.options, dict) else {}
    return labels.detail(
        row.state,
        model=model or str(options.get("model") or ""),
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        queue=row.queue,
        # Of more than one the number is enough.
        waits_for=[waits_for] * row.remaining if waits_for or row.n_deps > 1 else (),
        dependencies=row.n_deps,
    )


def _progress(progress: Any) -> float | None:
    part = measured(progress)
    return None if part is None else min(1.0, max(0.0, part[0] / part[1]))


def _waited(plan: Plan) -> dict[int, str]:
    """What each fold with one dependency waits for, by its position."""
    sources: dict[int, list[int]] = defaultdict(list)
    for source, target in plan.folded.edges:
        sources[target].append(source)
    folds = plan.folded.folds
    return {target: labels.group_name(folds[found[0]]) for target, found in sources.items() if len(found) == 1}


# Groups ---------------------------------------------------------------------------------------------------------------


def _groups(cells: Iterable[Counted], plan: Plan, spent: Mapping[int | str, Money]) -> dict[str, GroupFace]:
    folds = plan.folded.folds
    found: dict[int, list[Counted]] = defaultdict(list)
    for counted in cells:
        found[counted.thing].append(counted)
    return {
        folds[index].key: GroupFace.of_rows(
            ((row.cell, row.state, row.steps) for row in rows),
            folds[index],
            plan.shares[index],
            seconds=max(row.seconds for row in rows),
            cost=spent.get(folds[index].key, _NO_MONEY).cost,
            by_dependency=any(row.by_dependency for row in rows),
        )
        for index, rows in found.items()
    }


def counted_cells(nodes: QuerySet[WorkflowNode], parts: Sequence[Part], now: datetime) -> Iterable[Counted]:
    """How many steps of each state are in each cell of each thing, in one query."""
    if not parts:
        return ()
    if len(parts) > _MOST_SERIES:
        return _counted_here(nodes, parts, now)
    return _read_cells(_cell_rows(nodes, parts).values_list("code", "state", *_COUNTED), now)


def _cell_rows(nodes: QuerySet[WorkflowNode], parts: Sequence[Part]) -> QuerySet[WorkflowNode, Any]:
    caused = Q(state="cancelled", error__startswith=BY_DEPENDENCY)
    cells = nodes.annotate(code=Coded("id", tuple(parts))).values("code", "state")
    return cells.annotate(
        count=Count("id"), longest=Max(RAN), since=Min("started_at"), caused=Count("id", filter=caused)
    )


def _read_cells(rows: Iterable[tuple[Any, ...]], now: datetime) -> Iterator[Counted]:
    for code, state, count, longest, since, caused_count in rows:
        if code is not None:
            seconds = longest.total_seconds() if longest is not None else 0.0
            if state == "executing" and since is not None:
                seconds = (now - since).total_seconds()
            thing, cell = divmod(code, _MOST_CELLS)
            yield Counted(thing, cell, str(state), count, seconds, bool(caused_count))


def _counted_here(nodes: QuerySet[WorkflowNode], parts: Sequence[Part], now: datetime) -> Iterable[Counted]:
    """The same where the ids of groups are so scattered that the database is better not asked."""
    cells = {
        step_id: (part.thing, (part.before + place) // max(1, part.share))
        for part in parts
        for place, step_id in enumerate(range(part.series.first, part.series.last + 1, part.series.stride))
    }
    columns = ("id", "state", "started_at", "settled_at")
    for step_id, state, started, settled, why in nodes.values_list(*columns, Substr("error", 1, len(BY_DEPENDENCY))):
        if step_id in cells:
            has_run = started is not None and state in RUN_STATES
            seconds = ((settled or now) - started).total_seconds() if has_run else 0.0
            caused = state == "cancelled" and why == BY_DEPENDENCY
            thing, cell = cells[step_id]
            yield Counted(thing, cell, str(state), 1, seconds, caused)


# Money ----------------------------------------------------------------------------------------------------------------


def _spent(run: WorkflowRun, folds: Sequence[Fold]) -> dict[int | str, Money]:
    """What the calls of each thing that is drawn cost, in one query."""
    things: list[int | str] = []
    parts: list[Part] = []
    for one in folds:
        if one.is_group and not one.opened:
            parts += parts_of(one, len(things))
            things.append(one.key)
            continue
        for step_id in _alone(one):
            parts.append(Part(Series(step_id, step_id, 1), len(things)))
            things.append(step_id)
    if len(parts) > _MOST_SERIES:
        return {}
    settings = get_settings()
    priced = Q(currency=settings.currency, cost__isnull=False)
    # Added as floats: SQLite would stop at nine million, and fifteen digits are more than are shown.
    rows = (
        StepStat.objects.using(settings.database)
        .filter(run_id=run.pk, from_ledger=False)
        .order_by()
        .annotate(code=Coded("node_id", tuple(parts)))
        .values_list("code")
        .annotate(
            sum=Sum(Cast("cost", FloatField()), filter=priced),
            calls=Count("id"),
            priced=Count("id", filter=priced),
            model=Max("model"),
        )
    )
    return {
        things[code // _MOST_CELLS]: Money(_amount(total, count, count_priced, settings.currency), model)
        for code, total, count, count_priced, model in (rows if parts else ())
        if code is not None
    }


def _amount(total: float | None, count: int, priced: int, currency: str) -> str:
    if total is None:
        return _("unpriced")
    return money.total(as_money(round(total)), count - priced, currency)
