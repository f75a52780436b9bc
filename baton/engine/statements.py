"""The hot path's SQL, named: the same statements on every database, each with its reason and its index.

The words in angle brackets are the few that databases spell differently. ``<now>`` is the database's clock while the
row is written, after any wait for a lock; ``<asof>`` is fixed for a statement, so that an index can be asked for it;
``<later>`` takes one parameter, seconds from now; ``<before>`` seconds back from now, fixed like ``<asof>``; ``<ids>``,
``<run ids>`` and ``<names>`` take any number of them as one.

A statement that knows an id never asks besides for what is the predicate of a partial index: the planner, which thinks
that index tiny, would read all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper

from baton.conf import get_settings

_LOCK_NOT_AVAILABLE = "55P03"
_SQLITE_NOW = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"
_SPELLINGS = {
    "postgresql": {
        "<now>": "clock_timestamp()",
        "<asof>": "statement_timestamp()",
        "<later>": "clock_timestamp() + make_interval(secs => %s)",
        "<before>": "statement_timestamp() - make_interval(secs => %s)",
        "<lock>": "FOR UPDATE",
        "<skip locked>": "FOR UPDATE SKIP LOCKED",
        # An array is looked up by the primary key, whatever the planner guesses of a table it has no statistics of.
        "<in>": "= ANY (ARRAY(",
        "</in>": "))",
        "<ids>": "= ANY (CAST(%s AS bigint[]))",
        "<run ids>": "= ANY (CAST(%s AS uuid[]))",
        "<names>": "= ANY (CAST(%s AS varchar[]))",
        "<seconds until due>": "EXTRACT(EPOCH FROM due_at - clock_timestamp())",
    },
    # One writer at a time: a transaction that writes has every lock there is.
    "sqlite": {
        "<now>": _SQLITE_NOW,
        "<asof>": _SQLITE_NOW,
        "<later>": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', %s || ' seconds')",
        "<before>": "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', -%s || ' seconds')",
        "<lock>": "",
        "<skip locked>": "",
        "<in>": "IN (",
        "</in>": ")",
        "<ids>": "IN (SELECT value FROM json_each(%s))",
        "<run ids>": "IN (SELECT value FROM json_each(%s))",
        "<names>": "IN (SELECT value FROM json_each(%s))",
        "<seconds until due>": "(julianday(due_at) - julianday('now')) * 86400.0",
    },
}


@dataclass(slots=True, eq=False)
class Statement:
    """A statement of the hot path."""

    template: str
    _spelled: dict[str, str] = field(default_factory=dict)

    def sql(self, vendor: str) -> str:
        """The statement as this database spells it."""
        try:
            return self._spelled[vendor]
        except KeyError:
            text = self.template
            for word, spelling in _SPELLINGS[vendor].items():
                text = text.replace(word, spelling)
            return self._spelled.setdefault(vendor, text)


def fetch(connection: BaseDatabaseWrapper, statement: Statement, params: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Run a statement and return its rows."""
    with _run(connection, statement, params) as cursor:
        return list(cursor.fetchall())


def execute(connection: BaseDatabaseWrapper, statement: Statement, params: Sequence[Any]) -> int:
    """Run a statement and return how many rows it wrote."""
    with _run(connection, statement, params) as cursor:
        return int(cursor.rowcount)


def execute_many(connection: BaseDatabaseWrapper, statement: Statement, params: Iterable[Sequence[Any]]) -> None:
    """Run a statement once for each tuple of parameters."""
    with connection.cursor() as cursor:
        cursor.executemany(statement.sql(connection.vendor), list(params))


@contextmanager
def _run(connection: BaseDatabaseWrapper, statement: Statement, params: Sequence[Any]) -> Iterator[Any]:
    text = statement.sql(connection.vendor)
    prepared = _prepared_cursor(connection)
    if prepared is None:
        with connection.cursor() as cursor:
            cursor.execute(text, params)
            yield cursor
    else:
        with connection.wrap_database_errors, prepared as cursor:
            cursor.execute(text, params, prepare=True)
            yield cursor


def _prepared_cursor(connection: BaseDatabaseWrapper) -> Any:
    """A cursor whose statements the server plans once for each connection, which halves what they cost it and us.

    Django switches psycopg's preparing off, so this goes round Django's cursor; not where queries are counted or
    wrapped.

    Returns:
        The cursor, or None where Django's own is to be used.
    """
    is_watched = connection.queries_logged or connection.execute_wrappers
    if connection.vendor != "postgresql" or is_watched or not get_settings().prepared_statements:
        return None
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    connection.validate_no_broken_transaction()
    raw: Any = connection.connection
    if raw.prepare_threshold is None:
        # Any number: without one psycopg ignores that we ask for it.
        raw.prepare_threshold = 1_000_000
    return _psycopg_cursor()(raw)


@cache
def _psycopg_cursor() -> Any:
    import psycopg  # noqa: PLC0415 - only where PostgreSQL is used

    return psycopg.Cursor


def wait_briefly(connection: BaseDatabaseWrapper) -> None:
    """Let this transaction fail with ``OperationalError`` where it would wait long for a lock; see ``is_locked``."""
    if connection.vendor == "postgresql":
        fetch(connection, WAIT_BRIEFLY, [])


def is_locked(error: BaseException) -> bool:
    """True for what ``wait_briefly`` makes of a lock that somebody keeps."""
    return getattr(error.__cause__, "sqlstate", None) == _LOCK_NOT_AVAILABLE


def uuid_param(connection: BaseDatabaseWrapper, value: UUID) -> UUID | str:
    """A run's id as this database stores it."""
    return value if connection.features.has_native_uuid_field else value.hex


def ids_param(connection: BaseDatabaseWrapper, ids: Sequence[int]) -> Sequence[int] | str:
    """Any number of ids as one parameter, as ``<ids>`` takes it."""
    return ids if connection.vendor == "postgresql" else json.dumps(ids)


def as_uuid(value: Any) -> UUID:
    """A run's id as it came from a raw row."""
    return value if isinstance(value, UUID) else UUID(value)


def as_datetime(value: Any) -> datetime | None:
    """A time as it came from a raw row."""
    if value is None:
        return None
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# The claim ------------------------------------------------------------------------------------------------------

_CLAIM_COLUMNS = """
    id, run_id, (SELECT r.name FROM baton_workflowrun r WHERE r.id = run_id), name, step, queue, priority, attempt,
    max_attempts, fence, version, n_deps, n_out, timeout, args, refs, options, attempt_log, queued_at, started_at,
    worker, (SELECT r.trace FROM baton_workflowrun r WHERE r.id = run_id),
    CASE WHEN n_deps = 0 THEN 0 ELSE (
        SELECT count(*) FROM baton_workflowedge e WHERE e.node_id = baton_workflownode.id
            AND (SELECT d.settled_at FROM baton_workflownode d WHERE d.id = e.dependency_id) IS NOT NULL) END
"""
# The last column lets the gate see that every dependency is there and settled, whatever the counter says.

_CLAIM = f"""
    UPDATE baton_workflownode
    SET state = 'executing', attempt = attempt + 1, fence = fence + 1, version = version + 1, worker = %s,
        started_at = <now>, changed_at = <now>, lease_until = <later>, due_at = NULL,
        queued_at = COALESCE(queued_at, due_at, <now>)
    WHERE id = {{choice}}
    RETURNING {_CLAIM_COLUMNS}
"""

_HEAD = """
    SELECT id FROM baton_workflownode
    WHERE queue = %s AND state = 'available'{above}
    ORDER BY priority, id LIMIT 1 <skip locked>
"""

CLAIM_NEXT = Statement(_CLAIM.format(choice=f"({_HEAD.format(above='')})"))
"""Take the head of a queue, which is ready and locked once it is found. Index: baton_node_ready.

Parameters: worker, lease, queue.
"""

CLAIM_KEPT = Statement(_CLAIM.format(choice=f"COALESCE(({_HEAD.format(above=' AND priority < %s')}), %s)"))
"""Take a step that this transaction made ready, unless a more urgent one is ready.

Parameters: worker, lease, queue, priority, id.
"""

CLAIM = Statement(
    _CLAIM.format(
        choice="%s AND remaining = 0 AND state IN ('available', 'snoozed', 'retryable') "
        "AND (state = 'available' OR due_at <= <asof>)"
    )
)
"""Take one step by its id, if it is ready or due. Parameters: worker, lease, id."""

EXPIRED = Statement(f"""
    SELECT {_CLAIM_COLUMNS}, <now> FROM baton_workflownode
    WHERE lease_until IS NOT NULL AND lease_until <= <asof> ORDER BY lease_until LIMIT %s
""")
"""Steps whose lease ran out, as their worker claimed them. Index: baton_node_lease."""

READY_DUE = Statement("""
    UPDATE baton_workflownode
    SET state = 'available', due_at = NULL, queued_at = <now>, changed_at = <now>, version = version + 1
    WHERE id <in>
        SELECT id FROM baton_workflownode WHERE queue = %s AND due_at IS NOT NULL AND due_at <= <asof>
        ORDER BY due_at LIMIT 1000 <skip locked></in>
""")
"""Make what is due ready. It skips what others hold, so that it never waits for a lock out of order.

Index: baton_node_due. Parameters: queue.
"""

IS_READY = Statement("SELECT 1 FROM baton_workflownode WHERE queue = %s AND state = 'available' LIMIT 1")
"""Is anything ready? Index: baton_node_ready."""

NEXT_DUE = Statement("""
    SELECT <seconds until due> FROM baton_workflownode
    WHERE queue = %s AND due_at IS NOT NULL ORDER BY due_at LIMIT 1
""")
"""When is the next step due? Index: baton_node_due."""

# Settle ---------------------------------------------------------------------------------------------------------

LOCK_DEPENDENTS = Statement("""
    SELECT id, state, fence, remaining, queue, priority, COALESCE(not_before > <asof>, FALSE), not_before
    FROM baton_workflownode
    WHERE id <in>SELECT CAST(%s AS bigint) UNION ALL
        SELECT node_id FROM baton_workflowedge WHERE dependency_id = %s</in>
    ORDER BY id <lock>
""")
"""Lock a step and its dependents in one ascending pass: any other order deadlocks between wide layers.

No condition on the state: see the indexes of the node. Index: baton_edge_dependents. Parameters: id, id.
"""

SETTLE = Statement("""
    UPDATE baton_workflownode
    SET state = %s, has_result = %s, result_json = %s, error = %s, error_key = %s, attempt_log = %s, settled_at = <now>,
        changed_at = <now>, lease_until = NULL, due_at = NULL, hook_due = '', version = version + 1,
        progress = COALESCE(%s, progress)
    WHERE id = %s AND state = 'executing' AND fence = %s AND (NOT %s OR lease_until <= <asof>)
    RETURNING version
""")
"""Settle an executing step, if the fence is still ours and, where that is asked, the lease has run out."""

PUT_OFF = Statement("""
    UPDATE baton_workflownode
    SET state = %s, error = COALESCE(%s, error), attempt_log = %s, due_at = <later>, queued_at = NULL,
        changed_at = <now>, lease_until = NULL, version = version + 1, attempt = attempt - %s,
        progress = COALESCE(%s, progress)
    WHERE id = %s AND state = 'executing' AND fence = %s AND (NOT %s OR lease_until <= <asof>)
    RETURNING version
""")
"""Give an executing step a due time, if the fence is still ours; a snooze gives its attempt back."""

HOLD = Statement("""
    UPDATE baton_workflownode
    SET state = 'snoozed', attempt_log = %s, due_at = NULL, queued_at = NULL, changed_at = <now>, lease_until = NULL,
        version = version + 1, attempt = attempt - 1, progress = COALESCE(%s, progress)
    WHERE id = %s AND state = 'executing' AND fence = %s AND (NOT %s OR lease_until <= <asof>)
    RETURNING version
""")
"""Put an executing step off for no time, if the fence is still ours; it waits for money or a person."""

_LOWER = """
    UPDATE baton_workflownode
    SET remaining = remaining - 1,
        state = CASE WHEN remaining > 1 THEN state WHEN not_before > <asof> THEN 'snoozed' ELSE 'available' END,
        due_at = CASE WHEN remaining = 1 AND not_before > <asof> THEN not_before ELSE due_at END,
        queued_at = CASE WHEN remaining = 1 THEN <now> ELSE queued_at END,
        changed_at = CASE WHEN remaining = 1 THEN <now> ELSE changed_at END,
        version = CASE WHEN remaining = 1 THEN version + 1 ELSE version END
    WHERE id {which} AND state = 'pending'
"""

LOWER_DEPENDENTS = Statement(
    _LOWER.format(which="<in>SELECT node_id FROM baton_workflowedge WHERE dependency_id = %s</in>")
)
"""Lower the counters of the dependents, which are locked, and make those at zero ready.

Index: baton_edge_dependents. Parameters: id.
"""

LOWER_DEPENDENT = Statement(
    _LOWER.format(which="= (SELECT node_id FROM baton_workflowedge WHERE dependency_id = %s)")
    + "RETURNING id, state, fence, remaining + 1, queue, priority, state = 'snoozed', not_before"
)
"""The same for an only dependent, locked here after the step itself, and returned as if locked before.

Index: baton_edge_dependents. Parameters: id.
"""

LOWER = Statement("""
    UPDATE baton_workflownode
    SET remaining = remaining - %s,
        state = CASE WHEN remaining > %s THEN state WHEN not_before > <asof> THEN 'snoozed' ELSE 'available' END,
        due_at = CASE WHEN remaining = %s AND not_before > <asof> THEN not_before ELSE due_at END,
        queued_at = CASE WHEN remaining = %s THEN <now> ELSE queued_at END,
        changed_at = <now>, version = version + 1
    WHERE id = %s AND state = 'pending'
""")
"""The same for one step and a number of dependencies: what a cascade leaves alive."""

# Failure --------------------------------------------------------------------------------------------------------

_FALLEN = """
    WITH RECURSIVE fallen(id) AS (
        SELECT CAST(%s AS bigint)
        UNION SELECT e.node_id FROM fallen f JOIN baton_workflowedge e ON e.dependency_id = f.id)
    SELECT id FROM fallen
"""

LOCK_DESCENDANTS = Statement(f"""
    SELECT id, name, step, options, state, fence, version, attempt, remaining, queue, ignore_cancelled,
        ignore_discarded, COALESCE(not_before > <asof>, FALSE), not_before
    FROM baton_workflownode WHERE id <in>{_FALLEN}</in> ORDER BY id <lock>
""")
"""Lock a step and everything behind it in one ascending pass. Level by level would take rows out of order."""

EDGES_AMONG_DESCENDANTS = Statement(f"""
    SELECT dependency_id, node_id FROM baton_workflowedge WHERE dependency_id <in>{_FALLEN}</in> ORDER BY node_id
""")

CANCEL = Statement("""
    UPDATE baton_workflownode
    SET state = 'cancelled', error = %s, hook_due = %s, settled_at = <now>, changed_at = <now>, due_at = NULL,
        lease_until = NULL, version = version + 1, fence = fence + 1
    WHERE id = %s
""")
"""Cancel one step that is locked."""

LOCK_UNSETTLED = Statement("""
    SELECT id, name, step, state, version, attempt, attempt_log, worker, queued_at, started_at
    FROM baton_workflownode WHERE run_id = %s AND settled_at IS NULL ORDER BY id <lock>
""")
"""Lock what is left of a run, in ascending order. Index: baton_node_unsettled."""

CANCEL_UNSETTLED = Statement("""
    UPDATE baton_workflownode
    SET state = 'cancelled', error = %s, settled_at = <now>, changed_at = <now>, due_at = NULL, lease_until = NULL,
        version = version + 1, fence = fence + 1
    WHERE run_id = %s AND settled_at IS NULL
""")

RELEASE_HOLDS = Statement("DELETE FROM baton_hold WHERE run_id = %s")

LOG_EXECUTION = Statement("UPDATE baton_workflownode SET attempt_log = %s WHERE id = %s")

CANCEL_RUN = Statement("""
    UPDATE baton_workflowrun SET cancelled_at = <now>, cancel_reason = %s WHERE id = %s
""")

# Finish ---------------------------------------------------------------------------------------------------------

ENDING = Statement("""
    SELECT r.state, r.name, r.round, r.cancelled_at IS NOT NULL,
        (SELECT count(*) FROM baton_workflownode n WHERE n.run_id = r.id),
        EXISTS (SELECT 1 FROM baton_workflownode n WHERE n.run_id = r.id AND n.state <> 'completed')
    FROM baton_workflowrun r
    WHERE r.id = %s
        AND NOT EXISTS (SELECT 1 FROM baton_workflownode n WHERE n.run_id = r.id AND n.settled_at IS NULL)
""")
"""How the run ended, if nothing of it is unsettled. Index for the question: baton_node_unsettled."""

FAILED_STEPS = Statement("""
    SELECT name, n_out FROM baton_workflownode WHERE run_id = %s AND state <> 'completed' ORDER BY id
""")

COMPLETE = Statement("""
    INSERT INTO baton_completion
        (run_id, round, outcome, failed_steps, failed_count, total_count, finished_at, announced_at)
    VALUES (%s, %s, %s, %s, %s, %s, <now>, CASE WHEN %s THEN NULL ELSE <now> END)
    ON CONFLICT DO NOTHING
    RETURNING id
""")
"""One inserter a round, by the constraint baton_completion_once_a_round."""

END_RUN = Statement("""
    UPDATE baton_workflowrun SET state = %s, finished_at = <now> WHERE id = %s
""")

ANNOUNCED = Statement("UPDATE baton_completion SET announced_at = <now> WHERE id = %s")

# Retry ----------------------------------------------------------------------------------------------------------

LOCK_NODES = Statement("SELECT id FROM baton_workflownode WHERE id <ids> ORDER BY id <lock>")
"""Lock steps in one ascending pass. Parameters: ids."""

RESET_NODES = Statement("""
    UPDATE baton_workflownode
    SET state = 'pending', attempt = 0, fence = fence + 1, version = version + 1, has_result = FALSE,
        result_json = NULL, error = NULL, error_key = '', progress = NULL, worker = '', hook_due = '',
        lease_until = NULL, due_at = NULL, queued_at = NULL, started_at = NULL, settled_at = NULL, changed_at = <now>
    WHERE id <ids>
""")
"""Put settled steps back to before their first attempt; fence and version never restart, and the log is kept.

Parameters: ids.
"""

COUNT_UNSETTLED = Statement("""
    UPDATE baton_workflownode SET remaining = (
        SELECT count(*) FROM baton_workflowedge e WHERE e.node_id = baton_workflownode.id
            AND (SELECT d.settled_at FROM baton_workflownode d WHERE d.id = e.dependency_id) IS NULL)
    WHERE id <ids>
""")
"""Count the unsettled dependencies of steps anew, in a statement that sees which were put back.

Index: baton_edge_dependencies. Parameters: ids.
"""

RETIRE_ANSWERS = Statement("""
    UPDATE baton_ledgerentry SET is_retired = TRUE WHERE node_id <ids> AND is_call AND NOT is_retired
""")
"""Use the answers of language models no more; what was done once is not done again. Index: baton_entry_once."""

COUNT_USAGES_ANEW = Statement("""
    UPDATE baton_stepstat SET once_key = NULL WHERE node_id <ids> AND once_key LIKE 'u:%%'
""")
"""Let usages that are recorded once under a key be counted once more. Index: baton_stat_once."""

READY_RESET = Statement("""
    UPDATE baton_workflownode
    SET state = CASE WHEN not_before > <asof> THEN 'snoozed' ELSE 'available' END,
        due_at = CASE WHEN not_before > <asof> THEN not_before ELSE NULL END, queued_at = <now>
    WHERE id <ids> AND remaining = 0
    RETURNING queue, state, COALESCE(<seconds until due>, 0)
""")
"""Make those that wait for nothing ready. Parameters: ids."""

IS_UNANNOUNCED = Statement("SELECT 1 FROM baton_completion WHERE id = %s AND announced_at IS NULL LIMIT 1")

# Lease and progress ---------------------------------------------------------------------------------------------

RENEW = Statement("""
    UPDATE baton_workflownode SET lease_until = <later> WHERE id = %s AND fence = %s AND state = 'executing'
""")

HOLDS = Statement("SELECT 1 FROM baton_workflownode WHERE id = %s AND fence = %s AND state = 'executing'")

PROGRESS = Statement("""
    UPDATE baton_workflownode SET progress = %s, version = version + 1, changed_at = <now>
    WHERE id = %s AND fence = %s AND state = 'executing'
""")

# The sweep ------------------------------------------------------------------------------------------------------

WAIT_BRIEFLY = Statement("SELECT set_config('lock_timeout', '2000', TRUE)")
"""Wait two seconds at most for a lock in this transaction (PostgreSQL).

A host that vanished in the middle of a settle leaves its locks until the server finds its connection dead: that may
take hours, and the sweep has other rows to mend.
"""

# Step logs ------------------------------------------------------------------------------------------------------

STAND_ASIDE = Statement("""
    SELECT set_config('lock_timeout', '1000', TRUE), set_config('synchronous_commit', 'off', TRUE)
""")
"""Wait a second at most for a lock, and not for the disk, in this transaction (PostgreSQL)."""

READ_LOG = Statement("SELECT lines FROM baton_steplog WHERE node_id = %s")

WRITE_LOG = Statement("""
    INSERT INTO baton_steplog (node_id, fence, lines, changed_at)
    SELECT id, %s, %s, <now> FROM baton_workflownode WHERE id = %s
    ON CONFLICT (node_id) DO UPDATE
    SET fence = excluded.fence, lines = excluded.lines, changed_at = excluded.changed_at
    WHERE baton_steplog.fence <= excluded.fence
""")
"""Write the log of a step that is still there, unless a later execution has. Parameters: fence, lines, id."""

# Hooks ----------------------------------------------------------------------------------------------------------

TAKE_HOOK = Statement("""
    UPDATE baton_workflownode SET hook_due = '' WHERE id = %s AND hook_due = %s
""")
"""Whoever writes the row calls the hook."""

# Insert ---------------------------------------------------------------------------------------------------------

INSERT_RUN = Statement("""
    INSERT INTO baton_workflowrun
        (id, name, key, state, round, meta, debug, ignore_cancelled, ignore_discarded, inserted_at, cancel_reason,
        trace, budget, allow_unpriced)
    SELECT %s, %s, %s, 'running', 1, %s, %s, %s, %s, <now>, '', %s, %s, %s
    WHERE NOT EXISTS (SELECT 1 FROM baton_workflownode WHERE run_id = %s)
    ON CONFLICT DO NOTHING
    RETURNING inserted_at
""")
"""Insert the run, unless its id is taken or an unsettled run holds its key.

An id is also taken while retention has not deleted all steps of the run that had it: they would be the new run's.
Index: baton_node_name_in_run.
"""

TAKE_IDS = Statement("""
    SELECT array_agg(nextval(s.name)), clock_timestamp()
    FROM (SELECT CAST(pg_get_serial_sequence('baton_workflownode', 'id') AS regclass) AS name OFFSET 0) s,
        generate_series(1, %s)
""")
"""Take so many ids from the sequence (PostgreSQL), and the time."""

LAST_ID = Statement("""
    SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'baton_workflownode'), 0), <now>
""")
