"""Budgets: what is refused, what is held, what lets it go on, and that it never costs a digit too much."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from asgiref.sync import async_to_sync
from django.db import DatabaseError, OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from baton import Workflow
from baton.engine.accounts import balance
from baton.models import BudgetAccount, Hold, LedgerEntry, StepStat, WorkflowRun
from baton.testing import drain
from tests.llm import scripted, spending
from tests.llm.scripted import PRICES
from tests.utils import wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]

EACH = pytest.mark.parametrize("step", [scripted.asks, scripted.aasks], ids=["call", "acall"])


class RefusedError(Exception):
    status_code = 429


def answer(cost: str | Decimal) -> dict[str, object]:
    """An answer of the model `fixed`, which costs so much."""
    return {"model": "fixed", "usage": {"input_tokens": 0, "output_tokens": int(Decimal(cost) * 1000)}}


def branches(count: int, *, budget: str | None = None, **options: object) -> WorkflowRun:
    workflow = Workflow("w", budget=budget)
    for number in range(count):
        workflow.add(f"b{number}", scripted.asks.bind(**{"model": "fixed", **options}))
    return workflow.insert()


def one(step: object = scripted.asks, *, budget: str | None = None, **options: object) -> WorkflowRun:
    workflow = Workflow("w", budget=budget, allow_unpriced=bool(options.pop("allow_unpriced", False)))
    return drain(workflow.add("a", step.bind(**options)).insert())  # type: ignore[attr-defined]


def paid(run: WorkflowRun) -> list[Decimal]:
    return list(StepStat.objects.filter(run=run, from_ledger=False).order_by("id").values_list("cost", flat=True))


# Many at once --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("limit", [{"max_cost": "0.1"}, {"max_output_tokens": 100, "max_input_tokens": 0}], ids=str)
def test_cheaper_answers_leave_no_call_held_that_would_fit_and_cost_never_a_digit_too_much(limit):
    budget, chance = Decimal("6.3"), random.Random(5)
    costs = [Decimal(chance.randint(1, 100)) / 1000 for _ in range(200)]
    run = branches(200, budget="6.3", **limit)
    scripted.SCRIPT[:] = [answer(cost) for cost in costs]

    drain(run)

    spent = sum(paid(run))
    assert len(paid(run)) < 200
    assert budget - Decimal("0.1") < spent <= budget
    assert run.balance().left == budget - spent
    assert run.progress["states"]["snoozed"] == len(scripted.SCRIPT)
    scripted.SCRIPT.clear()


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("at_most", "most_paid"),
    [("0.1", 63), pytest.param("0.2", None, marks=pytest.mark.postgres)],
    ids=["exact", "cheaper"],
)
def test_on_real_workers_never_a_digit_too_much_is_paid_and_a_raise_ends_the_run(real_cluster, at_most, most_paid):
    real_cluster(queue="llm", workers=2, baton={"PRICES": PRICES, "CURRENCY": "EUR"})
    workflow = Workflow("w", budget="6.3")
    for number in range(200):
        workflow.add(f"b{number}", spending.pays.bind(max_cost=at_most))
    inserted = workflow.insert()

    def is_still() -> bool:
        states = inserted.progress["states"]
        return set(states) == {"completed", "snoozed"} and inserted.balance().reserved == 0

    wait_until(is_still, timeout=120, what="the end of all calls that may be paid")

    spent = sum(paid(inserted))
    assert Decimal("6.3") - Decimal(at_most) < spent <= Decimal("6.3")
    if most_paid:
        assert len(paid(inserted)) == most_paid
    inserted.budget = Decimal(21)
    inserted.save()
    assert inserted.wait(timeout=60) == "completed"
    assert sum(paid(inserted)) == 20


# What a call may cost ------------------------------------------------------------------------------------------------


@EACH
def test_call_that_does_not_fit_is_held_before_anything_is_called(step):
    run = one(step, budget="1", model="fixed", max_cost="1.01")

    node = run.steps["a"]
    assert (node.state, node.due_at, node.attempt, scripted.CALLS) == ("snoozed", None, 0, [])
    assert (node.hold.kind, node.hold.account, node.hold.amount) == ("budget", f"run:{run.pk}", Decimal("1.01"))
    assert not LedgerEntry.objects.exists()


def test_worst_case_is_reckoned_from_the_limits_of_the_request_at_the_dearest_price(settings):
    prices = {"m": {"input": "1", "output": "10", "cached_input": "0.1", "cache_write": "2"}}
    settings.BATON = {**settings.BATON, "PRICES": prices}
    request = {"model": "m", "max_tokens": 1_000_000, "n": 2}
    fits = {"max_input_tokens": 1_000_000, "request": request}

    # 2 for input that is all written to a cache, and twice 10.
    run = one(spending.asks_with_request, budget="21.999999999999", **fits)
    assert run.steps["a"].hold.amount == 22

    scripted.SCRIPT[:] = [{"model": "m", "usage": {"input_tokens": 0, "output_tokens": 100_000}}]
    assert one(spending.asks_with_request, budget="22", **fits).state == "completed"


def test_call_of_which_nobody_can_tell_takes_all_that_is_left_and_the_others_follow_by_its_cost():
    run = branches(5, budget="1")
    held: list[Decimal] = []

    def first() -> object:
        held.extend(balance(f"run:{run.pk}", using="default"))
        return answer("0.3")

    scripted.SCRIPT[:] = [first, answer("0.3"), answer("0.3")]

    drain(run)

    assert held == [0, 1]
    assert paid(run) == [Decimal("0.3")] * 3
    assert run.progress["states"] == {"completed": 3, "snoozed": 2}
    assert set(Hold.objects.values_list("amount", flat=True)) == {Decimal("0.3")}


def test_call_that_costs_more_than_was_estimated_is_shown_and_holds_what_follows():
    run = branches(2, budget="1", max_cost="0.5")
    scripted.SCRIPT[:] = [answer("1.7")]

    drain(run)

    assert (run.balance().spent, run.balance().left) == (Decimal("1.7"), Decimal("-0.7"))
    assert run.progress["states"] == {"completed": 1, "snoozed": 1}
    assert "the budget of €1 leaves -€0.70, and the call may cost €0.50." in run.headline()


def test_refused_call_gives_its_reservation_back_and_one_of_unknown_outcome_keeps_it():
    scripted.SCRIPT[:] = [RefusedError("slow down"), TimeoutError("no answer"), answer("0.4")]

    run = one(budget="1", model="fixed", max_cost="0.5")

    assert run.state == "completed"
    now = run.balance()
    assert (now.spent, now.reserved, now.unknown, now.left) == (
        Decimal("0.4"), Decimal("0.5"), Decimal("0.5"), Decimal("0.1"),
    )  # fmt: skip


def test_late_answer_takes_its_reservation_s_place():
    # While the provider answers, somebody gives the call up.
    scripted.SCRIPT[:] = [lambda: LedgerEntry.objects.update(state="ambiguous") and answer("0.2")]

    run = one(budget="1", model="fixed", max_cost="0.5")

    assert run.state == "completed"
    assert (run.balance().spent, run.balance().reserved) == (Decimal("0.2"), Decimal(0))


def is_answered() -> object:
    return answer("0.2")


def is_answered_late() -> object:
    LedgerEntry.objects.update(state="ambiguous")
    return answer("0.2")


def is_refused() -> object:
    scripted.SCRIPT.append(answer("0.2"))
    raise RefusedError("slow down")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("amount", ["0.5", None])
@pytest.mark.parametrize("outcome", [is_answered, is_answered_late, is_refused])
def test_outcome_whose_commit_is_done_though_the_worker_is_told_otherwise_is_charged_once(monkeypatch, outcome, amount):
    commit, breaks = BaseDatabaseWrapper.commit, []

    def call():
        breaks.append(OperationalError("the connection broke behind the commit"))
        return outcome()

    def commit_and_break(wrapper):
        commit(wrapper)
        if breaks:
            raise breaks.pop()

    monkeypatch.setattr(BaseDatabaseWrapper, "commit", commit_and_break)
    scripted.SCRIPT[:] = [call]

    run = one(budget="1", model="fixed", max_cost=amount)

    assert run.state == "completed"
    assert not breaks
    assert paid(run) == [Decimal("0.2")]
    assert (run.balance().spent, run.balance().reserved) == (Decimal("0.2"), Decimal(0))


@pytest.mark.django_db(transaction=True)
def test_cost_that_is_reported_after_the_answer_lets_others_go_on():
    workflow = Workflow("w", budget=1).add("a", spending.says_so_later)
    workflow.add("b", scripted.asks.bind(model="fixed", max_cost="0.9"))
    scripted.SCRIPT[:] = [answer("0.9")]

    run = drain(workflow.insert())

    assert (run.state, run.balance().left) == ("completed", Decimal(0))
    # It was held while the first call's reservation stood.
    assert [each["outcome"] for each in run.steps["b"].attempts] == ["snoozed", "completed"]


@pytest.mark.parametrize("cost", ["0.1", "0"])
def test_usage_by_hand_is_charged_and_holds_the_calls_that_follow(cost):
    run = (
        Workflow("w", budget="0.1")
        .add("a", scripted.records.bind(model="fixed", input_tokens=0, output_tokens=int(Decimal(cost) * 1000)))
        .add("b", scripted.asks.bind(model="fixed", max_cost="0.1"), deps=["a"])
        .insert()
    )
    scripted.SCRIPT[:] = [] if Decimal(cost) else [answer("0.1")]

    drain(run)

    assert run.steps["b"].state == ("snoozed" if Decimal(cost) else "completed")


# Budgets that never trip, as elsewhere -------------------------------------------------------------------------------


def test_streamed_calls_trip_the_budget():
    parts = [{"text": "hello"}, answer("0.6")]
    workflow = Workflow("w", budget=1)
    for number in range(3):
        workflow.add(f"b{number}", scripted.streams.bind(model="fixed", max_cost="0.6"))
    scripted.SCRIPT[:] = [parts]

    run = drain(workflow.insert())

    assert paid(run) == [Decimal("0.6")]
    assert run.progress["states"] == {"completed": 1, "snoozed": 2}


def test_stream_whose_usage_is_unknown_keeps_its_reservation():
    workflow = Workflow("w", budget=1)
    for number in range(2):
        workflow.add(f"b{number}", scripted.streams.bind(model="fixed", max_cost="0.6"))
    scripted.SCRIPT[:] = [[{"text": "hello"}]]

    run = drain(workflow.insert())

    assert run.progress["states"] == {"completed": 1, "snoozed": 1}
    assert run.balance().reserved == Decimal("0.6")


@pytest.mark.parametrize("limits", [{"budget": "1"}, {"STEP_BUDGET": 1}, {"DAY_BUDGET": 1}], ids=str)
def test_model_without_a_price_is_refused_under_any_budget_before_it_is_called(settings, limits):
    budget = limits.get("budget")
    settings.BATON = {**settings.BATON, **({} if budget else limits)}

    run = one(budget=budget, model="unheard-of")

    assert (run.state, scripted.CALLS, run.steps["a"].attempt) == ("failed", [], 1)
    assert run.steps["a"].error.startswith("Step 'a', key 'k': it is under a budget and no price")
    assert not LedgerEntry.objects.exists()


def test_model_without_a_price_may_be_called_where_the_run_says_so_or_the_call_names_its_most():
    scripted.SCRIPT[:] = [{"model": "unheard-of", "usage": {"input_tokens": 1, "output_tokens": 1}}] * 2

    assert one(budget="1", model="unheard-of", allow_unpriced=True).balance().reserved == 0
    named = one(budget="1", model="unheard-of", max_cost="0.9")

    # Nobody knows what it cost, so its most stays reserved.
    assert (named.state, named.balance().reserved) == ("completed", Decimal("0.9"))


def test_answer_of_another_model_that_has_no_price_keeps_what_was_reserved():
    scripted.SCRIPT[:] = [{"model": "unheard-of", "usage": {"input_tokens": 1, "output_tokens": 1}}]

    run = branches(2, budget="1")
    drain(run)

    assert run.progress["states"] == {"completed": 1, "snoozed": 1}
    assert run.balance().reserved == 1


# Of a step, and of a day ---------------------------------------------------------------------------------------------


def test_budget_of_a_step_holds_the_call_that_would_exceed_it_and_no_other_step(settings):
    settings.BATON = {**settings.BATON, "STEP_BUDGET": "0.2"}
    run = branches(2, max_cost="0.1", keys=["one", "two", "three"])
    scripted.SCRIPT[:] = [answer("0.1")] * 4

    drain(run)

    assert run.progress["states"] == {"snoozed": 2}
    assert len(paid(run)) == 4
    told = run.steps["b0"].explain()
    assert told == (
        "Held: the budget of €0.20 for a step leaves €0, and the call may cost €0.10. Raise BATON['STEP_BUDGET']."
    )


def test_budget_of_a_day_is_of_all_runs_and_counts_what_was_paid_before_it_was_set(settings):
    scripted.SCRIPT[:] = [answer("0.3")]
    one(model="fixed")
    settings.BATON = {**settings.BATON, "DAY_BUDGET": "1"}
    scripted.SCRIPT[:] = [answer("0.3")] * 2

    runs = [one(model="fixed", max_cost="0.3") for _ in range(3)]

    assert [run.state for run in runs] == ["completed", "completed", "running"]
    assert runs[2].steps["a"].hold.account == f"day:{timezone.now():%Y-%m-%d}"
    assert "It goes on with the next day of UTC" in runs[2].headline()


def test_tightest_of_several_budgets_holds(settings):
    settings.BATON = {**settings.BATON, "DAY_BUDGET": "5", "STEP_BUDGET": "0.5"}

    run = one(budget="1", model="fixed", max_cost="0.6")

    assert run.steps["a"].hold.account == f"step:{run.steps['a'].pk}"
    # What the other accounts had reserved for it was given back with the refusal.
    assert not BudgetAccount.objects.filter(reserved__gt=0).exists()


# Another budget ------------------------------------------------------------------------------------------------------


def held(count: int = 1) -> WorkflowRun:
    return drain(branches(count, budget="0.1", max_cost="1"))


@pytest.mark.parametrize("fields", [None, ["budget"], {"budget", "meta"}], ids=str)
def test_saved_budget_readies_as_many_as_there_is_money_for(fields):
    run = held(5)

    run.budget = "3.5"
    run.save(update_fields=fields)

    assert run.budget == Decimal("3.5")
    assert run.progress["states"] == {"available": 3, "snoozed": 2}


def test_saved_budget_of_an_async_program_readies_too():
    run = held()
    run.budget = Decimal(1)

    async_to_sync(run.asave)()

    assert run.steps["b0"].state == "available"


def test_no_budget_readies_everything():
    run = held(250)

    run.budget = None
    run.save()

    assert run.progress["states"] == {"available": 250}
    assert not Hold.objects.exists()


def test_smaller_budget_readies_nothing_and_takes_nothing_back():
    run = held(2)

    run.budget = 0
    run.save()

    assert run.progress["states"] == {"snoozed": 2}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(0.5, TypeError), ("-1", ValueError), (9_000_001, ValueError)],
)
def test_what_is_no_amount_is_refused_and_nothing_changes(wrong, error):
    run = held()
    run.budget = wrong

    with pytest.raises(error, match=r"The budget of a run: .*Give a Decimal or text"):
        run.save()

    run.refresh_from_db()
    assert (run.budget, run.steps["b0"].state) == (Decimal("0.1"), "snoozed")


def test_save_writes_nothing_that_is_the_workers():
    run = branches(1, budget="1", max_cost="0.1")
    before = WorkflowRun.objects.get(pk=run.pk)
    scripted.SCRIPT[:] = [answer("0.1")]
    drain(run)

    before.meta, before.name, before.debug = {"by": "ann"}, "another", True
    before.save()

    after = WorkflowRun.objects.get(pk=run.pk)
    assert (after.state, after.name, after.meta, after.debug) == ("completed", "w", {"by": "ann"}, True)
    assert after.finished_at is not None
    before.save(update_fields=["name"])
    assert WorkflowRun.objects.get(pk=run.pk).name == "another"


def test_save_of_a_part_that_was_read_writes_that_part():
    run = held()

    part = WorkflowRun.objects.only("meta").get(pk=run.pk)
    part.meta = {"by": "ann"}
    part.save()

    run.refresh_from_db()
    assert (run.meta, run.budget) == ({"by": "ann"}, Decimal("0.1"))


def test_budget_of_a_run_that_is_gone_cannot_be_saved():
    run = held()
    WorkflowRun.objects.filter(pk=run.pk).delete()
    Hold.objects.all().delete()
    BudgetAccount.objects.all().delete()
    run.budget = Decimal(1)

    with pytest.raises(DatabaseError, match="did not affect"):
        run.save()

    assert not BudgetAccount.objects.exists()


# What people are told, and what they do besides ----------------------------------------------------------------------


def test_held_step_says_what_is_lacking_and_what_to_do():
    run = held(2)
    why = "the budget of €0.10 leaves €0.10, and the call may cost €1."
    how = f"Raise it: manage.py baton_budget {str(run.pk)[:8]} AMOUNT"

    assert run.steps["b0"].explain() == f"Held: {why} {how}"
    assert run.headline() == f"2 steps are held: {why} {how}"
    WorkflowRun.objects.filter(pk=run.pk).update(budget=None)
    assert "for a budget that is there no more; the sweep lets it go on." in run.steps["b0"].explain()
    WorkflowRun.objects.filter(pk=run.pk).update(budget=2)
    assert "which is enough now; the sweep lets it go on." in run.steps["b0"].explain()


def test_amounts_that_would_read_the_same_are_told_to_the_last_digit():
    run = one(budget="0.00005", model="fixed", max_cost="0.00007")

    why = "the budget of €0.00005 leaves €0.00005, and the call may cost €0.00007."
    assert run.steps["a"].explain().startswith(f"Held: {why}")


def test_held_step_says_what_is_reserved_for_calls_that_may_have_been_paid():
    scripted.SCRIPT[:] = [TimeoutError("no answer")]

    run = one(budget="1", model="fixed", max_cost="0.6")

    # Called again, it might be paid twice.
    assert (
        run.steps["a"]
        .explain()
        .startswith("Held: the budget of €1 leaves €0.40, with €0.60 of it reserved, and the call may cost")
    )


def test_dependent_of_a_held_step_says_so():
    run = drain(
        Workflow("w", budget=0).add("a", scripted.asks.bind(model="fixed")).add("b", scripted.asks, deps=["a"]).insert()
    )

    assert run.steps["b"].explain() == "Waits for a (held)."
    assert "nobody can tell what the call may cost." in run.steps["a"].explain()


def test_cancelled_run_holds_nothing_and_a_retry_is_held_again():
    run = held(2)

    assert run.cancel()

    assert not Hold.objects.exists()
    drain(run.retry())
    assert run.progress["states"] == {"snoozed": 2}
    run.cancel()
    run.budget = Decimal(2)
    run.save()
    scripted.SCRIPT[:] = [answer("1")] * 2
    assert drain(run.retry()).state == "completed"


def test_first_budget_counts_what_was_paid_before_it():
    scripted.SCRIPT[:] = [answer("0.4")]
    run = Workflow("w").add("a", scripted.asks.bind(model="fixed")).insert()
    drain(run)
    assert (run.balance().budget, run.balance().spent, run.balance().left) == (None, Decimal("0.4"), None)

    run.budget = Decimal(1)
    run.save()

    assert run.balance().left == Decimal("0.6")
    assert PRICES["fixed"]["output"] == "1000"


def test_budget_that_is_lifted_and_given_again_counts_what_was_paid_meanwhile():
    run = branches(3, budget="0.1", max_cost="0.1")
    scripted.SCRIPT[:] = [answer("0.1")] * 3
    drain(run)
    run.budget = None
    run.save()
    drain(run)
    assert (run.balance().spent, run.balance().left) == (Decimal("0.3"), None)

    run.budget = "0.35"
    run.save()

    assert run.balance().left == Decimal("0.05")
