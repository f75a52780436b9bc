"""The plans PostgreSQL makes of the queries on 100,000 runs; apart, for every test of this file sees these runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.core.cache import cache
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from baton import queries
from baton.dashboard.changes import counts_of_all
from baton.dashboard.strip import strip_of
from baton.queries import runs

# Also for the fixture: without a test that says so there is no test database.
pytestmark = [pytest.mark.django_db, pytest.mark.postgres]

NOON = datetime(2026, 6, 14, 12, tzinfo=UTC)
RUNS, NAMES = 100_000, 20
MANY_RUNS = f"""
    INSERT INTO baton_workflowrun (id, name, key, state, round, meta, debug, ignore_cancelled, ignore_discarded,
        inserted_at, finished_at, cancel_reason)
    SELECT md5(r::text)::uuid, 'name ' || r % {NAMES}, 'key ' || r,
        CASE WHEN r % 1000 = 0 THEN 'running' WHEN r % 50 = 1 THEN 'failed' WHEN r % 5000 = 2 THEN 'cancelled'
            ELSE 'completed' END,
        1, '{{}}', false, false, false, '2026-06-14 12:00+00'::timestamptz - r * interval '1 minute', NULL, ''
    FROM generate_series(1, {RUNS}) r;

    INSERT INTO baton_workflownode (id, run_id, name, step, state, attempt, max_attempts, queue, priority, remaining,
        n_deps, n_out, ignore_cancelled, ignore_discarded, args, refs, options, has_result, result_json, settled_at,
        changed_at, started_at, fan_group)
    SELECT 10000000 + n, md5((1 + (n - 1) / 2)::text)::uuid, 's' || n % 2, 'tests.steps.nothing', 'completed', 1, 5,
        'default', 0, 0, 0, 0, false, false, '{{}}', '[]', '{{}}', false, NULL, now(), now(), now(), ''
    FROM generate_series(1, {RUNS // 5}) n;

    ANALYZE baton_workflowrun, baton_workflownode;
"""


@pytest.fixture(scope="module")
def many_runs(django_db_setup, django_db_blocker) -> Iterator[None]:
    with django_db_blocker.unblock(), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(MANY_RUNS)
        yield
        transaction.set_rollback(True)
    # What was rolled back lies about until then, and every later test that reads a table whole would read it.
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute("VACUUM baton_workflowrun, baton_workflownode")


def parts_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from parts_of(part)


def scans_of(statement: str, table: str) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
        (found,) = cursor.fetchone()
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    return [part for part in parts_of(plan) if part.get("Relation Name") == table]


def rows_read(scan: dict[str, Any]) -> int:
    return int((scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"])


MIDDLE: dict[str, Any] = {"after": queries._cursor(NOON - timedelta(minutes=RUNS // 2), UUID(int=0))}
WEEK: dict[str, Any] = {"since": NOON - timedelta(days=30), "until": NOON - timedelta(days=23)}


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "baton_run_by_time"),
        (MIDDLE, "baton_run_by_time"),
        (WEEK, "baton_run_by_time"),
        ({"state": "failed"}, "baton_run_by_state"),
        ({"state": "failed", **MIDDLE}, "baton_run_by_state"),
        ({"state": "running", **WEEK}, "baton_run_by_state"),
        ({"state": ["failed", "cancelled"]}, "baton_run_by_state"),
        ({"state": ["failed", "running"], **MIDDLE}, "baton_run_by_state"),
        ({"name": "name 7"}, "baton_run_by_name"),
        ({"name": "name 7", **MIDDLE}, "baton_run_by_name"),
        ({"name": "name 7", **WEEK}, "baton_run_by_name"),
    ],
)
def test_page_of_100_000_runs_is_read_from_its_index_and_no_more_than_a_page_of_it(many_runs, filters, index):
    with CaptureQueriesContext(connection) as captured:
        page = runs(**filters, limit=50)
    scans = scans_of(captured[0]["sql"], "baton_workflowrun")

    assert page.runs
    assert {scan.get("Index Name") for scan in scans} == {index}
    assert sum(map(rows_read, scans)) <= 60
    steps_read = scans_of(captured[1]["sql"], "baton_workflownode")
    assert sum(map(rows_read, steps_read)) <= 2 * len(page.runs)


def test_counts_in_a_window_read_that_window_alone(many_runs):
    with CaptureQueriesContext(connection) as captured:
        page = runs(**WEEK)

    assert sum(map(rows_read, scans_of(captured[2]["sql"], "baton_workflowrun"))) == sum(page.counts.values())


def test_short_ids_look_at_the_neighbours_of_each_alone(many_runs):
    page = runs(limit=50)

    with CaptureQueriesContext(connection) as captured:
        short = queries.short_ids([UUID(run["id"]) for run in page.runs])

    assert len(short) == 50
    assert sum(map(rows_read, scans_of(captured[0]["sql"], "baton_workflowrun"))) <= 3 * 50


@pytest.mark.parametrize("read", [strip_of, counts_of_all])
def test_what_stands_above_the_list_reads_nothing_of_what_is_over(many_runs, read):
    cache.clear()
    with CaptureQueriesContext(connection) as captured:
        read()

    # A hundred runs go on, with twenty steps.
    for query in captured.captured_queries:
        assert sum(map(rows_read, scans_of(query["sql"], "baton_workflowrun"))) <= 100, query["sql"]
        assert sum(map(rows_read, scans_of(query["sql"], "baton_workflownode"))) <= 20, query["sql"]
