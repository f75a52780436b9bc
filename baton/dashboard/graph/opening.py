"""Groups that are open in place: their steps stand in a grid inside them."""

from __future__ import annotations

from math import ceil, sqrt

from baton.dashboard.graph.mosaic import CELLS_AT, NARROWEST

_GAP = 12
_FOOT = 16
_TALLNESS = 2.4
"""How many more rows than columns: nodes are wide, and pages are tall."""


def opened_size(count: int, node: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an open group of so many nodes."""
    columns = _columns(count)
    rows = ceil(count / columns)
    width = columns * (node[0] + _GAP) - _GAP + 2 * CELLS_AT[0]
    return max(NARROWEST, width), CELLS_AT[1] + rows * (node[1] + _GAP) - _GAP + _FOOT


def opened_places(count: int, node: tuple[int, int]) -> list[tuple[int, int]]:
    """Where in the open group each node stands."""
    columns = _columns(count)
    return [
        (
            CELLS_AT[0] + index % columns * (node[0] + _GAP),
            CELLS_AT[1] + index // columns * (node[1] + _GAP),
        )
        for index in range(count)
    ]


def _columns(count: int) -> int:
    return max(1, ceil(sqrt(count / _TALLNESS)))
