"""Everything goes away once while 200 workflows run: PostgreSQL, every worker, Redis."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.db import connections

from baton import Workflow
from baton.events import all_group
from baton.models import Completion, WorkflowNode, WorkflowRun
from baton.queries import runs as list_runs
from baton.sweep import check
from scripts.services import Postgres, Valkey
from tests.behaviours import leave_a_trace
from tests.conftest import StartCluster
from tests.faults.conftest import Sweeper
from tests.utils import wait_until

pytestmark = pytest.mark.postgres

RUNS, STEPS = 200, 4
BROKER = "redis" if settings.Q_CLUSTER.get("redis") else "orm"
"""With Redis, this process rings in vain: the cluster listens to the server that is stopped, where the sweep rings."""


class Subscriber:
    """Receives the finished messages of every run, and joins its group again after an outage."""

    def __init__(self, server: Valkey) -> None:
        self.finished: Counter[str] = Counter()
        self.server = server
        self._closing = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    async def _listen(self) -> None:
        from channels_redis.core import RedisChannelLayer

        while not self._closing.is_set():
            layer = RedisChannelLayer(hosts=[{"address": self.server.url, "socket_timeout": None}], capacity=100_000)
            with contextlib.suppress(Exception):
                channel = await layer.new_channel()
                while not self._closing.is_set():
                    await layer.group_add(all_group(), channel)
                    with contextlib.suppress(TimeoutError):
                        self._note(await asyncio.wait_for(layer.receive(channel), 1))
            with contextlib.suppress(Exception):
                await layer.close_pools()
            await asyncio.sleep(0.05)

    def _note(self, message: dict[str, Any]) -> None:
        for event in message.get("events", [message]):
            if event["type"] == "workflow.finished":
                self.finished[event["workflow_id"]] += 1


@pytest.fixture
def redis_of_its_own() -> Iterator[Valkey]:
    """A server that a test may stop."""
    with Valkey() as server:
        yield server


@pytest.fixture
def subscriber(redis_of_its_own: Valkey) -> Iterator[Subscriber]:
    """Somebody who listens."""
    subscriber = Subscriber(redis_of_its_own)
    yield subscriber
    subscriber.close()


def completed() -> int:
    return WorkflowNode.objects.filter(state="completed").count()


def test_200_workflows_survive_the_loss_of_postgresql_of_every_worker_and_of_redis(
    restartable_postgres: Postgres,
    subscriber: Subscriber,
    real_cluster: StartCluster,
    sweeper: Sweeper,
    tmp_path,
):
    environment: dict[str, Any] = {
        "env": {
            "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
            "BATON_TEST_LAYER_URL": subscriber.server.url,
            "BATON_TEST_BROKER": BROKER,
            "BATON_TEST_REDIS_URL": subscriber.server.url,
        },
        "baton": {"LEASE_SECONDS": 6.0, "READY_SECONDS": 0.5},
    }
    sweeper(**environment)
    cluster = real_cluster(**environment)
    inserted = []
    for _ in range(RUNS):
        step = leave_a_trace.bind(folder=str(tmp_path), seconds=0.01)
        workflow = Workflow("outage").add("a", step).add("b", step, deps=["a"]).add("c", step, deps=["a"])
        inserted.append(workflow.add("d", step, deps=["b", "c"]).insert())

    wait_until(lambda: completed() > RUNS * STEPS * 0.1, what="a tenth of the steps")
    restartable_postgres.restart()
    connections.close_all()
    wait_until(lambda: completed() > RUNS * STEPS * 0.3, timeout=60, what="a third of the steps")
    cluster.kill()
    real_cluster(**environment)
    wait_until(lambda: completed() > RUNS * STEPS * 0.5, timeout=60, what="half of the steps")
    subscriber.server.stop()
    done = completed()
    if BROKER == "orm":
        wait_until(lambda: completed() > done + STEPS * 10, timeout=60, what="steps that end without Redis")
    subscriber.server.start()
    assert WorkflowNode.objects.unsettled().exists()

    assert {run.wait(timeout=120) for run in inserted} == {"completed"}
    assert set(Completion.objects.values_list("run_id", flat=True)) == {run.pk for run in inserted}
    assert Completion.objects.count() == RUNS
    wait_until(lambda: not Completion.objects.filter(announced_at=None).exists(), what="the last announcement")
    received = set(subscriber.finished)
    asked = {run["id"] for run in list_runs(state="completed", limit=1000).runs}
    assert received | {str(run_id) for run_id in asked} == {str(run.pk) for run in inserted}
    # Before the outages and after them the messages come by themselves.
    assert received
    after = Workflow("after").add("a", leave_a_trace.bind(folder=str(tmp_path))).insert()
    assert after.wait(timeout=60) == "completed"
    wait_until(lambda: subscriber.finished[str(after.pk)], what="the finished message of a run after the outages")
    assert WorkflowRun.objects.running().count() == 0
    assert check() == []
