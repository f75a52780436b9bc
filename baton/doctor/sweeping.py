"""The sweep: whether somebody makes it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

from baton import q2
from baton.doctor.findings import Finding, Severity, error
from baton.doctor.visit import Visit
from baton.explain.words import duration
from baton.models import SweepLease, WorkflowRun

SCHEDULED = "baton.sweep.scheduled_sweep"
_PAUSE = 0.1


def look_at_sweep(visit: Visit) -> Iterator[Finding]:
    """Find a sweep that never was, or was too long ago."""
    yield from _schedule(visit)
    lease = _lease(visit)
    if visit.settings.sweep_resident:
        lease = _wait_for_pass(visit, lease)
    if lease is not None and _is_held(lease, visit.now):
        return
    if lease is None or lease.swept_at is None:
        yield Finding(
            severity=_severity(visit),
            id="sweep-never",
            sentence="Nobody has ever swept: what a crash or a lost message leaves behind stays so.",
            fix=_how_to_sweep(visit),
        )
    elif _is_late(lease, visit):
        yield Finding(
            severity=_severity(visit),
            id="sweep-late",
            sentence=f"The last complete pass of the sweep was {duration(_age(lease, visit))} ago; "
            f"one is expected every {duration(visit.sweep_is_late_after)} at least.",
            fix=_how_to_sweep(visit),
        )


def _lease(visit: Visit) -> SweepLease | None:
    return SweepLease.objects.using(visit.alias).first()


def _wait_for_pass(visit: Visit, lease: SweepLease | None) -> SweepLease | None:
    """A resident sweep that was started with the workers may take as long as they to be seen."""
    until = time.monotonic() + visit.wait
    while (lease is None or _is_late(lease, visit)) and time.monotonic() < until:
        time.sleep(_PAUSE)
        lease = _lease(visit)
    return lease


def _is_held(lease: SweepLease, now: datetime) -> bool:
    return lease.until is not None and lease.until > now


def _is_late(lease: SweepLease, visit: Visit) -> bool:
    return not _is_held(lease, visit.now) and (lease.swept_at is None or _age(lease, visit) > visit.sweep_is_late_after)


def _age(lease: SweepLease, visit: Visit) -> float:
    return (visit.now - lease.swept_at).total_seconds() if lease.swept_at else 0.0


def _schedule(visit: Visit) -> Iterator[Finding]:
    if visit.settings.sweep_schedule and not q2.has_schedule(SCHEDULED):
        yield error(
            "schedule-missing",
            "BATON['SWEEP_SCHEDULE'] is True, and django-q2 has no such schedule.",
            fix="Let migrate keep the schedule as the setting says: python manage.py migrate",
        )


def _severity(visit: Visit) -> Severity:
    """Nothing stands still where nothing runs."""
    runs = WorkflowRun.objects.using(visit.alias).running()
    return Severity.ERROR if runs.exists() else Severity.WARNING


def _how_to_sweep(visit: Visit) -> str:
    resident = "python manage.py baton_sweep --watch --interval 1"
    if visit.settings.sweep_resident:
        return f"Keep it running: {resident}"
    if visit.settings.sweep_schedule:
        queue = visit.settings.sweep_queue
        return f"See that a cluster serves queue {queue!r} and is not busy for long; or keep it running: {resident}"
    return f"Set BATON['SWEEP_SCHEDULE'] = True and run migrate, or keep it running: {resident}"
