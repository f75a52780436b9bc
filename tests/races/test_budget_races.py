"""Money and questions beside what else may happen to a held step at the same instant."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from django.db.models import F

from baton import Workflow, llm
from baton.engine.questions import resolve
from baton.models import BudgetAccount, Hold, LedgerEntry, StepStat, WorkflowNode, WorkflowRun
from baton.sweep import check
from tests.behaviours import meeting_point
from tests.races.pairs import REPEATS, claims, copies, nodes_by_run, perform, race

TIMES = max(20, REPEATS // 10)

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("prices")]


def tenths(count: int) -> dict[str, Any]:
    """An answer that costs so many tenths."""
    return {"model": "fixed", "usage": {"input_tokens": 0, "output_tokens": 100 * count}}


@llm.llm_step(backoff=0)
def meets_and_calls(ctx, costs=10, **options):
    """Meet the other before the call."""
    meeting_point.wait()
    return llm.call(ctx, "k", lambda: tenths(costs), model="fixed", **options)


@llm.llm_step(backoff=0)
def meets_in_its_call(ctx, costs, **options):
    """Meet the other while the provider answers."""

    def answer() -> dict[str, Any]:
        meeting_point.wait()
        return tenths(costs)

    return llm.call(ctx, "k", answer, model="fixed", **options)


def states(name: str) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for node, state in WorkflowNode.objects.filter(run__name=name).values_list("name", "state"):
        found.setdefault(node, Counter())[str(state)] += 1
    return found


def state_of(node_id: int) -> str:
    return WorkflowNode.objects.values_list("state", flat=True).get(pk=node_id)


def runs_of(name: str) -> dict[int, WorkflowRun]:
    """The run of each step."""
    runs = WorkflowRun.objects.filter(name=name).in_bulk()
    return {node_id: runs[run_id] for run_id, nodes in nodes_by_run(name).items() for node_id in nodes.values()}


def test_of_two_calls_at_once_for_which_there_is_money_for_one_one_is_paid_and_one_is_held():
    both = meets_and_calls.bind(max_cost="1")
    nodes = copies(Workflow("both", budget="1.9").add("a", both).add("b", both), TIMES)
    held = claims(nodes, "a", "b")
    firsts: Counter[str] = Counter()

    def was_a_first(repeat: int) -> bool:
        is_first = state_of(nodes[repeat]["a"]) == "completed"
        firsts["a" if is_first else "b"] += 1
        return is_first

    race(
        lambda repeat: perform(held[nodes[repeat]["a"]]),
        lambda repeat: perform(held[nodes[repeat]["b"]]),
        repeats=TIMES,
        was_left_first=was_a_first,
    )

    assert set(firsts) == {"a", "b"}, "one was always first"
    assert sum(states("both").values(), Counter()) == {"completed": TIMES, "snoozed": TIMES}
    assert set(BudgetAccount.objects.values_list("spent", "reserved")) == {(Decimal(1), Decimal(0))}
    assert StepStat.objects.count() == TIMES
    assert Hold.objects.count() == TIMES
    assert check() == []


def test_step_that_is_held_while_a_call_gives_money_back_is_not_forgotten():
    workflow = Workflow("given back", budget=1).add("a", meets_in_its_call.bind(costs=4, max_cost=1))
    nodes = copies(workflow.add("b", meets_and_calls.bind(costs=5, max_cost="0.5")), TIMES)
    held = claims(nodes, "a", "b")

    race(
        lambda repeat: perform(held[nodes[repeat]["a"]]),
        lambda repeat: perform(held[nodes[repeat]["b"]]),
        repeats=TIMES,
        was_left_first=lambda repeat: state_of(nodes[repeat]["b"]) == "completed",
    )

    found = states("given back")
    assert found["a"] == {"completed": TIMES}
    # It was either paid at once, or held and readied again, by whoever of the two saw the other.
    assert set(found["b"]) == {"completed", "available"}
    assert not Hold.objects.exists()
    assert check() == []


def test_step_that_is_held_while_somebody_raises_the_budget_is_not_forgotten():
    nodes = copies(Workflow("raised", budget="0.1").add("b", meets_and_calls.bind(max_cost=1)), TIMES)
    held, runs = claims(nodes, "b"), runs_of("raised")

    def raise_it(repeat: int) -> None:
        run = runs[nodes[repeat]["b"]]
        run.budget = Decimal(2)
        meeting_point.wait()
        run.save()

    race(
        raise_it,
        lambda repeat: perform(held[nodes[repeat]["b"]]),
        repeats=TIMES,
        was_left_first=lambda repeat: state_of(nodes[repeat]["b"]) == "completed",
    )

    assert set(states("raised")["b"]) == {"completed", "available"}
    assert not Hold.objects.exists()
    assert check() == []


def test_step_that_is_held_while_a_person_decides_is_not_forgotten():
    nodes = copies(Workflow("asked").add("b", meets_and_calls.bind(on_ambiguous="ask")), TIMES)
    held, runs = claims(nodes, "b"), runs_of("asked")
    LedgerEntry.objects.bulk_create(
        LedgerEntry(
            run=runs[of["b"]], node_id=of["b"], key="k", is_call=True, state="ambiguous",
            started_at=runs[of["b"]].inserted_at,
        )
        for of in nodes
    )  # fmt: skip

    def decide(repeat: int) -> None:
        meeting_point.wait()
        resolve(runs[nodes[repeat]["b"]], "b", decision="fail")

    race(
        decide,
        lambda repeat: perform(held[nodes[repeat]["b"]]),
        repeats=TIMES,
        was_left_first=lambda repeat: state_of(nodes[repeat]["b"]) == "discarded",
    )

    assert set(states("asked")["b"]) == {"discarded", "available"}
    assert not Hold.objects.exists()
    assert check() == []


def test_cancel_and_raise_at_once_leave_nothing_held_and_lock_each_other_in_no_circle():
    workflow = Workflow("cancelled", budget=1)
    for number in range(5):
        workflow.add(f"b{number}", meets_and_calls)
    nodes = copies(workflow, TIMES)
    runs = runs_of("cancelled")
    WorkflowNode.objects.update(state="snoozed", queued_at=None)
    Hold.objects.bulk_create(
        Hold(node_id=node_id, run=run, kind="budget", account=f"run:{run.pk}", amount=Decimal(2), since=run.inserted_at)
        for node_id, run in runs.items()
    )
    readied: set[int] = set()

    def cancel(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=runs[nodes[repeat]["b0"]].pk)
        meeting_point.wait()
        assert run.cancel()

    def raise_it(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=runs[nodes[repeat]["b0"]].pk)
        run.budget = Decimal(10)
        meeting_point.wait()
        run.save()
        if WorkflowNode.objects.filter(pk=nodes[repeat]["b0"], queued_at__isnull=False).exists():
            readied.add(repeat)

    race(cancel, raise_it, repeats=TIMES, was_left_first=lambda repeat: repeat not in readied)

    assert 0 < len(readied) < TIMES, "the two never met"
    assert sum(states("cancelled").values(), Counter()) == {"cancelled": 5 * TIMES}
    assert set(WorkflowRun.objects.values_list("state", "budget")) == {("cancelled", Decimal(10))}
    assert not Hold.objects.exists()
    assert check() == []


def test_two_that_give_money_back_at_once_ready_a_held_step_once():
    workflow = Workflow("twice", budget=3)
    for name in "ab":
        workflow.add(name, meets_in_its_call.bind(costs=1, max_cost=1))
    nodes = copies(workflow.add("c", meets_and_calls.bind(max_cost="1.5")), TIMES)
    held, runs = claims(nodes, "a", "b"), runs_of("twice")
    WorkflowNode.objects.filter(name="c").update(state="snoozed", queued_at=None)
    Hold.objects.bulk_create(
        Hold(
            node_id=of["c"], run=runs[of["c"]], kind="budget", account=f"run:{runs[of['c']].pk}",
            amount=Decimal("1.5"), since=runs[of["c"]].inserted_at,
        )
        for of in nodes
    )  # fmt: skip

    race(
        lambda repeat: perform(held[nodes[repeat]["a"]]),
        lambda repeat: perform(held[nodes[repeat]["b"]]),
        repeats=TIMES,
    )

    assert states("twice")["c"] == {"available": TIMES}
    assert not WorkflowNode.objects.filter(name="c").exclude(version=F("version")).exists()
    assert set(WorkflowNode.objects.filter(name="c").values_list("version", flat=True)) == {1}
    assert not Hold.objects.exists()
    assert check() == []
