"""Thinning: dependencies that others imply are left out where there are too many to follow."""

from __future__ import annotations

from collections.abc import Sequence

from baton.dashboard.graph.shape import Edge, ranks_of


def without_implied(count: int, edges: Sequence[Edge]) -> list[Edge]:
    """The edges that no longer way implies: the fewest that leave everything behind what it was behind."""
    ranks = ranks_of(count, edges)
    if ranks is None:
        return list(edges)
    dependents: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        dependents[source].append(target)
    # Bit n of a number says that node n is behind this one.
    behind = [0] * count
    kept = []
    for source in sorted(range(count), key=lambda node: (-ranks[node], node)):
        reached = 0
        for target in sorted(dependents[source], key=lambda node: (ranks[node], node)):
            if not reached >> target & 1:
                kept.append((source, target))
                reached |= behind[target] | 1 << target
        behind[source] = reached
    return sorted(kept)
