"""Retention: whole settled runs that are old go, oldest first, in short transactions; debug logs by their own age.

A run that fits goes in one transaction with all that belongs to it. One that is too large for that loses its own row
and its completions first, in one transaction that also marks one of its steps: from then on there is no such run, of
which a part could be seen. Its steps follow in small transactions, over several passes if need be, the marked one last;
the mark is in an index, so whatever a sweeper leaves half done the next one finds.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from uuid import UUID

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2
from baton.conf import YEAR, get_settings
from baton.engine import statements as sql
from baton.engine.accounts import run_account, step_account
from baton.telemetry import is_heard, workflow_failed, workflow_finished

DAYS_WHEN_ASKED = 30.0
"""The age for ``--prune`` where the settings have none."""
SIGHTING_DAYS = 1.0
"""How long a host that serves a queue no more is remembered."""
DAY_SECONDS = 24 * 3600.0
DAYS_OF_ACCOUNTS = 2.0
"""How long the account of a day is kept at least: calls that began in it may still be under way."""

PAGE = 50
"""How many runs are looked at together."""
BATCH = 500
"""How many rows of a table one transaction deletes at most: each holds its locks for a few dozen milliseconds."""
PAUSES = 2.0
"""For how many times as long as a transaction took the database is left to others after it."""
LONGEST_PAUSE = 0.2

MARK = "baton: pruned"
"""The kind of error of the step that marks a run whose row is gone."""

_OLD_RUNS = sql.Statement("""
    SELECT r.id, r.finished_at, (SELECT count(*) FROM baton_workflownode n WHERE n.run_id = r.id)
    FROM baton_workflowrun r
    WHERE r.finished_at IS NOT NULL AND r.finished_at <= <before>
        AND r.finished_at >= %s AND (r.finished_at > %s OR r.id > %s) AND r.state <> 'running'
        AND NOT EXISTS (
            SELECT 1 FROM baton_completion c
            WHERE c.run_id = r.id AND c.announced_at IS NULL AND c.finished_at > <before>)
    ORDER BY r.finished_at, r.id LIMIT %s
""")
"""The oldest settled runs after a cursor, with the number of their steps. Index: baton_run_ended."""

_SETTLED_RUNS = sql.Statement("""
    SELECT id, round FROM baton_workflowrun
    WHERE id <run ids> AND state <> 'running' AND finished_at IS NOT NULL
    ORDER BY finished_at, id
""")
"""Which of some runs are settled, and in which round."""

_LOCK_RUNS = sql.Statement("""
    SELECT id, round FROM baton_workflowrun
    WHERE id <run ids> AND state <> 'running' AND finished_at IS NOT NULL
    ORDER BY finished_at, id <skip locked>
""")
"""The same, and hold them against a retry, which holds its run too; those that one holds are left out."""

_NODES_OF_RUNS = sql.Statement("""
    SELECT run_id, id, settled_at IS NULL OR hook_due > '' FROM baton_workflownode WHERE run_id <run ids>
""")
"""The steps of a few runs. Index: baton_node_name_in_run."""

_EDGES_OF_NODES = sql.Statement("SELECT node_id, count(*) FROM baton_workflowedge WHERE node_id <ids> GROUP BY node_id")
_ENTRIES_OF_NODES = sql.Statement(
    "SELECT node_id, count(*) FROM baton_ledgerentry WHERE node_id <ids> GROUP BY node_id"
)
_STATS_OF_NODES = sql.Statement("SELECT node_id, count(*) FROM baton_stepstat WHERE node_id <ids> GROUP BY node_id")
_LOGS_OF_NODES = sql.Statement("SELECT node_id, count(*) FROM baton_debuglog WHERE node_id <ids> GROUP BY node_id")

_DELETE_RUNS = sql.Statement("DELETE FROM baton_workflowrun WHERE id <run ids>")
_DELETE_COMPLETIONS = sql.Statement("DELETE FROM baton_completion WHERE run_id <run ids>")
_COUNT_COMPLETIONS = sql.Statement("SELECT count(*) FROM baton_completion WHERE run_id <run ids>")
_DELETE_NODES = sql.Statement("DELETE FROM baton_workflownode WHERE id <ids>")
_DELETE_STEP_LOGS = sql.Statement("DELETE FROM baton_steplog WHERE node_id <ids>")
_COUNT_STEP_LOGS = sql.Statement("SELECT count(*) FROM baton_steplog WHERE node_id <ids>")

_DELETE_EDGES = sql.Statement("""
    DELETE FROM baton_workflowedge WHERE id <in>SELECT id FROM baton_workflowedge WHERE node_id <ids> LIMIT %s</in>
""")
"""Some of the dependencies of steps. Index: baton_edge_dependencies."""
_COUNT_EDGES = sql.Statement("""
    SELECT count(*) FROM (SELECT 1 FROM baton_workflowedge WHERE node_id <ids> LIMIT %s) found
""")
"""The same, counted. Index: baton_edge_dependencies."""

_DELETE_LOGS = sql.Statement("""
    DELETE FROM baton_debuglog WHERE id <in>SELECT id FROM baton_debuglog WHERE node_id <ids> LIMIT %s</in>
""")
_COUNT_LOGS = sql.Statement("""
    SELECT count(*) FROM (SELECT 1 FROM baton_debuglog WHERE node_id <ids> LIMIT %s) found
""")

_DELETE_ENTRIES = sql.Statement("""
    DELETE FROM baton_ledgerentry WHERE id <in>SELECT id FROM baton_ledgerentry WHERE node_id <ids> LIMIT %s</in>
""")
"""Some of the calls of steps. Index: baton_entry_once."""
_COUNT_ENTRIES = sql.Statement("""
    SELECT count(*) FROM (SELECT 1 FROM baton_ledgerentry WHERE node_id <ids> LIMIT %s) found
""")
_DELETE_STATS = sql.Statement("""
    DELETE FROM baton_stepstat WHERE id <in>SELECT id FROM baton_stepstat WHERE node_id <ids> LIMIT %s</in>
""")
"""Some of what the calls of steps took and cost. Index: baton_stat_once."""
_COUNT_STATS = sql.Statement("""
    SELECT count(*) FROM (SELECT 1 FROM baton_stepstat WHERE node_id <ids> LIMIT %s) found
""")
_DELETE_HOLDS = sql.Statement("DELETE FROM baton_hold WHERE node_id <ids>")
_COUNT_HOLDS = sql.Statement("SELECT count(*) FROM baton_hold WHERE node_id <ids>")
_DELETE_ACCOUNTS = sql.Statement("""
    DELETE FROM baton_budgetaccount WHERE name <in>
        SELECT name FROM baton_budgetaccount WHERE name <names> <skip locked></in>
""")
"""Accounts of what goes. One that somebody holds, who changes the budget of a run that goes, is left to itself."""
_COUNT_ACCOUNTS = sql.Statement("SELECT count(*) FROM baton_budgetaccount WHERE name <names>")
_DELETE_OLD_DAYS = sql.Statement("DELETE FROM baton_budgetaccount WHERE name >= 'day:' AND name < %s")
_COUNT_OLD_DAYS = sql.Statement("SELECT count(*) FROM baton_budgetaccount WHERE name >= 'day:' AND name < %s")

_DELETE_OLD_LOGS = sql.Statement("""
    DELETE FROM baton_debuglog WHERE id <in>
        SELECT id FROM baton_debuglog WHERE created_at < <before> ORDER BY created_at LIMIT %s</in>
""")
"""The oldest debug logs, whatever their run does. Index: baton_debuglog_by_time."""
_COUNT_OLD_LOGS = sql.Statement("""
    SELECT count(*) FROM (
        SELECT 1 FROM baton_debuglog WHERE created_at < <before> ORDER BY created_at LIMIT %s) found
""")
"""The same, counted. Index: baton_debuglog_by_time."""

_IS_FIT = sql.Statement("""
    SELECT NOT EXISTS (SELECT 1 FROM baton_workflownode WHERE run_id = %s AND (settled_at IS NULL OR hook_due > ''))
""")
_MARK = sql.Statement("""
    UPDATE baton_workflownode SET error_key = %s
    WHERE id = (SELECT id FROM baton_workflownode WHERE run_id = %s ORDER BY name LIMIT 1)
    RETURNING id
""")
_MARKED = sql.Statement("""
    SELECT n.id, n.run_id FROM baton_workflownode n
    WHERE n.error_key = %s AND n.error_key > ''
        AND NOT EXISTS (SELECT 1 FROM baton_workflowrun r WHERE r.id = n.run_id)
""")
"""The marked steps of runs that are gone. Index: baton_node_error."""

_NEXT_NODES = sql.Statement("""
    SELECT id, name FROM baton_workflownode WHERE run_id = %s AND name > %s AND id <> %s ORDER BY name LIMIT %s
""")
"""The steps that a run which is gone has left, without the marked one. Index: baton_node_name_in_run."""

_COUNT_RUNS = sql.Statement("SELECT count(*) FROM baton_workflowrun WHERE id <run ids>")
_COUNT_NODES = sql.Statement("SELECT count(*) FROM baton_workflownode WHERE id <ids>")

_DELETE_SIGHTINGS = sql.Statement("DELETE FROM baton_queuesighting WHERE seen_at < <before>")
_COUNT_SIGHTINGS = sql.Statement("SELECT count(*) FROM baton_queuesighting WHERE seen_at < <before>")

_BEGINNING = "0001-01-01 00:00:00+00:00"
_FOR_EVER = 1000 * YEAR
_MOST_DAYS = 365_000.0
_NONE = -1
_MANY = {
    "WorkflowEdge": (_DELETE_EDGES, _COUNT_EDGES),
    "DebugLog": (_DELETE_LOGS, _COUNT_LOGS),
    "StepStat": (_DELETE_STATS, _COUNT_STATS),
    "LedgerEntry": (_DELETE_ENTRIES, _COUNT_ENTRIES),
}
"""What a step may have any number of: how so many of it are deleted, and counted."""
_MEASURES = {
    "WorkflowEdge": _EDGES_OF_NODES,
    "DebugLog": _LOGS_OF_NODES,
    "StepStat": _STATS_OF_NODES,
    "LedgerEntry": _ENTRIES_OF_NODES,
}
"""How many of these steps have."""


@dataclass(slots=True, kw_only=True)
class _Doomed:
    """A settled run, and what belongs to it."""

    id: Any
    """As the database gave it."""
    size: Counter[str]
    """How many rows it has in each table that is limited."""
    nodes: list[int] = field(default_factory=list)
    is_unfit: bool = False
    """A step of it is unsettled, against the invariants, or has a hook due: it stays."""


@dataclass(slots=True, kw_only=True)
class Retention:
    """What one pass deletes."""

    connection: BaseDatabaseWrapper
    days: float | None
    """How old a settled run may get; None deletes none."""
    log_days: float | None
    """How old a debug log may get; None leaves it to its run."""
    limit: int
    """How many rows of a table go at most."""
    is_asked: bool = False
    """Somebody waits for it, so that django-q2's rows are looked at as a whole."""
    is_dry: bool = False
    """Only count."""
    deleted: Counter[str] = field(default_factory=Counter)
    """How many rows of each table, by the name of its model, went so far."""

    @classmethod
    def of_settings(cls, connection: BaseDatabaseWrapper, *, asked: bool, is_dry: bool) -> Self:
        """Retention as the settings say, or as somebody asks for this time."""
        settings = get_settings()
        return cls(
            connection=connection,
            days=DAYS_WHEN_ASKED if asked and settings.retention_days is None else settings.retention_days,
            log_days=settings.debug_log_retention_days,
            limit=settings.prune_limit,
            is_asked=asked,
            is_dry=is_dry,
        )

    def batches(self) -> Generator[int, None, None]:
        """Delete, a short transaction at a time, with a pause after each.

        Yields:
            How many rows went with each.
        """
        for part in (
            self._left_overs(),
            self._old_runs(),
            self._old_logs(),
            self._old_tasks(),
            self._old_days(),
            self._old_sightings(),
        ):
            started = time.monotonic()
            for count in part:
                took = time.monotonic() - started
                yield count
                if count and not self.is_dry:
                    time.sleep(min(PAUSES * took, LONGEST_PAUSE))
                started = time.monotonic()

    # Runs -------------------------------------------------------------------------------------------------------------

    def _old_runs(self) -> Iterator[int]:
        if self.days is None:
            return
        # Where somebody listens, the sweep announces an ending before it is forgotten; else only haste is avoided.
        is_announced = is_heard(workflow_finished, workflow_failed)
        patience = _FOR_EVER if is_announced else get_settings().lease_seconds
        finished_at: Any = _BEGINNING
        run_id: Any = sql.uuid_param(self.connection, UUID(int=0))
        while page := self._fetch(
            _OLD_RUNS, [self.days * DAY_SECONDS, finished_at, finished_at, run_id, patience, PAGE]
        ):
            run_id, finished_at, _ = page[-1]
            waiting = deque((each, count) for each, _, count in page)
            while waiting:
                if waiting[0][1] > self._batch:
                    if not (yield from self._take_apart(waiting.popleft()[0])):
                        return
                    continue
                doomed = self._look_at(_that_fit(waiting, self._batch))
                fitting = self._first_that_fit(doomed)
                waiting.extendleft((each.id, each.size["WorkflowNode"]) for each in reversed(doomed[len(fitting) :]))
                if fitting:
                    yield self._delete_together(fitting)
                elif doomed:
                    # Not even the first of them fits: into one transaction, or into what is left of this pass.
                    if max(doomed[0].size.values()) <= self._batch:
                        return
                    waiting[0] = (doomed[0].id, max(doomed[0].size.values()))

    def _look_at(self, run_ids: Sequence[Any]) -> list[_Doomed]:
        """What belongs to those of these runs that are settled, and have nothing to be done; nothing is locked yet."""
        rows = self._fetch(_SETTLED_RUNS, [self._ids(run_ids)])
        found = {run_id: _Doomed(id=run_id, size=Counter(WorkflowRun=1, Completion=rounds)) for run_id, rounds in rows}
        run_of: dict[int, _Doomed] = {}
        for run_id, node_id, is_unfit in self._fetch(_NODES_OF_RUNS, [self._ids(list(found))]):
            doomed = run_of[node_id] = found[run_id]
            doomed.nodes.append(node_id)
            doomed.size["WorkflowNode"] += 1
            doomed.is_unfit |= bool(is_unfit)
        self._measure(run_of)
        return [each for each in found.values() if not each.is_unfit]

    def _delete_together(self, doomed: list[_Doomed]) -> int:
        """Delete runs in one transaction, without those that somebody retries, or has retried since."""
        before = self.deleted.total()
        with self._transaction():
            held = self._hold(doomed)
            if held:
                self._delete_nodes(held)
                self._delete_runs([each.id for each in held])
        return self.deleted.total() - before

    def _hold(self, doomed: list[_Doomed]) -> list[_Doomed]:
        """Lock the runs that are still as they were seen: of such a run nobody writes anything who does not hold it."""
        if self.is_dry:
            return doomed
        rounds = dict(self._fetch(_LOCK_RUNS, [self._ids([each.id for each in doomed])]))
        return [each for each in doomed if rounds.get(each.id) == each.size["Completion"]]

    def _measure(self, owners: dict[int, _Doomed]) -> None:
        """Add to each what its steps, given by their ids, have any number of."""
        nodes = self._ids(sorted(owners))
        for table, statement in _MEASURES.items():
            for node_id, count in self._fetch(statement, [nodes]):
                owners[node_id].size[table] += count

    def _first_that_fit(self, doomed: list[_Doomed]) -> list[_Doomed]:
        total: Counter[str] = Counter()
        for place, each in enumerate(doomed):
            total += each.size
            if any(count > min(self._batch, self._left(table)) for table, count in total.items()):
                return doomed[:place]
        return doomed

    # A run that is too large for one transaction ----------------------------------------------------------------------

    def _take_apart(self, run_id: Any) -> Generator[int, None, bool]:
        """Delete a run, and then its steps in small transactions.

        Returns:
            Whether all of it is gone; False when this pass may delete no more.
        """
        before = self.deleted.total()
        rows = self._fetch(_SETTLED_RUNS, [self._ids([run_id])])
        if not rows or not self._fetch(_IS_FIT, [run_id])[0][0]:
            return True
        doomed = _Doomed(id=run_id, size=Counter(WorkflowRun=1, Completion=rows[0][1]))
        if any(
            min(count, self.limit) > self._left(table) for table, count in {**doomed.size, "WorkflowNode": 1}.items()
        ):
            return False
        with self._transaction():
            if not self._hold([doomed]):
                return True
            marked = _NONE if self.is_dry else int(self._fetch(_MARK, [MARK, run_id])[0][0])
            self._delete_runs([run_id])
        yield self.deleted.total() - before
        return (yield from self._clear(run_id, marked))

    def _left_overs(self) -> Iterator[int]:
        """Go on with what a pass has left of a run that it could not finish."""
        for marked, run_id in self._fetch(_MARKED, [MARK]):
            if not (yield from self._clear(run_id, marked)):
                return

    def _clear(self, run_id: Any, marked: int) -> Generator[int, None, bool]:
        """Delete the steps of a run that is gone, the marked one last."""
        name = ""
        while rows := self._fetch(_NEXT_NODES, [run_id, name, marked, BATCH]):
            name = rows[-1][1]
            if not (yield from self._clear_nodes([node_id for node_id, _ in rows])):
                return False
        return marked == _NONE or (yield from self._clear_nodes([marked]))

    def _clear_nodes(self, node_ids: list[int]) -> Generator[int, None, bool]:
        left = [_Doomed(id=each, nodes=[each], size=Counter(WorkflowNode=1)) for each in node_ids]
        self._measure({each.id: each for each in left})
        while left:
            before = self.deleted.total()
            fitting = self._first_that_fit(left)
            if fitting:
                with self._transaction():
                    self._delete_nodes(fitting)
                yield self.deleted.total() - before
            elif max(left[0].size.values()) <= self._batch or not (yield from self._lighten(left[0])):
                return False
            left = left[len(fitting) :]
        return True

    def _lighten(self, doomed: _Doomed) -> Generator[int, None, bool]:
        """Delete what a step has too much of, bit by bit."""
        for table, statements in _MANY.items():
            while doomed.size[table]:
                wanted = min(self._batch, self._left(table), doomed.size[table])
                if not wanted:
                    return False
                self._delete(table, *statements, [self._ids(doomed.nodes), wanted])
                doomed.size[table] -= wanted
                yield wanted
        return True

    # Logs, and what others keep for us --------------------------------------------------------------------------------

    def _old_logs(self) -> Iterator[int]:
        if self.log_days is None:
            return
        deleted = wanted = -1
        while deleted == wanted and (left := self._left("DebugLog")) > 0:
            wanted = left if self.is_dry else min(BATCH, left)
            params = [self.log_days * DAY_SECONDS, wanted]
            deleted = self._delete("DebugLog", _DELETE_OLD_LOGS, _COUNT_OLD_LOGS, params)
            yield deleted
            if self.is_dry:
                return

    def _old_tasks(self) -> Iterator[int]:
        if self.days is None:
            return
        for deleted in q2.delete_old_tasks(days=self.days, limit=self.limit, whole=self.is_asked, is_dry=self.is_dry):
            self.deleted.update({"Task": deleted} if deleted else {})
            yield deleted

    def _old_days(self) -> Iterator[int]:
        if self.days is None:
            return
        first_kept = datetime.now(UTC) - timedelta(days=min(max(self.days, DAYS_OF_ACCOUNTS), _MOST_DAYS))
        params = [f"day:{first_kept:%Y-%m-%d}"]
        yield self._delete("BudgetAccount", _DELETE_OLD_DAYS, _COUNT_OLD_DAYS, params)

    def _old_sightings(self) -> Iterator[int]:
        yield self._delete("QueueSighting", _DELETE_SIGHTINGS, _COUNT_SIGHTINGS, [SIGHTING_DAYS * DAY_SECONDS])

    # Rows -------------------------------------------------------------------------------------------------------------

    def _delete_nodes(self, doomed: list[_Doomed]) -> None:
        nodes = sorted(node_id for each in doomed for node_id in each.nodes)
        ids = self._ids(nodes)
        for table, statements in _MANY.items():
            if count := sum(each.size[table] for each in doomed):
                self._delete(table, *statements, [ids, count])
        self._delete("StepLog", _DELETE_STEP_LOGS, _COUNT_STEP_LOGS, [ids])
        self._delete("Hold", _DELETE_HOLDS, _COUNT_HOLDS, [ids])
        self._delete_accounts([step_account(node_id) for node_id in nodes])
        self._delete("WorkflowNode", _DELETE_NODES, _COUNT_NODES, [ids])

    def _delete_runs(self, runs: list[Any]) -> None:
        ids = self._ids(runs)
        self._delete("Completion", _DELETE_COMPLETIONS, _COUNT_COMPLETIONS, [ids])
        self._delete_accounts([run_account(sql.as_uuid(each)) for each in runs])
        self._delete("WorkflowRun", _DELETE_RUNS, _COUNT_RUNS, [ids])

    def _delete_accounts(self, names: list[str]) -> None:
        self._delete("BudgetAccount", _DELETE_ACCOUNTS, _COUNT_ACCOUNTS, [self._ids(names)])

    def _delete(self, table: str, delete: sql.Statement, count: sql.Statement, params: Sequence[Any]) -> int:
        rows = int(self._fetch(count, params)[0][0]) if self.is_dry else sql.execute(self.connection, delete, params)
        if rows:
            self.deleted[table] += rows
        return rows

    @property
    def _batch(self) -> int:
        """How many rows of a table go in one transaction."""
        return min(BATCH, self.limit)

    def _left(self, table: str) -> int:
        return self.limit - self.deleted[table]

    def _fetch(self, statement: sql.Statement, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        return sql.fetch(self.connection, statement, params)

    def _ids(self, ids: Sequence[Any]) -> Any:
        return sql.ids_param(self.connection, ids)

    def _transaction(self) -> AbstractContextManager[None]:
        return nullcontext() if self.is_dry else transaction.atomic(using=self.connection.alias)


def _that_fit(waiting: deque[tuple[Any, int]], batch: int) -> list[Any]:
    """Take the first run, and those after it that fit into one transaction with it, by the number of their steps."""
    steps = 0
    together: list[Any] = []
    while waiting and (not together or steps + waiting[0][1] <= batch):
        run_id, count = waiting.popleft()
        steps += count
        together.append(run_id)
    return together
