"""The admin's pages on which people give a run another budget, and decide on calls of unknown outcome."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from baton import Workflow
from baton.models import LedgerEntry, WorkflowRun
from baton.testing import drain
from tests.llm import scripted
from tests.people import client_with
from tests.test_admin import VIEWS, page_of, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]


@pytest.fixture
def operator() -> Client:
    return client_with(*VIEWS, "control_workflowrun")


def held_for_money() -> WorkflowRun:
    return drain(Workflow("w", budget="0.5").add("a b", scripted.asks.bind(model="fixed", max_cost=1)).insert())


def held_for_a_person(name: str = "a b") -> WorkflowRun:
    scripted.SCRIPT[:] = [TimeoutError("no answer")]
    return drain(Workflow("w").add(name, scripted.asks.bind(on_ambiguous="ask", model="fixed")).insert())


def budget_of(run: WorkflowRun) -> str:
    return reverse("admin:baton_workflowrun_budget", args=[run.pk])


def decision_on(run: WorkflowRun, **query: Any) -> str:
    return reverse("admin:baton_workflowrun_decide", args=[run.pk], query=query or {"step": next(iter(run.steps))})


def test_page_of_a_held_run_leads_to_its_budget_which_says_what_is_held(operator):
    run = held_for_money()

    assert budget_of(run) in text_of(operator, page_of(run))

    page = text_of(operator, budget_of(run))
    assert "1 step is held for want of money." in page
    assert 'value="0.5"' in page


def test_new_budget_lets_held_steps_go_on_and_is_noted(operator):
    run = held_for_money()

    page = text_of(operator, budget_of(run), budget="2.5")

    run.refresh_from_db()
    assert run.budget == Decimal("2.5")
    assert "The budget is €2.50 now. 1 step can go on." in page
    assert run.steps["a b"].state == "available"
    assert [each.change_message for each in LogEntry.objects.all()] == ["Changed the budget from €0.5000 to €2.50."]


def test_empty_budget_is_none(operator):
    run = held_for_money()

    assert "The budget is none now." in text_of(operator, budget_of(run), budget=" ")

    run.refresh_from_db()
    assert run.budget is None


@pytest.mark.parametrize("wrong", ["-1", "much", "NaN", "9000001"])
def test_wrong_budget_is_asked_for_again_and_nothing_changes(operator, wrong):
    run = held_for_money()

    page = text_of(operator, budget_of(run), budget=wrong)

    assert "The budget was not changed" in page
    run.refresh_from_db()
    assert (run.budget, run.steps["a b"].state) == (Decimal("0.5"), "snoozed")
    assert not LogEntry.objects.exists()


def test_pages_of_run_and_step_lead_to_the_question_of_the_step(operator):
    run = held_for_a_person("a b\n&c")
    where = decision_on(run)

    for page in (page_of(run), page_of(run.steps["a b\n&c"])):
        assert f"{where.partition('?')[0]}?step=a%20b%0A%26c" in text_of(operator, page)
    page = text_of(operator, where)
    assert "TimeoutError: no answer" in page
    assert "Calling again may pay twice." in page


@pytest.mark.parametrize(("decision", "state"), [("pay", "completed"), ("fail", "failed")])
def test_decision_is_done_and_noted(operator, decision, state):
    run = held_for_a_person()

    page = text_of(operator, decision_on(run), decision=decision)

    note = LogEntry.objects.get().change_message
    assert note in page
    assert (
        note
        == {
            "pay": "Decided that these calls of step a b are made again: k.",
            "fail": "Decided that these calls fail step a b: k.",
        }[decision]
    )
    assert LedgerEntry.objects.get().resolved_by == "user0"
    scripted.SCRIPT[:] = [1] if decision == "pay" else []
    assert drain(run).state == state


def test_decision_where_nothing_is_asked_is_refused_in_words(operator):
    run = held_for_money()

    for answer in (operator.get(decision_on(run), follow=True), operator.post(decision_on(run), follow=True)):
        assert "of unknown outcome, so there is nothing to decide" in answer.content.decode()
    assert operator.get(decision_on(run, step="nobody")).status_code == 404
    assert not LogEntry.objects.exists()


def test_who_may_only_look_may_neither_spend_nor_decide():
    viewer = client_with(*VIEWS)
    run = held_for_a_person()

    for url in (budget_of(run), decision_on(run)):
        assert viewer.get(url).status_code == 403
        assert viewer.post(url, {"budget": "5", "decision": "pay"}).status_code == 403
    for page in (page_of(run), page_of(run.steps["a b"])):
        shown = text_of(viewer, page)
        assert budget_of(run) not in shown
        assert "/decide/" not in shown
    assert LedgerEntry.objects.get().resolution == ""


def test_retry_asks_models_anew_only_where_that_is_chosen(operator):
    scripted.SCRIPT[:] = [1, 2]
    run = drain(Workflow("w").add("a", scripted.asks).insert())
    again = reverse("admin:baton_workflowrun_retry", args=[run.pk], query={"from_step": "a"})
    assert 'name="new_answers"' in text_of(operator, again)

    text_of(operator, again, confirmed="yes")
    assert drain(run).steps["a"].result == [1]
    text_of(operator, again, confirmed="yes", new_answers="yes")

    assert drain(run).steps["a"].result == [2]
