"""The steps of a group, in few numbers: ids that were given in a row are told by their ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_SHORTEST_STRIDE = 3


class Series(NamedTuple):
    """Ids from ``first`` to ``last``, each ``stride`` more than the one before."""

    first: int
    last: int
    stride: int

    def __str__(self) -> str:
        if self.first == self.last:
            return f"{self.first}"
        return f"{self.first}-{self.last}" + (f"/{self.stride}" if self.stride > 1 else "")

    @property
    def length(self) -> int:
        """How many ids these are."""
        return (self.last - self.first) // self.stride + 1


@dataclass(frozen=True, slots=True)
class Members:
    """Ids in their order, as series: ``101-500``, ``101-497/3``, ``7,9,30-60``."""

    series: tuple[Series, ...]
    count: int

    @classmethod
    def of(cls, ids: Sequence[int]) -> Members:
        """Put ids together as they stand."""
        return cls(tuple(_series(ids)), len(ids))

    def __iter__(self) -> Iterator[int]:
        for first, last, stride in self.series:
            yield from range(first, last + 1, stride)

    def __str__(self) -> str:
        return ",".join(map(str, self.series))

    def place_of(self, step_id: int) -> int | None:
        """The place of a step among the members, from 0."""
        before = 0
        for part in self.series:
            if part.first <= step_id <= part.last and not (step_id - part.first) % part.stride:
                return before + (step_id - part.first) // part.stride
            before += part.length
        return None


def _series(ids: Sequence[int]) -> Iterator[Series]:
    at = 0
    while at < len(ids):
        end = at + 1
        stride = ids[end] - ids[at] if end < len(ids) else 1
        while stride > 0 and end < len(ids) and ids[end] - ids[end - 1] == stride:
            end += 1
        if stride != 1 and end - at < _SHORTEST_STRIDE:
            # Two ids that happen to be apart are no series: the second may begin a better one.
            end, stride = at + 1, 1
        yield Series(ids[at], ids[end - 1], stride)
        at = end
