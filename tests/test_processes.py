"""The suite's own real processes: they find the test database, and none outlives its test."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from django_q.tasks import async_task

from baton import Workflow
from tests import steps
from tests.conftest import StartCluster
from tests.processes import Manage
from tests.utils import wait_until


@pytest.mark.broker
@pytest.mark.usefixtures("invariants")
def test_workflow_of_the_test_database_runs_on_a_real_cluster(real_cluster: StartCluster) -> None:
    real_cluster()

    run = Workflow("sum").add("one", steps.value.bind(value=1)).add("two", steps.value, deps=["one"]).insert()

    assert run.wait(timeout=60) == "completed"


@pytest.mark.broker
def test_cluster_serves_its_queue_and_no_other(real_cluster: StartCluster, tmp_path: Path) -> None:
    real_cluster(queue="slow", workers=1)

    async_task("os.mkdir", str(tmp_path / "default"))
    async_task("os.mkdir", str(tmp_path / "slow"), cluster="slow")

    wait_until((tmp_path / "slow").exists, what="the task of the queue slow")
    assert not (tmp_path / "default").exists()
    real_cluster(workers=1)
    wait_until((tmp_path / "default").exists, what="the task of the default queue")


def test_killed_worker_is_replaced_and_seen(real_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = real_cluster(workers=1)
    (first,) = cluster.worker_pids
    async_task("subprocess.run", ["sh", "-c", f"mkdir {tmp_path}/busy; exec sleep 30"])
    wait_until((tmp_path / "busy").exists, what="the task's start")

    os.kill(first, signal.SIGKILL)

    wait_until(lambda: cluster.worker_pids and cluster.worker_pids != [first], what="another worker")


def test_killed_cluster_leaves_no_process(real_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = real_cluster()
    async_task("subprocess.run", ["sh", "-c", f"mkdir {tmp_path}/busy; exec sleep 30"])
    wait_until((tmp_path / "busy").exists, what="the task's start")
    assert len(cluster.processes()) > 5

    cluster.kill()

    assert cluster.processes() == []


def test_stopped_cluster_reports_its_exit_status(real_cluster: StartCluster) -> None:
    # django-q2 hangs in some of its stops, and is killed then.
    assert any(real_cluster().stop() == 0 for _ in range(3))


def test_settings_of_a_cluster_can_be_laid_over(real_cluster: StartCluster) -> None:
    with pytest.raises(AssertionError, match="LEASE_SECOND"):
        real_cluster(baton={"LEASE_SECOND": 3})


def test_command_that_fails_shows_what_it_said(manage: Manage) -> None:
    with pytest.raises(AssertionError, match="Unknown command: 'baton_nonsense'"):
        manage("baton_nonsense")


def test_command_works_on_the_test_database(manage: Manage) -> None:
    Workflow("waits").add("one", steps.nothing).insert()

    done = manage(
        "shell", "--no-imports", "-c", "from baton.models import *; print(*WorkflowRun.objects.values('name'))"
    )

    assert done.stdout.strip() == "{'name': 'waits'}"
