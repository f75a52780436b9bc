"""The gate: one conditional UPDATE turns a ready step into an executing one, under a lease and a new fence."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper

from baton.conf import get_settings
from baton.engine import statements as sql
from baton.telemetry import about_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A step that this worker holds, with what it needs to run it."""

    node_id: int
    run_id: UUID
    workflow_name: str
    name: str
    step: str
    queue: str
    priority: int
    attempt: int
    max_attempts: int
    fence: int
    version: int
    n_deps: int
    n_out: int
    timeout: float | None
    args: str
    refs: str
    options: str
    attempt_log: str
    queued_at: datetime | None
    started_at: datetime | None
    worker: str
    trace: str
    n_settled_deps: int

    @property
    def is_whole(self) -> bool:
        """True when every dependency's row is there and settled."""
        return self.n_settled_deps == self.n_deps

    @property
    def about(self) -> dict[str, Any]:
        """What log records about this execution carry."""
        return about_step(
            workflow_id=self.run_id,
            workflow_name=self.workflow_name,
            step_name=self.name,
            attempt=self.attempt,
            node_id=self.node_id,
        )

    @property
    def queue_wait(self) -> float | None:
        """Seconds between being ready and being claimed."""
        if self.queued_at is None or self.started_at is None:
            return None
        return max(0.0, (self.started_at - self.queued_at).total_seconds())


def claim(connection: BaseDatabaseWrapper, node_id: int, *, worker: str) -> Claim | None:
    """Claim one step by its id.

    Returns:
        None when the step is not ready: it waits for a dependency or a time, someone has it, or it is settled.
    """
    return _claimed(connection, sql.CLAIM, worker, [node_id])


def claim_next(connection: BaseDatabaseWrapper, queue: str, *, worker: str) -> Claim | None:
    """Claim the ready step of a queue that comes first by priority and id, over all runs."""
    return _claimed(connection, sql.CLAIM_NEXT, worker, [queue])


def claim_kept(connection: BaseDatabaseWrapper, kept: int, queue: str, priority: int, *, worker: str) -> Claim | None:
    """Claim a step that this transaction has just made ready, or a ready one with a smaller priority."""
    return _claimed(connection, sql.CLAIM_KEPT, worker, [queue, priority, kept])


def ready_due(connection: BaseDatabaseWrapper, queue: str) -> int:
    """Make the steps of a queue whose time has come ready.

    Returns:
        How many there were.
    """
    return sql.execute(connection, sql.READY_DUE, [queue])


def is_ready(connection: BaseDatabaseWrapper, queue: str) -> bool:
    """True when a step of the queue is ready."""
    return bool(sql.fetch(connection, sql.IS_READY, [queue]))


def seconds_until_due(connection: BaseDatabaseWrapper, queue: str) -> float | None:
    """How long until the next step of the queue is due, by the database's clock; None where none waits for a time."""
    rows = sql.fetch(connection, sql.NEXT_DUE, [queue])
    return float(rows[0][0]) if rows else None


def worker_name() -> str:
    """This process, as the rows name it: host and process id."""
    return _worker_name(os.getpid())


@lru_cache(maxsize=8)
def _worker_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"


def as_claim(row: Sequence[Any]) -> Claim:
    """A claim from the columns that the statements of a claim return."""
    (
        node_id, run_id, workflow_name, name, step, queue, priority, attempt, max_attempts, fence, version, n_deps,
        n_out, timeout, args, refs, options, attempt_log, queued_at, started_at, worker, trace,
        n_settled_deps,
    ) = row  # fmt: skip
    return Claim(
        node_id=node_id,
        run_id=sql.as_uuid(run_id),
        workflow_name=workflow_name,
        name=name,
        step=step,
        queue=queue,
        priority=priority,
        attempt=attempt,
        max_attempts=max_attempts,
        fence=fence,
        version=version,
        n_deps=n_deps,
        n_out=n_out,
        timeout=timeout,
        args=args,
        refs=refs,
        options=options,
        attempt_log=attempt_log,
        queued_at=sql.as_datetime(queued_at),
        started_at=sql.as_datetime(started_at),
        worker=worker,
        trace=trace,
        n_settled_deps=n_settled_deps,
    )


def _claimed(connection: BaseDatabaseWrapper, statement: sql.Statement, worker: str, choice: list[Any]) -> Claim | None:
    rows = sql.fetch(connection, statement, [worker, get_settings().lease_seconds, *choice])
    return as_claim(rows[0]) if rows else None
