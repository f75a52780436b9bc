"""What raw django-q2 does, on its own cluster."""

from __future__ import annotations

import random
import statistics
import time

from django.db import transaction
from django.utils import timezone
from django_q.conf import Conf
from django_q.humanhash import uuid
from django_q.models import Failure, OrmQ, Success
from django_q.signing import SignedPackage
from django_q.tasks import Chain, async_task, result

from benchmarks import tasks
from benchmarks.cluster import Cluster, Usage
from benchmarks.workloads import PATIENCE_SECONDS, Figures, Sizes, check_equal, pause, wait_until

BATCH = 500


def nothing_queued() -> bool:
    """Whether every message has been acknowledged."""
    return not OrmQ.objects.filter(key=Conf.CLUSTER_NAME).exists()


def warm_up(cluster: Cluster) -> None:
    """Let every worker connect and import what it needs."""
    for _ in range(8):
        async_task(tasks.nap, 0.05)
    wait_until(nothing_queued, cluster=cluster, what="warming up")


def floor(cluster: Cluster, sizes: Sizes) -> Figures:
    """FLOOR: plain no-ops, queued in bulk, from the first line of queueing to the last acknowledgement."""
    with Usage(cluster) as usage:
        _queue_many("benchmarks.tasks.noop", sizes.noops)
        wait_until(nothing_queued, cluster=cluster, what="FLOOR")
    _assert_no_failure("FLOOR")
    return {
        "floor_rate": sizes.noops / usage.wall_seconds,
        "floor_cpu_ms": usage.cpu_seconds / sizes.noops * 1000,
        "floor_server_ms": usage.server_seconds / sizes.noops * 1000,
        "floor_memory": usage.peak_bytes / 2**20,
    }


def floor_one_by_one(cluster: Cluster, sizes: Sizes) -> Figures:
    """The same queued with ``async_task`` in a loop while the cluster works, as most projects do it."""
    started = time.perf_counter()
    for _ in range(sizes.noops):
        async_task(tasks.noop)
    wait_until(nothing_queued, cluster=cluster, what="FLOOR, one by one")
    return {"floor_loop_rate": sizes.noops / (time.perf_counter() - started)}


def chain(cluster: Cluster, sizes: Sizes) -> Figures:
    """A ``Chain`` as long as W1, from ``run()`` to its last result seen; it cannot pass results on."""
    links = Chain()
    for _ in range(sizes.chain):
        links.append(tasks.noop)
    started = time.perf_counter()
    group = links.run()
    wait_until(lambda: Success.objects.filter(group=group).count() >= sizes.chain, cluster=cluster, what="Chain")
    seconds = time.perf_counter() - started
    wait_until(nothing_queued, cluster=cluster, what="Chain")
    check_equal("Chain", Success.objects.filter(group=group).count(), sizes.chain)
    _assert_no_failure("Chain")
    return {"chain_ms": seconds / sizes.chain * 1000}


def single_tasks(cluster: Cluster, sizes: Sizes, random_source: random.Random) -> Figures:
    """W5: one task at a time on an idle cluster, to its body's start and to ``result()`` returning."""
    starts, dones = [], []
    for _ in range(sizes.single_runs):
        pause(random_source)
        submitted = time.time()
        task = async_task(tasks.stamp, save=True)
        started = result(task, wait=int(PATIENCE_SECONDS * 1000))
        dones.append(time.time() - submitted)
        cluster.assert_alive()
        starts.append(started - submitted)
        wait_until(nothing_queued, cluster=cluster, what="W5")
    _assert_no_failure("W5")
    return {"raw_start_ms": statistics.median(starts) * 1000, "raw_done_ms": statistics.median(dones) * 1000}


def submit_plain_task() -> tuple[str, float]:
    """Queue a task that reports when it started; return its id and the time now."""
    now = time.time()
    return async_task(tasks.stamp, save=True), now


def started_at(task: str) -> float:
    """Wait for the report of a plain task."""
    return float(result(task, wait=int(PATIENCE_SECONDS * 1000)))


def insert_rows(count: int) -> float:
    """Insert rows of three columns with ``bulk_create``; return how many seconds it took."""
    now = timezone.now()
    started = time.perf_counter()
    OrmQ.objects.bulk_create([OrmQ(key="rows", payload=f"row {number}", lock=now) for number in range(count)])
    seconds = time.perf_counter() - started
    check_equal("bulk_create", OrmQ.objects.filter(key="rows").count(), count)
    OrmQ.objects.filter(key="rows").delete()
    return seconds


def _queue_many(function: str, count: int) -> None:
    """Queue tasks the fastest way there is: packages as ``async_task`` makes them, inserted in bulk."""
    with transaction.atomic():
        for first in range(0, count, BATCH):
            now = timezone.now()
            packages = []
            for _ in range(min(BATCH, count - first)):
                name, number = uuid()
                task = {"id": number, "name": name, "func": function, "args": (), "kwargs": {}, "started": now}
                packages.append(OrmQ(key=Conf.CLUSTER_NAME, payload=SignedPackage.dumps(task), lock=now))
            OrmQ.objects.bulk_create(packages)


def _assert_no_failure(what: str) -> None:
    check_equal(f"failed tasks of {what}", list(Failure.objects.values_list("result", flat=True)[:3]), [])
