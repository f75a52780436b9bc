"""Totals: what the calls of a run, or of a window of time, took and cost."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Context, Decimal, localcontext
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext, override_settings

from baton.llm.stats import (
    cost_by_model,
    cost_by_step,
    cost_by_workflow,
    steps_for_workflow,
    unknown_outcomes,
    workflow_totals,
)
from baton.models import StepStat, WorkflowRun
from tests.factories import LedgerEntryFactory, StepStatFactory, WorkflowNodeFactory, WorkflowRunFactory

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 6, 14, 12, tzinfo=UTC)
TINIEST = Decimal("0.000000000001")
NOTHING: dict[str, Any] = {
    "calls": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "cached_input_tokens": 0,
    "cache_write_tokens": 0,
    "reasoning_tokens": 0,
    "cost": None,
    "unpriced": 0,
    "currency": "USD",
    "served": 0,
    "saved": Decimal(0),
    "served_unpriced": 0,
    "ambiguous": 0,
}


def run_of(name: str = "brief", *steps: str) -> WorkflowRun:
    """A run with steps of these names."""
    run = WorkflowRunFactory.create(name=name)
    for step in steps or ("ask",):
        WorkflowNodeFactory.create(run=run, name=step, step=f"app.steps.{step}", completed=True, fence=1)
    return run


def call(run: WorkflowRun, step: str = "ask", **values: Any) -> StepStat:
    """A call of a step of the run."""
    return StepStatFactory.create(node=run.steps[step], run=run, **values)


def costs(rows: list[dict[str, Any]], column: str) -> list[tuple[str, Decimal | None]]:
    return [(row[column], row["cost"]) for row in rows]


# Totals of a run -----------------------------------------------------------------------------------------------------


def test_totals_of_a_run_are_the_sums_that_a_hand_computes():
    run = run_of("brief", "ask", "sum up")
    call(run, input_tokens=1200, cached_input_tokens=200, output_tokens=310, cost=Decimal("0.0123456789"))
    call(run, input_tokens=7, cache_write_tokens=5, output_tokens=3, reasoning_tokens=2, cost=Decimal("1.1"))
    call(run, "sum up", input_tokens=10, output_tokens=1, cost=TINIEST)
    call(run_of("other"), cost=Decimal(5))

    assert workflow_totals(run.pk) == NOTHING | {
        "calls": 3,
        "input_tokens": 1217,
        "output_tokens": 314,
        "cached_input_tokens": 200,
        "cache_write_tokens": 5,
        "reasoning_tokens": 2,
        "cost": Decimal("1.112345678901"),
    }


def test_sum_of_many_amounts_is_exact_to_the_last_digit():
    run = run_of()
    node = run.steps["ask"]
    StepStatFactory.create_batch(100, node=node, run=run, cost=Decimal("0.1") + TINIEST)
    call(run, cost=Decimal(8_000_000))
    call(run, cost=Decimal(8_000_000))

    assert workflow_totals(run.pk)["cost"] == Decimal("16000010.0000000001")


def test_amounts_are_exact_however_few_digits_the_caller_reckons_with():
    run = run_of()
    with localcontext(Context(prec=3)):
        for _ in range(2):
            call(run, cost=Decimal("12.345678901234"))
        call(run, cost=Decimal("1.0000001"), from_ledger=True, count=3)

        totals, calls = workflow_totals(run), steps_for_workflow(run)

    assert (totals["cost"], totals["saved"]) == (Decimal("24.691357802468"), Decimal("3.0000003"))
    assert [row["cost"] + row["saved"] for row in calls] == [Decimal("12.345678901234")] * 2 + [Decimal("3.0000003")]


def test_sum_of_more_tokens_than_a_column_holds_is_exact():
    run = run_of()
    for _ in range(3):
        call(run, input_tokens=2**63 - 1, from_ledger=False)

    assert workflow_totals(run)["input_tokens"] == 3 * (2**63 - 1)
    assert cost_by_model()[0]["input_tokens"] == 3 * (2**63 - 1)


def test_amounts_that_were_saved_may_be_more_than_a_column_holds():
    run = run_of()
    call(run, from_ledger=True, cost=Decimal(8_000_000) + TINIEST, count=1000)

    assert workflow_totals(run)["saved"] == Decimal("8000000000.000000001")


def test_run_is_named_by_itself_by_its_id_and_by_the_text_of_it():
    run = run_of()
    call(run)

    assert workflow_totals(run) == workflow_totals(run.pk) == workflow_totals(str(run.pk))
    assert workflow_totals(run)["calls"] == 1
    assert steps_for_workflow(run) == steps_for_workflow(str(run.pk)) != []


def test_unknown_run_has_no_calls_and_no_cost():
    assert workflow_totals(uuid4()) == NOTHING
    assert steps_for_workflow(uuid4()) == []
    assert unknown_outcomes(uuid4()) == []
    for wrong in ("no id", "", None, 3):
        with pytest.raises(ValueError, match=f"workflow_id is {wrong!r}, which is no id: give a run, its id"):
            workflow_totals(wrong)  # type: ignore[arg-type]


def test_call_without_a_price_is_counted_and_never_zero():
    run = run_of()
    call(run, unpriced=True, input_tokens=50)

    assert workflow_totals(run) == NOTHING | {
        "calls": 1, "input_tokens": 50, "output_tokens": 100, "unpriced": 1,
    }  # fmt: skip

    call(run, cost=Decimal("0.5"))
    totals = workflow_totals(run)

    assert (totals["calls"], totals["cost"], totals["unpriced"]) == (2, Decimal("0.5"), 1)


def test_free_call_has_a_price_of_nothing_and_is_not_unpriced():
    run = run_of()
    call(run, cost=Decimal(0))

    assert (workflow_totals(run)["cost"], workflow_totals(run)["unpriced"]) == (Decimal(0), 0)


def test_answer_that_does_not_say_what_it_used_is_a_call_without_tokens_and_price():
    run = run_of()
    call(run, unknown_usage=True)

    assert workflow_totals(run) == NOTHING | {"calls": 1, "unpriced": 1}
    (row,) = steps_for_workflow(run)
    assert (row["input_tokens"], row["cost"]) == (None, None)
    assert row["unpriced_because"] == "the answer does not say what it used"


def test_amount_in_another_currency_is_not_added_and_counts_as_unpriced():
    run = run_of()
    call(run, cost=Decimal(1))
    call(run, cost=Decimal(100), currency="JPY")
    call(run, cost=Decimal(100), currency="JPY", from_ledger=True)

    totals = workflow_totals(run)

    assert (totals["calls"], totals["cost"], totals["unpriced"], totals["currency"]) == (2, Decimal(1), 1, "USD")
    assert (totals["saved"], totals["served_unpriced"]) == (Decimal(0), 1)
    with override_settings(BATON={"CURRENCY": "JPY"}):
        totals = workflow_totals(run)
    assert (totals["cost"], totals["unpriced"], totals["currency"]) == (Decimal(100), 1, "JPY")
    assert [(row["cost"], row["currency"]) for row in steps_for_workflow(run)[:2]] == [
        (Decimal(1), "USD"),
        (Decimal(100), "JPY"),
    ]


def test_answers_from_the_ledger_cost_nothing_and_what_they_saved_is_counted_apart():
    run = run_of()
    call(run, cost=Decimal("0.25"))
    call(run, cost=Decimal("0.25"), from_ledger=True, count=3)
    call(run, unpriced=True, from_ledger=True, count=2)

    totals = workflow_totals(run)

    assert (totals["calls"], totals["input_tokens"], totals["cost"]) == (1, 1000, Decimal("0.25"))
    assert (totals["served"], totals["saved"], totals["served_unpriced"]) == (5, Decimal("0.75"), 2)
    assert totals["unpriced"] == 0


# Calls of a run ------------------------------------------------------------------------------------------------------


def test_calls_of_a_run_are_listed_in_the_order_of_their_times():
    run = run_of("brief", "ask", "sum up")
    call(run, "sum up", model="claude-sonnet-4", provider="anthropic", at=NOON + timedelta(seconds=2), key="b")
    call(
        run,
        key="a",
        at=NOON,
        attempt=2,
        input_tokens=7,
        output_tokens=6,
        cached_input_tokens=3,
        cache_write_tokens=2,
        reasoning_tokens=1,
    )

    first, second = steps_for_workflow(run.pk)

    assert (second["step_name"], second["model"], second["provider"]) == ("sum up", "claude-sonnet-4", "anthropic")
    assert first == {
        "step_name": "ask",
        "step": "app.steps.ask",
        "model": "gpt-5",
        "provider": "openai",
        "key": "a",
        "attempt": 2,
        "input_tokens": 7,
        "output_tokens": 6,
        "cached_input_tokens": 3,
        "cache_write_tokens": 2,
        "reasoning_tokens": 1,
        "cost": Decimal("0.00225"),
        "currency": "USD",
        "unpriced_because": "",
        "duration": 1.5,
        "at": NOON,
        "from_ledger": False,
        "count": 1,
        "saved": Decimal(0),
    }


def test_answer_from_the_ledger_is_listed_with_what_it_saved_and_neither_cost_nor_tokens():
    run = run_of()
    call(run, cost=Decimal("0.25"), from_ledger=True, count=3, reasoning_tokens=5, at=NOON)
    call(run, unpriced=True, from_ledger=True, at=NOON + timedelta(seconds=1))

    known, unknown = steps_for_workflow(run)

    tokens = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
    assert [known[name] for name in tokens] == [0] * 5
    assert (known["cost"], known["saved"], known["count"], known["from_ledger"]) == (
        Decimal(0),
        Decimal("0.75"),
        3,
        True,
    )
    assert (unknown["cost"], unknown["saved"]) == (Decimal(0), None)


def test_calls_of_one_step_are_had_alone_and_no_more_than_asked_for():
    run = run_of("brief", "ask", "sum up")
    for second in range(3):
        call(run, key=f"ask {second}", at=NOON + timedelta(seconds=second))
        call(run, "sum up", at=NOON + timedelta(seconds=second))

    rows = steps_for_workflow(run, node_id=run.steps["ask"].pk, limit=2)

    assert [row["key"] for row in rows] == ["ask 1", "ask 2"]


# Windows of time -----------------------------------------------------------------------------------------------------


def test_cost_by_model_by_step_and_by_workflow_add_up_what_belongs_together():
    brief, report = run_of("brief", "ask", "sum up"), run_of("report")
    call(brief, cost=Decimal("0.25"))
    call(brief, "sum up", model="claude-sonnet-4", cost=Decimal("0.5"), output_tokens=11)
    call(report, cost=Decimal("1.75"))
    call(report, cost=Decimal("0.1"), from_ledger=True)
    call(report, model="unheard-of", unpriced=True)

    assert cost_by_model() == [
        {"model": "gpt-5"}
        | NOTHING
        | {
            "calls": 2,
            "input_tokens": 2000,
            "output_tokens": 200,
            "cost": Decimal(2),
            "served": 1,
            "saved": Decimal("0.1"),
        },
        {"model": "claude-sonnet-4"}
        | NOTHING
        | {"calls": 1, "input_tokens": 1000, "output_tokens": 11, "cost": Decimal("0.5")},
        {"model": "unheard-of"} | NOTHING | {"calls": 1, "input_tokens": 1000, "output_tokens": 100, "unpriced": 1},
    ]
    assert costs(cost_by_step(), "step") == [("app.steps.ask", Decimal(2)), ("app.steps.sum up", Decimal("0.5"))]
    assert costs(cost_by_workflow(), "workflow_name") == [("report", Decimal("1.75")), ("brief", Decimal("0.75"))]
    assert costs(cost_by_model(run=brief), "model") == [("claude-sonnet-4", Decimal("0.5")), ("gpt-5", Decimal("0.25"))]
    assert costs(cost_by_step(run=str(report.pk)), "step") == [("app.steps.ask", Decimal("1.75"))]


def test_rows_of_equal_cost_stand_in_the_order_of_their_names_and_those_without_price_last():
    run = run_of()
    for model, cost in (("b", Decimal(1)), ("a", Decimal(1)), ("d", None), ("c", None), ("free", Decimal(0))):
        call(run, model=model, cost=cost)

    assert [row["model"] for row in cost_by_model()] == ["a", "b", "free", "c", "d"]


def test_window_begins_with_its_start_and_ends_before_its_end():
    run = run_of()
    moment = timedelta(microseconds=1)
    for number, at in enumerate((NOON - moment, NOON, NOON + timedelta(hours=1) - moment, NOON + timedelta(hours=1))):
        call(run, at=at, cost=Decimal(10) ** number)

    def cost(*window: datetime | None) -> Any:
        found = {row["cost"] for by in (cost_by_model, cost_by_step, cost_by_workflow) for row in by(*window)}
        assert len(found) == 1
        return found.pop()

    assert cost(NOON, NOON + timedelta(hours=1)) == 110
    assert cost(NOON) == 1110
    assert cost(None, NOON + timedelta(hours=1)) == 111
    assert cost() == 1111
    elsewhere = timezone(timedelta(hours=5, minutes=45))
    assert cost(NOON.astimezone(elsewhere), (NOON + timedelta(hours=1)).astimezone(elsewhere)) == 110
    assert cost_by_model(NOON, NOON) == []
    assert cost_by_model(NOON + timedelta(days=1)) == []


@pytest.mark.parametrize("by", [cost_by_model, cost_by_step, cost_by_workflow])
@pytest.mark.parametrize("bound", [datetime(2026, 6, 14), date(2026, 6, 14), "2026-06-14"])  # noqa: DTZ001 - that is it
def test_bound_that_is_no_aware_datetime_is_refused(by, bound):
    with pytest.raises(ValueError, match=r"^start is .*, which is no time: give a datetime with a time zone\.$"):
        by(bound)
    with pytest.raises(ValueError, match=r"^end is"):
        by(end=bound)


# Calls of unknown outcome --------------------------------------------------------------------------------------------


def test_calls_of_unknown_outcome_are_listed_and_are_in_no_sum():
    run = run_of()
    node = run.steps["ask"]
    call(run, cost=Decimal(1))
    LedgerEntryFactory.create(
        node=node, ambiguous=True, key="a", number=2, started_at=NOON, reserved=Decimal("0.5"), resolution="repay"
    )
    LedgerEntryFactory.create(node=node, calling=True, fence=1, key="b", started_at=NOON + timedelta(seconds=1))
    LedgerEntryFactory.create(node=node, key="answered")
    LedgerEntryFactory.create(node=node, key="refused", state="failed")
    LedgerEntryFactory.create(node=node, key="no call of a model", ambiguous=True, is_call=False)
    LedgerEntryFactory.create(node=run_of("other").steps["ask"], ambiguous=True, model="other")

    marked, unmarked = unknown_outcomes(run)

    assert marked == {
        "step_name": "ask",
        "step": "app.steps.ask",
        "key": "a",
        "number": 2,
        "model": "gpt-5",
        "provider": "openai",
        "attempt": 1,
        "started_at": NOON,
        "reserved": Decimal("0.5"),
        "resolution": "repay",
    }
    assert (unmarked["key"], unmarked["reserved"], unmarked["resolution"]) == ("b", None, "")
    totals = workflow_totals(run)
    assert (totals["calls"], totals["cost"], totals["ambiguous"]) == (1, Decimal(1), 2)
    assert [(row["model"], row["calls"], row["ambiguous"]) for row in cost_by_model()] == [
        ("gpt-5", 1, 2),
        ("other", 0, 1),
    ]
    first_second = cost_by_workflow(NOON, NOON + timedelta(seconds=1))
    assert [(row["workflow_name"], row["calls"], row["ambiguous"]) for row in first_second] == [("brief", 0, 1)]
    assert [(row["step"], row["ambiguous"]) for row in cost_by_step()] == [("app.steps.ask", 3)]


def test_call_under_way_is_no_call_of_unknown_outcome_until_its_execution_is_over():
    node = WorkflowNodeFactory.create(executing=True, fence=4)
    LedgerEntryFactory.create(node=node, calling=True, fence=4)

    assert unknown_outcomes(node.run) == []
    assert workflow_totals(node.run)["ambiguous"] == 0

    type(node).objects.update(fence=5)

    assert len(unknown_outcomes(node.run)) == workflow_totals(node.run)["ambiguous"] == 1


# What it costs -------------------------------------------------------------------------------------------------------


def test_number_of_queries_does_not_depend_on_the_number_of_calls():
    run = run_of()
    questions: list[tuple[Any, int]] = [
        (lambda: workflow_totals(run), 2),
        (lambda: steps_for_workflow(run), 1),
        (lambda: unknown_outcomes(run), 1),
        (cost_by_model, 2),
        (cost_by_step, 2),
        (cost_by_workflow, 2),
    ]
    for calls in (1, 30):
        for number in range(calls):
            call(run, model=f"model {number}")
            LedgerEntryFactory.create(node=run.steps["ask"], ambiguous=True)
        for ask, queries in questions:
            with CaptureQueriesContext(connection) as captured:
                ask()

            assert len(captured) == queries
