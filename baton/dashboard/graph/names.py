"""Names that fit: of groups, after their members, and shortened in the middle, for their ends differ."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import combining, east_asian_width

_SEPARATORS = " \t-_.:/#[({<|,;"
_DIGITS = "0123456789"
_SHORTEST_NAME = 2
_ELLIPSIS = "…"


def common_name(names: Sequence[str], functions: Sequence[str]) -> str:
    """What a group is called: what its members' names begin with, or their function; empty where both differ."""
    first, last = min(names), max(names)
    length = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    prefix = first[:length]
    # page_1, page_10: the 1 belongs to the number, not to the name.
    if last[length : length + 1].isdigit():
        prefix = prefix.rstrip(_DIGITS)
    prefix = prefix.rstrip(_SEPARATORS)
    if len(prefix) >= _SHORTEST_NAME:
        return prefix
    if len(dict.fromkeys(functions)) == 1:
        return short_function(functions[0])
    return ""


def short_function(path: str) -> str:
    """The last part of a function's registered name."""
    return path.rpartition(".")[2].rpartition(":")[2] or path


def shortened(text: str, most: int) -> str:
    """The text in at most so many columns, its middle replaced by an ellipsis."""
    if columns(text) <= most:
        return text
    kept = max(0, most - 1)
    return _taken(text, (kept + 1) // 2) + _ELLIPSIS + _taken(text[::-1], kept // 2)[::-1]


def columns(text: str) -> int:
    """How many columns a text takes; characters of East Asia take two."""
    return len(text) if text.isascii() else sum(map(_column, text))


def _taken(text: str, most: int) -> str:
    used = 0
    for index, character in enumerate(text):
        used += _column(character)
        if used > most:
            return text[:index]
    return text


def _column(character: str) -> int:
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in {"W", "F"} else 1
