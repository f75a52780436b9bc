from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.test import TestCase
from django.utils import timezone

from baton import Cancel, Discard, Snooze, Workflow
from baton.engine.gate import claim
from baton.exceptions import NoResultError, NotADependencyError
from baton.models import WorkflowRun
from baton.testing import DrainLimitError, drain, perform
from tests import steps
from tests.clock import expire_leases
from tests.recording import recorded

# drain ---------------------------------------------------------------------------------------------------------------


class DrainInATestCase(TestCase):
    """Inside Django's own TestCase nothing is ever committed."""

    def test_run_is_brought_to_its_end_and_announced(self):
        with recorded() as events:
            run = drain(Workflow("x").add("a", steps.value.bind(1)).add("b", steps.total, deps=["a"]).insert())

        assert run.state == "completed"
        assert run.steps["b"].result == 1
        assert events.states() == ["executing", "completed"] * 2
        assert [event["outcome"] for event in events.finished] == ["completed"]

    def test_failing_steps_do_not_break_the_test_s_transaction(self):
        run = drain(Workflow("x").add("a", steps.break_query, max_attempts=2).add("b", steps.ran).insert())

        assert run.state == "failed"
        assert WorkflowRun.objects.count() == 1


@pytest.mark.django_db
def test_drain_returns_the_run_refreshed():
    run = Workflow("x").add("a", steps.nothing).insert()

    assert drain(run) is run
    assert run.state == "completed"
    assert run.finished_at is not None


@pytest.mark.django_db
def test_snoozes_backoffs_and_times_ahead_are_taken_as_elapsed():
    run = drain(
        Workflow("x")
        .add("snoozed", steps.snooze_once.bind(3600))
        .add("failed", steps.fail_times.bind(1), backoff=3600)
        .add("later", steps.ran, not_before=timezone.now() + timedelta(days=1))
        .add("after", steps.ran, deps=["snoozed", "failed", "later"], not_before=timezone.now() + timedelta(days=1))
        .insert()
    )

    assert run.state == "completed"


@pytest.mark.django_db
def test_drain_takes_steps_of_its_run_only_in_any_queue():
    other = Workflow("y").add("a", steps.ran, priority=-10).insert()
    run = drain(Workflow("x").add("a", steps.ran).add("b", steps.ran, deps=["a"], queue="slow").insert())

    assert run.state == "completed"
    assert other.steps["a"].state == "available"
    assert steps.bodies_of(other) == []


@pytest.mark.django_db
def test_drain_of_a_settled_run_changes_nothing():
    run = drain(Workflow("x").add("a", steps.ran).insert())
    before = list(run.nodes.values())

    with recorded() as events:
        drain(run)

    assert list(run.nodes.values()) == before
    assert events.order == []


@pytest.mark.django_db
def test_drain_runs_priorities_in_order():
    run = drain(Workflow("x").add("a", steps.ran).add("b", steps.ran, priority=-1).insert())

    assert steps.bodies_of(run) == ["b", "a"]


@pytest.mark.django_db
def test_step_that_snoozes_for_ever_is_told_by_a_limit():
    run = Workflow("x").add("a", steps.snooze_times.bind(10**9)).insert()

    with pytest.raises(DrainLimitError) as refusal:
        drain(run, limit=25)

    assert refusal.value.limit == 25
    assert "does a step snooze for ever?" in str(refusal.value)


@pytest.mark.django_db(transaction=True)
def test_drain_waits_for_a_step_that_another_worker_holds():
    run = Workflow("x").add("a", steps.ran).add("b", steps.ran, deps=["a"]).insert()
    claim(connection, run.steps["a"].pk, worker="elsewhere:1")

    def rescue():
        from baton.sweep import sweep

        expire_leases(run)
        sweep()
        connections.close_all()

    thread = threading.Timer(0.1, rescue)
    thread.start()
    drain(run)
    thread.join()

    assert run.state == "completed"
    assert run.steps["a"].attempt == 2


@pytest.mark.django_db(transaction=True)
def test_drain_outside_the_main_thread_works_without_a_timer():
    run = Workflow("x").add("a", steps.value, timeout=5).insert()

    def work():
        drain(run)
        connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert run.steps["a"].state == "completed"


# perform -------------------------------------------------------------------------------------------------------------


def test_perform_runs_one_body_without_a_database_and_returns_its_value():
    assert perform(steps.add, left=1, right=2) == 3
    assert perform(steps.nothing) is None


def test_perform_gives_the_body_results_as_json_gives_them_back():
    assert perform(steps.results, results={"a": (1, 2), "b": 0}) == {"a": [1, 2], "b": 0}
    assert perform(steps.read, results={"a": 5}, name="a") == 5


def test_perform_returns_the_value_as_a_dependent_would_read_it():
    assert perform(steps.value.bind((1,))) == [1]
    assert perform(steps.made, kind="datetime") == "2026-06-14T18:00:00.123456Z"


def test_perform_takes_bound_arguments_and_more():
    assert perform(steps.add.bind(left=1), right=5) == 6


def test_perform_awaits_async_bodies():
    assert perform(steps.later, value=2) == 2


@pytest.mark.parametrize(
    ("step", "directive"),
    [(steps.discard, Discard), (steps.cancel, Cancel), (steps.snooze, Snooze)],
)
def test_perform_raises_what_the_body_raises(step, directive):
    with pytest.raises(directive):
        perform(step)


def test_perform_lets_errors_through():
    with pytest.raises(RuntimeError, match="no paper"):
        perform(steps.fail, message="no paper")


def test_perform_refuses_what_insert_would_refuse():
    with pytest.raises(TypeError, match="needs 'left'"):
        perform(steps.add)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        perform(steps.add, left=1, wrong=2)
    with pytest.raises(TypeError, match="result is of type set"):
        perform(steps.unmade, kind="set")


def test_perform_says_which_execution_it_is():
    said = perform(steps.about, attempt=3, max_attempts=4, step_name="a")

    assert (said["attempt"], said["max_attempts"], said["step_name"]) == (3, 4, "a")
    assert (said["workflow_name"], said["is_cancelled"]) == ("perform", False)
    assert perform(steps.about)["max_attempts"] == 5


def test_perform_has_no_result_of_what_it_was_not_given():
    with pytest.raises(NotADependencyError):
        perform(steps.read, name="a")
    with pytest.raises(NoResultError):
        perform(steps.own_result)


def test_progress_under_perform_is_told_to_nobody():
    assert perform(steps.report) is None
