"""The broker, who serves which queue, and the clocks of those who do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db.models import Count, Max

from baton import q2
from baton.doctor.findings import Finding, Severity, counted, error, warning
from baton.doctor.in_time import in_time
from baton.doctor.visit import Visit
from baton.engine.clock import read_clock
from baton.explain.words import duration
from baton.models import QueueSighting, WorkflowNode
from baton.registry import all_steps

BROKER_SECONDS = 10.0
CLOCK_SECONDS = 2.0
"""What two clocks may differ by."""
_CLOCKS_SEEN_WITHIN = timedelta(hours=1)
_PAUSE = 0.1
_TELL_AFTER = 1.0


def look_at_broker(visit: Visit) -> Iterator[Finding]:
    """Ask the broker whether it is there."""
    if q2.uses_orm_broker() and "tables" not in visit.works:
        # The database is the broker, and its fault is told.
        return
    try:
        if q2.uses_orm_broker():
            q2.ping()
        else:
            in_time(q2.ping, seconds=BROKER_SECONDS)
    except Exception as exc:  # noqa: BLE001 - whatever a broker raises is what is reported
        yield error(
            "broker-unreachable",
            f"The broker of django-q2 does not answer: {' '.join(str(exc).split()) or type(exc).__name__}",
            fix="Start it, or correct Q_CLUSTER. Until then no worker hears of work; what is ready stays ready.",
        )
    else:
        visit.works.add("broker")


def look_at_queues(visit: Visit) -> Iterator[Finding]:
    """Call the roll of every queue that steps use, and wait for an answer."""
    unsettled = _unsettled_by_queue(visit)
    queues = sorted({*unsettled, *(step.options.queue for step in all_steps() if _is_configured(step.options.queue))})
    if visit.settings.sweep_schedule and visit.settings.sweep_queue not in queues:
        queues.append(visit.settings.sweep_queue)
    asked_at = read_clock(visit.connection).at
    for queue in queues:
        q2.ask_who_serves(queue, using=visit.alias)
    _wait_for_answers(visit, set(queues), since=asked_at)
    last_seen = dict(QueueSighting.objects.using(visit.alias).values_list("queue").annotate(Max("seen_at")))
    for queue in queues:
        if queue not in visit.answered | visit.busy:
            yield _unserved(visit, queue, unsettled.get(queue, 0), last_seen.get(queue))


def look_at_clocks(visit: Visit) -> Iterator[Finding]:
    """Compare the clock of this host and of those that answered lately with the database's."""
    offsets = {"this host": read_clock(visit.connection).offset}
    sightings = QueueSighting.objects.using(visit.alias).filter(
        clock_offset__isnull=False, seen_at__gt=visit.now - _CLOCKS_SEEN_WITHIN
    )
    for sighting in sightings.order_by("seen_at"):
        offsets[f"host {sighting.host}"] = sighting.clock_offset or 0.0
    for host, offset in offsets.items():
        if abs(offset) <= CLOCK_SECONDS:
            continue
        is_grave = abs(offset) > visit.settings.lease_seconds / 2
        yield Finding(
            severity=Severity.ERROR if is_grave else Severity.WARNING,
            id="clock-off",
            sentence=f"The clock of {host} is {duration(abs(offset))} {'ahead of' if offset > 0 else 'behind'} "
            "the database's: messages and schedules come so much too late or too early.",
            fix="Let NTP keep the clocks of every host, and of the database's.",
        )


def _unsettled_by_queue(visit: Visit) -> dict[str, int]:
    nodes = WorkflowNode.objects.using(visit.alias).unsettled().order_by()
    return dict(nodes.values_list("queue").annotate(Count("id")))


def _wait_for_answers(visit: Visit, queues: set[str], *, since: datetime) -> None:
    started, told = time.monotonic(), False
    while True:
        sightings = QueueSighting.objects.using(visit.alias).filter(seen_at__gte=since)
        visit.answered |= queues.intersection(sightings.values_list("queue", flat=True))
        visit.busy |= queues & visit.at_work()
        missing = queues - visit.answered - visit.busy
        waited = time.monotonic() - started
        if not missing or waited >= visit.wait:
            return
        if waited > _TELL_AFTER and not told:
            told = True
            visit.tell(f"Waiting up to {visit.wait:g} s for a worker of {', '.join(sorted(missing))} to answer ...")
        time.sleep(min(_PAUSE, visit.wait - waited))


def _unserved(visit: Visit, queue: str, unsettled: int, seen_at: datetime | None) -> Finding:
    seen = "none was ever seen" if seen_at is None else f"the last was seen {_ago(visit, seen_at)} ago"
    sentence = f"No worker of queue {queue!r} has answered within {visit.wait:g} s; {seen}."
    fix = f"Start one, unless its workers are only busy with other tasks: {_start(queue)}"
    if not _is_configured(queue):
        fix = f"Add {queue!r} to Q_CLUSTER['ALT_CLUSTERS'], then start it: {_start(queue)}"
    if unsettled:
        verb = "needs" if unsettled == 1 else "need"
        return error("queue-unserved", f"{sentence} {counted(unsettled, 'unsettled step')} {verb} it.", fix=fix)
    return warning("queue-unserved", f"{sentence} No step needs it now.", fix=fix)


def _ago(visit: Visit, moment: datetime) -> str:
    return duration((visit.now - moment).total_seconds())


def _is_configured(queue: str) -> bool:
    """Where it is not, a system check names the steps that use it."""
    return queue in q2.configured_queues()


def _start(queue: str) -> str:
    is_main = q2.broker_key(queue) == q2.broker_key(q2.DEFAULT_QUEUE)
    return f"{'' if is_main else f'Q_CLUSTER_NAME={queue} '}python manage.py qcluster"
