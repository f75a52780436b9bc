"""The only module that knows django-q2: ring bells, count those that wait, find who serves a queue."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from multiprocessing import cpu_count, current_process
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

from django.conf import settings as django_settings
from django.db import connections, router, transaction
from django.utils import timezone
from django_q.brokers import Broker, get_broker
from django_q.conf import Conf
from django_q.signing import SignedPackage

from baton.conf import get_settings
from baton.returns import MAX_DELAY_SECONDS

logger = logging.getLogger("baton.q2")

DEFAULT_QUEUE = "default"
BELL = "baton.engine.runner.answer_bell"
ROLL_CALL = "baton.engine.runner.answer_roll_call"
OURS = "baton."
"""How the functions of Baton's own tasks begin."""

_COALESCE_SECONDS = 0.5
_LOOK_AT_MOST = 200
_LOOK_AT_TASKS = 2000
_INSERT_BELL = "INSERT INTO django_q_ormq (key, payload, lock) VALUES "
_INSERT_MISSING_BELLS = """
    INSERT INTO django_q_ormq (key, payload, lock)
    SELECT %s, %s, %s FROM ({numbers}) wanted, (
        SELECT count(*) AS n FROM (
            SELECT 1 FROM django_q_ormq WHERE key = %s AND lock <= %s AND substr(payload, 1, %s) = %s
            LIMIT %s {skip}) found) waiting
    WHERE wanted.n + waiting.n <= %s
"""
# Only bells wait for exactly a half second: django-q2 itself locks a row until some microsecond.
_INSERT_BELL_ONCE = (
    "INSERT INTO django_q_ormq (key, payload, lock) SELECT %s, %s, %s "
    "WHERE NOT EXISTS (SELECT 1 FROM django_q_ormq WHERE key = %s AND lock = %s)"
)


def ring(bells: Mapping[str, int], *, using: str) -> None:
    """Ring bells for queues: now where they join the transaction, else when it commits.

    Args:
        bells: How many steps became ready in each queue; never more bells than the queue has workers are rung.
        using: The database alias of the transaction that made the steps ready.
    """
    wanted = {queue: min(count, max_bells(queue)) for queue, count in bells.items() if count > 0}
    if not wanted:
        return
    if _is_outbox(using):
        for queue, count in wanted.items():
            _insert_missing_bells(queue, count, using)
    else:
        transaction.on_commit(lambda: _push(BELL, wanted), using=using, robust=True)


def ring_at(queue: str, seconds: float, *, using: str, is_committed: bool = False) -> None:
    """Ring one bell later, where the broker can; elsewhere the resident sweep rings for what is due.

    Bells of one queue for the same half second are one bell.

    Args:
        queue: The queue in which a step is due.
        seconds: From now until then.
        using: The database alias of the transaction that gave the step its due time.
        is_committed: That transaction is over, so that any bell for that time will see the step.
    """
    seconds = min(seconds, MAX_DELAY_SECONDS)
    if seconds <= 0.01:
        ring({queue: 1}, using=using)
    elif _is_outbox(using):
        now = timezone.now()
        ceiling = -(-(now.timestamp() + seconds) // _COALESCE_SECONDS) * _COALESCE_SECONDS
        lock = datetime.fromtimestamp(ceiling, tz=UTC)
        row = (broker_key(queue), _payload(BELL, queue), lock)
        # A bell that may be answered before our transaction commits must not stand for ours.
        if is_committed or (ceiling - now.timestamp() > 1.0 and _is_outermost(using)):
            adapted = _adapted(using, row)
            _execute(using, _INSERT_BELL_ONCE, [*adapted, adapted[0], adapted[2]])
        else:
            _insert_bells(using, [row])


def can_delay(using: str) -> bool:
    """True when this broker delivers a bell at a given time."""
    return _is_outbox(using)


def top_up(queue: str, *, using: str) -> int:
    """Ring until as many bells wait for a queue as it has workers: a queue that nobody serves gets no more than that.

    Returns:
        How many were missing.
    """
    missing = missing_bells(queue)
    if missing:
        # An outbox looks itself at what waits.
        ring({queue: max_bells(queue) if _is_outbox(using) else missing}, using=using)
    return missing


def missing_bells(queue: str) -> int:
    """How many bells fewer wait for a queue than it has workers."""
    return max(0, max_bells(queue) - waiting_bells(queue))


def call_the_roll(queue: str, *, using: str) -> None:
    """Ask whoever serves the queue to sign; skipped while something waits there, for then nobody is idle."""
    try:
        if _is_outbox(using):
            if not _is_anything_waiting(queue, using):
                _insert_bells(using, [(broker_key(queue), _payload(ROLL_CALL, queue), timezone.now())])
        elif not _broker(queue).queue_size():
            _push(ROLL_CALL, {queue: 1})
    except Exception:
        logger.exception("The roll of queue %r could not be called.", queue, extra={"queue": queue})


def ask_who_serves(queue: str, *, using: str) -> None:
    """Ask whoever serves the queue to sign, behind what waits there; a call that still waits is not repeated.

    Raises:
        Exception: Whatever the broker raises.
    """
    if _waiting(ROLL_CALL, queue):
        return
    payload = _payload(ROLL_CALL, queue)
    if _is_outbox(using):
        _insert_bells(using, [(broker_key(queue), payload, timezone.now())])
    else:
        _broker(queue).enqueue(payload)


def ping() -> None:
    """Ask the broker whether it is there.

    Raises:
        Exception: Whatever it raises, or a ConnectionError where it only says no.
    """
    if uses_orm_broker():
        from django_q.models import OrmQ  # noqa: PLC0415 - models load after apps

        OrmQ.objects.using(Conf.ORM).exists()
    elif _broker(DEFAULT_QUEUE).ping() is False:
        raise ConnectionError("the broker does not answer a ping")


def uses_orm_broker() -> bool:
    """True when a database is the broker."""
    return bool(Conf.ORM) and not Conf.BROKER_CLASS


def databases() -> set[str]:
    """The aliases of the databases in which django-q2 keeps tables."""
    from django_q.models import Schedule, Task  # noqa: PLC0415 - models load after apps

    aliases = [router.db_for_write(Schedule), router.db_for_write(Task), Conf.ORM if uses_orm_broker() else None]
    return {alias for alias in aliases if alias}


def has_schedule(function: str) -> bool:
    """True when django-q2 has a schedule for a function."""
    from django_q.models import Schedule  # noqa: PLC0415 - models load after apps

    return bool(Schedule.objects.filter(func=function).exclude(repeats=0).exists())


def waiting_bells(queue: str) -> int:
    """How many bells an idle worker of the queue could take now (counted up to 200; on Redis among the newest 200)."""
    waiting = _waiting(BELL, queue)
    return int(_broker(queue).queue_size() or 0) if waiting is None else waiting


def _waiting(function: str, queue: str) -> int | None:
    """How many messages for a function wait in a queue; None where the broker cannot be looked into."""
    message = _constant_part(_payload(function, queue))
    if uses_orm_broker():
        from django_q.models import OrmQ  # noqa: PLC0415 - models load after apps

        rows = OrmQ.objects.using(Conf.ORM).filter(key=broker_key(queue), lock__lt=timezone.now())
        return int(rows.filter(payload__startswith=message)[:_LOOK_AT_MOST].count())
    broker = _broker(queue)
    lrange = getattr(getattr(broker, "connection", None), "lrange", None)
    if lrange is None:
        return None
    newest: list[bytes] = lrange(broker.list_key, -_LOOK_AT_MOST, -1)
    return sum(each.startswith(message.encode()) for each in newest)


def max_bells(queue: str) -> int:
    """How many bells wake every worker of the queue on a host."""
    configured = get_settings().max_bells
    return workers_on_a_host(queue) if configured is None else configured


def workers_on_a_host(queue: str) -> int:
    """How many workers a cluster of the queue has, by the settings."""
    return int(cluster_settings(queue).get("workers") or cpu_count())


def cluster_settings(queue: str) -> dict[str, Any]:
    """``Q_CLUSTER`` as the cluster that serves the queue reads it."""
    base = dict(getattr(django_settings, "Q_CLUSTER", {}))
    alternatives = base.pop("ALT_CLUSTERS", None) or {}
    own = alternatives.get(queue) if queue != DEFAULT_QUEUE and isinstance(alternatives, dict) else None
    return base | (own if isinstance(own, dict) else {})


def configured_queues() -> set[str]:
    """Every queue for which a cluster is configured, under each of its names."""
    alternatives = getattr(django_settings, "Q_CLUSTER", {}).get("ALT_CLUSTERS") or {}
    return {DEFAULT_QUEUE, broker_key(DEFAULT_QUEUE), *alternatives}


def broker_key(queue: str) -> str:
    """The broker's name for a queue.

    ``Conf.CLUSTER_NAME`` is the name of this process's own cluster, so ``default`` is looked up in the settings.
    """
    if queue != DEFAULT_QUEUE:
        return queue
    configured = getattr(django_settings, "Q_CLUSTER", {})
    return str(configured.get("cluster_name") or configured.get("name") or "default")


def keep_schedule(*, function: str, seconds: float, queue: str, wanted: bool, using: str) -> None:
    """Keep exactly one django-q2 schedule for a function, or none.

    Args:
        function: Dotted path of what it calls.
        seconds: Its interval; django-q2 counts minutes, so it is rounded up to whole ones.
        queue: Where it runs.
        wanted: False removes it.
        using: The database being migrated; nothing is done unless the schedules live there.
    """
    from django_q.models import Schedule  # noqa: PLC0415 - models load after apps

    if router.db_for_write(Schedule) != using or not _has_table(Schedule, using):
        return
    rows = Schedule.objects.using(using).filter(func=function).order_by("pk")
    if not wanted:
        rows.delete()
        return
    minutes = max(1, -(-int(seconds) // 60))
    values = {
        "name": "baton: sweep",
        "schedule_type": Schedule.MINUTES,
        "minutes": minutes,
        "repeats": -1,
        "cluster": broker_key(queue),
    }
    kept = rows.first()
    if kept is None:
        Schedule.objects.using(using).create(func=function, next_run=timezone.now(), **values)
        return
    rows.exclude(pk=kept.pk).delete()
    changed = [name for name, value in values.items() if getattr(kept, name) != value]
    if changed:
        for name in changed:
            setattr(kept, name, values[name])
        kept.save(update_fields=changed)


def delete_old_tasks(*, days: float, limit: int, whole: bool, is_dry: bool = False) -> Iterator[int]:
    """Delete what django-q2 has kept of Baton's own tasks: failed bells, and the sweeps of the schedule.

    No index of that table serves for this, and it may be large. So one call looks at some two thousand rows from a
    random place on, in the order of the primary key, and over the passes at all.

    Args:
        days: How old they may get.
        limit: How many go at most.
        whole: Look at the whole table, page by page.
        is_dry: Only count them.

    Yields:
        How many were deleted, page by page.
    """
    from django_q.models import Task  # noqa: PLC0415 - models load after apps

    using = router.db_for_write(Task)
    if using not in connections or not router.allow_migrate_model(using, Task):
        return
    tasks = Task.objects.using(using).order_by("pk").values_list("pk", "func", "stopped")
    before = timezone.now() - timedelta(days=days)
    start = "" if whole else uuid4().hex
    after, looked_at = start, 0
    while limit > 0:
        page = list(tasks.filter(pk__gt=after)[:_LOOK_AT_TASKS])
        looked_at += len(page)
        if not whole and looked_at < _LOOK_AT_TASKS:
            # The end of the table: on with its beginning.
            page += tasks.filter(pk__lte=start)[: _LOOK_AT_TASKS - looked_at]
        old = [pk for pk, func, stopped in page if func.startswith(OURS) and stopped < before][:limit]
        if old and not is_dry:
            rows = Task.objects.using(using).filter(pk__in=old)
            rows._raw_delete(using)  # noqa: SLF001 - nothing hangs on them, and pickles need not be loaded
        yield len(old)
        limit -= len(old)
        if not whole or len(page) < _LOOK_AT_TASKS:
            return
        after = page[-1][0]


def guard(seconds: float | None) -> None:
    """Tell the cluster when to kill this worker as hung; None is never.

    The guard lowers the number twice a second and strikes at exactly zero, hence whole seconds.
    """
    timer = getattr(current_process(), "timer", None)
    if timer is not None:
        timer.get_obj().value = -1.0 if seconds is None else float(-(-seconds // 1))


def _insert_missing_bells(queue: str, count: int, using: str) -> None:
    """Insert so many bells, less those that wait already and will still wait when our transaction commits.

    They are locked until then, so that nobody answers them before the steps are seen to be ready. Inside somebody's
    longer transaction that would stop the cluster, so there all are inserted.
    """
    key, payload, now = _adapted(using, (broker_key(queue), _payload(BELL, queue), timezone.now()))
    if not _is_outermost(using):
        _insert_bells(using, [(key, payload, timezone.now())] * count)
        return
    prefix = _constant_part(payload)
    skips = connections[using].features.has_select_for_update_skip_locked
    numbers = " UNION ALL ".join(f"SELECT {number} AS n" for number in range(1, count + 1))
    statement = _INSERT_MISSING_BELLS.format(numbers=numbers, skip="FOR UPDATE SKIP LOCKED" if skips else "")
    _execute(using, statement, [key, payload, now, key, now, len(prefix), prefix, count, count])


def _is_anything_waiting(queue: str, using: str) -> bool:
    from django_q.models import OrmQ  # noqa: PLC0415 - models load after apps

    return bool(OrmQ.objects.using(using).filter(key=broker_key(queue), lock__lte=timezone.now()).exists())


def _is_outermost(using: str) -> bool:
    connection = connections[using]
    # The transaction that a TestCase keeps around everything never commits.
    blocks = [block for block in connection.atomic_blocks if not getattr(block, "_from_testcase", False)]
    return len(blocks) <= 1


def _has_table(model: Any, using: str) -> bool:
    return model._meta.db_table in connections[using].introspection.table_names()  # noqa: SLF001 - Django's own name


def _is_outbox(using: str) -> bool:
    return bool(Conf.ORM) and not Conf.BROKER_CLASS and using == Conf.ORM


@lru_cache(maxsize=256)
def _payload(function: str, queue: str) -> str:
    """One signed message for each queue and process: it names no step, so all but its signature is always the same."""
    return SignedPackage.dumps(
        {
            "id": uuid5(NAMESPACE_URL, f"baton:{function}:{queue}").hex,
            "name": f"baton {function.rpartition('.')[2]}: {queue}"[:100],
            "func": function,
            "args": (queue,),
            "kwargs": {},
            "started": datetime(2000, 1, 1, tzinfo=UTC),
            "save": False,
            "cached": False,
            "ack_failure": True,
            "timeout": -1,
        }
    )


def _constant_part(payload: str) -> str:
    """A signed message without its time and signature: the same in every process."""
    return payload.rsplit(":", 2)[0]


def _insert_bells(using: str, rows: list[tuple[str, str, Any]]) -> None:
    values = [value for row in rows for value in _adapted(using, row)]
    _execute(using, _INSERT_BELL + ", ".join(["(%s, %s, %s)"] * len(rows)), values)


def _adapted(using: str, row: tuple[str, str, Any]) -> tuple[str, str, Any]:
    key, payload, lock = row
    return key, payload, connections[using].ops.adapt_datetimefield_value(lock)


def _execute(using: str, sql: str, params: list[Any]) -> None:
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)


def _push(function: str, bells: Mapping[str, int]) -> None:
    """Enqueue outside any transaction; a bell that cannot be rung is left to the sweep."""
    for queue, count in bells.items():
        try:
            broker = _broker(queue)
            for _ in range(count):
                broker.enqueue(_payload(function, queue))
        except Exception:
            logger.exception("No bell could be rung for queue %r; the sweep will.", queue, extra={"queue": queue})


def _broker(queue: str) -> Broker:
    return _brokers(os.getpid(), broker_key(queue))


@lru_cache(maxsize=64)
def _brokers(pid: int, key: str) -> Broker:
    """django-q2 builds a broker, and on Redis a connection, for each call; one for each process is enough."""
    return get_broker(key)
