"""The plans PostgreSQL makes of Baton's statements on a database full of settled runs."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from baton import Workflow
from baton.engine import accounts, holds, ledger, statements
from baton.engine.statements import Statement
from baton.llm import recording
from baton.models import WorkflowRun
from baton.sweep import backstop, held, invariants, lease, rescue, retention, waiters
from tests import steps

# Also for the fixture: without a test that says so there is no test database.
pytestmark = pytest.mark.django_db

MODULES: list[ModuleType] = [
    statements,
    accounts,
    holds,
    ledger,
    recording,
    backstop,
    held,
    lease,
    rescue,
    retention,
    waiters,
]
RUNS, STEPS = 1000, 100

TABLES = """
    baton_workflowrun, baton_workflownode, baton_workflowedge, baton_completion, baton_debuglog, baton_ledgerentry,
    baton_stepstat, baton_hold, baton_budgetaccount
"""
SETTLED = f"""
    INSERT INTO baton_workflowrun (id, name, state, round, meta, debug, ignore_cancelled, ignore_discarded, inserted_at,
        finished_at, cancel_reason)
    SELECT md5(r::text)::uuid, 'settled', 'completed', 1, '{{}}', false, false, false, now(), now(), ''
    FROM generate_series(1, {RUNS}) r;

    INSERT INTO baton_workflownode (id, run_id, name, step, state, attempt, max_attempts, queue, priority, remaining,
        n_deps, n_out, ignore_cancelled, ignore_discarded, args, refs, options, has_result, result_json, settled_at,
        changed_at, started_at, fan_group)
    SELECT 10000000 + n, md5((1 + (n - 1) / {STEPS})::text)::uuid, 's' || n % {STEPS}, 'tests.steps.nothing',
        'completed', 1, 5, 'default', 0, 0, 1, 1, false, false, '{{}}', '[]', '{{}}', true, '1', now(), now(), now(), ''
    FROM generate_series(1, {RUNS * STEPS}) n;

    INSERT INTO baton_workflowedge (node_id, dependency_id)
    SELECT 10000001 + n, 10000000 + n FROM generate_series(1, {RUNS * STEPS} - 1) n WHERE n % {STEPS} <> 0;

    INSERT INTO baton_completion (run_id, round, outcome, failed_steps, failed_count, total_count, finished_at,
        announced_at)
    SELECT md5(r::text)::uuid, 1, 'completed', '[]', 0, {STEPS}, now(), now() FROM generate_series(1, {RUNS}) r;

    INSERT INTO baton_debuglog (run_id, node_id, attempt, key, provider, model, created_at)
    SELECT md5((1 + n / {STEPS})::text)::uuid, 10000000 + n, 1, '', '', '', now() - n * interval '1 hour'
    FROM generate_series(1, {RUNS * STEPS // 10}) n;

    INSERT INTO baton_ledgerentry (id, run_id, node_id, key, number, is_call, policy, state, resolution, resolved_by,
        is_retired, fence, attempt, provider, model, answer, answer_type, error, accounts, is_estimate, started_at)
    SELECT 10000000 + n, md5((1 + (n - 1) / {STEPS})::text)::uuid, 10000000 + n, 'summary', 1, true, 'repay',
        'answered', '', '', false, 1, 1, '', 'gpt-4o', '"short"', 'json', '', '', false, now()
    FROM generate_series(1, {RUNS * STEPS}) n;

    INSERT INTO baton_stepstat (run_id, node_id, entry_id, once_key, key, workflow_name, step_name, step, attempt,
        from_ledger, count, provider, model, cost, currency, price_source, price_version, unpriced_because, at)
    SELECT md5((1 + (n - 1) / {STEPS})::text)::uuid, 10000000 + n, 10000000 + n, 'c:' || n, 'summary', 'settled',
        's' || n % {STEPS}, 'tests.steps.nothing', 1, false, 1, '', 'gpt-4o', n, 'EUR', '', '', '',
        now() - n * interval '1 minute'
    FROM generate_series(1, {RUNS * STEPS}) n;

    INSERT INTO baton_hold (node_id, run_id, kind, account, amount, reason, since)
    SELECT 20000000 + n, md5((1 + n / {STEPS})::text)::uuid, CASE WHEN n % 50 = 0 THEN 'question' ELSE 'budget' END,
        CASE WHEN n % 50 = 0 THEN 'entry:' || n ELSE 'run:' || md5((1 + n / {STEPS})::text)::uuid END, n, '', now()
    FROM generate_series(1, {RUNS * STEPS // 20}) n;

    INSERT INTO baton_budgetaccount (name, spent, reserved)
    SELECT 'run:' || md5(r::text)::uuid, r, 0 FROM generate_series(1, {RUNS}) r
    UNION ALL SELECT 'step:' || 10000000 + n, n, 0 FROM generate_series(1, {RUNS * STEPS // 20}) n
    UNION ALL SELECT 'day:' || current_date - n, n, 0 FROM generate_series(1, 70) n;

    ANALYZE {TABLES};
"""


@cache
def named_statements() -> dict[str, Statement]:
    """Every statement of the engine, of the sweep and of the calls, by module and name."""
    named: dict[str, Statement] = {}
    for module in MODULES:
        for name, value in vars(module).items():
            found = {f"[{key}]": each for key, each in value.items()} if isinstance(value, dict) else {"": value}
            for key, each in found.items():
                if isinstance(each, Statement) and each not in named.values():
                    named[f"{module.__name__.rpartition('.')[2]}.{name}{key}"] = each
    return named


@cache
def promised_indexes() -> dict[str, set[str]]:
    """The indexes that the statements' docstrings name."""
    promised = {}
    for module in MODULES:
        body = ast.parse(inspect.getsource(module)).body
        for node, following in itertools.pairwise(body):
            match node, following:
                case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                    found = re.search(r"Index(?:es)?\b[^:]*: ((?:baton_\w+(?:, )?)+)", text)
                    if found:
                        promised[f"{module.__name__.rpartition('.')[2]}.{name}"] = set(found[1].split(", "))
    return promised


@pytest.fixture(scope="module")
def full_database(django_db_setup, django_db_blocker) -> Iterator[WorkflowRun]:
    """100,000 settled steps that were analysed, and then a wide run of which nothing was."""
    with django_db_blocker.unblock(), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(SETTLED)
            # Looked over once: what is deferred would be looked over at the end of every test.
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
        workflow = Workflow("live").add("root", steps.nothing)
        for number in range(1000):
            workflow.add(f"ready {number}", steps.nothing)
            workflow.add(f"waits {number}", steps.nothing, deps=["root", f"ready {number}"])
        yield workflow.insert()
        transaction.set_rollback(True)
    # What was rolled back lies about until then, and every later test that reads a table whole would read it.
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(f"VACUUM {TABLES}")


NOW = datetime(2026, 6, 14, tzinfo=UTC)
SOME_RUN = UUID(int=1)


def parameters(run: WorkflowRun) -> dict[str, list[Any]]:
    """Parameters as the engine gives them, by statement."""
    ready, waiting = run.steps["ready 500"].pk, run.steps["waits 500"].pk
    settled = ["completed", False, None, None, "", "[]", None, ready, 1, False]
    account = accounts.run_account(run.pk)
    return {
        "statements.CLAIM_NEXT": ["w", 15.0, "default"],
        "statements.CLAIM_KEPT": ["w", 15.0, "default", 0, ready],
        "statements.CLAIM": ["w", 15.0, ready],
        "statements.EXPIRED": [1000],
        "statements.READY_DUE": ["default"],
        "statements.IS_READY": ["default"],
        "statements.NEXT_DUE": ["default"],
        "statements.LOCK_DEPENDENTS": [ready, ready],
        "statements.SETTLE": settled,
        "statements.PUT_OFF": ["retryable", "e", "[]", 1.5, 0, None, ready, 1, False],
        "statements.LOWER_DEPENDENTS": [ready],
        "statements.LOWER_DEPENDENT": [ready],
        "statements.LOWER": [1, 1, 1, 1, waiting],
        "statements.LOCK_DESCENDANTS": [ready],
        "statements.EDGES_AMONG_DESCENDANTS": [ready],
        "statements.CANCEL": ["e", "", waiting],
        "statements.LOCK_UNSETTLED": [run.pk],
        "statements.CANCEL_UNSETTLED": ["e", run.pk],
        "statements.LOG_EXECUTION": ["[]", ready],
        "statements.CANCEL_RUN": ["e", run.pk],
        "statements.ENDING": [run.pk],
        "statements.FAILED_STEPS": [run.pk],
        "statements.COMPLETE": [run.pk, 1, "completed", "[]", 0, 1, False],
        "statements.END_RUN": ["completed", run.pk],
        "statements.ANNOUNCED": [1],
        "statements.IS_UNANNOUNCED": [1],
        "statements.LOCK_NODES": [[ready, waiting]],
        "statements.RESET_NODES": [[ready, waiting]],
        "statements.COUNT_UNSETTLED": [[ready, waiting]],
        "statements.READY_RESET": [[ready, waiting]],
        "statements.RENEW": [15.0, ready, 1],
        "statements.HOLDS": [ready, 1],
        "statements.PROGRESS": ["{}", ready, 1],
        "statements.STAND_ASIDE": [],
        "statements.WAIT_BRIEFLY": [],
        "statements.READ_LOG": [ready],
        "statements.WRITE_LOG": [1, "[]", ready],
        "statements.TAKE_HOOK": [waiting, "cancelled"],
        "statements.INSERT_RUN": [SOME_RUN, "n", "k", "{}", False, False, False, "", 1, False, SOME_RUN],
        "statements.HOLD": ["[]", None, ready, 1, False],
        "statements.RELEASE_HOLDS": [run.pk],
        "statements.RETIRE_ANSWERS": [[ready, waiting]],
        "statements.COUNT_USAGES_ANEW": [[ready, waiting]],
        "statements.TAKE_IDS": [3],
        "accounts._OPEN[run]": [account, run.pk],
        "accounts._OPEN[step]": [account, ready],
        "accounts._OPEN[day]": [account, datetime.now(UTC) - timedelta(hours=12)],
        "accounts._BUDGET": [run.pk],
        "accounts._COUNT_ANEW": [run.pk, account],
        "accounts.RESERVE": [1, account, 1, 10],
        "accounts.SETTLE": [1, 1, account],
        "accounts._LOCK_ACCOUNT": [account],
        "accounts._FITTING": [account, 0, 1, 10**9, 200],
        "accounts._IS_HELD_FOR": [account],
        "accounts._NEXT_ACCOUNT": [account],
        "holds._WRITE": ["budget", account, 1, "r", ready],
        "holds._RELEASE": [[ready, waiting]],
        "holds._READY": [[ready, waiting]],
        "ledger._OPEN": ["k", "k", True, "ask", "p", "m", 1, account, False, ready, 1, "executing", "k", True, 0],
        "ledger._IS_OURS": [ready, 1, "executing"],
        "ledger._FIND": [ready, "k", True],
        "ledger._ANSWER": ["a", "json", True, ready],
        "ledger._ANSWER_LATE": ["a", "json", ready],
        "ledger._ASKED": [ready],
        "ledger._END": ["failed", "e", ready, "failed"],
        "ledger._GIVE_UP": ["repay", "e", ready],
        "ledger._NOTE_RESERVED": [1, ready],
        "ledger._FREE": [ready],
        "ledger._QUESTION": [ready, 1],
        "ledger._DECISION": [ready],
        "recording._SERVE": ["r:1:1", 1, ready, "c:1"],
        "backstop._UNFINISHED": [1000],
        "backstop._READY_QUEUE": [""],
        "backstop._HAS_WAITED": [-2.0, "default"],
        "held._MARK_VANISHED": [900.0, 500],
        "held._COUNT_VANISHED": [900.0],
        "held._QUESTIONS": ["entry:", 500],
        "held._DELETE_STALE": [500],
        "held._COUNT_STALE": [],
        "lease._FIRST": [],
        "lease._TAKE": ["h", 60.0, "h"],
        "lease._GIVE_BACK": ["h"],
        "rescue._COUNT_LOST": [],
        "rescue._DUE_QUEUE": [""],
        "rescue._COUNT_DUE": ["default"],
        "rescue._HOOKS": [-15.0, 1000],
        "rescue._COUNT_HOOKS": [-15.0],
        "retention._OLD_RUNS": [86_400.0, "0001-01-01 00:00:00+00:00", "0001-01-01 00:00:00+00:00", SOME_RUN, 15.0, 50],
        "retention._LOCK_RUNS": [[run.pk, SOME_RUN]],
        "retention._SETTLED_RUNS": [[run.pk, SOME_RUN]],
        "retention._NODES_OF_RUNS": [[run.pk, SOME_RUN]],
        "retention._EDGES_OF_NODES": [[ready, waiting]],
        "retention._LOGS_OF_NODES": [[ready, waiting]],
        "retention._DELETE_RUNS": [[run.pk, SOME_RUN]],
        "retention._COUNT_RUNS": [[run.pk, SOME_RUN]],
        "retention._DELETE_COMPLETIONS": [[run.pk, SOME_RUN]],
        "retention._COUNT_COMPLETIONS": [[run.pk, SOME_RUN]],
        "retention._DELETE_NODES": [[ready, waiting]],
        "retention._COUNT_NODES": [[ready, waiting]],
        "retention._DELETE_STEP_LOGS": [[ready, waiting]],
        "retention._COUNT_STEP_LOGS": [[ready, waiting]],
        "retention._DELETE_EDGES": [[ready, waiting], 1000],
        "retention._COUNT_EDGES": [[ready, waiting], 1000],
        "retention._DELETE_LOGS": [[ready, waiting], 1000],
        "retention._COUNT_LOGS": [[ready, waiting], 1000],
        "retention._ENTRIES_OF_NODES": [[ready, waiting]],
        "retention._STATS_OF_NODES": [[ready, waiting]],
        "retention._DELETE_ENTRIES": [[ready, waiting], 1000],
        "retention._COUNT_ENTRIES": [[ready, waiting], 1000],
        "retention._DELETE_STATS": [[ready, waiting], 1000],
        "retention._COUNT_STATS": [[ready, waiting], 1000],
        "retention._DELETE_HOLDS": [[ready, waiting]],
        "retention._COUNT_HOLDS": [[ready, waiting]],
        "retention._DELETE_ACCOUNTS": [[account, "step:1"]],
        "retention._COUNT_ACCOUNTS": [[account, "step:1"]],
        "retention._DELETE_OLD_DAYS": ["day:2000-01-01"],
        "retention._COUNT_OLD_DAYS": ["day:2000-01-01"],
        "retention._DELETE_OLD_LOGS": [86_400.0, 1000],
        "retention._COUNT_OLD_LOGS": [86_400.0, 1000],
        "retention._IS_FIT": [run.pk],
        "retention._MARK": ["m", run.pk],
        "retention._MARKED": ["m"],
        "retention._NEXT_NODES": [run.pk, "", 1, 1000],
        "retention._DELETE_SIGHTINGS": [86_400.0],
        "retention._COUNT_SIGHTINGS": [86_400.0],
        "waiters._STUCK_WAITERS": [0, 1000],
        "waiters._LAST_OF_PAGE": [0, 1000],
        "waiters._LOCK_WAITER": [waiting],
        "waiters._DEPENDENCIES": [waiting],
        "waiters._READY_WAITER": [waiting],
        "waiters._CANCEL_WAITER": ["e", "", waiting],
    }


def plans_of(name: str, run: WorkflowRun) -> list[dict[str, Any]]:
    """The plans of a prepared statement: made for its parameters, and for any parameters."""
    statement, params = named_statements()[name], parameters(run)[name]
    return [plan_of(statement, params, mode) for mode in ("custom", "generic")]


def plan_of(statement: Statement, params: list[Any], mode: str) -> dict[str, Any]:
    numbers = iter(range(1, len(params) + 1))
    text = re.sub(r"%s", lambda _: f"${next(numbers)}", statement.sql("postgresql")).replace("%%", "%")
    places = f"({', '.join(['%s'] * len(params))})" if params else ""
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL plan_cache_mode = force_{mode}_plan")
        cursor.execute(f"PREPARE explained AS {text}")
        try:
            cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE explained{places}", params)
            (found,) = cursor.fetchone()
        finally:
            cursor.execute("DEALLOCATE explained")
    return dict((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])


def parts_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from parts_of(part)


LARGE = {
    "baton_workflownode",
    "baton_workflowedge",
    "baton_ledgerentry",
    "baton_stepstat",
    "baton_hold",
    "baton_budgetaccount",
}
EVERY_ROW = {"held._DELETE_STALE": {"baton_hold"}, "held._COUNT_STALE": {"baton_hold"}}
"""Statements that look at every row of a table, which has one for each step that waits."""


def cases(*left_out: str) -> list[str]:
    """The names of the statements."""
    return sorted(set(named_statements()) - {"statements.LAST_ID", *left_out})


@pytest.mark.postgres
@pytest.mark.parametrize("name", cases())
def test_statement_uses_the_index_it_names_and_scans_no_large_table(name, full_database):
    for plan in plans_of(name, full_database):
        parts = list(parts_of(plan))
        indexes = {part["Index Name"] for part in parts if "Index Name" in part}
        scanned = {part.get("Relation Name") for part in parts if part["Node Type"] == "Seq Scan"}
        assert scanned.isdisjoint(LARGE - EVERY_ROW.get(name, set())), json.dumps(plan, indent=1)
        assert indexes >= promised_indexes().get(name, set()), json.dumps(plan, indent=1)


WHOLE = {"rescue._HOOKS", "rescue._COUNT_HOOKS", "held._MARK_VANISHED", "held._COUNT_VANISHED"}
"""Statements that read a partial index from its beginning, since they want all that is in it."""


@pytest.mark.postgres
@pytest.mark.parametrize(
    "name",
    cases(*WHOLE),
)
def test_statement_looks_up_what_it_wants_in_an_index_and_reads_no_index_whole(name, full_database):
    for plan in plans_of(name, full_database):
        for part in parts_of(plan):
            if part.get("Relation Name") in LARGE and "Index Name" in part:
                assert "Index Cond" in part, json.dumps(plan, indent=1)


# A partial index that looks empty to the planner, by its statistics, invites it to read all of it.
PARTIAL_BY_ID = {
    "statements.CLAIM",
    "statements.SETTLE",
    "statements.LOCK_DEPENDENTS",
    "statements.LOWER_DEPENDENTS",
    "statements.LOWER_DEPENDENT",
    "statements.HOLD",
    "holds._READY",
    "ledger._ANSWER",
    "ledger._ANSWER_LATE",
    "ledger._END",
    "ledger._GIVE_UP",
    "ledger._NOTE_RESERVED",
    "ledger._FREE",
    "ledger._DECISION",
}


@pytest.mark.postgres
@pytest.mark.parametrize("name", sorted(PARTIAL_BY_ID))
def test_statement_that_knows_an_id_reads_no_partial_index(name, full_database):
    for plan in plans_of(name, full_database):
        for part in parts_of(plan):
            if (table := part.get("Relation Name")) in {"baton_workflownode", "baton_ledgerentry"}:
                assert part.get("Index Name") in {None, f"{table}_pkey"}, json.dumps(plan, indent=1)


@pytest.mark.postgres
@pytest.mark.parametrize("name", ["statements.ENDING", "statements.END_RUN"])
def test_statement_that_knows_a_run_reads_no_partial_index_of_the_runs(name, full_database):
    for plan in plans_of(name, full_database):
        read = {part.get("Index Name") for part in parts_of(plan) if part.get("Relation Name") == "baton_workflowrun"}
        assert read <= {None, "baton_workflowrun_pkey"}, json.dumps(plan, indent=1)


def parts_run_for_each_row(plan: dict[str, Any], *, inside: bool = False) -> Iterator[dict[str, Any]]:
    """The parts of a plan that are run again for each row of another part."""
    if inside:
        yield plan
    for part in plan.get("Plans", []):
        inner = plan["Node Type"] == "Nested Loop" and part["Parent Relationship"] == "Inner"
        yield from parts_run_for_each_row(part, inside=inside or inner or part["Parent Relationship"] == "SubPlan")


@pytest.mark.postgres
@pytest.mark.parametrize(
    "sentence",
    list(invariants._BROKEN),
)
def test_check_of_an_invariant_reads_no_table_again_for_each_row(sentence, full_database):
    plan = plan_of(invariants._BROKEN[sentence], [], "custom")

    for part in parts_run_for_each_row(plan):
        if part.get("Relation Name") in {"baton_workflownode", "baton_workflowedge"}:
            assert "Index Cond" in part, json.dumps(plan, indent=1)


def test_statements_name_their_indexes():
    assert len(promised_indexes()) >= 10
    assert {index for indexes in promised_indexes().values() for index in indexes} >= {
        "baton_node_ready",
        "baton_node_due",
        "baton_node_lease",
        "baton_node_unsettled",
        "baton_edge_dependents",
        "baton_entry_once",
        "baton_entry_calling",
        "baton_stat_once",
        "baton_hold_by_account",
    }
