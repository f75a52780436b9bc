"""The table: every figure beside what it is compared with, what it must reach and what it aims at."""

from __future__ import annotations

import json
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, float]

AT_MOST, AT_LEAST = "≤", "≥"
_COMPARE = {AT_MOST: operator.le, AT_LEAST: operator.ge}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the table."""

    label: str
    value: str
    """The figure of Baton."""
    unit: str
    compared_with: str | None = None
    """The figure of raw django-q2; None where the value itself is judged."""
    way: str = AT_MOST
    must: float
    aim: float | None = None

    def needs(self) -> list[str]:
        """The figures that have to be there."""
        return [self.value, *([self.compared_with] if self.compared_with else [])]

    def judged(self, figures: Figures) -> float:
        """The number that is judged in one repetition: a ratio, or the value."""
        value = figures[self.value]
        return value / figures[self.compared_with] if self.compared_with else value

    def reaches(self, judged: float, bar: float) -> bool:
        """Whether a number is on the right side of a bar."""
        return bool(_COMPARE[self.way](judged, bar))


POSTGRESQL_TARGETS = (
    Target(label="W1 chain of 100, a hop", value="w1_ms", unit="ms", compared_with="chain_ms", must=0.20, aim=0.11),
    Target(
        label="W2 200 diamonds",
        value="w2_rate",
        unit="steps/s",
        compared_with="floor_rate",
        way=AT_LEAST,
        must=1.2,
        aim=1.5,
    ),
    Target(
        label="W3 1 → 1,000 → 1",
        value="w3_rate",
        unit="steps/s",
        compared_with="floor_rate",
        way=AT_LEAST,
        must=1.3,
        aim=1.6,
    ),
    Target(label="W4 insert of 10,000", value="w4_s", unit="s", compared_with="rows_s", must=4.0, aim=1.5),
    Target(
        label="W5 idle, to the start", value="w5_start_ms", unit="ms", compared_with="raw_start_ms", must=1.2, aim=1.0
    ),
    Target(label="W5 idle, to done", value="w5_done_ms", unit="ms", compared_with="raw_done_ms", must=1.4, aim=1.0),
    Target(
        label="CPU of the cluster, a step of W3",
        value="w3_cpu_ms",
        unit="ms",
        compared_with="floor_cpu_ms",
        must=0.6,
        aim=0.4,
    ),
    Target(label="urgent step behind 300 ready", value="urgent_ms", unit="ms", must=100, aim=30),
    Target(label="plain task while 200 are ready, p50", value="plain_ms", unit="ms", must=600, aim=350),
    Target(
        label="W3, events over Redis; beside: none",
        value="heard_w3_rate",
        unit="steps/s",
        compared_with="silent_w3_rate",
        way=AT_LEAST,
        must=0.9,
    ),
    Target(label="memory of the cluster in W3", value="w3_memory", unit="MiB", compared_with="floor_memory", must=1.1),
)

SQLITE_TARGETS = (
    Target(
        label="W2 200 diamonds", value="w2_rate", unit="steps/s", compared_with="floor_rate", way=AT_LEAST, must=0.8
    ),
    Target(
        label="W3 1 → 1,000 → 1", value="w3_rate", unit="steps/s", compared_with="floor_rate", way=AT_LEAST, must=1.0
    ),
    Target(label='"database is locked", 4 workers', value="locked", unit="times", must=0),
)

TARGETS = {"postgresql": POSTGRESQL_TARGETS, "sqlite": SQLITE_TARGETS}

SLOPE_MUST = 1.25
"""How many times the cost in the smallest run a settle in the largest may cost: room for noise, none for growth."""

_BESIDES = {
    "raw_commit_ms": "one durable commit before the raw side, ms",
    "baton_commit_ms": "one durable commit before Baton's side, ms",
    "floor_rate": "FLOOR, queued in bulk, tasks/s",
    "floor_loop_rate": "the same no-ops queued by async_task in a loop, tasks/s",
    "floor_server_ms": "FLOOR, CPU of PostgreSQL, ms a task",
    "w2_insert_cpu_ms": "W2, submitter's CPU for one diamond, ms",
    "w2_cpu_ms": "W2, CPU of the cluster, ms a step",
    "w2_server_ms": "W2, CPU of PostgreSQL, ms a step",
    "w2_writes": "W2, writing transactions a step",
    "w2_messages": "W2, messages of django-q2",
    "w3_server_ms": "W3, CPU of PostgreSQL, ms a step",
    "w3_writes": "W3, writing transactions a step",
    "w3_messages": "W3, messages of django-q2",
    "heard_w3_messages": "W3, messages with events to one listener",
    "heard_w3_cpu_ms": "W3, CPU of the cluster with events, ms a step",
    "silent_w2_rate": "W2 without a channel layer, steps/s",
    "heard_w2_rate": "W2 with events over Redis, steps/s",
    "silent_w2_cpu_ms": "W2, CPU of the cluster without a layer, ms a step",
    "heard_w2_cpu_ms": "W2, CPU of the cluster with events, ms a step",
    "urgent_p50_ms": "urgent step, p50 of a repetition, ms",
    "plain_max_ms": "plain task, slowest of a repetition, ms",
    "four_w2_rate": "W2 with 4 workers, steps/s",
    "four_w3_rate": "W3 with 4 workers, steps/s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table, judged over all repetitions."""

    target: Target
    value: float
    compared_with: float | None
    judged: float
    lowest: float
    highest: float

    @property
    def holds(self) -> bool:
        """Whether it reaches what it must."""
        return self.target.reaches(self.judged, self.target.must)

    @property
    def reaches_aim(self) -> bool | None:
        """Whether it reaches what it aims at; None without an aim."""
        return None if self.target.aim is None else self.target.reaches(self.judged, self.target.aim)


def judge(targets: Sequence[Target], repetitions: Sequence[Figures]) -> list[Line]:
    """Judge every target whose figures were measured: the median over the repetitions of the ratio in each."""
    lines = []
    for target in targets:
        complete = [figures for figures in repetitions if all(name in figures for name in target.needs())]
        if not complete:
            continue
        judged = [target.judged(figures) for figures in complete]
        other = target.compared_with
        lines.append(
            Line(
                target=target,
                value=statistics.median(figures[target.value] for figures in complete),
                compared_with=statistics.median(figures[other] for figures in complete) if other else None,
                judged=statistics.median(judged),
                lowest=min(judged),
                highest=max(judged),
            )
        )
    return lines


def slope_growth(sizes: Sequence[Figures]) -> float:
    """How many times what it costs in the smallest run a settle costs in the largest."""
    return sizes[-1]["ms"] / sizes[0]["ms"]


def render(report: Mapping[str, Any]) -> str:
    """Write one database's report as text."""
    vendor = report["database"]["vendor"]
    lines = judge(TARGETS[vendor], report["repetitions"])
    parts = [_title(report), _table(lines)]
    if slope := report.get("slope"):
        parts.append(_slope(slope))
    besides = _besides(report["repetitions"])
    if besides:
        parts.append(besides)
    parts.append(_settings(report))
    return "\n\n".join(parts)


def summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON says beside the figures: every line judged."""
    lines = judge(TARGETS[report["database"]["vendor"]], report["repetitions"])
    judged: dict[str, Any] = {
        line.target.value: {
            "label": line.target.label,
            "unit": line.target.unit,
            "baton": line.value,
            "raw": line.compared_with,
            "judged": line.judged,
            "range": [line.lowest, line.highest],
            "must": f"{line.target.way} {line.target.must:g}",
            "aim": None if line.target.aim is None else f"{line.target.way} {line.target.aim:g}",
            "holds": line.holds,
            "reaches_aim": line.reaches_aim,
        }
        for line in lines
    }
    for shape, sizes in report.get("slope", {}).items():
        growth = slope_growth(sizes)
        judged[f"slope_{shape}"] = {
            "sizes": sizes,
            "judged": growth,
            "must": f"≤ {SLOPE_MUST}",
            "holds": growth <= SLOPE_MUST,
        }
    return judged


def misses(report: Mapping[str, Any]) -> list[str]:
    """The names of the figures that do not reach what they must."""
    return [name for name, line in summary(report).items() if not line["holds"]]


def _title(report: Mapping[str, Any]) -> str:
    machine, database = report["machine"], report["database"]
    name = f"PostgreSQL {database['server_version']}" if database["vendor"] == "postgresql" else "SQLite"
    count = len(report["repetitions"])
    return (
        f"{name}: Baton beside raw django-q2 {machine['django_q2']}, two workers, "
        f"{count} repetition{'' if count == 1 else 's'}, medians\n"
        f"Python {machine['python']}, Django {machine['django']}, {machine['cores']} cores, "
        f"load {machine['load_before']:.1f} before, one durable commit {database['commit_ms']:.2f} ms"
    )


def _table(lines: Sequence[Line]) -> str:
    head = ["", "Baton", "raw", "unit", "judged", "range", "must", "", "aims at", ""]
    rows = [
        [
            line.target.label,
            number(line.value),
            "" if line.compared_with is None else number(line.compared_with),
            line.target.unit,
            number(line.judged) + ("x" if line.compared_with is not None else ""),
            f"{number(line.lowest)}..{number(line.highest)}",
            f"{line.target.way} {line.target.must:g}",
            "OK" if line.holds else "MISS",
            "" if line.target.aim is None else f"{line.target.way} {line.target.aim:g}",
            {True: "yes", False: "no", None: ""}[line.reaches_aim],
        ]
        for line in lines
    ]
    return aligned([head, *rows], right={1, 2, 4})


def _slope(slope: Mapping[str, Sequence[Figures]]) -> str:
    shapes = list(slope.values())
    head = ["a settle in a run of", *(f"{int(size['steps']):,}" for size in shapes[0]), "largest/smallest", "must", ""]
    rows = [
        [
            f"{shape}, ms",
            *(f"{size['ms']:.2f}" for size in sizes),
            f"{slope_growth(sizes):.2f}x",
            f"≤ {SLOPE_MUST:g}",
            "OK" if slope_growth(sizes) <= SLOPE_MUST else "MISS",
        ]
        for shape, sizes in slope.items()
    ]
    return aligned([head, *rows], right=set(range(1, len(shapes[0]) + 2)))


def _besides(repetitions: Sequence[Figures]) -> str:
    rows = []
    for name, label in _BESIDES.items():
        values = [figures[name] for figures in repetitions if figures.get(name)]
        if values:
            rows.append([label, number(statistics.median(values)), f"{number(min(values))}..{number(max(values))}"])
    return aligned([["besides", "median", "range"], *rows], right={1}) if rows else ""


def _settings(report: Mapping[str, Any]) -> str:
    rows = [
        ("database", report["database"]),
        *((f"Q_CLUSTER, {side}", used) for side, used in report["clusters"].items()),
    ]
    return "\n".join(f"{name}: {json.dumps(used)}" for name, used in rows)


def number(value: float) -> str:
    """A number with as many digits as mean something."""
    magnitude = abs(value)
    if magnitude >= 100:
        return f"{value:,.0f}"
    if magnitude >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if magnitude >= 0.01 or not magnitude else f"{value:.4f}"


def aligned(rows: Sequence[Sequence[str]], *, right: set[int] = frozenset()) -> str:  # type: ignore[assignment]
    """Set rows in columns, with a line under the first row; columns named in ``right`` are set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    adjust: list[Callable[[str, int], str]] = [
        str.rjust if place in right else str.ljust for place in range(len(widths))
    ]
    texts = [
        "  ".join(put(cell, width) for put, cell, width in zip(adjust, row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])
