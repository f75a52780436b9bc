"""What Baton does, on its own cluster."""

from __future__ import annotations

import gc
import random
import statistics
import time
from typing import Self

from django.db import connection

from baton import Workflow
from baton.models import WorkflowEdge, WorkflowNode, WorkflowRun
from benchmarks import raw, steps
from benchmarks.cluster import Cluster, Usage
from benchmarks.workloads import PATIENCE_SECONDS, Figures, Sizes, check_equal, pause, wait_until

UNSERVED_QUEUE = "nobody"
URGENT_PRIORITY = -10


def warm_up(cluster: Cluster) -> None:
    """Let every worker connect, import what it needs and prepare its statements."""
    for _ in range(3):
        workflow = Workflow("warm-up").add("first", steps.seed.bind(number=1))
        for number in range(8):
            workflow.add(f"nap {number}", steps.nap.bind(seconds=0.03), deps=["first"])
        workflow.add("last", steps.total, deps=[f"nap {number}" for number in range(8)])
        _finish(workflow.insert(), cluster)
    wait_for_bells(cluster)


def wait_for_bells(cluster: Cluster) -> None:
    """Wait until no bell is left over: what surplus ones cost belongs to what rang them, not to what comes next."""
    wait_until(raw.nothing_queued, cluster=cluster, what="bells")


def fan_in(cluster: Cluster, sizes: Sizes) -> Figures:
    """W3: one step, a thousand that wait for it, and one that reads the thousand; built, inserted, run, seen done."""
    count = sizes.width + 2
    with Ledger() as ledger, Usage(cluster) as usage:
        names = [f"item {number}" for number in range(sizes.width)]
        workflow = Workflow("W3").add("first", steps.seed.bind(number=0))
        for number, name in enumerate(names):
            workflow.add(name, steps.seed.bind(number=number), deps=["first"])
        run = _finish(workflow.add("last", steps.total, deps=names).insert(), cluster)
        usage.stop_the_clock()
        wait_for_bells(cluster)
    _check_completed(run, steps=count)
    check_equal("sum of W3", run.steps["last"].result, sum(range(sizes.width)))
    return {
        "w3_rate": count / usage.wall_seconds,
        "w3_cpu_ms": usage.cpu_seconds / count * 1000,
        "w3_server_ms": usage.server_seconds / count * 1000,
        "w3_memory": usage.peak_bytes / 2**20,
        "w3_writes": ledger.writes / count,
        "w3_messages": ledger.messages,
    }


def diamonds(cluster: Cluster, sizes: Sizes) -> Figures:
    """W2: many diamonds inserted one after the other without a pause, until all are seen done."""
    count = sizes.diamonds * 4
    with Ledger() as ledger, Usage(cluster) as usage:
        client_before = time.process_time()
        runs = [_diamond(number).insert() for number in range(sizes.diamonds)]
        client_seconds = time.process_time() - client_before
        wait_until(_nothing_running, cluster=cluster, what="W2")
        usage.stop_the_clock()
        wait_for_bells(cluster)
    for number, run in enumerate(runs):
        run.refresh_from_db()
        _check_completed(run, steps=4)
        check_equal("result of a diamond", run.steps["join"].result, 2 * number + number + 1)
    return {
        "w2_rate": count / usage.wall_seconds,
        "w2_cpu_ms": usage.cpu_seconds / count * 1000,
        "w2_server_ms": usage.server_seconds / count * 1000,
        "w2_insert_cpu_ms": client_seconds / sizes.diamonds * 1000,
        "w2_writes": ledger.writes / count,
        "w2_messages": ledger.messages,
    }


def chain(cluster: Cluster, sizes: Sizes) -> Figures:
    """W1: a chain, each step counting on from its predecessor's result, from building it to seeing it done."""
    started = time.perf_counter()
    workflow = Workflow("W1")
    for number in range(sizes.chain):
        workflow.add(f"hop {number}", steps.hop, deps=[f"hop {number - 1}"] if number else [])
    run = _finish(workflow.insert(), cluster)
    seconds = time.perf_counter() - started
    _check_completed(run, steps=sizes.chain)
    check_equal("count of W1", run.steps[f"hop {sizes.chain - 1}"].result, sizes.chain)
    return {"w1_ms": seconds / sizes.chain * 1000}


def single_runs(cluster: Cluster, sizes: Sizes, random_source: random.Random) -> Figures:
    """W5: one-step runs on an idle cluster, to the body's start and to ``wait()`` returning."""
    starts, dones = [], []
    for _ in range(sizes.single_runs):
        pause(random_source)
        submitted = time.time()
        run = Workflow("W5").add("stamp", steps.stamp).insert()
        run.wait(timeout=PATIENCE_SECONDS)
        dones.append(time.time() - submitted)
        cluster.assert_alive()
        _check_completed(run, steps=1)
        starts.append(run.steps["stamp"].result - submitted)
    return {"w5_start_ms": statistics.median(starts) * 1000, "w5_done_ms": statistics.median(dones) * 1000}


def urgent_step(cluster: Cluster, sizes: Sizes) -> Figures:
    """How long an urgent step waits behind hundreds of ready ones: the slowest of a few."""
    waited = []
    crowd = _crowd("crowd", sizes.waiting, sizes.waiting_seconds)
    for _ in range(sizes.urgent_runs):
        time.sleep(0.15)
        submitted = time.time()
        run = Workflow("urgent").add("stamp", steps.stamp, priority=URGENT_PRIORITY).insert()
        run.wait(timeout=PATIENCE_SECONDS)
        waited.append(run.steps["stamp"].result - submitted)
    left = crowd.progress["states"].get("available", 0)
    check_equal("steps still ready after the urgent one", left > 0, True)
    _check_completed(_finish(crowd, cluster), steps=sizes.waiting)
    return {"urgent_ms": max(waited) * 1000, "urgent_p50_ms": statistics.median(waited) * 1000}


def plain_tasks(cluster: Cluster, sizes: Sizes) -> Figures:
    """How long plain django-q2 tasks wait while the workers are busy with ready steps."""
    crowd = _crowd("busy", sizes.busy, sizes.busy_seconds)
    time.sleep(0.1)
    pause_seconds = sizes.busy * sizes.busy_seconds / 2 / 2 / sizes.plain_tasks
    submitted = []
    for _ in range(sizes.plain_tasks):
        submitted.append(raw.submit_plain_task())
        time.sleep(pause_seconds)
    left = crowd.progress["states"].get("available", 0)
    check_equal("steps still ready after the plain tasks", left > 0, True)
    waited = [raw.started_at(task) - at for task, at in submitted]
    _check_completed(_finish(crowd, cluster), steps=sizes.busy)
    return {"plain_ms": statistics.median(waited) * 1000, "plain_max_ms": max(waited) * 1000}


def big_insert(sizes: Sizes) -> Figures:
    """W4: building, validating and inserting a large graph, beside ``bulk_create`` of as many small rows."""
    count = sizes.layers * sizes.layer_width
    rows_seconds = raw.insert_rows(count)
    gc.collect()
    started = time.perf_counter()
    run = _layers("W4", sizes.layers, sizes.layer_width).insert()
    seconds = time.perf_counter() - started
    nodes = WorkflowNode.objects.filter(run=run)
    check_equal("steps of W4", nodes.count(), count)
    check_equal("dependencies of W4", WorkflowEdge.objects.count(), 2 * (count - sizes.layer_width))
    check_equal("ready steps of W4", nodes.filter(state="available").count(), sizes.layer_width)
    return {"w4_s": seconds, "rows_s": rows_seconds}


class Ledger:
    """What PostgreSQL has given out during a block: ids of writing transactions, and of messages of django-q2."""

    def __init__(self) -> None:
        self.writes = 0
        self.messages = 0

    def __enter__(self) -> Self:
        self._before = self._read()
        return self

    def __exit__(self, *exc_info: object) -> None:
        writes, messages = self._read()
        self.writes, self.messages = writes - self._before[0], messages - self._before[1]

    def _read(self) -> tuple[int, int]:
        if connection.vendor != "postgresql":
            return 0, 0
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, "
                "(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM django_q_ormq_id_seq)"
            )
            writes, messages = cursor.fetchone()
        return int(writes), int(messages)


def _diamond(number: int) -> Workflow:
    return (
        Workflow("W2")
        .add("start", steps.seed.bind(number=number))
        .add("left", steps.double, deps=["start"])
        .add("right", steps.hop, deps=["start"])
        .add("join", steps.total, deps=["left", "right"])
    )


def _layers(name: str, layers: int, width: int) -> Workflow:
    """Build layers in which each step waits for two of the layer before, for a queue that nobody serves."""
    workflow = Workflow(name)
    for layer in range(layers):
        for place in range(width):
            before = [f"{layer - 1}/{place}", f"{layer - 1}/{(place + 1) % width}"] if layer else []
            workflow.add(f"{layer}/{place}", steps.hop, deps=before, queue=UNSERVED_QUEUE)
    return workflow


def _crowd(name: str, count: int, seconds: float) -> WorkflowRun:
    workflow = Workflow(name)
    for number in range(count):
        workflow.add(f"nap {number}", steps.nap.bind(seconds=seconds))
    return workflow.insert()


def _finish(run: WorkflowRun, cluster: Cluster) -> WorkflowRun:
    wait_until(_nothing_running, cluster=cluster, what=run.name)
    run.refresh_from_db()
    return run


def _nothing_running() -> bool:
    return not WorkflowRun.objects.filter(state="running").exists()


def _check_completed(run: WorkflowRun, *, steps: int) -> None:
    check_equal(f"state of {run.name}", run.state, "completed")
    check_equal(
        f"progress of {run.name}", run.progress, {"total": steps, "settled": steps, "states": {"completed": steps}}
    )
