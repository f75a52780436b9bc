"""Messages that come late, twice, not at all, or make no sense; clusters that sit on them."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ, Task
from django_q.signing import SignedPackage
from django_q.tasks import async_task

from baton import Workflow
from baton.models import WorkflowNode, WorkflowRun
from baton.sweep import check
from scripts.services import Valkey
from tests.behaviours import keep_busy, leave_a_trace, notes
from tests.conftest import StartCluster
from tests.faults.conftest import QUICK, Sweeper
from tests.processes import Manage
from tests.utils import wait_until

CLUSTER = "baton-tests"
PATIENT = {**QUICK, "LEASE_SECONDS": 15.0}
"""Here no worker is lost, and none is taken for lost, however slow the machine."""


@pytest.fixture
def orm_broker(settings) -> None:
    if "orm" not in settings.Q_CLUSTER:
        pytest.skip("moves the rows of the ORM broker")


def diamond(folder: Path, name: str) -> WorkflowRun:
    """Insert four steps that leave a trace in a folder of the run's own."""
    place = folder / name
    place.mkdir()
    step = leave_a_trace.bind(folder=str(place), seconds=0.02)
    workflow = Workflow(name).add("a", step).add("b", step, deps=["a"]).add("c", step, deps=["a"])
    return workflow.add("d", step, deps=["b", "c"]).insert()


def assert_ran_once(folder: Path, run: WorkflowRun) -> None:
    assert run.wait(timeout=60) == "completed", run.name
    assert {name: [entry["outcome"] for entry in node.attempts] for name, node in run.steps.items()} == {
        name: ["completed"] for name in "abcd"
    }, run.name
    assert {name: sum("began" in note for note in notes(folder / run.name, name)) for name in "abcd"} == dict.fromkeys(
        "abcd", 1
    ), run.name


def message(function: str, *args: object) -> str:
    """A message as django-q2 signs it."""
    task = {"id": "0" * 32, "name": "stray", "func": function, "args": args, "kwargs": {}, "started": timezone.now()}
    return str(SignedPackage.dumps(task))


def test_late_doubled_unknown_malformed_and_deleted_messages_change_nothing(
    orm_broker: None, real_cluster: StartCluster, sweeper: Sweeper, manage: Manage, tmp_path
):
    # A bell that takes one step only: for every step there is a message that can be lost.
    one_by_one = {**PATIENT, "BELL_SECONDS": 0.0}
    sweeper(baton=one_by_one)
    real_cluster(baton=one_by_one)
    now = timezone.now()

    with transaction.atomic():
        late = diamond(tmp_path, "late")
        OrmQ.objects.update(lock=now + timedelta(seconds=3))
    with transaction.atomic():
        doubled = diamond(tmp_path, "doubled")
        bells = list(OrmQ.objects.filter(lock__lt=timezone.now()))
        assert bells
        OrmQ.objects.bulk_create([OrmQ(key=bell.key, payload=bell.payload, lock=bell.lock) for bell in bells * 10])
    with transaction.atomic():
        OrmQ.objects.bulk_create(
            [
                OrmQ(key=CLUSTER, payload=payload, lock=now)
                for payload in [
                    "not signed",
                    "",
                    message("baton.engine.runner.answer_bell", "nobody's queue"),
                    message("baton.engine.runner.answer_bell"),
                    message("baton.engine.runner.answer_bell", None),
                    message("baton.engine.runner.no_such_function"),
                    message("no_such_module.function", 1),
                    # This one kills django-q2's pusher, together with whatever bell it had fetched beside it.
                    str(SignedPackage.dumps(["no", "task"])),
                ]
            ]
        )
        odd = diamond(tmp_path, "odd")
    deleted = diamond(tmp_path, "deleted")
    for settled in range(4):
        OrmQ.objects.all().delete()
        Task.objects.all().delete()
        wait_until(lambda: deleted.progress["settled"] > settled, timeout=60, what="a step whose bell was deleted")  # noqa: B023
    for run in (late, doubled, odd, deleted):
        assert_ran_once(tmp_path, run)
    assert manage("baton_sweep", "--check").returncode == 0
    assert check() == []


def test_bells_fetched_by_a_busy_cluster_hold_up_nothing_while_another_is_idle(
    orm_broker: None, real_cluster: StartCluster, sweeper: Sweeper, manage: Manage, tmp_path
):
    greedy = real_cluster(workers=1, baton=PATIENT, q_cluster={"bulk": 20, "queue_limit": 20})
    async_task(f"{keep_busy.__module__}.{keep_busy.__name__}", str(tmp_path), 600.0, timeout=-1)
    wait_until(lambda: list(tmp_path.glob("busy-*")), what="a worker that is busy")
    runs = [diamond(tmp_path, f"held up {index}") for index in range(5)]
    wait_until(lambda: not OrmQ.objects.filter(lock__lt=timezone.now()).exists(), what="the fetching of every bell")
    assert not WorkflowNode.objects.exclude(attempt=0).exists()

    idle = real_cluster(workers=1, baton=PATIENT)
    sweeper()

    for run in runs:
        assert_ran_once(tmp_path, run)
    (busy,) = [int(path.name.removeprefix("busy-")) for path in tmp_path.glob("busy-*")]
    assert busy in greedy.worker_pids
    pids = {note["pid"] for run in runs for name in "abcd" for note in notes(tmp_path / run.name, name)}
    assert pids <= set(idle.worker_pids)
    assert manage("baton_sweep", "--check").returncode == 0
    assert check() == []


@pytest.mark.once
def test_broker_that_goes_and_comes_back_empty_loses_no_run(
    real_cluster: StartCluster, sweeper: Sweeper, manage: Manage, tmp_path
):
    with Valkey() as broker:
        redis = {"BATON_TEST_BROKER": "redis", "BATON_TEST_REDIS_URL": broker.url}
        sweeper(env=redis)
        real_cluster(baton=PATIENT, env=redis)
        # These bells go to this process's own broker: for the cluster they are lost, and only its sweep can tell it.
        runs = [diamond(tmp_path, f"cut off {index}") for index in range(20)]
        wait_until(lambda: WorkflowNode.objects.filter(state="completed").count() >= 20, what="a quarter of the steps")

        broker.stop()
        wait_until(lambda: not WorkflowNode.objects.filter(state="executing").exists(), what="the end of the bells")
        broker.start()

        for run in runs:
            assert_ran_once(tmp_path, run)
    assert manage("baton_sweep", "--check").returncode == 0
    assert check() == []
    shutil.rmtree(tmp_path, ignore_errors=True)
