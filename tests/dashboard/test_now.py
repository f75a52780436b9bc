"""The page Now: what is to do, who serves what, what fails, what is slow, what it costs."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from baton.dashboard.now import now_page
from tests.factories import QueueSightingFactory, StepStatFactory, WorkflowNodeFactory, WorkflowRunFactory
from tests.people import client_with

pytestmark = pytest.mark.django_db

EVIL = "<script>alert(1)</script>"


def page() -> str:
    answer = client_with("view_workflowrun").get(reverse("admin:baton_workflowrun_now"))
    assert answer.status_code == 200
    return answer.content.decode()


def test_an_empty_project_has_a_page() -> None:
    shown = page()

    assert "Nothing has failed." in shown
    assert "Nothing was spent this week." in shown
    assert ' style="' not in shown


def test_a_queue_that_nobody_serves_is_the_first_thing_to_do(monkeypatch) -> None:
    monkeypatch.setattr("baton.q2.waiting_bells", lambda queue: 2)
    since = timezone.now() - timedelta(seconds=200)
    WorkflowNodeFactory.create(available=True, queue="mail", queued_at=since)

    now = now_page()

    assert now.todos[0].what == "No worker serves queue mail"
    assert now.todos[0].command == "Q_CLUSTER_NAME=mail python manage.py qcluster"
    row = next(row for row in now.queues if row["queue"].name == "mail")
    assert row["clear"] == "never, as it stands"


def test_a_sweep_that_was_never_seen_is_something_to_do() -> None:
    assert [todo.what for todo in now_page().todos] == ["Nobody sweeps"]


@pytest.mark.parametrize(("age", "todos"), [(0, []), (600, ["Nobody sweeps"])])
def test_where_all_is_new_a_scheduled_sweep_is_not_missed_yet(settings: Any, age: int, todos: list[str]) -> None:
    settings.BATON = {**settings.BATON, "SWEEP_SCHEDULE": True}
    WorkflowRunFactory.create(completed=True, inserted_at=timezone.now() - timedelta(seconds=age))

    assert [todo.what for todo in now_page().todos] == todos


def test_hosts_where_workers_are_busy_are_clusters_too() -> None:
    lease = {"executing": True, "lease_until": timezone.now() + timedelta(minutes=1)}
    for turn in range(3):
        WorkflowNodeFactory.create(worker=f"ocr1:{turn}", queue="ocr", **lease)
    QueueSightingFactory.create(host="web1", queue="default")
    QueueSightingFactory.create(host="old", queue="mail", seen_at=timezone.now() - timedelta(hours=1))

    clusters = now_page().clusters

    assert [(each["host"], each["queue"], each["busy"], each["icon"]) for each in clusters] == [
        ("ocr1", "ocr", "3 busy", "executing"),
        ("web1", "default", "", "available"),
        ("old", "mail", "", "pending"),
    ]


def test_failures_are_grouped_by_what_they_failed_with() -> None:
    at = timezone.now() - timedelta(minutes=12)
    for index in range(3):
        fields = {"state": "discarded", "settled_at": at, "remaining": 0, "error_key": "ConnectTimeout: ledger"}
        WorkflowNodeFactory.create(name=f"reconcile{index}", step="ledger.reconcile", **fields)
    WorkflowNodeFactory.create(state="discarded", settled_at=at - timedelta(days=2), remaining=0, error_key="Old")

    groups = now_page().errors

    assert [(group["key"], group["count"], group["runs"]) for group in groups] == [("ConnectTimeout: ledger", "3", 3)]
    assert groups[0]["step"] == "ledger.reconcile"
    assert re.fullmatch(r"1\d m \d+ s ago", groups[0]["last"])
    assert len(groups[0]["bars"]) == 24
    assert sum(bar.height > 1 for bar in groups[0]["bars"]) == 1


def test_errors_that_were_retried_count_too() -> None:
    def execution(ago: timedelta, error: str | None) -> dict[str, Any]:
        return {"ended_at": (timezone.now() - ago).isoformat(), "error": error}

    hour, late = timedelta(hours=1), timedelta(hours=30)
    log = [execution(late, "HTTP 429 from 7"), execution(hour, "HTTP 429 from 7"), execution(hour, "HTTP 429 from 8")]
    completed = {"state": "completed", "settled_at": timezone.now(), "remaining": 0}
    WorkflowNodeFactory.create(
        name="a b", step="a.b", attempt=4, attempt_log=[*log, execution(hour, None)], **completed
    )
    discarded = completed | {"state": "discarded", "error_key": "TypeError: no"}
    WorkflowNodeFactory.create(
        attempt=2, attempt_log=[execution(hour, "HTTP 429 from 9"), execution(hour, "TypeError: no")], **discarded
    )

    groups = now_page().errors

    assert [(group["count"], group["retried"], group["runs"]) for group in groups] == [("3", "3", 2), ("1", "", 1)]
    assert [group["key"] for group in groups] == ["HTTP # from #", "TypeError: no"]
    assert "?step=" in groups[0]["address"]
    assert "error_key=TypeError" in groups[1]["address"]


def test_the_slowest_functions_stand_first() -> None:
    run, now = WorkflowRunFactory.create(), timezone.now()
    for index in range(20):
        for step, seconds in (("slow", 60 + index), ("quick", 1)):
            times = {"started_at": now - timedelta(seconds=seconds), "settled_at": now}
            WorkflowNodeFactory.create(
                run=run, name=f"{step}{index}", step=step, state="completed", remaining=0, **times
            )

    slowest = now_page().slowest

    assert [(row["step"], row["count"], row["p50"], row["p95"]) for row in slowest] == [
        ("slow", "20", "1 m 10 s", "1 m 19 s"),
        ("quick", "20", "1.0 s", "1.0 s"),
    ]


def test_spend_is_told_by_day_and_by_the_dearest_models() -> None:
    node, now = WorkflowNodeFactory.create(), timezone.now()
    for model, cost, days in (("big", 9, 0), ("big", 3, 1), ("mid", 2, 0), ("small", 1, 0), ("tiny", 1, 3)):
        at = now - timedelta(days=days)
        StepStatFactory.create(run=node.run, node=node, model=model, cost=Decimal(cost), currency="USD", at=at)
    StepStatFactory.create(run=node.run, node=node, model="odd", unpriced=True, at=now)

    shown = now_page()

    assert [(each["name"], each["spent"]) for each in shown.models] == [
        ("big", "$12.00"),
        ("mid", "$2.00"),
        ("small", "$1.00"),
        ("other models", "$1.00"),
    ]
    assert len(shown.days) == 7
    assert shown.days[-1].total == "$12.00"
    assert shown.unpriced == "+ 1 unpriced"


def test_what_is_shown_is_escaped() -> None:
    at = timezone.now()
    fields = {"state": "discarded", "settled_at": at, "remaining": 0, "error_key": EVIL, "step": EVIL, "queue": EVIL}
    WorkflowNodeFactory.create(**fields)
    QueueSightingFactory.create(host=EVIL)

    assert EVIL not in page()


def test_who_may_not_see_runs_sees_nothing() -> None:
    url = reverse("admin:baton_workflowrun_now")

    assert client_with("view_completion").get(url).status_code == 403
    assert Client().get(url).status_code == 302


def test_it_takes_as_many_queries_for_many_steps_as_for_few() -> None:
    run = WorkflowRunFactory.create()

    def queries() -> int:
        cache.clear()
        with CaptureQueriesContext(connection) as captured:
            now_page()
        return len(captured)

    few = queries()
    for index in range(60):
        fields = {"state": "discarded", "settled_at": timezone.now(), "remaining": 0, "error_key": f"E{index % 5}"}
        WorkflowNodeFactory.create(run=run, name=f"s{index}", **fields)

    assert queries() <= few + 1
    assert few <= 16
