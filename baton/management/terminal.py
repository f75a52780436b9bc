"""What commands print to: how wide it is, whether it shows colours and every character, and tables on it."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from django.core.management.base import OutputWrapper
from django.core.management.color import Style, color_style, no_style, supports_color

from baton.states import RunState, StepState

_GAP = "  "
_MARKS = {
    StepState.PENDING: ("·", ".", ""),
    StepState.AVAILABLE: ("○", "o", ""),
    StepState.EXECUTING: ("►", ">", "MIGRATE_LABEL"),
    StepState.SNOOZED: ("◷", "z", "HTTP_NOT_MODIFIED"),
    StepState.RETRYABLE: ("↻", "r", "WARNING"),
    StepState.COMPLETED: ("✓", "+", "SUCCESS"),
    StepState.DISCARDED: ("✗", "x", "ERROR"),
    StepState.CANCELLED: ("⊘", "-", "HTTP_NOT_FOUND"),
    RunState.RUNNING: ("►", ">", "MIGRATE_LABEL"),
    RunState.FAILED: ("✗", "x", "ERROR"),
}
"""For each state its symbol, the same in ASCII, and the role in Django's palette; states of the same word are one."""
_IN_ASCII = str.maketrans("├┤┴┼╰╯│─…", "++++++|-~")


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of a line, and the role in Django's palette that gives it its colour."""

    text: str
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """What a command prints to."""

    stdout: OutputWrapper
    style: Style
    width: int | None
    """In columns; None where lines are not cut, as in a pipe."""
    encoding: str

    @classmethod
    def of(cls, stdout: OutputWrapper, *, no_color: bool, force_color: bool) -> Terminal:
        """Look at where a command prints to; the two options are Django's."""
        is_tty = stdout.isatty()
        is_colourful = is_tty and supports_color() and not no_color and not os.environ.get("NO_COLOR")
        return cls(
            stdout=stdout,
            style=color_style(force_color=True) if force_color or is_colourful else no_style(),
            width=shutil.get_terminal_size().columns if is_tty else None,
            encoding=getattr(stdout, "encoding", None) or "utf-8",
        )

    def write(self, *lines: Sequence[Cell] | str) -> None:
        """Print lines, each of them cut where the terminal ends."""
        for line in lines:
            self.stdout.write(self._rendered([Cell(line)] if isinstance(line, str) else line))
        self.stdout.flush()

    def _rendered(self, line: Sequence[Cell]) -> str:
        room = self.width
        pieces = []
        for cell in line:
            text = cell.text if room is None else cut(cell.text, room)
            room = None if room is None else room - width_of(text)
            pieces.append(self._painted(self._encodable(text), cell.role))
        return "".join(pieces).rstrip()

    def _painted(self, text: str, role: str) -> str:
        return str(getattr(self.style, role)(text)) if role and text.strip() else text

    def _encodable(self, text: str) -> str:
        try:
            text.encode(self.encoding)
        except UnicodeEncodeError:
            plain = text.translate(_IN_ASCII).translate(_SYMBOLS_IN_ASCII)
            return plain.encode(self.encoding, "backslashreplace").decode(self.encoding)
        return text


def tell(stdout: OutputWrapper, *sentences: str) -> None:
    """Print sentences whole, each on a line of its own; what the output cannot encode is told by its escape."""
    replace(Terminal.of(stdout, no_color=True, force_color=False), width=None).write(*sentences)


_SYMBOLS_IN_ASCII = str.maketrans({symbol: ascii_symbol for symbol, ascii_symbol, _ in _MARKS.values()})


def mark(state: str) -> Cell:
    """The symbol of a step's or a run's state."""
    symbol, _, role = _MARKS[_of_word(state)]
    return Cell(symbol, role)


def word(state: str) -> Cell:
    """The word of a step's or a run's state."""
    return Cell(state, _MARKS[_of_word(state)][2])


def _of_word(state: str) -> StepState | RunState:
    return StepState(state) if state in StepState.values else RunState(state)


def table(rows: Sequence[Sequence[Cell | Sequence[Cell]]]) -> list[list[Cell]]:
    """Lines whose columns stand one under the other; the last column is not filled up."""
    cells = [[[part] if isinstance(part, Cell) else list(part) for part in row] for row in rows]
    widths = [max(sum(width_of(cell.text) for cell in part) for part in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        line: list[Cell] = []
        for part, width in zip(row, widths, strict=True):
            if not width:
                continue
            line += [*part, Cell(" " * (width - sum(width_of(cell.text) for cell in part)) + _GAP)]
        lines.append(line[:-1])
    return lines


def printable(text: str | None) -> str:
    """One line of a text from anywhere, so that nothing in it can move the cursor or change a colour."""
    line = " ".join((text or "").split())
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)


def cut(text: str, width: int) -> str:
    """The text, or as much of it as fits."""
    if width_of(text) <= width:
        return text
    kept = ""
    for letter in text:
        if width_of(kept + letter) >= width:
            break
        kept += letter
    return f"{kept}…" if width > 0 else ""


def width_of(text: str) -> int:
    """How many columns a text takes."""
    if text.isascii():
        return len(text)
    return sum(_width_of_letter(letter) for letter in text)


def _width_of_letter(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


@contextmanager
def leaving_quietly() -> Iterator[None]:
    """End as programs in a pipe do: without a word when who reads has gone, and with 130 on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def options_of_terminal(options: dict[str, Any]) -> dict[str, bool]:
    """Django's options that say whether there are colours."""
    return {name: bool(options[name]) for name in ("no_color", "force_color")}
