"""Why a step or a run is where it is, in sentences."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation
from django_q.models import OrmQ

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.runner import answer_bell
from baton.explain.cancels import reason_of
from baton.explain.words import clock, duration, listed
from baton.models import WorkflowEdge, WorkflowNode, WorkflowRun
from baton.states import StepState
from baton.sweep import sweep
from baton.testing import drain
from tests import steps
from tests.factories import (
    QueueSightingFactory,
    SweepLeaseFactory,
    WorkflowEdgeFactory,
    WorkflowNodeFactory,
    WorkflowRunFactory,
)

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1, minutes=12, seconds=20)
"""Some time that reads the same for a while: 1 h 12 m."""


def change(node: WorkflowNode, **values: Any) -> WorkflowNode:
    """Move times and other columns in a step's row."""
    WorkflowNode.objects.filter(pk=node.pk).update(**values)
    return WorkflowNode.objects.get(pk=node.pk)


def ago(time: timedelta = HOUR) -> Any:
    return timezone.now() - time


def executing(workflow: Workflow, name: str, **values: Any) -> WorkflowNode:
    """A step that a worker took."""
    node = workflow.insert().steps[name]
    assert claim(connection, node.pk, worker="host:1")
    return change(node, **values)


def entry(number: int, outcome: str, error: str | None = None, **more: Any) -> dict[str, Any]:
    """An execution as a row remembers it."""
    times = {"queued_at": None, "started_at": "2026-06-14T18:00:00Z", "ended_at": "2026-06-14T18:00:01Z"}
    return {"number": number, "worker": "host:1", **times, "outcome": outcome, "error": error, "count": 1, **more}


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0.0 s"),
        (0, "0.0 s"),
        (8.2, "8.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (41.4, "41 s"),
        (59.6, "1 m 0 s"),
        (77, "1 m 17 s"),
        (3599.7, "1 h 0 m"),
        (4340, "1 h 12 m"),
        (172_799, "47 h 59 m"),
        (273_600, "3 d 4 h"),
    ],
)
def test_duration_is_said_as_people_say_it(seconds, said):
    assert duration(seconds) == said


def test_time_of_today_is_said_without_its_date_in_the_current_time_zone():
    noon = timezone.now().replace(hour=12, minute=3, second=10)

    with timezone.override("Asia/Tokyo"):
        assert clock(noon, now=noon) == "21:03:10"
        assert clock(noon - timedelta(days=2), now=noon) == f"{noon - timedelta(days=2):%Y-%m-%d} 21:03:10"
    assert clock(None) == "an unknown time"


def test_list_is_said_with_an_and_before_its_last():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


# Waiting for dependencies ---------------------------------------------------------------------------------------------


def test_waiting_step_names_what_it_waits_for():
    workflow = Workflow("x")
    for name in ("runs", "ready", "again", "naps", "waits"):
        workflow.add(name, steps.nothing, deps=["ready"] if name == "waits" else [])
    run = workflow.add("last", steps.nothing, deps=["runs", "ready", "again", "naps", "waits"]).insert()
    claim(connection, run.steps["runs"].pk, worker="host:1")
    change(run.steps["runs"], started_at=ago())
    since = change(run.steps["ready"], queued_at=ago()).queued_at
    later = timezone.now() + HOUR
    change(run.steps["again"], state=StepState.RETRYABLE, due_at=later)
    change(run.steps["naps"], state=StepState.SNOOZED, due_at=later)

    assert run.steps["last"].explain() == (
        f"Waits for runs (executing for 1 h 12 m), ready (available since {clock(since)} in queue default), "
        f"again (retryable, again at {clock(later)}), naps (snoozed, again at {clock(later)}) and waits (pending)."
    )


def test_step_with_many_dependencies_tells_their_states_as_counts():
    workflow = Workflow("x").add("z", steps.nothing, deps=[str(number) for number in range(12)])
    for number in range(12):
        workflow.add(str(number), steps.nothing)
    run = workflow.add("root", steps.nothing).insert()
    for number, state in enumerate((StepState.RETRYABLE, StepState.RETRYABLE, StepState.SNOOZED)):
        change(run.steps[str(number)], state=state, due_at=ago(-HOUR))
    claim(connection, run.steps["3"].pk, worker="host:1")
    change(run.steps["4"], state=StepState.PENDING)
    change(run.steps["5"], state=StepState.COMPLETED, settled_at=timezone.now())

    assert run.steps["z"].explain() == (
        "Waits for 11 of 12 steps: 1 executes, 6 wait for a worker, 2 are tried again, 1 waits for a time "
        "and 1 waits for other steps."
    )


def test_counts_of_dependencies_have_their_thousands_marked():
    node = WorkflowNodeFactory.create(n_deps=1234, remaining=1234)
    dependencies = WorkflowNode.objects.bulk_create(
        WorkflowNodeFactory.build(run=node.run, name=f"d{number}", state=StepState.AVAILABLE, remaining=0)
        for number in range(1234)
    )
    WorkflowEdge.objects.bulk_create(WorkflowEdge(node=node, dependency=each) for each in dependencies)

    assert node.explain() == "Waits for 1,234 of 1,234 steps: 1,234 wait for a worker."


def test_waiting_step_tells_which_failures_it_accepts():
    run = (
        Workflow("x")
        .add("a", steps.nothing)
        .add("b", steps.discard)
        .add("c", steps.discard)
        .add("d", steps.cancel)
        .add("z", steps.nothing, deps=["a", "b", "c", "d"], ignore_discarded=True, ignore_cancelled=True)
        .insert()
    )
    change(run.steps["a"], priority=9)
    claim(connection, run.steps["a"].pk, worker="host:1")
    answer_bell("default")
    change(run.steps["a"], started_at=ago())

    assert run.steps["z"].explain() == (
        "Waits for a (executing for 1 h 12 m). "
        "It accepts discarded steps, so the 2 that were discarded do not stop it. "
        "It accepts cancelled steps, so the 1 that was cancelled does not stop it."
    )


def test_waiting_step_with_a_time_ahead_tells_that_too():
    later = timezone.now() + HOUR
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"], not_before=later).insert()
    since = clock(run.steps["a"].queued_at)

    assert run.steps["b"].explain() == (
        f"Waits for a (available since {since} in queue default). Then it runs not before {clock(later)}, as inserted."
    )


def test_waiter_that_nothing_will_wake_tells_why_and_that_a_sweep_mends_it(settings):
    settings.BATON = {"SWEEP_SCHEDULE": True}
    run = (
        Workflow("x")
        .add("a", steps.nothing)
        .add("settled", steps.nothing, deps=["a"])
        .add("refused", steps.nothing, deps=["a"])
        .add("orphan", steps.nothing, deps=["a"])
        .insert()
    )
    SweepLeaseFactory.create(swept_at=timezone.now())

    change(run.steps["a"], state=StepState.DISCARDED, settled_at=timezone.now())
    refused = run.steps["refused"].explain()
    change(run.steps["a"], state=StepState.COMPLETED)
    settled = run.steps["settled"].explain()
    WorkflowNode.objects.filter(pk=run.steps["a"].pk)._raw_delete("default")
    orphan = run.steps["orphan"].explain()

    assert refused == (
        "1 dependency was discarded, which it does not accept, so it is to be cancelled. "
        "The sweep does that within 60 s."
    )
    assert settled == (
        "Everything it waited for is settled, so it is to be made ready. The sweep does that within 60 s."
    )
    assert orphan == ("The row of 1 dependency is gone, so it is to be cancelled. The sweep does that within 60 s.")


@pytest.mark.parametrize(
    ("configured", "swept", "said"),
    [
        ({"SWEEP_SCHEDULE": True}, timedelta(), "The sweep does that within 60 s."),
        ({"SWEEP_SCHEDULE": True, "SWEEP_SECONDS": 301}, timedelta(), "The sweep does that within 6 m 0 s."),
        ({"SWEEP_RESIDENT": True}, timedelta(), "The next sweep does that."),
        ({"SWEEP_SCHEDULE": True}, HOUR, "A sweep does that, but none has been seen for 1 h 12 m."),
        ({"SWEEP_RESIDENT": True}, HOUR, "A sweep does that, but none has been seen for 1 h 12 m."),
        ({}, None, "A sweep does that, but none has ever been seen."),
    ],
)
def test_sweep_that_was_not_seen_for_long_is_told(settings, configured, swept, said):
    settings.BATON = configured
    if swept is not None:
        SweepLeaseFactory.create(swept_at=timezone.now() - swept)
    node = WorkflowNodeFactory.create(n_deps=0, remaining=1)

    assert node.explain() == f"Everything it waited for is settled, so it is to be made ready. {said}"


# Waiting for a worker -------------------------------------------------------------------------------------------------


def test_step_that_has_just_become_ready_waits_for_the_next_free_worker():
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing).add("c", steps.nothing).insert()
    first, last = run.steps["a"], run.steps["c"]

    assert first.explain() == f"Ready since {clock(first.queued_at)}, for the next free worker of default."
    assert last.explain() == (
        f"Ready since {clock(last.queued_at)}, for the next free worker of default. 2 steps are before it."
    )


def test_ready_step_tells_that_every_worker_of_its_queue_is_busy_and_what_is_before_it():
    busy = Workflow("busy").add("a", steps.nothing, queue="slow").add("b", steps.nothing, queue="slow").insert()
    run = Workflow("x").add("a", steps.nothing, queue="slow").add("b", steps.nothing, queue="slow").insert()
    for node in busy.steps.values():
        claim(connection, node.pk, worker=f"host:{node.pk}")
    urgent = Workflow("y").add("a", steps.nothing, queue="slow", priority=-1).insert().steps["a"]
    first, second = run.steps["a"], run.steps["b"]

    ready = f"Ready since {clock(first.queued_at)}. All 2 workers of slow are busy."

    assert urgent.explain().endswith("It is the next.")
    assert first.explain() == f"{ready} 1 step is before it."
    assert second.explain() == f"{ready} 2 steps are before it."


def test_queue_with_one_worker_has_only_that_to_be_busy(settings):
    settings.Q_CLUSTER = settings.Q_CLUSTER | {"ALT_CLUSTERS": {"slow": {"workers": 1}}}
    run = Workflow("x").add("a", steps.nothing, queue="slow").add("b", steps.nothing, queue="slow").insert()
    claim(connection, run.steps["a"].pk, worker="host:1")
    since = clock(run.steps["b"].queued_at)

    assert run.steps["b"].explain() == f"Ready since {since}. The only worker of slow is busy. It is the next."


def test_workers_that_take_no_message_are_busy_with_something_else():
    run = Workflow("x").add("a", steps.nothing, queue="slow").add("b", steps.nothing, queue="slow").insert()
    claim(connection, run.steps["a"].pk, worker="host:1")
    node = change(run.steps["b"], queued_at=ago())

    assert node.explain() == f"Ready since {clock(node.queued_at)}. All workers of slow are busy. It is the next."


def test_ready_step_tells_for_how_long_no_worker_has_served_its_queue():
    node = Workflow("x").add("a", steps.nothing, queue="mail").insert().steps["a"]
    node = change(node, queued_at=ago(2 * HOUR))
    ready = f"Ready since {clock(node.queued_at)}."
    assert node.explain() == f"{ready} No worker has served mail for 2 h 24 m."

    QueueSightingFactory.create(queue="mail", seen_at=ago())

    assert node.explain() == f"{ready} No worker has served mail for 1 h 12 m."


def test_worker_whose_lease_ran_out_serves_no_more():
    run = Workflow("x").add("a", steps.nothing, queue="mail").add("b", steps.nothing, queue="mail").insert()
    claim(connection, run.steps["a"].pk, worker="host:1")
    change(run.steps["a"], lease_until=ago() + timedelta(seconds=15))
    node = change(run.steps["b"], queued_at=ago(2 * HOUR))

    assert node.explain() == f"Ready since {clock(node.queued_at)}. No worker has served mail for 1 h 12 m."


def test_ready_step_whose_message_is_lost_tells_when_the_sweep_sends_it_again(settings):
    settings.BATON = {"SWEEP_SCHEDULE": True}
    SweepLeaseFactory.create(swept_at=timezone.now())
    node = Workflow("x").add("a", steps.nothing).insert().steps["a"]
    node = change(node, queued_at=ago())
    OrmQ.objects.all().delete()
    lost = f"Ready since {clock(node.queued_at)}, but its message is lost"
    assert node.explain() == f"{lost}: the sweep sends it again within 60 s."

    settings.BATON = {"SWEEP_RESIDENT": True}
    assert node.explain() == f"{lost}: the next sweep sends it again."

    SweepLeaseFactory.create().delete()
    assert node.explain() == f"{lost}, and no sweep that sends it again has ever been seen."
    SweepLeaseFactory.create(swept_at=ago())
    assert node.explain() == f"{lost}, and no sweep that sends it again was seen for 1 h 12 m."

    sweep()
    assert node.explain() == f"Ready since {clock(node.queued_at)}. No worker has served default for 1 h 12 m."


def test_no_message_is_lost_while_a_worker_takes_one_step_after_the_other():
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing).insert()
    claim(connection, run.steps["a"].pk, worker="host:1")
    OrmQ.objects.all().delete()
    node = change(run.steps["b"], queued_at=ago())
    ready = f"Ready since {clock(node.queued_at)}"

    assert node.explain() == f"{ready}, for the next free worker of default."
    assert run.headline() == "Going well: 0 of 2 steps completed, 1 executes now."
    change(run.steps["a"], started_at=ago())
    assert node.explain() == f"{ready}, but its message is lost, and no sweep that sends it again has ever been seen."
    assert run.headline().startswith("1 step is ready in queue default, but its message is lost")


def test_broker_that_does_not_answer_is_told(settings, monkeypatch):
    node = Workflow("x").add("a", steps.nothing).insert().steps["a"]
    node = change(node, queued_at=ago())

    monkeypatch.setattr("django_q.conf.Conf.ORM", "nowhere")

    assert node.explain() == (
        f"Ready since {clock(node.queued_at)}, but the broker does not answer, which would bring it to a worker of "
        "default."
    )


# Running --------------------------------------------------------------------------------------------------------------


def test_running_step_tells_where_and_how_old_its_heartbeat_is():
    node = executing(Workflow("x").add("a", steps.nothing), "a", started_at=ago())

    said = node.explain()

    assert re.fullmatch(r"Running for 1 h 12 m on host:1, attempt 1 of 5\. Its heartbeat was \d+\.\d s ago\.", said)


def test_running_step_without_a_heartbeat_tells_when_it_is_taken_for_dead(settings):
    settings.BATON = {"LEASE_SECONDS": 3 * 3600.0, "HEARTBEAT_SECONDS": 60.0}
    until = ago() + timedelta(hours=3)
    node = executing(Workflow("x").add("a", steps.nothing, max_attempts=2), "a", started_at=ago(), lease_until=until)

    running = "Running for 1 h 12 m on host:1, attempt {} of 2. No heartbeat for 1 h 12 m: it is taken for dead at "
    assert node.explain() == f"{running.format(1)}{clock(until)} and tried again."

    assert change(node, attempt=2).explain() == f"{running.format(2)}{clock(until)} and discarded."


def test_lease_that_ran_out_is_told_with_its_worker_and_with_what_the_sweep_does(settings):
    settings.BATON = {"SWEEP_SCHEDULE": True}
    SweepLeaseFactory.create(swept_at=timezone.now())
    until = ago() + timedelta(seconds=15)
    node = executing(Workflow("x").add("a", steps.nothing, max_attempts=2), "a", started_at=ago(), lease_until=until)

    running = "Running for 1 h 12 m on host:1, attempt {} of 2. No heartbeat for 1 h 12 m: its lease ran out at "
    does = "The sweep does that within 60 s."

    assert node.explain() == f"{running.format(1)}{clock(until)}, so it is to be tried again. {does}"
    assert change(node, attempt=2).explain() == (f"{running.format(2)}{clock(until)}, so it is to be discarded. {does}")


def test_step_that_runs_again_tells_what_became_of_its_attempts():
    log = [
        entry(1, "failed", "ConnectTimeout: no answer"),
        entry(2, "worker_lost", "worker host:1 vanished: its lease ran out"),
        entry(3, "timed_out", "timed out after 60 s"),
        entry(4, "snoozed", count=3),
    ]
    node = executing(
        Workflow("x").add("a", steps.nothing), "a", attempt=4, attempt_log=log, started_at=ago(), lease_until=None
    )

    assert node.explain() == (
        "Running for 1 h 12 m on host:1, attempt 4 of 5. "
        "Attempt 1 ended with ConnectTimeout; attempt 3 ran out of time; in attempt 2 the worker vanished; "
        "it asked 3 times to run again later."
    )


def test_step_of_a_vanished_worker_says_so_once_it_ran_again():
    run = Workflow("x").add("a", steps.nothing, backoff=0).insert()
    claim(connection, run.steps["a"].pk, worker="host:1")
    change(run.steps["a"], lease_until=ago())
    sweep()
    assert run.steps["a"].explain().endswith("In attempt 1 the worker vanished.")

    answer_bell("default")

    assert re.fullmatch(
        r"Completed in attempt 2 of 5, \d+\.\d s\. In attempt 1 the worker vanished\.", run.steps["a"].explain()
    )


# Waiting for a time ---------------------------------------------------------------------------------------------------


def test_step_that_waits_for_a_time_tells_which_and_why():
    later = timezone.now() + HOUR
    run = (
        Workflow("x")
        .add("as inserted", steps.nothing, not_before=later)
        .add("snoozed", steps.snooze_once.bind(3600))
        .add("often", steps.snooze.bind(3600))
        .add("failed", steps.fail, backoff=3600)
        .insert()
    )

    answer_bell("default")
    change(run.steps["often"], due_at=timezone.now() - timedelta(seconds=1))
    answer_bell("default")
    often, snoozed = run.steps["often"], run.steps["snoozed"]
    failed = change(run.steps["failed"], due_at=timezone.now() + HOUR)

    assert run.steps["as inserted"].explain() == f"Not before {clock(later)}, as inserted."
    assert snoozed.explain() == f"The step asked to run again at {clock(snoozed.due_at)}; no attempt was used."
    assert often.explain() == (
        f"The step asked 2 times to run again, now at {clock(often.due_at)}; no attempt was used."
    )
    assert failed.explain() == (
        f"Attempt 1 of 5 failed with RuntimeError: it failed. Again at {clock(failed.due_at)}, in 1 h 12 m."
    )


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"error": "the disk is full"}, "Attempt 2 of 5 failed: the disk is full."),
        ({"error": None}, "Attempt 2 of 5 failed."),
        ({"error": "OSError"}, "Attempt 2 of 5 failed with OSError."),
        ({"error": "ValueError: one\ntwo"}, "Attempt 2 of 5 failed with ValueError: one."),
        ({"error": f"ValueError: {'x' * 400}"}, f"Attempt 2 of 5 failed with ValueError: {'x' * 288}…"),
        (
            {"attempt_log": [entry(2, "timed_out")], "timeout": 60, "error": "timed out after 60 s"},
            "Attempt 2 of 5 ran out of time after 60 s.",
        ),
        ({"attempt_log": [entry(2, "timed_out")]}, "Attempt 2 of 5 ran out of time."),
        ({"attempt_log": [entry(2, "worker_lost")]}, "In attempt 2 of 5 the worker host:1 vanished."),
    ],
)
def test_retryable_step_tells_what_its_attempt_failed_of(columns, said):
    node = WorkflowNodeFactory.create(retryable=True, attempt=2, due_at=ago(-HOUR), **columns)

    assert node.explain() == f"{said} Again at {clock(node.due_at)}, in 1 h 12 m."


def test_step_that_is_overdue_tells_that_nobody_looked():
    SweepLeaseFactory.create(swept_at=timezone.now())
    node = WorkflowNodeFactory.create(retryable=True, due_at=ago())

    assert node.explain() == (
        f"Attempt 1 of 5 failed with RuntimeError: it failed. Again at {clock(node.due_at)}. "
        "That was 1 h 12 m ago, and no worker of default has looked, so it is to be made ready. "
        "The next sweep does that."
    )


# Settled --------------------------------------------------------------------------------------------------------------


def test_settled_step_tells_how_it_ended():
    run = drain(
        Workflow("x")
        .add("done", steps.nothing)
        .add("given up", steps.discard.bind(reason="not a PDF"))
        .add("called off", steps.cancel.bind(reason="not wanted"))
        .add("failed", steps.fail, max_attempts=2)
        .add("once", steps.fail, no_retry_on=RuntimeError)
        .add("behind", steps.nothing, deps=["failed"])
        .add("further behind", steps.nothing, deps=["behind"])
        .insert()
    )
    done = change(run.steps["done"], started_at=ago(), settled_at=timezone.now())

    assert done.explain() == "Completed in attempt 1 of 5, 1 h 12 m."
    assert run.steps["given up"].explain() == "Discarded by the step: “not a PDF”."
    assert run.steps["called off"].explain() == "Cancelled by the step: “not wanted”."
    assert run.steps["failed"].explain() == ("Discarded after 2 of 2 attempts: RuntimeError: it failed.")
    assert run.steps["once"].explain() == (
        "Discarded after 1 of 5 attempts, for this is not tried again: RuntimeError: it failed."
    )
    assert run.steps["behind"].explain() == "Cancelled because failed was discarded."
    assert run.steps["further behind"].explain() == "Cancelled because behind was cancelled."


def test_discarded_step_tells_what_became_of_each_attempt():
    timeouts = [entry(number, "failed", "ConnectTimeout: no answer") for number in (1, 2, 4, 5)]
    log = [*timeouts[:2], entry(3, "worker_lost", "worker host:1 vanished: its lease ran out"), *timeouts[2:]]
    node = WorkflowNodeFactory.create(discarded=True, attempt=5, error="ConnectTimeout: no answer", attempt_log=log)

    assert node.explain() == (
        "Discarded after 5 of 5 attempts: ConnectTimeout: no answer. "
        "4 attempts ended with ConnectTimeout; in attempt 3 the worker vanished."
    )


def test_step_whose_code_is_gone_is_not_said_to_have_discarded_itself():
    run = Workflow("x").add("a", steps.nothing).insert()
    run.nodes.update(step="gone.step")

    answer_bell("default")

    assert run.steps["a"].explain().startswith("Discarded: No step is registered as 'gone.step'")


def test_cancelled_step_tells_who_cancelled_its_run_and_why():
    said = []
    for reason in ("wrong bucket", "", reason_of("anna", "wrong bucket"), reason_of("anna", "")):
        run = Workflow("x").add("a", steps.nothing).insert()
        run.cancel(reason)
        said.append(run.steps["a"].explain().replace(clock(run.cancelled_at), "NOW"))

    assert said == [
        "Cancelled with its run at NOW: wrong bucket.",
        "Cancelled with its run at NOW.",
        "Cancelled by anna at NOW: wrong bucket.",
        "Cancelled by anna at NOW.",
    ]


def test_step_with_a_quote_in_its_name_is_named_as_the_cause():
    run = drain(Workflow("x").add('it\'s "odd"', steps.discard).add("z", steps.nothing, deps=['it\'s "odd"']).insert())

    assert run.steps["z"].explain() == 'Cancelled because it\'s "odd" was discarded.'


def test_cancelled_step_tells_that_its_hook_is_still_to_be_called():
    SweepLeaseFactory.create(swept_at=timezone.now())
    node = WorkflowNodeFactory.create(cancelled=True, error="dependency 'a' was discarded", hook_due="discarded")

    assert node.explain() == (
        "Cancelled because a was discarded. "
        "Its hook for a discarded dependency is still to be called. The next sweep does that."
    )


def test_step_that_a_retry_ran_again_tells_its_earlier_executions_apart():
    run = drain(Workflow("x").add("a", steps.fail, max_attempts=3).insert())

    run.retry()
    claim(connection, run.steps["a"].pk, worker="host:1")

    assert re.fullmatch(
        r"Running for \d+\.\d s on host:1, attempt 1 of 3\. Its heartbeat was \d+\.\d s ago\. "
        r"Before its run was retried it ran 3 times\.",
        run.steps["a"].explain(),
    )


@pytest.mark.parametrize("state", StepState)
def test_step_without_times_or_rows_beside_it_has_an_explanation(state):
    settled_at = timezone.now() if StepState(state).is_settled else None
    bare = WorkflowNodeFactory.create(state=state, settled_at=settled_at, changed_at=None, n_deps=3, remaining=3)
    unsaved = WorkflowNode(name="x", state=state, pk=0)

    assert bare.explain()
    assert unsaved.explain()


def test_state_of_a_newer_baton_has_no_explanation_and_raises_nothing():
    assert WorkflowNode(name="x", state="dreaming").explain() == ""


# Headlines ------------------------------------------------------------------------------------------------------------


def test_headline_of_a_completed_run_tells_how_long_it_took_and_where_the_result_is():
    run = drain(Workflow("x").add("a", steps.nothing).add("b", steps.value, deps=["a"]).insert())
    WorkflowRun.objects.update(inserted_at=run.finished_at - HOUR)
    run.refresh_from_db()

    assert run.headline() == "All 2 steps completed in 1 h 12 m. The result is in b."


def test_headline_of_a_completed_run_counts_what_was_accepted_and_names_few_results():
    workflow = Workflow("x", ignore_discarded=True).add("bad", steps.discard)
    for number in range(4):
        workflow.add(f"r{number}", steps.value, deps=["bad"])
    run = drain(workflow.insert())

    assert run.headline() == "4 of 5 steps completed; the failure of 1 was accepted. The results are in 4 steps."


def test_headline_of_a_completed_second_round_tells_its_round():
    run = drain(Workflow("x").add("a", steps.value).add("b", steps.value).insert())
    run.retry("a")
    drain(run)

    assert run.headline() == (
        f"All 2 steps completed, in round 2 at {clock(run.finished_at)}. The results are in a and b."
    )


def test_headline_of_a_failed_run_tells_the_cause_what_fell_and_what_is_kept():
    run = drain(
        Workflow("x")
        .add("fetch", steps.value)
        .add("accepted", steps.discard.bind(reason="harmless"))
        .add("merge", steps.value, deps=["accepted", "fetch"], ignore_discarded=True)
        .add("reconcile", steps.fail, deps=["merge"], max_attempts=2)
        .add("post", steps.nothing, deps=["reconcile"])
        .add("report", steps.nothing, deps=["post"])
        .insert()
    )

    assert run.headline() == (
        "reconcile was discarded after 2 attempts: RuntimeError: it failed. "
        "Because of it post and report were cancelled. 2 results are kept for a retry."
    )


def test_headline_of_a_failed_run_counts_where_there_is_too_much_to_name():
    workflow = Workflow("x").add("a", steps.discard.bind(reason="no use")).add("b", steps.cancel)
    for number in range(5):
        workflow.add(f"behind{number}", steps.nothing, deps=["a"])
    run = drain(workflow.insert())

    assert run.headline() == (
        "a was discarded: “no use”. 1 more step failed. Because of that 5 steps were cancelled. No result is kept."
    )


def test_headline_of_a_run_that_fails_while_it_runs_tells_what_goes_on():
    run = Workflow("x").add("a", steps.cancel).add("b", steps.nothing, not_before=ago(-HOUR)).insert()
    answer_bell("default")

    assert run.headline() == "a cancelled itself: “not wanted”. 1 step goes on."


def test_headline_of_a_cancelled_run_tells_who_when_and_why():
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing).insert()
    run.cancel(reason_of("anna", "wrong bucket"))

    assert run.headline() == (
        f"Cancelled by anna at {clock(run.cancelled_at)}: wrong bucket. 0 of 2 steps had completed."
    )


def test_headline_tells_of_a_queue_that_no_worker_serves_and_how_to_start_one():
    run = (
        Workflow("x")
        .add("a", steps.nothing, queue="mail")
        .add("b", steps.nothing, queue="mail")
        .add("c", steps.nothing)
        .insert()
    )
    run.nodes.filter(queue="mail").update(queued_at=ago())

    assert run.headline() == (
        "2 steps wait because no worker has served queue mail for 1 h 12 m. "
        "Start one: Q_CLUSTER_NAME=mail manage.py qcluster"
    )

    run.nodes.update(queued_at=ago())
    run.nodes.filter(queue="mail").update(queue="default")
    assert run.headline() == (
        "3 steps wait because no worker has served queue default for 1 h 12 m. Start one: manage.py qcluster"
    )


def test_headline_tells_of_busy_workers_once_somebody_waits_for_a_minute(settings):
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing).add("c", steps.nothing).insert()
    for name in ("a", "b"):
        claim(connection, run.steps[name].pk, worker=f"host:{name}")
    assert run.headline() == "Going well: 0 of 3 steps completed, 2 execute now."

    change(run.steps["c"], queued_at=ago())
    assert run.headline() == "1 step waits because all 2 workers of queue default are busy."

    settings.Q_CLUSTER = settings.Q_CLUSTER | {"workers": 3}
    assert run.headline() == "1 step waits because all workers of queue default are busy."


def test_headline_tells_of_a_worker_that_vanished():
    SweepLeaseFactory.create(swept_at=timezone.now())
    run = Workflow("x").add("a", steps.nothing, max_attempts=1).insert()
    claim(connection, run.steps["a"].pk, worker="host:1")
    run.nodes.update(lease_until=ago() + timedelta(seconds=15))
    gone = "a was running on host:1, which has given no sign of life for 1 h 12 m."

    assert run.headline() == (f"{gone} It is to be discarded, for it was the last attempt. The next sweep does that.")
    run.nodes.update(max_attempts=2)
    assert run.headline() == f"{gone} It is to be tried again. The next sweep does that."


def test_headline_tells_of_a_lost_message():
    run = Workflow("x").add("a", steps.nothing).insert()
    OrmQ.objects.all().delete()
    run.nodes.update(queued_at=ago())

    assert run.headline() == (
        "1 step is ready in queue default, but its message is lost and is to be sent again. "
        "A sweep does that, but none has ever been seen."
    )


def test_headline_tells_of_what_is_overdue():
    run = Workflow("x").add("a", steps.nothing, not_before=ago(-HOUR)).insert()
    run.nodes.update(due_at=ago())

    assert run.headline() == (
        "a has been due for 1 h 12 m, and no worker of queue default has looked. "
        "What is due is to be made ready. A sweep does that, but none has ever been seen."
    )


def test_headline_tells_what_is_tried_again():
    run = Workflow("x").add("a", steps.fail, backoff=3600).add("b", steps.fail, backoff=7200).insert()
    answer_bell("default")
    first = change(run.steps["a"], due_at=ago(-HOUR))

    assert run.headline() == (
        f"2 steps are tried again, first a at {clock(first.due_at)}, in 1 h 12 m. "
        "Attempt 1 of 5 failed with RuntimeError: it failed."
    )
    run.nodes.filter(name="b").update(state=StepState.COMPLETED, settled_at=timezone.now(), due_at=None)
    assert run.headline() == (
        f"a is tried again at {clock(first.due_at)}, in 1 h 12 m. Attempt 1 of 5 failed with RuntimeError: it failed."
    )


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        ({}, "It is the last step of the run."),
        ({"b": ["a"]}, "b waits for it alone and ends the run."),
        ({"b": ["a"], "c": ["b"]}, "b waits for it alone; then c ends the run."),
        ({"b": ["a"], "c": ["b"], "d": ["c"]}, "b waits for it alone, and 2 more steps behind that."),
        ({"b": ["a"], "c": ["a"], "d": ["b", "c"]}, "2 steps wait for it alone."),
    ],
)
def test_headline_tells_what_waits_for_one_step_alone(behind, said):
    workflow = Workflow("x").add("a", steps.nothing)
    for name, deps in behind.items():
        workflow.add(name, steps.nothing, deps=deps)
    run = workflow.insert()
    claim(connection, run.steps["a"].pk, worker="host:1")
    change(run.steps["a"], started_at=ago())

    assert run.headline() == f"a has run for 1 h 12 m. {said}"


def test_headline_tells_which_time_a_run_waits_for():
    later = ago(-HOUR)
    run = Workflow("x").add("a", steps.nothing, not_before=later).insert()
    assert run.headline() == f"a waits until {clock(later)}, as inserted."

    WorkflowNodeFactory.create(run=run, name="b", snoozed=True, due_at=later - timedelta(minutes=1))
    assert run.headline() == (
        f"b asked to run again at {clock(later - timedelta(minutes=1))}. 1 more step waits for a time."
    )


def test_headline_of_a_run_that_was_just_inserted_tells_what_is_ready():
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing).add("c", steps.nothing, deps=["a"]).insert()

    assert run.headline() == "2 steps are ready for the next free worker of queue default."


def test_headline_of_a_run_that_goes_well_tells_its_rate_and_what_was_accepted():
    run = WorkflowRunFactory.create(inserted_at=ago())
    for number in range(10):
        WorkflowNodeFactory.create(run=run, name=f"done{number}", completed=True, n_out=1)
    discarded = WorkflowNodeFactory.create(run=run, name="bad", discarded=True, n_out=1)
    merge = WorkflowNodeFactory.create(run=run, name="merge", ignore_discarded=True)
    WorkflowEdgeFactory.create(node=merge, dependency=discarded)
    for name in ("x", "y"):
        WorkflowNodeFactory.create(run=run, name=name, executing=True)

    assert run.headline() == ("Going well: 11 steps a minute with 2 at once. 1 step was discarded; merge accepts that.")

    other = WorkflowNodeFactory.create(run=run, name="other", ignore_discarded=True)
    WorkflowEdgeFactory.create(node=other, dependency=discarded)
    assert run.headline().endswith("1 step was discarded; what waits for it accepts that.")


def test_headline_of_a_run_whose_end_nobody_noted_says_so():
    SweepLeaseFactory.create(swept_at=timezone.now())
    run = WorkflowRunFactory.create()
    WorkflowNodeFactory.create(run=run, completed=True)

    assert run.headline() == (
        "Every step is settled, but the end of the run is still to be noted. The next sweep does that."
    )


@pytest.mark.parametrize("state", ["running", "completed", "failed", "cancelled", "dreaming"])
def test_run_without_steps_or_times_has_a_headline(state):
    run = WorkflowRunFactory.create(state=state)
    assert run.headline() == "This run has no steps."

    WorkflowNodeFactory.create(run=run)
    assert run.headline()


# What it costs, and in which language ---------------------------------------------------------------------------------


def queries_of(ask: Callable[[], str]) -> int:
    """How many queries a question takes."""
    with CaptureQueriesContext(connection) as captured:
        assert ask()
    return len(captured)


def wide_run(width: int) -> WorkflowRun:
    """A run with so many steps in every state, and one behind them all."""
    now = timezone.now()
    run = WorkflowRunFactory.create(inserted_at=ago())
    traits: dict[str, dict[str, Any]] = {
        "pending": {"remaining": 1},
        "available": {"queued_at": ago(), "remaining": 0},
        "executing": {"attempt": 1, "started_at": ago(), "lease_until": now + HOUR, "worker": "host:1", "remaining": 0},
        "snoozed": {"due_at": now + HOUR, "remaining": 0},
        "retryable": {"attempt": 1, "error": "OSError: no", "due_at": now + HOUR, "remaining": 0},
        "completed": {"attempt": 1, "settled_at": now, "remaining": 0},
        "discarded": {"attempt": 1, "error": "OSError: no", "settled_at": now, "remaining": 0},
        "cancelled": {"error": "dependency 'a' was discarded", "settled_at": now, "remaining": 0},
    }
    nodes = WorkflowNode.objects.bulk_create(
        WorkflowNode(
            run=run,
            name=f"{state}{number}",
            step="tests.steps.nothing",
            state=state,
            n_out=1,
            changed_at=now,
            **columns,
        )
        for state, columns in traits.items()
        for number in range(width)
    )
    last = WorkflowNodeFactory.create(
        run=run, name="last", n_deps=len(nodes), remaining=5 * width, ignore_discarded=True, ignore_cancelled=True
    )
    WorkflowEdge.objects.bulk_create([WorkflowEdge(node=last, dependency=each) for each in nodes], batch_size=1000)
    return run


def test_explanations_take_as_many_queries_for_ten_thousand_steps_as_for_eighty():
    small, large = wide_run(10), wide_run(1250)

    def cost(run: WorkflowRun) -> list[int]:
        names = [*(f"{state.value}0" for state in StepState), "last"]
        return [queries_of(run.headline), *(queries_of(run.steps[name].explain) for name in names)]

    costs = cost(large)

    assert costs == cost(small)
    assert max(costs) <= 9


@pytest.fixture
def german(settings: Any, tmp_path: Path) -> Iterator[None]:
    """A catalogue of the project's own, for a few of Baton's sentences."""
    texts = {
        "": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n",
        "Ready since {time}, for the next free worker of {queue}.": "Bereit seit {time} für {queue}.",
        "{count} step is before it.\0{count} steps are before it.": "Davor: {count} Schritt.\0Davor: {count} Schritte.",
    }
    folder = tmp_path / "de" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "django.mo").write_bytes(catalogue(texts))
    settings.LOCALE_PATHS = [tmp_path]
    with translation.override("de"):
        yield


def catalogue(texts: dict[str, str]) -> bytes:
    """Texts and their translations, as gettext stores them."""
    pairs = sorted((key.encode(), text.encode()) for key, text in texts.items())
    at, blob = 28 + 16 * len(pairs), b""
    tables: tuple[bytes, bytes] = (b"", b"")
    for column in (0, 1):
        table = b""
        for pair in pairs:
            table += struct.pack("<II", len(pair[column]), at + len(blob))
            blob += pair[column] + b"\0"
        tables = (tables[0] or table, table)
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0)
    return head + tables[0] + tables[1] + blob


def test_sentences_are_translated_whole(german):
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing).add("c", steps.nothing).insert()
    since = clock(run.steps["a"].queued_at)

    assert [run.steps[name].explain() for name in "abc"] == [
        f"Bereit seit {since} für default.",
        f"Bereit seit {since} für default. Davor: 1 Schritt.",
        f"Bereit seit {since} für default. Davor: 2 Schritte.",
    ]
