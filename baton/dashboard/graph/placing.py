"""Where on its level each vertex stands: near its neighbours, in order, with room between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from baton.dashboard.graph.levels import Levels
from baton.dashboard.graph.straightening import Slots, align, straighten

NODE_GAP = 20
_WAYPOINT_GAP = 14
_NODE_WEIGHT = 1.0
_WAYPOINT_WEIGHT = 0.25
"""How much a waypoint that is in the way of a node counts."""
_UNLIKE = 0.01
"""How much a node follows waypoints where it has other neighbours, and the other way round."""
_FIXED = 1000.0
_ROUNDS = 10
_ROUNDS_WHERE_MANY = 5
_MANY = 800


def centres(levels: Levels, breadths: Sequence[float]) -> list[float]:
    """The middle of each vertex on its level.

    Each level in turn moves as near to its neighbours as order and gaps allow, in the sense of least squares. Then long
    edges are made straight, and nodes move once more between them.
    """
    at = [0.0] * len(levels.level_of)
    distances = [_distances(level, breadths, levels.first_waypoint) for level in levels.levels]
    offsets = [list(accumulate(apart)) for apart in distances]
    for level, offset in zip(levels.levels, offsets, strict=True):
        for vertex, distance in zip(level, offset, strict=True):
            at[vertex] = distance - offset[-1] / 2
    downwards = list(zip(levels.levels, offsets, strict=True))
    upwards = downwards[::-1]
    both = [above + below for above, below in zip(levels.up, levels.down, strict=True)]
    weights = [_NODE_WEIGHT] * levels.first_waypoint + [_WAYPOINT_WEIGHT] * (len(at) - levels.first_waypoint)
    for _round in range(_ROUNDS if len(at) <= _MANY else _ROUNDS_WHERE_MANY):
        for order, around in ((downwards, levels.up), (upwards, levels.down), (downwards, both)):
            for level, offset in order:
                _settle(level, offset, around, at, weights)
    slots = Slots(levels, distances, at)
    straighten(levels, slots)
    _fix(levels.trunks, weights, both)
    for order in (downwards, upwards):
        for level, offset in order:
            _settle(level, offset, both, at, weights)
    align(levels, slots)
    straighten(levels, slots)
    return at


def _fix(trunks: Iterable[Iterable[int]], weights: list[float], both: list[list[int]]) -> None:
    """Waypoints that were made straight stay where they are, as far as others let them."""
    for trunk in trunks:
        for vertex in trunk:
            weights[vertex] = _FIXED
            both[vertex] = [vertex]


def _distances(level: Sequence[int], breadths: Sequence[float], first_waypoint: int) -> list[float]:
    """How far each vertex is from the one before it at least."""
    distances = [0.0]
    for before, vertex in pairwise(level):
        gap = NODE_GAP if before < first_waypoint and vertex < first_waypoint else _WAYPOINT_GAP
        distances.append((breadths[before] + breadths[vertex]) / 2 + gap)
    return distances


def _settle(
    level: Sequence[int],
    offsets: Sequence[float],
    around: Sequence[Sequence[int]],
    at: list[float],
    weight_of: Sequence[float],
) -> None:
    """Isotonic regression: neighbours that want to pass each other stand together at their weighted mean."""
    sums: list[float] = []
    weights: list[float] = []
    sizes: list[int] = []
    for vertex, offset in zip(level, offsets, strict=True):
        weight = weight_of[vertex]
        wanted = _wanted(vertex, around[vertex], at, weight_of)
        total, size = (wanted - offset) * weight, 1
        while sums and sums[-1] * weight > total * weights[-1]:
            total += sums.pop()
            weight += weights.pop()
            size += sizes.pop()
        sums.append(total)
        weights.append(weight)
        sizes.append(size)
    index = 0
    for total, weight, size in zip(sums, weights, sizes, strict=True):
        mean = total / weight
        for vertex, offset in zip(level[index : index + size], offsets[index : index + size], strict=True):
            at[vertex] = mean + offset
        index += size


def _wanted(vertex: int, around: Iterable[int], at: Sequence[float], weight_of: Sequence[float]) -> float:
    """The mean of the neighbours; nodes follow nodes first, and waypoints waypoints, so that both stand in line."""
    is_node = weight_of[vertex] == _NODE_WEIGHT
    total, weights = 0.0, 0.0
    for other in around:
        weight = 1.0 if is_node == (weight_of[other] == _NODE_WEIGHT) else _UNLIKE
        total += at[other] * weight
        weights += weight
    return total / weights if weights else at[vertex]
