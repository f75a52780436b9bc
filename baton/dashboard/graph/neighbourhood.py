"""The neighbourhood of a node: two hops against the edges and two along them, the nearest first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from baton.dashboard.graph.shape import Edge

_HOPS = 2


def nearest(centre: int, count: int, edges: Iterable[Edge], *, most_nodes: int, most_edges: int) -> list[int]:
    """What is not farther than two hops up or down, until there are too many nodes or edges; the centre first."""
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        above[target].append(source)
        below[source].append(target)
    kept = {centre: None}
    drawn_edges = 0
    for node in _by_distance(centre, above, below):
        drawn_edges += sum(other in kept for around in (above[node], below[node]) for other in around)
        if len(kept) == most_nodes or drawn_edges > most_edges:
            break
        kept[node] = None
    return list(kept)


def _by_distance(centre: int, above: Sequence[Sequence[int]], below: Sequence[Sequence[int]]) -> list[int]:
    found: dict[int, None] = {}
    up, down = [centre], [centre]
    for _hop in range(_HOPS):
        up = sorted(dict.fromkeys(other for node in up for other in above[node]))
        down = sorted(dict.fromkeys(other for node in down for other in below[node]))
        found.update(dict.fromkeys(up))
        found.update(dict.fromkeys(down))
    return list(found)
