from __future__ import annotations

import pytest

from baton import Workflow, q2
from baton.engine.runner import answer_bell
from baton.testing import drain
from tests import steps
from tests.recording import recorded

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]


def test_step_is_readied_once_by_the_last_of_its_dependencies():
    run = (
        Workflow("x")
        .add("a", steps.value.bind(1))
        .add("b", steps.value.bind(2))
        .add("c", steps.value.bind(3))
        .add("d", steps.total, deps=["a", "b", "c"], queue="slow")
        .insert()
    )

    with recorded() as events:
        answer_bell("default")
        assert run.steps["d"].state == "available"
        assert run.steps["d"].remaining == 0
        assert q2.waiting_bells("slow") == 1
        answer_bell("slow")
        answer_bell("slow")

    assert run.steps["d"].result == 6
    assert run.steps["d"].attempt == 1
    assert events.states("d") == ["executing", "completed"]


def test_result_of_a_stale_attempt_is_dropped():
    run = Workflow("x").add("a", steps.outlive_lease).add("b", steps.read.bind("a"), deps=["a"]).insert()

    with recorded() as events:
        drain(run)

    node = run.steps["a"]
    assert (node.state, node.attempt, node.result) == ("completed", 2, "of the second attempt")
    assert [entry["outcome"] for entry in node.attempts] == ["worker_lost", "completed"]
    assert run.steps["b"].result == "of the second attempt"
    assert events.states("a") == ["executing", "retryable", "executing", "completed"]


def test_stale_failure_is_dropped_as_a_result_is():
    run = Workflow("x").add("a", steps.outlive_lease_and_fail).add("b", steps.ran, deps=["a"]).insert()

    drain(run)

    assert run.steps["a"].result == "of the second attempt"
    assert run.state == "completed"


def test_worker_whose_settle_was_stale_goes_on_with_the_next_step():
    run = Workflow("x").add("a", steps.outlive_lease).add("b", steps.ran).insert()

    answer_bell("default")

    assert steps.bodies_of(run) == ["b"]


def test_versions_rise_with_every_change_and_never_repeat():
    with recorded() as events:
        run = drain(
            Workflow("x")
            .add("a", steps.fail_times.bind(2))
            .add("b", steps.snooze_times.bind(2), deps=["a"])
            .add("c", steps.discard, deps=["b"])
            .add("d", steps.nothing, deps=["c"])
            .insert()
        )

    for name, node in run.steps.items():
        versions = [event["version"] for event in events.steps if event["step_name"] == name]
        assert versions == sorted(set(versions))
        assert versions[-1] == node.version


def test_bell_is_rung_in_the_queue_of_each_dependent():
    workflow = Workflow("x").add("a", steps.nothing)
    for number in range(5):
        workflow.add(f"slow {number}", steps.nothing, deps=["a"], queue="slow")
    workflow.add("llm", steps.nothing, deps=["a"], queue="llm")
    workflow.insert()

    answer_bell("default")

    assert (q2.waiting_bells("slow"), q2.waiting_bells("llm")) == (2, 1)


def test_worker_rings_for_the_dependents_it_does_not_take_itself():
    workflow = Workflow("x").add("a", steps.nothing)
    for number in range(3):
        workflow.add(f"b{number}", steps.ring_count, deps=["a"])
    run = workflow.insert()

    answer_bell("default")

    assert run.steps["b0"].result == 2  # for the two that this worker left: the bell of the insert waits and counts


def test_step_s_times_are_in_order():
    run = drain(Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert())

    a, b = run.steps["a"], run.steps["b"]
    assert run.inserted_at <= a.queued_at <= a.started_at <= a.finished_at <= b.queued_at <= b.started_at
    assert b.started_at <= b.finished_at <= run.finished_at
    assert a.finished_at == a.settled_at
