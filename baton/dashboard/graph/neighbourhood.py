"""The neighbourhood of a node: two hops against the edges and two along them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from baton.dashboard.graph.shape import Edge

_HOPS = 2


def nearest(centre: int, count: int, edges: Iterable[Edge], *, most: int | None = None) -> list[int]:
    """What is not farther than two hops up or down, with the centre.

    Args:
        centre: The node in the middle.
        count: How many nodes there are.
        edges: Pairs of positions.
        most: How many more nodes each hop brings at most; None for all.
    """
    above: list[list[int]] = [[] for _ in range(count)]
    below: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        above[target].append(source)
        below[source].append(target)
    found = {centre: None}
    for around in (above, below):
        here = [centre]
        for _hop in range(_HOPS):
            here = _step(here, around, found)[:most]
            found.update(dict.fromkeys(here))
    return list(found)


def _step(here: Iterable[int], around: Sequence[Sequence[int]], found: dict[int, None]) -> list[int]:
    return sorted(dict.fromkeys(other for node in here for other in around[node] if other not in found))
