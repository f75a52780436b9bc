"""Calls of unknown outcome that a person is asked about, and new answers on a retry."""

from __future__ import annotations

import pytest
from django.db import connection

from baton import Workflow, llm
from baton.engine.gate import claim
from baton.engine.questions import open_questions, resolve
from baton.exceptions import NothingToResolveError, StepNotFoundError
from baton.llm.stats import workflow_totals
from baton.models import Hold, LedgerEntry, StepStat, WorkflowRun
from baton.sweep import sweep
from baton.testing import drain
from tests.clock import expire_leases
from tests.factories import LedgerEntryFactory
from tests.llm import scripted, spending

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]

ANSWER = {"model": "gpt-4o", "usage": {"input_tokens": 1000, "output_tokens": 100}}


def asked(**options: object) -> WorkflowRun:
    """A run whose step waits for a person."""
    scripted.SCRIPT[:] = [TimeoutError("no answer")]
    return drain(Workflow("w").add("a", scripted.asks.bind(on_ambiguous="ask", **options)).insert())


def decisions(run: WorkflowRun) -> list[tuple[str, int, str, str]]:
    rows = LedgerEntry.objects.filter(run=run).order_by("id")
    return list(rows.values_list("key", "number", "state", "resolution"))


def test_person_who_pays_again_lets_the_step_call_once_more():
    run = asked()
    scripted.SCRIPT[:] = [ANSWER]

    assert resolve(run, "a", decision="pay", by="ann") == ["k"]

    assert not Hold.objects.exists()
    assert drain(run).state == "completed"
    assert decisions(run) == [("k", 1, "ambiguous", "repay"), ("k", 2, "answered", "")]
    assert LedgerEntry.objects.get(number=1).resolved_by == "ann"
    assert workflow_totals(run.id)["ambiguous"] == 1


def test_person_who_fails_it_discards_the_step_and_nothing_is_called():
    run = asked()

    resolve(run, "a", "k", decision="fail")

    assert drain(run).state == "failed"
    assert "nobody knows whether it was answered and paid" in run.steps["a"].error
    assert scripted.CALLS == ["call"]


def test_decision_to_fail_can_be_changed_before_a_retry():
    run = asked()
    resolve(run, "a", decision="fail")
    drain(run)

    resolve(run, "a", decision="pay")
    scripted.SCRIPT[:] = [ANSWER]

    assert drain(run.retry()).state == "completed"


def test_no_attempt_is_used_by_waiting_for_a_person():
    run = asked()
    attempt = run.steps["a"].attempt
    scripted.SCRIPT[:] = [ANSWER]
    resolve(run, "a", decision="pay")

    # The second attempt found the question, and gave itself back.
    assert (attempt, drain(run).steps["a"].attempt) == (1, 2)


def test_each_call_of_a_step_is_decided_alone_or_all_together():
    run = Workflow("w").add("a", scripted.asks.bind(on_ambiguous="ask")).insert()
    for key in ("one", "two", "three"):
        LedgerEntryFactory.create(node=run.steps["a"], key=key, ambiguous=True)

    assert [entry.key for entry in open_questions(run, "a")] == ["one", "two", "three"]
    assert resolve(run, "a", "two", decision="fail") == ["two"]
    assert resolve(run, "a", decision="pay") == ["one", "three"]
    assert [row[3] for row in decisions(run)] == ["repay", "fail", "repay"]


def test_only_the_last_call_of_a_key_can_be_decided_and_none_that_was_answered():
    run = Workflow("w").add("a", scripted.asks).insert()
    node = run.steps["a"]
    LedgerEntryFactory.create(node=node, key="again", ambiguous=True)
    LedgerEntryFactory.create(node=node, key="again", number=2, state="failed", answer=None)
    LedgerEntryFactory.create(node=node, key="old", ambiguous=True, is_retired=True)
    LedgerEntryFactory.create(node=node, key="answered", is_call=False)
    LedgerEntryFactory.create(node=node, key="answered", number=2, ambiguous=True)

    for key in (None, "again", "old", "answered", "none"):
        with pytest.raises(NothingToResolveError):
            resolve(run, "a", key, decision="pay")


def test_call_whose_worker_vanished_is_decided_before_a_sweep_has_marked_it():
    run = Workflow("w").add("a", scripted.asks).insert()
    node = run.steps["a"]
    claim(connection, node.pk, worker="elsewhere:1")
    LedgerEntryFactory.create(node=node, key="k", calling=True, fence=1)
    with pytest.raises(NothingToResolveError):
        resolve(run, "a", decision="fail")

    expire_leases(run)
    sweep()
    LedgerEntry.objects.update(state="calling")

    assert resolve(run, "a", decision="fail") == ["k"]
    assert decisions(run) == [("k", 1, "ambiguous", "fail")]


def test_what_cannot_be_decided_is_refused_in_words():
    run = drain(Workflow("w").add("a", scripted.records.bind(model="m", input_tokens=1, output_tokens=1)).insert())

    with pytest.raises(NothingToResolveError, match=rf"Step 'a' of run {run.pk} has no call of unknown outcome"):
        resolve(run, "a", decision="pay")
    with pytest.raises(NothingToResolveError, match="has no call with the key 'k' of unknown outcome"):
        resolve(run, "a", "k", decision="pay")
    with pytest.raises(StepNotFoundError):
        resolve(run, "b", decision="pay")
    with pytest.raises(ValueError, match="give 'pay' or 'fail'"):
        resolve(run, "a", decision="repay")  # type: ignore[arg-type]


# What people are told ------------------------------------------------------------------------------------------------


def test_step_that_waits_for_a_person_says_so_and_what_to_do():
    run = asked()
    command = f"manage.py baton_resolve {str(run.pk)[:8]} a --pay"
    how = f"Call again with {command}, or discard the step with --fail."
    known = "Nobody knows whether its call “k” was answered and paid."

    told = run.steps["a"].explain()

    assert told.startswith("Waits for a person since ")
    assert told.endswith(f". No worker is held. {known} {how}")
    assert run.headline().startswith("a waits for a person since ")
    assert run.headline().endswith(f". {known} {how}")


def test_headline_of_a_run_that_needs_a_person_says_that_before_a_failure():
    scripted.SCRIPT[:] = [TimeoutError("no answer")]
    run = (
        Workflow("w")
        .add("a", scripted.asks.bind(on_ambiguous="ask"))
        .add("b", scripted.records.bind(model="m"), max_attempts=1)
        .insert()
    )

    drain(run)

    assert run.steps["b"].state == "discarded"
    assert run.headline().startswith("a waits for a person since ")


# Cancel, and retry ---------------------------------------------------------------------------------------------------


def test_cancelled_run_waits_for_nobody_and_its_question_can_still_be_answered_for_a_retry():
    run = asked()

    assert run.cancel()

    assert not Hold.objects.exists()
    resolve(run, "a", decision="pay")
    scripted.SCRIPT[:] = [ANSWER]
    assert drain(run.retry()).state == "completed"


def test_retry_of_a_cancelled_question_asks_it_again():
    run = asked()
    run.cancel()

    drain(run.retry())

    assert (run.state, run.steps["a"].hold.kind) == ("running", "question")
    assert scripted.CALLS == ["call"]


def test_retry_takes_the_stored_answers_and_pays_for_none_again():
    scripted.SCRIPT[:] = [ANSWER]
    run = drain(Workflow("w").add("a", scripted.asks).insert())

    drain(run.retry("a"))

    assert (run.state, scripted.CALLS, workflow_totals(run.id)["calls"]) == ("completed", ["call"], 1)


@llm.llm_step(backoff=0)
def asks_and_records(ctx):
    ctx.once("mail", lambda: scripted.CALLS.append("mail"))
    llm.record_usage(ctx, model="gpt-4o", input_tokens=1000, output_tokens=100, key="by hand")
    return llm.call(ctx, "k", scripted.answer)


def test_provider_is_told_the_same_key_until_a_retry_asks_for_new_answers():
    spending.TOLD.clear()
    scripted.SCRIPT[:] = [TimeoutError("no answer"), ANSWER, ANSWER]

    run = drain(Workflow("w").add("a", spending.tells_its_key).insert())
    drain(run.retry("a", new_answers=True))

    told = spending.TOLD
    assert told[0] == told[1] != told[2]
    assert [entry.idempotency_key for entry in LedgerEntry.objects.order_by("number")] == ["", "", told[2]]


def test_retry_with_new_answers_asks_models_anew_and_does_nothing_else_twice():
    scripted.SCRIPT[:] = [ANSWER, {**ANSWER, "text": "another"}]
    run = drain(Workflow("w").add("a", asks_and_records).insert())

    plan = run.retry("a", dry_run=True, new_answers=True)
    assert plan.new_answers
    assert scripted.CALLS == ["mail", "call"]
    drain(run.retry("a", new_answers=True))

    assert run.steps["a"].result["text"] == "another"
    assert scripted.CALLS == ["mail", "call", "call"]
    assert workflow_totals(run.id)["calls"] == 4
    assert StepStat.objects.filter(run=run, from_ledger=True).count() == 0
    # Another attempt of that round, and a plain retry, are given the new answer.
    drain(run.retry("a"))
    assert run.steps["a"].result["text"] == "another"
