"""The three failures of others that are refused here: spend of zero, cache hits in full, budgets that never trip.

Others have shown $1.47 for an invoice of 830 EUR, for every streamed answer of a model whose price they did not find
was counted as zero, and so no budget ever tripped; and others charged cached input in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from fake_llm import PRICES, FakeProvider

from baton import Workflow, llm
from baton.llm.stats import cost_by_model, steps_for_workflow, workflow_totals
from baton.models import WorkflowRun
from baton.testing import drain
from tests.llm import provider_steps as steps
from tests.llm.free_steps import BODY, did, does

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "book")]

NEW = "gpt-new-and-unheard-of"
SPENT = "[fake input=1000 output=50 cached=400]"
PLAIN = "[fake input=1000 output=50]"


@pytest.fixture(scope="module")
def _server() -> Iterator[FakeProvider]:
    with FakeProvider(prices={**PRICES, NEW: {"input": "100", "output": "500"}}) as server:
        yield server
    steps.close_clients()


@pytest.fixture
def provider(_server: FakeProvider) -> FakeProvider:
    _server.reset()
    return _server


@pytest.fixture
def book(settings: Any) -> None:
    """The prices of all models but the new one."""
    settings.BATON = {**settings.BATON, "PRICES": PRICES, "CURRENCY": "EUR"}


def asked(ctx: Any, provider: FakeProvider, key: str, *, prompt: str = PLAIN, model: str = steps.GPT) -> Any:
    create = steps.gpt(provider.url).chat.completions.create
    return llm.call(ctx, key, create, request={"model": model, "messages": steps.said(prompt)})


def streamed(ctx: Any, provider: FakeProvider, key: str, *, model: str = steps.GPT, **options: Any) -> list[Any]:
    request = {
        "model": model,
        "messages": steps.said(PLAIN),
        "stream": True,
        "stream_options": steps.WITH_USAGE,
    }
    create = steps.gpt(provider.url).chat.completions.create
    return list(llm.stream(ctx, key, create, request=request, **options))


# Spend of zero --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [asked, streamed])
def test_unknown_model_costs_nobody_knows_what_and_not_zero(provider, ask):
    run = did(lambda ctx: ask(ctx, provider, "k", model=NEW) and None)

    assert run.state == "completed", run.steps["a"].error
    assert provider.invoice.total() > 0
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["unpriced"]) == (1, None, 1)
    assert (totals["input_tokens"], totals["output_tokens"]) == (1000, 50)
    assert steps_for_workflow(run.id)[0]["unpriced_because"] == f"no price for model {NEW!r}"
    (by_model,) = cost_by_model(run=run)
    assert (by_model["model"], by_model["cost"], by_model["unpriced"]) == (NEW, None, 1)


def test_total_beside_an_unknown_model_says_how_many_calls_are_not_in_it(provider):
    def body(ctx: Any) -> None:
        asked(ctx, provider, "known")
        asked(ctx, provider, "unknown", model=NEW)

    run = did(body)

    known = provider.invoice.charges[0].cost
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["unpriced"]) == (2, known, 1)


@pytest.mark.parametrize("form", steps.STREAMS)
def test_streamed_answer_costs_what_is_on_the_invoice_and_not_zero(provider, form):
    def body(ctx: Any) -> None:
        for _ in llm.stream(ctx, "k", lambda: steps.STREAMS[form](provider.url, SPENT)):
            pass

    run = did(body)

    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["unpriced"]) == (1, provider.invoice.total(), 0)
    assert totals["cost"] > 0


def test_model_that_is_free_is_priced_at_zero_because_the_table_says_so(provider, settings):
    settings.BATON = {**settings.BATON, "PRICES": {steps.GPT: {"input": 0, "output": 0}}}

    run = did(lambda ctx: asked(ctx, provider, "k") and None)

    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["unpriced"]) == (1, Decimal(0), 0)


# Cache hits in full ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["chat", "responses", "messages", "google"])
def test_input_from_the_provider_s_cache_costs_its_own_price_and_not_the_full_one(provider, form):
    run = did(lambda ctx: llm.call(ctx, "k", lambda: steps.FORMS[form](provider.url, SPENT)) and None)

    (charge,) = provider.invoice.charges
    price = {kind: Decimal(each) for kind, each in PRICES[charge.model].items()}
    in_full = (1000 * price["input"] + 50 * price["output"]) / 1_000_000
    totals = workflow_totals(run.id)
    assert totals["cached_input_tokens"] == 400
    assert totals["cost"] == provider.invoice.total() < in_full


def test_cached_input_without_a_price_of_its_own_is_unpriced_and_not_charged_in_full(provider, settings):
    table = {steps.GPT: {"input": "0.15", "output": "0.60"}}
    settings.BATON = {**settings.BATON, "PRICES": table}

    run = did(lambda ctx: asked(ctx, provider, "k", prompt=SPENT) and None)

    totals = workflow_totals(run.id)
    assert (totals["cost"], totals["unpriced"]) == (None, 1)
    assert steps_for_workflow(run.id)[0]["unpriced_because"] == f"no cached_input price for {steps.GPT!r}"


def test_answer_from_the_ledger_costs_nothing_and_what_it_saved_is_counted_apart(provider):
    def body(ctx: Any) -> None:
        for _ in range(3):
            asked(ctx, provider, "k", prompt=SPENT)

    run = did(body)

    totals = workflow_totals(run.id)
    invoiced = provider.invoice.total()
    assert (len(provider.requests), totals["calls"], totals["served"]) == (1, 1, 2)
    assert (totals["cost"], totals["saved"]) == (invoiced, 2 * invoiced)


# Budgets that never trip ----------------------------------------------------------------------------------------------


def test_budget_trips_before_the_streamed_call_that_would_go_over_it(provider):
    calls = 10

    def body(ctx: Any) -> None:
        for number in range(calls):
            # One costs 0.00018.
            streamed(ctx, provider, str(number), max_cost="0.0002")

    run = budgeted(body, "0.001")

    node = run.steps["a"]
    assert (run.state, node.state, node.hold.kind) == ("running", "snoozed", "budget")
    assert len(provider.requests) == 5
    assert workflow_totals(run.id)["cost"] == provider.invoice.total() == Decimal("0.0009")

    run.budget = Decimal("0.0019")
    run.save()
    drain(run)

    assert run.state == "completed", run.steps["a"].error
    assert len(provider.requests) == calls
    assert workflow_totals(run.id)["cost"] == provider.invoice.total() == Decimal("0.0018")


@pytest.mark.parametrize("ask", [asked, streamed])
def test_budgeted_run_does_not_call_a_model_of_unknown_price(provider, ask):
    run = budgeted(lambda ctx: ask(ctx, provider, "k", model=NEW) and None, "1000")

    assert (run.state, provider.requests) == ("failed", ())
    assert f"budget and no price for model {NEW!r}" in run.steps["a"].error


def test_answer_without_a_price_keeps_what_it_had_reserved_so_that_the_budget_trips(provider):
    """Its usage was not asked for, so nobody knows what it cost; but it was not nothing."""

    def body(ctx: Any) -> None:
        create = steps.gpt(provider.url).chat.completions.create
        request = {"model": steps.GPT, "messages": steps.said(PLAIN), "stream": True}
        for number in range(10):
            list(llm.stream(ctx, str(number), create, request=request, max_cost="0.0002"))

    run = budgeted(body, "0.001")

    assert run.steps["a"].hold.kind == "budget"
    assert len(provider.requests) == 5
    assert provider.invoice.total() <= Decimal("0.001")
    assert workflow_totals(run.id)["unpriced"] == 5


def budgeted(body: Any, budget: str) -> WorkflowRun:
    BODY[:] = [body]
    return drain(Workflow("w", budget=budget).add("a", does).insert())
