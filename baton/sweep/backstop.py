"""The backstop: endings nobody noted or announced, queues with ready steps and no bell, and who serves the queues."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from datetime import datetime, timedelta
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Max, QuerySet
from django.utils import timezone

from baton import q2
from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.finish import announce_noted, finish
from baton.models import Completion, QueueSighting
from baton.sweep.lease import LEASE_SECONDS
from baton.sweep.rescue import probed, queues_that_wait
from baton.sweep.tolerance import Tolerance
from baton.telemetry import is_heard, workflow_failed, workflow_finished

BATCH = 1000
SLOW_SECONDS = LEASE_SECONDS / 20
"""A batch that takes longer is told of in parts."""
ROLL_CALL_SECONDS = 30.0
"""How old the last sighting of a queue may get before somebody is asked for another."""
IN_USE_HOURS = 24
"""For how long a queue in which somebody was seen counts as in use."""

_UNFINISHED = sql.Statement("""
    SELECT r.id FROM baton_workflowrun r
    WHERE r.state = 'running'
        AND (SELECT n.id FROM baton_workflownode n WHERE n.run_id = r.id AND n.settled_at IS NULL LIMIT 1) IS NULL
    LIMIT %s
""")
"""Runs of which nothing is unsettled. Index: baton_node_unsettled."""

_READY_QUEUE = sql.Statement("""
    SELECT queue FROM baton_workflownode WHERE state = 'available' AND queue > %s ORDER BY queue LIMIT 1
""")
_HAS_WAITED = sql.Statement("""
    SELECT COALESCE(queued_at <= <later>, TRUE) FROM baton_workflownode
    WHERE queue = %s AND state = 'available' ORDER BY priority, id LIMIT 1
""")
"""Has the head of a queue been ready for so long? Index: baton_node_ready."""


def finish_settled_runs(connection: BaseDatabaseWrapper) -> Iterator[int]:
    """Note and announce the endings of runs whose last worker died before it asked.

    Yields:
        How many ended, batch by batch.
    """
    tolerance, is_full = Tolerance(), True

    def ended(run_ids: Iterable[UUID]) -> Iterator[bool]:
        for run_id in run_ids:
            with tolerance.over(f"run {run_id}", workflow_id=str(run_id)):
                yield finish(connection, run_id, waits_briefly=True)

    while is_full:
        rows = sql.fetch(connection, _UNFINISHED, [BATCH])
        is_any = yield from _in_time(ended(sql.as_uuid(run_id) for (run_id,) in rows))
        is_full = len(rows) == BATCH and is_any
    tolerance.raise_first()


def count_unfinished(connection: BaseDatabaseWrapper) -> int:
    """How many runs have ended without a note, as far as a batch looks."""
    return len(sql.fetch(connection, _UNFINISHED, [BATCH]))


def reannounce(connection: BaseDatabaseWrapper) -> Iterator[int]:
    """Announce endings that were noted, but whose announcer died; they are a lease old by now.

    Only where somebody listens in this process: a sweep without the receivers of the workers leaves them to one that
    has them.

    Yields:
        How many were announced, batch by batch.
    """
    tolerance, is_full = Tolerance(), True

    def announced(pks: Iterable[int]) -> Iterator[bool]:
        for pk in pks:
            with tolerance.over(f"completion {pk}"):
                yield announce_noted(connection, pk)

    while is_full:
        unannounced = list(_unannounced(connection).values_list("pk", flat=True)[:BATCH])
        is_any = yield from _in_time(announced(unannounced))
        is_full = len(unannounced) == BATCH and is_any
    tolerance.raise_first()


def count_unannounced(connection: BaseDatabaseWrapper) -> int:
    """How many endings would be announced."""
    return _unannounced(connection).count()


def ring_for_ready(connection: BaseDatabaseWrapper) -> Iterator[int]:
    """Ring for every queue whose head has been ready for a while, and ask who serves the queues in use.

    Yields:
        How many bells were rung, queue by queue.
    """
    ready = _ready_queues(connection)
    for queue in ready:
        yield q2.top_up(queue, using=connection.alias) if _has_waited(connection, queue) else 0
    _call_the_roll(connection, {*ready, *queues_that_wait(connection)})


def count_missing_bells(connection: BaseDatabaseWrapper) -> int:
    """How many bells would be rung."""
    return sum(q2.missing_bells(queue) for queue in _ready_queues(connection) if _has_waited(connection, queue))


def _in_time(mended: Iterable[bool]) -> Generator[int, None, bool]:
    """Go through a batch, and let the sweeper's lease be renewed meanwhile, for receivers may be slow.

    Else another sweeper would take over, and announce what this one is announcing.

    Returns:
        Whether any row was mended.
    """
    total = told = 0
    told_at = time.monotonic()
    for is_mended in mended:
        total += is_mended
        if time.monotonic() - told_at > SLOW_SECONDS:
            yield total - told
            told, told_at = total, time.monotonic()
    yield total - told
    return total > 0


def _unannounced(connection: BaseDatabaseWrapper) -> QuerySet[Completion]:
    found = Completion.objects.using(connection.alias)
    if not is_heard(workflow_finished, workflow_failed):
        return found.none()
    before = timezone.now() - timedelta(seconds=get_settings().lease_seconds)
    return found.filter(announced_at__isnull=True, finished_at__lt=before).order_by("finished_at")


def _ready_queues(connection: BaseDatabaseWrapper) -> list[str]:
    """The queues in which something is ready."""
    return probed(connection, _READY_QUEUE)


def _has_waited(connection: BaseDatabaseWrapper, queue: str) -> bool:
    rows = sql.fetch(connection, _HAS_WAITED, [-get_settings().ready_seconds, queue])
    return bool(rows and rows[0][0])


def _call_the_roll(connection: BaseDatabaseWrapper, with_steps: set[str]) -> None:
    """Ask who serves the queues that have something to do, and those in which somebody was seen not long ago."""
    now = timezone.now()
    seen = _last_sightings(connection)
    recently = {queue for queue, at in seen.items() if at > now - timedelta(hours=IN_USE_HOURS)}
    for queue in sorted(with_steps | recently):
        if queue not in seen or seen[queue] <= now - timedelta(seconds=ROLL_CALL_SECONDS):
            q2.call_the_roll(queue, using=connection.alias)


def _last_sightings(connection: BaseDatabaseWrapper) -> dict[str, datetime]:
    sightings = QueueSighting.objects.using(connection.alias).values_list("queue")
    return dict(sightings.annotate(last=Max("seen_at")).order_by())
