"""The page Now: what an operator must do this minute, and where time and money go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.core.cache import cache
from django.db.models import Count, Max, Min
from django.db.models.functions import TruncDate, TruncHour
from django.utils.dateparse import parse_datetime
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from baton import money, q2
from baton.conf import get_settings
from baton.dashboard.calls import sums_of_calls
from baton.dashboard.shown import list_address, step_address
from baton.dashboard.strip import Strip, settled_since, strip_of
from baton.dashboard.timeline.axis import percent
from baton.engine.errors import error_key
from baton.explain.words import between, duration, number
from baton.models import QueueSighting, StepStat, WorkflowNode
from baton.states import StepState

DAYS = 7
MOST_ERRORS = 12
MOST_SLOW = 8
NEWEST = 5_000
"""Among how many of the newest steps the slowest are looked for, and those that failed and were tried again."""
MOST_RETRIED = 500
"""The executions of so many of them are read."""
_MOST_CLUSTERS = 24
_HOURS = 24
_SPARK_HEIGHT = 18
_CHART_HEIGHT = 96
_MODELS = 3
_RATE_MINUTES = 5
_CLUSTER_SECONDS = 60.0
_MOST_LEASES = 5_000
_KEPT_SECONDS = 30
_NEWEST = ("id", "step", "state", "attempt", "started_at", "settled_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Todo:
    """Something that somebody has to do."""

    what: str
    since: str
    waits: str
    address: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar of a chart."""

    x: str
    y: int
    width: str
    height: int
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What was spent on a day, by model."""

    label: str
    total: str
    middle: str
    top: int
    bars: list[Bar]


@dataclass(frozen=True, slots=True, kw_only=True)
class NowPage:
    """What the page shows."""

    strip: Strip
    todos: list[Todo]
    queues: list[dict[str, Any]]
    clusters: list[dict[str, Any]]
    sweep: str
    errors: list[dict[str, Any]]
    slowest: list[dict[str, Any]]
    days: list[Day]
    models: list[dict[str, str]]
    unpriced: str


def now_page(*, using: str | None = None) -> NowPage:
    """Read what an operator must know, in the queries of the strip and eight more."""
    using = using or get_settings().database
    strip = strip_of(using=using)
    days, models, unpriced = _spend(using, strip.as_of)
    newest = list(WorkflowNode.objects.using(using).order_by("-id").values_list(*_NEWEST)[:NEWEST])
    return NowPage(
        strip=strip,
        todos=_todos(strip),
        queues=_queues(strip, using),
        clusters=_clusters(using, strip.as_of),
        sweep=_sweep(strip),
        errors=_errors(using, strip.as_of, _retried(using, strip.as_of, newest)),
        slowest=_slowest(newest),
        days=days,
        models=models,
        unpriced=unpriced,
    )


def _todos(strip: Strip) -> list[Todo]:
    todos = [
        Todo(
            what=_("No worker serves queue {queue}").format(queue=queue.name),
            since=_("for {time}.").format(time=queue.gone),
            waits=_("{count} waiting").format(count=number(queue.waiting)),
            address=list_address("workflownode", state__exact=StepState.AVAILABLE.value, queue=queue.name),
            command=start_of(queue.name),
        )
        for queue in strip.unserved
    ]
    if strip.sweep.is_overdue:
        seen = strip.sweep.age
        todos.append(
            Todo(
                what=_("Nobody sweeps"),
                since=_("none was ever seen.") if seen is None else _("for {time}.").format(time=duration(seen)),
                waits="",
                address="",
                command="python manage.py baton_sweep --watch --interval 1",
            )
        )
    return todos


def start_of(queue: str) -> str:
    """The command that starts a worker for a queue."""
    is_main = q2.broker_key(queue) == q2.broker_key(q2.DEFAULT_QUEUE)
    return f"{'' if is_main else f'Q_CLUSTER_NAME={queue} '}python manage.py qcluster"


def _queues(strip: Strip, using: str) -> list[dict[str, Any]]:
    first = strip.as_of - timedelta(minutes=_RATE_MINUTES)
    counts: dict[str, int] = defaultdict(int)
    for _minute, name, count in settled_since(first, using=using):
        counts[name] += count
    rates = {name: count / _RATE_MINUTES for name, count in counts.items()}
    return [
        {
            "queue": queue,
            "address": list_address("workflownode", state__exact=StepState.AVAILABLE.value, queue=queue.name),
            "workers": _busy(queue.busy, queue.workers),
            "waiting": number(queue.waiting),
            "oldest": "—" if queue.since is None else between(queue.since, strip.as_of),
            "rate": number(round(rates.get(queue.name, 0))),
            "clear": _clear_in(queue.waiting, rates.get(queue.name, 0.0), is_unserved=queue.is_unserved),
        }
        for queue in strip.queues
    ]


def _busy(busy: int, workers: int) -> str:
    return _("{busy} of {workers}").format(busy=number(busy), workers=number(workers)) if workers else "—"


def _clear_in(waiting: int, rate: float, *, is_unserved: bool) -> str:
    if not waiting:
        return "—"
    if is_unserved:
        return _("never, as it stands")
    return _("about {time}").format(time=duration(60 * waiting / rate)) if rate else _("unknown")


def _clusters(using: str, now: datetime) -> list[dict[str, Any]]:
    """Where workers hold steps or have answered a roll-call, the busy ones first."""
    lease = timedelta(seconds=get_settings().lease_seconds)
    sightings = QueueSighting.objects.using(using).order_by("-seen_at").values_list("host", "queue", "seen_at")
    seen = {(host, queue): seen_at for host, queue, seen_at in sightings[:_MOST_CLUSTERS]}
    busy: dict[tuple[str, str], int] = defaultdict(int)
    leases = WorkflowNode.objects.using(using).filter(lease_until__isnull=False).order_by()
    for worker, queue, until in leases.values_list("worker", "queue", "lease_until")[:_MOST_LEASES]:
        if until is not None and until > now:
            place = (worker.rpartition(":")[0], queue)
            busy[place] += 1
            seen[place] = max(until - lease, seen.get(place, until - lease))

    def is_near(place: tuple[str, str]) -> bool:
        return (now - seen[place]).total_seconds() < _CLUSTER_SECONDS

    places = sorted(seen, key=lambda place: (place not in busy, now - seen[place]))
    return [
        {
            "host": place[0],
            "queue": place[1],
            "busy": _("{count} busy").format(count=number(busy[place])) if place in busy else "",
            # Who answered long ago may be gone, or was only asked long ago.
            "icon": "executing" if place in busy else "available" if is_near(place) else "pending",
            "seen": _("{time} ago").format(time=between(min(seen[place], now), now)),
        }
        for place in places[:_MOST_CLUSTERS]
    ]


def _sweep(strip: Strip) -> str:
    if strip.sweep.age is None:
        if strip.sweep.is_to_begin:
            return _("Not seen yet. One is made every {time}.").format(time=strip.sweep.within)
        return _("No sweep has ever been seen.")
    told = _("The last whole pass was {time} ago.").format(time=duration(strip.sweep.age))
    if strip.sweep.within:
        return told + " " + _("One is made every {time}.").format(time=strip.sweep.within)
    return told


@dataclass(slots=True)
class _Failures:
    """What failed in the same way."""

    times: int = 0
    retried: int = 0
    runs: set[Any] = field(default_factory=set)
    steps: set[str] = field(default_factory=set)
    hours: dict[datetime, int] = field(default_factory=lambda: defaultdict(int))
    last: datetime | None = None
    address: str = ""

    def add(self, times: int, at: datetime) -> None:
        """Count executions that failed at that time."""
        self.times += times
        self.hours[_hour(at)] += times
        self.last = at if self.last is None else max(self.last, at)


def _retried(using: str, now: datetime, newest: Iterable[tuple[Any, ...]]) -> dict[str, _Failures]:
    """Executions of a day that failed and were not the last of their step, of some of the newest, by their errors."""
    first = now - timedelta(hours=_HOURS)
    again = [pk for pk, _step, state, attempt, *_times in newest if attempt > 1 or state == StepState.RETRYABLE]
    rows = WorkflowNode.objects.using(using).filter(pk__in=again[:MOST_RETRIED]).order_by()
    found: dict[str, _Failures] = defaultdict(_Failures)
    for run, name, step, state, log in rows.values_list("run_id", "name", "step", "state", "attempt_log"):
        entries: Any = log[:-1] if state == StepState.DISCARDED else log
        for entry in entries:
            at = parse_datetime(entry["ended_at"] or "") if entry["error"] else None
            if at is None or at < first:
                continue
            failures = found[error_key(entry["error"])]
            failures.add(1, at)
            failures.retried += 1
            failures.runs.add(run)
            failures.steps.add(step)
            if failures.last == at:
                failures.address = step_address(run, name)
    return found


def _errors(using: str, now: datetime, found: dict[str, _Failures]) -> list[dict[str, Any]]:
    """What failed in a day by its errors: with what was retried, the steps that were discarded.

    Two queries of the index baton_node_error.
    """
    first = now - timedelta(hours=_HOURS)
    failed = WorkflowNode.objects.using(using).filter(error_key__gt="", settled_at__gte=first).order_by()
    groups = failed.values("error_key").annotate(
        count=Count("id"), runs=Count("run_id", distinct=True), function=Min("step"),
        functions=Count("step", distinct=True),
    )  # fmt: skip
    discarded: dict[str, Any] = {
        group["error_key"]: group for group in groups.order_by("-count", "error_key")[:MOST_ERRORS]
    }
    hours = failed.filter(error_key__in=discarded).values_list("error_key", TruncHour("settled_at", tzinfo=UTC))
    for key, _began, count, last in hours.annotate(count=Count("id"), last=Max("settled_at")) if discarded else ():
        found[key].add(count, last)
    this_hour = _hour(now)
    ago = [this_hour - timedelta(hours=back) for back in range(_HOURS - 1, -1, -1)]
    shown = sorted(found.items(), key=lambda each: (-each[1].times, each[0]))[:MOST_ERRORS]
    return [_error(key, each, discarded.get(key), ago, now) for key, each in shown]


def _error(
    key: str, failures: _Failures, discarded: dict[str, Any] | None, ago: list[datetime], now: datetime
) -> dict[str, Any]:
    names = sorted(failures.steps | ({discarded["function"]} if discarded else set()))
    lookups = {"state__exact": StepState.DISCARDED.value, "error_key": key}
    return {
        "key": key,
        "address": list_address("workflownode", **lookups) if discarded else failures.address,
        "step": names[0],
        "more": max(len(names), discarded["functions"] if discarded else 0) - 1,
        "count": number(failures.times),
        "retried": number(failures.retried) if failures.retried else "",
        "runs": max(len(failures.runs), discarded["runs"] if discarded else 0),
        "last": _("{time} ago").format(time=between(failures.last, now)),
        "bars": _spark([failures.hours.get(hour, 0) for hour in ago]),
    }


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _spark(counts: Sequence[int]) -> list[Bar]:
    top, width = max(counts, default=0) or 1, 100 / len(counts)
    heights = [max(1, round(_SPARK_HEIGHT * count / top)) for count in counts]
    return [
        Bar(x=percent(turn * width), y=_SPARK_HEIGHT - height, width=percent(width * 0.8), height=height)
        for turn, height in enumerate(heights)
    ]


def _slowest(newest: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """The slowest functions among the newest steps: those of a bounded part of the table, in the order of its key."""
    took: dict[str, list[float]] = defaultdict(list)
    for _id, step, state, _attempt, started_at, settled_at in newest:
        if state == StepState.COMPLETED and started_at is not None and settled_at is not None:
            took[step].append((settled_at - started_at).total_seconds())
    found = []
    for step, seconds in took.items():
        seconds.sort()
        found.append((_part(seconds, 0.95), _part(seconds, 0.5), step, len(seconds)))
    found.sort(reverse=True)
    top = found[0][0] if found else 0.0
    return [
        {
            "step": step,
            "address": list_address("workflownode", q=step),
            "count": number(count),
            "p50": duration(half),
            "p95": duration(most),
            "width": percent(100 * most / top if top else 0.0),
        }
        for most, half, step, count in found[:MOST_SLOW]
    ]


def _part(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _spend(using: str, now: datetime) -> tuple[list[Day], list[dict[str, str]], str]:
    """What the calls of a week cost by day of UTC and model, in one query, whose answer is kept for half a minute."""
    currency = get_settings().currency
    today = now.astimezone(UTC).date()
    first = datetime(today.year, today.month, today.day, tzinfo=UTC) - timedelta(days=DAYS - 1)
    rows: Any = cache.get_or_set(
        f"baton:now:{using}:{today:%j}:{currency}", lambda: list(_calls(using, first)), _KEPT_SECONDS
    )
    by_day: dict[Any, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    by_model: dict[str, Decimal] = defaultdict(Decimal)
    unpriced = 0
    for day, model, spent, lacks in rows:
        by_day[day][model] += spent or Decimal(0)
        by_model[model] += spent or Decimal(0)
        unpriced += lacks or 0
    dearest = sorted((model for model in by_model if by_model[model]), key=lambda model: (-by_model[model], model))
    kinds = {model: str(place + 1) if place < _MODELS else "other" for place, model in enumerate(dearest)}
    top = max((sum(models.values(), Decimal(0)) for models in by_day.values()), default=Decimal(0))
    dates = [first.date() + timedelta(days=turn) for turn in range(DAYS)]
    days = [_day(turn, date, by_day[date], kinds, top) for turn, date in enumerate(dates)]
    told = [
        {"kind": kinds[model], "name": model or "—", "spent": money.amount(by_model[model], currency)}
        for model in dearest[:_MODELS]
    ]
    if others := sum((by_model[model] for model in dearest[_MODELS:]), Decimal(0)):
        told.append({"kind": "other", "name": _("other models"), "spent": money.amount(others, currency)})
    return days if top else [], told, _("+ {count} unpriced").format(count=number(unpriced)) if unpriced else ""


def _calls(using: str, first: datetime) -> Any:
    return (
        StepStat.objects.using(using)
        .filter(at__gte=first, from_ledger=False)
        .order_by()
        .annotate(day=TruncDate("at", tzinfo=UTC))
        .values_list("day", "model")
        .annotate(**sums_of_calls())
    )


def _day(turn: int, date: Any, models: dict[str, Decimal], kinds: dict[str, str], top: Decimal) -> Day:
    width, floor = 100 / DAYS, _CHART_HEIGHT + 20
    bars: list[Bar] = []
    parts: dict[str, Decimal] = defaultdict(Decimal)
    for model, spent in models.items():
        if spent:
            parts[kinds[model]] += spent
    for kind in sorted(parts):
        height = max(1, round(_CHART_HEIGHT * parts[kind] / top))
        floor -= height
        bars.append(
            Bar(x=percent((turn + 0.12) * width), y=floor, width=percent(width * 0.76), height=height, kind=kind)
        )
    total = sum(parts.values(), Decimal(0))
    return Day(
        label=date_format(date, "j M"),
        total=money.amount(total, get_settings().currency) if total else "",
        middle=percent((turn + 0.5) * width),
        top=floor - 5,
        bars=bars,
    )
