"""What becomes of calls without a price, from the step to the budget."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from baton import Workflow
from baton.llm.reprice import reprice
from baton.llm.stats import cost_by_model, workflow_totals
from baton.models import BudgetAccount, LedgerEntry, WorkflowRun
from baton.testing import drain
from tests.llm import scripted
from tests.llm.scripted import PRICES

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]

USAGE = {"input_tokens": 1000, "output_tokens": 100}
COST = Decimal("0.0035")
"""1000 x 2.50 + 100 x 10, for a million."""


def balance(run: WorkflowRun) -> tuple[Decimal, Decimal]:
    account = BudgetAccount.objects.get(name=f"run:{run.pk}")
    return account.spent, account.reserved


def asked(answer: Any, **options: Any) -> WorkflowRun:
    scripted.SCRIPT[:] = [answer]
    workflow = Workflow("w", budget=Decimal(2), allow_unpriced=True)
    return drain(workflow.add("a", scripted.asks.bind(**options)).insert())


def test_call_of_an_unknown_model_is_charged_to_the_budget_once_its_price_is_known(settings):
    run = asked({"model": "new", "usage": USAGE}, model="new")
    before = workflow_totals(run)

    settings.BATON = {**settings.BATON, "PRICES": {**PRICES, "new": PRICES["gpt-4o"]}}
    report = reprice()

    assert (before["calls"], before["cost"], before["unpriced"]) == (1, None, 1)
    assert (report.priced, report.added, report.currency) == (1, COST, "EUR")
    assert (workflow_totals(run)["cost"], workflow_totals(run)["unpriced"]) == (COST, 0)
    assert balance(run) == (COST, Decimal(0))
    assert LedgerEntry.objects.get().reserved is None
    assert reprice().looked_at == 0


def test_answer_that_told_no_usage_keeps_what_was_reserved_and_stays_unpriced():
    run = asked({"model": "gpt-4o", "text": "hello"}, model="gpt-4o", max_cost="0.5")

    report = reprice(run_id=run.pk)

    ((model, _provider, reason), calls), *others = report.unpriced
    assert (model, calls, others) == ("gpt-4o", 1, [])
    assert reason == "the answer says nothing of its usage"
    assert balance(run) == (Decimal(0), Decimal("0.5"))
    assert workflow_totals(run)["unpriced"] == 1


def test_answers_served_on_a_retry_are_priced_with_the_call_and_saved(settings):
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after the call"))]
    run = asked({"model": "new", "usage": USAGE}, model="new")

    settings.BATON = {**settings.BATON, "PRICES": {**PRICES, "new": PRICES["gpt-4o"]}}
    report = reprice(model="new")

    totals = workflow_totals(run)
    assert (report.priced, report.added) == (2, COST)
    assert (totals["calls"], totals["cost"], totals["served"], totals["saved"]) == (1, COST, 1, COST)
    assert balance(run) == (COST, Decimal(0))


def test_call_that_broke_off_and_was_made_again_is_counted_once_beside_one_of_unknown_outcome():
    scripted.SCRIPT[:] = [TimeoutError("no answer"), {"model": "gpt-4o", "usage": USAGE}]

    run = drain(Workflow("w").add("a", scripted.asks.bind(model="gpt-4o")).insert())

    totals = workflow_totals(run)
    assert (totals["calls"], totals["cost"], totals["ambiguous"]) == (1, COST, 1)
    assert [(row["model"], row["calls"], row["ambiguous"]) for row in cost_by_model()] == [("gpt-4o", 1, 1)]
