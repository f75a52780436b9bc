"""A retry beside what else may happen to a run at the same instant, with the invariants asserted after each race."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models import F

from baton import Workflow
from baton.engine.finish import finish
from baton.engine.runner import database
from baton.exceptions import KeyInUseError, RunNotSettledError
from baton.models import Completion, WorkflowNode, WorkflowRun
from baton.states import WorkflowOutcome
from baton.sweep import check, sweep
from baton.telemetry import workflow_finished
from tests.behaviours import follow, meet, meeting_point
from tests.interpreter import Act
from tests.races.pairs import REPEATS, claims, copies, nodes_by_run, perform, race

TIMES = max(20, REPEATS // 10)
"""A retry takes some ten times as long as what the other races are about."""
SWEEPS = max(4, TIMES // 5)

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def endings() -> Iterator[Counter[str]]:
    """How often each run was announced as finished."""
    announced: Counter[str] = Counter()

    def record(workflow_id: str, **payload: Any) -> None:
        announced[workflow_id] += 1

    workflow_finished.connect(record)
    yield announced
    workflow_finished.disconnect(record)


def failed_runs(name: str, *, keyed: bool = False) -> list[WorkflowRun]:
    """Many runs that have ended: `a` was discarded, `b` fell with it, `c` completed."""
    workflow = Workflow(name).add("a", follow).add("b", follow, deps=["a"]).add("c", follow)
    copies(workflow, TIMES)
    nodes = WorkflowNode.objects.filter(run__name=name)
    settled = {"settled_at": F("changed_at"), "fence": 1, "version": 2, "remaining": 0}
    nodes.filter(name="a").update(state="discarded", error="no use", attempt=1, **settled)
    nodes.filter(name="b").update(state="cancelled", error="dependency 'a' was discarded", **settled)
    nodes.filter(name="c").update(state="completed", attempt=1, **settled)
    runs = WorkflowRun.objects.filter(name=name)
    runs.update(state="failed", finished_at=F("inserted_at"))
    Completion.objects.bulk_create(
        Completion(
            run=run,
            outcome=WorkflowOutcome.FAILED,
            failed_steps=["a", "b"],  # type: ignore[misc] # the field takes any JSON
            failed_count=2,
            total_count=3,
            finished_at=run.inserted_at,
            announced_at=run.inserted_at,
        )
        for run in runs
    )
    if keyed:
        for number, run in enumerate(runs.order_by("pk")):
            runs.filter(pk=run.pk).update(key=f"key {number}")
    return list(runs.order_by("pk"))


def states(name: str) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for node, state in WorkflowNode.objects.filter(run__name=name).values_list("name", "state"):
        found.setdefault(node, Counter())[str(state)] += 1
    return found


def test_two_retries_at_once_begin_one_round_and_the_other_is_told_that_it_runs():
    runs = failed_runs("retried twice")
    begun: list[int] = []
    refused: list[int] = []

    def retry(side: int, repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=runs[repeat].pk)
        meeting_point.wait()
        try:
            run.retry()
        except RunNotSettledError:
            refused.append(side)
        else:
            begun.append(side)

    race(lambda repeat: retry(0, repeat), lambda repeat: retry(1, repeat), repeats=TIMES)

    assert (len(begun), len(refused)) == (TIMES, TIMES)
    assert set(begun) == {0, 1}, "one was always first"
    assert set(WorkflowRun.objects.values_list("state", "round")) == {("running", 2)}
    assert states("retried twice") == {
        "a": {"available": TIMES}, "b": {"pending": TIMES}, "c": {"completed": TIMES},
    }  # fmt: skip
    # Each step was put back once.
    assert Counter(WorkflowNode.objects.filter(name="a").values_list("fence", "version")) == {(2, 3): TIMES}
    assert check() == []


def test_retry_and_cancel_at_once_cancel_the_second_round_or_find_nothing_to_cancel(endings):
    runs = failed_runs("retried and cancelled")
    cancelled: set[int] = set()

    def retry(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=runs[repeat].pk)
        meeting_point.wait()
        run.retry()

    def cancel(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=runs[repeat].pk)
        meeting_point.wait()
        if run.cancel("enough"):
            cancelled.add(repeat)

    race(retry, cancel, repeats=TIMES, was_left_first=lambda repeat: repeat in cancelled)

    assert 0 < len(cancelled) < TIMES, "the two never met"
    for repeat, run in enumerate(runs):
        run.refresh_from_db()
        assert (run.state, run.round) == ("cancelled" if repeat in cancelled else "running", 2)
        assert endings[str(run.pk)] == (repeat in cancelled)
    assert states("retried and cancelled")["c"] == {"completed": TIMES}
    assert check() == []


def test_retry_while_the_last_step_settles_begins_a_round_or_is_told_that_the_run_runs(endings):
    """The step settles, and whoever did it asks for the end of the run; a retry comes before, between or after."""
    names = "settling"
    nodes = copies(Workflow(names).add("a", meet.bind(act=Act.DISCARD)).add("b", follow, deps=["a"]), TIMES)
    run_ids = {of["a"]: run_id for run_id, of in nodes_by_run(names).items()}
    held = claims(nodes, "a")
    begun: set[int] = set()

    def retry(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=run_ids[nodes[repeat]["a"]])
        meeting_point.wait()
        try:
            run.retry()
        except RunNotSettledError:
            return
        begun.add(repeat)

    race(
        retry,
        lambda repeat: perform(held[nodes[repeat]["a"]]),
        repeats=TIMES,
        was_left_first=lambda repeat: repeat not in begun,
    )

    assert 0 < len(begun) < TIMES, "the two never met"
    for repeat, of in enumerate(nodes):
        run = WorkflowRun.objects.get(pk=run_ids[of["a"]])
        assert (run.state, run.round) == (("running", 2) if repeat in begun else ("failed", 1))
        assert [each.outcome for each in run.completions.all()] == ["failed"]
        # The first ending was announced, and only once, whoever noted it.
        assert endings[str(run.pk)] == 1
    assert not Completion.objects.filter(announced_at=None).exists()
    assert check() == []


def test_retry_and_the_late_question_for_the_end_of_the_run_note_each_round_once(endings):
    """A worker that settled something asks late, when others have ended the round and a retry begins the next."""
    runs = failed_runs("asked late")

    def retry(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=runs[repeat].pk)
        meeting_point.wait()
        run.retry()

    def ask(repeat: int) -> None:
        meeting_point.wait()
        assert finish(database(), runs[repeat].pk) is False

    race(retry, ask, repeats=TIMES)

    assert set(WorkflowRun.objects.values_list("state", "round")) == {("running", 2)}
    assert Completion.objects.count() == TIMES
    assert endings == {}
    assert check() == []


def test_retry_and_sweep_at_once_leave_the_second_round_to_the_workers():
    runs = failed_runs("swept")

    def retry(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=runs[repeat].pk)
        meeting_point.wait()
        run.retry()

    def sweep_once(repeat: int) -> None:
        meeting_point.wait()
        assert sweep().errors == {}

    race(retry, sweep_once, repeats=SWEEPS)

    assert states("swept")["a"] == {"available": SWEEPS, "discarded": TIMES - SWEEPS}
    assert states("swept")["c"] == {"completed": TIMES}
    assert Completion.objects.count() == TIMES
    assert check() == []


def test_retry_and_insert_of_its_key_at_once_leave_one_unsettled_run_with_the_key():
    runs = failed_runs("keyed", keyed=True)
    refused: set[int] = set()
    inserted: dict[int, WorkflowRun] = {}

    def retry(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=runs[repeat].pk)
        meeting_point.wait()
        try:
            run.retry()
        except KeyInUseError:
            refused.add(repeat)

    def insert(repeat: int) -> None:
        workflow = Workflow("keyed", key=f"key {repeat}").add("a", follow)
        meeting_point.wait()
        inserted[repeat] = workflow.insert()

    race(retry, insert, repeats=TIMES, was_left_first=lambda repeat: repeat not in refused)

    assert 0 < len(refused) < TIMES, "the two never met"
    for repeat, run in enumerate(runs):
        run.refresh_from_db()
        if repeat in refused:
            assert (run.state, run.round) == ("failed", 1)
            assert inserted[repeat] != run
        else:
            # Who came second was given the run that holds the key.
            assert (run.state, run.round) == ("running", 2)
            assert inserted[repeat] == run
    assert check() == []


def test_retries_of_two_runs_of_one_key_at_once_begin_one_of_them():
    runs = failed_runs("one key")
    pairs = list(zip(runs[::2], runs[1::2], strict=True))
    for left, right in pairs:
        WorkflowRun.objects.filter(pk__in=[left.pk, right.pk]).update(key=str(left.pk))
    refused: Counter[int] = Counter()

    def retry(side: int, repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=pairs[repeat][side].pk)
        meeting_point.wait()
        try:
            run.retry()
        except KeyInUseError:
            refused[repeat] += 1

    race(lambda repeat: retry(0, repeat), lambda repeat: retry(1, repeat), repeats=len(pairs))

    assert refused == dict.fromkeys(range(len(pairs)), 1)
    assert Counter(WorkflowRun.objects.values_list("state", "round")) == {
        ("running", 2): len(pairs),
        ("failed", 1): len(pairs),
    }
    assert check() == []


def test_retry_and_the_late_settle_of_a_cancelled_execution_leave_the_second_round_alone():
    nodes = copies(Workflow("zombies").add("a", meet).add("b", follow, deps=["a"]).add("c", follow, deps=["a"]), TIMES)
    run_ids = {of["a"]: run_id for run_id, of in nodes_by_run("zombies").items()}
    held = claims(nodes, "a")
    for of in nodes:
        WorkflowRun.objects.get(pk=run_ids[of["a"]]).cancel("again, please")

    def retry(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=run_ids[nodes[repeat]["a"]])
        meeting_point.wait()
        run.retry()

    race(retry, lambda repeat: perform(held[nodes[repeat]["a"]]), repeats=TIMES)

    assert states("zombies") == {
        "a": {"available": TIMES}, "b": {"pending": TIMES}, "c": {"pending": TIMES},
    }  # fmt: skip
    assert Counter(WorkflowNode.objects.filter(name="a").values_list("fence", "attempt", "remaining")) == {
        (3, 0, 0): TIMES
    }
    assert set(WorkflowRun.objects.values_list("state", "round")) == {("running", 2)}
    assert check() == []
