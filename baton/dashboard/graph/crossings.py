"""Order within levels, so that few edges cross."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from baton.dashboard.graph.levels import Levels

_MOST_SWEEPS = 8
_MOST_VAIN_SWEEPS = 3
_MOST_VERTICES_TO_SWAP = 600


def reduce_crossings(levels: Levels) -> int:
    """Order each level by where its neighbours stand, over and over; the best order found is left.

    Returns:
        How many crossings there are.
    """
    place = [0] * len(levels.level_of)
    for level in levels.levels:
        _number(level, place)
    fewest, best, vain = crossings(levels, place), [list(level) for level in levels.levels], 0
    for sweep in range(_MOST_SWEEPS):
        if not fewest or vain == _MOST_VAIN_SWEEPS:
            break
        _sweep(levels.levels[1:], levels.up, place, is_reversed=bool(sweep % 2))
        _sweep(levels.levels[-2::-1], levels.down, place, is_reversed=bool(sweep % 2))
        if len(place) <= _MOST_VERTICES_TO_SWAP:
            _swap_neighbours(levels, place)
        found = crossings(levels, place)
        vain += 1
        if found < fewest:
            fewest, best, vain = found, [list(level) for level in levels.levels], 0
    levels.levels = best
    return fewest


def crossings(levels: Levels, place: Sequence[int]) -> int:
    """How many edges between neighbouring levels cross."""
    total = 0
    for level in levels.levels:
        seen: list[int] = []
        for vertex in level:
            for end in sorted(place[below] for below in levels.down[vertex]):
                at = bisect_right(seen, end)
                total += len(seen) - at
                seen.insert(at, end)
    return total


def _sweep(
    levels: Iterable[list[int]], around: Sequence[Sequence[int]], place: list[int], *, is_reversed: bool
) -> None:
    for level in levels:
        wanted = {vertex: _mean(around[vertex], place, place[vertex]) for vertex in level}
        if is_reversed:
            # Those that want the same place change places, which leads out of dead ends.
            level.reverse()
        level.sort(key=wanted.__getitem__)
        _number(level, place)


def _swap_neighbours(levels: Levels, place: list[int]) -> None:
    """Swap what stands side by side wherever that saves crossings."""
    for level in levels.levels:
        for at in range(len(level) - 1):
            left, right = level[at], level[at + 1]
            saved = sum(
                _pairs_out_of_order(around[left], around[right], place)
                - _pairs_out_of_order(around[right], around[left], place)
                for around in (levels.up, levels.down)
            )
            if saved > 0:
                level[at], level[at + 1] = right, left
                place[left], place[right] = at + 1, at


def _pairs_out_of_order(left: Sequence[int], right: Sequence[int], place: Sequence[int]) -> int:
    if not left or not right:
        return 0
    ends = sorted(place[vertex] for vertex in right)
    return sum(bisect_right(ends, place[vertex] - 1) for vertex in left)


def _mean(vertices: Sequence[int], place: Sequence[int], otherwise: float) -> float:
    if not vertices:
        return otherwise
    return sum(place[vertex] for vertex in vertices) / len(vertices)


def _number(level: Iterable[int], place: list[int]) -> None:
    for at, vertex in enumerate(level):
        place[vertex] = at
