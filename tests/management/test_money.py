"""Amounts as people read them, and the money of a run in the terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, localcontext
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from baton import money
from baton.models import BudgetAccount, WorkflowRun
from tests.factories import LedgerEntryFactory, StepStatFactory, WorkflowNodeFactory, WorkflowRunFactory

NOON = datetime(2026, 6, 14, 12, tzinfo=UTC)


def printed(run: WorkflowRun, *arguments: str) -> str:
    out = StringIO()
    call_command("baton_show", str(run.pk), "--money", *arguments, stdout=out)
    return out.getvalue()


def shown(run: WorkflowRun) -> list[str]:
    """What is printed below the head."""
    return printed(run).split("\n\n", 1)[1].splitlines()


def run_of(*steps: str, **values: Any) -> WorkflowRun:
    run = WorkflowRunFactory.create(completed=True, **values)
    for step in steps:
        WorkflowNodeFactory.create(run=run, name=step, step=f"app.steps.{step}", completed=True, fence=1)
    return run


def call(run: WorkflowRun, step: str, second: int, **values: Any) -> None:
    StepStatFactory.create(node=run.steps[step], run=run, at=NOON + timedelta(seconds=second), **values)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0.00225", "$0.0022"),
        ("0.99995", "$1.0000"),
        ("0.0001", "$0.0001"),
        ("0.00009", "< $0.0001"),
        ("0.000000000001", "< $0.0001"),
        ("0", "$0"),
        ("1", "$1.00"),
        ("1234567.895", "$1,234,567.90"),
        ("-0.5", "-$0.5000"),
        ("-0.00001", "-< $0.0001"),
        (None, "unpriced"),
    ],
)
def test_amount_under_one_has_four_decimals_and_a_larger_one_two(value, text):
    with localcontext(Context(prec=3)):
        assert money.amount(None if value is None else Decimal(value), "USD") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("12.00", "$12"),
        ("1E+3", "$1,000"),
        ("0.5000", "$0.50"),
        ("0.0125", "$0.0125"),
        ("-0.70", "-$0.70"),
        ("0", "$0"),
    ],
)
def test_budget_is_told_without_zeros_that_say_nothing(value, text):
    with localcontext(Context(prec=3)):
        assert money.short(Decimal(value), "USD") == text


@pytest.mark.parametrize(
    ("cost", "unpriced", "text"),
    [
        ("0.5", 0, "$0.5000"),
        ("0.5", 3, "$0.5000 + 3 unpriced"),
        ("0", 1, "$0 + 1 unpriced"),
        (None, 1200, "1,200 unpriced"),
        (None, 0, "$0"),
    ],
)
def test_sum_says_what_it_lacks(cost, unpriced, text):
    assert money.total(None if cost is None else Decimal(cost), unpriced, "USD") == text


@pytest.mark.django_db
def test_money_of_a_run_is_shown_in_all_and_by_model_by_step_and_by_call():
    run = run_of("ask", "sum", name="brief", budget=Decimal(2))
    BudgetAccount.objects.create(name=f"run:{run.pk}", spent=Decimal("0.1"), reserved=Decimal("0.5"))
    call(run, "ask", 0, cached_input_tokens=30, cache_write_tokens=7, reasoning_tokens=4, key="question")
    call(run, "ask", 1, from_ledger=True, count=3, key="question", attempt=2)
    call(run, "sum", 2, unpriced=True, model="acme-1", key="all\x1b[2J")
    call(run, "sum", 3, unknown_usage=True, model="acme-1", duration=None)
    entry: dict[str, Any] = {"node": run.steps["ask"], "ambiguous": True}
    LedgerEntryFactory.create(
        **entry, key="a", reserved=Decimal("0.5"), resolution="repay", started_at=NOON + timedelta(seconds=4)
    )
    LedgerEntryFactory.create(**entry, key="b", model="acme-2", started_at=NOON + timedelta(seconds=5))

    head, below = printed(run).split("\n\n", 1)

    assert head.splitlines()[0] == f"✓ brief  {run.pk}"
    assert (
        below
        == """\
cost     $0.0022 + 2 unpriced
budget   $2.00, $0.5000 of it reserved
calls    3, and 3 answers from the ledger, which saved $0.0068
tokens   2,000 of input (30 from a cache, 7 into a cache), 200 of output (4 of reasoning)
unknown  2 of unknown outcome, in no sum: they may have been paid

MODEL   CALLS  INPUT  CACHED  OUTPUT  COST
gpt-5       1  1,000      30     100  $0.0022, 1 of unknown outcome
acme-1      2  1,000       0     100  2 unpriced
acme-2      0      0       0       0  1 of unknown outcome

STEP           CALLS  INPUT  CACHED  OUTPUT  COST
app.steps.ask      1  1,000      30     100  $0.0022, 2 of unknown outcome
app.steps.sum      2  1,000       0     100  2 unpriced

AT                   STEP  KEY         ATTEMPT  MODEL      INPUT    OUTPUT  TOOK   OUTCOME                   COST
2026-06-14 12:00:00  ask   question          1  gpt-5      1,000       100  1.5 s  answered                  $0.0022
2026-06-14 12:00:01  ask   question          2  gpt-5                              from the ledger, 3 times            saved $0.0068
2026-06-14 12:00:02  sum   all\\x1b[2J        1  acme-1     1,000       100  1.5 s  answered                  unpriced  no price for model 'gpt-5'
2026-06-14 12:00:03  sum                     1  acme-1  not told  not told         answered                  unpriced  the answer does not say what it used
2026-06-14 12:00:04  ask   a                 1  gpt-5                              unknown outcome           unknown   called again; $0.5000 reserved
2026-06-14 12:00:05  ask   b                 1  acme-2                             unknown outcome           unknown   nothing has followed yet
"""  # noqa: E501 - as it is printed
    )


@pytest.mark.django_db
def test_run_without_calls_has_cost_nothing():
    assert shown(run_of("ask")) == ["cost    $0", "calls   0", "tokens  0 of input, 0 of output"]


@pytest.mark.django_db
def test_answers_that_saved_an_unknown_amount_say_so():
    run = run_of("ask")
    call(run, "ask", 0, unpriced=True, from_ledger=True)

    lines = shown(run)

    assert lines[1] == "calls   0, and 1 answer from the ledger, which saved 1 unpriced"
    assert lines[-1].endswith("from the ledger        saved unpriced")


@pytest.mark.django_db
def test_long_list_shows_the_newest_calls_and_json_all():
    run = run_of("ask")
    for number in range(105):
        call(run, "ask", number, key=f"call {number}")

    lines = shown(run)

    assert sum(" answered " in line for line in lines) == 100
    assert "call 104" in lines[-2]
    assert lines[-1] == "Only the newest are shown; all of them with --json."
    assert len(json.loads(printed(run, "--json"))["money"]["calls"]) == 105


@pytest.mark.django_db
def test_json_has_the_money_beside_run_and_steps_with_amounts_as_exact_text():
    run = run_of("ask", budget=Decimal("2.50"))
    call(run, "ask", 0, cost=Decimal("0.100000000001"), key="question")
    LedgerEntryFactory.create(node=run.steps["ask"], ambiguous=True, started_at=NOON, reserved=Decimal("0.25"))

    document = json.loads(printed(run, "--json"))
    found = document["money"]

    assert set(document) == {"run", "steps", "money"}
    assert "money" not in json.loads(_without_money(run))
    assert set(found) == {"totals", "budget", "reserved", "models", "steps", "calls", "unknown_outcomes"}
    assert (found["budget"], found["reserved"]) == ("2.5", "0")
    assert (found["totals"]["cost"], found["totals"]["unpriced"], found["totals"]["ambiguous"]) == (
        "0.100000000001",
        0,
        1,
    )
    assert [(row["model"], row["cost"]) for row in found["models"]] == [("gpt-5", "0.100000000001")]
    assert [(row["step"], row["calls"]) for row in found["steps"]] == [("app.steps.ask", 1)]
    assert (found["calls"][0]["key"], found["calls"][0]["at"]) == ("question", "2026-06-14T12:00:00.000000Z")
    assert (found["unknown_outcomes"][0]["reserved"], found["unknown_outcomes"][0]["step_name"]) == ("0.25", "ask")


def _without_money(run: WorkflowRun) -> str:
    out = StringIO()
    call_command("baton_show", str(run.pk), "--json", stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_money_of_many_calls_is_as_many_queries_as_that_of_one():
    run = run_of("ask")
    counts = set()
    for calls in (1, 30):
        for number in range(calls):
            call(run, "ask", number, model=f"model {number}")
        with CaptureQueriesContext(connection) as captured:
            printed(run)
        counts.add(len(captured))

    assert len(counts) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("other", [["--follow"], ["--why", "ask"]])
def test_money_goes_with_neither_follow_nor_why(other):
    with pytest.raises(CommandError, match="not allowed with argument"):
        printed(run_of("ask"), *other)
