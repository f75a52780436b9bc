"""The sweep: whether somebody makes it."""

from __future__ import annotations

from collections.abc import Iterator

from baton import q2
from baton.doctor.findings import Finding, Severity, error
from baton.doctor.visit import Visit
from baton.explain.words import duration
from baton.models import SweepLease, WorkflowRun

SCHEDULED = "baton.sweep.scheduled_sweep"


def look_at_sweep(visit: Visit) -> Iterator[Finding]:
    """Find a sweep that never was, or was too long ago."""
    yield from _schedule(visit)
    lease = SweepLease.objects.using(visit.alias).first()
    is_sweeping = lease is not None and lease.until is not None and lease.until > visit.now
    if is_sweeping:
        return
    if lease is None or lease.swept_at is None:
        yield Finding(
            severity=_severity(visit),
            id="sweep-never",
            sentence="Nobody has ever swept: what a crash or a lost message leaves behind stays so.",
            fix=_how_to_sweep(visit),
        )
        return
    age = (visit.now - lease.swept_at).total_seconds()
    if age > visit.sweep_is_late_after:
        yield Finding(
            severity=_severity(visit),
            id="sweep-late",
            sentence=f"The last complete pass of the sweep was {duration(age)} ago; "
            f"one is expected every {duration(visit.sweep_is_late_after)} at least.",
            fix=_how_to_sweep(visit),
        )


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
