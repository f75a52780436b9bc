"""What the sweep does for held steps, and for calls whose worker vanished."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models import F
from django.utils import timezone

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.questions import resolve
from baton.models import BudgetAccount, Completion, Hold, LedgerEntry, StepStat, WorkflowRun
from baton.sweep import sweep
from baton.testing import drain
from tests.clock import expire_leases
from tests.factories import LedgerEntryFactory, StepStatFactory
from tests.llm import scripted

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]

ANSWER = {"model": "fixed", "usage": {"input_tokens": 0, "output_tokens": 1000}}
"""It costs 1."""


def held_for_money(count: int = 1) -> WorkflowRun:
    workflow = Workflow("w", budget=0)
    for number in range(count):
        workflow.add(f"b{number}", scripted.asks.bind(model="fixed", max_cost=1))
    return drain(workflow.insert())


def held_for_a_person() -> WorkflowRun:
    scripted.SCRIPT[:] = [TimeoutError("no answer")]
    return drain(Workflow("w").add("a", scripted.asks.bind(on_ambiguous="ask")).insert())


# Calls ---------------------------------------------------------------------------------------------------------------


def calling(run: WorkflowRun) -> LedgerEntry:
    """A call that the step's worker has begun."""
    node = run.steps["a"]
    claim(connection, node.pk, worker="elsewhere:1")
    node.refresh_from_db()
    entry = LedgerEntryFactory.create(node=node, calling=True, fence=node.fence)
    return LedgerEntry.objects.get(pk=entry.pk)


def test_call_whose_worker_vanished_is_marked_once_its_step_was_taken_from_it():
    run = Workflow("w").add("a", scripted.asks).insert()
    entry = calling(run)

    assert sweep().marked == 0
    expire_leases(run)
    report = sweep()

    entry.refresh_from_db()
    assert (report.rescued, report.marked) == (1, 1)
    assert (entry.state, entry.error, entry.resolution) == ("ambiguous", "its worker vanished", "")
    assert entry.ended_at is not None
    assert sweep().marked == 0


def test_call_of_a_cancelled_run_is_marked_and_a_dry_run_only_counts_it():
    run = Workflow("w").add("a", scripted.asks).insert()
    entry = calling(run)
    run.cancel()

    assert sweep(dry_run=True).marked == 1
    assert LedgerEntry.objects.get(pk=entry.pk).state == "calling"
    assert sweep().marked == 1


def test_call_of_a_hook_whose_step_is_settled_is_left_alone_for_a_while():
    run = Workflow("w").add("a", scripted.asks).insert()
    entry = calling(run)
    expire_leases(run)
    run.cancel()
    entry.node.refresh_from_db()
    LedgerEntry.objects.update(fence=entry.node.fence)

    assert sweep().marked == 0
    LedgerEntry.objects.update(started_at=F("started_at") - timedelta(minutes=16))
    assert sweep().marked == 1


# Money ---------------------------------------------------------------------------------------------------------------


def test_budget_that_was_raised_behind_baton_s_back_readies_what_it_has_room_for():
    run = held_for_money(3)
    WorkflowRun.objects.filter(pk=run.pk).update(budget=2)

    assert sweep(dry_run=True).held == 2
    assert sweep().held == 2

    assert run.progress["states"] == {"available": 2, "snoozed": 1}
    scripted.SCRIPT[:] = [ANSWER] * 2
    drain(run)
    assert run.progress["states"] == {"completed": 2, "snoozed": 1}
    assert sweep().held == 0


def test_what_the_budget_of_a_day_held_goes_on_the_next_day(settings):
    settings.BATON = {**settings.BATON, "DAY_BUDGET": 0}
    run = drain(Workflow("w").add("a", scripted.asks.bind(model="fixed", max_cost=1)).insert())
    assert sweep().held == 0
    yesterday = timezone.now() - timedelta(days=1)
    Hold.objects.update(account=f"day:{yesterday:%Y-%m-%d}")

    assert sweep().held == 1
    assert run.steps["a"].state == "available"


def test_budget_of_the_settings_that_is_gone_holds_nothing(settings):
    before = settings.BATON
    settings.BATON = {**before, "STEP_BUDGET": 0}
    run = drain(Workflow("w").add("a", scripted.asks.bind(model="fixed", max_cost=1)).insert())
    assert run.steps["a"].hold.account == f"step:{run.steps['a'].pk}"

    settings.BATON = before

    assert sweep().held == 1
    scripted.SCRIPT[:] = [ANSWER]
    assert drain(run).state == "completed"


# Questions -----------------------------------------------------------------------------------------------------------


def test_question_stays_until_somebody_answers_it():
    run = held_for_a_person()

    assert sweep().held == 0
    assert run.steps["a"].state == "snoozed"


@pytest.mark.parametrize("change", [{"resolution": "fail"}, {"state": "answered", "answer": "1"}], ids=str)
def test_step_whose_question_was_answered_and_that_nobody_told_goes_on(change):
    run = held_for_a_person()
    LedgerEntry.objects.update(**change)
    if "state" in change:
        StepStatFactory.create(node=run.steps["a"], entry=LedgerEntry.objects.get())

    assert sweep(dry_run=True).held == 1
    assert sweep().held == 1
    assert drain(run).state == ("failed" if "resolution" in change else "completed")


def test_hold_of_a_step_that_is_not_held_is_forgotten():
    run = held_for_money()
    run.nodes.update(state="available", queued_at=timezone.now())

    assert sweep(dry_run=True).held == 1
    assert sweep().held == 1
    assert not Hold.objects.exists()


# Retention -----------------------------------------------------------------------------------------------------------


def test_calls_stats_holds_and_accounts_go_with_their_run(settings):
    settings.BATON = {**settings.BATON, "RETENTION_DAYS": 7, "STEP_BUDGET": 5, "DAY_BUDGET": 5}
    scripted.SCRIPT[:] = [ANSWER, TimeoutError("no answer"), ANSWER]
    kept = drain(Workflow("kept", budget=2).add("a", scripted.asks.bind(model="fixed", max_cost=1)).insert())
    gone = drain(Workflow("gone", budget=2).add("a", scripted.asks.bind(model="fixed", max_cost=1)).insert())
    Hold.objects.create(node=gone.steps["a"], run=gone, kind="budget", since=timezone.now())
    BudgetAccount.objects.create(name="day:2020-01-01", spent=1)
    moment = timezone.now() - timedelta(days=8)
    WorkflowRun.objects.filter(pk=gone.pk).update(finished_at=moment)
    Completion.objects.filter(run=gone).update(finished_at=moment)

    assert sweep(dry_run=True).tables["LedgerEntry"] == 2
    report = sweep()

    # The hold was of a step that is not held: another part has deleted it before.
    assert report.held == 1
    assert report.tables == {
        "LedgerEntry": 2,
        "StepStat": 1,
        "BudgetAccount": 3,
        "WorkflowNode": 1,
        "Completion": 1,
        "WorkflowRun": 1,
    }
    today = f"day:{timezone.now():%Y-%m-%d}"
    names = set(BudgetAccount.objects.values_list("name", flat=True))
    assert names == {f"run:{kept.pk}", f"step:{kept.steps['a'].pk}", today}
    assert set(LedgerEntry.objects.values_list("run", flat=True)) == {kept.pk}
    assert set(StepStat.objects.values_list("run", flat=True)) == {kept.pk}


def test_run_with_more_calls_than_a_transaction_deletes_goes_bit_by_bit(settings, monkeypatch):
    monkeypatch.setattr("baton.sweep.retention.BATCH", 3)
    settings.BATON = {**settings.BATON, "RETENTION_DAYS": 7}
    scripted.SCRIPT[:] = [ANSWER] * 10
    run = drain(Workflow("w").add("a", scripted.asks.bind(keys=list("abcdefghij"))).insert())
    WorkflowRun.objects.update(finished_at=F("inserted_at") - timedelta(days=8))
    Completion.objects.update(finished_at=F("finished_at") - timedelta(days=8))

    tables = sweep().tables

    assert (tables["LedgerEntry"], tables["StepStat"]) == (10, 10)
    assert not LedgerEntry.objects.filter(run=run.pk).exists()


def test_resolved_question_is_answered_at_once_without_a_sweep():
    run = held_for_a_person()

    resolve(run, "a", decision="fail")

    assert run.steps["a"].state == "available"
    call_command("baton_sweep", "--check")
