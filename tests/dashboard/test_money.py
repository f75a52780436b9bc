"""The money of a run: what its tab says, and all of its calls as a table."""

from __future__ import annotations

import csv
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client
from django.urls import reverse
from django.utils import timezone

from baton.dashboard.calls_csv import csv_of
from baton.models import BudgetAccount, WorkflowNode, WorkflowRun
from tests.factories import LedgerEntryFactory, StepStatFactory, WorkflowNodeFactory
from tests.people import client_with, user_with

pytestmark = pytest.mark.django_db

SEES = ("view_workflowrun", "view_stepstat")


def called_step(name: str = "ask") -> WorkflowNode:
    """A step with a call, one without a price, two answers from the ledger and one call of unknown outcome."""
    node = WorkflowNodeFactory.create(name=name, executing=True, run__budget=Decimal(2))
    StepStatFactory.create(node=node, key="a", cost=Decimal("0.00225"), duration=1.5)
    StepStatFactory.create(node=node, key="a", cost=Decimal("0.00225"), from_ledger=True, count=2)
    StepStatFactory.create(node=node, key="b", unpriced=True, model="acme-1")
    LedgerEntryFactory.create(node=node, key="c", ambiguous=True, reserved=Decimal("0.5"))
    return node


def table_of(client: Client, run: WorkflowRun) -> list[dict[str, str]]:
    answer: Any = client.get(reverse("admin:baton_workflowrun_calls", args=[run.pk]))
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"] == f'attachment; filename="calls-{str(run.pk)[:8]}.csv"'
    return list(csv.DictReader(b"".join(answer.streaming_content).decode().splitlines()))


def tab_of(client: Client, run: WorkflowRun) -> Any:
    answer = client.get(reverse("admin:baton_workflowrun_change", args=[run.pk]), {"view": "money"})
    assert answer.status_code == 200
    return answer


def test_what_is_left_of_a_budget_is_less_what_is_reserved() -> None:
    run = called_step().run
    BudgetAccount.objects.create(name=f"run:{run.pk}", spent=Decimal("0.00225"), reserved=Decimal("0.5"))

    assert "of $2, $0.50 reserved, $1.50 left" in tab_of(client_with(*SEES), run).content.decode()


def test_table_has_every_call_with_exact_amounts_and_no_price_is_empty() -> None:
    rows = table_of(client_with(*SEES), called_step().run)

    told = [(row["outcome"], row["cost"], row["saved"], row["currency"], row["input_tokens"]) for row in rows]
    assert told == [
        ("ok", "0.00225", "", "USD", "1000"),
        ("from ledger", "0", "0.00450", "USD", ""),
        ("ok", "", "", "", "1000"),
        ("unknown outcome", "", "", "USD", ""),
    ]
    assert (rows[0]["step"], rows[0]["key"], rows[0]["seconds"]) == ("ask", "a", "1.5")
    assert rows[2]["note"] == "no price for model 'gpt-5'"
    assert rows[3]["note"] == "may have been paid; 0.5 reserved"


@pytest.mark.parametrize("formula", ['=HYPERLINK("http://x","y")', "\uff1d1+1"])
def test_no_spreadsheet_takes_a_name_for_a_formula(formula: str) -> None:
    rows = table_of(client_with(*SEES), called_step(name=formula).run)

    assert {row["step"] for row in rows} == {f"'{formula}"}


def test_table_of_many_calls_is_written_in_pieces() -> None:
    node = called_step()
    StepStatFactory.create_batch(7, node=node)

    pieces = list(csv_of(node.run.pk, at_once=2))

    assert [len(piece.splitlines()) for piece in pieces] == [1, 2, 2, 2, 2, 2, 1]


def test_table_is_streamed_by_an_asynchronous_server_too() -> None:
    run, client = called_step().run, AsyncClient()
    client.force_login(user_with(*SEES))

    async def read() -> bytes:
        answer: Any = await client.get(reverse("admin:baton_workflowrun_calls", args=[run.pk]))
        return b"".join([piece async for piece in answer.streaming_content])

    assert len(async_to_sync(read)().decode().splitlines()) == 5


def test_calls_are_for_those_who_may_see_them_and_others_are_told_what_they_need() -> None:
    run = called_step().run
    client = client_with("view_workflowrun")

    answer = client.get(reverse("admin:baton_workflowrun_calls", args=[run.pk]))
    page = tab_of(client, run).content.decode()

    assert answer.status_code == 403
    for shown in (answer.content.decode(), page):
        assert "You need the permission “Can view step stat” for this." in shown
    assert "calls.csv" not in page
    assert client_with("view_stepstat").get(reverse("admin:baton_workflowrun_calls", args=[run.pk])).status_code == 403
    assert reverse("admin:baton_workflowrun_calls", args=[run.pk]) in tab_of(client_with(*SEES), run).content.decode()


def test_tab_lists_the_newest_calls_first_and_says_what_no_sum_has() -> None:
    node = called_step()
    StepStatFactory.create(node=WorkflowNodeFactory.create(run=node.run, name="later"), key="z")

    page = tab_of(client_with(*SEES), node.run).context["page"]

    tab = page.tab
    assert (page.header.cost, page.header.unpriced) == ("$0.0045", "+ 1 unpriced")
    assert (tab.saved, tab.served) == ("$0.0045", 2)
    assert (tab.unpriced, tab.unpriced_models, tab.unknown) == (1, "acme-1", 1)
    assert next(call.step for call, _address in tab.calls) == "later"
    assert {call.outcome for call, _address in tab.calls} == {"ok", "from ledger, 2 times", "unknown outcome"}
    assert [(row["name"], "step=later" in row["address"]) for row in tab.by_step] == [("ask", False), ("later", True)]


def test_calls_that_go_on_or_failed_are_listed_with_no_cost() -> None:
    node = WorkflowNodeFactory.create(name="ask", executing=True, fence=2)
    StepStatFactory.create(node=node, key="paid")
    began = timezone.now() - timedelta(seconds=30)
    LedgerEntryFactory.create(node=node, key="now", calling=True, fence=2, started_at=began)
    LedgerEntryFactory.create(node=node, key="vanished", calling=True, fence=1)
    LedgerEntryFactory.create(node=node, key="refused", state="failed", answer=None)

    calls = {call.key: call for call, _address in tab_of(client_with(*SEES), node.run).context["page"].tab.calls}

    assert {key: (call.outcome, call.cost) for key, call in calls.items()} == {
        "paid": ("ok", "$0.0022"),
        "now": ("calling", "—"),
        "vanished": ("unknown outcome", "unknown"),
        "refused": ("failed", "—"),
    }
    assert calls["now"].took.startswith("3")


def test_what_the_ledger_saved_is_not_nothing_where_it_has_no_price() -> None:
    node = WorkflowNodeFactory.create(executing=True)
    StepStatFactory.create(node=node, unpriced=True, from_ledger=True)

    assert tab_of(client_with(*SEES), node.run).context["page"].tab.saved == "1 unpriced"


def test_calls_of_unknown_outcome_cost_nobody_knows_what_and_never_nothing() -> None:
    node = called_step()
    alone = WorkflowNodeFactory.create(run=node.run, name="alone", executing=True)
    LedgerEntryFactory.create(node=alone, key="k", ambiguous=True, model="lost")
    client = client_with(*SEES)

    tab = tab_of(client, node.run).context["page"].tab
    everything = client.get(reverse("admin:baton_workflowrun_change", args=[node.run_id]), {"everything": "1"})

    assert {row["name"]: row["cost"] for row in tab.by_step} == {
        "ask": "$0.0022 + 1 unpriced, 1 of unknown outcome",
        "alone": "1 of unknown outcome",
    }
    assert all(row["is_unpriced"] for row in tab.by_step)
    assert next(row["cost"] for row in tab.by_model if row["name"] == "lost") == "1 of unknown outcome"
    for shown in (tab_of(client, node.run), everything):
        assert ">$0<" not in shown.content.decode()
