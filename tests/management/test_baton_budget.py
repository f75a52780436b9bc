from __future__ import annotations

import json
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from baton import Workflow
from baton.models import WorkflowRun
from baton.testing import drain
from tests.llm import scripted

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]

ANSWER = {"model": "fixed", "usage": {"input_tokens": 0, "output_tokens": 1000}}
"""It costs 1."""


def printed(*arguments: Any) -> str:
    out = StringIO()
    call_command("baton_budget", *arguments, stdout=out)
    return out.getvalue()


def held() -> WorkflowRun:
    """One call is paid, one is of unknown outcome, and one is held."""
    scripted.SCRIPT[:] = [ANSWER, TimeoutError("no answer")]
    workflow = Workflow("brief", budget="2.5")
    for name in ("a", "b", "c"):
        workflow.add(name, scripted.asks.bind(model="fixed", max_cost=1, on_ambiguous="fail"))
    return drain(workflow.insert())


def test_without_an_amount_it_shows_what_is_spent_reserved_and_left_and_what_nobody_knows():
    run = held()

    assert printed(run.pk).splitlines() == [
        f"Run {run.pk} (brief)",
        "budget: €2.50",
        "spent: €1.00",
        "reserved: €1.00",
        "  €1.00 of it is for calls of unknown outcome, which may have been paid",
        "left: €0.5000",
        "held: 1 step",
    ]
    run.refresh_from_db()
    assert run.budget == Decimal("2.5")


def test_estimates_are_told():
    scripted.SCRIPT[:] = [{"model": "fixed"}]
    run = drain(Workflow("w", budget=3).add("a", scripted.asks.bind(model="fixed")).insert())

    assert "reserved: €3.00\n  €3.00 of it is an estimate: these calls may cost more\nleft: €0" in printed(run.pk)


def test_another_budget_lets_held_steps_go_on():
    run = held()

    assert printed(str(run.pk)[:8], "3.00").splitlines()[-2:] == ["left: €1.00", "1 step can go on."]

    scripted.SCRIPT[:] = [ANSWER]
    drain(run)
    assert (run.budget, run.steps["c"].state) == (Decimal(3), "completed")


def test_none_lifts_the_limit():
    run = held()

    lines = printed(run.pk, "none").splitlines()

    assert (lines[1], lines[-1]) == ("budget: none", "1 step can go on.")
    assert run.steps["c"].state == "available"


def test_json_is_one_document_whose_amounts_are_text():
    run = held()
    expected = {
        "ok": True,
        "id": str(run.pk),
        "name": "brief",
        "budget": "2.5",
        "spent": "1",
        "reserved": "1",
        "left": "0.5",
        "estimated": "0",
        "unknown": "1",
        "currency": "EUR",
        "held": 1,
        "woken": 0,
    }

    assert json.loads(printed(run.pk, "--json")) == expected
    raised = json.loads(printed(run.pk, "7", "--json"))
    assert raised == {**expected, "budget": "7", "left": "5", "held": 0, "woken": 1}


@pytest.mark.parametrize("amount", ["much", "-1", "9000001", "nan", ""])
def test_what_is_no_amount_is_wrong_usage(amount):
    run = held()

    with pytest.raises(CommandError, match=r"give an amount such as 2\.50, or none"):
        printed(run.pk, "--", amount)

    run.refresh_from_db()
    assert run.budget == Decimal("2.5")


def test_run_that_is_not_there_is_refused():
    with pytest.raises(CommandError, match="No run has an id that begins with abcd"):
        printed("abcd", "5")
    with pytest.raises(SystemExit):
        printed("abcd", "5", "--json")
