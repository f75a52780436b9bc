"""Rescue: steps whose worker vanished or whose time has come, and hooks that were left over."""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2
from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.cascade import Fall
from baton.engine.finish import finish
from baton.engine.gate import Claim, as_claim
from baton.engine.hooks import call_hooks
from baton.engine.settle import Verdict, settle
from baton.engine.transitions import announce
from baton.states import AttemptOutcome, StepState

logger = logging.getLogger("baton.sweep")

BATCH = 1000

_DUE_QUEUE = sql.Statement("""
    SELECT queue FROM baton_workflownode WHERE due_at IS NOT NULL AND queue > %s ORDER BY queue LIMIT 1
""")
"""The next queue in which something waits for a time. Index: baton_node_due."""

_HOOKS = sql.Statement("""
    SELECT id, hook_due, error FROM baton_workflownode WHERE hook_due > '' AND changed_at < <later> ORDER BY id LIMIT %s
""")


def rescue_lost() -> int:
    """Take executing steps from workers whose lease ran out: that counts as an attempt.

    They are retried while attempts remain, whatever ``retry_on`` says: the step is not to blame for its worker.
    """
    connection = _database()
    rescued = 0
    for row in sql.fetch(connection, sql.EXPIRED, [BATCH]):
        claim = as_claim(row[:-1])
        verdict = _verdict_on_lost(claim, now=sql.as_datetime(row[-1]))
        settled = settle(connection, claim, verdict, take_next=False, expired_only=True)
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


def call_left_over_hooks() -> int:
    """Call hooks whose worker died before it could."""
    connection = _database()
    rows = sql.fetch(connection, _HOOKS, [-get_settings().lease_seconds, BATCH])
    call_hooks(connection, [Fall(node_id=node_id, reason=error or "", hook=hook) for node_id, hook, error in rows])
    return len(rows)


def _verdict_on_lost(claim: Claim, *, now: datetime | None) -> Verdict:
    error = f"worker {claim.worker} vanished: its lease ran out"
    ran = (now - claim.started_at).total_seconds() if now and claim.started_at else 0.0
    has_attempts = claim.attempt < claim.max_attempts
    return Verdict(
        state=StepState.RETRYABLE if has_attempts else StepState.DISCARDED,
        outcome=AttemptOutcome.WORKER_LOST,
        error=error,
        seconds=max(0.0, ran),
    )


def _database() -> BaseDatabaseWrapper:
    return connections[get_settings().database]
