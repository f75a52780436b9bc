from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace

import pytest

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.ledger import Ledger
from baton.engine.questions import resolve
from baton.engine.runner import database
from baton.llm.stats import cost_by_model, steps_for_workflow, workflow_totals
from baton.models import LedgerEntry, StepStat
from baton.sweep import sweep
from baton.testing import drain, perform
from tests.clock import expire_leases
from tests.llm import scripted
from tests.llm.free_steps import adoes, did

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]

USAGE = {"input_tokens": 1000, "output_tokens": 100, "cached_input_tokens": 400}
ANSWER = {"model": "gpt-4o", "text": "hello", "usage": USAGE}
COST = Decimal("0.0030")
"""600 x 2.50 + 400 x 1.25 + 100 x 10, for a million."""

EACH = pytest.mark.parametrize("step", [scripted.asks, scripted.aasks], ids=["call", "acall"])
STREAMS = pytest.mark.parametrize("step", [scripted.streams, scripted.astreams], ids=["stream", "astream"])


def drained(step, **arguments):
    return drain(Workflow("w").add("a", step.bind(**arguments)).insert())


def entries(run):
    return list(LedgerEntry.objects.filter(run=run).order_by("number").values_list("number", "state", "resolution"))


@EACH
def test_answer_is_given_counted_and_priced(step):
    scripted.SCRIPT[:] = [ANSWER]

    run = drained(step)

    assert run.steps["a"].result == [ANSWER]
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["unpriced"]) == (1, COST, 0)
    assert (totals["input_tokens"], totals["output_tokens"], totals["cached_input_tokens"]) == (1000, 100, 400)
    assert entries(run) == [(1, "answered", "")]


@EACH
def test_stored_answer_is_given_again_and_nothing_is_paid_twice(step):
    scripted.SCRIPT[:] = [ANSWER]
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after the call"))]

    run = drained(step)

    assert (run.state, run.steps["a"].attempt, run.steps["a"].result) == ("completed", 2, [ANSWER])
    assert scripted.CALLS == ["call"]
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["saved"]) == (1, COST, COST)
    assert [row["from_ledger"] for row in steps_for_workflow(run.id)] == [False, True]


@EACH
@pytest.mark.parametrize("usage", [{}, {"usage": {**USAGE, "input_tokens": -1}}], ids=["none", "no count"])
def test_call_that_cannot_be_counted_counts_for_the_model_that_answered(step, usage):
    scripted.SCRIPT[:] = [{"model": "gpt-4o-2024-08-06", **usage}]

    drained(step, model="gpt-4o")

    found = [(row["model"], row["calls"], row["unpriced"], row["cost"]) for row in cost_by_model()]
    assert found == [("gpt-4o-2024-08-06", 1, 1, None)]


@STREAMS
def test_stream_that_says_nothing_of_its_usage_counts_for_the_model_that_answered(step):
    scripted.SCRIPT[:] = [[{"model": "gpt-4o"}, {"text": "hello"}]]

    drained(step)

    assert [(row["model"], row["unpriced"]) for row in cost_by_model()] == [("gpt-4o", 1)]


@STREAMS
def test_stream_is_given_again_chunk_by_chunk(step):
    parts = [{"text": "he"}, {"text": "llo"}, {"model": "gpt-4o", "usage": USAGE}]
    scripted.SCRIPT[:] = [parts]
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after the stream"))]

    run = drained(step)

    assert run.steps["a"].result == parts
    assert scripted.CALLS == ["stream"]
    assert workflow_totals(run.id)["cost"] == COST


@STREAMS
def test_stream_that_the_body_leaves_is_stored_to_its_end(step):
    parts = [{"text": "he"}, {"text": "llo"}, {"model": "gpt-4o", "usage": USAGE}]
    scripted.SCRIPT[:] = [parts]
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after the stream"))]

    run = drained(step, most=1)

    assert run.steps["a"].result == parts[:1]
    assert scripted.CALLS == ["stream"]
    assert workflow_totals(run.id)["cost"] == COST


@STREAMS
def test_stream_that_breaks_off_is_of_unknown_outcome(step):
    parts = [{"text": "he"}, {"model": "gpt-4o", "usage": USAGE}]
    scripted.SCRIPT[:] = [[parts[0], RuntimeError("cut")], parts]

    run = drained(step)

    assert run.steps["a"].result == parts
    assert entries(run) == [(1, "ambiguous", "repay"), (2, "answered", "")]
    assert workflow_totals(run.id)["ambiguous"] == 1


@EACH
def test_call_after_which_nobody_can_know_is_marked_and_made_again(step):
    scripted.SCRIPT[:] = [TimeoutError("no answer"), ANSWER]

    run = drained(step)

    assert (run.state, scripted.CALLS) == ("completed", ["call", "call"])
    assert entries(run) == [(1, "ambiguous", "repay"), (2, "answered", "")]


@EACH
def test_refused_call_is_made_again_and_not_marked(step):
    class RefusedError(Exception):
        status_code = 429

    scripted.SCRIPT[:] = [RefusedError("slow down"), ANSWER]

    run = drained(step)

    assert run.state == "completed"
    assert entries(run) == [(1, "failed", ""), (2, "answered", "")]
    assert workflow_totals(run.id)["ambiguous"] == 0


@EACH
def test_policy_fail_discards_a_step_whose_call_is_of_unknown_outcome(step):
    scripted.SCRIPT[:] = [TimeoutError("no answer")]

    run = drained(step, on_ambiguous="fail")

    assert (run.state, scripted.CALLS) == ("failed", ["call"])
    assert run.steps["a"].attempt == 2
    assert "nobody knows whether it was answered and paid" in run.steps["a"].error
    assert entries(run) == [(1, "ambiguous", "fail")]


@EACH
def test_policy_ask_holds_a_step_whose_call_is_of_unknown_outcome(step):
    scripted.SCRIPT[:] = [TimeoutError("no answer")]

    run = drained(step, on_ambiguous="ask")

    node = run.steps["a"]
    assert (run.state, node.state, node.due_at, node.attempt) == ("running", "snoozed", None, 1)
    assert node.hold.kind == "question"
    assert entries(run) == [(1, "ambiguous", "")]


def test_calls_of_two_keys_are_two_rows():
    scripted.SCRIPT[:] = [ANSWER, ANSWER]

    run = drained(scripted.asks, keys=["one", "two"])

    assert workflow_totals(run.id)["calls"] == 2


def test_call_within_the_body_s_transaction_is_refused_before_anything_is_paid():
    run = drain(Workflow("w").add("a", scripted.calls_in_its_transaction).insert())

    assert (run.state, scripted.CALLS) == ("failed", [])
    assert "inside a transaction" in run.steps["a"].error
    assert not LedgerEntry.objects.exists()


@pytest.mark.parametrize("step", [scripted.effects, scripted.aeffects], ids=["once", "aonce"])
def test_effect_is_done_once_and_costs_nothing(step):
    scripted.SCRIPT[:] = [{"sent": (1, 2)}]
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after it"))]

    run = drained(step)

    assert run.steps["a"].result == {"sent": [1, 2]}
    assert scripted.CALLS == ["call"]
    assert not StepStat.objects.exists()


def test_usage_with_a_key_is_counted_once_and_without_one_each_time():
    usage = {"model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100}
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after it"))]
    once = drained(scripted.records, key="k", **usage)
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after it"))]
    each = drained(scripted.records, **usage)

    assert workflow_totals(once.id)["calls"] == 1
    assert workflow_totals(each.id)["calls"] == 2


def test_returned_usage_is_taken_out_and_recorded_once():
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after it"))]

    run = drained(scripted.returns_usage)

    assert run.steps["a"].result == {"text": "hello"}
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"]) == (1, Decimal("0.0035"))


def test_call_takes_one_statement_before_it_and_one_transaction_of_two_after_it():
    scripted.SCRIPT[:] = [ANSWER, ANSWER]

    run = drained(scripted.counts_statements, keys=["one", "two"])

    # The terms of the run are read before the body. In a test a transaction is a savepoint.
    first, second, replay = run.steps["a"].result
    after = ["SAVEPOINT", "UPDATE baton_ledgerentry", "INSERT baton_stepstat", "RELEASE"]
    assert first == second == ["INSERT baton_ledgerentry", *after]
    assert replay == [
        "INSERT baton_ledgerentry",
        "SELECT baton_ledgerentry",
        "SAVEPOINT",
        "INSERT baton_stepstat",
        "RELEASE",
    ]


def test_budget_adds_two_statements_and_a_transaction_before_a_call_and_two_statements_after_it():
    scripted.SCRIPT[:] = [ANSWER, ANSWER]
    most = {"model": "gpt-4o", "max_input_tokens": 1000, "max_output_tokens": 100}
    step = scripted.counts_statements.bind(keys=["one", "two"], **most)

    run = drain(Workflow("w", budget=Decimal(1)).add("a", step).insert())

    # The first call opens the account.
    assert run.steps["a"].result[1] == [
        "SELECT baton_workflowrun",
        "SAVEPOINT",
        "INSERT baton_ledgerentry",
        "UPDATE baton_budgetaccount",
        "RELEASE",
        "SAVEPOINT",
        "UPDATE baton_ledgerentry",
        "INSERT baton_stepstat",
        "UPDATE baton_budgetaccount",
        "RELEASE",
        "SELECT baton_hold",
    ]


def test_call_of_a_hook_is_recorded_too():
    scripted.SCRIPT[:] = [ANSWER]
    workflow = Workflow("w").add("a", scripted.fails, max_attempts=1).add("b", scripted.mourns, deps=["a"])

    run = drain(workflow.insert())

    totals = workflow_totals(run.id)
    assert (run.state, totals["calls"], totals["cost"]) == ("failed", 2, COST + Decimal("0.0035"))
    assert [row["step_name"] for row in steps_for_workflow(run.id)] == ["b", "b"]
    assert entries(run) == [(1, "answered", "")]


def test_class_of_the_project_prices_calls_and_totals_say_what_it_does_not_know(settings):
    settings.BATON = {**settings.BATON, "PRICING": "tests.llm.scripted.FlatPricing"}
    scripted.SCRIPT[:] = [ANSWER, {**ANSWER, "model": "unheard-of"}]

    run = drained(scripted.asks, keys=["known", "unknown"])

    known, unknown = steps_for_workflow(run.id)
    assert (known["cost"], known["unpriced_because"]) == (Decimal("0.25"), "")
    assert unknown["cost"] is None
    assert StepStat.objects.get(key="known").price_source == "tests.llm.scripted.FlatPricing"
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["unpriced"]) == (2, Decimal("0.25"), 1)


def test_effect_and_call_of_one_key_are_two_things():
    scripted.SCRIPT[:] = [ANSWER, "sent"]

    run = drained(scripted.calls_and_sends)

    assert run.steps["a"].result == [ANSWER, "sent"]


def test_async_function_given_to_once_is_awaited_in_an_async_body_and_refused_in_a_plain_one():
    scripted.SCRIPT[:] = ["sent"]
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after it"))]

    sent = drained(scripted.awaits_once)
    refused = drained(scripted.once_with_an_async_function)

    assert (sent.steps["a"].result, scripted.CALLS) == ("sent", ["call"])
    assert "use aonce()" in refused.steps["a"].error
    assert {state for _number, state, _resolution in entries(refused)} == {"failed"}


@EACH
def test_person_is_asked_also_about_the_call_of_the_last_attempt(step):
    scripted.SCRIPT[:] = [TimeoutError("no answer"), ANSWER]

    run = drain(Workflow("w").add("a", step, on_ambiguous="ask", max_attempts=1).insert())

    node = run.steps["a"]
    assert (node.state, node.hold.kind) == ("snoozed", "question")
    assert node.attempts[-1]["outcome"] == "failed"
    resolve(run, "a", decision="pay")
    run = drain(run)
    assert (run.state, run.steps["a"].result) == ("completed", [ANSWER])


def test_person_is_asked_about_the_call_of_a_worker_that_vanished_in_the_last_attempt():
    run = Workflow("w").add("a", scripted.asks, on_ambiguous="ask", max_attempts=1).insert()
    claimed = claim(database(), run.steps["a"].pk, worker="elsewhere:1")
    begun = Ledger(
        alias="default",
        run_id=run.pk,
        node_id=claimed.node_id,
        workflow_name="w",
        step_name="a",
        step=claimed.step,
        fence=claimed.fence,
        attempt=1,
        policy="ask",
        own=database(),
        depth=len(database().atomic_blocks),
    ).begin("k", is_call=True)
    expire_leases(run)

    sweep()

    node = run.steps["a"]
    assert (node.state, node.hold.kind, node.hold.account) == ("snoozed", "question", f"entry:{begun.id}")
    assert node.attempts[-1]["outcome"] == "worker_lost"


def test_object_with_attributes_is_an_answer_too_and_is_the_same_on_a_replay():
    message = SimpleNamespace(content="hello")
    usage = SimpleNamespace(prompt_tokens=1000, completion_tokens=100)
    scripted.SCRIPT[:] = [SimpleNamespace(model="gpt-4o", choices=[message], usage=usage)]
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after it"))]

    run = drained(scripted.reads_attributes)

    assert (run.steps["a"].result, run.steps["a"].attempt) == ("hello", 2)
    assert workflow_totals(run.id)["cost"] == Decimal("0.0035")


def test_steps_that_only_return_their_usage_are_held_once_the_budget_is_spent():
    workflow = Workflow("w", budget=Decimal("0.0105"))
    for number in range(10):
        workflow.add(f"s{number}", scripted.returns_usage)

    run = drain(workflow.insert())

    assert (run.state, run.progress["states"]) == ("running", {"completed": 3, "snoozed": 7})
    assert workflow_totals(run.id)["cost"] == Decimal("0.0105")
    run.budget = Decimal(1)
    run.save()
    assert drain(run).state == "completed"


def test_what_is_done_once_is_done_once_without_a_worker_too():
    scripted.SCRIPT[:] = ["sent"]

    assert perform(scripted.effects_twice) == ["sent", "sent"]


@pytest.mark.parametrize("is_async", [False, True], ids=["once", "aonce"])
def test_effect_that_is_no_function_is_refused_and_nothing_is_written_of_it(is_async):
    async def aeffect(ctx):
        return await ctx.aonce("e", None)

    run = did(aeffect, step=adoes) if is_async else did(lambda ctx: ctx.once("e", None))

    assert run.steps["a"].error == "TypeError: The effect 'e' is given None: give a function that does it."
    assert not LedgerEntry.objects.exists()
