"""Insert a run: the run, its steps in topological order and its edges, in one transaction that rings for the roots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2, tracing
from baton.engine import statements as sql
from baton.exceptions import ForeignTransactionError, WorkflowExistsError
from baton.models import WorkflowRun
from baton.models.fields import as_units
from baton.states import StepState
from baton.telemetry import send, timestamp, workflow_inserted
from baton.values import decode

_COPY_FROM_ROWS = 60
"""From here on PostgreSQL's COPY is quicker than one INSERT with many rows."""
_TRIES = 10

_NODE_COLUMNS = (
    "id", "run_id", "name", "step", "state", "max_attempts", "queue", "priority", "remaining", "n_deps", "n_out",
    "ignore_cancelled", "ignore_discarded", "args", "refs", "options", "timeout", "not_before", "due_at", "queued_at",
    "changed_at", "fan_group", "fan_index",
)  # fmt: skip
_EDGE_COLUMNS = ("node_id", "dependency_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step about to become a node; texts are JSON."""

    name: str
    step: str
    deps: Sequence[str]
    queue: str
    priority: int
    max_attempts: int
    timeout: float | None
    ignore_cancelled: bool
    ignore_discarded: bool
    args: str
    refs: str
    options: str
    not_before: datetime | None
    fan_group: str = ""
    fan_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A valid workflow, its steps in topological order."""

    id: UUID
    name: str
    key: str | None
    meta: str
    debug: bool
    ignore_cancelled: bool
    ignore_discarded: bool
    budget: Decimal | None = None
    allow_unpriced: bool = False
    trace: str = ""
    steps: Sequence[PlannedStep] = field(default_factory=list)


def insert(plan: Plan, *, using: str, standalone: bool = False) -> WorkflowRun:
    """Write a run and everything of it, and ring for the steps that wait for nothing.

    Args:
        plan: What to insert.
        using: The alias of Baton's database.
        standalone: Allow a surrounding transaction on another database, which this one then does not depend on.

    Returns:
        The run; where an unsettled one holds the key, that one.

    Raises:
        WorkflowExistsError: The id is taken.
        ForeignTransactionError: A transaction is open on another database, and none on Baton's.
    """
    with tracing.inserting(plan) as span:
        run = _insert(replace(plan, trace=span.trace) if span.trace else plan, using=using, standalone=standalone)
        span.inserted(run)
    return run


def _insert(plan: Plan, *, using: str, standalone: bool) -> WorkflowRun:
    connection = connections[using]
    if not standalone:
        _refuse_foreign_transaction(connection)
    with transaction.atomic(using=using):
        for _ in range(_TRIES):
            inserted_at = _insert_run(connection, plan)
            if inserted_at is not None:
                break
            holder = _holder_of_key(plan, using)
            if holder is not None:
                return holder
        else:
            raise WorkflowExistsError(plan.id)
        _insert_steps(connection, plan)
        transaction.on_commit(
            lambda: send(
                workflow_inserted,
                workflow_id=str(plan.id),
                workflow_name=plan.name,
                count=len(plan.steps),
                timestamp=timestamp(inserted_at),
            ),
            using=using,
            robust=True,
        )
    return _run(plan, inserted_at, using)


def _refuse_foreign_transaction(connection: BaseDatabaseWrapper) -> None:
    if connection.in_atomic_block:
        return
    for other in connections.all(initialized_only=True):
        if other.in_atomic_block:
            raise ForeignTransactionError(other.alias, connection.alias)


def _insert_run(connection: BaseDatabaseWrapper, plan: Plan) -> datetime | None:
    rows = sql.fetch(
        connection,
        sql.INSERT_RUN,
        [
            sql.uuid_param(connection, plan.id),
            plan.name,
            plan.key,
            plan.meta,
            plan.debug,
            plan.ignore_cancelled,
            plan.ignore_discarded,
            plan.trace,
            None if plan.budget is None else as_units(plan.budget),
            plan.allow_unpriced,
            sql.uuid_param(connection, plan.id),
        ],
    )
    return sql.as_datetime(rows[0][0]) if rows else None


def _holder_of_key(plan: Plan, using: str) -> WorkflowRun | None:
    """Who holds the key; None when it was let go in this moment, so that another try may succeed."""
    runs = WorkflowRun.objects.using(using)
    if plan.key is not None:
        holder = runs.running().filter(name=plan.name, key=plan.key).first()
        if holder is not None:
            return holder
    if runs.filter(pk=plan.id).exists():
        raise WorkflowExistsError(plan.id)
    return None


def _insert_steps(connection: BaseDatabaseWrapper, plan: Plan) -> None:
    ids, now = _take_ids(connection, len(plan.steps))
    node_ids = {step.name: node_id for step, node_id in zip(plan.steps, ids, strict=True)}
    n_out = Counter(dep for step in plan.steps for dep in step.deps)
    bells: Counter[str] = Counter()
    due: list[tuple[str, float]] = []
    rows = []
    for step in plan.steps:
        state, due_at, queued_at = StepState.PENDING, None, None
        if not step.deps:
            if step.not_before is not None and step.not_before > now:
                state, due_at = StepState.SNOOZED, step.not_before
                due.append((step.queue, (step.not_before - now).total_seconds()))
            else:
                state, queued_at = StepState.AVAILABLE, now
                bells[step.queue] += 1
        rows.append((
            node_ids[step.name], sql.uuid_param(connection, plan.id), step.name, step.step, state.value,
            step.max_attempts, step.queue, step.priority, len(step.deps), len(step.deps), n_out[step.name],
            step.ignore_cancelled, step.ignore_discarded, step.args, step.refs, step.options, step.timeout,
            _time_param(connection, step.not_before), _time_param(connection, due_at),
            _time_param(connection, queued_at), _time_param(connection, now), step.fan_group, step.fan_index,
        ))  # fmt: skip
    _insert_rows(connection, "baton_workflownode", _NODE_COLUMNS, rows)
    edges = [(node_ids[step.name], node_ids[dep]) for step in plan.steps for dep in step.deps]
    if edges:
        _insert_rows(connection, "baton_workflowedge", _EDGE_COLUMNS, edges)
    q2.ring(bells, using=connection.alias)
    for queue, seconds in due:
        q2.ring_at(queue, seconds, using=connection.alias)


def _take_ids(connection: BaseDatabaseWrapper, count: int) -> tuple[list[int], datetime]:
    """Take ids for the steps in topological order, since every lock is taken in the order of ids; and the time."""
    if connection.vendor == "postgresql":
        rows = sql.fetch(connection, sql.TAKE_IDS, [count])
        ids = sorted(rows[0][0])
    else:
        # The transaction is the only writer, so nobody takes these in between.
        rows = sql.fetch(connection, sql.LAST_ID, [])
        ids = list(range(rows[0][0] + 1, rows[0][0] + 1 + count))
    now = sql.as_datetime(rows[0][1])
    return ids, now or datetime.now(UTC)


def _insert_rows(
    connection: BaseDatabaseWrapper, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    names = ", ".join(columns)
    places = f"({', '.join(['%s'] * len(columns))})"
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql":
            cursor.executemany(f"INSERT INTO {table} ({names}) VALUES {places}", rows)  # noqa: S608 - names are ours
        elif len(rows) < _COPY_FROM_ROWS:
            values = [value for row in rows for value in row]
            cursor.execute(f"INSERT INTO {table} ({names}) VALUES {', '.join([places] * len(rows))}", values)  # noqa: S608
        else:
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)


def _time_param(connection: BaseDatabaseWrapper, moment: datetime | None) -> Any:
    return connection.ops.adapt_datetimefield_value(moment) if moment is not None else None


def _run(plan: Plan, inserted_at: datetime | None, using: str) -> WorkflowRun:
    run = WorkflowRun(
        id=plan.id,
        name=plan.name,
        key=plan.key,
        meta=decode(plan.meta),
        debug=plan.debug,
        ignore_cancelled=plan.ignore_cancelled,
        ignore_discarded=plan.ignore_discarded,
        budget=plan.budget,
        allow_unpriced=plan.allow_unpriced,
        trace=plan.trace,
        inserted_at=inserted_at or datetime.now(UTC),
    )
    run._state.adding, run._state.db = False, using  # noqa: SLF001 - it is in the database
    return run
