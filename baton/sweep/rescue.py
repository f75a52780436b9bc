"""Rescue: steps whose worker vanished or whose time has come, and hooks that were left over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2, tracing
from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.cascade import Fall
from baton.engine.finish import finish
from baton.engine.gate import Claim, as_claim
from baton.engine.hooks import call_hooks
from baton.engine.ledger import open_question
from baton.engine.settle import Verdict, settle
from baton.engine.transitions import announce
from baton.states import AttemptOutcome, StepState
from baton.sweep.tolerance import Tolerance
from baton.telemetry import send, steps_rescued, timestamp

logger = logging.getLogger("baton.sweep")

BATCH = 200

_COUNT_LOST = sql.Statement("""
    SELECT count(*) FROM baton_workflownode WHERE lease_until IS NOT NULL AND lease_until <= <asof>
""")
"""Steps whose lease ran out. Index: baton_node_lease."""

_DUE_QUEUE = sql.Statement("""
    SELECT queue FROM baton_workflownode WHERE due_at IS NOT NULL AND queue > %s ORDER BY queue LIMIT 1
""")
"""The next queue in which something waits for a time. Index: baton_node_due."""

_COUNT_DUE = sql.Statement("""
    SELECT count(*) FROM baton_workflownode WHERE queue = %s AND due_at IS NOT NULL AND due_at <= <asof>
""")
"""Steps of a queue whose time has come. Index: baton_node_due."""

_HOOKS = sql.Statement("""
    SELECT id, hook_due, error FROM baton_workflownode WHERE hook_due > '' AND changed_at < <later> ORDER BY id LIMIT %s
""")
_COUNT_HOOKS = sql.Statement("""
    SELECT count(*) FROM baton_workflownode WHERE hook_due > '' AND changed_at < <later>
""")


def rescue_lost(connection: BaseDatabaseWrapper) -> Iterator[int]:
    """Take executing steps from workers whose lease ran out: that counts as an attempt.

    They are retried while attempts remain, whatever ``retry_on`` says: the step is not to blame for its worker.

    Yields:
        How many were taken, batch by batch.
    """
    tolerance, is_full = Tolerance(), True
    while is_full:
        rows = sql.fetch(connection, sql.EXPIRED, [BATCH])
        rescued: list[int] = []
        for row in rows:
            with tolerance.over(f"step {row[0]}", node_id=row[0]):
                if _rescue(connection, as_claim(row[:-1]), now=sql.as_datetime(row[-1])):
                    rescued.append(row[0])
        if rescued:
            send(steps_rescued, timestamp=timestamp(), count=len(rescued), node_ids=rescued)
        yield len(rescued)
        is_full = len(rows) == BATCH and bool(rescued)
    tolerance.raise_first()


def count_lost(connection: BaseDatabaseWrapper) -> int:
    """How many leases have run out."""
    return int(sql.fetch(connection, _COUNT_LOST, [])[0][0])


def ready_all_due(connection: BaseDatabaseWrapper) -> Iterator[int]:
    """Make what is due ready in every queue, and ring for it where the broker could not.

    Yields:
        How many steps became ready, batch by batch.
    """
    for queue in queues_that_wait(connection):
        count = -1
        while count:
            with transaction.atomic(using=connection.alias):
                count = sql.execute(connection, sql.READY_DUE, [queue])
                q2.ring({queue: count}, using=connection.alias)
            yield count


def count_due(connection: BaseDatabaseWrapper) -> int:
    """How many steps are due."""
    queues = queues_that_wait(connection)
    return sum(int(sql.fetch(connection, _COUNT_DUE, [queue])[0][0]) for queue in queues)


def queues_that_wait(connection: BaseDatabaseWrapper) -> list[str]:
    """The queues in which something waits for a time."""
    return probed(connection, _DUE_QUEUE)


def probed(connection: BaseDatabaseWrapper, next_queue: sql.Statement) -> list[str]:
    """The queues that a statement finds, each after the one before: one probe of its index for each."""
    queues: list[str] = []
    while rows := sql.fetch(connection, next_queue, [queues[-1] if queues else ""]):
        queues.append(rows[0][0])
    return queues


def call_left_over_hooks(connection: BaseDatabaseWrapper) -> Iterator[int]:
    """Call hooks whose worker died before it could.

    Yields:
        How many there were, batch by batch.
    """
    is_full = True
    while is_full:
        rows = sql.fetch(connection, _HOOKS, [-get_settings().lease_seconds, BATCH])
        call_hooks(connection, [Fall(node_id=node_id, reason=error or "", hook=hook) for node_id, hook, error in rows])
        yield len(rows)
        is_full = len(rows) == BATCH


def count_left_over_hooks(connection: BaseDatabaseWrapper) -> int:
    """How many hooks are left over."""
    return int(sql.fetch(connection, _COUNT_HOOKS, [-get_settings().lease_seconds])[0][0])


def _rescue(connection: BaseDatabaseWrapper, claim: Claim, *, now: datetime | None) -> bool:
    verdict = _verdict_on_lost(connection, claim, now=now)
    settled = settle(connection, claim, verdict, take_next=False, expired_only=True)
    if settled.is_stale:
        return False
    tracing.lost(claim, verdict)
    # Not louder: whoever wants to be told attaches the default logger, or a receiver of his own.
    logger.info(
        "Step %r of run %s was taken from %s, whose lease ran out.",
        claim.name,
        claim.run_id,
        claim.worker,
        extra={**claim.about, "worker": claim.worker},
    )
    announce(settled.transitions)
    call_hooks(connection, settled.falls)
    if settled.asks_finish:
        finish(connection, claim.run_id, waits_briefly=True)
    return True


def _verdict_on_lost(connection: BaseDatabaseWrapper, claim: Claim, *, now: datetime | None) -> Verdict:
    error = f"worker {claim.worker} vanished: its lease ran out"
    ran = (now - claim.started_at).total_seconds() if now and claim.started_at else 0.0
    has_attempts = claim.attempt < claim.max_attempts
    # Before a step is given up, a person is asked about its last call, where the step wants that.
    hold = None if has_attempts else open_question(connection, claim.node_id, claim.fence)
    put_off = StepState.RETRYABLE if hold is None else StepState.SNOOZED
    return Verdict(
        state=put_off if has_attempts or hold is not None else StepState.DISCARDED,
        outcome=AttemptOutcome.WORKER_LOST,
        error=error,
        seconds=max(0.0, ran),
        hold=hold,
    )
