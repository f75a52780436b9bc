"""The panel of a step: its executions, what it was given and gave, what its calls cost, and what needs a permission."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from baton.models import Hold, WorkflowNode, WorkflowRun
from baton.states import HoldKind
from tests.factories import DebugLogFactory, StepStatFactory, WorkflowNodeFactory, WorkflowRunFactory
from tests.people import client_with

pytestmark = pytest.mark.django_db

ALL = ("view_workflowrun", "view_workflownode", "view_stepstat", "view_debuglog")
LONG = json.dumps({"rows": ["row " * 5] * 2500})


@pytest.fixture
def reader() -> Client:
    return client_with(*ALL)


def page_of(client: Client, node: WorkflowNode, **words: str) -> Any:
    url = reverse("admin:baton_workflowrun_change", args=[node.run_id])
    answer = client.get(url, {"view": "steps", "step": node.name, **words})
    assert answer.status_code == 200
    return answer


def panel_of(client: Client, node: WorkflowNode, **words: str) -> Any:
    return page_of(client, node, **words).context["page"].panel


def opened(page: str) -> set[str]:
    """The titles of the sections that are open."""
    return set(re.findall(r'<details data-key="[a-z]+" open><summary>([A-Z][A-Za-z ]+[a-z])', page))


def execution(
    began: datetime, outcome: str, *, number: int, error: str | None = None, count: int = 1
) -> dict[str, Any]:
    """An execution that waited for a second and ran for two."""
    queued, started, ended = (began + timedelta(seconds=each) for each in (0, 1, 3))
    times = {"queued_at": queued.isoformat(), "started_at": started.isoformat(), "ended_at": ended.isoformat()}
    return {"number": number, "worker": "w-1", "outcome": outcome, "error": error, "count": count, **times}


def tried_step() -> WorkflowNode:
    """A step that failed, slept twice, lost its worker and failed for good."""
    began = timezone.now() - timedelta(minutes=10)
    log = [
        execution(began, "failed", number=1, error="ConnectTimeout: ledger.internal\nmore"),
        execution(began + timedelta(seconds=60), "snoozed", number=2, count=2),
        execution(began + timedelta(seconds=180), "worker_lost", number=2, error="the worker vanished"),
        execution(began + timedelta(seconds=240), "failed", number=3, error="ConnectTimeout: ledger.internal"),
    ]
    return WorkflowNodeFactory.create(
        discarded=True, attempt=3, max_attempts=3, attempt_log=log, error="ConnectTimeout: ledger.internal"
    )


def test_executions_are_a_table_with_naps_and_vanished_workers_in_between(reader: Client) -> None:
    panel = panel_of(reader, tried_step())

    assert [(each.number, each.shape, each.ended, each.queued, each.ran) for each in panel.attempts] == [
        ("3", "discarded", "ConnectTimeout", "1.0 s", "2.0 s"),
        ("2", "warning", "worker lost", "1.0 s", "2.0 s"),
        ("—", "snoozed", "snoozed 2 times, 1 m 59 s in all", "", ""),
        ("1", "discarded", "ConnectTimeout", "1.0 s", "2.0 s"),
    ]
    assert panel.executions == "3"


def test_panel_opens_by_itself_for_what_failed_first_or_has_waited_longest_for_a_person(reader: Client) -> None:
    run = WorkflowRunFactory.create()
    for name, minutes in (("later", 1), ("first", 5)):
        node = WorkflowNodeFactory.create(run=run, name=name, state="snoozed", remaining=0)
        since = timezone.now() - timedelta(minutes=minutes)
        Hold.objects.create(node=node, run=run, kind=HoldKind.QUESTION, since=since)
    failed = WorkflowRunFactory.create(state="failed", finished_at=timezone.now())
    for name, minutes in (("late", 1), ("early", 5)):
        settled_at = timezone.now() - timedelta(minutes=minutes)
        WorkflowNodeFactory.create(run=failed, name=name, discarded=True, settled_at=settled_at)

    def opened_of(run: WorkflowRun, **words: str) -> str | None:
        panel = reader.get(reverse("admin:baton_workflowrun_change", args=[run.pk]), words).context["page"].panel
        return None if panel is None else str(panel.node.name)

    assert opened_of(run) == "first"
    assert opened_of(failed) == "early"
    assert opened_of(run, step="") is None
    assert opened_of(run, step="later") == "later"
    assert opened_of(WorkflowNodeFactory.create(executing=True).run) is None


def test_sections_that_answer_the_state_are_open(reader: Client) -> None:
    failed = page_of(reader, tried_step()).content.decode()
    done = WorkflowNodeFactory.create(completed=True, has_result=True, result_json="[1]", args={"url": "x"})

    assert opened(failed) == {"Error", "Attempts"}
    assert opened(page_of(reader, done).content.decode()) == {"Result"}


def test_long_value_is_cut_and_shown_whole_where_it_is_asked_for(reader: Client) -> None:
    node = WorkflowNodeFactory.create(
        completed=True, has_result=True, result_json=LONG, args={"text": "<b>" + "y" * 5_000}
    )

    cut = page_of(reader, node)
    result, args = cut.context["page"].panel.result, cut.context["page"].panel.args
    shown = cut.content.decode()

    assert len(result.text) == len(args.text) == 4_000
    assert "Show all 60 kB" in shown
    assert "Show all 5 kB" in shown
    assert "<b>yyy" not in shown
    whole = reader.get(reverse("admin:baton_workflowrun_change", args=[node.run_id]) + result.more)
    asked = whole.context["page"].panel
    assert json.loads(asked.result.text) == json.loads(LONG)
    assert asked.args.text == args.text
    assert "Show less" in whole.content.decode()
    assert "whole" not in asked.result.less
    given = panel_of(reader, node, whole="args")
    assert json.loads(given.args.text) == node.args
    assert "args" in given.opens


def test_what_can_be_copied_has_a_button_that_names_it(reader: Client) -> None:
    node = WorkflowNodeFactory.create(completed=True, has_result=True, result_json="[1]", args={"a": 1})
    DebugLogFactory.create_batch(2, node=node, request={"prompt": "a"}, response={"text": "b"})

    shown = page_of(reader, node).content.decode()

    targets = re.findall(r'data-copy="#(b-[a-z0-9-]+)"', shown)
    assert {"b-run-id", "b-result", "b-args", "b-request1", "b-response1", "b-request2"} <= set(targets)
    assert len(targets) == len(set(targets))
    for target in targets:
        assert len(re.findall(rf' id="{target}"', shown)) == 1


def test_cost_of_a_step_says_what_it_lacks(reader: Client) -> None:
    node = WorkflowNodeFactory.create(executing=True)
    StepStatFactory.create(node=node, cost=Decimal("0.0121"))
    StepStatFactory.create(node=node, unpriced=True)

    assert dict(panel_of(reader, node).facts)["Cost"] == "$0.0121 + 1 unpriced so far"


def test_who_sees_less_is_told_which_permission_shows_more() -> None:
    node = WorkflowNodeFactory.create(completed=True, has_result=True, result_json='"secret"', args={"a": "hidden"})
    StepStatFactory.create(node=node)
    DebugLogFactory.create(node=node, request={"prompt": "told"})

    answer = page_of(client_with("view_workflowrun"), node)

    assert answer.context["page"].panel.needed == [
        "Arguments, result, error and logs need the permission “Can view step”.",
        "Calls of language models need the permission “Can view step stat”.",
        "Captured prompts need the permission “Can view debug log”.",
    ]
    shown = answer.content.decode()
    assert "Captured prompts need the permission “Can view debug log”." in shown
    for secret in ("secret", "hidden", "told"):
        assert f"&quot;{secret}&quot;" not in shown
    assert panel_of(client_with(*ALL), node).needed == []


def test_what_sentences_are_about_stands_out_and_their_text_is_the_same(reader: Client) -> None:
    node = tried_step()
    WorkflowNode.objects.filter(pk=node.pk).update(name="<b>", n_out=0)
    node.run.state = "failed"
    node.run.save(update_fields={"state"})
    node.refresh_from_db()

    answer = page_of(reader, node)

    header = answer.context["page"].header
    assert "".join(text for text, _tag in header.said) == header.headline == node.run.headline()
    assert header.said[0] == ("<b>", "strong")
    assert "<strong>&lt;b&gt;</strong> was discarded after 3 attempts" in answer.content.decode()
    assert "".join(text for text, _tag in answer.context["page"].panel.why) == node.explain()


def test_step_that_runs_is_told_how_long_such_steps_usually_take(reader: Client) -> None:
    node = WorkflowNodeFactory.create(executing=True, step="steps.page")
    began = timezone.now() - timedelta(hours=1)

    def said() -> str:
        cache.clear()
        return "".join(text for text, _is_strong in panel_of(reader, node).why)

    for seconds in (10, 20, 30, 40, 50):
        assert "of its past runs" not in said()
        run = WorkflowRunFactory.create(completed=True, inserted_at=began)
        took = {"started_at": began, "settled_at": began + timedelta(seconds=seconds)}
        WorkflowNodeFactory.create(run=run, completed=True, step="steps.page", **took)

    assert said().endswith("80 % of its past runs took at most 40 s.")
