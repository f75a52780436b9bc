from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.tasks import async_task

from baton import Workflow, q2
from baton.engine.gate import claim
from baton.engine.runner import answer_bell
from baton.models import Completion, SweepLease, WorkflowNode, WorkflowRun
from baton.sweep import check, scheduled_sweep, sweep
from baton.sweep.lease import SweeperLease
from baton.telemetry import step_transitioned
from baton.testing import drain
from tests import steps
from tests.clock import elapse, expire_leases
from tests.factories import QueueSightingFactory, SweepLeaseFactory
from tests.recording import recorded

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]


def held_elsewhere(**options) -> WorkflowRun:
    """A run whose first step a worker elsewhere has taken and lost."""
    run = Workflow("x").add("a", steps.ran.bind(1), **options).add("b", steps.ran, deps=["a"]).insert()
    claim(connection, run.steps["a"].pk, worker="elsewhere:1")
    expire_leases(run)
    return run


def states(run: WorkflowRun) -> dict[str, str]:
    return {name: str(node.state) for name, node in run.steps.items()}


def test_sweep_of_a_healthy_project_does_nothing():
    run = Workflow("x").add("a", steps.snooze_once).add("b", steps.nothing, deps=["a"]).insert()
    drain(Workflow("y").add("a", steps.nothing).insert())
    answer_bell("default")
    before = list(WorkflowNode.objects.values()), OrmQ.objects.count()

    report = sweep()

    assert (report.work, report.rung, report.errors, report.busy) == (0, 0, {}, False)
    assert (list(WorkflowNode.objects.values()), OrmQ.objects.count()) == before
    drain(run)


# Workers that vanished -----------------------------------------------------------------------------------------------


def test_step_whose_lease_ran_out_is_retried_at_once_and_rung_for():
    run = held_elsewhere()
    OrmQ.objects.all().delete()

    with recorded() as events:
        report = sweep()

    assert report.rescued == 1
    node = run.steps["a"]
    assert (node.state, node.attempt, node.lease_until) == ("available", 1, None)
    assert node.error == "worker elsewhere:1 vanished: its lease ran out"
    assert events.states() == ["retryable"]
    assert q2.waiting_bells("default") >= 1
    answer_bell("default")
    assert states(run) == {"a": "completed", "b": "completed"}


def test_step_whose_worker_vanished_in_its_last_attempt_is_discarded_and_its_dependents_fall():
    run = held_elsewhere(max_attempts=1)

    with recorded() as events:
        sweep()

    assert states(run) == {"a": "discarded", "b": "cancelled"}
    assert [entry["outcome"] for entry in run.steps["a"].attempts] == ["worker_lost"]
    assert events.states() == ["discarded", "cancelled"]
    assert events.finished[0]["outcome"] == "failed"


@pytest.mark.parametrize("options", [{"retry_on": steps.RefusedError}, {"no_retry_on": BaseException}])
def test_vanished_worker_is_no_error_of_the_step_and_it_is_retried_whatever_retry_on_says(options):
    run = held_elsewhere(**options)

    sweep()

    assert run.steps["a"].state == "available"


def test_step_under_a_live_lease_is_left_to_its_worker():
    run = held_elsewhere()
    run.nodes.filter(name="a").update(lease_until=timezone.now() + timedelta(seconds=10))

    assert sweep().rescued == 0
    assert run.steps["a"].state == "executing"


def test_step_that_was_rescued_many_times_is_discarded_in_the_end():
    run = Workflow("x").add("a", steps.nothing, max_attempts=3).insert()

    for _ in range(3):
        claim(connection, run.steps["a"].pk, worker="elsewhere:1")
        expire_leases(run)
        sweep()

    assert run.steps["a"].state == "discarded"
    assert [entry["number"] for entry in run.steps["a"].attempts] == [1, 2, 3]


# Steps that are ready or due -----------------------------------------------------------------------------------------


@pytest.fixture
def served():
    """Queues whose workers were seen just now, so that the sweep need not call the roll."""
    for queue in ("default", "slow"):
        QueueSightingFactory.create(queue=queue)


@pytest.mark.usefixtures("served")
def test_ready_step_whose_bell_was_lost_is_rung_for_once_it_has_waited(settings):
    settings.BATON = {"READY_SECONDS": 2}
    run = Workflow("x").add("a", steps.nothing).insert()
    OrmQ.objects.all().delete()

    assert sweep().rung == 0
    run.nodes.update(queued_at=timezone.now() - timedelta(seconds=3))

    assert sweep().rung == 2
    assert q2.waiting_bells("default") == 2


def test_roll_call_that_waits_is_no_bell():
    run = Workflow("x").add("a", steps.nothing).insert()
    OrmQ.objects.all().delete()
    assert sweep().rung == 0
    assert OrmQ.objects.count() == 1
    run.nodes.update(queued_at=timezone.now() - timedelta(seconds=3))

    assert sweep().rung == 2


@pytest.mark.usefixtures("served")
def test_queue_that_nobody_serves_gets_as_many_bells_as_it_has_workers_and_never_more():
    run = Workflow("x").add("a", steps.nothing, queue="slow").insert()
    run.nodes.update(queued_at=timezone.now() - timedelta(seconds=3))

    rung = [sweep().rung for _ in range(5)]

    assert rung == [1, 0, 0, 0, 0]
    assert q2.waiting_bells("slow") == 2


def test_bells_that_a_busy_worker_has_prefetched_do_not_count():
    run = Workflow("x").add("a", steps.nothing).insert()
    run.nodes.update(queued_at=timezone.now() - timedelta(seconds=3))
    OrmQ.objects.update(lock=timezone.now() + timedelta(hours=1))

    assert sweep().rung == 2


def test_messages_of_others_do_not_count_as_bells():
    run = Workflow("x").add("a", steps.nothing).insert()
    run.nodes.update(queued_at=timezone.now() - timedelta(seconds=3))
    OrmQ.objects.all().delete()
    for _ in range(5):
        async_task("tests.steps.plain_task")

    assert sweep().rung == 2


def test_malformed_messages_are_no_bells_and_no_hindrance():
    run = Workflow("x").add("a", steps.nothing).insert()
    run.nodes.update(queued_at=timezone.now() - timedelta(seconds=3))
    OrmQ.objects.update(payload="not signed")

    report = sweep()

    assert (report.rung, report.errors) == (2, {})


@pytest.mark.usefixtures("served")
def test_due_steps_of_every_queue_are_made_ready_and_rung_for():
    run = (
        Workflow("x")
        .add("snoozed", steps.snooze_once)
        .add("retryable", steps.fail)
        .add("later", steps.nothing, queue="slow", not_before=timezone.now() + timedelta(hours=1))
        .insert()
    )
    answer_bell("default")
    OrmQ.objects.all().delete()
    assert sweep().readied == 0
    elapse(run)

    assert sweep().readied == 3

    assert set(states(run).values()) == {"available"}
    assert (q2.waiting_bells("default"), q2.waiting_bells("slow")) == (2, 1)


# Waiters that nothing would wake -------------------------------------------------------------------------------------


def waiter(*, ignore: bool = False) -> WorkflowRun:
    """A step that waits in the queue `slow` for one that is ready there, and has one behind it."""
    return (
        Workflow("x", ignore_cancelled=ignore, ignore_discarded=ignore)
        .add("a", steps.ran, queue="slow")
        .add("b", steps.ran, deps=["a"])
        .add("c", steps.ran, deps=["b"], ignore_cancelled=False)
        .insert()
    )


@pytest.mark.parametrize("ignore", [False, True])
def test_waiter_whose_dependency_s_row_is_gone_is_cancelled_also_with_ignore_flags(ignore):
    run = waiter(ignore=ignore)
    gone = run.steps["a"].pk
    run.nodes.filter(name="a").delete()

    with recorded() as events:
        report = sweep()

    assert report.mended == 1
    assert states(run) == {"b": "cancelled", "c": "cancelled"}
    assert run.steps["b"].error == f"the row of dependency {gone} is gone"
    assert events.states() == ["cancelled", "cancelled"]
    run.refresh_from_db()
    assert run.state == "failed"


@pytest.mark.parametrize("bad", ["cancelled", "discarded"])
def test_waiter_whose_dependency_failed_unnoticed_is_cancelled(bad):
    run = waiter()
    run.nodes.filter(name="a").update(state=bad, settled_at=timezone.now())

    assert sweep().mended == 1

    assert states(run) == {"a": bad, "b": "cancelled", "c": "cancelled"}
    assert run.steps["b"].error == f"dependency 'a' was {bad}"


@pytest.mark.parametrize(("state", "ignore"), [("completed", False), ("discarded", True), ("cancelled", True)])
def test_waiter_whose_dependencies_are_all_settled_is_readied(state, ignore):
    run = waiter(ignore=ignore)
    run.nodes.filter(name="a").update(state=state, settled_at=timezone.now())
    OrmQ.objects.all().delete()

    assert sweep().mended == 1

    assert run.steps["b"].state == "available"
    assert run.steps["b"].remaining == 0
    assert q2.waiting_bells("default") == 1
    answer_bell("default")
    assert steps.bodies_of(run) == ["b", "c"]


def test_waiter_with_a_time_ahead_whose_dependencies_are_settled_waits_for_the_time():
    moment = timezone.now() + timedelta(hours=1)
    run = Workflow("x").add("a", steps.ran).add("b", steps.ran, deps=["a"], not_before=moment).insert()
    run.nodes.filter(name="a").update(state="completed", settled_at=timezone.now())

    sweep()

    assert (run.steps["b"].state, run.steps["b"].due_at) == ("snoozed", moment)


def test_waiter_with_a_dependency_that_goes_on_is_left_alone():
    run = waiter()

    assert sweep().mended == 0
    assert states(run) == {"a": "available", "b": "pending", "c": "pending"}


def test_hook_of_a_waiter_that_the_sweep_cancels_is_called():
    run = Workflow("x").add("a", steps.ran, queue="slow").add("b", steps.hooked, deps=["a"]).insert()
    run.nodes.filter(name="a").update(state="discarded", settled_at=timezone.now())

    sweep()

    assert steps.hooks_of(run) == [("b", "discarded", "dependency 'a' was discarded")]


def test_waiters_are_looked_at_in_pages_and_all_of_them_in_the_end():
    workflow = Workflow("x").add("a", steps.nothing, queue="slow").add("bad", steps.nothing, queue="slow")
    for number in range(2200):
        workflow.add(f"waits {number}", steps.nothing, deps=["a"])
    run = workflow.add("stuck", steps.nothing, deps=["bad"]).insert()
    run.nodes.filter(name="bad").update(state="completed", settled_at=timezone.now())

    mended = [sweep().mended for _ in range(3)]

    assert sum(mended) == 1
    assert run.steps["stuck"].state == "available"


# Endings -------------------------------------------------------------------------------------------------------------


def settled_and_forgotten(bad: bool = False) -> WorkflowRun:
    """A run whose last worker died between its settle and the finish."""
    step = steps.discard if bad else steps.nothing
    run = drain(Workflow("x").add("a", step).insert())
    Completion.objects.all().delete()
    WorkflowRun.objects.update(state="running", finished_at=None)
    return run


@pytest.mark.parametrize(("bad", "outcome"), [(False, "completed"), (True, "failed")])
def test_ending_that_nobody_noted_is_noted_and_announced_once(bad, outcome):
    run = settled_and_forgotten(bad)

    with recorded() as events:
        assert [sweep().finished for _ in range(2)] == [1, 0]

    run.refresh_from_db()
    assert run.state == outcome
    assert [event["outcome"] for event in events.finished] == [outcome]


def test_ending_that_nobody_announced_is_announced_once_it_is_a_lease_old():
    run = drain(Workflow("x").add("a", steps.nothing).insert())
    Completion.objects.update(announced_at=None)

    with recorded() as events:
        assert sweep().announced == 0
        Completion.objects.update(finished_at=timezone.now() - timedelta(seconds=16))
        assert sweep().announced == 1
        assert sweep().announced == 0

    assert [event["workflow_id"] for event in events.finished] == [str(run.pk)]
    assert events.finished[0]["total_count"] == 1


# One sweeper at a time -----------------------------------------------------------------------------------------------


def test_sweep_that_finds_another_at_work_says_busy_and_does_nothing():
    run = held_elsewhere()

    with SweeperLease() as lease:
        assert lease.is_ours
        report = sweep()

    assert report.busy
    assert report.work == 0
    assert run.steps["a"].state == "executing"
    assert sweep().rescued == 1


def test_sweeper_that_died_holds_up_the_others_for_its_lease_only():
    SweepLeaseFactory.create(held=True)

    assert sweep().busy
    SweepLease.objects.update(until=timezone.now() - timedelta(seconds=1))

    assert not sweep().busy
    assert SweepLease.objects.get().holder == ""
    assert SweepLease.objects.get().swept_at is not None


@pytest.mark.django_db(transaction=True)
def test_of_two_concurrent_sweeps_one_works_and_the_other_is_busy():
    run = held_elsewhere(max_attempts=1)
    reports = []

    def second(**_):
        """Sweep while the first one is at work: it is announcing what it has rescued."""

        def work():
            reports.append(sweep())
            connections.close_all()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    step_transitioned.connect(second)
    try:
        first = sweep()
    finally:
        step_transitioned.disconnect(second)

    assert not first.busy
    assert first.rescued == 1
    assert reports
    assert all(report.busy for report in reports)
    assert states(run) == {"a": "discarded", "b": "cancelled"}


def test_part_that_fails_does_not_stop_the_others(caplog):
    held_elsewhere()
    drain(Workflow("y").add("a", steps.nothing).insert())
    Completion.objects.update(announced_at=None, finished_at=timezone.now() - timedelta(hours=1))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE baton_completion SET failed_steps = 'no json'")

    with recorded():
        report = sweep()

    assert list(report.errors) == ["announced"]
    assert report.rescued == 1
    assert "The part 'announced' of the sweep failed." in caplog.text
    Completion.objects.update(failed_steps=[])


# Who serves the queues -----------------------------------------------------------------------------------------------


def test_sweep_asks_who_serves_a_queue_with_ready_steps_where_nobody_was_seen_lately():
    Workflow("x").add("a", steps.nothing, queue="slow").insert()
    OrmQ.objects.all().delete()

    sweep()
    assert OrmQ.objects.filter(key="slow").count() == 1

    QueueSightingFactory.create(queue="slow")
    OrmQ.objects.all().delete()
    sweep()
    assert not OrmQ.objects.filter(key="slow").exists()


# The schedule --------------------------------------------------------------------------------------------------------


def test_scheduled_sweep_makes_a_pass():
    run = held_elsewhere()

    scheduled_sweep()

    assert run.steps["a"].state == "available"


def test_schedule_is_kept_once_as_the_setting_says(settings):
    settings.BATON = {"SWEEP_SCHEDULE": True, "SWEEP_SECONDS": 120, "SWEEP_QUEUE": "slow"}
    for _ in range(3):
        call_command("migrate", verbosity=0)

    schedule = Schedule.objects.get()
    assert (schedule.func, schedule.schedule_type, schedule.minutes) == ("baton.sweep.scheduled_sweep", "I", 2)
    assert (schedule.repeats, schedule.cluster) == (-1, "slow")

    settings.BATON = {"SWEEP_SCHEDULE": True, "SWEEP_SECONDS": 60}
    call_command("migrate", verbosity=0)
    assert (Schedule.objects.get().minutes, Schedule.objects.get().cluster) == (1, q2.broker_key("default"))

    settings.BATON = {}
    call_command("migrate", verbosity=0)
    assert not Schedule.objects.exists()


def test_check_is_clean_after_all_of_it():
    assert check() == []
