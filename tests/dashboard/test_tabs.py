"""The tabs of steps and of activity: what they list, what of it can be chosen, and in which words."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from baton import Workflow
from baton.dashboard.changes import changes_since
from baton.explain.words import clock
from baton.models import WorkflowNode, WorkflowRun
from baton.testing import drain
from tests import steps
from tests.factories import StepStatFactory, WorkflowNodeFactory, WorkflowRunFactory
from tests.people import client_with, user_with

pytestmark = pytest.mark.django_db


@pytest.fixture
def reader() -> Client:
    return client_with("view_workflowrun", "view_workflownode", "view_stepstat")


def tab_of(client: Client, run: WorkflowRun, view: str, **words: str) -> Any:
    answer = client.get(reverse("admin:baton_workflowrun_change", args=[run.pk]), {"view": view, **words})
    assert answer.status_code == 200
    return answer.context["page"].tab


def tried_twice(run: WorkflowRun, name: str) -> WorkflowNode:
    """A step that failed a minute ago, was tried again ten seconds later and is discarded."""
    log = []
    for number, ago in ((1, 60), (2, 50)):
        began = timezone.now() - timedelta(seconds=ago)
        times = {
            "queued_at": began.isoformat(),
            "started_at": (began + timedelta(seconds=1)).isoformat(),
            "ended_at": (began + timedelta(seconds=2)).isoformat(),
        }
        log.append(
            {"number": number, "worker": "w:1", "outcome": "failed", "error": "OSError: no", "count": 1, **times}
        )
    return WorkflowNodeFactory.create(run=run, name=name, discarded=True, attempt=2, max_attempts=2, attempt_log=log)


def test_steps_have_what_their_calls_cost_and_in_which_attempt_they_are(reader: Client) -> None:
    run = WorkflowRunFactory.create()
    asked = WorkflowNodeFactory.create(run=run, name="ask", executing=True, max_attempts=8)
    WorkflowNodeFactory.create(run=run, name="wait")
    StepStatFactory.create(node=asked, cost=Decimal("0.25"))
    StepStatFactory.create(node=asked, unpriced=True)

    tab = tab_of(reader, run, "steps")

    assert [(row["node"].name, row["tried"], row["cost"]) for row in tab.rows] == [
        ("ask", "1 of 8", "$0.2500 + 1 unpriced"),
        ("wait", "0 of 5", "—"),
    ]
    assert tab.shown == "2 of 2 shown, executing first."


@pytest.mark.parametrize(
    ("given", "shown", "drawn"),
    [
        ([0.5, 2.0, "half"], "half 0.5 of 2.0", 0.25),
        ([7], "7", None),
        (["2.5", "10"], "2.5 of 10", 0.25),
        (["2.5"], "2.5", None),
        ([None, None, "soon"], "soon", None),
        (["a", "b", 5], "5 a of b", None),
        ([[1], {}, ["x"]], "['x'] [1] of {}", None),
        ([10**400], f"1{'0' * 299}…", None),
        ([10**400, 10**400], f"1{'0' * 299}…", None),
        ([1, 0], "1 of 0", None),
        ([1, None, "a\x00\ud800"], "a\x00\\ud800 1", None),
        ([1, None, "long " * 100_000], f"{('long ' * 60).rstrip()}… 1", None),
    ],
)
def test_whatever_a_body_reports_as_its_progress_is_shown(
    reader: Client, given: list[Any], shown: str, drawn: float | None
) -> None:
    run = drain(Workflow("x").add("a", steps.report_as.bind(given)).insert())
    WorkflowNode.objects.update(state="executing", settled_at=None, worker="w:1")

    for view in ("graph", "timeline", "activity"):
        tab_of(reader, run, view, step="a")
    (row,) = tab_of(reader, run, "steps", step="a").rows
    (told,) = changes_since(run, timezone.now())["steps"]

    assert row["now"] == told["now"] == f"on w:1, {shown}"
    assert (told["progress"] and told["progress"]["current"] / told["progress"]["total"]) == drawn


@pytest.mark.parametrize(
    ("permissions", "text", "is_found"),
    [
        ("view_workflowrun", "IS BAD", True),
        ("view_workflowrun", "password", False),
        ("view_workflowrun", "far", False),
        ("view_workflowrun view_workflownode", "password", True),
    ],
)
def test_search_finds_no_more_of_an_error_than_the_reader_may_see(permissions: str, text: str, is_found: bool) -> None:
    run, error = WorkflowRunFactory.create(), "ValueError: row 17 is bad\npassword"
    WorkflowNodeFactory.create(run=run, name="page[0]", discarded=True, error=error)
    WorkflowNodeFactory.create(run=run, name="page[1]", discarded=True, error="x" * 300 + "far")
    for number in range(2, 12):
        WorkflowNodeFactory.create(run=run, name=f"page[{number}]", discarded=True, error=None)
    reader = client_with(*permissions.split())

    tab = tab_of(reader, run, "steps", q=text)
    group = tab_of(reader, run, "graph", step="", group="twins:page[0]", child=text).group

    assert [bool(tab.rows), bool(group.children)] == [is_found, is_found]


def test_steps_say_in_a_few_words_why_they_are_where_they_are(reader: Client) -> None:
    run, later = WorkflowRunFactory.create(), timezone.now() + timedelta(hours=1)
    add = WorkflowNodeFactory.create
    add(run=run, name="a", retryable=True, error="RateLimitError: slow down\nmore", due_at=later)
    add(run=run, name="b", executing=True, progress={"current": 44, "total": 60, "message": "line"})
    add(run=run, name="c", snoozed=True, due_at=later)
    add(run=run, name="d", snoozed=True, due_at=later, not_before=later)
    add(run=run, name="e", snoozed=True, due_at=None)
    add(run=run, name="f", n_deps=3, remaining=2)

    rows = tab_of(reader, run, "steps").rows

    assert {row["node"].name: row["now"] for row in rows} == {
        "a": f"RateLimitError, again at {clock(later)}",
        "b": "on elsewhere:1, line 44 of 60",
        "c": f"until {clock(later)}, asked by the step",
        "d": f"not before {clock(later)}, as inserted",
        "e": "held",
        "f": "waits for 2 of 3",
    }


def test_costs_of_steps_are_no_column_where_there_are_none(reader: Client) -> None:
    node = WorkflowNodeFactory.create()

    assert not tab_of(reader, node.run, "steps").has_costs


def test_activity_tells_what_happened_newest_first(reader: Client) -> None:
    run = WorkflowRunFactory.create(meta={"by": "maria"}, inserted_at=timezone.now() - timedelta(minutes=5))
    tried_twice(run, "load")

    events = tab_of(reader, run, "activity").events

    assert [(each.word, each.step, each.text, each.by) for each in events] == [
        ("discarded", "load", "OSError: no", ""),
        ("executing", "load", "attempt 2 on w:1, queued 1.0 s", ""),
        ("retryable", "load", "OSError: no; again after 8.0 s", ""),
        ("executing", "load", "attempt 1 on w:1, queued 1.0 s", ""),
        ("inserted", "", "1 step, 0 dependencies", "maria"),
    ]


def test_activity_tells_of_steps_that_were_cancelled_without_an_execution(reader: Client) -> None:
    run = drain(
        Workflow("orders")
        .add("reconcile", steps.fail, max_attempts=1)
        .add("publish", steps.value, deps=["reconcile"])
        .insert()
    )
    naps = Workflow("naps").add("nap", steps.value).add("other", steps.value, deps=["nap"]).insert()
    nap = naps.steps["nap"]
    slept = {"number": 1, "worker": "w:1", "outcome": "snoozed", "error": None, "count": 1, "queued_at": None}
    nap.attempt_log = [{**slept, "started_at": timezone.now().isoformat(), "ended_at": timezone.now().isoformat()}]
    nap.save(update_fields=["attempt_log"])
    naps.cancel("enough")

    def events(run: WorkflowRun) -> list[tuple[str, str, str]]:
        return [(each.word, each.step, each.text) for each in tab_of(reader, run, "activity", kind="cancelled").events]

    assert events(run) == [("cancelled", "publish", "dependency 'reconcile' was discarded")]
    assert sorted(events(naps)) == [
        ("cancelled", "", ""),
        ("cancelled", "nap", "enough"),
        ("cancelled", "other", "enough"),
    ]


def test_activity_is_filtered_by_kind_and_by_step(reader: Client) -> None:
    run = WorkflowRunFactory.create()
    for name in ("load", "store"):
        tried_twice(run, name)
    LogEntry.objects.create(
        user=user_with(),
        content_type=ContentType.objects.get_for_model(WorkflowRun),
        object_id=str(run.pk),
        object_repr="run",
        action_flag=CHANGE,
        change_message="Cancelled.",
    )

    def words(**asked: str) -> set[tuple[str, str]]:
        return {(each.word, each.step) for each in tab_of(reader, run, "activity", **asked).events}

    assert words(kind="discarded") == {("discarded", "load"), ("discarded", "store")}
    assert words(kind="person") == {("by hand", "")}
    assert words(of="stor", kind="retryable") == {("retryable", "store")}
    assert words(kind="nonsense") == words()
    nothing = reader.get(
        reverse("admin:baton_workflowrun_change", args=[run.pk]), {"view": "activity", "of": "<b>nowhere"}
    ).content.decode()
    assert "Nothing of that kind has happened." in nothing
    assert "Clear the filters." in nothing
    assert "<b>nowhere" not in nothing
