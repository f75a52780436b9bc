"""Finish: whoever finds nothing of a run unsettled notes its ending, once a round, and announces it.

The question is asked after the commit of the settle, in a new statement. Let two workers settle the last two steps,
visible at v1 and v2, and ask with snapshots s1 > v1 and s2 > v2. If the first misses the second's step then s1 < v2,
hence v1 < s1 < v2 < s2, and the second sees both: at least one inserts, and the unique constraint lets only one.
Asked inside the settling transactions neither would see the other's step, and nobody would finish.

Only a settle that leaves no unsettled dependent asks: whoever settles such a dependent asks again.
"""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import tracing
from baton.conf import get_settings
from baton.engine import statements as sql
from baton.models import Completion
from baton.states import RunState, WorkflowOutcome
from baton.telemetry import ANNOUNCED_FAILURES, is_heard, send, timestamp, workflow_failed, workflow_finished
from baton.values import encode

_announcing: set[int] = set()
"""The completions that this process is announcing just now."""


def finish(connection: BaseDatabaseWrapper, run_id: UUID, *, waits_briefly: bool = False) -> bool:
    """Note and announce the ending of a run if nothing of it is unsettled.

    Args:
        connection: To Baton's database.
        run_id: The run.
        waits_briefly: Raise where somebody keeps a lock on the run (the sweep).

    Returns:
        Whether this call was the one that ended it.
    """
    ending = _note_ending(connection, run_id, waits_briefly=waits_briefly)
    if ending is not None:
        announce_ending(connection, **ending)
    return ending is not None


def finish_within(connection: BaseDatabaseWrapper, run_id: UUID) -> None:
    """The same inside a transaction that has itself settled all that was left, and announced when it commits."""
    ending = _note_ending(connection, run_id)
    if ending is not None:
        transaction.on_commit(lambda: announce_ending(connection, **ending), using=connection.alias, robust=True)


def announce_ending(
    connection: BaseDatabaseWrapper,
    *,
    completion_id: int,
    run_id: UUID,
    workflow_name: str,
    outcome: str,
    failed_steps: list[str],
    total_count: int,
    known_at: float,
) -> None:
    """Send the finished signal and note that it was sent; twice only where the sender dies in between.

    Args:
        connection: To Baton's database.
        completion_id: The completion.
        run_id: The run.
        workflow_name: Its label.
        outcome: How it ended.
        failed_steps: All that was not completed.
        total_count: How many steps there are.
        known_at: When, by the monotonic clock, the ending was known to be unannounced.
    """
    if time.monotonic() - known_at > get_settings().lease_seconds / 2 and not _is_unannounced(
        connection, completion_id
    ):
        # This process stood still, was taken for dead, and a sweep has announced it meanwhile.
        return
    tracing.count_ending(workflow_name, outcome)
    if not is_heard(workflow_finished, workflow_failed):
        return
    payload: dict[str, Any] = {
        "workflow_id": str(run_id),
        "workflow_name": workflow_name,
        "outcome": outcome,
        "failed_steps": failed_steps[:ANNOUNCED_FAILURES],
        "timestamp": timestamp(),
        "failed_count": len(failed_steps),
        "total_count": total_count,
    }
    _announcing.add(completion_id)
    try:
        send(workflow_finished, **payload)
        if outcome == WorkflowOutcome.FAILED:
            send(workflow_failed, **payload)
        sql.execute(connection, sql.ANNOUNCED, [completion_id])
    finally:
        _announcing.discard(completion_id)


def announce_noted(connection: BaseDatabaseWrapper, completion_id: int) -> bool:
    """Announce an ending whose announcer seems to have died.

    Returns:
        Whether it was still unannounced.
    """
    known_at = time.monotonic()
    noted = Completion.objects.using(connection.alias).select_related("run")
    ending = noted.filter(pk=completion_id, announced_at__isnull=True).first()
    if ending is None:
        return False
    announce_ending(
        connection,
        completion_id=ending.pk,
        run_id=ending.run_id,
        workflow_name=ending.run.name,
        outcome=ending.outcome,
        failed_steps=ending.failed_steps,
        total_count=ending.total_count,
        known_at=known_at,
    )
    return True


def is_announcing(completion_id: int) -> bool:
    """True while this process sends the signals of an ending, whose receivers may be who asks."""
    return completion_id in _announcing


def _note_ending(
    connection: BaseDatabaseWrapper, run_id: UUID, *, waits_briefly: bool = False
) -> dict[str, Any] | None:
    key = sql.uuid_param(connection, run_id)
    rows = sql.fetch(connection, sql.ENDING, [key])
    if not rows or rows[0][0] != RunState.RUNNING:
        return None
    _state, workflow_name, round_, was_cancelled, total, has_failures = rows[0]
    failures = sql.fetch(connection, sql.FAILED_STEPS, [key]) if has_failures else []
    outcome = _outcome(was_cancelled=bool(was_cancelled), failed_sinks=any(not n_out for _, n_out in failures))
    failed_steps = [name for name, _ in failures]
    # Noted as announced at once where nobody in this process would hear it.
    unheard = not is_heard(workflow_finished, workflow_failed)
    values = [key, round_, outcome, encode(failed_steps), len(failed_steps), total, not unheard]
    known_at = time.monotonic()
    with transaction.atomic(using=connection.alias):
        if waits_briefly:
            sql.wait_briefly(connection)
        inserted = sql.fetch(connection, sql.COMPLETE, values)
        if not inserted:
            return None
        sql.execute(connection, sql.END_RUN, [outcome, key])
    return {
        "completion_id": inserted[0][0],
        "run_id": run_id,
        "workflow_name": workflow_name,
        "outcome": outcome,
        "failed_steps": failed_steps,
        "total_count": total,
        "known_at": known_at,
    }


def _is_unannounced(connection: BaseDatabaseWrapper, completion_id: int) -> bool:
    return bool(sql.fetch(connection, sql.IS_UNANNOUNCED, [completion_id]))


def _outcome(*, was_cancelled: bool, failed_sinks: bool) -> str:
    if was_cancelled:
        return WorkflowOutcome.CANCELLED.value
    return WorkflowOutcome.FAILED.value if failed_sinks else WorkflowOutcome.COMPLETED.value
