"""The strip above the runs: what executes, what waits, what failed, what it costs, and who serves the queues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from django.core.cache import cache
from django.db import connections
from django.db.models import Count, F, Min, Q, Value, Window
from django.db.models.functions import TruncMinute
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton import money, q2, registry
from baton.conf import get_settings
from baton.dashboard.calls import sums_of_calls
from baton.dashboard.shown import Meter, list_address, step_address
from baton.explain.facts import Service, Sweep, Wait, look_for_sweep, who_serves
from baton.explain.words import between, duration, number
from baton.models import Hold, StepStat, WorkflowNode, WorkflowRun
from baton.states import RunState, StepState

MINUTES = 30
"""How far back the throughput goes."""
_MOST_RUNS = 200
"""The throughput is that of so many runs at most: those that go on or ended last."""
_MOST_QUEUES = 12
_KEPT_SECONDS = 5
_WORKERS_SECONDS = 300
_BAR_HEIGHT = 20
_SEVERITY = ("discarded", "warning", "completed", "pending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A figure, and the way to what it counts."""

    name: str
    label: str
    icon: str
    value: str
    unit: str
    below: str
    address: str
    tone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """A bar of the throughput."""

    x: str
    y: int
    height: int
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A queue, and whether somebody serves it."""

    name: str
    icon: str
    words: str
    waiting: int
    since: datetime | None
    """Since when the first of its ready steps waits."""
    busy: int
    workers: int
    is_unserved: bool
    gone: str
    """How long nobody has served it, in words."""

    @property
    def tone(self) -> str:
        """The state whose colour it has."""
        return "retryable" if self.icon == "warning" else self.icon


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What was spent today."""

    total: str
    of: str
    unpriced: str
    percent: str
    """How much of the daily budget that is; empty where there is none."""
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """What stands above the runs."""

    as_of: datetime
    tiles: list[Tile]
    minutes: list[Minute]
    throughput: str
    spending: Spending
    queues: list[Queue]
    sweep: Sweep
    sweep_icon: str
    sweep_words: str
    now_address: str
    running: int
    failed: int
    held: int
    states: Mapping[str, int]
    """Of steps: how many execute and how many wait for a worker."""

    @property
    def unserved(self) -> list[Queue]:
        """Queues that somebody should start a worker for."""
        return [queue for queue in self.queues if queue.is_unserved]


def strip_of(*, using: str | None = None) -> Strip:
    """Read what stands above the runs, in eight queries; the broker is asked about queues that nobody works at."""
    using = using or get_settings().database
    now = timezone.now()
    executing, ready = _at_work(using)
    runs = _runs(using, now)
    hold = _oldest_hold(using)
    rates = throughput(using, now)
    spending = _spending(using)
    queues = _queues(executing, ready, using=using, now=now)
    sweep = look_for_sweep(using=using, now=now)
    held = hold.in_all if hold is not None else 0  # type: ignore[attr-defined] # annotated
    n_executing, n_ready = sum(executing.values()), sum(count for count, _since in ready.values())
    return Strip(
        as_of=now,
        tiles=[
            Tile(
                name="executing",
                label=_("Executing now"),
                icon="executing" if n_executing else "",
                value=number(n_executing),
                unit=_unit(n_executing),
                below=ngettext("{count} run goes on", "{count} runs go on", runs["running"]).format(
                    count=number(runs["running"])
                ),
                address=list_address("workflownode", state__exact=StepState.EXECUTING.value),
            ),
            Tile(
                name="waiting",
                label=_("Waiting for a worker"),
                icon="",
                value=number(n_ready),
                unit=_unit(n_ready),
                below=_longest_wait(ready, now),
                address=list_address("workflownode", state__exact=StepState.AVAILABLE.value),
            ),
            Tile(
                name="failed",
                label=_("Failed in 24 h"),
                icon="discarded" if runs["failed"] else "",
                value=number(runs["failed"]),
                unit=ngettext("run", "runs", runs["failed"]),
                below=_("{count} since midnight").format(count=number(runs["new"])) if runs["failed"] else "",
                address=list_address(
                    "workflowrun",
                    state__exact=RunState.FAILED.value,
                    finished_at__gte=(now - timedelta(days=1)).isoformat(timespec="minutes"),
                ),
            ),
            Tile(
                name="person",
                label=_("Needs a person"),
                icon="person" if held else "",
                value=number(held),
                unit=_unit(held),
                below="" if hold is None else _("{step}, {time}").format(step=hold.name, time=between(hold.since, now)),  # type: ignore[attr-defined]
                address=_held(hold) if hold else list_address("workflownode", state__exact=StepState.SNOOZED.value),
            ),
        ],
        minutes=_bars(rates),
        # Of the last whole minute, but not less than what this one has seen already.
        throughput=number(max(rates[-2:])),
        spending=spending,
        queues=queues,
        sweep=sweep,
        sweep_icon="discarded" if sweep.is_overdue else "pending" if sweep.is_to_begin else "completed",
        sweep_words=_sweep_words(sweep),
        now_address=reverse("admin:baton_workflowrun_now"),
        running=runs["running"],
        failed=runs["failed"],
        held=held,
        states={"executing": n_executing, "available": n_ready},
    )


def throughput(using: str, now: datetime) -> list[int]:
    """How many steps were settled in each of the last minutes, the last of which has only begun.

    No index of steps tells when they were settled, so the runs are asked that go on or ended in this time; what they
    say is kept for some seconds.
    """
    first = now.replace(second=0, microsecond=0) - timedelta(minutes=MINUTES - 1)
    key = f"baton:strip:{using}:{first:%H%M}"
    kept: list[int] | None = cache.get(key)
    if kept is not None:
        return kept
    found: dict[datetime, int] = defaultdict(int)
    for minute, _queue_name, count in settled_since(first, using=using):
        found[minute.astimezone(UTC)] += count
    rates = [found[first.astimezone(UTC) + timedelta(minutes=turn)] for turn in range(MINUTES)]
    cache.set(key, rates, _KEPT_SECONDS)
    return rates


_SETTLED_SINCE = """
    SELECT lately.minute, lately.queue, lately.count
    FROM (
        SELECT id FROM baton_workflowrun WHERE state = 'running' OR finished_at >= %s ORDER BY inserted_at DESC LIMIT %s
    ) AS run
    CROSS JOIN LATERAL (
        SELECT date_trunc('minute', settled_at) AS minute, queue, count(*) AS count FROM baton_workflownode
        WHERE run_id = run.id AND settled_at >= %s AND started_at IS NOT NULL
        GROUP BY 1, 2
    ) AS lately
"""
"""What was settled lately, run by run: of a join PostgreSQL thinks that reading all steps there ever were is cheaper.

Index: baton_node_name_in_run. Parameters: since when, how many runs, since when.
"""


def settled_since(first: datetime, *, using: str) -> list[tuple[datetime, str, int]]:
    """How many executed steps were settled by minute and queue, in the runs that go on or ended since then."""
    if connections[using].vendor == "postgresql":
        with connections[using].cursor() as cursor:
            cursor.execute(_SETTLED_SINCE, [first, _MOST_RUNS, first])
            return list(cursor.fetchall())
    recent = Q(state=RunState.RUNNING) | Q(finished_at__gte=first)
    runs = WorkflowRun.objects.using(using).filter(recent).order_by("-inserted_at").values("pk")[:_MOST_RUNS]
    nodes = WorkflowNode.objects.using(using).filter(run_id__in=runs, settled_at__gte=first, started_at__isnull=False)
    minutes = nodes.order_by().annotate(minute=TruncMinute("settled_at", tzinfo=UTC)).values_list("minute", "queue")
    return list(minutes.annotate(count=Count("id")))


# Reading --------------------------------------------------------------------------------------------------------------


def _at_work(using: str) -> tuple[dict[str, int], dict[str, tuple[int, datetime | None]]]:
    """How many steps execute and how many wait in each queue, each from its own index, in one query."""
    nodes = WorkflowNode.objects.using(using).order_by()
    # A lease marks what executes; the index over leases is small.
    executing = nodes.filter(lease_until__isnull=False, state=StepState.EXECUTING).values("queue")
    executing = executing.annotate(kind=Value("executing"), count=Count("id"), since=Min("queued_at"))
    ready = nodes.ready().values("queue").annotate(kind=Value("ready"), count=Count("id"), since=Min("queued_at"))
    rows = executing.values_list("queue", "kind", "count", "since").union(
        ready.values_list("queue", "kind", "count", "since"), all=True
    )
    rows = rows.order_by()  # from Django 6.1 a union has the model's order again
    at_work: dict[str, int] = {}
    waiting: dict[str, tuple[int, datetime | None]] = {}
    for queue, kind, count, since in rows:
        if kind == "executing":
            at_work[queue] = count
        else:
            waiting[queue] = (count, since)
    return at_work, waiting


def _runs(using: str, now: datetime) -> dict[str, int]:
    midnight = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    failed = Q(state=RunState.FAILED, finished_at__gte=now - timedelta(days=1))
    rows = WorkflowRun.objects.using(using).filter(Q(state=RunState.RUNNING) | failed).order_by()
    return rows.aggregate(
        running=Count("id", filter=Q(state=RunState.RUNNING)),
        failed=Count("id", filter=failed),
        new=Count("id", filter=failed & Q(finished_at__gte=midnight)),
    )


def _oldest_hold(using: str) -> Hold | None:
    """What has waited for a person or for money longest, with the number of all that do."""
    holds = Hold.objects.using(using).annotate(in_all=Window(Count("*")), name=F("node__name"))
    return holds.order_by("since", "node_id").first()


def _held(hold: Hold) -> str:
    return step_address(hold.run_id, hold.name)  # type: ignore[attr-defined] # annotated


def _spending(using: str) -> Spending:
    """What was spent on this day of UTC, as the daily budget counts it."""
    settings = get_settings()
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    calls = StepStat.objects.using(using).filter(at__gte=start, from_ledger=False).order_by()
    key = f"baton:strip:{using}:paid:{start:%j}"
    found: dict[str, Any] | None = cache.get(key)
    if found is None:
        found = calls.aggregate(**sums_of_calls())
        cache.set(key, found, _KEPT_SECONDS)
    spent, unpriced = found["spent"], found["lacks"] or 0
    most = settings.day_budget
    meter = None if most is None else Meter.within(most, spent=spent or Decimal(0))
    return Spending(
        total=money.amount(spent or Decimal(0), settings.currency) if spent or not unpriced else _("unpriced"),
        of="" if meter is None else meter.of,
        unpriced=_("+ {count} unpriced").format(count=number(unpriced)) if unpriced else "",
        percent="" if meter is None else meter.percent,
        tone="plain" if meter is None else meter.tone,
    )


def _queues(
    executing: Mapping[str, int],
    ready: Mapping[str, tuple[int, datetime | None]],
    *,
    using: str,
    now: datetime,
) -> list[Queue]:
    configured = {step.options.queue for step in registry.all_steps()}
    names = sorted({q2.DEFAULT_QUEUE, *configured, *executing, *ready})
    services = who_serves(names, using=using, now=now)
    found = [_queue(services[name], *ready.get(name, (0, None))) for name in names]
    return sorted(found, key=lambda queue: (_SEVERITY.index(queue.icon), queue.name))[:_MOST_QUEUES]


def _workers_of(service: Service) -> int:
    """How many workers serve a queue: the most that were known of in the last minutes.

    Only one of them answers a roll-call; and that a host runs several clusters for a queue only shows when more of its
    workers are busy than one has.
    """
    known = max(service.busy, len(service.hosts) * q2.workers_on_a_host(service.queue))
    if not known:
        return 0
    part = int(service.now.timestamp()) // _WORKERS_SECONDS
    this, before = (
        f"baton:strip:{service.using}:workers:{quote(service.queue, safe='')}:{each}" for each in (part, part - 1)
    )
    kept = cache.get_many([this, before])
    most: int = max(known, kept.get(this, 0))
    if most != kept.get(this):
        cache.set(this, most, 2 * _WORKERS_SECONDS)
    return max(most, int(kept.get(before, 0)))


def _queue(service: Service, waiting: int, since: datetime | None) -> Queue:
    workers = _workers_of(service)
    wait = service.why_not_taken(since) if waiting else Wait.BRIEF
    gone = duration(service.untouched_seconds(since))
    if wait == Wait.UNSERVED:
        icon, words = "discarded", _("no worker for {time}, {steps}").format(time=gone, steps=_wait(waiting))
    elif service.is_full and service.busy >= workers:
        text = ngettext("its {count} worker is busy", "all {count} workers busy", workers)
        icon, words = "warning", text.format(count=number(workers))
    elif wait == Wait.LOST:
        icon, words = "warning", _("messages lost, {steps}").format(steps=_wait(waiting))
    elif workers:
        text = ngettext("{count} worker, {busy} busy", "{count} workers, {busy} busy", workers)
        icon, words = "completed", text.format(count=number(workers), busy=number(service.busy))
    elif waiting:
        icon, words = "warning", _wait(waiting)
    else:
        icon, words = "pending", _("idle")
    return Queue(
        name=service.queue,
        icon=icon,
        words=words,
        waiting=waiting,
        since=since,
        busy=service.busy,
        workers=workers,
        is_unserved=wait == Wait.UNSERVED,
        gone=gone,
    )


# Words ----------------------------------------------------------------------------------------------------------------


def _wait(count: int) -> str:
    return ngettext("{count} step waits", "{count} steps wait", count).format(count=number(count))


def _unit(count: int) -> str:
    return ngettext("step", "steps", count)


def _longest_wait(ready: Mapping[str, tuple[int, datetime | None]], now: datetime) -> str:
    waits = [(since, queue) for queue, (_count, since) in ready.items() if since is not None]
    if not waits:
        return ""
    since, queue = min(waits)
    return _("oldest {time}, in {queue}").format(time=between(since, now), queue=queue)


def _sweep_words(sweep: Sweep) -> str:
    if sweep.age is None:
        return _("not yet seen") if sweep.is_to_begin else _("never seen")
    if sweep.is_overdue:
        return _("not seen for {time}").format(time=duration(sweep.age))
    return _("{time} ago").format(time=duration(sweep.age))


def _bars(rates: Sequence[int]) -> list[Minute]:
    top = max(rates, default=0) or 1
    width = 100 / len(rates)
    heights = [max(1, round(_BAR_HEIGHT * rate / top)) for rate in rates]
    return [
        Minute(x=f"{turn * width:.2f}%", y=_BAR_HEIGHT - height, height=height, is_last=turn == len(rates) - 1)
        for turn, height in enumerate(heights)
    ]
