"""Time, moved in the rows: the clock that Baton goes by is the database's."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from baton.models import WorkflowRun


def elapse(run: WorkflowRun) -> int:
    """Let every time that steps of a run wait for have come; return how many waited."""
    return run.nodes.filter(due_at__isnull=False).update(due_at=_past())


def expire_leases(run: WorkflowRun) -> int:
    """Let every lease of a run have run out; return how many there were."""
    return run.nodes.filter(lease_until__isnull=False).update(lease_until=_past())


def _past() -> object:
    return timezone.now() - timedelta(seconds=1)
