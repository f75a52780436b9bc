"""The plans PostgreSQL makes of Baton's statements on a database full of settled runs."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from baton import Workflow
from baton.engine import statements
from baton.engine.statements import Statement
from baton.models import WorkflowRun
from baton.sweep import backstop, invariants, lease, rescue, retention, waiters
from tests import steps

# Also for the fixture: without a test that says so there is no test database.
pytestmark = pytest.mark.django_db

MODULES: list[ModuleType] = [statements, backstop, lease, rescue, retention, waiters]
RUNS, STEPS = 1000, 100

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

    ANALYZE baton_workflowrun, baton_workflownode, baton_workflowedge, baton_completion, baton_debuglog;
"""


def named_statements() -> dict[str, Statement]:
    """Every statement of the engine and of the sweep, by module and name."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": value
        for module in MODULES
        for name, value in vars(module).items()
        if isinstance(value, Statement)
    }


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
        cursor.execute(
            "VACUUM baton_workflowrun, baton_workflownode, baton_workflowedge, baton_completion, baton_debuglog"
        )


NOW = datetime(2026, 6, 14, tzinfo=UTC)
SOME_RUN = UUID(int=1)


def parameters(run: WorkflowRun) -> dict[str, list[Any]]:
    """Parameters as the engine gives them, by statement."""
    ready, waiting = run.steps["ready 500"].pk, run.steps["waits 500"].pk
    settled = ["completed", False, None, None, "", "[]", None, ready, 1, False]
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
        "statements.INSERT_RUN": [SOME_RUN, "n", "k", "{}", False, False, False, "", SOME_RUN],
        "statements.TAKE_IDS": [3],
        "backstop._UNFINISHED": [1000],
        "backstop._READY_QUEUE": [""],
        "backstop._HAS_WAITED": [-2.0, "default"],
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


def cases(*left_out: str) -> list[str]:
    """The names of the statements."""
    return sorted(set(named_statements()) - {"statements.LAST_ID", *left_out})


@pytest.mark.postgres
@pytest.mark.parametrize("name", cases())
def test_statement_uses_the_index_it_names_and_scans_neither_steps_nor_edges(name, full_database):
    for plan in plans_of(name, full_database):
        parts = list(parts_of(plan))
        indexes = {part["Index Name"] for part in parts if "Index Name" in part}
        scanned = {part.get("Relation Name") for part in parts if part["Node Type"] == "Seq Scan"}
        assert scanned.isdisjoint({"baton_workflownode", "baton_workflowedge"}), json.dumps(plan, indent=1)
        assert indexes >= promised_indexes().get(name, set()), json.dumps(plan, indent=1)


WHOLE = {"rescue._HOOKS", "rescue._COUNT_HOOKS"}
"""Statements that read a partial index of the steps from its beginning, since they want all that is in it."""


@pytest.mark.postgres
@pytest.mark.parametrize(
    "name",
    cases(*WHOLE),
)
def test_statement_looks_up_what_it_wants_in_an_index_and_reads_no_index_whole(name, full_database):
    for plan in plans_of(name, full_database):
        for part in parts_of(plan):
            if part.get("Relation Name") in {"baton_workflownode", "baton_workflowedge"} and "Index Name" in part:
                assert "Index Cond" in part, json.dumps(plan, indent=1)


# A partial index that looks empty to the planner, by its statistics, invites it to read all of it.
PARTIAL_BY_ID = {
    "statements.CLAIM",
    "statements.SETTLE",
    "statements.LOCK_DEPENDENTS",
    "statements.LOWER_DEPENDENTS",
    "statements.LOWER_DEPENDENT",
}


@pytest.mark.postgres
@pytest.mark.parametrize("name", sorted(PARTIAL_BY_ID))
def test_statement_that_knows_an_id_reads_no_partial_index_of_the_steps(name, full_database):
    for plan in plans_of(name, full_database):
        read = {part.get("Index Name") for part in parts_of(plan) if part.get("Relation Name") == "baton_workflownode"}
        assert read <= {None, "baton_workflownode_pkey"}, json.dumps(plan, indent=1)


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
    }
