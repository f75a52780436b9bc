from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from baton import Workflow
from baton.models import Completion, WorkflowRun
from baton.sweep import check
from baton.testing import drain
from tests import steps
from tests.factories import (
    CompletionFactory,
    WorkflowEdgeFactory,
    WorkflowNodeFactory,
    WorkflowRunFactory,
    completed_run,
)

pytestmark = pytest.mark.django_db


def test_rows_that_keep_every_invariant_are_passed():
    drain(
        Workflow("x", ignore_discarded=True)
        .add("a", steps.fail_times.bind(2))
        .add("b", steps.snooze_times.bind(2), deps=["a"])
        .add("c", steps.discard, deps=["b"])
        .add("d", steps.nothing, deps=["c"])
        .insert()
    )
    Workflow("y").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()
    completed_run(a={}, b={})

    assert check() == []


def step_that_started_too_early() -> str:
    edge = WorkflowEdgeFactory.create(
        node__executing=True, dependency__completed=True, dependency__settled_at=timezone.now() + timedelta(hours=1)
    )
    return f"step {edge.node_id} ({edge.node.name}) started before its dependency"


def step_that_ran_in_spite_of_a_failure() -> str:
    edge = WorkflowEdgeFactory.create(node__available=True, dependency__discarded=True)
    return (
        f"step {edge.node_id} ({edge.node.name}) ran or is ready although its dependency {edge.dependency.name} is "
        "discarded, which it does not ignore"
    )


def step_that_executes_without_a_lease() -> str:
    node = WorkflowNodeFactory.create(executing=True, lease_until=None)
    return f"step {node.pk} ({node.name}) is executing without a lease, or has a lease without executing"


def lease_of_a_step_that_does_not_execute() -> str:
    node = WorkflowNodeFactory.create(available=True, lease_until=timezone.now())
    return f"step {node.pk} ({node.name}) is executing without a lease, or has a lease without executing"


def step_without_a_due_time() -> str:
    node = WorkflowNodeFactory.create(snoozed=True, due_at=None)
    return f"step {node.pk} ({node.name}) is snoozed with the due time None"


def ready_step_with_a_due_time() -> str:
    node = WorkflowNodeFactory.create(available=True, due_at=timezone.now())
    return f"step {node.pk} ({node.name}) is available with the due time"


def wrong_counter() -> str:
    edge = WorkflowEdgeFactory.create(node__remaining=2, dependency__available=True)
    return f"step {edge.node_id} ({edge.node.name}) is pending and counts 2 unsettled dependencies, but has 1"


def waiter_for_nothing() -> str:
    node = WorkflowNodeFactory.create(remaining=0)
    return f"step {node.pk} ({node.name}) is pending and waits for nothing"


def too_many_attempts() -> str:
    node = WorkflowNodeFactory.create(executing=True, attempt=6, max_attempts=5)
    return f"step {node.pk} ({node.name}) counts 6 attempts, more than the 5 it may have"


def settled_run_with_an_unsettled_step() -> str:
    run = completed_run(a={})
    node = WorkflowNodeFactory.create(run=run, available=True)
    return f" (factory) is completed but step {node.name} is unsettled"


def settled_run_without_a_completion() -> str:
    WorkflowRunFactory.create(failed=True)
    return " (factory) is failed and has 0 completions of its round"


def running_run_with_a_completion() -> str:
    CompletionFactory.create(run=WorkflowRunFactory.create())
    return " (factory) is running and has 1 completions of its round"


def outcome_that_differs() -> str:
    run = completed_run(a={})
    Completion.objects.update(outcome="failed")
    assert run.state == "completed"
    return " (factory) is completed but its completion says failed"


@pytest.mark.parametrize(
    "break_it",
    [
        step_that_started_too_early,
        step_that_ran_in_spite_of_a_failure,
        step_that_executes_without_a_lease,
        lease_of_a_step_that_does_not_execute,
        step_without_a_due_time,
        ready_step_with_a_due_time,
        wrong_counter,
        waiter_for_nothing,
        too_many_attempts,
        settled_run_with_an_unsettled_step,
        settled_run_without_a_completion,
        running_run_with_a_completion,
        outcome_that_differs,
    ],
)
def test_broken_invariant_is_told_in_a_sentence_that_names_the_row(break_it):
    sentence = break_it()

    told = check()

    assert sentence in " | ".join(told)
    assert len(told) <= 2


def test_twenty_of_a_kind_are_told_at_most():
    WorkflowNodeFactory.create_batch(30, remaining=0, run=WorkflowRunFactory.create())

    assert len(check()) == 20


def test_every_broken_invariant_is_told_at_once():
    WorkflowNodeFactory.create(remaining=0)
    WorkflowNodeFactory.create(executing=True, lease_until=None)
    WorkflowRun.objects.filter(pk=WorkflowRunFactory.create().pk).update(state="failed")

    assert len(check()) == 3
