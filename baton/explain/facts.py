"""What a row does not say of itself: the time, who serves its queue, when a sweep was seen."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any

from django.db.models import IntegerField, QuerySet, Value
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext as _

from baton import q2
from baton.conf import get_settings
from baton.explain.words import duration
from baton.models import QueueSighting, SweepLease, WorkflowNode, WorkflowRun

logger = logging.getLogger("baton.explain")

UNSERVED_SECONDS = 10.0
"""How long the messages of a queue lie untouched before it counts as served by nobody."""

_IDLE_HOST_SECONDS = 60.0
"""How long a host that signed counts as one whose workers could take a step."""
_MOST_SIGNS = 5000
_SHORT_PERIOD = 120.0
_GRACE_SECONDS = 10.0
_UNKNOWN_PERIOD = 300.0


class Wait(Enum):
    """Why a ready step is not taken."""

    BRIEF = auto()
    """It will be, any moment."""
    BUSY = auto()
    """Every worker of its queue is busy."""
    UNSERVED = auto()
    """No worker serves its queue."""
    LOST = auto()
    """No message waits that would make a worker look."""
    UNKNOWN = auto()
    """The broker cannot be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Who serves a queue."""

    queue: str
    using: str
    now: datetime
    busy: int = 0
    """How many workers hold a step of it."""
    hosts: frozenset[str] = field(default_factory=frozenset)
    """Where workers are busy with it, or have said lately that they are not."""
    sign_at: datetime | None = None
    """The last sign of life of any worker that serves it."""
    taken_at: datetime | None = None
    """When the newest of the steps that its workers hold was taken."""

    @property
    def is_full(self) -> bool:
        """True when every worker that there can be is busy."""
        return self.busy > 0 and self.busy >= len(self.hosts) * q2.workers_on_a_host(self.queue)

    @property
    def _is_taking(self) -> bool:
        """True when a worker has taken a step a moment ago."""
        return self.taken_at is not None and (self.now - self.taken_at).total_seconds() < get_settings().ready_seconds

    def why_not_taken(self, ready_since: datetime | None) -> Wait:
        """Why a step that has been ready since then is not taken."""
        if self.is_full:
            return Wait.BUSY
        waited = 0.0 if ready_since is None else (self.now - ready_since).total_seconds()
        if waited < get_settings().ready_seconds:
            return Wait.BRIEF
        bells = _waiting_bells(self.queue)
        if bells == 0:
            # Whoever has answered a bell takes one step after the other, and few bells are rung for very many steps.
            return Wait.BRIEF if self.busy and self._is_taking else Wait.LOST
        if self.busy:
            return Wait.BUSY
        if bells is None:
            return Wait.UNKNOWN
        return Wait.UNSERVED if self.untouched_seconds(ready_since) >= UNSERVED_SECONDS else Wait.BRIEF

    def untouched_seconds(self, ready_since: datetime | None) -> float:
        """How long nobody has served the queue, as far as is known: no longer than something waits in it."""
        known = [moment for moment in (self.sign_at, ready_since) if moment is not None]
        return (self.now - max(known)).total_seconds() if known else 0.0


def who_serves(queues: Collection[str], *, using: str, now: datetime) -> dict[str, Service]:
    """Look who serves the queues, by the leases that workers hold and by what they signed: one query."""
    lease = timedelta(seconds=get_settings().lease_seconds)
    busy: dict[str, int] = defaultdict(int)
    hosts: dict[str, set[str]] = defaultdict(set)
    signs: dict[str, list[datetime]] = defaultdict(list)
    taken: dict[str, list[datetime]] = defaultdict(list)
    sightings = QueueSighting.objects.using(using).filter(queue__in=queues).order_by()
    leases = WorkflowNode.objects.using(using).filter(lease_until__isnull=False, queue__in=queues).order_by()
    signed = sightings.values_list("queue", "host", "seen_at", "seen_at", Value(0, output_field=IntegerField()))
    held = leases.values_list("queue", "worker", "lease_until", "started_at", Value(1, output_field=IntegerField()))
    for queue, where, at, began, is_lease in signed.union(held, all=True)[:_MOST_SIGNS]:
        if not is_lease:
            signs[queue].append(at)
            if (now - at).total_seconds() < _IDLE_HOST_SECONDS:
                hosts[queue].add(where)
            continue
        signs[queue].append(at - lease)
        if at > now:
            busy[queue] += 1
            hosts[queue].add(where.rpartition(":")[0])
            if began is not None:
                taken[queue].append(began)
    return {
        queue: Service(
            queue=queue,
            using=using,
            now=now,
            busy=busy[queue],
            hosts=frozenset(hosts[queue]),
            sign_at=max(signs[queue], default=None),
            taken_at=max(taken[queue], default=None),
        )
        for queue in queues
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """When the sweep was seen, and when it comes again."""

    age: float | None
    """Seconds since its last whole pass; None where it was never seen."""
    period: float | None
    """Seconds between two passes; None where the settings do not tell."""
    is_to_begin: bool = False
    """True where it was never seen, but nothing is old enough for that to mean anything."""

    @property
    def is_overdue(self) -> bool:
        """True when it should have been seen by now."""
        return not self.is_to_begin if self.age is None else self.age > _patience(self.period)

    @property
    def within(self) -> str:
        """In what time it comes; empty where nobody knows."""
        if self.period is None:
            return ""
        if self.period <= _SHORT_PERIOD:
            return _("{seconds} s").format(seconds=f"{self.period:g}")
        return duration(self.period)

    def does_that(self) -> str:
        """A sentence on when the sweep does what was said before."""
        if self.age is None and self.is_overdue:
            return _("A sweep does that, but none has ever been seen.")
        if self.age is not None and self.is_overdue:
            return _("A sweep does that, but none has been seen for {time}.").format(time=duration(self.age))
        if self.within:
            return _("The sweep does that within {time}.").format(time=self.within)
        return _("The next sweep does that.")


def look_for_sweep(*, using: str, now: datetime) -> Sweep:
    """Look when the sweep was seen: one query, and one more where a schedule is there and it never was."""
    swept_at = SweepLease.objects.using(using).filter(pk=1).values_list("swept_at", flat=True).first()
    settings = get_settings()
    minutes = max(1, -(-int(settings.sweep_seconds) // 60))
    # A schedule of django-q2 counts whole minutes.
    period = 60.0 * minutes if settings.sweep_schedule else None
    is_to_begin = False
    if swept_at is None and period is not None:
        before = now - timedelta(seconds=_patience(period))
        is_to_begin = not WorkflowRun.objects.using(using).filter(inserted_at__lt=before).exists()
    return Sweep(
        age=None if swept_at is None else (now - swept_at).total_seconds(), period=period, is_to_begin=is_to_begin
    )


def _patience(period: float | None) -> float:
    return 2 * (period or _UNKNOWN_PERIOD) + _GRACE_SECONDS


def read_beside(rows: QuerySet[Any], *columns: str) -> tuple[datetime, tuple[Any, ...]]:
    """Read a row's columns with the time of the database, by which leases and due times are compared.

    Returns:
        The time, and the columns; without columns where the row is gone.
    """
    found = rows.values_list(Now(), *columns).first()
    return (timezone.now(), ()) if found is None else (found[0], found[1:])


def heartbeat_at(lease_until: datetime) -> datetime:
    """When a lease was written."""
    return lease_until - timedelta(seconds=get_settings().lease_seconds)


def oldest(moments: Iterable[datetime | None]) -> datetime | None:
    """The first of the times that there are."""
    return min((moment for moment in moments if moment is not None), default=None)


def _waiting_bells(queue: str) -> int | None:
    """How many messages wait for the queue; None where the broker does not answer."""
    try:
        return q2.waiting_bells(queue)
    except Exception:
        logger.warning("The broker could not be asked for queue %r.", queue, exc_info=True, extra={"queue": queue})
        return None
