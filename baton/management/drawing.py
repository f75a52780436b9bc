"""A run's graph in lines: steps in topological order, what waits for what as lanes, many alike as one."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from baton.models import WorkflowNode
from baton.states import StepState

FOLDED_FROM = 9
"""From how many steps that differ in a number only are drawn as one line."""
MOST_LANES = 12
"""How many lanes are drawn side by side at most; a graph that needs more names its dependencies in words."""
MOST_LINES = 60
"""Up to how many steps each has a line of its own where dependencies are named in words."""

Waits = Mapping[int, Collection[int]]
"""The ids of dependencies by the id of the node that waits for them."""

_VARIABLE = re.compile(r"\[[^\]]*\]|\d+")
# What a group is like: what failed first, then what is under way.
_TELLING = (
    StepState.DISCARDED, StepState.RETRYABLE, StepState.EXECUTING, StepState.AVAILABLE, StepState.SNOOZED,
    StepState.PENDING, StepState.CANCELLED, StepState.COMPLETED,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Steps that are drawn as one line, mostly a single one."""

    nodes: Sequence[WorkflowNode]
    level: int
    """How many steps stand before it on the longest way."""
    waits_for: Sequence[Group]

    @property
    def name(self) -> str:
        """The step's name, or what is common to the names: ``page[0…399]``."""
        return common_name([node.name for node in self.nodes])

    @property
    def states(self) -> dict[str, int]:
        """How many steps are in each state, in the order of a step's life."""
        counts = Counter(str(node.state) for node in self.nodes)
        return {state: counts[state] for state in StepState.values if state in counts}

    @property
    def state(self) -> str:
        """The state that tells most about it."""
        return next(str(state) for state in _TELLING if state in self.states)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of a drawing."""

    group: Group
    before: str
    """The lanes left of the group's symbol."""
    behind: str
    """The lanes right of it."""
    below: str
    """The lanes that go on below, for lines that belong to this one."""


def draw(nodes: Sequence[WorkflowNode], waits: Waits) -> list[Row] | None:
    """Draw a graph with a lane for each result that is still waited for.

    Args:
        nodes: The steps of a run.
        waits: The dependencies; those of steps that are not there any more are left out.

    Returns:
        The lines; None where the graph is too wide for lanes.
    """
    levels = levels_of(nodes, waits)
    alike = _alike(nodes, waits, levels)
    groups = _grouped(nodes, waits, levels, alike)
    rows: list[Row] = []
    waited_for = Counter(each for group in groups for each in group.waits_for)
    lanes: list[Group | None] = []
    taboo = -1
    for group in groups:
        ends = {each for each in group.waits_for if waited_for[each] == 1}
        waited_for.subtract(group.waits_for)
        own = _lane_for(lanes, group, ends, taboo)
        if len(lanes) > MOST_LANES:
            return None
        rows.append(_row(lanes, own, group, ends, goes_on=waited_for[group] > 0))
        lanes = [None if lane in ends else lane for lane in lanes]
        lanes[own] = group if waited_for[group] else None
        # Right below a step that nothing waits for another would look as if it did.
        taboo = -1 if waited_for[group] else own
        while lanes and lanes[-1] is None:
            lanes.pop()
    width = max((len(row.before) + 1 + len(row.behind) for row in rows), default=0)
    return [_padded(row, width) for row in rows]


def in_levels(nodes: Sequence[WorkflowNode], waits: Waits) -> list[Group]:
    """The steps level by level; where they are many, those of a level that differ in a number only as one group."""
    levels = levels_of(nodes, waits)
    if len(nodes) <= MOST_LINES:
        return _grouped(nodes, waits, levels, {node.pk: node.pk for node in nodes})
    return _grouped(nodes, waits, levels, {node.pk: (levels[node.pk], pattern_of(node)) for node in nodes})


def folded(nodes: Sequence[WorkflowNode]) -> list[list[WorkflowNode]]:
    """Steps in their order, but those of one state that are many and differ in a number only where the last stands."""
    members: dict[Hashable, list[WorkflowNode]] = defaultdict(list)
    for node in nodes:
        members[pattern_of(node), node.state].append(node)
    place = {node.pk: number for number, node in enumerate(nodes)}
    return sorted(_parts(members.values()), key=lambda part: place[part[-1].pk])


def pattern_of(node: WorkflowNode) -> tuple[str, str]:
    """What steps that are alike have in common: their name but for numbers, and their function."""
    return _VARIABLE.sub("#", node.name), node.step


def common_name(names: Sequence[str]) -> str:
    """One name, or a pattern with the range of what differs."""
    if len(names) == 1:
        return names[0]
    fixed = _VARIABLE.split(names[0])
    places = zip(*(_VARIABLE.findall(name) for name in names), strict=True)
    return fixed[0] + "".join(_range(place) + text for place, text in zip(places, fixed[1:], strict=True))


def _range(values: Sequence[str]) -> str:
    if len(set(values)) == 1:
        return values[0]
    is_bracketed = values[0].startswith("[")
    bare = [value.strip("[]") for value in values]
    ends = (min(bare, key=int), max(bare, key=int)) if all(map(_is_number, bare)) else ("", "")
    text = "…".join(ends)
    return f"[{text}]" if is_bracketed else text


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


# Groups ---------------------------------------------------------------------------------------------------------


def levels_of(nodes: Iterable[WorkflowNode], waits: Waits) -> dict[int, int]:
    """For each step how many stand before it on the longest way."""
    levels: dict[int, int] = {}
    for node in sorted(nodes, key=lambda node: node.pk):
        # Ids rise in topological order.
        before = [levels[each] + 1 for each in waits.get(node.pk, ()) if each in levels]
        levels[node.pk] = max(before, default=0)
    return levels


def _alike(nodes: Sequence[WorkflowNode], waits: Waits, levels: Mapping[int, int]) -> dict[int, Hashable]:
    """Give steps of a level the same mark where name, function and all that stands around them are alike."""
    dependents: dict[int, list[int]] = defaultdict(list)
    for node_id, dependencies in waits.items():
        for dependency in dependencies:
            dependents[dependency].append(node_id)
    marks = _numbered({node.pk: (levels[node.pk], pattern_of(node)) for node in nodes})
    while True:
        finer = _numbered({
            node_id: (
                mark,
                frozenset(marks[each] for each in waits.get(node_id, ()) if each in marks),
                frozenset(marks[each] for each in dependents[node_id] if each in marks),
            )
            for node_id, mark in marks.items()
        })  # fmt: skip
        if len(set(finer.values())) == len(set(marks.values())):
            return dict(marks)
        marks = finer


def _numbered(marks: Mapping[int, Hashable]) -> dict[int, int]:
    numbers: dict[Hashable, int] = {}
    return {node_id: numbers.setdefault(mark, len(numbers)) for node_id, mark in marks.items()}


def _grouped(
    nodes: Sequence[WorkflowNode], waits: Waits, levels: Mapping[int, int], alike: Mapping[int, Hashable]
) -> list[Group]:
    """Put steps that are alike together where they are many; in topological order."""
    members: dict[Hashable, list[WorkflowNode]] = defaultdict(list)
    for node in nodes:
        members[alike[node.pk]].append(node)
    group_of: dict[int, Group] = {}
    for part in sorted(_parts(members.values()), key=lambda part: (levels[part[0].pk], part[0].pk)):
        # What it waits for is of lower levels, so it is there already; what is not there any more, nobody draws.
        ids = sorted({each for node in part for each in waits.get(node.pk, ())})
        waits_for = list(dict.fromkeys(group_of[each] for each in ids if each in group_of))
        group = Group(nodes=part, level=levels[part[0].pk], waits_for=waits_for)
        group_of |= {node.pk: group for node in part}
    return list(dict.fromkeys(group_of.values()))


def _parts(found: Iterable[list[WorkflowNode]]) -> list[list[WorkflowNode]]:
    """Leave together what is many, and take apart what is few."""
    return [part for nodes in found for part in ([nodes] if len(nodes) >= FOLDED_FROM else [[node] for node in nodes])]


# Lanes ----------------------------------------------------------------------------------------------------------


def _lane_for(lanes: list[Group | None], group: Group, ends: Collection[Group], taboo: int) -> int:
    """The lane of a group: one that ends here, else one that is free, else a new one."""
    first = min((lanes.index(each) for each in group.waits_for), default=-1)
    ending = [number for number, lane in enumerate(lanes) if lane in ends]
    free = [number for number, lane in enumerate(lanes) if lane is None and number > first and number != taboo]
    if ending or free:
        return (ending or free)[0]
    lanes += [None, None] if len(lanes) == taboo else [None]
    return len(lanes) - 1


def _row(lanes: Sequence[Group | None], own: int, group: Group, ends: Collection[Group], *, goes_on: bool) -> Row:
    joined = {number for number, lane in enumerate(lanes) if lane in group.waits_for} | {own}
    span = range(min(joined), max(joined) + 1)
    pieces = []
    for number, lane in enumerate(lanes):
        piece = _piece(number, lane, own, joined, span, is_end=lane in ends)
        reaches_on = number in span and number + 1 in span
        pieces.append(piece + ("─" if reaches_on else " "))
    below = "".join(_below(number, lane, own, ends, goes_on=goes_on) for number, lane in enumerate(lanes))
    return Row(group=group, before="".join(pieces[:own]), behind="".join(pieces[own:])[1:], below=below)


def _piece(number: int, lane: Group | None, own: int, joined: Collection[int], span: range, *, is_end: bool) -> str:
    if number in joined and number != own:
        is_between = min(joined) < number < max(joined)
        if is_between:
            return "┴" if is_end else "┼"
        if number < own:
            return "╰" if is_end else "├"
        return "╯" if is_end else "┤"
    if lane is not None:
        return "│"
    return "─" if number in span else " "


def _below(number: int, lane: Group | None, own: int, ends: Collection[Group], *, goes_on: bool) -> str:
    if number == own:
        return "│ " if goes_on else "  "
    return "│ " if lane is not None and lane not in ends else "  "


def _padded(row: Row, width: int) -> Row:
    return Row(
        group=row.group,
        before=row.before,
        behind=row.behind.ljust(width - len(row.before) - 1),
        below=row.below.ljust(width),
    )
