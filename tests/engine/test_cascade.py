from __future__ import annotations

from typing import Any

import pytest

from baton import Workflow, q2
from baton.engine.runner import answer_bell
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps
from tests.recording import recorded

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]

BAD = {"cancelled": steps.cancel, "discarded": steps.discard}


def states(run: WorkflowRun) -> dict[str, str]:
    return {name: str(node.state) for name, node in run.steps.items()}


def pair(bad: str, *, at_workflow: dict[str, Any] | None = None, at_step: dict[str, Any] | None = None) -> WorkflowRun:
    """A step that ends badly, and one that depends on it."""
    return drain(
        Workflow("x", **(at_workflow or {}))
        .add("bad", BAD[bad])
        .add("dependent", steps.ran.bind(1), deps=["bad"], **(at_step or {}))
        .insert()
    )


@pytest.mark.parametrize("bad", BAD)
def test_dependent_of_a_step_that_ended_badly_is_cancelled_and_the_reason_names_it(bad):
    run = pair(bad)

    node = run.steps["dependent"]
    assert (node.state, node.error, node.attempt) == ("cancelled", f"dependency 'bad' was {bad}", 0)
    assert steps.bodies_of(run) == []
    assert run.state == "failed"


def test_dependent_of_a_step_without_attempts_left_is_cancelled():
    run = drain(Workflow("x").add("a", steps.fail, max_attempts=2).add("b", steps.ran, deps=["a"]).insert())

    assert states(run) == {"a": "discarded", "b": "cancelled"}


def test_dependent_of_a_retryable_step_waits():
    run = Workflow("x").add("a", steps.fail).add("b", steps.ran, deps=["a"]).insert()

    answer_bell("default")

    assert states(run) == {"a": "retryable", "b": "pending"}


def chain_of_ten() -> WorkflowRun:
    workflow = Workflow("chain").add("0", steps.discard)
    for number in range(1, 10):
        workflow.add(str(number), steps.ran, deps=[str(number - 1)])
    return workflow.insert()


def test_nine_steps_behind_a_discarded_root_are_cancelled():
    run = drain(chain_of_ten())

    assert list(states(run).values()) == ["discarded", *["cancelled"] * 9]
    assert run.steps["1"].error == "dependency '0' was discarded"
    assert run.steps["9"].error == "dependency '8' was cancelled"
    assert steps.bodies_of(run) == []


def test_cascade_is_done_by_the_settle_itself_and_needs_neither_bell_nor_sweep():
    run = chain_of_ten()

    with recorded() as events:
        answer_bell("default")

    assert list(states(run).values()) == ["discarded", *["cancelled"] * 9]
    assert events.states() == ["executing", "discarded", *["cancelled"] * 9]
    assert len(events.finished) == 1


def test_cascade_reaches_a_thousand_steps_of_a_deep_graph():
    workflow = Workflow("deep").add("0", steps.discard)
    for number in range(1, 1001):
        workflow.add(str(number), steps.ran, deps=[str(number - 1)])
    run = workflow.insert()

    answer_bell("default")

    assert run.progress == {"total": 1001, "settled": 1001, "states": {"discarded": 1, "cancelled": 1000}}


def test_step_behind_several_ways_of_a_failure_is_cancelled_once():
    with recorded() as events:
        run = drain(
            Workflow("x")
            .add("bad", steps.discard)
            .add("left", steps.ran, deps=["bad"])
            .add("right", steps.ran, deps=["bad"])
            .add("join", steps.ran, deps=["left", "right", "bad"])
            .insert()
        )

    assert states(run) == {"bad": "discarded", "left": "cancelled", "right": "cancelled", "join": "cancelled"}
    assert events.states("join") == ["cancelled"]


def test_siblings_of_a_failed_step_go_on():
    run = drain(
        Workflow("x")
        .add("a", steps.ran)
        .add("bad", steps.discard, deps=["a"])
        .add("good", steps.ran, deps=["a"])
        .add("after bad", steps.ran, deps=["bad"])
        .add("after good", steps.ran, deps=["good"])
        .add("after both", steps.ran, deps=["bad", "good"])
        .insert()
    )

    assert states(run) == {
        "a": "completed",
        "bad": "discarded",
        "good": "completed",
        "after bad": "cancelled",
        "after good": "completed",
        "after both": "cancelled",
    }
    assert steps.bodies_of(run) == ["a", "good", "after good"]


# Flags ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("level", ["workflow", "step"])
def test_dependent_that_ignores_how_its_dependency_ended_runs(bad, level):
    run = pair(bad, **{f"at_{level}": {f"ignore_{bad}": True}})

    assert states(run) == {"bad": bad, "dependent": "completed"}
    assert steps.bodies_of(run) == ["dependent"]
    assert run.state == "completed"


@pytest.mark.parametrize("bad", BAD)
def test_reading_a_dependency_that_ended_badly_raises_no_result_error(bad):
    run = drain(
        Workflow("x", ignore_cancelled=True, ignore_discarded=True)
        .add("bad", BAD[bad])
        .add("reads", steps.read.bind("bad"), deps=["bad"], max_attempts=1)
        .add("asks", steps.results, deps=["bad"])
        .insert()
    )

    assert run.steps["reads"].error == f"Step 'bad' has no result: it is {bad}."
    assert run.steps["asks"].result == {}


@pytest.mark.parametrize("bad", BAD)
def test_flag_of_the_step_beats_that_of_the_workflow(bad):
    cancelled = pair(bad, at_workflow={f"ignore_{bad}": True}, at_step={f"ignore_{bad}": False})
    ran = pair(bad, at_workflow={f"ignore_{bad}": False}, at_step={f"ignore_{bad}": True})

    assert states(cancelled)["dependent"] == "cancelled"
    assert states(ran)["dependent"] == "completed"


@pytest.mark.parametrize(("bad", "other"), [("cancelled", "discarded"), ("discarded", "cancelled")])
@pytest.mark.parametrize("level", ["workflow", "step"])
def test_ignoring_one_ending_does_not_excuse_the_other(bad, other, level):
    run = pair(bad, **{f"at_{level}": {f"ignore_{other}": True}})

    assert states(run)["dependent"] == "cancelled"


def test_flag_excuses_the_direct_dependency_only():
    run = drain(
        Workflow("x")
        .add("bad", steps.discard)
        .add("cancelled", steps.ran, deps=["bad"])
        .add("ignores discarded", steps.ran, deps=["cancelled"], ignore_discarded=True)
        .add("ignores cancelled", steps.ran, deps=["cancelled"], ignore_cancelled=True)
        .insert()
    )

    assert states(run) == {
        "bad": "discarded",
        "cancelled": "cancelled",
        "ignores discarded": "cancelled",
        "ignores cancelled": "completed",
    }


def test_step_that_ignores_one_failure_waits_for_its_other_dependencies():
    run = (
        Workflow("x", ignore_discarded=True)
        .add("bad", steps.discard, priority=-1)
        .add("good", steps.ran, queue="slow")
        .add("join", steps.ran, deps=["bad", "good"])
        .insert()
    )

    answer_bell("default")
    assert (run.steps["join"].state, run.steps["join"].remaining) == ("pending", 1)
    answer_bell("slow")

    assert run.steps["join"].state == "available"


def test_step_whose_failed_dependencies_are_all_ignored_is_ready_and_rung_for_at_once():
    run = (
        Workflow("x")
        .add("bad", steps.discard)
        .add("cancelled", steps.ran, deps=["bad"])
        .add("join", steps.ran, deps=["bad", "cancelled"], queue="slow", ignore_cancelled=True, ignore_discarded=True)
        .insert()
    )

    answer_bell("default")

    assert run.steps["join"].state == "available"
    assert q2.waiting_bells("slow") == 1
    answer_bell("slow")
    assert steps.bodies_of(run) == ["join"]


def test_ignoring_step_with_a_time_ahead_still_waits_for_it():
    from datetime import timedelta

    from django.utils import timezone

    moment = timezone.now() + timedelta(hours=1)
    run = (
        Workflow("x", ignore_discarded=True)
        .add("bad", steps.discard)
        .add("b", steps.ran, deps=["bad"], not_before=moment)
        .insert()
    )

    answer_bell("default")
    answer_bell("default")

    assert (run.steps["b"].state, run.steps["b"].due_at) == ("snoozed", moment)


# The outcome ---------------------------------------------------------------------------------------------------------


def test_failure_that_every_dependent_ignored_does_not_fail_the_run_but_is_named():
    with recorded() as events:
        run = pair("discarded", at_workflow={"ignore_discarded": True})

    assert run.state == "completed"
    assert [(event["outcome"], event["failed_steps"]) for event in events.finished] == [("completed", ["bad"])]
    assert events.failed == []


def test_failed_step_without_dependents_fails_the_run():
    with recorded() as events:
        run = drain(Workflow("x", ignore_discarded=True).add("good", steps.ran).add("bad", steps.discard).insert())

    assert run.state == "failed"
    assert [(event["outcome"], event["failed_steps"]) for event in events.finished] == [("failed", ["bad"])]
    assert len(events.failed) == 1
