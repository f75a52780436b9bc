"""The benchmark's table says what was measured; the benchmark itself never runs here."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report
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
