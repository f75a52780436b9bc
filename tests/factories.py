"""Rows for tests that look at rows; whatever a workflow can bring about is better brought about by one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import factory
from django.utils import timezone
from factory.django import DjangoModelFactory

from baton.models import (
    Completion,
    DebugLog,
    QueueSighting,
    StepLog,
    SweepLease,
    WorkflowEdge,
    WorkflowNode,
    WorkflowRun,
)
from baton.states import RunState, StepState, WorkflowOutcome


class WorkflowRunFactory(DjangoModelFactory[WorkflowRun]):
    """A run without steps."""

    class Meta:
        model = WorkflowRun

    class Params:
        completed = factory.Trait(state=RunState.COMPLETED, finished_at=factory.LazyFunction(timezone.now))
        failed = factory.Trait(state=RunState.FAILED, finished_at=factory.LazyFunction(timezone.now))
        cancelled = factory.Trait(
            state=RunState.CANCELLED,
            finished_at=factory.LazyFunction(timezone.now),
            cancelled_at=factory.LazyFunction(timezone.now),
            cancel_reason="not wanted",
        )

    name = "factory"
    state = RunState.RUNNING
    inserted_at = factory.LazyFunction(timezone.now)


class WorkflowNodeFactory(DjangoModelFactory[WorkflowNode]):
    """A step that waits for a dependency."""

    class Meta:
        model = WorkflowNode

    class Params:
        available = factory.Trait(state=StepState.AVAILABLE, remaining=0, queued_at=factory.LazyFunction(timezone.now))
        executing = factory.Trait(
            state=StepState.EXECUTING,
            remaining=0,
            attempt=1,
            fence=1,
            version=1,
            worker="elsewhere:1",
            queued_at=factory.LazyFunction(timezone.now),
            started_at=factory.LazyFunction(timezone.now),
            lease_until=factory.LazyFunction(lambda: timezone.now() + timedelta(seconds=15)),
        )
        snoozed = factory.Trait(
            state=StepState.SNOOZED,
            remaining=0,
            due_at=factory.LazyFunction(lambda: timezone.now() + timedelta(hours=1)),
        )
        retryable = factory.Trait(
            state=StepState.RETRYABLE,
            remaining=0,
            attempt=1,
            error="RuntimeError: it failed",
            due_at=factory.LazyFunction(lambda: timezone.now() + timedelta(hours=1)),
        )
        completed = factory.Trait(
            state=StepState.COMPLETED, remaining=0, attempt=1, settled_at=factory.LazyFunction(timezone.now)
        )
        discarded = factory.Trait(
            state=StepState.DISCARDED,
            remaining=0,
            attempt=1,
            error="no use",
            settled_at=factory.LazyFunction(timezone.now),
        )
        cancelled = factory.Trait(
            state=StepState.CANCELLED, error="not wanted", settled_at=factory.LazyFunction(timezone.now)
        )

    run = factory.SubFactory(WorkflowRunFactory)
    name = factory.Sequence("step{}".format)
    step = "tests.steps.nothing"
    state = StepState.PENDING
    remaining = 1
    changed_at = factory.LazyFunction(timezone.now)


class WorkflowEdgeFactory(DjangoModelFactory[WorkflowEdge]):
    """A dependency of one step on another of its run; the counters of both are the test's affair."""

    class Meta:
        model = WorkflowEdge

    node = factory.SubFactory(WorkflowNodeFactory)
    dependency = factory.SubFactory(WorkflowNodeFactory, run=factory.SelfAttribute("..node.run"))


class CompletionFactory(DjangoModelFactory[Completion]):
    """The announced ending of a run that completed."""

    class Meta:
        model = Completion

    class Params:
        unannounced = factory.Trait(announced_at=None)

    run = factory.SubFactory(WorkflowRunFactory, completed=True)
    outcome = WorkflowOutcome.COMPLETED
    finished_at = factory.LazyFunction(timezone.now)
    announced_at = factory.LazyFunction(timezone.now)


class StepLogFactory(DjangoModelFactory[StepLog]):
    """The log of a step."""

    class Meta:
        model = StepLog

    node = factory.SubFactory(WorkflowNodeFactory)
    changed_at = factory.LazyFunction(timezone.now)


class DebugLogFactory(DjangoModelFactory[DebugLog]):
    """A captured call of a step."""

    class Meta:
        model = DebugLog

    node = factory.SubFactory(WorkflowNodeFactory)
    run = factory.SelfAttribute("node.run")
    created_at = factory.LazyFunction(timezone.now)


class QueueSightingFactory(DjangoModelFactory[QueueSighting]):
    """A worker that was seen just now."""

    class Meta:
        model = QueueSighting

    queue = "default"
    host = factory.Sequence("host{}".format)
    worker = factory.LazyAttribute(lambda sighting: f"{sighting.host}:1")
    seen_at = factory.LazyFunction(timezone.now)


class SweepLeaseFactory(DjangoModelFactory[SweepLease]):
    """The sweepers' one row, free."""

    class Meta:
        model = SweepLease
        django_get_or_create = ("id",)

    class Params:
        held = factory.Trait(
            holder="elsewhere:1", until=factory.LazyFunction(lambda: timezone.now() + timedelta(minutes=1))
        )

    id = 1


def completed_run(**steps: dict[str, Any]) -> WorkflowRun:
    """A run that ended well, with the announced completion that belongs to it."""
    run = WorkflowRunFactory.create(completed=True)
    for name, values in steps.items():
        WorkflowNodeFactory.create(run=run, name=name, completed=True, **values)
    CompletionFactory.create(run=run, total_count=len(steps))
    return run
