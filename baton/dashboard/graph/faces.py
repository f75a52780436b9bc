"""Faces: what is painted on a planned picture, the part that changes while a run lives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from baton.dashboard.graph.folding import Fold
from baton.dashboard.graph.mosaic import cell_count, cells_of, state_of, worst_of

_SETTLED = ("completed", "discarded", "cancelled")
_FAILED = ("discarded", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFace:
    """How one step looks now."""

    state: str
    seconds: float | None = None
    """How long it ran, or has run so far."""
    since: str = ""
    """When it began to run, in ISO 8601, while it runs: the page counts on from there."""
    detail: str = ""
    """The second line."""
    cost: str = ""
    progress: float | None = None
    """How far it says it is, from 0 to 1."""
    icon: str = ""
    """Where it is not that of the state: ``person`` on what waits for one."""
    by_dependency: bool = False
    """Cancelled because a dependency failed."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits for it any more."""
        return self.state in _SETTLED

    @property
    def has_failed(self) -> bool:
        """Whether it may have cancelled others."""
        return self.state in _FAILED

    @property
    def was_cancelled(self) -> bool:
        """Whether others cancelled it."""
        return self.state == "cancelled" and self.by_dependency


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFace:
    """How a group looks now."""

    counts: Mapping[str, int]
    """How many of its steps are in each state."""
    cells: Sequence[str] = ()
    """The state that each cell shows."""
    seconds: float | None = None
    """How long the longest of its steps ran."""
    cost: str = ""
    by_dependency: bool = False
    """Some were cancelled because a dependency failed."""

    @classmethod
    def of_states(
        cls,
        states: Sequence[str],
        share: int,
        *,
        seconds: float | None = None,
        cost: str = "",
        by_dependency: bool = False,
    ) -> GroupFace:
        """From the states of its steps, in order."""
        return cls(
            counts=count_states((state, 1) for state in states),
            cells=cells_of(states, share) if share else (),
            seconds=seconds,
            cost=cost,
            by_dependency=by_dependency,
        )

    @classmethod
    def of_rows(
        cls,
        rows: Iterable[tuple[int, str, int]],
        one: Fold,
        share: int,
        *,
        seconds: float | None = None,
        cost: str = "",
        by_dependency: bool = False,
    ) -> GroupFace:
        """From what a query counted: cell, state, how many. Cells of which nothing is known are pending."""
        found = list(rows)
        in_cell: dict[int, list[str]] = {}
        for cell, state, _count in found:
            in_cell.setdefault(cell, []).append(state)
        return cls(
            counts=count_states((state, count) for _cell, state, count in found),
            cells=[worst_of(in_cell.get(cell, ("pending",))) for cell in range(cell_count(one.count, share))],
            seconds=seconds,
            cost=cost,
            by_dependency=by_dependency,
        )

    @property
    def state(self) -> str:
        """The state of the whole."""
        return state_of(self.counts)

    @property
    def is_settled(self) -> bool:
        """Whether nothing waits for any of it."""
        return all(state in _SETTLED for state, count in self.counts.items() if count)

    @property
    def has_failed(self) -> bool:
        """Whether one of it may have cancelled others."""
        return any(self.counts.get(state) for state in _FAILED)

    @property
    def was_cancelled(self) -> bool:
        """Whether others cancelled some of it."""
        return bool(self.counts.get("cancelled")) and self.by_dependency


Face = StepFace | GroupFace


def count_states(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Add up."""
    counts: dict[str, int] = {}
    for state, count in pairs:
        counts[state] = counts.get(state, 0) + count
    return counts
