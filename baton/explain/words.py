"""Times, durations, counts and lists, as sentences take them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from django.utils import timezone
from django.utils.translation import gettext as _

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_HOURS_UP_TO = 2 * _DAY
_SENTENCE_ENDS = (".", "!", "?", "…")
LINE_LENGTH = 300
_STRONG, _END, _CODE = "\ufdd0", "\ufdd1", "\ufdd2"
"""Code points that no text has, for programs' own use: they stand around what a sentence is about, and around code."""
_PARTS = re.compile(f"([{_STRONG}{_CODE}][^{_END}]*{_END})")
_TAGS = {_STRONG: "strong", _CODE: "code"}


def clock(moment: datetime | None, *, now: datetime | None = None) -> str:
    """A time of today in the current time zone, with the date where it is of another day."""
    if moment is None:
        return _("an unknown time")
    local = timezone.localtime(moment)
    today = timezone.localtime(now).date() if now is not None else timezone.localdate()
    return f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M:%S}"


def duration(seconds: float) -> str:
    """So many seconds, as people say it: ``8.2 s``, ``41 s``, ``1 m 17 s``, ``1 h 12 m``, ``3 d 4 h``."""
    seconds = max(0.0, seconds)
    if round(seconds, 1) < 10:
        return _("{seconds} s").format(seconds=f"{seconds:.1f}")
    whole = round(seconds)
    if whole < _MINUTE:
        return _("{seconds} s").format(seconds=whole)
    if whole < _HOUR:
        return _("{minutes} m {seconds} s").format(minutes=whole // _MINUTE, seconds=whole % _MINUTE)
    if whole < _HOURS_UP_TO:
        return _("{hours} h {minutes} m").format(hours=whole // _HOUR, minutes=whole % _HOUR // _MINUTE)
    return _("{days} d {hours} h").format(days=whole // _DAY, hours=whole % _DAY // _HOUR)


def between(start: datetime | None, end: datetime | None) -> str:
    """How long it was from one time to another."""
    if start is None or end is None:
        return _("an unknown time")
    return duration((end - start).total_seconds())


def number(count: int) -> str:
    """A count with its thousands marked."""
    return f"{count:,}"


def listed(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    if len(parts) <= 1:
        return "".join(parts)
    return _("{list} and {last}").format(list=", ".join(parts[:-1]), last=parts[-1])


def first_line(text: str | None) -> str:
    """What a message begins with, short enough for a sentence."""
    line = (text or "").strip().partition("\n")[0].strip()
    return line if len(line) <= LINE_LENGTH else f"{line[:LINE_LENGTH].rstrip()}…"


def closed(text: str) -> str:
    """The text as the end of a sentence."""
    return text if plain(text).endswith(_SENTENCE_ENDS) else f"{text}."


def paragraph(*sentences: str) -> str:
    """The sentences that there are, one after the other."""
    return " ".join(sentence for sentence in sentences if sentence)


def strong(text: str) -> str:
    """What a sentence is about, for pages that make it stand out."""
    return f"{_STRONG}{text}{_END}"


def code(text: str) -> str:
    """What is typed, or was said by a program, for pages that show it as such."""
    return f"{_CODE}{text}{_END}"


def plain(text: str) -> str:
    """The sentence as text alone."""
    return text.replace(_STRONG, "").replace(_CODE, "").replace(_END, "")


def parts(text: str) -> list[tuple[str, str]]:
    """The sentence in pieces, each with the name of the element it is put into, which is empty for most."""
    return [(plain(piece), _TAGS.get(piece[0], "")) for piece in _PARTS.split(text) if plain(piece)]
