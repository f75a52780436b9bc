"""A pass as a whole: what it says, what it does of a backlog, what a failing part costs, who is at work."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from baton import Workflow, q2
from baton.engine.gate import claim
from baton.models import Completion, SweepLease, WorkflowNode, WorkflowRun
from baton.sweep import backstop, lease, rescue, sweep, waiters
from baton.sweep.lease import SweeperLease
from baton.telemetry import steps_rescued, sweep_finished, workflow_finished
from baton.testing import drain
from tests import steps
from tests.clock import expire_leases
from tests.factories import QueueSightingFactory, SweepLeaseFactory
from tests.recording import recorded

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]

IDLE = {
    "rescued": 0,
    "readied": 0,
    "mended": 0,
    "marked": 0,
    "held": 0,
    "hooks": 0,
    "finished": 0,
    "announced": 0,
    "rung": 0,
    "pruned": 0,
}


def lost(count: int = 1, **options) -> WorkflowRun:
    """A run with so many steps that a worker elsewhere has taken and lost."""
    workflow = Workflow("x")
    for number in range(count):
        workflow.add(f"a{number}", steps.nothing, **options)
    run = workflow.insert()
    for node in run.nodes.all():
        claim(connection, node.pk, worker="elsewhere:1")
    expire_leases(run)
    return run


# Telemetry -----------------------------------------------------------------------------------------------------------


def test_pass_is_announced_when_it_begins_and_when_it_ends_with_its_duration_and_its_report():
    lost(2)

    with recorded() as events:
        report = sweep()

    assert [name for name, _ in events.sweeps] == ["sweep_started", "steps_rescued", "sweep_finished"]
    (started,), (finished,) = events.of_sweeps("sweep_started"), events.of_sweeps("sweep_finished")
    assert set(started) == {"timestamp"}
    assert set(finished) == {"timestamp", "duration", "count", "report"}
    assert finished["report"] == report.as_dict()
    assert finished["count"] == report.work == 4
    assert finished["duration"] == report.seconds > 0
    assert started["timestamp"] < finished["timestamp"]


def test_steps_rescued_names_each_step_that_was_taken_and_no_other(monkeypatch):
    monkeypatch.setattr(rescue, "BATCH", 2)
    run = lost(3)
    alive = Workflow("alive").add("a", steps.nothing).insert()
    claim(connection, alive.steps["a"].pk, worker="elsewhere:2")

    with recorded() as events:
        report = sweep()

    said = events.of_sweeps("steps_rescued")
    assert all(set(each) == {"timestamp", "count", "node_ids"} for each in said)
    assert [each["count"] for each in said] == [2, 1]
    assert sum(each["count"] for each in said) == report.rescued == 3
    assert sorted(pk for each in said for pk in each["node_ids"]) == sorted(run.nodes.values_list("pk", flat=True))


def test_sweep_that_finds_nothing_to_rescue_says_nothing_of_it():
    with recorded() as events:
        sweep()

    assert [name for name, _ in events.sweeps] == ["sweep_started", "sweep_finished"]


def test_busy_sweep_announces_nothing():
    SweepLeaseFactory.create(held=True)

    with recorded() as events:
        assert sweep().busy

    assert events.sweeps == []


def test_part_that_raises_is_announced_the_others_run_and_so_does_the_next_sweep():
    lost()
    drain(Workflow("y").add("a", steps.nothing).insert())
    Completion.objects.update(announced_at=None, finished_at=timezone.now() - timedelta(hours=1))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE baton_completion SET failed_steps = 'no json'")

    with recorded() as events:
        report = sweep()
        Completion.objects.update(failed_steps=[])
        again = sweep()

    (failed,) = events.of_sweeps("sweep_failed")
    assert set(failed) == {"timestamp", "duration", "part", "error"}
    assert (failed["part"], failed["error"]) == ("announced", report.errors["announced"])
    assert failed["duration"] >= 0
    assert report.rescued == 1
    assert (again.announced, again.errors) == (1, {})
    assert len(events.of_sweeps("sweep_finished")) == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_sweeper_s_lease")
def test_sweep_that_cannot_begin_is_announced_and_raises():
    with recorded() as events, pytest.raises(Exception, match="baton_sweeplease"):
        sweep()

    assert [(name, said.get("part")) for name, said in events.sweeps] == [("sweep_failed", "sweep")]


def test_receiver_that_raises_harms_no_sweep(caplog):
    def fail(**_):
        raise RuntimeError("not my day")

    steps_rescued.connect(fail)
    sweep_finished.connect(fail)
    try:
        run = lost()
        report = sweep()
    finally:
        steps_rescued.disconnect(fail)
        sweep_finished.disconnect(fail)

    assert (report.rescued, report.errors) == (1, {})
    assert run.steps["a0"].state == "available"
    assert "not my day" in caplog.text


def test_failed_run_is_announced_once_by_two_sweeps():
    run = lost(max_attempts=1)

    with recorded() as events:
        for _ in range(2):
            sweep()

    assert [event["workflow_id"] for event in events.failed] == [str(run.pk)]
    assert [event["outcome"] for event in events.finished] == ["failed"]


# A backlog -----------------------------------------------------------------------------------------------------------


def test_backlog_of_lost_leases_is_mended_in_batches_of_one_pass_and_the_lease_is_renewed_between_them(
    monkeypatch,
):
    monkeypatch.setattr(rescue, "BATCH", 10)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.5)
    lost(55)
    batches, ends = [], []

    def note(part: str, count: int) -> None:
        batches.append((part, count))
        ends.append(SweepLease.objects.get().until)
        time.sleep(0.11)

    report = sweep(progress=note)

    assert [count for part, count in batches if part == "rescued"] == [10, 10, 10, 10, 10, 5]
    assert (report.rescued, report.readied, report.busy) == (55, 55, False)
    assert len(set(ends)) > 2
    assert set(WorkflowNode.objects.values_list("state", flat=True)) == {"available"}


def test_due_steps_endings_hooks_and_announcements_are_mended_in_batches_of_one_pass(monkeypatch):
    monkeypatch.setattr(rescue, "BATCH", 2)
    monkeypatch.setattr(backstop, "BATCH", 2)
    monkeypatch.setattr(waiters, "PAGE", 2)
    long_ago = timezone.now() - timedelta(hours=1)
    runs = [drain(Workflow("x").add("a", steps.discard).add("b", steps.hooked, deps=["a"]).insert()) for _ in range(5)]
    WorkflowNode.objects.filter(name="b").update(hook_due="discarded", changed_at=long_ago)
    Completion.objects.update(announced_at=None, finished_at=long_ago)
    forgotten = runs[:3]
    Completion.objects.filter(run__in=forgotten).delete()
    WorkflowRun.objects.filter(pk__in=[run.pk for run in forgotten]).update(state="running", finished_at=None)
    stuck = Workflow("y").add("a", steps.nothing, queue="slow")
    for number in range(5):
        stuck.add(f"waits {number}", steps.nothing, deps=["a"], queue="slow")
    stuck.insert().nodes.filter(name="a").update(state="completed", settled_at=timezone.now())

    with recorded() as events:
        report = sweep()

    assert (report.hooks, report.finished, report.announced, report.mended) == (5, 3, 2, 5)
    assert len(events.finished) == 5


@pytest.mark.parametrize("is_noted", [False, True])
def test_sweeper_whose_receivers_are_slow_keeps_its_lease_within_a_batch(is_noted, monkeypatch):
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)
    monkeypatch.setattr(backstop, "SLOW_SECONDS", 0.0)
    runs = [drain(Workflow("x").add("a", steps.nothing).insert()) for _ in range(3)]
    Completion.objects.update(announced_at=None, finished_at=timezone.now() - timedelta(hours=1))
    if not is_noted:
        Completion.objects.all().delete()
        WorkflowRun.objects.filter(pk__in=[run.pk for run in runs]).update(state="running", finished_at=None)
    until: list[datetime | None] = []

    def slow(**_):
        until.append(SweepLease.objects.get().until)
        SweepLease.objects.update(until=None)

    workflow_finished.connect(slow)
    try:
        report = sweep()
    finally:
        workflow_finished.disconnect(slow)

    assert (report.announced or report.finished, report.errors) == (3, {})
    assert len(until) == 3
    assert all(until)


def test_pass_that_takes_too_long_makes_one_batch_of_each_part_and_leaves_the_rest_to_the_next(monkeypatch):
    monkeypatch.setattr(rescue, "BATCH", 2)
    monkeypatch.setattr(backstop, "BATCH", 2)
    lost(5)
    runs = [drain(Workflow("y").add("a", steps.nothing).insert()) for _ in range(3)]
    Completion.objects.all().delete()
    WorkflowRun.objects.filter(pk__in=[run.pk for run in runs]).update(state="running", finished_at=None)

    report = sweep(seconds=0)

    assert (report.rescued, report.readied, report.finished) == (2, 2, 2)
    report = sweep()
    assert (report.rescued, report.readied, report.finished) == (3, 3, 1)


# One step that cannot be mended --------------------------------------------------------------------------------------


def test_lost_step_that_cannot_be_mended_does_not_keep_the_others_waiting(caplog):
    run = lost(3)
    broken = run.steps["a0"].pk
    with connection.cursor() as cursor:
        cursor.execute("UPDATE baton_workflownode SET attempt_log = 'no json' WHERE id = %s", [broken])

    with caplog.at_level(logging.ERROR, logger="baton.sweep"):
        report = sweep()

    assert (report.rescued, list(report.errors)) == (2, ["rescued"])
    assert f"The sweep could not mend step {broken}." in caplog.text
    WorkflowNode.objects.filter(pk=broken).update(attempt_log=[])


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["the step", "its dependent"])
def test_lock_that_somebody_keeps_does_not_stop_the_sweep(what):
    chain = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"])
    locked, other = chain.insert(), lost()
    claim(connection, locked.steps["a"].pk, worker="elsewhere:1")
    expire_leases(locked)
    node = locked.steps["a" if what == "the step" else "b"]
    WorkflowNode.objects.filter(run=locked, name="a").update(max_attempts=1)
    holder = connection.copy()

    with holder.cursor() as cursor:
        holder.set_autocommit(False)
        cursor.execute("SELECT 1 FROM baton_workflownode WHERE id = %s FOR UPDATE", [node.pk])
        report = sweep()
        holder.rollback()
    holder.close()

    assert (report.rescued, list(report.errors)) == (1, ["rescued"])
    assert other.steps["a0"].attempts[-1]["outcome"] == "worker_lost"
    assert locked.steps["a"].state == "executing"
    assert sweep().rescued == 1
    assert (locked.steps["a"].state, locked.steps["b"].state) == ("discarded", "cancelled")


def test_ending_that_cannot_be_announced_does_not_keep_the_others_waiting():
    runs = [drain(Workflow("y").add("a", steps.nothing).insert()) for _ in range(3)]
    Completion.objects.update(announced_at=None, finished_at=timezone.now() - timedelta(hours=1))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE baton_completion SET failed_steps = 'no json' WHERE id = (SELECT min(id) FROM baton_completion)"
        )

    with recorded() as events:
        report = sweep()

    assert (report.announced, list(report.errors)) == (2, ["announced"])
    assert {event["workflow_id"] for event in events.finished} == {str(run.pk) for run in runs[1:]}
    Completion.objects.update(failed_steps=[])


# Who is at work ------------------------------------------------------------------------------------------------------


def test_sweeper_that_stood_still_for_longer_than_its_lease_stops_where_another_has_taken_over(monkeypatch, caplog):
    monkeypatch.setattr(rescue, "BATCH", 1)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.0)
    lost(3)

    def be_overtaken(_part: str, _count: int) -> None:
        SweepLease.objects.update(holder="elsewhere:1", until=timezone.now() + timedelta(minutes=1))

    report = sweep(progress=be_overtaken)

    assert (report.busy, report.rescued, report.readied) == (True, 1, 0)
    assert "another has taken over" in caplog.text
    assert SweepLease.objects.get().holder == "elsewhere:1"


def test_lease_that_has_a_while_to_go_is_not_written_again():
    with SweeperLease() as held, CaptureQueriesContext(connection) as queries:
        assert held.renew()

    assert len(queries) == 0


# Dry run -------------------------------------------------------------------------------------------------------------


def test_dry_run_counts_what_there_is_to_mend_and_changes_nothing():
    lost(3)
    due = Workflow("due").add("a", steps.snooze_once).insert()
    drain_once = WorkflowNode.objects.filter(run=due)
    drain_once.update(state="snoozed", due_at=timezone.now() - timedelta(seconds=1), queued_at=None)
    ready = Workflow("ready").add("a", steps.nothing, queue="slow").insert()
    ready.nodes.update(queued_at=timezone.now() - timedelta(seconds=30))
    OrmQ.objects.all().delete()
    stuck = Workflow("stuck").add("a", steps.nothing, queue="llm").add("b", steps.nothing, deps=["a"]).insert()
    stuck.nodes.filter(name="a").update(state="completed", settled_at=timezone.now())
    hooks = drain(Workflow("h").add("a", steps.discard).add("b", steps.hooked, deps=["a"]).insert())
    hooks.nodes.filter(name="b").update(hook_due="discarded", changed_at=timezone.now() - timedelta(hours=1))
    forgotten = drain(Workflow("f").add("a", steps.nothing).insert())
    Completion.objects.filter(run=forgotten).delete()
    WorkflowRun.objects.filter(pk=forgotten.pk).update(state="running", finished_at=None)
    Completion.objects.filter(run=hooks).update(announced_at=None, finished_at=timezone.now() - timedelta(hours=1))
    before = list(WorkflowNode.objects.order_by("pk").values()), list(Completion.objects.values()), OrmQ.objects.count()

    with recorded() as events:
        report = sweep(dry_run=True)

    told = {name: getattr(report, name) for name in IDLE}
    assert told == IDLE | {
        "rescued": 3,
        "readied": 1,
        "mended": 1,
        "hooks": 1,
        "finished": 1,
        "announced": 1,
        "rung": 2,
    }
    assert events.order == []
    assert events.sweeps == []
    assert not SweepLease.objects.exists()
    after = list(WorkflowNode.objects.order_by("pk").values()), list(Completion.objects.values()), OrmQ.objects.count()
    assert after == before
    # The invariants, for the fixture.
    assert sweep().mended == 1


def test_dry_run_is_possible_while_another_sweep_is_at_work():
    SweepLeaseFactory.create(held=True)
    lost(2)

    report = sweep(dry_run=True)

    assert (report.busy, report.rescued) == (False, 2)


# Who serves the queues -----------------------------------------------------------------------------------------------


def calls(queue: str) -> int:
    """How often the roll of a queue is called in the broker."""
    return sum(message.task["func"] == q2.ROLL_CALL for message in OrmQ.objects.filter(key=queue))


def test_roll_is_called_in_queues_where_steps_wait_for_a_time_and_where_somebody_was_seen_of_late():
    run = Workflow("x").add("a", steps.nothing, queue="slow", not_before=timezone.now() + timedelta(hours=1)).insert()
    assert run.steps["a"].state == "snoozed"
    minutes_ago = timezone.now() - timedelta(minutes=3)
    QueueSightingFactory.create(queue="llm", seen_at=minutes_ago)
    QueueSightingFactory.create(queue="fresh")
    QueueSightingFactory.create(queue="given up", seen_at=timezone.now() - timedelta(hours=25))
    OrmQ.objects.all().delete()

    sweep()

    assert {queue: calls(queue) for queue in ("slow", "llm", "fresh", "given up")} == {
        "slow": 1,
        "llm": 1,
        "fresh": 0,
        "given up": 0,
    }


def test_roll_call_that_nobody_answers_is_not_repeated():
    QueueSightingFactory.create(queue="slow", seen_at=timezone.now() - timedelta(minutes=3))

    for _ in range(5):
        sweep()

    assert calls("slow") == 1


# What it costs -------------------------------------------------------------------------------------------------------


def test_healthy_sweep_makes_a_constant_number_of_queries_however_much_there_is(settings):
    settings.BATON = {"RETENTION_DAYS": 30, "DEBUG_LOG_RETENTION_DAYS": 30, "READY_SECONDS": 600}
    counts = []
    for size in (1, 30):
        for _ in range(size):
            drain(Workflow("old").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert())
            workflow = Workflow("live").add("a", steps.nothing, queue="slow")
            for number in range(5):
                workflow.add(f"waits {number}", steps.nothing, deps=["a"])
            workflow.insert()
        sweep()
        with CaptureQueriesContext(connection) as queries:
            report = sweep()
        assert (report.work, report.pruned, report.errors) == (0, 0, {})
        counts.append(len(queries))

    assert counts[0] == counts[1] <= 30
