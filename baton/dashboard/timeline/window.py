"""A part of a run's time that somebody looks at: words of the address, so that reload, back and links keep it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

NO_WINDOW = {"from": "", "to": ""}
"""The words of all of it."""
_SHORTEST = 0.01
_ZOOM = 2.0


@dataclass(frozen=True, slots=True)
class Window:
    """From one second since the run's beginning to another."""

    start: float
    end: float
    whole: float
    """How long the run took, or has run until now."""
    follows: bool
    """Whether it goes on to now, or to the end."""

    @property
    def words(self) -> dict[str, str]:
        """What the address says of it."""
        if self.start <= 0 and self.follows:
            return NO_WINDOW
        return {"from": _said(self.start), "to": "" if self.follows else _said(self.end)}

    @property
    def closer(self) -> Window:
        """A part of it: the end where it follows, else the middle."""
        return self._scaled(1 / _ZOOM)

    @property
    def wider(self) -> Window:
        """More of the run."""
        return self._scaled(_ZOOM)

    def _scaled(self, factor: float) -> Window:
        width = max(_SHORTEST, (self.end - self.start) * factor)
        end = self.end if self.follows else min(self.whole, (self.start + self.end + width) / 2)
        start = max(0.0, end - width)
        return Window(start, end, self.whole, self.follows or (factor > 1 and end >= self.whole))


def window_of(params: Mapping[str, str], whole: float) -> Window:
    """Read it from an address; what is no window is all of it.

    Args:
        params: The words ``from`` and ``to``, in seconds since the run's beginning.
        whole: How long the run took, or has run until now.
    """
    start, end = _number(params.get("from")), _number(params.get("to"))
    start = 0.0 if start is None else max(0.0, start)
    follows = end is None or end >= whole
    end = whole if follows or end is None else end
    if end - start < _SHORTEST:
        return Window(0.0, whole, whole, follows=True)
    return Window(start, end, whole, follows)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if isfinite(number) else None


def _said(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
