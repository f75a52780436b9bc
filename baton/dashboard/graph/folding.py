"""Folding: which steps are drawn as one node, so that a picture never has more than 300."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from baton.dashboard.graph.grouping import FEWEST_TWINS, Alike, Groups, Kind, fan_outs_and_twins, without_crowds
from baton.dashboard.graph.junctions import Junction, with_junctions
from baton.dashboard.graph.members import Members
from baton.dashboard.graph.names import common_name
from baton.dashboard.graph.neighbourhood import nearest
from baton.dashboard.graph.shape import Edge, Shape
from baton.dashboard.graph.thinning import without_implied

MOST_NODES = 300
MOST_EDGES = 1500
MOST_OPENED = 60
"""Groups of more steps do not open in place."""
_MOST_NEIGHBOURS = 24
"""How many neighbours each hop brings where all of them are too many."""
_MOST_AROUND = 100
WIDEST_RANK = 12
"""Above so many nodes side by side, those of one function fold even where there is room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """What is drawn as one node: a step, or a group of them."""

    key: str
    """Names it in addresses and in the page."""
    kind: Kind
    name: str
    """A step's name, or what the names of a group have in common; empty where that is nothing."""
    members: Members
    ignores_failures: bool = False
    opened: tuple[tuple[int, str], ...] = ()
    """The steps of a group that is open in place, by id and name."""

    @property
    def is_group(self) -> bool:
        """Whether it stands for several steps."""
        return self.kind != "step"

    @property
    def count(self) -> int:
        """How many steps it stands for."""
        return self.members.count

    @property
    def can_open(self) -> bool:
        """Whether its steps can be shown in its place."""
        return self.is_group and self.count <= MOST_OPENED


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """The nodes to draw, in reading order, and the edges between their positions."""

    folds: tuple[Fold, ...]
    edges: tuple[Edge, ...]
    total: int
    """How many steps the run has."""
    total_edges: int
    """How many dependencies it has."""
    is_thinned: bool = False
    """Whether dependencies are left out that others imply."""
    around: str = ""
    """The step whose neighbourhood this is; empty for a whole run."""

    @property
    def shown(self) -> int:
        """How many steps are in the picture."""
        return sum(fold.count for fold in self.folds)


def fold(shape: Shape, *, opened: Collection[str] = (), around: int | None = None) -> Folded:
    """Fold a run until it can be drawn.

    Fan-outs always fold, twins from nine on. Where a rank is still very wide, or the whole too big, steps of one rank
    and one function fold too. What is too big even then is drawn as the neighbourhood of one step.

    Args:
        shape: The run.
        opened: Keys of groups that the reader opened in place.
        around: The id of the step to draw the neighbourhood of, if it comes to that; else that of the first step.
    """
    first = fan_outs_and_twins(shape)
    alike = Alike(shape, first)
    groups = alike.together(least=FEWEST_TWINS, widest=WIDEST_RANK)
    for least in (FEWEST_TWINS, 2):
        if _is_too_big(groups):
            groups = alike.together(least=least, widest=0)
    if not _is_too_big(groups):
        return _folded(shape, without_crowds(groups), opened)
    step = next((index for index, step in enumerate(shape.steps) if step.id == around), 0)
    centre = next(index for index, members in enumerate(first.members) if step in members)
    for most in (None, _MOST_NEIGHBOURS):
        near = first.part(nearest(centre, len(first), first.edges, most=most))
        groups = Alike(shape, near).together(least=FEWEST_TWINS, widest=WIDEST_RANK)
        if not _is_too_big(groups, most_nodes=_MOST_AROUND):
            break
    return _folded(shape, without_crowds(groups), opened, around=shape.steps[step].name)


def _is_too_big(groups: Groups, *, most_nodes: int = MOST_NODES) -> bool:
    return len(groups) > most_nodes or _drawn(with_junctions(_edges_to_draw(groups))) > MOST_EDGES


def _edges_to_draw(groups: Groups) -> Sequence[Edge]:
    """All edges; where they are too many to follow, only those that no way over other steps implies."""
    if _drawn(with_junctions(groups.edges)) <= MOST_EDGES:
        return groups.edges
    return without_implied(len(groups), groups.edges)


def _drawn(parts: tuple[Sequence[Edge], Sequence[Junction]]) -> int:
    edges, junctions = parts
    return len(edges) + sum(len(junction.sources) + len(junction.targets) for junction in junctions)


def _folded(shape: Shape, groups: Groups, opened: Collection[str], *, around: str = "") -> Folded:
    order = sorted(range(len(groups)), key=lambda group: min(groups.members[group]))
    position = {group: index for index, group in enumerate(order)}
    folds: list[Fold] = []
    keys: dict[str, int] = {}
    room = MOST_NODES - len(order)
    for group in order:
        members, kind = groups.members[group], groups.kinds[group]
        key = _key(shape, members, kind)
        keys[key] = keys.get(key, 0) + 1
        if keys[key] > 1:
            key = f"{key}~{keys[key]}"
        is_open = key in opened and kind != "step" and len(members) <= min(room, MOST_OPENED)
        room -= len(members) if is_open else 0
        folds.append(_fold(shape, members, kind, key, is_open=is_open))
    edges = _edges_to_draw(groups)
    return Folded(
        folds=tuple(folds),
        edges=tuple(sorted((position[source], position[target]) for source, target in edges)),
        total=len(shape.steps),
        total_edges=sum(map(len, shape.dependents)),
        is_thinned=len(edges) < len(groups.edges),
        around=around,
    )


def _fold(shape: Shape, members: Sequence[int], kind: Kind, key: str, *, is_open: bool) -> Fold:
    steps = [shape.steps[index] for index in members]
    if kind == "step":
        name = steps[0].name
    elif kind == "fan_out":
        name = steps[0].fan_group
    else:
        name = common_name([step.name for step in steps], [step.function for step in steps])
    return Fold(
        key=key,
        kind=kind,
        name=name,
        members=Members.of([step.id for step in steps]),
        ignores_failures=all(step.ignores_failures for step in steps),
        opened=tuple((step.id, step.name) for step in steps) if is_open else (),
    )


def _key(shape: Shape, members: Sequence[int], kind: Kind) -> str:
    first = shape.steps[members[0]]
    return f"{kind}:{first.fan_group if kind == 'fan_out' else first.name}"
