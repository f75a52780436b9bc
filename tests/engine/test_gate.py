from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from baton import Workflow
from baton.engine.gate import claim, worker_name
from baton.engine.runner import answer_bell
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps
from tests.clock import elapse, expire_leases

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]


def chain() -> WorkflowRun:
    return Workflow("x").add("a", steps.ran).add("b", steps.ran, deps=["a"]).insert()


def hold(run: WorkflowRun, name: str) -> None:
    """Let a worker elsewhere have the step."""
    assert claim(connection, run.steps[name].pk, worker="elsewhere:1") is not None


def deliver(run: WorkflowRun, name: str) -> bool:
    """Deliver one step by its id, and ring for its queue; return whether somebody got it."""
    got = claim(connection, run.steps[name].pk, worker=worker_name())
    answer_bell("default")
    return got is not None


def test_delivering_a_waiting_step_early_does_not_run_its_body():
    run = chain()
    hold(run, "a")

    assert not deliver(run, "b")

    assert steps.bodies_of(run) == []
    assert run.steps["b"].state == "pending"


def test_fifty_early_deliveries_leave_attempt_version_and_fence_unchanged():
    run = chain()
    hold(run, "a")
    before = run.nodes.filter(name="b").values().get()

    assert not any(deliver(run, "b") for _ in range(50))

    assert run.nodes.filter(name="b").values().get() == before
    assert run.steps["b"].attempt == 0


@pytest.mark.parametrize("state", ["snoozed", "retryable"])
def test_delivering_a_step_before_its_time_does_not_run_its_body(state):
    step = steps.snooze_once if state == "snoozed" else steps.fail
    run = Workflow("x").add("a", step).insert()
    answer_bell("default")
    before = run.nodes.values().get()
    assert before["state"] == state

    assert not any(deliver(run, "a") for _ in range(5))

    assert run.nodes.values().get() == before


def test_step_that_a_worker_holds_is_claimed_by_no_other():
    run = chain()
    hold(run, "a")

    assert not deliver(run, "a")

    assert run.steps["a"].worker == "elsewhere:1"
    assert run.steps["a"].attempt == 1


def test_step_with_a_time_ahead_does_not_start_when_its_dependency_completes():
    moment = timezone.now() + timedelta(hours=1)
    run = Workflow("x").add("a", steps.ran).add("b", steps.ran, deps=["a"], not_before=moment).insert()

    answer_bell("default")
    answer_bell("default")

    node = run.steps["b"]
    assert (node.state, node.due_at, node.attempt, node.version) == ("snoozed", moment, 0, 1)
    assert steps.bodies_of(run) == ["a"]


def test_step_whose_time_has_come_meanwhile_starts_with_its_dependency():
    run = (
        Workflow("x")
        .add("a", steps.ran)
        .add("b", steps.ran, deps=["a"], not_before=timezone.now() + timedelta(hours=1))
        .insert()
    )
    run.nodes.update(not_before=timezone.now() - timedelta(seconds=1))

    answer_bell("default")

    assert steps.bodies_of(run) == ["a", "b"]


def test_step_that_waited_for_its_time_starts_at_the_next_bell_after_it():
    run = Workflow("x").add("a", steps.ran, not_before=timezone.now() + timedelta(hours=1)).insert()

    answer_bell("default")
    assert steps.bodies_of(run) == []
    elapse(run)
    answer_bell("default")

    assert steps.bodies_of(run) == ["a"]
    assert run.steps["a"].attempt == 1


def test_waiting_for_a_time_is_announced_to_nobody():
    from tests.recording import recorded

    with recorded() as events:
        run = (
            Workflow("x")
            .add("a", steps.ran)
            .add("b", steps.ran, deps=["a"], not_before=timezone.now() + timedelta(hours=1))
            .insert()
        )
        answer_bell("default")

    assert events.states("b") == []
    assert run.steps["b"].state == "snoozed"


def test_step_that_is_never_to_start_does_not_wedge_its_dependency():
    never = datetime.max.replace(tzinfo=UTC)
    run = Workflow("x").add("a", steps.ran).add("b", steps.ran, deps=["a"], not_before=never).insert()

    answer_bell("default")

    assert {name: str(node.state) for name, node in run.steps.items()} == {"a": "completed", "b": "snoozed"}


# Order ---------------------------------------------------------------------------------------------------------------


def test_smaller_priorities_run_first_across_all_runs_of_a_queue():
    usual = Workflow("x").add("usual 1", steps.ran).add("usual 2", steps.ran).insert()
    late = Workflow("x").add("late", steps.ran, priority=5).insert()
    urgent = Workflow("x").add("urgent", steps.ran, priority=-5).insert()
    last = Workflow("x").add("usual 3", steps.ran).insert()

    answer_bell("default")

    assert steps.bodies_of_all(usual, late, urgent, last) == ["urgent", "usual 1", "usual 2", "usual 3", "late"]


def test_dependent_goes_before_steps_that_were_ready_earlier_but_not_before_more_urgent_ones():
    earlier = Workflow("x").add("b", steps.ran).add("c", steps.insert_urgent.bind("urgent")).insert()
    run = Workflow("x").add("a", steps.ran, priority=-1).add("a2", steps.ran, deps=["a"]).insert()

    answer_bell("default")

    (inserted,) = WorkflowRun.objects.filter(name="urgent")
    assert steps.bodies_of_all(earlier, run, inserted) == ["a", "a2", "b", "urgent 1", "urgent 2"]


def test_dependent_waits_for_a_ready_step_with_a_smaller_priority():
    run = (
        Workflow("x")
        .add("a", steps.ran, priority=-1)
        .add("after a", steps.ran, deps=["a"], priority=3)
        .add("b", steps.ran)
        .insert()
    )

    answer_bell("default")

    assert steps.bodies_of(run) == ["a", "b", "after a"]


def test_bell_runs_the_steps_of_its_own_queue_only():
    run = (
        Workflow("x")
        .add("a", steps.ran)
        .add("b", steps.ran, deps=["a"], queue="slow")
        .add("c", steps.ran, deps=["b"])
        .insert()
    )

    answer_bell("default")
    assert steps.bodies_of(run) == ["a"]
    answer_bell("slow")
    assert steps.bodies_of(run) == ["a", "b"]
    answer_bell("default")

    assert steps.bodies_of(run) == ["a", "b", "c"]


# A dependency whose row is gone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore", [False, True])
def test_ready_step_whose_dependency_s_row_is_gone_is_cancelled_and_not_run(ignore):
    run = (
        Workflow("x", ignore_cancelled=ignore, ignore_discarded=ignore)
        .add("a", steps.ran)
        .add("b", steps.ran, deps=["a"], queue="slow")
        .insert()
    )
    answer_bell("default")
    run.nodes.filter(name="a").delete()

    answer_bell("slow")

    node = run.steps["b"]
    assert (node.state, node.error) == ("cancelled", "the row of a dependency is gone")
    assert steps.bodies_of(run) == ["a"]
    run.refresh_from_db()
    assert run.state == "failed"


def test_steps_of_a_vanished_worker_are_claimed_by_nobody_before_the_sweep(invariants):
    run = chain()
    hold(run, "a")
    expire_leases(run)

    assert not deliver(run, "a")

    assert run.steps["a"].state == "executing"
    assert steps.bodies_of(run) == []


def test_settled_step_is_run_and_changed_by_no_bell_claim_cancel_or_sweep():
    from baton.sweep import sweep

    run = drain(
        Workflow("x", ignore_discarded=True)
        .add("bad", steps.ran_and_failed, max_attempts=1)
        .add("a", steps.ran.bind(1), deps=["bad"])
        .add("b", steps.ran, deps=["a"])
        .insert()
    )
    before = list(run.nodes.values())
    bodies = list(steps.bodies_of(run))

    for name in run.steps:
        assert not deliver(run, name)
    assert run.cancel("too late") is False
    assert sweep().work == 0

    assert list(run.nodes.values()) == before
    assert steps.bodies_of(run) == bodies == ["bad", "a", "b"]
    run.refresh_from_db()
    assert run.state == "completed"
