"""PostgreSQL restarted under the feet of everything."""

from __future__ import annotations

import pytest
from django.db import connections

from baton import Workflow
from baton.models import Completion, WorkflowNode
from baton.sweep import check
from scripts.services import Postgres
from tests.behaviours import leave_a_trace, notes
from tests.conftest import StartCluster
from tests.faults.conftest import Sweeper
from tests.processes import Manage
from tests.utils import wait_until

pytestmark = pytest.mark.postgres

RUNS = 50


def test_restart_of_postgresql_during_50_runs_loses_nothing(
    restartable_postgres: Postgres, real_cluster: StartCluster, sweeper: Sweeper, manage: Manage, tmp_path
):
    # The usual lease: it outlives the restart, so that no live worker is taken for dead.
    sweeper(baton={})
    real_cluster(baton={})
    runs = []
    for index in range(RUNS):
        folder = tmp_path / str(index)
        folder.mkdir()
        step = leave_a_trace.bind(folder=str(folder), seconds=0.02)
        workflow = Workflow("cut off").add("a", step).add("b", step, deps=["a"]).add("c", step, deps=["a"])
        runs.append((workflow.add("d", step, deps=["b", "c"]).insert(), folder))

    wait_until(lambda: WorkflowNode.objects.filter(state="completed").count() >= RUNS, what="a quarter of the steps")
    restartable_postgres.restart()
    connections.close_all()
    assert WorkflowNode.objects.unsettled().exists()

    assert {run.wait(timeout=90) for run, _ in runs} == {"completed"}
    for run, folder in runs:
        for name, node in run.steps.items():
            *before, last = [entry["outcome"] for entry in node.attempts]
            assert (set(before) <= {"worker_lost"}, last) == (True, "completed")
            # What was done when the database went away is settled when it is back, not done again.
            begun = sum("began" in note for note in notes(folder, name))
            assert 1 <= begun <= len(before) + 1
    assert Completion.objects.count() == RUNS
    assert manage("baton_sweep", "--check").returncode == 0
    assert check() == []
