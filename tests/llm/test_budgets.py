"""Budgets: what is refused, what is held, what lets it go on, and that it never costs a digit too much."""

from __future__ import annotations

from decimal import Decimal

import pytest

from baton import Workflow
from baton.models import Hold, LedgerEntry, StepStat, WorkflowRun
from baton.testing import drain
from tests.llm import scripted

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]


def answer(cost: str) -> dict[str, object]:
    """An answer of the model `fixed`, which costs so much."""
    return {"model": "fixed", "usage": {"input_tokens": 0, "output_tokens": int(Decimal(cost) * 1000)}}


def branches(count: int, *, budget: str | None, **options: object) -> WorkflowRun:
    workflow = Workflow("w", budget=budget)
    for number in range(count):
        workflow.add(f"b{number}", scripted.asks.bind(model="fixed", **options))
    return workflow.insert()


def paid(run: WorkflowRun) -> list[Decimal]:
    return list(StepStat.objects.filter(run=run, from_ledger=False).order_by("id").values_list("cost", flat=True))


def test_of_200_branches_exactly_those_are_paid_that_the_budget_suffices_for_and_a_raise_ends_the_run():
    run = branches(200, budget="6.3", max_cost="0.1")
    scripted.SCRIPT[:] = [answer("0.1")] * 63

    drain(run)

    assert (sum(paid(run)), len(paid(run))) == (Decimal("6.3"), 63)
    assert run.progress["states"] == {"completed": 63, "snoozed": 137}
    assert run.balance().left == 0
    scripted.SCRIPT[:] = [answer("0.1")] * 137

    run.budget = Decimal(20)
    run.save()

    assert run.progress["states"] == {"completed": 63, "available": 137}
    assert drain(run).state == "completed"
    assert sum(paid(run)) == Decimal(20)
    assert not Hold.objects.exists()
