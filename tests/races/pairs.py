"""Two threads with a connection each that do something at the same instant, again and again."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable
from random import Random
from uuid import UUID, uuid4

from django.db import connection, connections, transaction

from baton import Workflow
from baton.engine.gate import Claim, claim
from baton.engine.runner import Held, database, execute
from baton.models import WorkflowNode, WorkflowRun
from tests.behaviours import meeting_point

REPEATS = int(os.environ.get("BATON_TEST_RACE_REPEATS", "1000"))

_JITTER = 0.0003
"""Seconds by which one of the two is kept back, now and then."""
_LEARNT = 0.00005
"""Seconds by which the head start changes with what a repeat has taught."""
_LEARNT_AT_MOST = 0.002
"""The same where many repeats have taught the same."""

Racer = Callable[[int], object]


class HeadStart:
    """How much later one of the two sets off, so that they meet in many ways, and in the middle of what they do.

    Where the two do different things, the one with the shorter way would always be first. Who was first is told after
    each repeat, and gets less of a start the next time.
    """

    def __init__(self) -> None:
        self.of_right = 0.0
        self._random = Random(0)
        self._change = 0.0

    def delays(self) -> tuple[float, float]:
        """Seconds that the left and the right one are kept back."""
        start = self.of_right + self._random.choice([0.0, 0.0, self._random.uniform(-_JITTER, _JITTER)])
        return max(0.0, start), max(0.0, -start)

    def learn(self, *, was_left_first: bool) -> None:
        """Take into account who was first."""
        sign = 1 if was_left_first else -1
        is_same = self._change * sign > 0
        self._change = sign * (min(abs(self._change) * 1.3, _LEARNT_AT_MOST) if is_same else _LEARNT)
        self.of_right += self._change


def race(
    left: Racer, right: Racer, *, repeats: int = REPEATS, was_left_first: Callable[[int], bool] | None = None
) -> None:
    """Call both with 0, 1, … in a thread and on a connection each.

    Either of them waits at the meeting point once in each repeat; what one of them raises is raised here. A deadlock
    fails the test also where the engine got over it: PostgreSQL counts them.

    Args:
        left: What one does.
        right: What the other does.
        repeats: How often.
        was_left_first: Tells, after a repeat, which of two unlike ones came first.
    """
    meeting_point.barrier.reset()
    deadlocks = _deadlocks()
    errors: list[BaseException] = []
    start = HeadStart()

    def prepare() -> None:
        meeting_point.delays = start.delays()

    def run(side: int, racer: Racer) -> None:
        meeting_point.side.number = side
        try:
            for repeat in range(repeats):
                begin.wait(timeout=60)
                racer(repeat)
                end.wait(timeout=60)
                if side == 0 and was_left_first is not None:
                    start.learn(was_left_first=was_left_first(repeat))
        except BaseException as exc:  # noqa: BLE001 - raised again by the main thread
            errors.append(exc)
            for barrier in (begin, meeting_point.barrier, end):
                barrier.abort()
        finally:
            connections.close_all()

    begin, end = threading.Barrier(2, action=prepare), threading.Barrier(2)
    threads = [threading.Thread(target=run, args=each) for each in enumerate((left, right))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The other one only says that nobody came to a barrier.
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    assert _deadlocks() == deadlocks


def claims(runs: Iterable[dict[str, int]], *names: str) -> dict[int, Claim]:
    """Claim steps of many runs; return the claims by node id."""
    with transaction.atomic():
        found = [claim(database(), run[name], worker="race") for run in runs for name in names]
    return {each.node_id: each for each in found if each is not None}


def perform(claimed: Claim, *, take_next: bool = False) -> Held | None:
    """Run a claimed step to its settle, as a worker does; return what the worker took next."""
    return execute(database(), Held(claim=claimed), until=math.inf if take_next else None)


def copies(workflow: Workflow, count: int = REPEATS) -> list[dict[str, int]]:
    """Insert a workflow and copy its untouched rows.

    Returns:
        For each copy the ids of its nodes by their names; the first is the workflow that was inserted.
    """
    if connection.vendor != "postgresql":
        with transaction.atomic():
            for _ in range(count):
                workflow.insert()
                workflow.id = uuid4()
        return list(nodes_by_run(workflow.name).values())
    template = workflow.insert()
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO baton_workflowrun (id, {_columns(WorkflowRun, without={"id"})})
            SELECT gen_random_uuid(), {_columns(WorkflowRun, without={"id"})}
            FROM baton_workflowrun, generate_series(2, %s) WHERE id = %s
            """,
            [count, template.pk],
        )
        cursor.execute(
            f"""
            INSERT INTO baton_workflownode (run_id, {_columns(WorkflowNode, without={"id", "run_id"})})
            SELECT r.id, {_columns(WorkflowNode, without={"id", "run_id"}, of="n.")}
            FROM baton_workflownode n CROSS JOIN baton_workflowrun r
            WHERE n.run_id = %s AND r.id <> n.run_id AND r.name = %s ORDER BY r.id, n.id
            """,
            [template.pk, template.name],
        )
        cursor.execute(
            """
            INSERT INTO baton_workflowedge (node_id, dependency_id)
            SELECT node.id, dependency.id
            FROM baton_workflowedge e JOIN baton_workflownode n ON n.id = e.node_id AND n.run_id = %s
                JOIN baton_workflownode d ON d.id = e.dependency_id
                JOIN baton_workflownode node ON node.name = n.name AND node.run_id <> n.run_id
                JOIN baton_workflownode dependency ON dependency.name = d.name AND dependency.run_id = node.run_id
            """,
            [template.pk],
        )
        cursor.execute("ANALYZE")
    return list(nodes_by_run(template.name).values())


def nodes_by_run(name: str) -> dict[UUID, dict[str, int]]:
    """The ids of the nodes of every run of that name."""
    found: dict[UUID, dict[str, int]] = {}
    rows = WorkflowNode.objects.filter(run__name=name).order_by("run__id", "id")
    for run_id, node_name, node_id in rows.values_list("run_id", "name", "id"):
        found.setdefault(run_id, {})[node_name] = node_id
    return found


def _deadlocks() -> int:
    """How many deadlocks there have been; what a connection has seen is counted when it closes, if not before."""
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


def _columns(model: type[WorkflowRun | WorkflowNode], *, without: set[str], of: str = "") -> str:
    names = [str(field.column) for field in model._meta.concrete_fields]
    return ", ".join(f"{of}{name}" for name in names if name not in without)
