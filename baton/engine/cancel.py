"""Cancel a run: everything unsettled is settled at once, executing steps too; the fence drops what they return."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.errors import storable_text
from baton.engine.finish import finish, finish_within
from baton.engine.settle import extended_log
from baton.engine.transitions import Transition, announce
from baton.models import WorkflowRun
from baton.states import AttemptOutcome, StepState


def cancel_run(run_id: UUID, *, reason: str = "") -> bool:
    """Settle what is left of a run as cancelled, and the run with it.

    Args:
        run_id: The run.
        reason: Kept with the run and as the error of each step.

    Returns:
        Whether at least one step was cancelled. Where none was left, the last settle decides how the run ended.
    """
    connection = connections[get_settings().database]
    key = sql.uuid_param(connection, run_id)
    reason = storable_text(str(reason or ""))
    message = reason or "the run was cancelled"
    with transaction.atomic(using=connection.alias):
        unsettled = sql.fetch(connection, sql.LOCK_UNSETTLED, [key])
        if unsettled:
            _log_executions(connection, unsettled, message)
            sql.execute(connection, sql.CANCEL_UNSETTLED, [message, key])
            sql.execute(connection, sql.RELEASE_HOLDS, [key])
            sql.execute(connection, sql.CANCEL_RUN, [reason, key])
            name = WorkflowRun.objects.using(connection.alias).values_list("name", flat=True).get(pk=run_id)
            transitions = [_transition(row, run_id, name, message) for row in unsettled]
            transaction.on_commit(lambda: announce(transitions), using=connection.alias, robust=True)
            # Nothing can be unsettled now: we hold every step that was, so the ending may be noted in here.
            finish_within(connection, run_id)
    if not unsettled:
        finish(connection, run_id)
    return bool(unsettled)


def _log_executions(connection: BaseDatabaseWrapper, rows: list[tuple[Any, ...]], message: str) -> None:
    now = datetime.now(UTC)
    logs = []
    for node_id, _name, _step, state, _version, attempt, log, worker, queued_at, started_at in rows:
        if state != StepState.EXECUTING:
            continue
        started = sql.as_datetime(started_at) or now
        extended = extended_log(
            log,
            number=attempt,
            worker=worker,
            queued_at=sql.as_datetime(queued_at),
            started_at=started,
            seconds=max(0.0, (now - started).total_seconds()),
            outcome=AttemptOutcome.CANCELLED,
            error=message,
        )
        logs.append((extended, node_id))
    if logs:
        sql.execute_many(connection, sql.LOG_EXECUTION, logs)


def _transition(row: tuple[Any, ...], run_id: UUID, workflow_name: str, message: str) -> Transition:
    node_id, name, step, _state, version, attempt, *_ = row
    return Transition(
        run_id=run_id,
        workflow_name=workflow_name,
        node_id=node_id,
        step_name=name,
        step=step,
        state=StepState.CANCELLED,
        attempt=attempt,
        version=version + 1,
        error=message,
    )
