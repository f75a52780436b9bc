"""Cells as SVG: what a state looks like in a mosaic, and how cells of one state side by side are drawn as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from baton.dashboard.graph.mosaic import CELL_PITCH

_PARTS = {25: (10, 10, 5), 10: (5, 5), 5: (), 2: ()}
"""So many cells of one state side by side are written as one, which is put together from these, or from shapes.

A browser makes all elements of what is used anew with every use, so that a mosaic made of single cells would be laid
out four times as long.
"""

_INKED = 'fill="currentColor" fill-rule="evenodd"'
_OUTLINED = 'fill="none" stroke="currentColor" stroke-width="1.5"'
_SQUARE = "M{x} 0h7a1.5 1.5 0 0 1 1.5 1.5v7a1.5 1.5 0 0 1-1.5 1.5h-7a1.5 1.5 0 0 1-1.5-1.5v-7a1.5 1.5 0 0 1 1.5-1.5z"
_OUTLINE = (0.75, '<rect x="{x}" y=".75" width="8.5" height="8.5" rx="1.5"/>')
_INSIDE = 'fill="currentColor" stroke="none"'

_SHAPES: dict[str, tuple[str, tuple[tuple[float, str], ...]]] = {
    "pending": (f'{_OUTLINED} stroke-dasharray="2 1.6"', (_OUTLINE,)),
    "available": (_OUTLINED, (_OUTLINE, (3.5, f'<rect x="{{x}}" y="3.5" width="3" height="3" {_INSIDE}/>'))),
    "executing": (_INKED, ((1.5, f'<path d="{_SQUARE}m2 2.3v5.4l4.5-2.7z"/>'),)),
    "snoozed": (_OUTLINED, (_OUTLINE, (1, f'<path d="M{{x}} 5h8v4h-8z" {_INSIDE}/>'))),
    "retryable": (_OUTLINED, (_OUTLINE, (1, f'<path d="M{{x}} 1h8l-8 8z" {_INSIDE}/>'))),
    "completed": ('fill="currentColor"', ((0, '<rect x="{x}" width="10" height="10" rx="1.5"/>'),)),
    "discarded": (_INKED, ((1.5, f'<path d="{_SQUARE}m1.5 2-1 1 2 2-2 2 1 1 2-2 2 2 1-1-2-2 2-2-1-1-2 2z"/>'),)),
    "cancelled": (_OUTLINED, (_OUTLINE, (2, '<path d="M{x} 8l6-6"/>'))),
}
"""What all shapes of a cell have, and each with where it begins; ``icons.html`` has the single cells."""


def in_runs(cells: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Cells that follow each other in the same state, in lengths that have a definition."""
    for state, found in groupby(cells):
        left = len(list(found))
        for length in (*_PARTS, 1):
            yield from [(state, length)] * (left // length)
            left %= length


def name_of(state: str, length: int) -> str:
    """The id of a cell, or of a run of them."""
    return f"b-c-{state}" if length == 1 else f"b-c-{state}-{length}"


def definitions(runs: Iterable[tuple[str, int]]) -> Iterator[str]:
    """The longer runs that a picture uses, and what they are put together from."""
    wanted = {run for run in runs if run[1] > 1}
    for longest, parts in _PARTS.items():
        wanted |= {(state, part) for state, length in wanted if length == longest for part in parts}
    for state, length in sorted(wanted):
        yield definition(state, length)


def definition(state: str, length: int) -> str:
    """A run, made of shorter ones or of shapes."""
    attributes, shapes = _SHAPES[state]
    if parts := _PARTS.get(length):
        at, uses = 0, ""
        for part in parts:
            uses += f'<use href="#{name_of(state, part)}"' + (f' x="{at * CELL_PITCH}"' if at else "") + "/>"
            at += part
        return f'<g id="{name_of(state, length)}">{uses}</g>'
    drawn = "".join(shape.format(x=f"{begin + at * CELL_PITCH:g}") for begin, shape in shapes for at in range(length))
    return f'<g id="{name_of(state, length)}" {attributes}>{drawn}</g>'
