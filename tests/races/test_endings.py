"""The last two steps of a run at the same instant, on every database: one ending each."""

from __future__ import annotations

import pytest

from baton import Workflow
from baton.models import Completion, WorkflowRun
from baton.sweep import check, sweep
from tests.behaviours import follow, meet
from tests.interpreter import Act
from tests.races.pairs import REPEATS, claims, copies, perform, race

pytestmark = pytest.mark.django_db(transaction=True)


def end_at_once(runs: list[dict[str, int]], left: str, right: str) -> None:
    """Settle two steps of each run at the same instant, by two workers."""
    held = claims(runs, left, right)
    race(
        lambda repeat: perform(held[runs[repeat][left]]),
        lambda repeat: perform(held[runs[repeat][right]]),
    )


def assert_each_ended_once(endings: list[str], outcome: str) -> None:
    sweep()
    runs = [str(pk) for pk in WorkflowRun.objects.values_list("pk", flat=True)]
    assert len(runs) == REPEATS
    assert sorted(endings) == sorted(runs)
    assert Completion.objects.count() == REPEATS
    assert not Completion.objects.filter(announced_at=None).exists()
    assert set(WorkflowRun.objects.values_list("state", flat=True)) == {outcome}
    assert check() == []


def test_run_whose_last_two_steps_settle_at_once_is_announced_once(endings):
    runs = copies(Workflow("last two").add("b", meet).add("c", meet))

    end_at_once(runs, "b", "c")

    assert_each_ended_once(endings, "completed")


def test_run_is_announced_once_where_the_sibling_of_a_cascade_completes_last(endings):
    workflow = Workflow("cascade").add("a", meet).add("b", meet.bind(act=Act.DISCARD))
    runs = copies(workflow.add("c", follow, deps=["a", "b"]))

    end_at_once(runs, "a", "b")

    assert_each_ended_once(endings, "failed")
    assert set(map(tuple, Completion.objects.values_list("failed_steps", flat=True))) == {("b", "c")}
