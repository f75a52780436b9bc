"""The critical path: the chain of steps that took longest so far."""

from __future__ import annotations

from collections.abc import Sequence

from baton.dashboard.graph.shape import Edge, ranks_of


def critical_path(seconds: Sequence[float], edges: Sequence[Edge]) -> list[int]:
    """The longest chain by measured times, from its first node to a node without dependents.

    What has not run yet counts nothing, so the chain goes on over what waits for it. Of chains that took the same time
    the one of more nodes is taken, then the one that is read first. Empty where nothing has run.

    Args:
        seconds: How long each node ran so far.
        edges: Pairs of positions.
    """
    ranks = ranks_of(len(seconds), edges)
    if ranks is None or not any(seconds):
        return []
    dependencies: list[list[int]] = [[] for _ in seconds]
    for source, target in edges:
        dependencies[target].append(source)
    best: list[tuple[float, int]] = [(0.0, 0)] * len(seconds)
    came_from = [-1] * len(seconds)
    for node in sorted(range(len(seconds)), key=lambda node: (ranks[node], node)):
        longest = (0.0, 0)
        for source in sorted(dependencies[node]):
            if best[source] > longest:
                longest, came_from[node] = best[source], source
        best[node] = (longest[0] + max(0.0, seconds[node]), longest[1] + 1)
    path = [max(range(len(seconds)), key=lambda node: (best[node], -node))]
    while came_from[path[-1]] >= 0:
        path.append(came_from[path[-1]])
    return path[::-1]
