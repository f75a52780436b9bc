from __future__ import annotations

import pytest
from django.db import connection, transaction

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.runner import answer_bell
from baton.models import Completion, WorkflowRun
from baton.sweep import sweep
from baton.testing import drain
from tests import steps
from tests.recording import recorded

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("invariants")]


def run_in_every_state() -> WorkflowRun:
    run = (
        Workflow("x")
        .add("completed", steps.value, priority=-3)
        .add("discarded", steps.discard, priority=-2)
        .add("retryable", steps.fail, priority=-1)
        .add("snoozed", steps.snooze_once)
        .add("executing", steps.nothing, queue="slow")
        .add("available", steps.nothing, queue="llm")
        .add("pending", steps.nothing, deps=["available"])
        .insert()
    )
    claim(connection, run.steps["executing"].pk, worker="elsewhere:1")
    answer_bell("default")
    assert {name: str(node.state) for name, node in run.steps.items()} == {name: name for name in run.steps}
    return run


def test_cancel_settles_everything_unsettled_and_finishes_the_run_once():
    run = run_in_every_state()

    with recorded() as events:
        assert run.cancel("enough") is True
        assert run.cancel("again") is False
        sweep()

    unsettled = ["retryable", "snoozed", "executing", "available", "pending"]
    for name in unsettled:
        node = run.steps[name]
        assert (node.state, node.error, node.lease_until, node.due_at) == ("cancelled", "enough", None, None)
    assert run.steps["completed"].state == "completed"
    assert run.steps["discarded"].error == "no use"
    assert sorted(event["step_name"] for event in events.steps) == sorted(unsettled)
    assert set(events.states()) == {"cancelled"}
    assert events.order == ["steps"] * 5 + ["finished"]
    assert (events.finished[0]["outcome"], run.state) == ("cancelled", "cancelled")
    assert sorted(events.finished[0]["failed_steps"]) == sorted(["discarded", *unsettled])
    assert Completion.objects.get().outcome == "cancelled"
    assert run.cancel_reason == "enough"
    assert run.wait() == "cancelled"


def test_cancel_without_a_reason_says_that_the_run_was_cancelled():
    run = Workflow("x").add("a", steps.nothing).insert()

    run.cancel()

    assert run.steps["a"].error == "the run was cancelled"


def test_execution_that_cancel_ended_is_in_the_step_s_log():
    run = run_in_every_state()

    run.cancel("enough")

    (entry,) = run.steps["executing"].attempts
    assert (entry["number"], entry["worker"]) == (1, "elsewhere:1")
    assert (entry["outcome"], entry["error"]) == ("cancelled", "enough")


def test_running_body_is_told_and_what_it_returns_is_dropped():
    run = Workflow("x").add("a", steps.cancel_own_run).add("b", steps.ran, deps=["a"]).insert()

    with recorded() as events:
        answer_bell("default")

    assert steps.bodies_of(run) == ["before False, after True"]
    node = run.steps["a"]
    assert (node.state, node.error, node.has_result) == ("cancelled", "by a body", False)
    assert run.steps["b"].state == "cancelled"
    assert events.states() == ["executing", "cancelled", "cancelled"]
    assert len(events.finished) == 1


def test_cancel_of_a_settled_run_does_nothing():
    run = drain(Workflow("x").add("a", steps.nothing).insert())
    before = list(WorkflowRun.objects.values()), list(run.nodes.values())

    with recorded() as events:
        assert run.cancel("too late") is False

    assert (list(WorkflowRun.objects.values()), list(run.nodes.values())) == before
    assert events.order == []


def test_cancel_in_a_transaction_that_rolls_back_is_no_cancel():
    run = Workflow("x").add("a", steps.nothing).insert()

    with recorded() as events, transaction.atomic():
        run.cancel("enough")
        transaction.set_rollback(True)

    run.refresh_from_db()
    assert (run.state, run.steps["a"].state) == ("running", "available")
    assert events.order == []


def test_cancel_after_the_last_settle_leaves_the_outcome_to_that():
    # The worker has settled the last step and died before it asked whether the run is at its end.
    run = drain(Workflow("x").add("a", steps.nothing).insert())
    Completion.objects.all().delete()
    WorkflowRun.objects.update(state="running", finished_at=None)

    with recorded() as events:
        assert run.cancel("too late") is False

    assert run.state == "completed"
    assert [event["outcome"] for event in events.finished] == ["completed"]


def test_bell_after_a_cancel_runs_nothing():
    run = Workflow("x").add("a", steps.ran).add("b", steps.ran, deps=["a"]).insert()
    run.cancel()

    answer_bell("default")

    assert steps.bodies_of(run) == []


def test_key_of_a_cancelled_run_is_free():
    first = Workflow("x", key="k").add("a", steps.nothing).insert()
    first.cancel()

    assert Workflow("x", key="k").add("a", steps.nothing).insert() != first
