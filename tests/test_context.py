from __future__ import annotations

import time
from uuid import UUID

import pytest

from baton import StepContext, Workflow
from baton.engine.body import PROGRESS_SECONDS
from baton.engine.runner import answer_bell
from baton.exceptions import NoResultError
from baton.testing import drain
from tests import steps

RUN_ID = UUID(int=1)


def context() -> StepContext:
    return StepContext(workflow_id=RUN_ID, workflow_name="x", step_name="a")


def test_context_made_by_hand_serves_a_body_called_by_hand():
    ctx = context()

    assert steps.report(ctx, upto=1) is None
    assert steps.log(ctx) is None
    assert (ctx.attempt, ctx.max_attempts, ctx.args, ctx.results, ctx.model) == (1, 1, {}, {}, None)
    assert not ctx.is_cancelled
    with pytest.raises(NoResultError):
        _ = ctx.own_result


@pytest.mark.django_db
def test_progress_is_seen_while_the_body_runs():
    run = drain(Workflow("x").add("a", steps.report_and_look).insert())

    assert run.steps["a"].result == {"current": 1, "total": 4, "message": "first"}
    assert run.steps["a"].progress == {"current": 3, "total": 4, "message": "third"}


@pytest.mark.django_db
def test_progress_is_written_every_half_second_at_most():
    assert PROGRESS_SECONDS == 0.5
    began = time.monotonic()

    run = drain(Workflow("x").add("a", steps.report.bind(500)).insert())

    assert run.steps["a"].progress["current"] == 500
    assert run.steps["a"].version <= 4 + (time.monotonic() - began) / PROGRESS_SECONDS


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((1,), {"current": 1, "total": None, "message": ""}),
        ((1, 2), {"current": 1, "total": 2, "message": ""}),
        ((0.5, 1.0, "half"), {"current": 0.5, "total": 1.0, "message": "half"}),
        ((1, None, "a\x00\ud800"), {"current": 1, "total": None, "message": "a\x00\ud800"}),
    ],
)
def test_progress_takes_any_unit_and_any_message(given, expected):
    run = drain(Workflow("x").add("a", steps.report_as.bind(list(given))).insert())

    assert run.steps["a"].state == "completed"
    assert run.steps["a"].progress == expected


@pytest.mark.django_db(transaction=True)
def test_async_body_may_report_ask_and_read_as_any_other():
    run = Workflow("x").add("a", steps.value.bind(3)).add("b", steps.later_curious, deps=["a"]).insert()

    answer_bell("default")

    assert run.wait(timeout=60) == "completed"
    assert run.steps["b"].result == {"a": 3, "is_cancelled": False, "own": "NoResultError"}
    assert run.steps["b"].progress == {"current": 1, "total": 2, "message": ""}


@pytest.mark.django_db
def test_arguments_of_the_context_are_those_of_the_body_references_filled():
    from baton import result_of

    run = drain(Workflow("x").add("a", steps.value.bind("b")).add("b", steps.about.bind(word=result_of("a"))).insert())

    assert run.steps["b"].result["args"] == {"word": "b"}
