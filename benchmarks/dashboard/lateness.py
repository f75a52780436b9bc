"""How long changes took from their commit to the screen, put together from what either side noted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Change = tuple[int, str, float]
"""A step's id, its state, and the wall clock."""

_ORDER = ("executing", "completed")


def lateness(changes: Iterable[Change], seen: Iterable[Change]) -> list[float]:
    """How long after each change the page showed it, or a later one of that step; infinity where it never did."""
    shown: dict[tuple[int, int], float] = {}
    for step, state, at in seen:
        if state in _ORDER:
            for place in range(_ORDER.index(state) + 1):
                shown[step, place] = min(at, shown.get((step, place), math.inf))
    return [shown.get((step, _ORDER.index(state)), math.inf) - at for step, state, at in changes]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that so many of them are not above."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
