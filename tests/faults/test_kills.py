"""A whole cluster killed: every run settles as the contract says."""

from __future__ import annotations

import pytest

from baton import Workflow
from baton.models import WorkflowNode, WorkflowRun
from baton.sweep import check
from tests.behaviours import leave_a_trace, notes, wait_for_file
from tests.conftest import StartCluster
from tests.faults.conftest import QUICK, Sweeper
from tests.processes import Manage
from tests.utils import wait_until

pytestmark = pytest.mark.broker

BATON = {**QUICK, "LEASE_SECONDS": 5.0}
"""No worker is so slow that it is taken for dead."""


def outcomes(node: WorkflowNode) -> list[str]:
    """How each execution of a step ended."""
    return [entry["outcome"] for entry in node.attempts]


def test_runs_of_a_cluster_that_was_killed_whole_are_taken_up_by_the_next(
    real_cluster: StartCluster, sweeper: Sweeper, manage: Manage, tmp_path
):
    sweeper()
    cluster = real_cluster(baton=BATON)
    held = Workflow("held").add("a", wait_for_file.bind(folder=str(tmp_path), name="go on")).insert()
    runs = []
    for index in range(12):
        folder = tmp_path / str(index)
        folder.mkdir()
        step = leave_a_trace.bind(folder=str(folder), seconds=0.1)
        workflow = Workflow("killed").add("a", step).add("b", step, deps=["a"]).add("c", step, deps=["b"])
        runs.append((workflow.insert(), folder))

    wait_until(lambda: WorkflowNode.objects.filter(state="completed").count() >= 6, what="a third of the steps")
    wait_until(lambda: notes(tmp_path, "a"), what="the body that is held")
    cluster.kill()
    assert set(WorkflowRun.objects.values_list("state", flat=True)) >= {"running"}
    (tmp_path / "go on").touch()
    real_cluster(baton=BATON)

    assert held.wait(timeout=60) == "completed"
    assert outcomes(held.steps["a"]) == ["worker_lost", "completed"]
    assert {run.wait(timeout=60) for run, _ in runs} == {"completed"}
    lost = 0
    for run, folder in runs:
        for name, node in run.steps.items():
            *before, last = outcomes(node)
            assert (set(before) <= {"worker_lost"}, last) == (True, "completed")
            lost += len(before)
            # A body began at most once for each execution, and was not run again once it was settled.
            begun = sum("began" in note for note in notes(folder, name))
            assert 1 <= begun <= len(before) + 1
    assert lost <= 1  # the other worker was held
    assert manage("baton_sweep", "--check").returncode == 0
    assert check() == []
