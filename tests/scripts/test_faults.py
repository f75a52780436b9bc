"""What `make faults` prints."""

from __future__ import annotations

import pytest

from scripts.faults import table, told

pytestmark = pytest.mark.sqlite


def test_table_has_a_line_for_each_fault_and_a_column_for_each_broker() -> None:
    killed = [{"place": "in the body", "signal": "SIGKILL"}]
    both = [*killed, {"place": "sweep: after a rescue", "signal": "SIGSTOP"}]

    lines = [
        {"broker": "orm", "faults": killed, "seconds": 1.26},
        {"broker": "redis", "faults": both, "seconds": 3.0},
        {"broker": "redis", "faults": killed, "seconds": 0.5},
    ]

    assert table(lines).splitlines() == [
        "| what is struck | ORM broker | Redis |",
        "| --- | --- | --- |",
        "| killed in the body | 1.3 s | 0.5 s |",
        "| killed in the body, then stopped sweep: after a rescue |  | 3.0 s |",
    ]


def test_paid_calls_are_told_by_their_figures_their_places_and_what_was_paid_in_vain() -> None:
    figures = {"figures": "2 runs", "places": {"before the intent": 2}, "in_vain": ["seed 1, 'call 1': 0.5"]}

    assert told(figures).strip().splitlines() == [
        "2 runs",
        "",
        "| a worker is struck | times |",
        "| --- | --- |",
        "| before the intent | 2 |",
        "",
        "Charged and marked ambiguous:",
        "seed 1, 'call 1': 0.5",
    ]
