"""What happens when messages are lost and workers vanish: each of these tests has clusters of its own."""

from __future__ import annotations

from datetime import datetime, timedelta

import psutil
import pytest
from django.db import connection
from django.utils import timezone
from django_q.models import OrmQ

from baton import Workflow, q2
from baton.models import WorkflowRun
from baton.sweep import sweep
from tests import steps
from tests.clock import expire_leases
from tests.utils import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("invariants"),
    pytest.mark.slow,
]


def seconds_between(run: WorkflowRun, earlier: str, later: str) -> float:
    """From the settle of one step to the start of another."""
    settled, started = run.steps[earlier].settled_at, run.steps[later].started_at
    assert settled is not None
    assert started is not None
    return (started - settled).total_seconds()


@pytest.mark.broker
def test_step_starts_within_a_second_of_its_last_dependency_without_a_sweep(real_cluster):
    # A bell that runs one step only: each start takes a message.
    real_cluster(baton={"BELL_SECONDS": 0})
    longest: list[float] = []
    # Other suites run beside this one: the quickest of some runs is what an idle cluster needs.
    while not longest or (min(longest) >= 1 and len(longest) < 10):
        run = (
            Workflow("x")
            .add("a", steps.nothing)
            .add("b", steps.nothing, deps=["a"])
            .add("c", steps.nothing, deps=["a"])
            .add("d", steps.nothing, deps=["b", "c"])
            .insert()
        )
        assert run.wait(timeout=60) == "completed"
        to_d = min(seconds_between(run, "b", "d"), seconds_between(run, "c", "d"))
        longest.append(max(seconds_between(run, "a", "b"), seconds_between(run, "a", "c"), to_d))

    assert min(longest) < 1


LOSE = {
    "postgresql": "CREATE RULE lose AS ON INSERT TO django_q_ormq WHERE NEW.payload <> '{kept}' DO INSTEAD NOTHING",
    "sqlite": "CREATE TRIGGER lose BEFORE INSERT ON django_q_ormq WHEN NEW.payload <> '{kept}' "
    "BEGIN SELECT RAISE(IGNORE); END",
}
FIND_AGAIN = {"postgresql": "DROP RULE lose ON django_q_ormq", "sqlite": "DROP TRIGGER lose"}


@pytest.fixture
def _messages_of_workers_are_lost(transactional_db):
    """Every message but the bells that this process rings for the default queue is lost on its way to the broker."""
    with connection.cursor() as cursor:
        cursor.execute(LOSE[connection.vendor].format(kept=q2._payload(q2.BELL, "default")))
    yield
    with connection.cursor() as cursor:
        cursor.execute(FIND_AGAIN[connection.vendor])


@pytest.mark.usefixtures("_messages_of_workers_are_lost")
def test_with_every_enqueue_after_a_completion_lost_the_sweep_brings_the_workflow_to_its_end(
    real_cluster, settings, tmp_path
):
    settings.BATON = {"READY_SECONDS": 0}
    real_cluster(baton={"BELL_SECONDS": 0})
    folder = str(tmp_path)
    run = (
        Workflow("x")
        .add("a", steps.trace.bind(folder))
        .add("b", steps.trace.bind(folder), deps=["a"])
        .add("c", steps.trace.bind(folder), deps=["a"])
        .add("d", steps.trace.bind(folder), deps=["b", "c"])
        .insert()
    )
    wait_until(lambda: run.steps["a"].is_settled)
    wait_until(lambda: not OrmQ.objects.exists())
    assert run.steps["b"].state == "available"

    wait_until(lambda: sweep() and run.progress["settled"] == 4)

    assert run.wait(timeout=60) == "completed"
    assert len(steps.traces(tmp_path)) == 8


@pytest.mark.broker
def test_step_whose_worker_was_killed_in_its_body_is_retried_and_the_workflow_settles(real_cluster, tmp_path):
    real_cluster()
    run = Workflow("x").add("a", steps.die.bind(str(tmp_path))).add("b", steps.read.bind("a"), deps=["a"]).insert()
    wait_until(lambda: steps.traces(tmp_path, "a"))
    wait_until(lambda: not _lives(steps.traces(tmp_path, "a")[0]["pid"]))

    expire_leases(run)
    sweep()

    assert run.wait(timeout=60) == "completed"
    node = run.steps["a"]
    assert [entry["outcome"] for entry in node.attempts] == ["worker_lost", "completed"]
    assert "vanished: its lease ran out" in node.attempts[0]["error"]
    assert run.steps["b"].result == "survived"


def test_step_whose_worker_was_killed_in_its_last_attempt_is_discarded_and_the_workflow_settles(real_cluster, tmp_path):
    real_cluster()
    run = (
        Workflow("x")
        .add("a", steps.die.bind(str(tmp_path)), max_attempts=1)
        .add("b", steps.read.bind("a"), deps=["a"])
        .insert()
    )
    wait_until(lambda: steps.traces(tmp_path, "a"))

    expire_leases(run)
    sweep()

    assert run.wait(timeout=60) == "failed"
    assert {name: str(node.state) for name, node in run.steps.items()} == {"a": "discarded", "b": "cancelled"}


def test_step_of_a_vanished_worker_is_retried_within_the_lease_and_one_sweep(real_cluster, manage, tmp_path):
    baton = {"LEASE_SECONDS": 2.0}
    real_cluster(baton=baton)
    manage.start("baton_sweep", "--watch", "--interval", "0.2", baton=baton)
    run = Workflow("x").add("a", steps.die.bind(str(tmp_path))).insert()

    assert run.wait(timeout=60) == "completed"

    lost, completed = run.steps["a"].attempts
    assert lost["outcome"] == "worker_lost"
    held = datetime.fromisoformat(lost["ended_at"]) - datetime.fromisoformat(lost["started_at"])
    assert timedelta(seconds=2) <= held < timedelta(seconds=20)
    assert completed["number"] == 2


def test_slow_step_of_three_leases_is_not_taken_from_its_live_worker(real_cluster, manage, tmp_path):
    baton = {"LEASE_SECONDS": 2.0}
    real_cluster(baton=baton)
    manage.start("baton_sweep", "--watch", "--interval", "0.1", baton=baton)
    run = Workflow("x").add("a", steps.trace.bind(str(tmp_path), 6.0)).add("b", steps.nothing, deps=["a"]).insert()

    assert run.wait(timeout=60) == "completed"

    assert run.steps["a"].attempt == 1
    assert [line["what"] for line in steps.traces(tmp_path, "a")] == ["begins", "ends"]


def test_worker_killed_between_store_and_acknowledgement_has_run_the_body_once(real_cluster, tmp_path):
    real_cluster()
    run = (
        Workflow("x")
        .add("a", steps.die_once_settled.bind(str(tmp_path)))
        .add("b", steps.trace.bind(str(tmp_path)), deps=["a"])
        .insert()
    )
    wait_until(lambda: run.steps["a"].is_settled)
    wait_until(lambda: not _lives(steps.traces(tmp_path, "a")[0]["pid"]))
    assert run.steps["a"].result == "stored"

    # The bell was never acknowledged: it is delivered again, as after the broker's own time for that.
    expire_leases(run)
    sweep()
    OrmQ.objects.update(lock=timezone.now() - timedelta(hours=1))

    assert run.wait(timeout=60) == "completed"
    wait_until(lambda: not OrmQ.objects.exists())
    assert len(steps.traces(tmp_path, "a")) == 1
    assert run.steps["a"].attempt == 1
    assert [line["what"] for line in steps.traces(tmp_path, "b")] == ["begins", "ends"]


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
