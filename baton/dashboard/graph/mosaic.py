"""Mosaics: how many cells a group has, in how many columns, how big that is, and what each cell shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

MOST_CELLS = 400
"""The most cells of one mosaic."""
MOST_CELLS_IN_ALL = 2000
"""The most cells of one picture."""
CELL_PITCH = 12
CELLS_AT = (16, 40)
"""Where in its node a mosaic begins."""
WORST_FIRST = (
    "discarded", "retryable", "executing", "snoozed", "available", "pending", "cancelled", "completed",
)  # fmt: skip
"""Which state a cell shows of those of its steps."""
_LIVELIEST_FIRST = (
    "executing", "retryable", "available", "snoozed", "pending", "discarded", "cancelled", "completed",
)  # fmt: skip

_SEVERITY = {state: index for index, state in enumerate(WORST_FIRST)}
NARROWEST = 236
"""So wide is a group at least, for its name and its count."""
_COLUMNS = ((100, 25), (15, 15))


def columns_of(count: int, cells: int) -> int:
    """How many columns a group of so many steps has, where they take so many cells."""
    usual: int = next((columns for least, columns in _COLUMNS if count >= least), count)
    return max(1, min(cells, usual))


def cell_count(count: int, steps_per_cell: int) -> int:
    """How many cells so many steps take."""
    return -(-count // steps_per_cell) if count else 0


def size_of(count: int, cells: int) -> tuple[int, int]:
    """Width and height of a group's node."""
    columns = columns_of(count, cells)
    return max(NARROWEST, CELL_PITCH * columns + 30), CELL_PITCH * -(-cells // columns) + 68


def steps_per_cell(counts: Sequence[int], *, most_cells: int = MOST_CELLS_IN_ALL) -> list[int]:
    """For how many steps one cell stands in each group, so that all mosaics together keep the limit."""
    limit = MOST_CELLS
    while True:
        shares = [-(-count // limit) for count in counts]
        total = sum(map(cell_count, counts, shares))
        if total <= most_cells or limit == 1:
            return shares
        limit = max(1, min(limit - 1, limit * most_cells // total))


def worst_of(states: Iterable[str]) -> str:
    """The state that needs somebody most."""
    return min(states, key=_SEVERITY.__getitem__)


def state_of(counts: Mapping[str, int]) -> str:
    """The state of a whole group: what goes on in it, and once all is settled, how it ended."""
    return next((state for state in _LIVELIEST_FIRST if counts.get(state)), "pending")


def cells_of(states: Sequence[str], share: int) -> list[str]:
    """What each cell shows, from the states of a group's steps in order."""
    if share == 1:
        return list(states)
    return [worst_of(states[at : at + share]) for at in range(0, len(states), share)]
