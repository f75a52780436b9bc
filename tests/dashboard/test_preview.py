"""The pages that ask before a cancel and a re-run."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from baton import Workflow
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps
from tests.factories import LedgerEntryFactory, StepStatFactory, WorkflowNodeFactory, WorkflowRunFactory
from tests.people import client_with

pytestmark = pytest.mark.django_db

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def operator() -> Client:
    return client_with("view_workflowrun", "control_workflowrun")


def asked(client: Client, act: str, run: WorkflowRun, **words: str) -> Any:
    answer = client.get(reverse(f"admin:baton_workflowrun_{act}", args=[run.pk], query=words))
    assert answer.status_code == 200
    return answer


def page(client: Client, run: WorkflowRun, **words: str) -> str:
    answer = client.get(reverse("admin:baton_workflowrun_change", args=[run.pk], query=words))
    assert answer.status_code == 200
    return str(answer.content.decode())


def failed_run() -> WorkflowRun:
    workflow = Workflow("invoice-sync").add("fetch", steps.value.bind(7))
    workflow.add("reconcile", steps.discard, deps=["fetch"]).add("post", steps.value.bind(1), deps=["reconcile"])
    return drain(workflow.insert())


def completed_run() -> WorkflowRun:
    return drain(Workflow("well").add("a", steps.value.bind(1)).add("b", steps.value.bind(2), deps=["a"]).insert())


def lists_of(preview: Any) -> dict[str, list[tuple[str, str]]]:
    return {each.title: [(row.name, row.state) for row in each.rows] for each in preview.lists}


def facts_of(preview: Any) -> dict[str, str]:
    return {fact.name: f"{fact.value} {fact.note}".strip() for fact in preview.facts}


def test_retry_shows_what_runs_again_and_what_keeps_its_result(operator: Client) -> None:
    answer = asked(operator, "retry", failed_run())

    preview = answer.context["preview"]
    assert preview.title == answer.context["title"] == "Retry the failed part"
    assert preview.sentence == "2 steps run again. 1 step stays as it is."
    assert preview.button == "Re-run 2 steps"
    assert lists_of(preview) == {
        "Runs again": [("reconcile", "discarded"), ("post", "cancelled")],
        "Keeps its result": [("fetch", "completed")],
    }
    assert [row.note for row in preview.lists[0].rows][1] == "never ran"
    assert facts_of(preview) == {"They have cost": "— no call of a language model", "Attempts": "start again at 1"}
    assert json.loads(preview.names) == ["reconcile", "post"]
    shown = answer.content.decode()
    assert ' data-steps="[&quot;reconcile&quot;, &quot;post&quot;]"' in shown
    assert ">Re-run 2 steps</button>" in shown
    assert ' style="' not in shown


def test_rerun_from_a_step_names_it(operator: Client) -> None:
    answer = asked(operator, "retry", completed_run(), from_step="b")

    preview = answer.context["preview"]
    assert preview.title == "Re-run from b"
    assert preview.button == "Re-run 1 step"
    assert lists_of(preview) == {"Runs again": [("b", "completed")], "Keeps its result": [("a", "completed")]}


def test_what_stays_failed_is_not_said_to_keep_a_result(operator: Client) -> None:
    run = drain(Workflow("two").add("good", steps.value.bind(1)).add("bad", steps.discard).insert())

    preview = asked(operator, "retry", run, from_step="good").context["preview"]

    assert lists_of(preview)["Stays as it is"] == [("bad", "discarded")]


def test_lists_are_bounded(operator: Client) -> None:
    workflow = Workflow("wide")
    for index in range(45):
        workflow.add(f"page{index}", steps.discard if index < 23 else steps.nothing)
    run = drain(workflow.insert())

    again, kept = asked(operator, "retry", run).context["preview"].lists

    assert (len(again.rows), again.more) == (12, "and 11 more")
    assert (len(kept.rows), kept.more) == (12, "and 10 more")


def test_cost_is_of_the_steps_that_run_again_and_says_what_it_lacks(operator: Client) -> None:
    run = failed_run()
    StepStatFactory.create(node=run.steps["reconcile"])
    StepStatFactory.create(node=run.steps["reconcile"], unpriced=True)
    StepStatFactory.create(node=run.steps["fetch"])
    LedgerEntryFactory.create(node=run.steps["reconcile"], ambiguous=True)

    answer = asked(operator, "retry", run)

    preview = answer.context["preview"]
    assert facts_of(preview)["They have cost"] == "$0.0022 + 1 unpriced and 1 of unknown outcome"
    assert "Answers of language models that are paid for are kept and not paid again." in answer.content.decode()
    assert 'name="new_answers"' in answer.content.decode()


def test_time_and_cost_are_medians_of_the_same_steps_in_five_earlier_runs_or_nothing(operator: Client) -> None:
    run, now = failed_run(), timezone.now()

    def earlier(seconds: int, **more: Any) -> None:
        ended = {"name": "invoice-sync", "completed": True, "inserted_at": now - timedelta(hours=1), "finished_at": now}
        like = WorkflowRunFactory.create(**{**ended, **more})
        for name, began in (("fetch", now - timedelta(minutes=30)), ("reconcile", now)):
            took = {"started_at": began, "settled_at": began + timedelta(seconds=seconds)}
            node = WorkflowNodeFactory.create(run=like, name=name, completed=True, **took)
            StepStatFactory.create(node=node, cost=Decimal(seconds))

    for seconds in (10, 20, 30, 40):
        earlier(seconds)
    earlier(9000, round=2)
    earlier(9000, state="failed")
    earlier(9000, name="other")

    assert facts_of(asked(operator, "retry", run).context["preview"]).keys() == {"They have cost", "Attempts"}
    earlier(50)
    facts = facts_of(asked(operator, "retry", run).context["preview"])

    assert facts["Takes"] == "about 30 s median of 5 earlier runs"
    assert facts["Costs"] == "about $30.00 median of 5 earlier runs, if all answers are new"


def test_cancel_shows_what_stops_what_is_finished_and_what_was_spent(operator: Client) -> None:
    run = Workflow("brief").add("a", steps.value.bind(1)).add("b", steps.nothing, deps=["a"]).insert()
    StepStatFactory.create(node=run.steps["a"])

    answer = asked(operator, "cancel", run)

    preview = answer.context["preview"]
    assert preview.title == "Cancel brief"
    assert preview.sentence == "2 steps are cancelled. Now: 1 available and 1 pending."
    assert lists_of(preview) == {"Stops": [("a", "available"), ("b", "pending")]}
    assert facts_of(preview)["Spent"] == "$0.0022"
    assert json.loads(preview.names) == ["a", "b"]
    shown = answer.content.decode()
    assert ">Cancel run</button>" in shown
    assert ">Let it run</a>" in shown


def test_retry_is_offered_only_where_something_failed(operator: Client) -> None:
    well, failed = completed_run(), failed_run()

    assert "Retry failed part…" not in page(operator, well)
    assert "Retry failed part…" in page(operator, failed)
    assert "Retry failed part…" not in page(client_with("view_workflowrun"), failed)


def test_rerun_is_offered_in_the_panel_of_a_settled_run(operator: Client) -> None:
    well = completed_run()
    running = Workflow("on").add("b", steps.nothing).insert()
    address = reverse("admin:baton_workflowrun_retry", args=[well.pk]) + "?" + urlencode({"from_step": "b"})

    assert f'href="{address}"' in page(operator, well, step="b")
    assert "Re-run from here…" not in page(operator, running, step="b")
    assert "Re-run from here…" not in page(client_with("view_workflowrun"), well, step="b")


def test_names_are_escaped(operator: Client) -> None:
    run = drain(Workflow(EVIL).add(EVIL, steps.discard).insert())

    shown = asked(operator, "retry", run, from_step=EVIL).content.decode()

    assert EVIL not in shown
    assert "&lt;script&gt;" in shown


def test_preview_asks_as_much_of_many_steps_as_of_few(operator: Client) -> None:
    def queries(count: int) -> int:
        workflow = Workflow("many")
        for index in range(count):
            workflow.add(f"s{index}", steps.discard)
        run = drain(workflow.insert())
        with CaptureQueriesContext(connection) as captured:
            asked(operator, "retry", run)
        return len(captured)

    queries(1)
    assert queries(2) == queries(30) <= 16


def test_who_comes_second_is_led_to_the_re_run_that_somebody_else_has_started(operator: Client) -> None:
    run = failed_run()
    run.retry()

    for send in (operator.get, operator.post):
        answer = send(reverse("admin:baton_workflowrun_retry", args=[run.pk]), {"confirmed": "yes"}, follow=True)
        shown = answer.content.decode()
        address = reverse("admin:baton_workflowrun_change", args=[run.pk])
        assert f'Somebody else has started this re-run. <a href="{address}">Here it is.</a>' in shown


def test_run_that_holds_the_key_is_linked(operator: Client) -> None:
    run = drain(Workflow("sync", key="k").add("a", steps.discard).insert())
    other = Workflow("sync", key="k").add("a", steps.nothing).insert()

    answer = operator.get(reverse("admin:baton_workflowrun_retry", args=[run.pk]), follow=True)

    address = reverse("admin:baton_workflowrun_change", args=[other.pk])
    assert f'<a href="{address}">Here it is.</a>' in answer.content.decode()
