from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from baton import Workflow, step
from baton.engine.runner import answer_bell
from baton.models import WorkflowNode
from tests import steps
from tests.clock import elapse

pytestmark = pytest.mark.django_db


def delays(attempts: int = 1, **options) -> list[float]:
    """Seconds that a failing step waits after each of its first attempts."""
    run = Workflow("x").add("a", steps.fail.bind("four"), max_attempts=attempts + 1, **options).insert()
    waited = []
    for _ in range(attempts):
        answer_bell("default")
        node = run.steps["a"]
        assert node.state == "retryable"
        assert node.due_at is not None
        waited.append((node.due_at - datetime.fromisoformat(node.attempts[-1]["ended_at"])).total_seconds())
        elapse(run)
    return waited


def test_default_backoff_of_an_attempt_lies_between_half_and_the_whole_of_its_power_of_two():
    for _ in range(5):
        for attempt, waited in enumerate(delays(13), start=1):
            whole = min(2.0**attempt, 3600)
            assert whole / 2 - 0.01 <= waited <= whole + 2, attempt


def test_default_backoff_is_spread():
    assert len({round(delays(1)[0], 3) for _ in range(10)}) > 5


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (0, [0, 0, 0]),
        (5, [5, 5, 5]),
        (0.5, [0.5, 0.5, 0.5]),
        ([1, 20, 300], [1, 20, 300]),
        ((1, 20), [1, 20, 20]),
        ([7], [7, 7, 7]),
        (steps.seven_seconds, [11, 18, 25]),  # seven for each attempt, and one for each letter of "four"
    ],
)
def test_backoff_may_be_a_number_a_list_whose_last_repeats_or_a_callable(backoff, expected):
    waited = delays(3, backoff=backoff)

    assert [round(seconds - wanted) for seconds, wanted in zip(waited, expected, strict=True)] == [0, 0, 0]


@step(backoff=steps.seven_seconds)
def told_by_the_decorator(ctx):
    raise RuntimeError("four")


def test_backoff_may_be_said_by_the_decorator():
    run = Workflow("x").add("a", told_by_the_decorator).insert()

    answer_bell("default")

    node = run.steps["a"]
    assert node.due_at is not None
    waits = node.due_at - datetime.fromisoformat(node.attempts[-1]["ended_at"])
    assert timedelta(seconds=10.9) < waits < timedelta(seconds=13)


@pytest.mark.parametrize("backoff", [steps.no_backoff, steps.negative_backoff, steps.endless_backoff])
def test_callable_that_gives_no_seconds_is_told_and_the_default_is_used(backoff, caplog):
    (waited,) = delays(1, backoff=backoff)

    assert 0.9 < waited < 4
    assert "the default is used" in caplog.text


def test_retry_is_due_by_its_row_and_not_before():
    run = Workflow("x").add("a", steps.fail, backoff=3600).insert()
    answer_bell("default")
    answer_bell("default")
    assert run.steps["a"].attempt == 1

    elapse(run)
    answer_bell("default")

    assert run.steps["a"].attempt == 2
    assert WorkflowNode.objects.get().due_at is not None
