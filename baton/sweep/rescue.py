"""Rescue: steps whose worker vanished, whose time has come, or for which nothing would happen any more."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2
from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.cascade import Fall, cascade, has_hook
from baton.engine.finish import finish
from baton.engine.gate import Claim
from baton.engine.hooks import call_hooks
from baton.engine.settle import Verdict, settle
from baton.engine.transitions import Transition, announce
from baton.models import SweepLease, WorkflowNode
from baton.states import AttemptOutcome, StepState

logger = logging.getLogger("baton.sweep")

BATCH = 1000

_EXPIRED = sql.Statement("""
    SELECT n.id, n.run_id, r.name, n.name, n.step, n.queue, n.priority, n.attempt, n.max_attempts, n.fence, n.version,
        n.n_deps, n.n_out, n.timeout, n.attempt_log, n.queued_at, n.started_at, n.worker, <now>
    FROM baton_workflownode n JOIN baton_workflowrun r ON r.id = n.run_id
    WHERE n.state = 'executing' AND n.lease_until <= <asof>
    ORDER BY n.lease_until LIMIT %s
""")
"""Leases that ran out. Index: baton_node_lease."""

_DUE_QUEUE = sql.Statement("""
    SELECT queue FROM baton_workflownode WHERE due_at IS NOT NULL AND queue > %s ORDER BY queue LIMIT 1
""")
"""The next queue in which something waits for a time. Index: baton_node_due."""

_STUCK_WAITERS = sql.Statement("""
    SELECT n.id FROM (
        SELECT w.id FROM baton_workflownode w
        WHERE w.state = 'pending' AND w.id > %s ORDER BY w.id LIMIT %s) n
    WHERE EXISTS (
            SELECT 1 FROM baton_workflowedge e LEFT JOIN baton_workflownode d ON d.id = e.dependency_id
            WHERE e.node_id = n.id AND d.id IS NULL)
        OR NOT EXISTS (
            SELECT 1 FROM baton_workflowedge e JOIN baton_workflownode d ON d.id = e.dependency_id
            WHERE e.node_id = n.id AND d.settled_at IS NULL)
        OR EXISTS (
            SELECT 1 FROM baton_workflowedge e
                JOIN baton_workflownode d ON d.id = e.dependency_id JOIN baton_workflownode me ON me.id = n.id
            WHERE e.node_id = n.id AND ((d.state = 'cancelled' AND NOT me.ignore_cancelled)
                OR (d.state = 'discarded' AND NOT me.ignore_discarded)))
    ORDER BY n.id
""")
"""Waiters that no settle will ever wake, among the next so many after a cursor. Index: baton_node_pending."""

_LAST_OF_PAGE = sql.Statement("""
    SELECT max(id) FROM (
        SELECT id FROM baton_workflownode WHERE state = 'pending' AND id > %s ORDER BY id LIMIT %s) page
""")

_LOCK_WAITER = sql.Statement("""
    SELECT n.state, n.run_id, (SELECT r.name FROM baton_workflowrun r WHERE r.id = n.run_id), n.ignore_cancelled,
        n.ignore_discarded, n.remaining, n.queue
    FROM baton_workflownode n WHERE n.id = %s <lock>
""")

_DEPENDENCIES = sql.Statement("""
    SELECT e.dependency_id, d.name, d.state FROM baton_workflowedge e
        LEFT JOIN baton_workflownode d ON d.id = e.dependency_id
    WHERE e.node_id = %s ORDER BY e.dependency_id
""")

_READY_WAITER = sql.Statement("""
    UPDATE baton_workflownode
    SET remaining = 0, queued_at = <now>, changed_at = <now>, version = version + 1,
        state = CASE WHEN not_before > <asof> THEN 'snoozed' ELSE 'available' END,
        due_at = CASE WHEN not_before > <asof> THEN not_before ELSE NULL END
    WHERE id = %s AND state = 'pending'
""")

_CANCEL_WAITER = sql.Statement("""
    UPDATE baton_workflownode
    SET state = 'cancelled', error = %s, hook_due = %s, settled_at = <now>, changed_at = <now>, due_at = NULL,
        version = version + 1, fence = fence + 1
    WHERE id = %s AND state = 'pending'
    RETURNING version, name, step, attempt
""")

_HOOKS = sql.Statement("""
    SELECT id, hook_due, error FROM baton_workflownode WHERE hook_due > '' AND changed_at < <later> ORDER BY id LIMIT %s
""")


def rescue_lost() -> int:
    """Take executing steps from workers whose lease ran out: that counts as an attempt.

    They are retried while attempts remain, whatever ``retry_on`` says: the step is not to blame for its worker.
    """
    connection = _database()
    rescued = 0
    for row in sql.fetch(connection, _EXPIRED, [BATCH]):
        claim, seconds = _lost(row)
        settled = settle(connection, claim, _verdict_on_lost(claim, seconds), take_next=False, expired_only=True)
        if settled.is_stale:
            continue
        rescued += 1
        logger.warning(
            "Step %r of run %s was taken from %s, whose lease ran out.", claim.name, claim.run_id, claim.worker
        )
        announce(settled.transitions)
        call_hooks(connection, settled.falls)
        if settled.asks_finish:
            finish(connection, claim.run_id)
    return rescued


def ready_all_due() -> int:
    """Make what is due ready in every queue, and ring for it where the broker could not."""
    connection = _database()
    readied, queue = 0, ""
    while rows := sql.fetch(connection, _DUE_QUEUE, [queue]):
        queue = rows[0][0]
        with transaction.atomic(using=connection.alias):
            count = sql.execute(connection, sql.READY_DUE, [queue])
            q2.ring({queue: count}, using=connection.alias)
        readied += count
    return readied


def mend_waiters() -> int:
    """Settle or ready pending steps that no settle will ever wake, a page at a time from where the last pass stood."""
    connection = _database()
    lease = SweepLease.objects.using(connection.alias).filter(pk=1)
    cursor = lease.values_list("cursor", flat=True).first() or 0
    mended = sum(
        mend_waiter(connection, node_id) for (node_id,) in sql.fetch(connection, _STUCK_WAITERS, [cursor, BATCH])
    )
    last = sql.fetch(connection, _LAST_OF_PAGE, [cursor, BATCH])[0][0]
    if (last or 0) != cursor:
        lease.update(cursor=last or 0)
    return mended


def mend_waiter(connection: BaseDatabaseWrapper, node_id: int) -> bool:
    """Look at one waiter under its lock, and do what a settle should have done."""
    transitions: list[Transition] = []
    falls: list[Fall] = []
    with transaction.atomic(using=connection.alias):
        # Whoever could change the answer locks the waiter too: cascades and settles lock what hangs on them.
        rows = sql.fetch(connection, _LOCK_WAITER, [node_id])
        if not rows or rows[0][0] != StepState.PENDING:
            return False
        _state, run_id, workflow_name, ignore_cancelled, ignore_discarded, _remaining, queue = rows[0]
        ignored = {StepState.CANCELLED: ignore_cancelled, StepState.DISCARDED: ignore_discarded}
        dependencies = sql.fetch(connection, _DEPENDENCIES, [node_id])
        reason, cause = _why_unreachable(dependencies, ignored)
        if reason is None:
            if any(state not in _SETTLED for _, _, state in dependencies):
                return False
            sql.execute(connection, _READY_WAITER, [node_id])
            q2.ring({queue: 1}, using=connection.alias)
            return True
    workflow = (sql.as_uuid(run_id), workflow_name)
    with transaction.atomic(using=connection.alias):
        hook = _hook(connection, node_id, cause)
        fall = cascade(
            connection,
            node_id,
            state=StepState.CANCELLED,
            is_ours=lambda state, _fence: state == StepState.PENDING,
            workflow=workflow,
            write=lambda: _cancel_waiter(connection, node_id, reason, hook, workflow, transitions),
        )
        if fall is None:
            return False
        transitions += fall.transitions
        falls = [Fall(node_id=node_id, reason=reason, hook=hook), *fall.falls]
    announce(transitions)
    call_hooks(connection, falls)
    finish(connection, workflow[0])
    return True


def call_left_over_hooks() -> int:
    """Call hooks whose worker died before it could."""
    connection = _database()
    rows = sql.fetch(connection, _HOOKS, [-get_settings().lease_seconds, BATCH])
    call_hooks(connection, [Fall(node_id=node_id, reason=error or "", hook=hook) for node_id, hook, error in rows])
    return len(rows)


_SETTLED = frozenset({"completed", "discarded", "cancelled"})


def _why_unreachable(dependencies: list[tuple[Any, ...]], ignored: dict[StepState, bool]) -> tuple[str | None, str]:
    """Why a waiter can never start, and the state of the dependency that is to blame."""
    for dependency_id, name, state in dependencies:
        if state is None:
            return f"the row of dependency {dependency_id} is gone", "cancelled"
        if state in (StepState.CANCELLED, StepState.DISCARDED) and not ignored[StepState(state)]:
            return f"dependency {name!r} was {state}", state
    return None, ""


def _hook(connection: BaseDatabaseWrapper, node_id: int, cause: str) -> str:
    name = WorkflowNode.objects.using(connection.alias).values_list("step", flat=True).get(pk=node_id)
    return cause if has_hook(name, cause) else ""


def _cancel_waiter(
    connection: BaseDatabaseWrapper,
    node_id: int,
    reason: str,
    hook: str,
    workflow: tuple[Any, str],
    transitions: list[Transition],
) -> int | None:
    rows = sql.fetch(connection, _CANCEL_WAITER, [reason, hook, node_id])
    if not rows:
        return None
    version, name, step, attempt = rows[0]
    transitions.append(
        Transition(
            run_id=workflow[0],
            workflow_name=workflow[1],
            node_id=node_id,
            step_name=name,
            step=step,
            state=StepState.CANCELLED,
            attempt=attempt,
            version=version,
            error=reason,
        )
    )
    return int(version)


def _lost(row: tuple[Any, ...]) -> tuple[Claim, float]:
    (
        node_id, run_id, workflow_name, name, step, queue, priority, attempt, max_attempts, fence, version, n_deps, n_out,
        timeout, attempt_log, queued_at, started_at, worker, now,
    ) = row  # fmt: skip
    started = sql.as_datetime(started_at)
    seconds = ((sql.as_datetime(now) or datetime.now(UTC)) - started).total_seconds() if started else 0.0
    claim = Claim(
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
        args="{}",
        refs="[]",
        options="{}",
        attempt_log=attempt_log,
        queued_at=sql.as_datetime(queued_at),
        started_at=started,
        n_settled_deps=n_deps,
        worker=worker,
    )
    return claim, max(0.0, seconds)


def _verdict_on_lost(claim: Claim, seconds: float) -> Verdict:
    error = f"worker {claim.worker} vanished: its lease ran out"
    if claim.attempt >= claim.max_attempts:
        return Verdict(state=StepState.DISCARDED, outcome=AttemptOutcome.WORKER_LOST, error=error, seconds=seconds)
    return Verdict(
        state=StepState.RETRYABLE,
        outcome=AttemptOutcome.WORKER_LOST,
        error=error,
        delay=0.0,
        seconds=seconds,
    )


def _database() -> BaseDatabaseWrapper:
    return connections[get_settings().database]  # type: ignore[return-value]
