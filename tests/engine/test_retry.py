from __future__ import annotations

import threading
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from baton import Workflow, result_of
from baton.engine.gate import claim
from baton.engine.retry import RetryPlan
from baton.engine.runner import Held, answer_bell, execute
from baton.exceptions import KeyInUseError, NothingToRetryError, RunNotSettledError, StepNotFoundError
from baton.models import Completion, WorkflowEdge, WorkflowNode, WorkflowRun
from baton.states import RunState, StepState
from baton.sweep import sweep
from baton.telemetry import workflow_finished
from baton.testing import drain
from tests import steps
from tests.behaviours import behave, notes
from tests.clock import elapse, expire_leases
from tests.conftest import StartCluster
from tests.faults import recorder
from tests.interpreter import Act
from tests.processes import Manage
from tests.recording import recorded
from tests.utils import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("invariants")]


@pytest.fixture
def told(tmp_path):
    """Steps that do what they are told, one act for each execution of the body; the last repeats."""

    def bound(*acts: Act, **arguments: Any) -> Any:
        return behave.bind(folder=str(tmp_path), script=[act.value for act in acts], number=1, **arguments)

    return bound


@pytest.fixture
def bodies(tmp_path):
    """The attempts that the bodies of a step were told they are."""

    def of(name: str) -> list[int]:
        return [note["attempt"] for note in notes(tmp_path, name) if "started" in note]

    return of


def states(run: WorkflowRun) -> dict[str, str]:
    return {name: str(node.state) for name, node in run.steps.items()}


def rows(run: WorkflowRun, *names: str) -> list[Any]:
    nodes = run.nodes.filter(name__in=names) if names else run.nodes.all()
    return list(nodes.order_by("id").values())


# The failed part ------------------------------------------------------------------------------------------------------


def test_retry_runs_the_failed_part_again_and_no_step_that_completed_before_it(told, bodies):
    run = drain(
        Workflow("x")
        .add("paid", told(Act.VALUE))
        .add("fails", told(Act.DISCARD, Act.VALUE), deps=["paid"])
        .add("behind", told(Act.VALUE), deps=["fails"])
        .add("aside", told(Act.VALUE), deps=["paid"])
        .insert()
    )
    kept = rows(run, "paid", "aside")
    assert run.state == "failed"

    with recorded() as events:
        assert run.retry() is run
        assert (run.state, run.round, run.finished_at) == ("running", 2, None)
        assert states(run) == {
            "paid": "completed",
            "fails": "available",
            "behind": "pending",
            "aside": "completed",
        }
        drain(run)

    assert run.state == "completed"
    assert rows(run, "paid", "aside") == kept
    assert {name: bodies(name) for name in run.steps} == {"paid": [1], "fails": [1, 1], "behind": [1], "aside": [1]}
    assert [(event["step_name"], event["state"]) for event in events.steps] == [
        ("fails", "executing"), ("fails", "completed"), ("behind", "executing"), ("behind", "completed"),
    ]  # fmt: skip
    assert [event["outcome"] for event in events.finished] == ["completed"]
    assert run.completions.count() == 2


def test_attempts_of_a_step_that_is_retried_start_at_1_and_its_log_goes_on():
    run = drain(Workflow("x").add("a", steps.fail, max_attempts=2).insert())
    before = run.steps["a"]
    assert (before.state, before.attempt) == ("discarded", 2)

    run.retry()
    reset = run.steps["a"]

    assert (reset.attempt, reset.error, reset.error_key, reset.worker) == (0, None, "", "")
    assert (reset.started_at, reset.settled_at, reset.lease_until) == (None, None, None)
    assert reset.queued_at is not None
    assert (reset.version, reset.fence) == (before.version + 1, before.fence + 1)
    drain(run)
    assert [entry["number"] for entry in run.steps["a"].attempts] == [1, 2, 1, 2]
    assert run.steps["a"].state == "discarded"


def test_second_round_has_an_ending_of_its_own_and_a_second_event_is_sent(told):
    with recorded() as events:
        run = drain(Workflow("x").add("a", told(Act.DISCARD, Act.VALUE)).insert())
        drain(run.retry())

    assert [(event["outcome"], event["failed_steps"]) for event in events.finished] == [
        ("failed", ["a"]),
        ("completed", []),
    ]
    assert [event["failed_steps"] for event in events.failed] == [["a"]]
    rounds = [(each.round, each.outcome, each.failed_steps) for each in run.completions.order_by("round")]
    assert rounds == [(1, "failed", ["a"]), (2, "completed", [])]
    assert not run.completions.filter(announced_at=None).exists()


def test_a_run_may_be_retried_until_it_completes(told, bodies):
    run = drain(Workflow("x").add("a", told(Act.DISCARD, Act.DISCARD, Act.DISCARD, Act.VALUE)).insert())
    while run.state == "failed":
        drain(run.retry())

    assert (run.state, run.round, run.completions.count()) == ("completed", 4, 4)
    assert bodies("a") == [1, 1, 1, 1]


def test_completed_step_that_ignored_the_failure_hangs_on_it_and_runs_again(told):
    run = drain(
        Workflow("x")
        .add("fails", told(Act.DISCARD, Act.VALUE))
        .add("summary", steps.results, deps=["fails"], ignore_discarded=True)
        .insert()
    )
    assert (run.state, run.steps["summary"].result) == ("completed", {})

    assert run.retry(dry_run=True).reruns == ["fails", "summary"]
    drain(run.retry())

    assert run.steps["summary"].result == {"fails": {"sum": 1}}


def test_retried_step_reads_the_kept_results_also_by_reference(told):
    run = drain(
        Workflow("x")
        .add("paid", steps.value.bind(7))
        .add("fails", told(Act.DISCARD, Act.VALUE))
        .add("total", steps.add.bind(result_of("paid"), result_of("fails")["sum"]))
        .insert()
    )

    drain(run.retry())

    assert run.steps["total"].result == 8


def test_retry_of_a_cancelled_run_runs_what_was_cancelled(told, bodies):
    run = Workflow("x").add("a", told(Act.VALUE)).add("b", told(Act.VALUE), deps=["a"]).insert()
    run.cancel("too early")

    run.retry()
    assert (run.cancelled_at, run.cancel_reason) == (None, "")
    drain(run)

    assert (run.state, bodies("a"), bodies("b")) == ("completed", [1], [1])
    assert [each.outcome for each in run.completions.order_by("round")] == ["cancelled", "completed"]


def test_cancel_of_the_second_round_cancels_that_one(told):
    run = drain(Workflow("x").add("a", told(Act.VALUE)).add("b", told(Act.DISCARD), deps=["a"]).insert())
    run.retry()

    assert run.cancel("no more") is True

    assert states(run) == {"a": "completed", "b": "cancelled"}
    assert [each.outcome for each in run.completions.order_by("round")] == ["failed", "cancelled"]


def test_hook_of_a_step_that_falls_again_is_called_again(told):
    run = drain(Workflow("x").add("a", told(Act.DISCARD)).add("b", steps.hooked, deps=["a"]).insert())
    drain(run.retry())

    assert steps.hooks_of(run) == [("b", "discarded", "dependency 'a' was discarded")] * 2


def test_step_with_a_time_ahead_waits_for_it_in_the_second_round_too(told):
    run = (
        Workflow("x")
        .add("a", told(Act.DISCARD, Act.VALUE), not_before=timezone.now() + timedelta(hours=1))
        .add("b", told(Act.VALUE), deps=["a"], not_before=timezone.now() + timedelta(hours=2))
        .insert()
    )
    drain(run)

    run.retry()

    node = run.steps["a"]
    assert (node.state, node.due_at) == ("snoozed", node.not_before)
    assert claim(connection, node.pk, worker="here:1") is None
    assert drain(run).state == "completed"


def test_progress_result_and_counters_of_the_first_round_are_gone(told):
    run = drain(
        Workflow("x")
        .add("fails", told(Act.DISCARD, Act.VALUE))
        .add("reports", steps.report, deps=["fails"], ignore_discarded=True)
        .add("kept", told(Act.VALUE))
        .add("join", steps.value.bind(5), deps=["fails", "reports", "kept"], ignore_discarded=True)
        .insert()
    )
    assert run.steps["reports"].progress is not None

    run.retry()

    assert (run.steps["reports"].progress, run.steps["join"].has_result) == (None, False)
    assert {name: node.remaining for name, node in run.steps.items()} == {
        "fails": 0, "reports": 1, "kept": 0, "join": 2,
    }  # fmt: skip
    assert run.progress == {"total": 4, "settled": 1, "states": {"available": 1, "pending": 2, "completed": 1}}
    assert drain(run).state == "completed"


# From a step ----------------------------------------------------------------------------------------------------------


class Name(Enum):
    PARSE = "parse"


@pytest.mark.parametrize("name", ["parse", Name.PARSE], ids=["str", "enum member"])
def test_retry_from_a_step_runs_it_and_everything_after_it_also_where_nothing_failed(told, bodies, name):
    run = drain(
        Workflow("x")
        .add("fetch", told(Act.VALUE))
        .add("parse", told(Act.VALUE), deps=["fetch"])
        .add("store", told(Act.VALUE), deps=["parse"])
        .add("aside", told(Act.VALUE), deps=["fetch"])
        .insert()
    )

    with recorded() as events:
        drain(run.retry(from_step=name))

    assert {name: bodies(name) for name in run.steps} == {"fetch": [1], "parse": [1, 1], "store": [1, 1], "aside": [1]}
    assert (run.state, len(events.finished)) == ("completed", 1)


def test_step_may_be_named_by_position(told, bodies):
    run = drain(Workflow("x").add("a", told(Act.VALUE)).add("b", told(Act.VALUE), deps=["a"]).insert())

    drain(run.retry("b"))

    assert (bodies("a"), bodies("b")) == ([1], [1, 1])


def test_retry_from_a_step_leaves_other_failures_and_what_waits_for_them_as_they_are(told, bodies):
    run = drain(
        Workflow("x")
        .add("a", told(Act.VALUE))
        .add("other", told(Act.DISCARD))
        .add("after a", told(Act.VALUE), deps=["a"])
        .add("join", told(Act.VALUE), deps=["after a", "other"])
        .add("behind", told(Act.VALUE), deps=["join"], ignore_cancelled=True)
        .insert()
    )
    kept = rows(run, "other", "join", "behind")

    assert run.retry("a", dry_run=True) == RetryPlan(reruns=["a", "after a"], keeps=["other", "join", "behind"])
    drain(run.retry("a"))

    assert rows(run, "other", "join", "behind") == kept
    assert (bodies("a"), bodies("after a"), bodies("behind")) == ([1, 1], [1, 1], [1])
    assert list(run.completions.get(round=2).failed_steps) == ["other", "join"]


def test_step_that_waits_for_a_kept_failure_which_it_ignores_runs_again(told, bodies):
    run = drain(
        Workflow("x", ignore_discarded=True)
        .add("a", told(Act.VALUE))
        .add("other", told(Act.DISCARD))
        .add("join", steps.results, deps=["a", "other"])
        .insert()
    )

    drain(run.retry("a"))

    assert run.steps["join"].attempts[-1]["number"] == 1
    assert len(run.steps["join"].attempts) == 2
    assert bodies("other") == [1]


def test_retry_from_a_step_that_fell_with_another_is_refused_and_names_that_other(told):
    run = drain(Workflow("x").add("a", told(Act.DISCARD)).add("b", told(Act.VALUE), deps=["a"]).insert())
    before = list(WorkflowRun.objects.values()), rows(run)

    with pytest.raises(NothingToRetryError, match=r"'b' cannot run again, for its dependency 'a' was discarded"):
        run.retry("b")

    assert (list(WorkflowRun.objects.values()), rows(run)) == before


# The plan -------------------------------------------------------------------------------------------------------------


def test_dry_run_changes_nothing_and_returns_names_in_topological_order(told):
    run = drain(
        Workflow("x")
        .add("d", told(Act.VALUE), deps=["c", "b"])
        .add("c", told(Act.DISCARD), deps=["a"])
        .add("b", told(Act.VALUE), deps=["a"])
        .add("a", told(Act.VALUE))
        .insert()
    )
    before = list(WorkflowRun.objects.values()), rows(run), OrmQ.objects.count()

    with recorded() as events:
        plan = run.retry(dry_run=True)

    assert plan == RetryPlan(reruns=["c", "d"], keeps=["a", "b"])
    assert run.retry("b", dry_run=True) == RetryPlan(reruns=["b"], keeps=["a", "c", "d"])
    assert (list(WorkflowRun.objects.values()), rows(run), OrmQ.objects.count()) == before
    assert events.order == []


def test_dry_run_refuses_what_a_retry_refuses(told):
    run = Workflow("x", key="k").add("a", told(Act.VALUE, Act.DISCARD)).insert()
    with pytest.raises(RunNotSettledError):
        run.retry(dry_run=True)
    drain(run)
    with pytest.raises(NothingToRetryError):
        run.retry(dry_run=True)
    with pytest.raises(StepNotFoundError):
        run.retry("b", dry_run=True)
    Workflow("x", key="k").add("a", steps.nothing).insert()
    with pytest.raises(KeyInUseError):
        run.retry("a", dry_run=True)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_run_that_has_not_ended_is_not_retried():
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()
    answer_bell("elsewhere")

    with pytest.raises(RunNotSettledError, match=rf"Run {run.pk} \(x\) is still running") as raised:
        run.retry()

    assert raised.value.run == run.pk
    assert (run.state, run.round) == ("running", 1)


def test_run_of_which_nothing_failed_is_retried_only_from_a_step():
    run = drain(Workflow("x").add("a", steps.nothing).insert())

    with pytest.raises(NothingToRetryError, match="Nothing failed") as raised:
        run.retry()

    assert raised.value.run == run.pk
    run.refresh_from_db()
    assert (run.state, run.round) == ("completed", 1)


def test_unknown_step_is_refused_by_name():
    run = drain(Workflow("x").add("a", steps.discard).insert())

    with pytest.raises(StepNotFoundError, match=rf"Run {run.pk} has no step named 'b'"):
        run.retry("b")


def test_run_whose_key_another_unsettled_run_holds_is_not_retried():
    run = drain(Workflow("x", key="k").add("a", steps.discard).insert())
    other = Workflow("x", key="k").add("a", steps.nothing).insert()
    assert other != run

    with pytest.raises(KeyInUseError, match="holds the key 'k'") as raised:
        run.retry()

    assert (raised.value.name, raised.value.key) == ("x", "k")
    run.refresh_from_db()
    assert (run.state, run.round, states(run)) == ("failed", 1, {"a": "discarded"})
    drain(other)
    run.retry()
    # Now it is this one that has the key.
    assert Workflow("x", key="k").add("a", steps.nothing).insert() == run
    drain(run)


def test_same_key_under_another_name_is_no_hindrance():
    run = drain(Workflow("x", key="k").add("a", steps.discard).insert())
    drain(Workflow("y", key="k").add("a", steps.nothing).insert())
    Workflow("y", key="k").add("a", steps.nothing).insert()

    assert run.retry().state == "running"


def test_run_that_was_deleted_cannot_be_retried():
    run = drain(Workflow("x").add("a", steps.discard).insert())
    WorkflowRun.objects.filter(pk=run.pk).delete()

    with pytest.raises(WorkflowRun.DoesNotExist):
        run.retry()


def test_retry_in_a_transaction_that_rolls_back_is_no_retry(told, bodies):
    run = drain(Workflow("x").add("a", told(Act.DISCARD)).insert())
    before = list(WorkflowRun.objects.values()), rows(run), OrmQ.objects.count()

    with transaction.atomic():
        run.retry()
        transaction.set_rollback(True)

    assert (list(WorkflowRun.objects.values()), rows(run), OrmQ.objects.count()) == before
    answer_bell("default")
    assert bodies("a") == [1]


def test_of_two_retries_in_two_threads_one_begins_the_round_and_the_other_is_told_that_the_run_runs(told):
    runs = [drain(Workflow("x").add("a", told(Act.DISCARD)).insert()) for _ in range(20)]
    start = threading.Barrier(2)
    answers: list[str] = []

    def retry_all() -> None:
        try:
            for run in WorkflowRun.objects.order_by("pk"):
                start.wait(timeout=60)
                try:
                    run.retry()
                except RunNotSettledError:
                    answers.append("refused")
                else:
                    answers.append("begun")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=retry_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (answers.count("begun"), answers.count("refused")) == (len(runs), len(runs))
    assert set(WorkflowRun.objects.values_list("state", "round")) == {("running", 2)}


# What the first round has left ----------------------------------------------------------------------------------------


def test_ending_that_nobody_has_noted_is_noted_and_announced_before_the_next_round(told):
    # The worker has settled the last step and died before it asked whether the run is at its end.
    run = drain(Workflow("x").add("a", told(Act.DISCARD, Act.VALUE)).insert())
    Completion.objects.all().delete()
    WorkflowRun.objects.update(state="running", finished_at=None)
    run.refresh_from_db()

    with recorded() as events:
        assert run.retry(dry_run=True).reruns == ["a"]
        assert events.order == []
        run.retry()
        assert [event["outcome"] for event in events.finished] == ["failed"]
        drain(run)

    assert [event["outcome"] for event in events.finished] == ["failed", "completed"]
    assert [each.outcome for each in run.completions.order_by("round")] == ["failed", "completed"]


def test_ending_that_nobody_has_announced_is_announced_before_the_next_round(told):
    run = drain(Workflow("x").add("a", told(Act.DISCARD, Act.VALUE)).insert())
    Completion.objects.update(announced_at=None)

    with recorded() as events:
        run.retry()
        assert [(event["outcome"], event["failed_steps"]) for event in events.finished] == [("failed", ["a"])]
        drain(run)
        sweep()

    assert [event["outcome"] for event in events.finished] == ["failed", "completed"]


@pytest.mark.parametrize("is_noted", [False, True])
@pytest.mark.parametrize("rolls_back", [False, True])
def test_left_over_ending_is_announced_once_and_only_when_the_transaction_around_the_retry_commits(
    told, is_noted, rolls_back
):
    run = drain(Workflow("x").add("a", told(Act.DISCARD)).insert())
    Completion.objects.update(announced_at=None, finished_at=timezone.now() - timedelta(hours=1))
    if not is_noted:
        Completion.objects.all().delete()
        WorkflowRun.objects.update(state="running", finished_at=None)

    with recorded() as events:
        with transaction.atomic():
            run.retry()
            assert events.finished == []
            transaction.set_rollback(rolls_back)
        assert len(events.finished) == (0 if rolls_back else 1)
        sweep()

    assert [event["outcome"] for event in events.finished] == ["failed"]
    assert WorkflowRun.objects.get().round == (1 if rolls_back else 2)


def test_receiver_of_the_finished_signal_may_retry_the_run(told):
    heard: list[str] = []

    def retry_once(outcome: str, workflow_id: str, **payload: Any) -> None:
        heard.append(outcome)
        if outcome == "failed":
            WorkflowRun.objects.get(pk=workflow_id).retry()

    workflow_finished.connect(retry_once)
    try:
        run = Workflow("x").add("a", told(Act.DISCARD, Act.VALUE)).insert()
        for _ in range(2):
            answer_bell("default")
    finally:
        workflow_finished.disconnect(retry_once)

    run.refresh_from_db()
    assert (heard, run.state, run.round) == (["failed", "completed"], "completed", 2)
    assert not Completion.objects.filter(announced_at=None).exists()


def test_retry_waits_for_the_announcement_that_another_is_about_to_make(told):
    run = drain(Workflow("x").add("a", told(Act.DISCARD)).insert())
    Completion.objects.update(announced_at=None, finished_at=timezone.now())
    looked = threading.Event()

    def announce() -> None:
        looked.wait(timeout=60)
        Completion.objects.update(announced_at=timezone.now())
        connections.close_all()

    def look(execute: Any, sql: str, *rest: Any) -> Any:
        if "baton_completion" in sql:
            looked.set()
        return execute(sql, *rest)

    announcer = threading.Thread(target=announce)
    announcer.start()
    with recorded() as events, connection.execute_wrapper(look):
        run.retry()
    announcer.join()

    assert events.finished == []


def test_hook_that_a_dead_worker_has_left_over_is_called_before_the_next_round(told):
    run = drain(Workflow("x").add("a", told(Act.DISCARD, Act.VALUE)).add("b", steps.hooked, deps=["a"]).insert())
    steps.forget_hooks_of(run)
    run.nodes.filter(name="b").update(hook_due="discarded")

    run.retry()

    assert steps.hooks_of(run) == [("b", "discarded", "dependency 'a' was discarded")]
    assert run.steps["b"].hook_due == ""
    drain(run)
    assert len(steps.hooks_of(run)) == 1


def test_execution_of_the_first_round_that_goes_on_cannot_write_into_the_second(told):
    run = Workflow("x").add("a", steps.value.bind("old")).add("b", steps.nothing, deps=["a"]).insert()
    zombie = claim(connection, run.steps["a"].pk, worker="elsewhere:1")
    assert zombie is not None
    run.cancel()
    run.retry()
    before = rows(run)

    settled = execute(connection, Held(claim=zombie), until=None)

    assert (settled, rows(run)) == (None, before)
    again = claim(connection, run.steps["a"].pk, worker="here:1")
    assert again is not None
    assert again.fence > zombie.fence
    during = rows(run)
    execute(connection, Held(claim=zombie), until=None)
    assert rows(run) == during
    execute(connection, Held(claim=again), until=None)
    assert drain(run).state == "completed"
    assert [entry["outcome"] for entry in run.steps["a"].attempts] == ["cancelled", "completed"]


def test_bell_of_the_first_round_that_comes_late_runs_nothing_twice(told, bodies):
    run = drain(Workflow("x").add("a", told(Act.DISCARD, Act.VALUE)).add("b", told(Act.VALUE)).insert())
    run.retry()

    for _ in range(5):
        answer_bell("default")

    run.refresh_from_db()
    assert (run.state, bodies("a"), bodies("b")) == ("completed", [1, 1], [1])


# Bells, rows, statements ----------------------------------------------------------------------------------------------


def test_bells_are_rung_for_what_is_ready(told):
    workflow = Workflow("x").add("fast", told(Act.DISCARD)).add("slow", told(Act.DISCARD), queue="slow")
    workflow.add("later", told(Act.DISCARD), queue="llm", not_before=timezone.now() + timedelta(hours=1))
    run = drain(workflow.add("behind", told(Act.VALUE), deps=["fast"], queue="elsewhere").insert())
    OrmQ.objects.all().delete()

    run.retry()

    assert sorted(OrmQ.objects.values_list("key", flat=True)) == ["baton-tests", "llm", "slow"]
    assert OrmQ.objects.get(key="llm").lock > timezone.now() + timedelta(minutes=59)


def test_completed_step_behind_the_failed_part_whose_other_dependency_s_row_is_gone_is_cancelled_by_the_sweep(told):
    run = drain(
        Workflow("x", ignore_discarded=True)
        .add("fails", told(Act.DISCARD, Act.VALUE))
        .add("gone", told(Act.VALUE))
        .add("join", told(Act.VALUE), deps=["fails", "gone"])
        .add("behind", told(Act.VALUE), deps=["fails"])
        .insert()
    )
    WorkflowNode.objects.filter(pk=run.steps["gone"].pk).delete()

    run.retry()
    answer_bell("default")
    sweep()

    run.refresh_from_db()
    assert (run.state, states(run)) == ("failed", {"fails": "completed", "join": "cancelled", "behind": "completed"})
    assert "is gone" in (run.steps["join"].error or "")


def test_run_whose_failed_steps_all_lack_a_dependency_s_row_is_refused_with_the_reason(told):
    run = drain(Workflow("x").add("a", told(Act.DISCARD)).add("b", told(Act.VALUE), deps=["a"]).insert())
    WorkflowNode.objects.filter(pk=run.steps["a"].pk).delete()

    with pytest.raises(NothingToRetryError, match="step 'b' cannot run again, for the row of a dependency is gone"):
        run.retry()


def test_run_without_steps_has_nothing_to_retry(told):
    run = drain(Workflow("x").add("a", told(Act.DISCARD)).insert())
    WorkflowEdge.objects.all().delete()
    run.nodes.all().delete()

    with pytest.raises(NothingToRetryError):
        run.retry()


def wide(count: int) -> WorkflowRun:
    workflow = Workflow("wide").add("root", steps.nothing)
    for number in range(count):
        workflow.add(f"s{number}", steps.nothing, deps=["root", f"s{number - 1}"] if number % 2 else ["root"])
    run = workflow.insert()
    run.cancel()
    return run


def test_retry_of_10_000_steps_takes_no_more_statements_than_one_of_ten():
    counts = []
    for size in (10, 9_999):
        run = wide(size)
        with CaptureQueriesContext(connection) as captured:
            run.retry()
        counts.append(len(captured))
        assert run.nodes.filter(state=StepState.PENDING).count() == size
        run.cancel()

    assert counts[0] == counts[1] <= 25


# Real processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def told_by_workers(real_cluster: StartCluster, manage: Manage, settings, tmp_path_factory) -> Path:
    """Two workers, and where they write down the signals they send."""
    events: Path = tmp_path_factory.mktemp("events")
    listening = {"DJANGO_SETTINGS_MODULE": "tests.faults.settings", recorder.ENVIRONMENT: str(events)}
    if "redis" in settings.Q_CLUSTER:
        # It cannot deliver a bell later: retries are the resident sweep's.
        manage.start("baton_sweep", "--watch", "--interval", "0.2", env=listening)
    real_cluster(workers=2, env=listening)
    return events


@pytest.mark.slow
@pytest.mark.broker
def test_second_round_runs_on_real_workers_and_each_round_is_announced_once(told_by_workers, told, bodies):
    runs = []
    for number in range(20):
        workflow = (
            Workflow(f"run {number}", meta={"number": number})
            .add(f"paid {number}", told(Act.VALUE))
            .add(f"fails {number}", told(Act.DISCARD, Act.RAISE, Act.VALUE), deps=[f"paid {number}"], backoff=0.05)
            .add(f"behind {number}", steps.results, deps=[f"fails {number}"])
        )
        runs.append(workflow.insert())

    assert {run.wait(timeout=60) for run in runs} == {"failed"}
    for run in runs:
        run.retry()
    assert {run.wait(timeout=60) for run in runs} == {"completed"}

    for number in range(20):
        assert (bodies(f"paid {number}"), bodies(f"fails {number}")) == ([1], [1, 1, 2])
    finished = wait_until(lambda: (found := recorder.recorded(told_by_workers, "finished"))[39:] and found)
    assert sorted((event["workflow_id"], event["outcome"]) for event in finished) == sorted(
        (str(run.pk), outcome) for run in runs for outcome in ("failed", "completed")
    )
    assert Completion.objects.filter(announced_at=None).count() == 0
    assert not WorkflowRun.objects.exclude(state=RunState.COMPLETED, round=2).exists()


@pytest.mark.slow
@pytest.mark.broker
def test_worker_that_is_still_in_a_cancelled_body_does_not_disturb_the_second_round(real_cluster, tmp_path):
    real_cluster(workers=2)
    run = Workflow("x").add("a", steps.wait_for_file.bind(str(tmp_path))).insert()
    wait_until(lambda: len(steps.traces(tmp_path, "a")) == 1)

    run.cancel("again, please")
    run.retry()
    wait_until(lambda: len(steps.traces(tmp_path, "a")) == 2)
    (tmp_path / "go").touch()

    assert run.wait(timeout=60) == "completed"
    assert [entry["outcome"] for entry in run.steps["a"].attempts] == ["cancelled", "completed"]
    assert [each.outcome for each in run.completions.order_by("round")] == ["cancelled", "completed"]


def test_step_whose_worker_vanished_in_the_second_round_is_rescued_there(told):
    run = drain(Workflow("x").add("a", told(Act.DISCARD, Act.VALUE)).insert())
    run.retry()
    claim(connection, run.steps["a"].pk, worker="elsewhere:1")
    expire_leases(run)

    assert sweep().rescued == 1

    elapse(run)
    assert drain(run).state == "completed"
    assert [entry["outcome"] for entry in run.steps["a"].attempts] == ["discarded", "worker_lost", "completed"]
