"""What goes when it is old, and what stays."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import Task

from baton import Workflow, q2
from baton.exceptions import WorkflowExistsError
from baton.models import (
    Completion,
    DebugLog,
    QueueSighting,
    StepLog,
    WorkflowEdge,
    WorkflowNode,
    WorkflowRun,
)
from baton.sweep import retention, sweep
from baton.testing import drain
from tests import steps
from tests.factories import (
    CompletionFactory,
    DebugLogFactory,
    QueueSightingFactory,
    StepLogFactory,
    WorkflowNodeFactory,
    WorkflowRunFactory,
)
from tests.recording import recorded

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]

MODELS = (WorkflowRun, WorkflowNode, WorkflowEdge, Completion, StepLog, DebugLog)


def rows() -> dict[str, int]:
    """How many rows there are, in the tables that have any."""
    counts = {model.__name__: model.objects.count() for model in (*MODELS, QueueSighting, Task)}
    return {name: count for name, count in counts.items() if count}


def aged(run: WorkflowRun, *, days: float) -> WorkflowRun:
    """Let a run have ended so long ago."""
    moment = timezone.now() - timedelta(days=days)
    WorkflowRun.objects.filter(pk=run.pk).update(inserted_at=moment, finished_at=moment)
    Completion.objects.filter(run=run).update(finished_at=moment)
    return run


def settled(*, days: float, count: int = 2, name: str = "x") -> WorkflowRun:
    """A run of a chain of steps, that ended so long ago, with a log for each step."""
    workflow = Workflow(name)
    for number in range(count):
        workflow.add(f"step {number}", steps.nothing, deps=[f"step {number - 1}"] if number else [])
    run = drain(workflow.insert())
    for node in run.nodes.all():
        StepLogFactory.create(node=node)
        DebugLogFactory.create(node=node)
    return aged(run, days=days)


def is_whole(run: WorkflowRun, *, count: int) -> bool:
    """Whether all rows of such a run are there."""
    nodes = WorkflowNode.objects.filter(run_id=run.pk)
    found = [
        nodes.count(),
        WorkflowEdge.objects.filter(node__in=nodes).count() + 1,
        StepLog.objects.filter(node__in=nodes).count(),
        DebugLog.objects.filter(run_id=run.pk).count(),
    ]
    return found == [count] * 4 and Completion.objects.filter(run_id=run.pk).count() == 1


# When, and what ------------------------------------------------------------------------------------------------------


def test_nothing_is_deleted_unless_it_is_asked_for():
    settled(days=10_000)
    before = rows()

    report = sweep()

    assert (report.pruned, report.tables) == (0, {})
    assert rows() == before


def test_settled_run_older_than_the_age_goes_with_all_that_belongs_to_it(settings):
    settings.BATON = {"RETENTION_DAYS": 7}
    settled(days=8, count=3)

    report = sweep()

    assert report.tables == {
        "WorkflowEdge": 2,
        "DebugLog": 3,
        "StepLog": 3,
        "WorkflowNode": 3,
        "Completion": 1,
        "WorkflowRun": 1,
    }
    assert report.pruned == 13
    assert rows() == {}


def test_run_that_ended_within_the_age_stays_though_it_was_inserted_before(settings):
    settings.BATON = {"RETENTION_DAYS": 7}
    run = settled(days=6)
    WorkflowRun.objects.update(inserted_at=timezone.now() - timedelta(days=100))

    assert sweep().pruned == 0
    assert is_whole(run, count=2)


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
def test_runs_of_every_outcome_go(settings, outcome):
    settings.BATON = {"RETENTION_DAYS": 1}
    workflow = Workflow("x").add("a", steps.nothing if outcome == "completed" else steps.discard)
    run = workflow.add("b", steps.nothing, deps=["a"]).insert()
    if outcome == "cancelled":
        run.cancel()
    else:
        drain(run)
    assert aged(run, days=2).state == outcome

    sweep()

    assert rows() == {}


def test_running_run_with_old_completed_steps_keeps_all_its_rows(settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    workflow = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"], queue="slow")
    run = workflow.insert()
    old = timezone.now() - timedelta(days=400)
    WorkflowNode.objects.filter(name="a").update(state="completed", settled_at=old, started_at=old)
    WorkflowNode.objects.filter(name="b").update(state="available", remaining=0, queued_at=old)
    WorkflowRun.objects.update(inserted_at=old)
    StepLogFactory.create(node=run.steps["a"])
    DebugLogFactory.create(node=run.steps["a"], created_at=old)
    before = rows()

    assert sweep(prune=True).pruned == 0

    assert rows() == before


def test_age_of_nothing_deletes_what_has_ended_and_may_be_a_fraction_of_a_day(settings):
    young, old = settled(days=0.4, name="young"), settled(days=0.6, name="old")

    settings.BATON = {"RETENTION_DAYS": 0.5}
    sweep()
    assert list(WorkflowRun.objects.all()) == [young]
    assert not WorkflowNode.objects.filter(run_id=old.pk).exists()

    settings.BATON = {"RETENTION_DAYS": 0}
    sweep()
    assert rows() == {}


def test_prune_deletes_what_is_older_than_thirty_days_where_the_settings_say_nothing():
    stays = settled(days=29)
    settled(days=31)

    assert sweep(prune=True).tables["WorkflowRun"] == 1

    assert list(WorkflowRun.objects.all()) == [stays]


def test_prune_goes_by_the_age_of_the_settings_where_they_have_one(settings):
    settings.BATON = {"RETENTION_DAYS": 60}
    settled(days=59)

    assert sweep(prune=True).pruned == 0


def test_settled_run_with_an_unsettled_step_stays(settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    run = settled(days=5)
    node = WorkflowNodeFactory.create(run=run, available=True, queue="slow")

    assert sweep().pruned == 0

    # The invariants, for the fixture.
    node.delete()


def test_run_whose_hook_is_still_to_be_called_stays_until_it_was(settings):
    settings.BATON = {"RETENTION_DAYS": 0}
    run = Workflow("x").add("a", steps.discard).add("b", steps.hooked, deps=["a"]).insert()
    drain(run)
    WorkflowNode.objects.filter(name="b").update(hook_due="discarded", changed_at=timezone.now())

    assert sweep().tables.get("WorkflowRun", 0) == 0

    WorkflowNode.objects.filter(name="b").update(changed_at=timezone.now() - timedelta(hours=1))
    assert sweep().hooks == 1
    assert not WorkflowRun.objects.exists()


def test_ending_is_announced_before_it_is_forgotten(settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    run = settled(days=2)
    Completion.objects.update(announced_at=None)

    with recorded() as events:
        report = sweep()

    assert [event["workflow_id"] for event in events.finished] == [str(run.pk)]
    assert (report.announced, report.tables["WorkflowRun"]) == (1, 1)


def test_ending_that_nobody_here_would_announce_keeps_no_row_for_ever(settings):
    settings.BATON = {"RETENTION_DAYS": 0}
    settled(days=2)
    Completion.objects.update(announced_at=None, finished_at=timezone.now())

    assert sweep().pruned == 0
    Completion.objects.update(finished_at=timezone.now() - timedelta(seconds=16))

    assert sweep().tables["WorkflowRun"] == 1


# How much ------------------------------------------------------------------------------------------------------------


def test_at_most_the_limit_of_rows_of_a_table_goes_in_a_pass_the_oldest_first_and_never_a_part_of_a_run(settings):
    settings.BATON = {"RETENTION_DAYS": 1, "PRUNE_LIMIT": 10}
    runs = [settled(days=30 - number, count=3) for number in range(8)]
    left = len(runs)

    while WorkflowRun.objects.exists():
        report = sweep()
        assert report.tables["WorkflowNode"] == 9
        assert max(report.tables.values()) <= 10
        left -= report.tables["WorkflowRun"]
        assert [run for run in runs if WorkflowRun.objects.filter(pk=run.pk).exists()] == runs[8 - left :]
        assert all(is_whole(run, count=3) for run in runs[8 - left :])
        if left == 2:
            break

    assert sweep().tables["WorkflowNode"] == 6
    assert rows() == {}


@pytest.mark.parametrize("limit", [4, 5, 1000])
def test_run_larger_than_a_transaction_or_a_pass_is_gone_at_once_and_its_rows_in_the_end(settings, monkeypatch, limit):
    settings.BATON = {"RETENTION_DAYS": 1, "PRUNE_LIMIT": limit}
    monkeypatch.setattr(retention, "BATCH", 5)
    large, young = settled(days=9, count=13), settled(days=0.5)
    total: Counter[str] = Counter()

    passes = 0
    while WorkflowNode.objects.exclude(run_id=young.pk).exists():
        report = sweep()
        passes += 1
        assert not WorkflowRun.objects.filter(pk=large.pk).exists()
        assert max(report.tables.values()) <= limit
        assert report.errors == {}
        total.update(report.tables)

    assert passes == -(-13 // min(limit, 13))
    assert total == {
        "WorkflowRun": 1,
        "Completion": 1,
        "WorkflowNode": 13,
        "WorkflowEdge": 12,
        "StepLog": 13,
        "DebugLog": 13,
    }
    assert is_whole(young, count=2)
    assert rows() == {"WorkflowRun": 1, "Completion": 1, "WorkflowNode": 2, "WorkflowEdge": 1} | {
        "StepLog": 2,
        "DebugLog": 2,
    }


def test_step_with_more_dependencies_and_logs_than_go_at_once_goes_in_the_end(settings, monkeypatch):
    settings.BATON = {"RETENTION_DAYS": 1, "PRUNE_LIMIT": 7}
    monkeypatch.setattr(retention, "BATCH", 3)
    workflow = Workflow("x")
    for number in range(20):
        workflow.add(f"n{number}", steps.nothing)
    run = drain(workflow.add("all", steps.nothing, deps=[f"n{number}" for number in range(20)]).insert())
    DebugLogFactory.create_batch(20, node=run.steps["all"])
    aged(run, days=5)

    reports = [sweep() for _ in range(12)]

    assert rows() == {}
    assert max(max(report.tables.values(), default=0) for report in reports) == 7
    assert sum(report.tables.get("WorkflowEdge", 0) for report in reports) == 20


def test_what_a_sweeper_that_died_has_left_of_a_large_run_the_next_one_finds(settings, monkeypatch):
    settings.BATON = {"RETENTION_DAYS": 1}
    monkeypatch.setattr(retention, "BATCH", 5)
    settled(days=9, count=13)
    dying = retention.Retention.of_settings(connection, asked=False, is_dry=False).batches()
    for _ in range(3):
        next(dying)
    dying.close()
    assert not WorkflowRun.objects.exists()
    assert WorkflowNode.objects.exists()

    # Also where nothing is deleted any more.
    settings.BATON = {}
    sweep()

    assert rows() == {}


def test_id_of_a_large_run_is_taken_until_all_its_steps_are_gone(settings, monkeypatch):
    settings.BATON = {"RETENTION_DAYS": 1, "PRUNE_LIMIT": 5}
    monkeypatch.setattr(retention, "BATCH", 5)
    large = settled(days=9, count=13)
    again = Workflow("again", id=large.pk).add("a", steps.nothing)
    sweep()
    assert not WorkflowRun.objects.exists()

    with pytest.raises(WorkflowExistsError):
        again.insert()

    while WorkflowNode.objects.exists():
        sweep()
    assert drain(again.insert()).progress["states"] == {"completed": 1}


def test_kind_of_error_that_reads_like_the_mark_of_a_deleted_run_costs_a_live_one_nothing():
    run = drain(Workflow("x").add("a", steps.discard).insert())
    WorkflowNode.objects.update(error_key=retention.MARK)

    assert sweep().pruned == 0
    assert run.steps["a"].state == "discarded"


def test_runs_are_deleted_in_statements_whose_number_does_not_grow_with_their_steps(settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    counts = []
    for steps_each in (2, 40):
        for _ in range(5):
            settled(days=2, count=steps_each)
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert sweep().tables["WorkflowNode"] == 5 * steps_each
        counts.append(len(queries))

    assert counts[0] == counts[1]


# Debug logs ----------------------------------------------------------------------------------------------------------


def test_old_debug_logs_of_a_live_run_go_and_newer_stay(settings):
    settings.BATON = {"DEBUG_LOG_RETENTION_DAYS": 3}
    run = Workflow("x").add("a", steps.nothing, queue="slow").insert()
    now = timezone.now()
    logs = [DebugLogFactory.create(node=run.steps["a"], created_at=now - timedelta(days=days)) for days in (1, 2, 4, 5)]

    report = sweep()

    assert report.tables == {"DebugLog": 2}
    assert list(DebugLog.objects.order_by("pk")) == logs[:2]
    assert run.nodes.count() == 1


def test_debug_logs_go_with_their_run_where_they_have_no_age_of_their_own(settings):
    settings.BATON = {"RETENTION_DAYS": 3}
    settled(days=4)
    live = Workflow("x").add("a", steps.nothing, queue="slow").insert()
    DebugLogFactory.create(node=live.steps["a"], created_at=timezone.now() - timedelta(days=400))

    assert sweep().tables["DebugLog"] == 2
    assert DebugLog.objects.count() == 1


def test_oldest_debug_logs_go_first_and_at_most_the_limit_in_a_pass(settings):
    settings.BATON = {"DEBUG_LOG_RETENTION_DAYS": 0.5, "PRUNE_LIMIT": 3}
    node = WorkflowNodeFactory.create(available=True, queue="slow")
    now = timezone.now()
    logs = [DebugLogFactory.create(node=node, created_at=now - timedelta(days=days)) for days in (1, 5, 3, 4, 2)]

    assert sweep().tables == {"DebugLog": 3}
    assert set(DebugLog.objects.all()) == {logs[0], logs[4]}
    assert sweep().tables == {"DebugLog": 2}


# Rows of django-q2, and who served a queue ---------------------------------------------------------------------------


def task(*, func: str = "baton.sweep.scheduled_sweep", days: float = 2, success: bool = True) -> Task:
    """What django-q2 keeps of a task that ended so long ago."""
    stopped = timezone.now() - timedelta(days=days)
    return Task.objects.create(
        id=uuid4().hex, name="a task", func=func, started=stopped, stopped=stopped, success=success
    )


def test_old_rows_of_django_q2_that_belong_to_baton_go_and_others_stay(settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    task()
    task(func=q2.BELL, success=False)
    stay = [task(days=0.5), task(func="shop.tasks.mail"), task(func="batonship.tasks.mail", success=False)]

    report = sweep()

    assert report.tables == {"Task": 2}
    assert set(Task.objects.all()) == set(stay)


def test_rows_of_django_q2_stay_where_nothing_is_to_be_deleted():
    task(days=1000)

    sweep()

    assert Task.objects.count() == 1


def test_large_table_of_django_q2_is_looked_at_a_page_a_pass_and_whole_by_prune(settings, monkeypatch):
    settings.BATON = {"RETENTION_DAYS": 1, "PRUNE_LIMIT": 9}
    monkeypatch.setattr(q2, "_LOOK_AT_TASKS", 4)
    for _ in range(12):
        task()

    assert sweep().tables == {"Task": 4}
    assert sweep(dry_run=True).tables == {"Task": 4}
    assert sweep(prune=True).tables == {"Task": 8}
    for _ in range(12):
        task()
    assert sweep(prune=True).tables == {"Task": 9}


def test_hosts_that_served_a_queue_yesterday_are_forgotten_whatever_the_settings_say():
    QueueSightingFactory.create(seen_at=timezone.now() - timedelta(hours=25))
    stays = QueueSightingFactory.create(seen_at=timezone.now() - timedelta(hours=23))

    assert sweep().tables == {"QueueSighting": 1}
    assert list(QueueSighting.objects.all()) == [stays]


# What it says --------------------------------------------------------------------------------------------------------


def test_rows_pruned_says_how_many_rows_of_which_tables_went(settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    settled(days=2, count=4)
    task()
    before = Counter(rows())

    with recorded() as events:
        report = sweep()

    (said,) = events.of_sweeps("rows_pruned")
    assert set(said) == {"timestamp", "count", "tables"}
    assert said["tables"] == report.tables == before - Counter(rows())
    assert said["count"] == report.pruned == sum(before.values())


def test_rows_pruned_is_not_sent_where_none_were(settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    settled(days=0.5)

    with recorded() as events:
        sweep()

    assert events.of_sweeps("rows_pruned") == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_table_of_sightings")
def test_rows_that_went_before_retention_failed_are_told(settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    settled(days=2)
    task()

    with recorded() as events:
        report = sweep()

    assert list(report.errors) == ["rung", "pruned"]
    assert report.tables["WorkflowRun"] == 1
    assert events.of_sweeps("rows_pruned")[0]["tables"] == report.tables


@pytest.mark.parametrize("limit", [3, 7, 25, 10_000])
def test_dry_run_changes_nothing_and_says_what_a_pass_would_delete(settings, monkeypatch, limit):
    settings.BATON = {"RETENTION_DAYS": 1, "DEBUG_LOG_RETENTION_DAYS": 20, "PRUNE_LIMIT": limit}
    monkeypatch.setattr(retention, "BATCH", 5)
    for number in range(3):
        settled(days=9 - number, count=3)
    settled(days=3, count=8)
    young = settled(days=0.5, count=2)
    DebugLog.objects.filter(run=young).update(created_at=timezone.now() - timedelta(days=30))
    task()
    QueueSightingFactory.create(seen_at=timezone.now() - timedelta(hours=25))
    before = rows()

    with recorded() as events:
        told = sweep(dry_run=True)
    assert rows() == before
    assert events.sweeps == []
    done = sweep()

    assert told.dry_run
    assert not done.dry_run
    assert (told.pruned, told.tables) == (done.pruned, done.tables)


# Beside others -------------------------------------------------------------------------------------------------------


def in_a_thread(work) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_run_that_somebody_retries_at_this_moment_is_left_alone(settings):
    settings.BATON = {"RETENTION_DAYS": 0}
    held, free = settled(days=5), settled(days=4)
    reports = []

    with transaction.atomic():
        WorkflowRun.objects.select_for_update().get(pk=held.pk)
        in_a_thread(lambda: reports.append(sweep())).join()

    assert reports[0].tables["WorkflowRun"] == 1
    assert is_whole(held, count=2)
    assert not WorkflowRun.objects.filter(pk=free.pk).exists()


def test_run_larger_than_a_transaction_counts_among_the_runs_of_a_pass(settings, monkeypatch):
    settings.BATON = {"RETENTION_DAYS": 1, "PRUNE_LIMIT": 2}
    monkeypatch.setattr(retention, "BATCH", 1)
    for number in range(3):
        settled(days=9 - number, count=2)

    reports = [sweep() for _ in range(3)]

    assert [report.tables.get("WorkflowRun") for report in reports] == [1, 1, 1]
    assert rows() == {}


def test_run_that_was_retried_since_it_was_found_is_left_alone(settings, monkeypatch):
    settings.BATON = {"RETENTION_DAYS": 1}
    monkeypatch.setattr(retention, "BATCH", 1)
    older, failed = (aged(drain(Workflow("x").add("a", steps.discard).insert()), days=days) for days in (5, 4))
    batches = retention.Retention.of_settings(connection, asked=False, is_dry=False).batches()
    next(batches)
    assert list(WorkflowRun.objects.all()) == [failed], f"both were found, {older} is gone"

    failed.retry()
    list(batches)

    assert WorkflowRun.objects.get().state == "running"
    assert failed.steps["a"].state == "available"


@pytest.mark.django_db(transaction=True)
def test_retry_and_retention_at_once_leave_a_whole_run_or_none(settings):
    settings.BATON = {"RETENTION_DAYS": 0}
    met: Counter[bool] = Counter()
    for _ in range(30):
        run = Workflow("x").add("a", steps.discard).add("b", steps.nothing, deps=["a"]).insert()
        drain(run)
        start = threading.Barrier(2)

        def retry(run=run, start=start) -> None:
            start.wait(timeout=60)
            try:
                run.retry()
            except WorkflowRun.DoesNotExist:
                return

        thread = in_a_thread(retry)
        start.wait(timeout=60)
        assert sweep().errors == {}
        thread.join()

        survived = WorkflowRun.objects.filter(pk=run.pk).exists()
        met[survived] += 1
        nodes = WorkflowNode.objects.filter(run_id=run.pk)
        assert nodes.count() == (2 if survived else 0)
        assert WorkflowEdge.objects.filter(node__run_id=run.pk).count() == (1 if survived else 0)
        if survived:
            assert WorkflowRun.objects.get(pk=run.pk).state == "running"
            run.cancel()
            sweep()

    assert met.total() == 30
    assert rows() == {}


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_runs_are_deleted_while_workers_run_others(real_cluster, settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    for _ in range(20):
        settled(days=2, count=5)
    real_cluster()
    runs = [Workflow("live").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert() for _ in range(20)]

    pruned = 0
    while pruned < 20 or WorkflowRun.objects.running().exists():
        report = sweep()
        assert report.errors == {}
        pruned += report.tables.get("WorkflowRun", 0)

    assert pruned == 20
    assert [run.wait(timeout=5) for run in runs] == ["completed"] * 20


def test_command_prunes_by_thirty_days():
    CompletionFactory.create(run=WorkflowRunFactory.create(completed=True))
    settled(days=31)

    call_command("baton_sweep", "--prune", "--json")

    assert WorkflowRun.objects.count() == 1


def test_run_that_began_and_ended_another_round_since_it_was_looked_at_is_left_to_the_next_pass(settings):
    settings.BATON = {"RETENTION_DAYS": 1}
    run = settled(days=5)
    looks = 0

    def go_another_round(execute, statement, *args):
        nonlocal looks
        if "SELECT id, round FROM baton_workflowrun" in statement:
            looks += 1
            if looks == 2:
                WorkflowRun.objects.update(round=2)
                Completion.objects.update(round=2)
        return execute(statement, *args)

    with connection.execute_wrapper(go_another_round):
        assert sweep().pruned == 0

    assert looks == 2
    assert is_whole(run, count=2)
