"""The benchmark's table says what was measured; the benchmark itself never runs here."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report
from benchmarks.dashboard import table
from benchmarks.dashboard.lateness import lateness, percentile
from benchmarks.dashboard.table import Part, Row
from benchmarks.report import AT_LEAST, Target

HOP = Target(label="a hop", value="hop_ms", unit="ms", compared_with="chain_ms", must=0.2, aim=0.11)
RATE = Target(label="a rate", value="rate", unit="steps/s", compared_with="floor", way=AT_LEAST, must=1.2, aim=1.5)
URGENT = Target(label="urgent", value="urgent_ms", unit="ms", must=100)


def document(*repetitions: dict[str, float], **besides: Any) -> dict[str, Any]:
    return {
        "machine": {"python": "3.11.7", "django": "5.2", "django_q2": "1.11.1", "cores": 2, "load_before": 0.25},
        "database": {"vendor": "postgresql", "server_version": "15.18", "commit_ms": 0.2},
        "clusters": {"Baton": {"workers": 2}},
        "repetitions": list(repetitions),
        **besides,
    }


def test_what_is_judged_is_the_median_of_the_ratios_of_each_repetition() -> None:
    repetitions = [
        {"hop_ms": 2.0, "chain_ms": 20.0},
        {"hop_ms": 9.0, "chain_ms": 30.0},
        {"hop_ms": 4.0, "chain_ms": 10.0},
    ]

    (line,) = report.judge([HOP], repetitions)

    assert (line.value, line.compared_with) == (4.0, 20.0)
    assert line.judged == pytest.approx(0.3)
    assert [line.lowest, line.highest] == pytest.approx([0.1, 0.4])


@pytest.mark.parametrize(
    ("target", "figures", "holds", "reaches_aim"),
    [
        (HOP, {"hop_ms": 0.2, "chain_ms": 1.0}, True, False),
        (HOP, {"hop_ms": 0.21, "chain_ms": 1.0}, False, False),
        (HOP, {"hop_ms": 0.11, "chain_ms": 1.0}, True, True),
        (RATE, {"rate": 120.0, "floor": 100.0}, True, False),
        (RATE, {"rate": 119.0, "floor": 100.0}, False, False),
        (RATE, {"rate": 150.0, "floor": 100.0}, True, True),
        (URGENT, {"urgent_ms": 100.0}, True, None),
        (URGENT, {"urgent_ms": 101.0}, False, None),
    ],
)
def test_a_bar_is_reached_from_its_right_side_only(
    target: Target, figures: dict[str, float], holds: bool, reaches_aim: bool | None
) -> None:
    (line,) = report.judge([target], [figures])

    assert (line.holds, line.reaches_aim) == (holds, reaches_aim)


def test_what_was_not_measured_is_not_judged() -> None:
    assert report.judge([HOP, RATE], [{"rate": 1.0, "hop_ms": 1.0, "chain_ms": 1.0}]) == report.judge(
        [HOP], [{"hop_ms": 1.0, "chain_ms": 1.0}]
    )


def test_the_table_sets_every_figure_beside_what_it_must_reach() -> None:
    text = report.render(document({"w1_ms": 2.5, "chain_ms": 25.0, "urgent_ms": 180.0}))

    assert text.splitlines()[3:7] == [
        "                              Baton   raw  unit  judged  range       must         aims at",
        "----------------------------  -----  ----  ----  ------  ----------  -----  ----  -------  ---",
        "W1 chain of 100, a hop         2.50  25.0  ms     0.10x  0.10..0.10  ≤ 0.2  OK    ≤ 0.11   yes",
        "urgent step behind 300 ready    180        ms       180  180..180    ≤ 100  MISS  ≤ 30     no",
    ]


def test_misses_name_every_figure_that_falls_short() -> None:
    slope = {
        "deep": [{"steps": 100.0, "ms": 1.0}, {"steps": 10_000.0, "ms": 2.0}],
        "wide": [{"steps": 100.0, "ms": 1.0}, {"steps": 10_000.0, "ms": 1.1}],
    }

    missed = report.misses(document({"w1_ms": 2.5, "chain_ms": 25.0, "urgent_ms": 180.0}, slope=slope))

    assert missed == ["urgent_ms", "slope_deep"]


def test_the_settings_used_follow_the_table() -> None:
    text = report.render(document({"w1_ms": 2.5, "chain_ms": 25.0}))

    assert text.splitlines()[-1] == 'Q_CLUSTER, Baton: {"workers": 2}'


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "1,234"), (12.34, "12.3"), (0.5, "0.50"), (0.0012, "0.0012"), (0, "0.00")]
)
def test_a_number_shows_the_digits_that_mean_something(value: float, text: str) -> None:
    assert report.number(value) == text


VIEW = Row("server", "a view", (Part("view_ms", "ms", 250), Part("view_queries", "queries", 12)))
TOLD = Row("server", "a tab", (Part("tab_ms", "ms"),))
SCREEN = Row("screen", "to the screen", (Part("p95_ms", "ms", 300),))
RATE_KEPT = Row("pages", "the workers", (Part("ratio", "of the rate", 0.95, AT_LEAST),))


@pytest.mark.parametrize(
    ("row", "figures", "verdict"),
    [
        (VIEW, {"view_ms": 250.0, "view_queries": 12.0}, "OK"),
        (VIEW, {"view_ms": 10.0, "view_queries": 13.0}, "MISS"),
        (TOLD, {"tab_ms": 9000.0}, ""),
        (SCREEN, {"p95_ms": float("inf")}, "MISS"),
        (RATE_KEPT, {"ratio": 0.94}, "MISS"),
        (RATE_KEPT, {"ratio": 1.2}, "OK"),
        (VIEW, {"view_ms": 10.0}, "NOT MEASURED: the figure is missing"),
    ],
)
def test_a_row_of_the_dashboard_holds_where_all_its_figures_do(
    row: Row, figures: dict[str, float], verdict: str
) -> None:
    assert table.verdict(row, figures, {}) == verdict


def test_a_part_that_failed_says_so_in_each_of_its_rows_and_counts_as_missed() -> None:
    figures, troubles = {"view_ms": 10.0, "view_queries": 9.0, "tab_ms": 9.0}, {"screen": "there is no Chromium"}

    assert table.render([VIEW, TOLD, SCREEN], figures, troubles).splitlines()[2:] == [
        "a view         10 ms, 9 queries  ≤ 250 ms, ≤ 12 queries  OK",
        "a tab          9 ms",
        "to the screen  ? ms              ≤ 300 ms                NOT MEASURED: there is no Chromium",
    ]
    assert table.misses([VIEW, TOLD, SCREEN], figures, troubles) == ["to the screen"]


def test_a_change_is_seen_when_its_step_shows_it_or_a_later_one() -> None:
    changes = [(1, "executing", 10.0), (1, "completed", 11.0), (2, "executing", 10.0), (2, "completed", 10.5)]
    seen = [(1, "executing", 10.25), (1, "completed", 11.5), (2, "completed", 12.0), (3, "available", 9.0)]

    assert lateness(changes, seen) == [0.25, 0.5, 2.0, 1.5]
    assert lateness([(4, "executing", 1.0)], seen) == [float("inf")]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.5, 0.95, 1.0)] == [2.0, 4.0, 4.0]
