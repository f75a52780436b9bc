"""Which rows a timeline has: steps and groups of them, in topological order; kept until the run grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from django.core.cache import cache

from baton.dashboard.graph.grouping import FEWEST_TWINS, Alike, fan_outs_and_twins
from baton.dashboard.graph.members import Members
from baton.dashboard.graph.names import common_name
from baton.dashboard.graph.shape import Edge, Shape, Step, ranks_of
from baton.dashboard.known import Known
from baton.models import WorkflowEdge, WorkflowNode, WorkflowRun

MOST_ROWS = 200
"""Above so many, steps of one rank and one function share a row; what is still too much is cut."""
_KEPT_SECONDS = 3600
_COLUMNS = ("id", "name", "step", "fan_group", "fan_index")


class Line(NamedTuple):
    """A row: a step, or a group."""

    name: str
    is_group: bool
    members: Members
    rank: int

    @property
    def first(self) -> int:
        """The id of its first step."""
        return self.members.series[0].first


@dataclass(frozen=True, slots=True)
class Structure:
    """The rows of a run in the order of its graph, and what waits for what."""

    lines: Sequence[Line]
    edges: Sequence[Edge]
    total: int


def structure_of(run: WorkflowRun, known: Known, *, using: str) -> Structure:
    """Read the structure of a run: no query where it is kept, two where the run is new or has grown."""
    key = f"baton:timeline:1:{using}:{run.pk}:{known.steps}:{known.last}:{known.edges}"
    kept: Structure | None = cache.get(key)
    if kept is None:
        kept = _read(run, using)
        cache.set(key, kept, _KEPT_SECONDS)
    return kept


def _read(run: WorkflowRun, using: str) -> Structure:
    nodes = WorkflowNode.objects.using(using).of_workflow(run.pk).order_by("id")
    steps = [Step(*row) for row in nodes.values_list(*_COLUMNS)]
    edges = WorkflowEdge.objects.using(using).filter(node__run_id=run.pk).order_by()
    return fold(Shape.of(steps, edges.values_list("dependency_id", "node_id")))


def fold(shape: Shape) -> Structure:
    """Fold fan-outs and twins; steps of one rank and function, too, where there are too many rows."""
    groups = fan_outs_and_twins(shape)
    if len(groups) > MOST_ROWS:
        alike = Alike(shape, groups)
        for least in (FEWEST_TWINS, 2):
            if len(groups) > MOST_ROWS:
                groups = alike.together(least=least, widest=0)
    ranks = ranks_of(len(groups), groups.edges) or [0] * len(groups)
    lines = []
    for members, rank in zip(groups.members, ranks, strict=True):
        steps = [shape.steps[index] for index in members]
        name = steps[0].name if len(steps) == 1 else _name(steps)
        lines.append(Line(name, len(steps) > 1, Members.of([step.id for step in steps]), rank))
    return Structure(lines, tuple(groups.edges), len(shape.steps))


def _name(steps: Sequence[Step]) -> str:
    group = steps[0].fan_group
    if group and all(step.fan_group == group for step in steps):
        return group
    return common_name([step.name for step in steps], [step.function for step in steps])
