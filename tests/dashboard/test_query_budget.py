"""How often a run's page asks the database: numbers of the design, for small runs and for large ones."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from baton.models import BudgetAccount, WorkflowEdge, WorkflowNode, WorkflowRun
from baton.states import RunState
from tests.factories import (
    DebugLogFactory,
    LedgerEntryFactory,
    StepLogFactory,
    StepStatFactory,
    WorkflowRunFactory,
)

pytestmark = pytest.mark.django_db

VIEWS = ("graph", "timeline", "steps", "money", "activity")


def fan(count: int, **fields: Any) -> WorkflowRun:
    """A run of that many steps: one, those that wait for it in a fan-out, and one that waits for all of them."""
    began = timezone.now() - timedelta(minutes=5)
    run = WorkflowRunFactory.create(**{"inserted_at": began, **fields})
    is_over = run.state != RunState.RUNNING
    done = {
        "state": "completed",
        "remaining": 0,
        "attempt": 1,
        "queued_at": began,
        "started_at": began,
        "settled_at": began + timedelta(seconds=9),
        "changed_at": began + timedelta(seconds=9),
        "result_json": "1",
        "has_result": True,
    }
    begins = {"state": "executing", "remaining": 0, "attempt": 1, "queued_at": began, "started_at": began}
    alive = {"worker": "host:1", "lease_until": timezone.now() + timedelta(hours=1), "changed_at": began}
    nodes = [WorkflowNode(run=run, name="split", step="steps.split", n_out=count - 2, **done)]
    for index in range(count - 2):
        is_done = is_over or index % 3
        fan_out = {"fan_group": "page", "fan_index": index, "n_deps": 1, "n_out": 1}
        now = done if is_done else {**begins, **alive}
        nodes.append(WorkflowNode(run=run, name=f"page[{index}]", step="steps.page", **fan_out, **now))
    last = done if is_over else {"state": "pending", "remaining": (count - 2 + 2) // 3}
    nodes.append(WorkflowNode(run=run, name="merge", step="steps.merge", n_deps=count - 2, **last))
    WorkflowNode.objects.bulk_create(nodes, batch_size=2000)
    first, *pages, end = WorkflowNode.objects.of_workflow(run.pk).order_by("id")
    edges = [WorkflowEdge(node=each, dependency=first) for each in pages]
    edges += [WorkflowEdge(node=end, dependency=each) for each in pages]
    WorkflowEdge.objects.bulk_create(edges, batch_size=5000)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE baton_workflownode, baton_workflowedge")  # as a server does by itself, but at once
    return run


def paid(run: WorkflowRun) -> WorkflowRun:
    """Give a run calls and a budget that paid for them."""
    for node in run.nodes.filter(state="completed").order_by("id")[:3]:
        StepStatFactory.create(run=run, node=node, cost=Decimal("0.5"), currency="USD", model="m-1")
    WorkflowRun.objects.filter(pk=run.pk).update(budget=Decimal(12))
    BudgetAccount.objects.create(name=f"run:{run.pk}", spent=Decimal("1.5"), reserved=Decimal(0))
    run.refresh_from_db()
    return run


@pytest.fixture
def boss() -> Client:
    client = Client()
    client.force_login(User.objects.create(username="boss", is_staff=True, is_superuser=True))
    return client


def asked(client: Client, run: WorkflowRun, **params: str) -> list[str]:
    """What a page asks the database."""
    url = reverse("admin:baton_workflowrun_change", args=[run.pk])
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url, params).status_code == 200
    return [query["sql"] for query in captured]


def ended(steps: int) -> WorkflowRun:
    return paid(fan(steps, state=RunState.COMPLETED, finished_at=timezone.now()))


def troubled(steps: int) -> WorkflowRun:
    """A run in which some steps wait for a worker, some are tried again and some failed, which the last accepts."""
    run, now = paid(fan(steps)), timezone.now()
    pages = run.nodes.filter(fan_group="page")
    soon = {"due_at": now + timedelta(minutes=2), "lease_until": None, "worker": "", "error": "TimeoutError: 60 s"}
    pages.filter(fan_index=6).update(state="available", queued_at=now, started_at=None, lease_until=None, attempt=0)
    pages.filter(fan_index=9).update(state="retryable", started_at=None, attempt=2, **soon)
    pages.filter(fan_index=12).update(state="snoozed", started_at=None, **soon)
    pages.filter(fan_index=3).update(state="discarded", settled_at=now, error="BadPDF", lease_until=None, worker="")
    run.nodes.filter(name="merge").update(ignore_discarded=True)
    return run


RUNS: dict[str, Callable[[int], WorkflowRun]] = {
    "without calls": fan,
    "with calls": lambda steps: paid(fan(steps)),
    "in trouble": troubled,
    # Long after its last step, so that the timeline folds the pause and counts its groups a second time.
    "over": ended,
}
# The worst of the four, of which 2 are the admin's own: the session and the user. Who is no superuser asks 2 more, for
# permissions.
LATER = {"graph": 10, "timeline": 12, "steps": 9, "money": 11, "activity": 10}
PANEL = 5


def views_of(kind: str) -> list[str]:
    return [view for view in VIEWS if view != "money" or kind != "without calls"]


@pytest.mark.parametrize("kind", RUNS)
def test_page_of_a_small_run_is_at_most_fifteen_queries(boss, kind):
    run = RUNS[kind](30)

    for view in views_of(kind):
        assert len(asked(boss, run, view=view)) <= 15, view
        assert len(asked(boss, run, view=view)) <= LATER[view], view
        with_step = len(asked(boss, run, view=view, step="page[3]"))
        assert with_step <= min(15, LATER[view] + PANEL), view


@pytest.mark.parametrize("kind", ["in trouble", "over"])
def test_page_of_a_large_run_is_at_most_twenty_queries_and_twelve_later(boss, kind):
    run = RUNS[kind](10_000)

    for view in views_of(kind):
        assert len(asked(boss, run, view=view)) <= 20, view
        assert len(asked(boss, run, view=view)) <= LATER[view] <= 12, view
        # The design's twelve leave no room for the panel of a step beside the timeline or the list of calls.
        most = 12 if view == "graph" else min(15, LATER[view] + PANEL)
        assert len(asked(boss, run, view=view, step="page[3]")) <= most, view

    address = reverse("admin:baton_workflowrun_change", args=[run.pk])
    for params in ({}, {"step": "page[3]"}):
        html = boss.get(address, params).content
        assert len(html) <= 40_000
        assert len(gzip.compress(html)) <= 9_000
        assert len(re.findall(rb"<[a-z]", html)) <= 700


def test_permissions_of_who_is_no_superuser_cost_two_more(boss):
    run = ended(30)
    viewer = User.objects.create(username="viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(content_type__app_label="baton"))
    client = Client()
    client.force_login(viewer)

    for view in VIEWS:
        asked(boss, run, view=view)
        assert len(asked(client, run, view=view)) == len(asked(boss, run, view=view)) + 2


def test_run_without_calls_pays_nothing_for_money(boss):
    run = fan(30)

    for params in ({}, {"step": "page[3]"}):
        asked(boss, run, **params)
        later = asked(boss, run, **params)
        aside = [sql for sql in later if "baton_workflowrun" not in sql]
        for table in ("baton_stepstat", "baton_ledgerentry", "baton_budgetaccount", "baton_debuglog"):
            assert not [sql for sql in aside if table in sql]


def test_run_is_read_once(boss):
    run = fan(30)
    asked(boss, run)

    later = asked(boss, run)

    assert len([sql for sql in later if 'FROM "baton_workflowrun"' in sql]) == 1


def test_what_is_stored_is_read_only_where_it_is_asked_for(boss):
    run = ended(30)

    assert not [sql for sql in asked(boss, run, view="steps") if "baton_completion" in sql]
    assert [sql for sql in asked(boss, run, everything="1") if "baton_completion" in sql]


def test_panel_of_a_step_is_at_most_six_queries_with_logs_and_unknown_calls(boss):
    run = ended(30)
    node = run.nodes.get(name="page[3]")
    before = len(asked(boss, run, view="steps"))
    LedgerEntryFactory.create(node=node, run=run, ambiguous=True)
    DebugLogFactory.create(run=run, node=node, request={"prompt": "a"})
    DebugLogFactory.create(run=run, node=run.nodes.get(name="page[4]"), request={"prompt": "b"})
    StepLogFactory.create(node=node)

    assert len(asked(boss, run, view="steps", step="page[3]")) - before <= 6
