"""The backstop: endings nobody noted or announced, and queues with ready steps and no bell."""

from __future__ import annotations

from datetime import timedelta

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from baton import q2
from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.finish import announce_ending, finish
from baton.models import Completion, QueueSighting
from baton.telemetry import is_heard, workflow_failed, workflow_finished

BATCH = 1000
ROLL_CALL_SECONDS = 30.0

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


def finish_settled_runs() -> int:
    """Note and announce the endings of runs whose last worker died before it asked."""
    connection = _database()
    return sum(finish(connection, sql.as_uuid(run_id)) for (run_id,) in sql.fetch(connection, _UNFINISHED, [BATCH]))


def reannounce() -> int:
    """Announce endings that were noted, but whose announcer died; they are a lease old by now."""
    if not is_heard(workflow_finished, workflow_failed):
        return 0
    connection = _database()
    before = timezone.now() - timedelta(seconds=get_settings().lease_seconds)
    unannounced = (
        Completion.objects.using(connection.alias)
        .filter(announced_at__isnull=True, finished_at__lt=before)
        .select_related("run")[:BATCH]
    )
    count = 0
    for each in unannounced:
        announce_ending(
            connection,
            completion_id=each.pk,
            run_id=each.run_id,
            workflow_name=each.run.name,
            outcome=each.outcome,
            failed_steps=each.failed_steps,
            total_count=each.total_count,
        )
        count += 1
    return count


def ring_for_ready() -> int:
    """Ring for every queue whose head has been ready for a while, and ask who serves the queues in use."""
    connection = _database()
    rung = 0
    for queue in _ready_queues(connection):
        (has_waited,) = sql.fetch(connection, _HAS_WAITED, [-get_settings().ready_seconds, queue])[:1] or [(False,)]
        if has_waited[0]:
            rung += q2.top_up(queue, using=connection.alias)
        _call_the_roll(connection, queue)
    return rung


def _ready_queues(connection: BaseDatabaseWrapper) -> list[str]:
    """The queues in which something is ready, one probe of the index each."""
    queues: list[str] = []
    while rows := sql.fetch(connection, _READY_QUEUE, [queues[-1] if queues else ""]):
        queues.append(rows[0][0])
    return queues


def _call_the_roll(connection: BaseDatabaseWrapper, queue: str) -> None:
    since = timezone.now() - timedelta(seconds=ROLL_CALL_SECONDS)
    if not QueueSighting.objects.using(connection.alias).filter(queue=queue, seen_at__gt=since).exists():
        q2.call_the_roll(queue, using=connection.alias)


def _database() -> BaseDatabaseWrapper:
    return connections[get_settings().database]
