from __future__ import annotations

import importlib
import sys

import pytest

from baton import Workflow, registry
from baton.engine.runner import answer_bell
from baton.sweep import sweep
from baton.testing import drain
from tests import steps

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]


@pytest.mark.parametrize(("bad", "state"), [(steps.cancel, "cancelled"), (steps.discard, "discarded")])
def test_hook_is_called_once_with_the_reason_when_a_dependency_cancels_the_step(bad, state):
    run = drain(Workflow("x").add("bad", bad).add("a", steps.hooked, deps=["bad"]).insert())
    sweep()
    answer_bell("default")

    assert steps.hooks_of(run) == [("a", state, f"dependency 'bad' was {state}")]
    assert run.steps["a"].hook_due == ""


def test_further_down_a_cascade_the_dependency_was_cancelled():
    run = drain(
        Workflow("x")
        .add("bad", steps.discard)
        .add("a", steps.hooked, deps=["bad"])
        .add("b", steps.hooked, deps=["a"])
        .insert()
    )

    assert steps.hooks_of(run) == [
        ("a", "discarded", "dependency 'bad' was discarded"),
        ("b", "cancelled", "dependency 'a' was cancelled"),
    ]


def test_error_in_a_hook_stops_neither_the_cascade_nor_other_hooks(caplog):
    run = drain(
        Workflow("x")
        .add("bad", steps.discard)
        .add("a", steps.badly_hooked, deps=["bad"])
        .add("b", steps.hooked, deps=["bad"])
        .add("c", steps.ran, deps=["a"])
        .insert()
    )

    assert [name for name, *_ in steps.hooks_of(run)] == ["a", "b"]
    assert {node.state for name, node in run.steps.items() if name != "bad"} == {"cancelled"}
    assert run.state == "failed"
    assert "The hook of step 'a' for a discarded dependency raised." in caplog.text


def test_hook_may_be_a_coroutine():
    run = drain(Workflow("x").add("bad", steps.discard).add("a", steps.hooked_later, deps=["bad"]).insert())

    assert steps.hooks_of(run) == [("a", "discarded", "dependency 'bad' was discarded")]


def test_hook_that_hangs_is_ended_by_the_step_s_timeout(caplog):
    run = drain(Workflow("x").add("bad", steps.discard).add("a", steps.slowly_hooked, deps=["bad"]).insert())

    assert [name for name, *_ in steps.hooks_of(run)] == ["a"]
    assert "took longer than 0.5 s" in caplog.text
    assert run.state == "failed"


def test_hook_is_given_a_context_with_the_results_that_are_there():
    run = drain(
        Workflow("label")
        .add("good", steps.value.bind(7))
        .add("bad", steps.discard, deps=["good"])
        .add("a", steps.curious, deps=["good", "bad"])
        .insert()
    )

    assert steps.hooks_of(run) == [("a", "label", '{"good": 7}')]


def test_hook_is_not_called_when_the_step_ran():
    run = drain(
        Workflow("x", ignore_discarded=True).add("bad", steps.discard).add("a", steps.hooked, deps=["bad"]).insert()
    )

    assert run.steps["a"].state == "completed"
    assert steps.hooks_of(run) == []


def test_hook_for_the_other_state_is_not_called():
    run = drain(Workflow("x").add("bad", steps.cancel).add("a", steps.curious, deps=["bad"]).insert())

    assert run.steps["a"].state == "cancelled"
    assert steps.hooks_of(run) == []


def test_cancel_of_a_run_calls_no_hook():
    run = Workflow("x").add("bad", steps.discard).add("a", steps.hooked, deps=["bad"]).insert()

    run.cancel("enough")
    sweep()

    assert run.steps["a"].state == "cancelled"
    assert steps.hooks_of(run) == []


ELSEWHERE = """
from baton import step
from tests import steps

@step(name="named by itself")
def elsewhere(ctx):
    pass

@elsewhere.on_dependency_discarded
def hear(ctx, reason):
    steps.hear_of_discard(ctx, reason)
"""


def test_hook_in_a_module_that_the_worker_has_not_imported_is_called(tmp_path, monkeypatch):
    (tmp_path / "baton_hooks_elsewhere.py").write_text(ELSEWHERE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_steps", dict(registry._steps))
    step = importlib.import_module("baton_hooks_elsewhere").elsewhere
    run = Workflow("x").add("bad", steps.discard).add("a", step, deps=["bad"]).insert()
    # What a worker knows that was started before, or of whose apps it is none.
    del sys.modules["baton_hooks_elsewhere"], registry._steps["named by itself"]

    drain(run)

    assert [name for name, *_ in steps.hooks_of(run)] == ["a"]


def test_hook_that_a_dead_worker_left_over_is_called_by_the_sweep_once(settings):
    run = drain(Workflow("x").add("bad", steps.discard).add("a", steps.hooked, deps=["bad"]).insert())
    steps.forget_hooks_of(run)
    run.nodes.filter(name="a").update(hook_due="discarded", changed_at=run.inserted_at.replace(year=2020))

    assert sweep().hooks == 1
    assert sweep().hooks == 0

    assert steps.hooks_of(run) == [("a", "discarded", "dependency 'bad' was discarded")]


def test_hook_that_was_due_just_now_is_left_to_its_worker():
    run = drain(Workflow("x").add("bad", steps.discard).add("a", steps.hooked, deps=["bad"]).insert())
    steps.forget_hooks_of(run)
    run.nodes.filter(name="a").update(hook_due="discarded")

    assert sweep().hooks == 0
    assert steps.hooks_of(run) == []
