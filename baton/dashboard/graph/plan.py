"""The plan of a picture: what is drawn where, from the structure alone, so that it can be cached apart from states."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from baton.dashboard.graph.folding import Fold, Folded, fold
from baton.dashboard.graph.layout import NODE, Direction, Layout, Size, lay_out
from baton.dashboard.graph.mosaic import MOST_CELLS_IN_ALL, cell_count, size_of, steps_per_cell
from baton.dashboard.graph.opening import opened_size
from baton.dashboard.graph.shape import Shape

LONG_CHAIN = 25
"""From so many rows on, a chain is easier to read from left to right where there is room."""
_MOST_ELEMENTS = 1900
_ELEMENTS_OF_A_NODE = 8
_FEWEST_CELLS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A folded run with its layout. It is small, however big the run is, and can be pickled."""

    folded: Folded
    layout: Layout
    shares: tuple[int, ...]
    """For how many steps one cell stands in each fold; 0 where there are no cells."""

    @property
    def is_long_chain(self) -> bool:
        """Whether it reads better from left to right on a wide screen."""
        rows = 1 + max((box.row for box in self.layout.boxes), default=0)
        return rows > LONG_CHAIN and len(self.layout.boxes) < 2 * rows

    def find(self, step_id: int) -> tuple[int, int] | None:
        """Where a step is drawn: the position of its fold, and its place among the steps of that."""
        for index, one in enumerate(self.folded.folds):
            place = one.members.place_of(step_id)
            if place is not None:
                return index, place
        return None


def make_plan(
    shape: Shape, *, opened: Collection[str] = (), around: int | None = None, direction: Direction = "down"
) -> Plan:
    """Decide what is drawn where.

    Args:
        shape: The run.
        opened: Keys of groups that are open in place.
        around: The id of the step whose neighbourhood is drawn where the whole run cannot be.
        direction: Where edges lead.
    """
    folded = fold(shape, opened=opened, around=around)
    shares = _shares(folded)
    sizes = [_size(one, share) for one, share in zip(folded.folds, shares, strict=True)]
    return Plan(folded=folded, layout=lay_out(sizes, folded.edges, direction=direction), shares=tuple(shares))


def _shares(folded: Folded) -> list[int]:
    mosaics = [one.count if one.is_group and not one.opened else 0 for one in folded.folds]
    nodes = len(mosaics) + sum(len(one.opened) for one in folded.folds)
    room = _MOST_ELEMENTS - _ELEMENTS_OF_A_NODE * nodes - len(folded.edges)
    return steps_per_cell(mosaics, most_cells=min(MOST_CELLS_IN_ALL, max(_FEWEST_CELLS, room)))


def _size(one: Fold, share: int) -> Size:
    if not one.is_group:
        return NODE
    if one.opened:
        return opened_size(one.count, NODE)
    return size_of(one.count, cell_count(one.count, share))
