"""What real workers do: two of them, in processes of their own, for all of these tests."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import datetime, timedelta

import pytest
from django.utils import timezone
from django_q.models import OrmQ, Success
from django_q.tasks import async_task

from baton import Workflow
from baton.models import WorkflowEdge, WorkflowNode
from baton.sweep import sweep
from tests import steps
from tests.clock import elapse
from tests.processes import RealCluster
from tests.utils import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("invariants"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def cluster(django_db_setup, django_db_blocker, tmp_path_factory):
    """Two workers, with the suite's settings, for all tests that harm nobody."""
    with django_db_blocker.unblock():
        cluster = RealCluster(tmp_path_factory.mktemp("cluster"))
        cluster.wait_until_ready(2)
        yield cluster
        cluster.kill()


# The graph -----------------------------------------------------------------------------------------------------------


@pytest.mark.broker
def test_over_200_random_graphs_no_body_starts_before_its_dependencies_completed(cluster, tmp_path):
    chance = random.Random(12)
    runs = []
    for number in range(200):
        workflow = Workflow(f"random {number}")
        names: list[str] = []
        for index in range(chance.randint(2, 7)):
            deps = chance.sample(names, k=min(len(names), chance.randint(0, 3)))
            workflow.add(f"s{index}", steps.trace.bind(str(tmp_path)), deps=deps)
            names.append(f"s{index}")
        runs.append(workflow.insert())

    assert {run.wait(timeout=60) for run in runs} == {"completed"}

    at: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for line in steps.traces(tmp_path):
        at[line["run"], line["step"], line["what"]].append(line["at"])
    edges = list(
        WorkflowEdge.objects.filter(node__run__in=runs).values_list("node__run", "node__name", "dependency__name")
    )
    assert len(edges) > 300
    for run_id, name, dependency in edges:
        (began,), (ended,) = at[str(run_id), name, "begins"], at[str(run_id), dependency, "ends"]
        assert ended < began
    assert set(WorkflowNode.objects.values_list("attempt", flat=True)) == {1}


@pytest.mark.broker
def test_parallel_branches_overlap_in_time_on_two_workers(cluster, tmp_path):
    # Each body waits until the other runs: apart in time neither would end.
    run = (
        Workflow("x")
        .add("a", steps.nothing)
        .add("b", steps.meet.bind(str(tmp_path), "c"), deps=["a"])
        .add("c", steps.meet.bind(str(tmp_path), "b"), deps=["a"])
        .add("d", steps.results, deps=["b", "c"])
        .insert()
    )

    assert run.wait(timeout=60) == "completed"
    assert run.steps["d"].result == {"b": "met", "c": "met"}
    assert run.steps["b"].worker != run.steps["c"].worker


def test_join_of_siblings_that_complete_together_is_run_once(cluster, tmp_path):
    folder = str(tmp_path)
    runs = []
    for number in range(50):
        workflow = Workflow(f"join {number}").add("d", steps.trace.bind(folder), deps=["b", "c"])
        runs.append(workflow.add("b", steps.nothing).add("c", steps.nothing).insert())

    assert {run.wait(timeout=60) for run in runs} == {"completed"}

    began = [line["run"] for line in steps.traces(tmp_path) if line["what"] == "begins"]
    assert sorted(began) == sorted(str(run.pk) for run in runs)


# Attempts ------------------------------------------------------------------------------------------------------------


def test_step_that_fails_is_tried_again_after_its_backoff_and_discarded_in_the_end(cluster):
    run = Workflow("x").add("a", steps.fail, max_attempts=2, backoff=0.2).insert()

    assert run.wait(timeout=60) == "failed"

    first, second = run.steps["a"].attempts
    assert (first["outcome"], second["outcome"]) == ("failed", "failed")
    assert run.steps["a"].state == "discarded"
    gap = datetime.fromisoformat(second["started_at"]) - datetime.fromisoformat(first["ended_at"])
    assert gap > timedelta(seconds=0.19)


def test_snoozed_step_runs_again_not_before_its_time_on_real_workers(cluster):
    before = timezone.now()
    run = Workflow("x").add("a", steps.snooze_once.bind(3600)).insert()

    wait_until(lambda: run.steps["a"].state == "snoozed")
    node = run.steps["a"]
    assert (node.attempt, len(node.attempts)) == (0, 1)
    assert before < node.due_at - timedelta(hours=1) < timezone.now()

    elapse(run)
    sweep()
    assert run.wait(timeout=60) == "completed"
    assert (run.steps["a"].attempt, run.steps["a"].result) == (1, "awake")


def test_short_snooze_ends_without_a_sweep(cluster):
    run = Workflow("x").add("a", steps.snooze_once.bind(0.3)).add("b", steps.nothing, deps=["a"]).insert()

    assert run.wait(timeout=60) == "completed"

    snoozed, completed = run.steps["a"].attempts
    gap = datetime.fromisoformat(completed["started_at"]) - datetime.fromisoformat(snoozed["ended_at"])
    assert gap > timedelta(seconds=0.29)


def test_body_over_its_timeout_is_a_failed_attempt_and_a_worker_takes_the_next_step(cluster, tmp_path):
    run = Workflow("x").add("a", steps.hang_for_seconds.bind(str(tmp_path), 5), timeout=1).insert()

    assert run.wait(timeout=60) == "failed"

    node = run.steps["a"]
    assert (node.state, node.attempt, node.error) == ("discarded", 2, "timed out after 1 s")
    assert [entry["outcome"] for entry in node.attempts] == ["timed_out", "timed_out"]
    assert Workflow("x").add("a", steps.nothing).insert().wait(timeout=60) == "completed"


def test_async_body_is_awaited_by_a_real_worker(cluster):
    run = (
        Workflow("x")
        .add("a", steps.later_group.bind("g"))
        .add("b", steps.later_total, deps=["a"])
        .add("hangs", steps.hang_async)
        .insert()
    )

    assert run.wait(timeout=60) == "failed"
    assert (run.steps["b"].result, run.steps["hangs"].error) == (1, "timed out after 0.1 s")


def test_atomic_body_is_settled_in_its_own_transaction_by_a_real_worker(cluster):
    from django.contrib.auth.models import Group

    run = (
        Workflow("x", ignore_discarded=True)
        .add("a", steps.write_group.bind("kept"))
        .add("b", steps.write_group.bind("undone", "raise"), deps=["a"], max_attempts=1)
        .add("c", steps.nothing, deps=["b"])
        .insert()
    )

    assert run.wait(timeout=60) == "completed"
    assert list(Group.objects.values_list("name", flat=True)) == ["kept"]


def test_running_body_is_told_of_a_cancel_and_the_run_finishes_once(cluster, tmp_path):
    run = (
        Workflow("x")
        .add("a", steps.watch_for_cancel.bind(str(tmp_path)))
        .add("b", steps.trace.bind(str(tmp_path)), deps=["a"])
        .insert()
    )
    wait_until(lambda: steps.traces(tmp_path, "a"))

    run.cancel("enough")

    wait_until(lambda: [line["what"] for line in steps.traces(tmp_path)] == ["begins", "told"])
    assert run.wait(timeout=60) == "cancelled"
    assert {name: str(node.state) for name, node in run.steps.items()} == {"a": "cancelled", "b": "cancelled"}
    # What it returned is dropped, and the worker goes on.
    assert Workflow("x").add("a", steps.nothing).insert().wait(timeout=60) == "completed"
    assert run.steps["a"].has_result is False
    assert run.completions.count() == 1


def test_deleting_all_rows_of_django_q2_in_the_middle_of_a_run_does_not_matter(cluster, tmp_path):
    async_task("tests.steps.plain_task", save=True)
    wait_until(Success.objects.exists)
    run = (
        Workflow("x")
        .add("a", steps.wait_for_file.bind(str(tmp_path)))
        .add("b", steps.nothing, deps=["a"])
        .add("c", steps.nothing, deps=["b"])
        .insert()
    )
    wait_until(lambda: steps.traces(tmp_path, "a"))

    Success.objects.all().delete()
    OrmQ.objects.all().delete()
    (tmp_path / "go").touch()

    assert run.wait(timeout=60) == "completed"
