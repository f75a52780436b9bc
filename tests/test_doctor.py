from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from baton import q2, registry, step
from baton.doctor import Finding, Severity, examine
from baton.models import (
    Completion,
    DebugLog,
    Hold,
    QueueSighting,
    SweepLease,
    WorkflowNode,
    WorkflowRun,
)
from tests.factories import (
    CompletionFactory,
    QueueSightingFactory,
    SweepLeaseFactory,
    WorkflowNodeFactory,
    WorkflowRunFactory,
)

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "baton" / "doctor").glob("*.py"))
GUIDE = ROOT / "docs" / "howto" / "doctor.md"

Examine = Callable[[], list[Finding]]


@pytest.fixture(autouse=True)
def _good_installation(db, settings, monkeypatch) -> None:
    """A live run whose step is at a worker of the default queue, and a sweep that was there just now."""
    settings.BATON = {"SWEEP_RESIDENT": True}
    monkeypatch.setattr(registry, "_steps", {k: v for k, v in registry._steps.items() if v.module == "tests.steps"})
    monkeypatch.setattr(registry, "_duplicates", {})
    SweepLeaseFactory.create(swept_at=timezone.now())
    WorkflowNodeFactory.create(executing=True)


def found() -> list[Finding]:
    return examine(wait=0)


def ids() -> list[str]:
    return [finding.id for finding in found()]


def ago(**times: float) -> Any:
    return timezone.now() - timedelta(**times)


def test_good_installation_has_no_finding():
    assert found() == []


def test_examination_changes_nothing_but_that_it_calls_the_roll_once():
    models = [WorkflowRun, WorkflowNode, QueueSighting, SweepLease, Completion, Schedule]
    WorkflowNodeFactory.create(available=True, queue="slow")
    before = [list(model._default_manager.order_by("pk").values()) for model in models]

    examine(wait=0)
    examine(wait=0)

    assert [list(model._default_manager.order_by("pk").values()) for model in models] == before
    if q2.uses_orm_broker():
        assert sorted(OrmQ.objects.values_list("key", flat=True)) == ["baton-tests", "slow"]


# The settings


def test_setting_of_django_q2_that_repeats_tasks_is_found(settings):
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "timeout": 60, "retry": 30}

    (finding,) = found()

    assert (finding.severity, finding.id) == ("warning", "baton.W009")
    assert finding.sentence.startswith("Q_CLUSTER['retry'] is 30 and the timeout is 60: ")
    assert finding.fix.startswith("Set retry above the timeout")


def test_check_that_is_silenced_is_no_finding(settings):
    settings.Q_CLUSTER = {**settings.Q_CLUSTER, "timeout": 60, "retry": 30}
    settings.SILENCED_SYSTEM_CHECKS = ["baton.W009"]

    assert found() == []


def test_settings_that_cannot_be_read_are_found_and_nothing_else_is_looked_at(settings):
    settings.BATON = {"LEASE": 15}

    (finding,) = found()

    assert (finding.severity, finding.id) == ("error", "baton.E001")


def test_steps_module_that_cannot_be_imported_is_found(monkeypatch):
    monkeypatch.setattr(registry, "_failures", {"shop.steps": "SyntaxError: invalid syntax"})

    assert ids() == ["baton.E011"]


# The databases


def test_migration_that_is_not_applied_is_found():
    MigrationRecorder(connection).record_unapplied("baton", "0003_ledger")

    (finding,) = found()

    assert finding == Finding(
        severity=Severity.ERROR,
        id="migration-missing",
        sentence="1 migration is not applied to the database 'default': baton.0003_ledger.",
        fix="Run: python manage.py migrate",
    )


def test_migration_of_django_q2_that_is_not_applied_is_found():
    ((app, newest),) = MigrationLoader(connection).graph.leaf_nodes("django_q")
    MigrationRecorder(connection).record_unapplied(app, newest)

    assert ids() == ["migration-missing"]


def test_runs_that_retention_should_have_deleted_are_found(settings):
    settings.BATON = {"SWEEP_RESIDENT": True, "RETENTION_DAYS": 30}
    WorkflowRunFactory.create_batch(2, completed=True, finished_at=ago(days=31))
    WorkflowRunFactory.create(completed=True, finished_at=ago(days=30))

    (finding,) = found()

    assert (finding.severity, finding.id) == ("warning", "retention-behind")
    assert finding.sentence == (
        "2 runs ended more than 30 days ago are still there, although BATON['RETENTION_DAYS'] is 30."
    )


def test_debug_logs_that_retention_should_have_deleted_are_found(settings):
    settings.BATON = {"SWEEP_RESIDENT": True, "DEBUG_LOG_RETENTION_DAYS": 3}
    node = WorkflowNode.objects.get()
    DebugLog.objects.create(run=node.run, node=node, created_at=ago(days=4))

    (finding,) = found()

    assert (finding.severity, finding.id) == ("warning", "retention-behind")


def test_tables_that_nothing_bounds_are_told_without_being_a_fault():
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("UPDATE pg_class SET reltuples = 2000000 WHERE oid = 'baton_workflownode'::regclass")
    else:
        WorkflowNodeFactory.create(id=WorkflowNode.objects.get().pk + 1_999_999, completed=True)

    (finding,) = found()

    assert (finding.severity, finding.id, finding.is_fault) == ("info", "rows-unbounded", False)
    assert finding.sentence == (
        "There are about 2,000,000 steps, and nothing deletes the old ones: BATON['RETENTION_DAYS'] is None."
    )


# The queues


def test_queue_in_which_steps_wait_and_that_nobody_serves_is_found():
    WorkflowNodeFactory.create(available=True, queue="slow")

    (finding,) = found()

    assert finding == Finding(
        severity=Severity.ERROR,
        id="queue-unserved",
        sentence="No worker of queue 'slow' has answered within 0 s; none was ever seen. 1 unsettled step needs it.",
        fix="Start one, unless its workers are only busy with other tasks: "
        "Q_CLUSTER_NAME=slow python manage.py qcluster",
    )


def test_default_queue_that_nobody_serves_is_started_without_a_name():
    WorkflowNode.objects.update(state="available", lease_until=None)
    QueueSightingFactory.create(queue="default", seen_at=ago(seconds=200))

    (finding,) = found()

    assert finding.id == "queue-unserved"
    assert "; the last was seen 3 m 20 s ago. 1 unsettled step needs it." in finding.sentence
    assert finding.fix.endswith(": python manage.py qcluster")


def test_queue_that_nobody_serves_and_nobody_needs_yet_is_a_warning():
    step(name="ask", queue="llm")(lambda ctx: None)

    (finding,) = found()

    assert (finding.severity, finding.id) == ("warning", "queue-unserved")
    assert finding.sentence.endswith("none was ever seen. No step needs it now.")


def test_queue_without_a_cluster_is_found_where_steps_wait_in_it():
    WorkflowNodeFactory.create(available=True, queue="mail")

    (finding,) = found()

    assert finding.id == "queue-unserved"
    assert finding.fix == (
        "Add 'mail' to Q_CLUSTER['ALT_CLUSTERS'], then start it: Q_CLUSTER_NAME=mail python manage.py qcluster"
    )


def test_worker_whose_lease_is_about_to_run_out_is_no_sign_of_life():
    WorkflowNode.objects.update(lease_until=timezone.now() + timedelta(seconds=2))

    assert ids() == ["queue-unserved"]


@pytest.mark.parametrize(
    ("offset", "severity", "words"),
    [
        (3.5, "warning", "3.5 s ahead of the database's"),
        (-7.0, "warning", "7.0 s behind the database's"),
        (90.0, "error", "1 m 30 s ahead of the database's"),
    ],
)
def test_worker_whose_clock_is_off_is_found(offset, severity, words):
    QueueSightingFactory.create(host="ocr-2", clock_offset=offset, seen_at=ago(minutes=2))

    (finding,) = found()

    assert (finding.severity, finding.id) == (severity, "clock-off")
    assert finding.sentence.startswith(f"The clock of host ocr-2 is {words}: ")


def test_clock_of_a_host_that_was_not_seen_for_long_is_not_judged():
    QueueSightingFactory.create(clock_offset=90.0, seen_at=ago(hours=2))

    assert found() == []


# The sweep


def test_sweep_that_never_was_is_found():
    SweepLease.objects.all().delete()

    (finding,) = found()

    assert (finding.severity, finding.id) == ("error", "sweep-never")
    assert finding.fix == "Keep it running: python manage.py baton_sweep --watch --interval 1"


def test_sweep_of_long_ago_is_found():
    SweepLease.objects.update(swept_at=ago(minutes=7))

    (finding,) = found()

    assert (finding.severity, finding.id) == ("error", "sweep-late")
    assert finding.sentence == (
        "The last complete pass of the sweep was 7 m 0 s ago; one is expected every 2 m 0 s at least."
    )


def test_sweep_of_long_ago_is_a_warning_where_nothing_runs():
    SweepLease.objects.update(swept_at=ago(minutes=7))
    WorkflowNode.objects.all().delete()
    WorkflowRun.objects.all().delete()
    QueueSightingFactory.create(seen_at=timezone.now() + timedelta(seconds=1))

    assert [(finding.severity, finding.id) for finding in found()] == [("warning", "sweep-late")]


def test_sweeper_that_is_at_work_has_been_seen():
    SweepLease.objects.update(swept_at=ago(minutes=7), holder="h:1", until=timezone.now() + timedelta(seconds=5))

    assert found() == []


def test_schedule_of_the_sweep_that_is_missing_is_found(settings):
    settings.BATON = {"SWEEP_SCHEDULE": True}

    (finding,) = found()

    assert (finding.severity, finding.id) == ("error", "schedule-missing")
    assert finding.fix.endswith(": python manage.py migrate")


def test_sweep_by_schedule_is_expected_as_often_as_it_is_scheduled(settings):
    settings.BATON = {"SWEEP_SCHEDULE": True, "SWEEP_SECONDS": 240}
    Schedule.objects.create(func="baton.sweep.scheduled_sweep", repeats=-1)
    SweepLease.objects.update(swept_at=ago(minutes=8))

    assert found() == []

    SweepLease.objects.update(swept_at=ago(minutes=10))

    assert ids() == ["sweep-late"]


# Live runs


def test_unsettled_step_without_code_is_found():
    node = WorkflowNodeFactory.create(snoozed=True, step="shop.steps.renamed")

    (finding,) = found()

    assert (finding.severity, finding.id) == ("error", "step-unknown")
    assert finding.sentence.startswith(
        f"1 unsettled step cannot be run, the first in run {node.run_id}. "
        "No step is registered as 'shop.steps.renamed'."
    )


def test_settled_step_without_code_does_not_matter():
    run = WorkflowNode.objects.get().run
    WorkflowNodeFactory.create(run=run, completed=True, step="shop.steps.renamed")

    assert found() == []


def test_step_is_found_by_the_module_that_its_row_names():
    WorkflowNodeFactory.create(snoozed=True, step="anything", options={"module": "tests.no_such_module"})

    assert ids() == ["step-unknown"]


def test_steps_that_wait_long_for_busy_workers_are_told_without_being_a_fault():
    WorkflowNodeFactory.create_batch(2, available=True, queued_at=ago(minutes=5))

    (finding,) = found()

    assert (finding.severity, finding.id) == ("info", "steps-backlog")
    assert finding.sentence == "2 steps of queue 'default' wait for a free worker, up to 5 m 0 s."


def test_lease_that_ran_out_long_ago_is_found():
    WorkflowNodeFactory.create(executing=True, name="stuck", worker="gone:7", lease_until=ago(minutes=5))

    (finding,) = found()

    assert (finding.severity, finding.id) == ("error", "steps-lost")
    assert finding.sentence == "1 step is executing on workers that vanished long ago: stuck on gone:7."
    assert finding.fix.endswith(": python manage.py baton_sweep")


def test_step_that_is_long_due_is_found():
    WorkflowNodeFactory.create(snoozed=True, due_at=ago(minutes=5))

    assert ids() == ["steps-overdue"]


def test_steps_that_wait_for_money_or_a_person_are_told_and_are_no_fault():
    for kind, since in (("question", ago(minutes=5)), ("budget", ago(minutes=2)), ("budget", ago(minutes=1))):
        node = WorkflowNodeFactory.create(snoozed=True, due_at=None)
        Hold.objects.create(node=node, run=node.run, kind=kind, since=since)

    held, asked = found()

    assert {(each.severity, each.id) for each in (held, asked)} == {("info", "steps-held")}
    assert held.sentence == "2 steps wait for money, their budget being spent, up to 2 m 0 s."
    assert asked.sentence == "1 step waits for a person's word on a call of unknown outcome, up to 5 m 0 s."


def test_run_whose_ending_nobody_noted_is_found():
    run = WorkflowRunFactory.create(name="ingest", inserted_at=ago(minutes=9))
    WorkflowNodeFactory.create(run=run, completed=True, settled_at=ago(minutes=5))

    (finding,) = found()

    assert (finding.severity, finding.id) == ("error", "runs-unfinished")
    assert finding.sentence == (
        f"Nobody has noted the ending of 1 run of which every step is settled: ingest {run.pk}."
    )


def test_run_that_has_just_settled_is_left_to_whoever_settles_it():
    run = WorkflowRunFactory.create(inserted_at=ago(minutes=9))
    WorkflowNodeFactory.create(run=run, completed=True)

    assert found() == []


def test_ending_that_nobody_announced_is_found():
    CompletionFactory.create(unannounced=True, finished_at=ago(minutes=5))

    assert ids() == ["endings-unannounced"]


# The channel layer


def test_channel_layer_within_a_process_is_found(settings):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

    (finding,) = found()

    assert (finding.severity, finding.id) == ("warning", "channel-layer-local")
    assert finding.sentence.startswith(
        "The channel layer 'default' (channels.layers.InMemoryChannelLayer) does not carry messages from one process "
        "to another "
    )


def test_channel_layer_whose_server_is_away_is_found(settings):
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": ["redis://127.0.0.1:1/0"]},
        }
    }

    (finding,) = found()

    assert (finding.severity, finding.id) == ("warning", "channel-layer-broken")
    assert "does not work: Error 111 connecting to 127.0.0.1:1." in finding.sentence


def test_channel_layer_that_is_not_used_is_not_looked_at(settings):
    settings.BATON = {"SWEEP_RESIDENT": True, "CHANNEL_LAYER": None}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

    assert found() == []


# All of it


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_table_of_sightings")
def test_part_that_cannot_be_looked_at_is_a_finding_and_the_others_are_looked_at(settings):
    SweepLease.objects.all().delete()

    findings = found()

    assert [finding.id for finding in findings] == ["look-failed", "look-failed", "sweep-never"]
    assert findings[0].sentence.startswith("Could not look at the queues: ")
    assert "baton_queuesighting" in findings[0].sentence


def test_findings_are_told_the_gravest_first(settings):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    WorkflowNodeFactory.create(available=True, queued_at=ago(minutes=5))
    WorkflowNodeFactory.create(snoozed=True, due_at=ago(minutes=5))

    assert [finding.severity for finding in found()] == ["error", "warning", "info"]


def test_examination_asks_the_database_as_often_for_many_rows_as_for_few(django_assert_max_num_queries):
    with django_assert_max_num_queries(80) as few:
        found()
    for _ in range(20):
        WorkflowNodeFactory.create(executing=True)
        WorkflowNodeFactory.create(snoozed=True)

    with django_assert_max_num_queries(len(few)):
        found()


def test_every_finding_is_in_the_guide_and_in_a_test():
    pattern = r'(?:error|warning|info)\(\s*"([a-z-]+)"|\bid="([a-z-]+)"'
    slugs = {a or b for path in SOURCES for a, b in re.findall(pattern, path.read_text())}
    tests = Path(__file__).read_text() + (ROOT / "tests/management/test_baton_doctor.py").read_text()

    listed = re.findall(r"^\| `([a-z-]+)` \|", GUIDE.read_text(), flags=re.MULTILINE)

    assert len(slugs) > 15
    assert sorted(listed) == sorted(slugs)
    assert {slug for slug in slugs if f'"{slug}"' not in tests} == set()
