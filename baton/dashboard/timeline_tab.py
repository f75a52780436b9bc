"""The tab of the timeline: when each step waited and ran, and what was spent meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from baton.dashboard.graph.critical import critical_path
from baton.dashboard.graph.mosaic import state_of
from baton.dashboard.look import Look
from baton.dashboard.shown import WORST_FIRST, counted, steps
from baton.dashboard.timeline import crowds as groups
from baton.dashboard.timeline.axis import Axis, Gap, Tick, make_axis, percent
from baton.dashboard.timeline.crowds import Crowd
from baton.dashboard.timeline.marks import Life, Mark, life_of
from baton.dashboard.timeline.spend import Spend, spend_of
from baton.dashboard.timeline.structure import MOST_ROWS, Line, structure_of
from baton.dashboard.timeline.window import NO_WINDOW, window_of
from baton.explain.words import duration, number
from baton.models import WorkflowNode
from baton.states import StepState

MOST_CHILDREN = 5
"""How many steps of a group have rows of their own under it."""
MOST_TALL = 24
"""How many groups may be tall, with some of their steps under them; more of them are rows like all others."""
_MOST_EXECUTIONS = 24
_MOST_MARKS = 900
_TALL, _LOW = (64, 12, 60), (28, 3, 22)
"""How high a row is, and between which heights it has its area."""
_TIMES = "\u00d7"
_NEVER = float("inf")
_NOTHING = 1e-6
_COLUMNS = (
    "name", "state", "version", "attempt", "attempt_log", "worker", "queued_at", "started_at", "settled_at",
    "changed_at", "due_at", "run_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A part of the area of a group."""

    x: str
    width: str
    y: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A step or a group."""

    name: str
    address: str
    state: str
    state_label: str
    note: str
    """What stands behind the name: how often it was tried, of how many a group is."""
    time: str
    label: str
    is_group: bool = False
    height: int = _LOW[0]
    path_y: str = "24.5"
    is_child: bool = False
    is_open: bool = False
    node: int | None = None
    version: int | None = None
    marks: Sequence[Mark] = ()
    columns: Sequence[Column] = ()
    failures: Sequence[str] = ()
    path_x: str = ""
    """Where the line of the critical path begins; empty where the step is not on it."""
    path_end: str = ""
    is_critical: bool = False
    more: str = ""
    """The address of the steps of a group that have no rows."""
    more_label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineTab:
    """What the tab shows."""

    rows: list[Row]
    ticks: list[Tick]
    gaps: list[Gap]
    now: str
    spend: Spend | None
    kinds: frozenset[str]
    """What occurs, and so stands in the legend."""
    left_out: str
    """How many steps have no row, in words."""
    steps_address: str
    scale: str
    """Which times stand where, for the script."""
    origin: int
    """When the run began, in milliseconds since 1970."""
    closer: str
    wider: str
    whole: str
    """The addresses of less and of more of the run's time, and of all of it."""


def shown(look: Look) -> TimelineTab:
    """Read when the steps of a run waited and ran."""
    return _Reading(look).tab()


class _Reading:
    """One reading of a run, from its structure to its rows."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self.run = look.run
        self.nodes = WorkflowNode.objects.using(look.using).of_workflow(look.run.pk)
        self.structure = structure_of(look.run, look.known, using=look.using)
        self.lines = self._chosen()
        self.groups = {index: self.structure.lines[index] for index in self.lines if self._is_group(index)}
        self.is_tall = len(self.groups) <= MOST_TALL
        self.now = timezone.now().timestamp()
        self.lives, self.children = self._lives()
        self.axis, self.crowds = self._axis()

    def tab(self) -> TimelineTab:
        path = self._path()
        rows: list[Row] = []
        for index in sorted(self.lines, key=self._order):
            line = self.structure.lines[index]
            if index in self.groups:
                rows += self._group_rows(index, line, is_critical=index in path)
            elif line.first in self.lives:
                rows.append(self._step_row(self.lives[line.first][0], is_critical=index in path))
        has_money = self.look.known.called or self.run.budget is not None
        spend = spend_of(self.run, self.axis, using=self.look.using) if has_money else None
        left_out = len(self.structure.lines) - len(self.lines)
        address = self.look.address
        return TimelineTab(
            rows=rows,
            ticks=self.axis.ticks,
            gaps=self.axis.gaps,
            now=self.axis.now,
            spend=spend,
            kinds=_kinds(rows, spend),
            left_out=_("{steps} without a row").format(steps=steps(left_out)) if left_out else "",
            steps_address=address(view="steps", **NO_WINDOW),
            scale=self.axis.scale,
            origin=round(self.axis.origin * 1000),
            closer=address(**self.window.closer.words),
            wider=address(**self.window.wider.words),
            whole=address(**NO_WINDOW),
        )

    # Reading ----------------------------------------------------------------------------------------------------------

    def _is_group(self, index: int) -> bool:
        return self.structure.lines[index].is_group

    def _chosen(self) -> list[int]:
        """Which rows are shown where there are too many: groups, and the steps that began last."""
        lines = self.structure.lines
        if len(lines) <= MOST_ROWS:
            return list(range(len(lines)))
        kept = [index for index, line in enumerate(lines) if line.is_group][:MOST_ROWS]
        of_step = {line.first: index for index, line in enumerate(lines) if not line.is_group}
        newest = self.nodes.filter(started_at__isnull=False).order_by("-started_at").values_list("id", flat=True)
        kept += [of_step[pk] for pk in newest[:MOST_ROWS] if pk in of_step]
        chosen = dict.fromkeys(kept)
        # What has not begun fills up what room is left.
        for index in range(len(lines)):
            if len(chosen) >= MOST_ROWS:
                break
            chosen.setdefault(index)
        return list(chosen)[:MOST_ROWS]

    def _lives(self) -> tuple[dict[int, tuple[WorkflowNode, Life]], list[WorkflowNode]]:
        single = [self.structure.lines[index].first for index in self.lines if index not in self.groups]
        room = (MOST_ROWS - len(self.lines)) // max(1, len(self.groups)) if self.is_tall else 0
        of_groups = groups.notable(self.nodes, self.groups, min(MOST_CHILDREN, room))
        rows = self.nodes.filter(Q(pk__in=single) | Q(pk__in=of_groups.values("id"))).order_by("id").only(*_COLUMNS)
        found = list(rows)
        most = max(2, min(_MOST_EXECUTIONS, _MOST_MARKS // max(1, len(found))))
        lives = {node.pk: (node, life_of(node, now=self.now, most=most)) for node in found}
        alone = set(single)
        return lives, [node for node in found if node.pk not in alone]

    def _axis(self) -> tuple[Axis, dict[int, Crowd]]:
        """The axis, and what groups did on it: counted again where a gap is folded, or all would stand in one part."""
        start, is_open = self.run.inserted_at.timestamp(), self.run.finished_at is None
        end = self.now if self.run.finished_at is None else self.run.finished_at.timestamp()
        self.window = window_of(self.look.params, end - start)
        window = (start + self.window.start, _NEVER if self.window.follows else start + self.window.end)
        axis = make_axis(start, end, (), is_open=is_open, window=window)
        crowds = groups.crowds_of(self.nodes, self.groups, axis) if self.groups else {}
        busy = [each for _node, life in self.lives.values() for each in life.busy]
        folded = make_axis(start, end, [*busy, *groups.busy(crowds, axis)], is_open=is_open, window=window)
        if folded.gaps and self.groups:
            crowds = groups.crowds_of(self.nodes, self.groups, folded)
        return folded, crowds

    def _path(self) -> frozenset[int]:
        """The rows of the critical path, by what they took with waits and pauses; without cancelled ones at its end."""
        place = {index: position for position, index in enumerate(self.lines)}
        edges = [(place[a], place[b]) for a, b in self.structure.edges if a in place and b in place]
        path = [self.lines[position] for position in critical_path([self._took(index) for index in self.lines], edges)]
        while path and self._state(path[-1]) == "cancelled" and not self._took(path[-1]):
            path.pop()
        return frozenset(path)

    def _took(self, index: int) -> float:
        if index in self.groups:
            crowd = self.crowds[index]
            return 0.0 if crowd.start is None or crowd.end is None else crowd.end - crowd.start
        found = self.lives.get(self.structure.lines[index].first)
        return found[1].elapsed if found else 0.0

    def _began(self, index: int) -> float:
        if index in self.groups:
            start = self.crowds[index].start
        else:
            found = self.lives.get(self.structure.lines[index].first)
            start = found[1].start if found else None
        return _NEVER if start is None else start

    def _state(self, index: int) -> str:
        if index in self.groups:
            return state_of(self.crowds[index].states)
        found = self.lives.get(self.structure.lines[index].first)
        return str(found[0].state) if found else ""

    # Rows -------------------------------------------------------------------------------------------------------------

    def _order(self, index: int) -> tuple[int, float, int]:
        return self.structure.lines[index].rank, self._began(index), index

    def _children_of(self, line: Line) -> list[WorkflowNode]:
        found = [node for node in self.children if line.members.place_of(node.pk) is not None]
        return sorted(found, key=lambda node: (WORST_FIRST.index(node.state), node.pk))

    def _step_row(self, node: WorkflowNode, *, is_child: bool = False, is_critical: bool = False) -> Row:
        life = self.lives[node.pk][1]
        label = str(node.get_state_display())
        has_line = is_critical and bool(life.spans) and self.axis.shows(life.spans[0].start, life.spans[-1].end)
        return Row(
            name=node.name,
            address=self.look.address(step=node.name),
            state=str(node.state),
            state_label=label,
            note=f"{_TIMES}{number(node.attempt)}" if node.attempt > 1 else "",
            time=life.own_time,
            label=life.words,
            is_child=is_child,
            is_open=self.look.step is not None and self.look.step.pk == node.pk,
            node=node.pk,
            version=node.version,
            marks=[span.mark(self.axis) for span in life.spans if self.axis.shows(span.start, span.end)],
            is_critical=is_critical,
            path_x=percent(self.axis.x(life.spans[0].start)) if has_line else "",
            path_end=percent(self.axis.x(life.spans[-1].end)) if has_line else "",
        )

    def _group_rows(self, index: int, line: Line, *, is_critical: bool) -> list[Row]:
        """A group, some of its steps, and behind the last of them the way to the others."""
        children = [self._step_row(node, is_child=True) for node in self._children_of(line)]
        rows = [self._group_row(index, line, is_critical=is_critical), *children]
        if children and (more := line.members.count - len(children)):
            rows[-1] = replace(rows[-1], more=rows[0].address, more_label=_("{count} more").format(count=number(more)))
        return rows

    def _group_row(self, index: int, line: Line, *, is_critical: bool) -> Row:
        crowd = self.crowds[index]
        state = state_of(crowd.states)
        count = line.members.count
        states = ",".join(WORST_FIRST)
        steps_of_group = self.look.address(view="steps", q=line.name, step="", states=states, **NO_WINDOW)
        has_run = crowd.start is not None and crowd.end is not None
        is_path = is_critical and has_run and self.axis.shows(crowd.start or 0, crowd.end or 0)
        counts = ", ".join(counted(each, crowd.states[each]) for each in WORST_FIRST if crowd.states.get(each))
        height, top, floor = _TALL if self.is_tall else _LOW
        return Row(
            name=line.name or _("steps alike"),
            address=steps_of_group,
            state=state,
            state_label=str(StepState(state).label),
            note=_note(count, crowd.peak),
            time=duration((crowd.end or 0) - (crowd.start or 0)) if has_run else "",
            label=_("{counts}; about {peak} at once").format(counts=counts, peak=number(crowd.peak)),
            is_group=True,
            height=height,
            path_y=f"{floor + 1.5}",
            columns=_columns(crowd, top, floor, now=self.axis.x(self.axis.end)),
            failures=[percent((part + 0.5) * 100 / groups.BUCKETS) for part in sorted(set(crowd.failures))],
            is_critical=is_critical,
            path_x=percent(self.axis.x(crowd.start or 0)) if is_path else "",
            path_end=percent(self.axis.x(crowd.end or 0)) if is_path else "",
        )


def _note(count: int, peak: int) -> str:
    if not peak:
        return _("{times} {count}").format(times=_TIMES, count=number(count))
    return _("{times} {count}, peak {peak}").format(times=_TIMES, count=number(count), peak=number(peak))


def _columns(crowd: Crowd, ceiling: int, floor: int, *, now: float) -> list[Column]:
    """The area up to now, as columns; parts of one height next to each other are one."""
    top = max(crowd.heights, default=0.0)
    columns: list[tuple[int, int, int]] = []
    for part, height in enumerate(crowd.heights):
        pixels = max(1, round((floor - ceiling) * height / top)) if top > _NOTHING and height > _NOTHING else 0
        if columns and columns[-1][2] == pixels and columns[-1][1] == part:
            columns[-1] = (columns[-1][0], part + 1, pixels)
        else:
            columns.append((part, part + 1, pixels))
    width = 100 / groups.BUCKETS
    return [
        Column(x=percent(a * width), width=percent(min(b * width, now) - a * width), y=floor - pixels, height=pixels)
        for a, b, pixels in columns
        if pixels
    ]


def _kinds(rows: Sequence[Row], spend: Spend | None) -> frozenset[str]:
    kinds = {mark.kind for row in rows for mark in row.marks} | {mark.ending for row in rows for mark in row.marks}
    kinds |= {"area"} if any(row.columns for row in rows) else set()
    kinds |= {"path"} if any(row.path_x for row in rows) else set()
    kinds |= {"unpriced"} if spend is not None and spend.unpriced else set()
    return frozenset(kinds - {""})
