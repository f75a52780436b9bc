"""The axis of time: where a moment stands, in percent of the width, with long idle gaps folded and ticks that fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from baton.explain.words import duration

Interval = tuple[float, float]
"""From and to, in seconds since 1970."""

GAP_PART = 0.4
"""What part of the width an idle gap takes before it is folded."""
FOLDED = 3.0
"""What a folded gap takes instead, in percent: about 24 pixels."""
MOST_TICKS = 9
_MOST_GAPS = 4
_AFTER_NOW = 0.06
_LABEL_ROOM = 9.0
_PHONE_TICKS, _PHONE_ROOM = 3, 24.0
_SHORTEST = 0.001
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_STEPS = (
    *(m * u for u in (0.001, 0.01, 0.1) for m in (1, 2, 5)),
    *(m * u for u in (1, _MINUTE) for m in (1, 2, 5, 10, 15, 30)),
    *(m * _HOUR for m in (1, 2, 5, 10, 15)),
    *(m * _DAY for m in (1, 2, 5, 10, 15, 30, 90, 365, 3650)),
)


@dataclass(frozen=True, slots=True)
class Segment:
    """A time that is shown at one scale."""

    start: float
    end: float
    x: float
    width: float
    is_folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line across all rows."""

    x: str
    label: str
    """Empty where something that matters more stands there."""
    is_minor: bool
    """Whether it is left out on a phone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """An idle time that is folded."""

    x: str
    width: str
    length: str
    """How long it is, in words."""
    label: str
    """The same, or empty where the label of a longer gap stands."""
    label_x: str
    anchor: str
    """What of the label is there: its ``middle``, or its ``end``."""
    is_minor: bool
    """Whether the label is left out on a phone."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From a run's beginning to its end, or to a little after now; or a part of that."""

    origin: float
    """When the run began."""
    start: float
    """The first moment that is shown."""
    end: float
    """Of the run, or now."""
    is_open: bool
    """Whether the run goes on."""
    segments: Sequence[Segment]

    def x(self, moment: float) -> float:
        """Where a moment stands, in percent."""
        for part in self.segments:
            if moment <= part.end:
                inside = max(0.0, moment - part.start) / (part.end - part.start)
                return part.x + inside * part.width
        return 100.0

    def shows(self, start: float, end: float) -> bool:
        """Whether anything of that time is shown."""
        return end >= self.start and start <= self.segments[-1].end

    @property
    def reaches_end(self) -> bool:
        """Whether the end of the run, or now, is shown."""
        return self.segments[-1].end >= self.end

    @property
    def now(self) -> str:
        """Where now is; empty where the run is over or another part of it is shown."""
        return percent(self.x(self.end)) if self.is_open and self.reaches_end else ""

    @property
    def scale(self) -> str:
        """Where each part begins and how wide it is, in percent, and its first and last second: for the script."""
        parts = ((part.x, part.width, part.start - self.origin, part.end - self.origin) for part in self.segments)
        return " ".join(",".join(f"{number:.4f}" for number in part) for part in parts)

    @property
    def gaps(self) -> list[Gap]:
        """The gaps that are folded; where two labels would meet, the longer gap has one."""
        found: list[Gap] = []
        taken: list[float] = []
        folded = [part for part in self.segments if part.is_folded]
        for part in sorted(folded, key=lambda part: part.start - part.end):
            length = duration(part.end - part.start)
            place = self._middle_of_label(part)
            is_moved = place < part.x
            gap = Gap(
                x=percent(part.x),
                width=percent(part.width),
                length=length,
                label="" if any(abs(place - other) < _LABEL_ROOM for other in taken) else length,
                label_x=percent(part.x - 1 if is_moved else place),
                anchor="end" if is_moved else "middle",
                is_minor=is_moved or any(abs(place - other) < _PHONE_ROOM for other in taken),
            )
            taken.append(place)
            found.append(gap)
        return found

    def _middle_of_label(self, part: Segment) -> float:
        """Where the label of a folded gap stands: in its middle, or before it where the label of now is there."""
        middle = part.x + part.width / 2
        return part.x - _LABEL_ROOM / 2 if self.now and abs(self.x(self.end) - middle) < _LABEL_ROOM else middle

    @property
    def ticks(self) -> list[Tick]:
        """Round times, nine at most."""
        step, found = self._round_times()
        every = max(1, -(-len(found) // _PHONE_TICKS))
        taken = [self.x(self.end)] if self.now else []
        taken += [self._middle_of_label(part) for part in self.segments if part.is_folded]
        ticks = []
        for index, elapsed in enumerate(found):
            x = self.x(self.origin + elapsed)
            is_hidden = any(abs(x - other) < _LABEL_ROOM for other in taken)
            label = "" if is_hidden else _label(elapsed, step, self.end - self.origin)
            is_minor = bool(index % every) or any(abs(x - other) < _PHONE_ROOM for other in taken)
            ticks.append(Tick(x=percent(x), label=label, is_minor=is_minor))
        return ticks

    def _round_times(self) -> tuple[float, list[float]]:
        found: list[float] = []
        for step in _STEPS:
            if sum((part.end - part.start) / step for part in self.segments if not part.is_folded) > 2 * MOST_TICKS:
                continue
            found = list(self._multiples(step))
            if len(found) <= MOST_TICKS:
                return step, found
        return _STEPS[-1], found[:MOST_TICKS]

    def _multiples(self, step: float) -> Iterable[float]:
        for part in self.segments:
            if part.is_folded:
                continue
            first = -int(-(part.start - self.origin) // step) if part.start > self.origin else 0
            last = int((part.end - self.origin) / step)
            yield from (turn * step for turn in range(first, last + 1))


def make_axis(
    start: float, end: float, busy: Iterable[Interval], *, is_open: bool, window: Interval | None = None
) -> Axis:
    """Lay an axis out.

    Args:
        start: When the run began.
        end: When it ended, or now.
        busy: When something ran.
        is_open: Whether the run goes on: then there is some room behind now.
        window: What is shown of it, if that is not all.
    """
    end = max(end, start + _SHORTEST)
    first, last = (start, end) if window is None else (max(start, window[0]), min(end, window[1]))
    folded = _folded(first, last, [(max(a, first), min(b, last)) for a, b in busy if b > first and a < last])
    # Where all of it is folded, nothing is left to be drawn to scale.
    live = max(_SHORTEST, (last - first) - sum(stop - begin for begin, stop in folded))
    after = live * _AFTER_NOW if is_open and last >= end else 0.0
    scale = (100.0 - FOLDED * len(folded)) / (live + after)
    segments, x, at = [], 0.0, first
    for begin, stop in [*folded, (last + after, last + after)]:
        if begin > at:
            segments.append(Segment(at, begin, x, (begin - at) * scale))
            x += (begin - at) * scale
        if stop > begin:
            segments.append(Segment(begin, stop, x, FOLDED, is_folded=True))
            x += FOLDED
        at = stop
    return Axis(start, first, end, is_open, segments)


def percent(x: float) -> str:
    """A length or a place, as an attribute."""
    return f"{x:.2f}%"


def _folded(start: float, end: float, busy: Iterable[Interval]) -> list[Interval]:
    """Idle gaps, the longest first, as long as one takes too much of what is left."""
    gaps, at, ran = [], start, False
    for begin, stop in sorted(busy):
        if begin > at:
            gaps.append((at, begin))
        at, ran = max(at, stop), True
    if not ran:
        return []
    gaps.append((at, end))
    left, found = end - start, []
    for begin, stop in sorted(gaps, key=lambda gap: gap[0] - gap[1])[:_MOST_GAPS]:
        if min(stop, end) - begin <= GAP_PART * left:
            break
        found.append((begin, min(stop, end)))
        left -= min(stop, end) - begin
    return sorted(found)


def _label(elapsed: float, step: float, span: float) -> str:
    """A time since the beginning, as exactly as the ticks are apart."""
    if not elapsed:
        return "0"
    if step < 1 and min(elapsed, span) < 2 * _MINUTE:
        return f"{elapsed:.{_places(step)}f} s"
    if step < 1:
        places = _places(step)
        return f"{int(elapsed // _MINUTE)}:{elapsed % _MINUTE:0{places + 3}.{places}f}"
    whole = round(elapsed)
    if step >= _DAY:
        text = f"{whole // _DAY} d"
    elif span < 2 * _MINUTE:
        text = f"{whole} s"
    elif span < 2 * _HOUR:
        text = f"{whole // _MINUTE}:{whole % _MINUTE:02}"
    elif step >= _HOUR:
        text = f"{whole // _HOUR} h"
    elif step >= _MINUTE:
        text = f"{whole // _HOUR}:{whole % _HOUR // _MINUTE:02} h"
    else:
        text = f"{whole // _HOUR}:{whole % _HOUR // _MINUTE:02}:{whole % _MINUTE:02}"
    return text


def _places(step: float) -> int:
    return 1 if step >= 0.1 else 2 if step >= 0.01 else 3
