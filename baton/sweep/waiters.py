"""Waiters for which no settle will ever come: readied, or cancelled with everything behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2
from baton.engine import statements as sql
from baton.engine.cascade import Fall, cascade, has_hook
from baton.engine.finish import finish
from baton.engine.hooks import call_hooks
from baton.engine.transitions import Transition, announce
from baton.models import SweepLease
from baton.states import FAILED, SETTLED, StepState
from baton.sweep.tolerance import Tolerance

PAGE = 1000

_STUCK_WAITERS = sql.Statement("""
    SELECT n.id FROM (
        SELECT w.id, w.ignore_cancelled, w.ignore_discarded FROM baton_workflownode w
        WHERE w.remaining > 0 AND w.settled_at IS NULL AND w.id > %s ORDER BY w.id LIMIT %s) n
    WHERE COALESCE((
        SELECT max(CASE
            WHEN d.id IS NULL THEN 2
            WHEN d.state = 'cancelled' AND NOT n.ignore_cancelled THEN 2
            WHEN d.state = 'discarded' AND NOT n.ignore_discarded THEN 2
            WHEN d.settled_at IS NULL THEN 1
            ELSE 0 END)
        FROM baton_workflowedge e LEFT JOIN baton_workflownode d ON d.id = e.dependency_id
        WHERE e.node_id = n.id), 0) <> 1
    ORDER BY n.id
""")
"""Waiters that no settle will ever wake, among the next so many after a cursor. Index: baton_node_waiting."""

_LAST_OF_PAGE = sql.Statement("""
    SELECT max(id) FROM (
        SELECT id FROM baton_workflownode WHERE remaining > 0 AND settled_at IS NULL AND id > %s
        ORDER BY id LIMIT %s) page
""")

_LOCK_WAITER = sql.Statement("""
    SELECT n.run_id, (SELECT r.name FROM baton_workflowrun r WHERE r.id = n.run_id), n.step, n.options, n.queue,
        n.ignore_cancelled, n.ignore_discarded
    FROM baton_workflownode n WHERE n.id = %s AND n.state = 'pending' <lock>
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
    RETURNING version, name, attempt
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiter:
    """A waiter as it was found under its lock."""

    id: int
    run_id: UUID
    workflow_name: str
    step: str
    options: str
    queue: str
    ignores: frozenset[str]


def mend_waiters(connection: BaseDatabaseWrapper) -> Iterator[int]:
    """Settle or ready pending steps that no settle will ever wake, a page from where the last pass stood.

    Where a page had any, the next one is looked at in the same pass.

    Yields:
        How many were mended, page by page.
    """
    tolerance, mended = Tolerance(), -1
    while mended:
        cursor = _cursor(connection)
        stuck = _stuck_after(connection, cursor)
        last = sql.fetch(connection, _LAST_OF_PAGE, [cursor, PAGE])[0][0] or 0
        if last != cursor:
            SweepLease.objects.using(connection.alias).filter(pk=1).update(cursor=last)
        mended = 0
        for node_id in stuck:
            with tolerance.over(f"step {node_id}, which waits", node_id=node_id):
                mended += mend_waiter(connection, node_id)
        yield mended
    tolerance.raise_first()


def count_stuck(connection: BaseDatabaseWrapper) -> int:
    """How many waiters of the page that comes next would be mended."""
    return len(_stuck_after(connection, _cursor(connection)))


def mend_waiter(connection: BaseDatabaseWrapper, node_id: int) -> bool:
    """Do what a settle should have done for one waiter.

    Returns:
        Whether there was anything to do.
    """
    with transaction.atomic(using=connection.alias):
        sql.wait_briefly(connection)
        # Whoever could change the answer locks the waiter too: settles and cascades lock what hangs on them.
        rows = sql.fetch(connection, _LOCK_WAITER, [node_id])
        if not rows:
            return False
        waiter = _waiter(node_id, rows[0])
        dependencies = sql.fetch(connection, _DEPENDENCIES, [node_id])
        blame = _why_unreachable(waiter, dependencies)
        if blame is None:
            return _ready(connection, waiter, [state for _, _, state in dependencies])
    # The cascade takes its locks in one ascending pass of its own, and looks again.
    return _cancel(connection, waiter, *blame)


def _cursor(connection: BaseDatabaseWrapper) -> int:
    """Where the last page ended."""
    return SweepLease.objects.using(connection.alias).filter(pk=1).values_list("cursor", flat=True).first() or 0


def _stuck_after(connection: BaseDatabaseWrapper, cursor: int) -> list[int]:
    return [node_id for (node_id,) in sql.fetch(connection, _STUCK_WAITERS, [cursor, PAGE])]


def _waiter(node_id: int, row: tuple[Any, ...]) -> _Waiter:
    run_id, workflow_name, step, options, queue, cancelled, discarded = row
    ignores = {state for state, is_ignored in (("cancelled", cancelled), ("discarded", discarded)) if is_ignored}
    return _Waiter(
        id=node_id,
        run_id=sql.as_uuid(run_id),
        workflow_name=workflow_name,
        step=step,
        options=options,
        queue=queue,
        ignores=frozenset(ignores),
    )


def _why_unreachable(waiter: _Waiter, dependencies: list[tuple[Any, ...]]) -> tuple[str, str] | None:
    """Why a waiter can never start, and the state of the dependency that is to blame."""
    for dependency_id, name, state in dependencies:
        if state is None:
            return f"the row of dependency {dependency_id} is gone", "cancelled"
        if state in FAILED and state not in waiter.ignores:
            return f"dependency {name!r} was {state}", state
    return None


def _ready(connection: BaseDatabaseWrapper, waiter: _Waiter, states: list[str]) -> bool:
    if any(state not in SETTLED for state in states):
        return False
    sql.execute(connection, _READY_WAITER, [waiter.id])
    q2.ring({waiter.queue: 1}, using=connection.alias)
    return True


def _cancel(connection: BaseDatabaseWrapper, waiter: _Waiter, reason: str, cause: str) -> bool:
    own: list[Transition] = []
    hook = cause if has_hook(waiter.step, cause, options=waiter.options) else ""

    def write() -> int | None:
        rows = sql.fetch(connection, _CANCEL_WAITER, [reason, hook, waiter.id])
        own.extend(_transition(waiter, reason, row) for row in rows)
        return rows[0][0] if rows else None

    with transaction.atomic(using=connection.alias):
        sql.wait_briefly(connection)
        fall = cascade(
            connection,
            waiter.id,
            state=StepState.CANCELLED,
            is_ours=lambda state, _fence: state == StepState.PENDING,
            workflow=(waiter.run_id, waiter.workflow_name),
            write=write,
        )
    if fall is None:
        return False
    announce([*own, *fall.transitions])
    call_hooks(connection, [Fall(node_id=waiter.id, reason=reason, hook=hook), *fall.falls])
    finish(connection, waiter.run_id, waits_briefly=True)
    return True


def _transition(waiter: _Waiter, reason: str, row: tuple[Any, ...]) -> Transition:
    version, name, attempt = row
    return Transition(
        run_id=waiter.run_id,
        workflow_name=waiter.workflow_name,
        node_id=waiter.id,
        step_name=name,
        step=waiter.step,
        state=StepState.CANCELLED,
        attempt=attempt,
        version=version,
        error=reason,
    )
