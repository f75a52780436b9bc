from __future__ import annotations

import pytest

from baton import Workflow
from baton.engine.runner import answer_bell
from baton.models import Completion
from baton.sweep import sweep
from baton.testing import drain
from tests import steps
from tests.recording import recorded

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]


def test_run_whose_steps_without_dependents_completed_is_completed():
    with recorded() as events:
        run = drain(Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert())
        sweep()

    assert run.state == "completed"
    assert run.finished_at is not None
    completion = Completion.objects.get()
    assert (completion.run, completion.round, completion.outcome) == (run, 1, "completed")
    assert (completion.failed_steps, completion.failed_count, completion.total_count) == ([], 0, 2)
    assert completion.announced_at is not None
    assert len(events.finished) == 1


def test_run_with_one_failed_and_two_cascaded_steps_has_failed_and_names_the_three():
    with recorded() as events:
        run = drain(
            Workflow("x")
            .add("good", steps.nothing)
            .add("bad", steps.discard)
            .add("after", steps.nothing, deps=["bad"])
            .add("after that", steps.nothing, deps=["after"])
            .insert()
        )

    assert run.state == "failed"
    completion = Completion.objects.get()
    assert completion.failed_steps == ["bad", "after", "after that"]
    assert (completion.failed_count, completion.total_count) == (3, 4)
    assert events.finished[0]["failed_steps"] == ["bad", "after", "after that"]


def test_message_names_a_hundred_failed_steps_and_the_completion_all():
    workflow = Workflow("x").add("bad", steps.discard)
    for number in range(150):
        workflow.add(f"s{number}", steps.nothing, deps=["bad"])

    with recorded() as events:
        drain(workflow.insert())

    (message,) = events.finished
    assert len(message["failed_steps"]) == 100
    assert (message["failed_count"], message["total_count"]) == (151, 151)
    assert len(Completion.objects.get().failed_steps) == 151


def test_finished_message_comes_after_every_step_s():
    with recorded() as events:
        drain(
            Workflow("x").add("a", steps.nothing).add("b", steps.fail, max_attempts=2).add("c", steps.nothing).insert()
        )

    assert events.order[-2:] == ["finished", "failed"]
    assert events.order.count("finished") == 1


def test_sibling_of_a_cascade_that_completes_last_ends_the_run_once():
    run = (
        Workflow("x")
        .add("bad", steps.discard, priority=-1)
        .add("sibling", steps.nothing, queue="slow")
        .add("join", steps.nothing, deps=["bad", "sibling"])
        .insert()
    )

    with recorded() as events:
        answer_bell("default")
        assert events.finished == []
        answer_bell("slow")

    run.refresh_from_db()
    assert run.state == "failed"
    assert len(events.finished) == 1


def test_run_does_not_end_before_its_last_step():
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, queue="slow").insert()

    answer_bell("default")

    run.refresh_from_db()
    assert run.state == "running"
    assert not Completion.objects.exists()


def test_ending_that_nobody_hears_is_noted_as_announced():
    drain(Workflow("x").add("a", steps.nothing).insert())

    assert Completion.objects.get().announced_at is not None
    assert sweep().announced == 0
