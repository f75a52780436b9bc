"""The admin's pages about money: what calls cost, who may see it, and that answers are as sensitive as prompts."""

from __future__ import annotations

import re
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
from django.utils.html import escape

from baton.models import BudgetAccount, LedgerEntry, StepStat, WorkflowNode, WorkflowRun
from tests.factories import LedgerEntryFactory, StepStatFactory, WorkflowNodeFactory
from tests.people import client_with

pytestmark = pytest.mark.django_db

VIEWS = ("view_workflowrun", "view_workflownode", "view_stepstat", "view_ledgerentry")
EVIL = "<script>alert(1)</script>"
SECRET = "a secret answer"


@pytest.fixture
def viewer() -> Client:
    return client_with(*VIEWS)


def list_of(model: Any, **lookups: Any) -> str:
    return reverse(f"admin:baton_{model._meta.model_name}_changelist", query=lookups)


def page_of(row: Any) -> str:
    return reverse(f"admin:baton_{row._meta.model_name}_change", args=[row.pk])


def everything_of(run: Any) -> str:
    return f"{page_of(run)}?everything=1"


def text_of(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, url
    return answer.content.decode()


def cells(page: str) -> list[str]:
    """What stands in the tables of a page."""
    return [
        re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[dh]\b[^>]*>(.*?)</t[dh]>", page, re.DOTALL)
    ]


def called_step(**values: Any) -> WorkflowNode:
    """A step with a call, one without a price, one from the ledger and one of unknown outcome."""
    node = WorkflowNodeFactory.create(name="ask", executing=True, fence=3, run__budget=Decimal(2), **values)
    entry = LedgerEntryFactory.create(node=node, key="question", fence=2, answer=f'{{"text": "{SECRET} {EVIL}"}}')
    common: dict[str, Any] = {"node": node, "run": node.run}
    StepStatFactory.create(**common, entry=entry, key="question", unit_prices={"input": "1.25", "output": "10"})
    StepStatFactory.create(**common, entry=entry, key="question", from_ledger=True, count=3)
    StepStatFactory.create(**common, unpriced=True, model="acme-1", key=EVIL)
    LedgerEntryFactory.create(**{**common, "ambiguous": True}, key="lost", reserved=Decimal("0.5"), error=EVIL)
    BudgetAccount.objects.create(name=f"run:{node.run_id}", reserved=Decimal("0.5"))
    return node


def test_page_of_a_run_shows_what_its_calls_cost_and_what_nobody_knows(viewer):
    node = called_step()

    page = text_of(viewer, everything_of(node.run))

    shown = cells(page)
    assert "$0.0022 + 1 unpriced of $2, $0.50 reserved" in shown
    total = shown[shown.index("Total") :]
    assert total[1:5] == ["2", "2,000", "0", "200"]
    assert total[6:8] == ["$0.0068", "1"]
    assert shown[shown.index("acme-1") :][5] == "1 unpriced"
    assert "Nobody knows whether these 1 calls were answered and paid for." in page
    assert "$0.5000 reserved" in shown
    assert escape(list_of(StepStat, run__id__exact=node.run_id)) in page
    assert EVIL not in page


def test_page_of_a_run_without_calls_and_budget_shows_no_table(viewer):
    node = WorkflowNodeFactory.create()

    assert "Saved by the ledger" not in text_of(viewer, everything_of(node.run))
    assert "Calls of language models" not in text_of(viewer, page_of(node))


def test_page_of_a_step_shows_its_calls_and_nothing_of_what_they_said(viewer):
    node = called_step()
    StepStatFactory.create(run=node.run, node=WorkflowNodeFactory.create(run=node.run), key="another step's")

    page = text_of(viewer, page_of(node))

    shown = cells(page)
    assert shown.count("question") == 2
    assert "ok" in shown
    assert "from ledger, 3 times" in shown
    assert "saved $0.0068" in shown
    assert "unknown outcome" in shown
    assert "no price for model &#x27;gpt-5&#x27;" in shown
    assert "another step" not in page
    assert SECRET not in page
    assert EVIL not in page


def test_no_page_names_a_call_to_who_may_not_see_them():
    node = called_step()
    reader = client_with("view_workflowrun", "view_workflownode")

    page = text_of(reader, everything_of(node.run))

    assert "$0.0022 + 1 unpriced of $2, $0.50 reserved" in cells(page)
    assert "Nobody knows whether these 1 calls were answered and paid for." in page
    assert "lost" not in page
    assert "Calls of language models" not in text_of(reader, page_of(node))


def test_only_the_newest_calls_of_a_step_are_shown(viewer):
    node = WorkflowNodeFactory.create()
    start = timezone.now()
    for number in range(60):
        StepStatFactory.create(node=node, run=node.run, key=f"call {number}", at=start + timedelta(seconds=number))

    page = text_of(viewer, page_of(node))

    assert "<td>call 59</td>" in page
    assert "<td>call 10</td>" in page
    assert "<td>call 9</td>" not in page
    assert "Only the newest 50 are shown." in page


def test_lists_and_pages_of_calls_open_and_nothing_can_be_written_there(viewer):
    called_step()

    for model in (StepStat, LedgerEntry):
        page = text_of(viewer, list_of(model))
        assert EVIL not in page
        for row in model._default_manager.all():
            page = text_of(viewer, page_of(row))
            assert EVIL not in page
            assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
            assert 'name="_save"' not in page
            assert viewer.post(page_of(row), {"key": "changed"}).status_code == 403
            assert (
                viewer.post(reverse(f"admin:baton_{model._meta.model_name}_delete", args=[row.pk])).status_code == 403
            )
        assert viewer.get(reverse(f"admin:baton_{model._meta.model_name}_add")).status_code == 403
    assert "$0.002250000000" not in text_of(viewer, list_of(StepStat))


def test_page_of_a_call_shows_its_cost_to_the_last_digit_and_how_it_was_priced(viewer):
    node = called_step()
    call = node.stats.get(from_ledger=False, cost__isnull=False)

    page = text_of(viewer, page_of(call))

    assert "0.00225 USD" in page
    assert escape('"input": "1.25"') in page


def test_calls_are_filtered_by_model_provider_price_and_state(viewer):
    node = called_step()

    def count(kind: Any, /, **lookups: Any) -> int:
        page = text_of(viewer, f"{list_of(kind)}?{urlencode(lookups)}")
        return len(re.findall(r'class="field-(?:called|key)"', page))

    assert count(StepStat) == 3
    assert count(StepStat, model="acme-1") == 1
    assert count(StepStat, provider="openai") == 3
    assert count(StepStat, provider="nobody") == 0
    assert count(StepStat, price="unpriced") == 1
    assert count(StepStat, price="known") == 2
    assert count(StepStat, from_ledger__exact=1) == 1
    assert count(StepStat, q=str(node.run_id)[:8]) == 3
    assert count(LedgerEntry, state__exact="ambiguous") == 1
    assert count(LedgerEntry, model="gpt-5") == 2
    assert count(LedgerEntry, q="lost") == 1


def test_answers_in_the_ledger_are_for_those_who_may_see_prompts_and_found_by_nobody(viewer):
    node = called_step()
    entry = LedgerEntry.objects.get(state="answered")
    reader = client_with(*VIEWS, "view_debuglog")

    assert SECRET in text_of(reader, page_of(entry))
    assert EVIL not in text_of(reader, page_of(entry))
    for url in (
        page_of(entry),
        page_of(node),
        page_of(node.run),
        everything_of(node.run),
        *map(list_of, (StepStat, LedgerEntry)),
    ):
        assert SECRET not in text_of(viewer, url)
    for client in (viewer, reader):
        assert client.get(list_of(LedgerEntry, answer__contains=SECRET)).status_code in {302, 400}
        assert client.get(list_of(StepStat, entry__answer__contains=SECRET)).status_code in {302, 400}
        assert client.get(list_of(WorkflowRun, ledger__answer__contains=SECRET)).status_code in {302, 400}
        assert "0 results" in text_of(client, list_of(LedgerEntry, q=SECRET))


def test_who_may_not_see_calls_sees_no_list_of_them_and_no_link_to_it():
    node = called_step()
    client = client_with("view_workflowrun", "view_workflownode")

    assert client.get(list_of(StepStat)).status_code == 403
    assert client.get(list_of(LedgerEntry)).status_code == 403
    assert client.get(page_of(node.stats.first())).status_code == 403
    page = text_of(client, everything_of(node.run))
    assert "$0.0022 + 1 unpriced" in page
    assert "All calls of this run" not in page


def test_number_of_queries_of_a_page_does_not_depend_on_the_number_of_calls(viewer):
    node = called_step()
    other = WorkflowNodeFactory.create(run=node.run)
    urls = (page_of(node.run), everything_of(node.run), page_of(node), list_of(StepStat), list_of(LedgerEntry))

    def counts() -> list[int]:
        found = []
        for url in urls:
            with CaptureQueriesContext(connection) as captured:
                text_of(viewer, url)
            found.append(len(captured))
        return found

    # The first look at a run lays its graph out.
    counts()
    before = counts()
    for number in range(30):
        for step in (node, other):
            StepStatFactory.create(node=step, run=node.run, model=f"model {number}")
            LedgerEntryFactory.create(node=step, ambiguous=True)

    assert counts() == before
