"""Where on its level each vertex stands: near its neighbours, in order, with room between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from baton.dashboard.graph.levels import Levels

NODE_GAP = 20
_WAYPOINT_GAP = 14
_STRAIGHTNESS = 8.0
_ROUNDS = 10
_ROUNDS_WHERE_MANY = 5
_MANY = 800


def centres(levels: Levels, breadths: Sequence[float]) -> list[float]:
    """The middle of each vertex on its level.

    Each level in turn moves as near to its neighbours as order and gaps allow, in the sense of least squares.
    """
    at = [0.0] * len(levels.level_of)
    offsets = [_offsets(level, breadths, levels.first_waypoint) for level in levels.levels]
    for level, offset in zip(levels.levels, offsets, strict=True):
        for vertex, distance in zip(level, offset, strict=True):
            at[vertex] = distance - offset[-1] / 2
    downwards = list(zip(levels.levels, offsets, strict=True))
    upwards = downwards[::-1]
    both = [above + below for above, below in zip(levels.up, levels.down, strict=True)]
    for _round in range(_ROUNDS if len(at) <= _MANY else _ROUNDS_WHERE_MANY):
        for order, around in ((downwards, levels.up), (upwards, levels.down), (downwards, both)):
            for level, offset in order:
                _settle(level, offset, around, at, levels.first_waypoint)
    return at


def _offsets(level: Sequence[int], breadths: Sequence[float], first_waypoint: int) -> list[float]:
    """How far each vertex is from the first of its level at least."""
    offsets, total = [], 0.0
    for index, vertex in enumerate(level):
        if index:
            before = level[index - 1]
            gap = NODE_GAP if before < first_waypoint and vertex < first_waypoint else _WAYPOINT_GAP
            total += (breadths[before] + breadths[vertex]) / 2 + gap
        offsets.append(total)
    return offsets


def _settle(
    level: Sequence[int],
    offsets: Sequence[float],
    around: Sequence[Sequence[int]],
    at: list[float],
    first_waypoint: int,
) -> None:
    """Isotonic regression: neighbours that want to pass each other stand together at their weighted mean."""
    sums: list[float] = []
    weights: list[float] = []
    sizes: list[int] = []
    for vertex, offset in zip(level, offsets, strict=True):
        is_waypoint = vertex >= first_waypoint
        wanted = _wanted(vertex, around[vertex], at, first_waypoint if is_waypoint else None)
        weight = _STRAIGHTNESS if is_waypoint else 1.0
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


def _wanted(vertex: int, around: Iterable[int], at: Sequence[float], first_waypoint: int | None) -> float:
    """The mean of the neighbours; a waypoint follows other waypoints rather than nodes."""
    total, weights = 0.0, 0.0
    for other in around:
        weight = _STRAIGHTNESS if first_waypoint is not None and other >= first_waypoint else 1.0
        total += at[other] * weight
        weights += weight
    return total / weights if weights else at[vertex]
