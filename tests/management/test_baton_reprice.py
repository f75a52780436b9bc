"""What had no price when it was called is priced once there is one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from baton.llm import reprice as repricing
from baton.llm.stats import workflow_totals
from baton.models import BudgetAccount, Hold, StepStat
from baton.states import HoldKind
from tests.factories import LedgerEntryFactory, StepStatFactory, WorkflowNodeFactory

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 6, 14, 12, tzinfo=UTC)
PRICES = {"acme-1": {"input": "2", "output": "10", "cached_input": "0.5"}}
DEARER = {"acme-1": {"input": "4", "output": "20", "cached_input": "0.5"}}
COST = Decimal("0.003")
"""Of a call with 1,000 tokens of input and 100 of output."""


class Seasonal:
    """A pricing of a project's own."""

    def cost(self, usage: Any) -> Decimal | None:
        if usage.context.get("service_tier") == "batch":
            return Decimal("0.5")
        return Decimal(usage.at.month) if usage.model == "acme-1" else None


def unpriced(**values: Any) -> StepStat:
    return StepStatFactory.create(**{"unpriced": True, "model": "acme-1", "at": NOON, **values})


def repriced(*arguments: str, prices: Any = PRICES, **settings: Any) -> dict[str, Any]:
    out = StringIO()
    with override_settings(BATON={"PRICES": prices, **settings}):
        call_command("baton_reprice", "--json", *arguments, stdout=out)
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def said(*arguments: str, prices: Any = PRICES) -> list[str]:
    out = StringIO()
    with override_settings(BATON={"PRICES": prices}):
        call_command("baton_reprice", *arguments, stdout=out)
    return out.getvalue().splitlines()


def test_call_without_a_price_gets_the_one_that_is_known_now_with_where_it_is_from():
    call = unpriced(cached_input_tokens=200)

    document = repriced()

    call.refresh_from_db()
    assert call.cost == Decimal("0.0027")
    assert (call.currency, call.price_source, call.unpriced_because) == ("USD", "PRICES", "")
    assert call.unit_prices == {"input": "2", "cached_input": "0.5", "output": "10"}
    assert document == {
        "ok": True,
        "dry_run": False,
        "looked_at": 1,
        "priced": 1,
        "changed": 0,
        "added": "0.0027",
        "currency": "USD",
        "unpriced": [],
    }
    assert repriced() == document | {"looked_at": 0, "priced": 0, "added": "0"}


def test_what_has_still_no_price_is_told_by_model_with_why_and_the_reason_is_kept_up_to_date():
    calls = [unpriced(model="acme-2", unpriced_because="an old reason") for _ in range(2)]
    cached = unpriced(cache_write_tokens=7)
    silent = unpriced(unknown_usage=True)

    document = repriced()

    found = {(each["model"], each["provider"], each["calls"]) for each in document["unpriced"]}
    assert found == {("acme-2", "openai", 2), ("acme-1", "openai", 1)}
    assert len(document["unpriced"]) == 3
    assert document["priced"] == 0
    for call in (*calls, cached, silent):
        call.refresh_from_db()
        assert call.cost is None
    assert "acme-2" in calls[0].unpriced_because
    assert silent.unpriced_because == "the answer does not say what it used"
    assert {each["reason"] for each in document["unpriced"]} == {
        calls[0].unpriced_because,
        cached.unpriced_because,
        silent.unpriced_because,
    }


def test_only_calls_of_the_run_and_of_the_model_are_priced_where_they_are_named():
    mine, others, other_model = unpriced(), unpriced(), unpriced(model="acme-1-mini")
    StepStat.objects.filter(pk=other_model.pk).update(run=mine.run)
    prices = PRICES | {"acme-1-mini": PRICES["acme-1"]}

    assert repriced("--run", str(mine.run_id)[:13], "--model", "acme-1", prices=prices)["priced"] == 1

    priced = StepStat.objects.filter(cost__isnull=False)
    assert [call.pk for call in priced] == [mine.pk]
    assert repriced("--model", "acme-1", prices=prices)["priced"] == 1
    assert repriced("--run", str(mine.run_id), prices=prices)["priced"] == 1
    others.refresh_from_db()
    assert others.cost == COST


def test_dry_run_says_the_same_and_changes_nothing():
    unpriced()
    unpriced(model="acme-2", unpriced_because="an old reason")
    before = list(StepStat.objects.order_by("pk").values())

    promised = repriced("--dry-run")

    assert list(StepStat.objects.order_by("pk").values()) == before
    assert promised | {"dry_run": False} == repriced()
    assert promised["dry_run"]


def test_price_of_a_class_of_the_project_sees_when_and_how_it_was_called():
    summer, batch = unpriced(), unpriced(context={"service_tier": "batch"})

    document = repriced(PRICING=f"{__name__}.Seasonal")

    for call in (summer, batch):
        call.refresh_from_db()
    assert (summer.cost, batch.cost) == (Decimal(6), Decimal("0.5"))
    assert summer.price_source == f"{__name__}.Seasonal"
    assert document["added"] == "6.5"


def test_answers_from_the_ledger_are_priced_and_count_as_saved_and_not_as_paid():
    paid = unpriced()
    unpriced(node=paid.node, run=paid.run, from_ledger=True, count=3)

    document = repriced()

    totals = workflow_totals(paid.run)
    assert (document["priced"], document["added"]) == (2, "0.003")
    assert (totals["cost"], totals["saved"], totals["served_unpriced"]) == (COST, Decimal("0.009"), 0)


def test_prices_are_left_alone_unless_all_are_asked_for():
    old = unpriced(cost=COST, currency="USD", unpriced_because="", price_source="PRICES")
    gone = unpriced(model="acme-0", cost=Decimal(1), currency="USD", unpriced_because="")
    foreign = unpriced(cost=Decimal(400), currency="JPY", unpriced_because="")

    assert repriced(prices=DEARER)["looked_at"] == 0

    document = repriced("--all", prices=DEARER)

    for call in (old, gone, foreign):
        call.refresh_from_db()
    assert (old.cost, gone.cost, foreign.cost, foreign.currency) == (
        Decimal("0.006"),
        Decimal(1),
        Decimal("0.006"),
        "USD",
    )
    assert (document["looked_at"], document["priced"], document["changed"], document["added"]) == (3, 0, 2, "0.009")
    assert document["unpriced"] == []
    assert repriced("--all", prices=DEARER)["changed"] == 0


# Budgets -------------------------------------------------------------------------------------------------------------


def account(name: str, **values: Any) -> None:
    BudgetAccount.objects.create(name=name, **values)


def balances() -> dict[str, tuple[Decimal, Decimal]]:
    return {each.name.partition(":")[0]: (each.spent, each.reserved) for each in BudgetAccount.objects.all()}


def test_cost_is_added_to_the_accounts_that_there_are():
    call = unpriced()
    account(f"run:{call.run_id}", spent=Decimal(1))
    account(f"step:{call.node_id}", spent=Decimal("0.5"))
    account("day:2026-06-14")
    account("other:1", spent=Decimal(7))

    repriced()

    assert balances() == {
        "run": (1 + COST, Decimal(0)),
        "step": (Decimal("0.5") + COST, Decimal(0)),
        "day": (COST, Decimal(0)),
        "other": (Decimal(7), Decimal(0)),
    }
    repriced("--all", prices=DEARER)
    assert balances()["run"] == (1 + 2 * COST, Decimal(0))


def test_cost_takes_the_place_of_what_was_reserved_as_long_as_it_was_unknown():
    node = WorkflowNodeFactory.create()
    run = f"run:{node.run_id}"
    entry = LedgerEntryFactory.create(node=node, reserved=Decimal("0.25"), accounts=f"day:2026-06-13 {run}")
    unpriced(node=node, run=node.run, entry=entry)
    account(run, spent=Decimal(1), reserved=Decimal("0.75"))
    account("day:2026-06-13", spent=Decimal(2), reserved=Decimal("0.25"))
    account(f"step:{node.pk}")

    repriced()

    entry.refresh_from_db()
    assert entry.reserved is None
    assert balances() == {
        "run": (1 + COST, Decimal("0.5")),
        "day": (2 + COST, Decimal(0)),
        "step": (COST, Decimal(0)),
    }


class WhileAnotherDoesTheSame:
    """A pricing that takes so long that somebody else prices the same calls meanwhile."""

    is_first = True

    def cost(self, usage: Any) -> Decimal | None:
        if WhileAnotherDoesTheSame.is_first:
            WhileAnotherDoesTheSame.is_first = False
            assert repricing.reprice().priced == 1
        return COST


def test_call_that_somebody_else_prices_meanwhile_is_charged_once():
    call = unpriced()
    account(f"run:{call.run_id}")
    WhileAnotherDoesTheSame.is_first = True

    document = repriced(PRICING=f"{__name__}.WhileAnotherDoesTheSame")

    assert (document["looked_at"], document["priced"], document["added"]) == (1, 0, "0")
    assert balances()["run"] == (COST, Decimal(0))


def test_answer_from_the_ledger_changes_no_account():
    call = unpriced(from_ledger=True)
    account(f"run:{call.run_id}", spent=Decimal(1))

    repriced()

    assert balances()["run"] == (Decimal(1), Decimal(0))


def test_step_that_waited_for_the_money_goes_on():
    node = WorkflowNodeFactory.create(snoozed=True, due_at=None, run__budget=Decimal(1))
    run = f"run:{node.run_id}"
    entry = LedgerEntryFactory.create(node=node, reserved=Decimal("0.75"), accounts=run)
    unpriced(node=node, run=node.run, entry=entry)
    account(run, reserved=Decimal("0.75"))
    Hold.objects.create(node=node, run=node.run, kind=HoldKind.BUDGET, account=run, amount=Decimal("0.5"), since=NOON)

    repriced()

    node.refresh_from_db()
    assert node.state == "available"
    assert not Hold.objects.exists()


# The command ---------------------------------------------------------------------------------------------------------


def test_command_says_what_it_priced_and_what_has_still_no_price():
    unpriced()
    for _ in range(2):
        unpriced(unknown_usage=True)

    assert said("--dry-run") == [
        "Nothing was changed. This would be done:",
        "priced: 1 call",
        "added to what was paid: $0.0030",
        "still unpriced: 2 calls",
        "  2 of acme-1 of openai: the answer does not say what it used",
    ]
    assert said()[0] == "priced: 1 call"
    assert said("--all", prices=DEARER) == [
        "priced: 0 calls",
        "priced anew: 1 call",
        "added to what was paid: $0.0030",
        "still unpriced: 2 calls",
        "  2 of acme-1 of openai: the answer does not say what it used",
    ]


def test_long_work_is_told_batch_by_batch_in_few_statements(monkeypatch):
    node = WorkflowNodeFactory.create()
    StepStatFactory.create_batch(25, node=node, run=node.run, unpriced=True, model="acme-1")
    account(f"run:{node.run_id}")
    monkeypatch.setattr(repricing, "BATCH", 10)

    with CaptureQueriesContext(connection) as captured:
        lines = said()

    assert lines[:3] == ["  10 of 25 calls", "  20 of 25 calls", "priced: 25 calls"]
    assert balances()["run"] == (25 * COST, Decimal(0))
    assert len(captured) < 2 * 25


def test_unknown_run_is_refused_with_1_and_a_wrong_use_with_2():
    with pytest.raises(CommandError, match="No run has the id") as refused:
        call_command("baton_reprice", "--run", str(uuid4()))
    assert refused.value.returncode == 1

    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("baton_reprice", "--run", str(uuid4()), "--json", stdout=out)
    assert (ended.value.code, json.loads(out.getvalue())["ok"]) == (1, False)

    with pytest.raises(CommandError, match="is no run"):
        call_command("baton_reprice", "--run", "x")
