"""Rows for tests that look at rows; whatever a workflow can bring about is better brought about by one."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import factory
from django.utils import timezone
from factory.django import DjangoModelFactory

from baton.models import (
    Completion,
    DebugLog,
    LedgerEntry,
    QueueSighting,
    StepLog,
    StepStat,
    SweepLease,
    WorkflowEdge,
    WorkflowNode,
    WorkflowRun,
)
from baton.states import EntryState, RunState, StepState, WorkflowOutcome


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


class LedgerEntryFactory(DjangoModelFactory[LedgerEntry]):
    """A call of a language model that was answered."""

    class Meta:
        model = LedgerEntry

    class Params:
        calling = factory.Trait(state=EntryState.CALLING, answer=None, ended_at=None)
        ambiguous = factory.Trait(state=EntryState.AMBIGUOUS, answer=None)

    node = factory.SubFactory(WorkflowNodeFactory)
    run = factory.SelfAttribute("node.run")
    key = factory.Sequence("key{}".format)
    is_call = True
    state = EntryState.ANSWERED
    answer = '"an answer"'
    provider = "openai"
    model = "gpt-5"
    started_at = factory.LazyFunction(timezone.now)
    ended_at = factory.SelfAttribute("started_at")


class StepStatFactory(DjangoModelFactory[StepStat]):
    """A call of a language model that was paid for, and its price."""

    class Meta:
        model = StepStat

    class Params:
        unpriced = factory.Trait(cost=None, currency="", unpriced_because="no price for model 'gpt-5'")
        unknown_usage = factory.Trait(
            **dict.fromkeys(
                ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
            ),
            cost=None,
            currency="",
            unpriced_because="the answer does not say what it used",
        )

    node = factory.SubFactory(WorkflowNodeFactory)
    run = factory.SelfAttribute("node.run")
    workflow_name = factory.SelfAttribute("run.name")
    step_name = factory.SelfAttribute("node.name")
    step = factory.SelfAttribute("node.step")
    provider = "openai"
    model = "gpt-5"
    input_tokens = 1000
    output_tokens = 100
    cached_input_tokens = 0
    cache_write_tokens = 0
    reasoning_tokens = 0
    cost = Decimal("0.00225")
    currency = "USD"
    duration = 1.5
    at = factory.LazyFunction(timezone.now)


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
