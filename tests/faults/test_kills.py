"""Workers and clusters killed at any moment: every run settles as the contract says."""

from __future__ import annotations

from collections import Counter

import pytest
from django_q.models import OrmQ

from baton import Workflow
from baton.models import Completion, WorkflowNode, WorkflowRun
from baton.sweep import check
from tests.behaviours import behave, die_once, leave_a_trace, notes, wait_for_file
from tests.conftest import StartCluster
from tests.faults import killpoints, recorder
from tests.faults.conftest import QUICK, Sweeper
from tests.interpreter import Act
from tests.processes import Manage
from tests.utils import wait_until

pytestmark = pytest.mark.broker

IN_BODY = "in the body"


def outcomes(node: WorkflowNode) -> list[str]:
    """How each execution of a step ended."""
    return [entry["outcome"] for entry in node.attempts]


def test_worker_killed_between_any_two_moves_is_got_over(
    real_cluster: StartCluster, sweeper: Sweeper, manage: Manage, tmp_path
):
    traces, kills, events = (tmp_path / name for name in ("traces", "kills", "events"))
    for folder in (traces, kills, events):
        folder.mkdir()
    listening = {"DJANGO_SETTINGS_MODULE": "tests.faults.settings", recorder.ENVIRONMENT: str(events)}
    sweeper(env=listening)
    # Bells that were not acknowledged come again after the four seconds of `retry`, and must find nothing to do.
    real_cluster(
        baton=QUICK, q_cluster={"timeout": 2, "retry": 4}, env={**listening, killpoints.ENVIRONMENT: str(kills)}
    )

    def chain(place: str, victim=leave_a_trace, *, is_last: bool = False) -> WorkflowRun:
        workflow = Workflow(place).add(place, victim.bind(folder=str(traces)))
        if not is_last:
            workflow.add("next", leave_a_trace.bind(folder=str(traces)), deps=[place])
        return workflow.insert()

    runs = {
        IN_BODY: chain(IN_BODY, die_once),
        killpoints.BEFORE_BODY: chain(killpoints.BEFORE_BODY),
        killpoints.BEFORE_SETTLE: chain(killpoints.BEFORE_SETTLE),
        killpoints.AFTER_SETTLE: chain(killpoints.AFTER_SETTLE, is_last=True),
        killpoints.AFTER_SETTLE_WITH_NEXT: chain(killpoints.AFTER_SETTLE_WITH_NEXT),
        killpoints.BEFORE_ANNOUNCEMENT: chain(killpoints.BEFORE_ANNOUNCEMENT, is_last=True),
    }
    script = {"folder": str(traces), "number": 0}
    fallen = (
        Workflow(killpoints.BEFORE_HOOK)
        .add("root", behave.bind(script=[Act.DISCARD], **script))
        .add("hooked", behave.bind(script=[Act.VALUE], **script), deps=["root"])
        .insert()
    )
    ended = {place: run.wait(timeout=60) for place, run in runs.items()}

    assert set(ended.values()) == {"completed"}
    assert {path.name for path in kills.iterdir()} >= runs.keys() - {IN_BODY}
    # The settle of a worker that dies after it may have claimed any of the others as its next, and lost that too. So
    # an execution may be lost in every row; but the bodies began exactly so often.
    bodies = {place: sum("began" in note for note in notes(traces, place)) for place in runs}
    assert bodies == {
        IN_BODY: 2,
        killpoints.BEFORE_BODY: 1,
        killpoints.BEFORE_SETTLE: 2,
        killpoints.AFTER_SETTLE: 1,
        killpoints.AFTER_SETTLE_WITH_NEXT: 1,
        killpoints.BEFORE_ANNOUNCEMENT: 1,
    }
    for place, run in runs.items():
        *before, last = outcomes(run.steps[place])
        assert (set(before) <= {"worker_lost"}, last) == (True, "completed"), place
        if place in (IN_BODY, killpoints.BEFORE_BODY, killpoints.BEFORE_SETTLE):
            assert before, place
    assert outcomes(runs[killpoints.AFTER_SETTLE_WITH_NEXT].steps["next"])[0] == "worker_lost"
    assert fallen.wait(timeout=60) == "failed"
    wait_until(lambda: notes(traces, "hooked.hooks"), what="the hook that the sweep calls")
    wait_until(lambda: not Completion.objects.filter(announced_at=None).exists(), what="the last announcement")
    rows = list(WorkflowNode.objects.order_by("pk").values())
    wait_until(lambda: not OrmQ.objects.exists(), what="the second coming of bells that were never acknowledged")
    assert list(WorkflowNode.objects.order_by("pk").values()) == rows
    assert [note["state"] for note in notes(traces, "hooked.hooks")] == ["discarded"]
    announced = Counter(event["workflow_name"] for event in recorder.recorded(events, "finished"))
    assert announced == dict.fromkeys([*runs, killpoints.BEFORE_HOOK], 1)
    assert manage("baton_sweep", "--check").returncode == 0
    assert check() == []


def test_runs_of_a_cluster_that_was_killed_whole_are_taken_up_by_the_next(
    real_cluster: StartCluster, sweeper: Sweeper, manage: Manage, tmp_path
):
    sweeper()
    cluster = real_cluster(baton=QUICK)
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
    real_cluster(baton=QUICK)

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
