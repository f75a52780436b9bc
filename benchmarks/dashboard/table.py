"""The rows of the table: what is measured, what it must reach, and what is said where it could not be measured."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report import AT_LEAST, AT_MOST, Figures, Target, aligned, number

OK, MISS, UNKNOWN = "OK", "MISS", "NOT MEASURED"


@dataclass(frozen=True, slots=True)
class Part:
    """A figure of a row."""

    figure: str
    unit: str
    must: float | None = None
    """The bar; None where it is only told."""
    way: str = AT_MOST
    nothing: str = ""
    """What is said of 0."""

    def holds(self, value: float) -> bool:
        """Whether a value is on the right side of the bar."""
        if self.must is None:
            return True
        return Target(label="", value=self.figure, unit=self.unit, way=self.way, must=self.must).reaches(
            value, self.must
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    part: str
    """Of the benchmark."""
    label: str
    parts: tuple[Part, ...]


def verdict(row: Row, figures: Figures, troubles: Mapping[str, str]) -> str:
    """What is said of a row: nothing where nothing is asked of it."""
    if any(part.figure not in figures for part in row.parts):
        return f"{UNKNOWN}: {troubles.get(row.part, 'the figure is missing')}"
    if all(part.must is None for part in row.parts):
        return ""
    return OK if all(part.holds(figures[part.figure]) for part in row.parts) else MISS


def misses(rows: Sequence[Row], figures: Figures, troubles: Mapping[str, str]) -> list[str]:
    """The labels of the rows that do not reach what they must, or were not measured."""
    return [row.label for row in rows if verdict(row, figures, troubles) not in (OK, "")]


def render(rows: Sequence[Row], figures: Figures, troubles: Mapping[str, str]) -> str:
    """Set the rows as text."""
    lines = [
        [
            row.label,
            ", ".join(_told(part, figures) for part in row.parts),
            ", ".join(_bar(part) for part in row.parts if part.must is not None),
            verdict(row, figures, troubles),
        ]
        for row in rows
    ]
    return aligned([["", "measured", "must", ""], *lines])


def summary(rows: Sequence[Row], figures: Figures, troubles: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the JSON says of the rows."""
    return [
        {
            "label": row.label,
            "figures": {part.figure: _told(part, figures) for part in row.parts},
            "must": [_bar(part) for part in row.parts if part.must is not None],
            "verdict": verdict(row, figures, troubles),
        }
        for row in rows
    ]


def _told(part: Part, figures: Figures) -> str:
    value = figures.get(part.figure)
    if value == 0 and part.nothing:
        return part.nothing
    if value is None or math.isinf(value):
        return f"{'?' if value is None else 'endless'} {part.unit}".rstrip()
    return f"{f'{value:,.0f}' if value == int(value) else number(value)} {part.unit}".rstrip()


def _bar(part: Part) -> str:
    assert part.must is not None
    return f"{part.way} {part.must:,g} {part.unit}".rstrip()


# The rows -------------------------------------------------------------------------------------------------------------

BIG = {"fan": "1 → 9,998 → 1", "layers": "100 layers of 100"}
SMALL = {"nine": "9 steps", "thirty": "30 steps", "wide": "405 steps"}
TABS = ("timeline", "steps", "money", "activity")
PAGES, REAL_PAGES = 50, 2
PARTS = ("server", "paint", "frames", "screen", "torrent", "pages")


def _views(run: str, name: str, *, first: tuple[float, int], later: tuple[float, int]) -> list[Row]:
    def row(label: str, key: str, bars: tuple[float, int] | None) -> Row:
        most, queries = bars or (None, None)
        figures = (
            Part(f"{run}_{key}_ms", "ms", most),
            Part(f"{run}_{key}_queries", "queries", queries),
            Part(f"{run}_{key}_cpu_ms", "ms of daphne's CPU"),
        )
        return Row("server", f"{name}, {label}", figures)

    rows = [
        row("graph, first view", "first", first),
        row("graph, later", "later", later),
        row("graph and a step, later", "step", (later[0], 15) if run in BIG else later),
    ]
    tabs = [tab for tab in TABS if tab != "money" or run != "layers"]
    return [*rows, *(row(f"{tab}, later", tab, None) for tab in tabs)]


def _size(run: str, name: str) -> Row:
    return Row("server", f"{name}, HTML", (Part(f"{run}_kb", "kB", 80), Part(f"{run}_zipped_kb", "kB gzipped", 12)))


def _script(figure: str) -> Part:
    return Part(figure, "ms", 50, nothing="no frame of 50 ms")


ROWS: tuple[Row, ...] = (
    *(
        row
        for run, name in BIG.items()
        for row in (
            *_views(run, name, first=(1000, 20), later=(250, 12)),
            Row("server", f"{name}, longest answer to a later view", (Part(f"{run}_rows", "rows", 9_999),)),
        )
    ),
    *_views("thirty", "30 steps", first=(60, 15), later=(60, 15)),
    *(_size(run, name) for run, name in {**SMALL, **BIG}.items() if run != "thirty"),
    *(
        Row(
            "server",
            f"{name} of a run's page",
            (
                Part(f"{kind}_kb", "kB", most),
                Part(f"{kind}_zipped_kb", "kB gzipped together", zipped),
                Part(f"{kind}_sent_kb", "kB file by file"),
            ),
        )
        for kind, name, most, zipped in (("css", "CSS", 28, 7), ("js", "JavaScript", 40, 14))
    ),
    Row("paint", "30 steps, first paint", (Part("thirty_paint_ms", "ms", 500),)),
    Row("paint", "30 steps, first paint after the response", (Part("thirty_paint_after_ms", "ms", 300),)),
    *(
        row
        for run, name in BIG.items()
        for row in (
            Row("paint", f"{name}, graph painted, first view", (Part(f"{run}_painted_first_ms", "ms", 1500),)),
            Row("paint", f"{name}, graph painted, later", (Part(f"{run}_painted_ms", "ms", 1500),)),
            Row("paint", f"{name}, first paint after the response", (Part(f"{run}_paint_after_ms", "ms", 300),)),
            Row("paint", f"{name}, elements of ours", (Part(f"{run}_elements", "", 2500),)),
        )
    ),
    Row("paint", "400 cells restyled", (Part("restyle_ms", "ms", 30),)),
    *(
        row
        for run, name in BIG.items()
        for row in (
            *(
                Row("frames", f"{name}, longest script of a frame, {what}", (_script(f"{run}_{key}_script_ms"),))
                for key, what in (("zoom", "zooming"), ("update", "100 events/s"))
            ),
            Row("frames", f"{name}, memory gained meanwhile", (Part(f"{run}_heap_mb", "MB", 10),)),
        )
    ),
    Row(
        "screen",
        "commit to screen, Redis, p95",
        (Part("redis_p95_ms", "ms", 300), Part("redis_events", "events"), Part("redis_rate", "a second")),
    ),
    Row(
        "screen",
        "commit to screen, following the database, p95",
        (Part("database_p95_ms", "ms", 1500), Part("database_events", "events"), Part("database_rate", "a second")),
    ),
    Row(
        "torrent",
        "commit to screen, Redis, many changes, p95",
        (
            Part("torrent_p95_ms", "ms", 1000),
            Part("torrent_events", "changes"),
            Part("torrent_rate", "a second"),
        ),
    ),
    Row(
        "torrent",
        "a socket meanwhile",
        (Part("torrent_kb", "kB/s", 40), Part("torrent_messages", "messages/s", 5)),
    ),
    Row(
        "pages",
        f"{PAGES} open pages, CPU of daphne",
        (
            Part("pages_cores", "of a core", 1),
            Part("pages_real_cores", f"with {REAL_PAGES} real ones more"),
            Part("pages_events", "events/s"),
        ),
    ),
    Row(
        "pages",
        f"{PAGES} open pages, what the workers do",
        (Part("pages_rate_ratio", "of the steps/s without", 0.95, AT_LEAST), Part("pages_rate", "steps/s")),
    ),
    Row(
        "pages",
        f"{PAGES} open pages, CPU of the workers a step",
        (Part("pages_cpu_ratio", "of that without", 1.1), Part("pages_cpu_ms", "ms")),
    ),
)


def rows_of(parts: Collection[str]) -> list[Row]:
    """The rows of some parts of the benchmark."""
    return [row for row in ROWS if row.part in parts]
