"""Levels: on which line each node stands, and the waypoints of edges that pass lines between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from baton.dashboard.graph.junctions import Junction
from baton.dashboard.graph.shape import Edge, ranks_of

_MOST_WAYPOINTS = 2000
_FEWEST_TO_ONE_TARGET = 3


@dataclass(slots=True)
class Levels:
    """A layered graph: nodes first, then junctions, then waypoints, each on a level."""

    nodes: int
    """How many of the vertices are nodes."""
    level_of: list[int]
    levels: list[list[int]]
    is_row: list[bool]
    """Which levels are rows of nodes; junctions stand between two of these."""
    up: list[list[int]] = field(default_factory=list)
    down: list[list[int]] = field(default_factory=list)
    ways: dict[Edge, tuple[int, ...]] = field(default_factory=dict)
    """The waypoints of each edge, from its source down."""
    trunks: list[list[int]] = field(default_factory=list)
    """Waypoints that follow each other down the same line."""
    first_waypoint: int = 0

    def add(self, level: int) -> int:
        """Another vertex."""
        self.level_of.append(level)
        self.up.append([])
        self.down.append([])
        self.levels[level].append(len(self.level_of) - 1)
        return len(self.level_of) - 1


def levelled(count: int, edges: Sequence[Edge], junctions: Sequence[Junction]) -> Levels:
    """Put nodes on rows, junctions between rows, and waypoints where edges pass a level.

    Args:
        count: How many nodes there are.
        edges: Those drawn from node to node.
        junctions: What is drawn through dots.
    """
    every = [*edges, *((source, target) for one in junctions for source in one.sources for target in one.targets)]
    rows = _pulled_down(count, every)
    # Twice the row, so that there is room for junctions between.
    places = [2 * row for row in rows]
    places += [2 * min(rows[target] for target in junction.targets) - 1 for junction in junctions]
    used = sorted(dict.fromkeys(places))
    number = {place: index for index, place in enumerate(used)}
    levels = Levels(count, [], [[] for _ in used], [not place % 2 for place in used])
    for place in places:
        levels.add(number[place])
    levels.first_waypoint = len(places)
    segments = list(edges)
    for index, junction in enumerate(junctions, start=count):
        segments += [(source, index) for source in junction.sources]
        segments += [(index, target) for target in junction.targets]
    _connect(levels, segments)
    return levels


def _pulled_down(count: int, edges: Sequence[Edge]) -> list[int]:
    """Ranks; a node without dependencies stands just above its first dependent."""
    ranks = ranks_of(count, edges)
    if ranks is None:
        raise ValueError("The graph has a circle.")
    nearest: dict[int, int] = {}
    with_dependency = bytearray(count)
    for source, target in edges:
        nearest[source] = min(nearest.get(source, ranks[target]), ranks[target])
        with_dependency[target] = 1
    return [
        rank if with_dependency[node] or node not in nearest else nearest[node] - 1 for node, rank in enumerate(ranks)
    ]


def _connect(levels: Levels, segments: Sequence[Edge]) -> None:
    """Lead each edge over the levels that it passes.

    Edges of one source share their waypoints, or else those of one target, so that they run as one line as far as they
    go the same way. Past the limit of waypoints edges go straight.
    """
    fans: Counter[int] = Counter()
    for source, target in segments:
        if _length(levels, (source, target)) > 1:
            fans.update((source, ~target))
    trunks: dict[int, dict[int, int]] = {}
    linked: dict[Edge, None] = {}
    for source, target in sorted(segments, key=lambda edge: (_length(levels, edge), edge)):
        shares_target = fans[~target] >= _FEWEST_TO_ONE_TARGET and fans[~target] > fans[source]
        trunk = trunks.setdefault(~target if shares_target else source, {})
        way = _way(levels, trunk, range(levels.level_of[source] + 1, levels.level_of[target]))
        levels.ways[source, target] = way
        if len(way) == _length(levels, (source, target)) - 1:
            linked.update(dict.fromkeys(pairwise([source, *way, target])))
    levels.trunks = [[trunk[level] for level in sorted(trunk)] for trunk in trunks.values() if trunk]
    for upper, lower in linked:
        levels.down[upper].append(lower)
        levels.up[lower].append(upper)


def _length(levels: Levels, edge: Edge) -> int:
    return levels.level_of[edge[1]] - levels.level_of[edge[0]]


def _way(levels: Levels, trunk: dict[int, int], passed: Sequence[int]) -> tuple[int, ...]:
    """A waypoint on each level, those that the trunk has and new ones; none where there are too many."""
    missing = [level for level in passed if level not in trunk]
    if len(levels.level_of) - levels.first_waypoint + len(missing) > _MOST_WAYPOINTS:
        return ()
    for level in missing:
        trunk[level] = levels.add(level)
    return tuple(trunk[level] for level in passed)
