"""The states of steps and runs, and which of them are final."""

from __future__ import annotations

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class StepState(TextChoices):
    """Where a step stands."""

    PENDING = "pending", _("pending")
    """Waits for a dependency."""
    AVAILABLE = "available", _("available")
    """Ready: the next worker that looks takes it."""
    EXECUTING = "executing", _("executing")
    """A worker holds it under a lease."""
    SNOOZED = "snoozed", _("snoozed")
    """Waits for a time, without having failed."""
    RETRYABLE = "retryable", _("retryable")
    """Failed, and waits for the due time of its next attempt."""
    COMPLETED = "completed", _("completed")
    """Settled: its body returned."""
    DISCARDED = "discarded", _("discarded")
    """Settled: it failed for good."""
    CANCELLED = "cancelled", _("cancelled")
    """Settled: it will not run, or its body said so."""

    @property
    def is_settled(self) -> bool:
        """True when the step never changes again, except by an explicit re-run."""
        return self in SETTLED


SETTLED = frozenset({StepState.COMPLETED, StepState.DISCARDED, StepState.CANCELLED})
FAILED = frozenset({StepState.DISCARDED, StepState.CANCELLED})


class RunState(TextChoices):
    """Where a run stands."""

    RUNNING = "running", _("running")
    """At least one step is unsettled, or the ending is not yet noted."""
    COMPLETED = "completed", _("completed")
    """Every step without dependents completed."""
    FAILED = "failed", _("failed")
    """A step without dependents did not complete."""
    CANCELLED = "cancelled", _("cancelled")
    """A person or program cancelled it while it ran."""


class WorkflowOutcome(TextChoices):
    """How a round of a run ended."""

    COMPLETED = RunState.COMPLETED.value, _("completed")
    FAILED = RunState.FAILED.value, _("failed")
    CANCELLED = RunState.CANCELLED.value, _("cancelled")


class AttemptOutcome(TextChoices):
    """How one execution of a step ended."""

    COMPLETED = "completed", _("completed")
    FAILED = "failed", _("failed")
    TIMED_OUT = "timed_out", _("timed out")
    SNOOZED = "snoozed", _("snoozed")
    DISCARDED = "discarded", _("discarded")
    CANCELLED = "cancelled", _("cancelled")
    WORKER_LOST = "worker_lost", _("worker lost")


class EntryState(TextChoices):
    """What became of one call of a once-only effect."""

    CALLING = "calling", _("calling")
    """It was begun and has not ended."""
    ANSWERED = "answered", _("answered")
    """Its answer is stored."""
    FAILED = "failed", _("failed")
    """It was refused, or never reached anybody: nothing was paid."""
    AMBIGUOUS = "ambiguous", _("unknown outcome")
    """It began, and nobody can know whether it was done and paid."""


class Resolution(TextChoices):
    """What is to follow a call whose outcome is unknown."""

    REPAY = "repay", _("call again")
    FAIL = "fail", _("fail")


class HoldKind(TextChoices):
    """What a held step waits for."""

    BUDGET = "budget", _("budget")
    QUESTION = "question", _("a person's word on a call of unknown outcome")
