"""Junctions: where each of many steps feeds each of many others, the edges meet in one dot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from baton.dashboard.graph.shape import Edge

FEWEST_PAIRS = 6
"""From so many edges on, a dot is easier to read than the edges."""


@dataclass(frozen=True, slots=True)
class Junction:
    """Every source feeds every target."""

    sources: tuple[int, ...]
    targets: tuple[int, ...]


def with_junctions(edges: Sequence[Edge]) -> tuple[list[Edge], list[Junction]]:
    """Replace all-to-all layers.

    Layers are found from both sides: by targets that wait for the same, then, among the edges that are left, by sources
    that are waited for by the same. So a layer is also found whose targets wait for something else besides.

    Returns:
        The edges that are left, and the junctions for the others.
    """
    junctions: list[Junction] = []
    left = list(edges)
    for is_by_target in (True, False):
        found = _layers(left, is_by_target=is_by_target)
        taken = {(source, target) for junction in found for source in junction.sources for target in junction.targets}
        left = [edge for edge in left if edge not in taken]
        junctions += found
    return left, junctions


def _layers(edges: Iterable[Edge], *, is_by_target: bool) -> list[Junction]:
    around: dict[int, list[int]] = {}
    for source, target in edges:
        node, other = (target, source) if is_by_target else (source, target)
        around.setdefault(node, []).append(other)
    same: dict[tuple[int, ...], list[int]] = {}
    for node, others in around.items():
        same.setdefault(tuple(sorted(others)), []).append(node)
    pairs = [(others, tuple(nodes)) for others, nodes in same.items() if _is_worth_it(len(others), len(nodes))]
    return [Junction(*pair) if is_by_target else Junction(*pair[::-1]) for pair in pairs]


def _is_worth_it(sources: int, targets: int) -> bool:
    return min(sources, targets) > 1 and sources * targets >= FEWEST_PAIRS
