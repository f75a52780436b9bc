"""Long edges run straight where there is room for that."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from baton.dashboard.graph.levels import Levels

Slot = tuple[float, float]

_ALMOST = 24


class Slots:
    """How far each vertex can move on its level without touching those beside it."""

    def __init__(self, levels: Levels, distances: Sequence[Sequence[float]], at: list[float]) -> None:
        """Read a graph with places.

        Args:
            levels: The graph.
            distances: How far each vertex of a level is from the one before it, at least; as long as the level.
            at: Where each vertex stands; these places are read as they are when a slot is asked for.
        """
        self.at = at
        self.before: dict[int, tuple[int, float]] = {}
        self.after: dict[int, tuple[int, float]] = {}
        for level, apart in zip(levels.levels, distances, strict=True):
            for (before, vertex), distance in zip(pairwise(level), apart[1:], strict=True):
                self.before[vertex] = before, distance
                self.after[before] = vertex, distance

    def of(self, vertex: int) -> Slot:
        """The leftmost and the rightmost place."""
        before, after = self.before.get(vertex), self.after.get(vertex)
        return (
            self.at[before[0]] + before[1] if before else float("-inf"),
            self.at[after[0]] - after[1] if after else float("inf"),
        )


def straighten(levels: Levels, slots: Slots) -> None:
    """Move the waypoints of each trunk to one line, or as few lines as there is room for; the longest first."""
    for trunk in sorted(levels.trunks, key=lambda trunk: (-len(trunk), trunk)):
        start = 0
        while start < len(trunk):
            end, (low, high) = start + 1, slots.of(trunk[start])
            while end < len(trunk):
                left, right = slots.of(trunk[end])
                if max(low, left) > min(high, right):
                    break
                low, high = max(low, left), min(high, right)
                end += 1
            line = _line(levels, trunk[start:end], slots.at, low, high)
            for vertex in trunk[start:end]:
                slots.at[vertex] = line
            start = end


def align(levels: Levels, slots: Slots) -> None:
    """Put the links of chains under each other, and exactly over or under its only neighbour what almost is."""
    above = [_nodes(levels, others) for others in levels.up]
    below = [_nodes(levels, others) for others in levels.down]
    for order, here, beyond in ((levels.levels, above, below), (levels.levels[::-1], below, above)):
        for vertex in (vertex for level in order for vertex in level):
            if vertex >= levels.first_waypoint or len(here[vertex]) != 1:
                continue
            other = here[vertex][0]
            is_chain = len(beyond[other]) == 1 and len(beyond[vertex]) <= 1
            low, high = slots.of(vertex)
            there = slots.at[other]
            if low <= there <= high and (is_chain or abs(there - slots.at[vertex]) < _ALMOST):
                slots.at[vertex] = there


def _nodes(levels: Levels, vertices: Sequence[int]) -> list[int]:
    return [vertex for vertex in vertices if vertex < levels.first_waypoint]


def _line(levels: Levels, trunk: Sequence[int], at: Sequence[float], low: float, high: float) -> float:
    """Where the line stands: over its end or under its start if it can, else where it wants to be."""
    for ends in (levels.down[trunk[-1]], levels.up[trunk[0]]):
        if len(ends) == 1 and low <= at[ends[0]] <= high:
            return at[ends[0]]
    return min(high, max(low, sum(at[vertex] for vertex in trunk) / len(trunk)))
