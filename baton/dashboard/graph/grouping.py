"""Which steps belong together: fan-outs, twins, and steps of one rank and one function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from baton.dashboard.graph.shape import Edge, Shape, ranks_of

Kind = Literal["step", "fan_out", "twins", "alike"]

FEWEST_TWINS = 9
_CROWD = 50


@dataclass(frozen=True, slots=True)
class Groups:
    """Steps put together: the steps of each group, what kind it is, and the edges between groups."""

    members: Sequence[Sequence[int]]
    kinds: Sequence[Kind]
    edges: Sequence[Edge]

    def __len__(self) -> int:
        return len(self.members)

    def part(self, kept: Iterable[int]) -> Groups:
        """Some of these groups alone, in their order."""
        order = sorted(kept)
        new = {group: index for index, group in enumerate(order)}
        return Groups(
            [self.members[group] for group in order],
            [self.kinds[group] for group in order],
            [(new[source], new[target]) for source, target in self.edges if source in new and target in new],
        )


def fan_outs_and_twins(shape: Shape) -> Groups:
    """Fan-outs as they were declared, and steps with the same dependencies and dependents where they are many."""
    groups = _grouped(shape, _labels(shape))
    if ranks_of(len(groups), groups.edges) is None:
        # A step stands between two children of one fan-out: together they would make a circle.
        edges = ((source, target) for source, targets in enumerate(shape.dependents) for target in targets)
        groups = _grouped(shape, _labels(shape, ranks_of(len(shape.steps), edges)))
    return groups


class Alike:
    """Groups that may be put together, for they have one rank and one function."""

    def __init__(self, shape: Shape, groups: Groups) -> None:
        """Read ranks and functions once, for all that is tried."""
        self.groups = groups
        self.ranks = ranks_of(len(groups), groups.edges) or [0] * len(groups)
        self.widths = Counter(self.ranks)
        self.functions = [_function(shape, members) for members in groups.members]

    def together(self, *, least: int, widest: int) -> Groups:
        """Put at least so many together, in ranks that are wider than that.

        Two steps of one rank never wait for each other, so this makes no circle.
        """
        labels = [
            (rank, function) if function is not None and self.widths[rank] > widest else None
            for rank, function in zip(self.ranks, self.functions, strict=True)
        ]
        times = Counter(labels)
        if all(label is None or count < least for label, count in times.items()):
            return self.groups
        return _merged(self.groups, [label if times[label] >= least else None for label in labels])


def without_crowds(groups: Groups) -> Groups:
    """Put single steps together that are too many side by side, whatever their functions are."""
    ranks = ranks_of(len(groups), groups.edges) or [0] * len(groups)
    singles = [rank if kind == "step" else None for rank, kind in zip(ranks, groups.kinds, strict=True)]
    times = Counter(singles)
    return _merged(groups, [rank if times[rank] > _CROWD else None for rank in singles])


def _labels(shape: Shape, ranks: Sequence[int] | None = None) -> list[Hashable]:
    """What the steps of one group have in common."""
    sizes = Counter(step.fan_group for step in shape.steps if step.fan_group)
    labels: list[Hashable] = []
    for index, step in enumerate(shape.steps):
        if sizes[step.fan_group] > 1:
            labels.append((step.fan_group, None if ranks is None else ranks[index]))
        else:
            labels.append((tuple(sorted(shape.dependencies[index])), tuple(sorted(shape.dependents[index])), None))
    times = Counter(labels)
    return [
        index if len(label) == 3 and times[label] < FEWEST_TWINS else label  # type: ignore[arg-type]
        for index, label in enumerate(labels)
    ]


def _grouped(shape: Shape, labels: Sequence[Hashable]) -> Groups:
    numbers: dict[Hashable, int] = {}
    members: list[list[int]] = []
    group_of = []
    for index, label in enumerate(labels):
        number = numbers.setdefault(label, len(members))
        if number == len(members):
            members.append([])
        members[number].append(index)
        group_of.append(number)
    for group in members:
        if len(group) > 1:
            group.sort(key=lambda index: _place(shape, index))
    edges = dict.fromkeys(
        (group_of[source], group_of[target]) for source, targets in enumerate(shape.dependents) for target in targets
    )
    kinds = [_kind(shape, group) for group in members]
    return Groups(members, kinds, [edge for edge in edges if edge[0] != edge[1]])


def _merged(groups: Groups, labels: Sequence[Hashable | None]) -> Groups:
    """Groups of one label become one; those without a label stay."""
    numbers: dict[Hashable, int] = {}
    members: list[list[int]] = []
    kinds: list[Kind] = []
    new = []
    for index, label in enumerate(labels):
        number = len(members) if label is None else numbers.setdefault(label, len(members))
        if number == len(members):
            members.append(list(groups.members[index]))
            kinds.append(groups.kinds[index])
        else:
            members[number].extend(groups.members[index])
            kinds[number] = "alike"
        new.append(number)
    edges = dict.fromkeys((new[source], new[target]) for source, target in groups.edges)
    return Groups(members, kinds, list(edges))


def _kind(shape: Shape, members: Sequence[int]) -> Kind:
    if len(members) == 1:
        return "step"
    return "fan_out" if shape.steps[members[0]].fan_group else "twins"


def _place(shape: Shape, index: int) -> tuple[bool, int, int]:
    """Children of a fan-out stand by their index, other steps as they were added."""
    fan_index = shape.steps[index].fan_index
    return fan_index is None, fan_index or 0, index


def _function(shape: Shape, members: Sequence[int]) -> str | None:
    """The function of all members, or None."""
    function = shape.steps[members[0]].function
    return function if all(shape.steps[index].function == function for index in members) else None
