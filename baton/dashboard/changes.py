"""What changed in a run since somebody looked: for its page, by socket or as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any
from uuid import UUID

from django.conf import settings as django_settings
from django.db.models import F, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.urls import get_script_prefix
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from baton.conf import get_settings
from baton.dashboard.header import header_of
from baton.dashboard.shown import WORST_FIRST, measured
from baton.dashboard.steps_tab import now_of, times_of, tried_of
from baton.models import WorkflowNode, WorkflowRun
from baton.states import SETTLED, RunState, StepState
from baton.telemetry import timestamp

MARGIN = timedelta(seconds=5)
"""What committed late was changed before it could be seen, so each question reaches so far back."""
LONG_MARGIN = timedelta(seconds=60)
"""The same where little happened, so that what commits very late is told too."""
MOST_REPEATED = 100
"""How many steps make more than little."""
MOST_CHANGES = 1_000
"""Above these a page is to be loaded again."""
MOST_DETAILED = 30
"""Above these a step is told in three words: five messages a second of longer ones would be over 40 kB."""
STATES = WORST_FIRST
"""What the numbers of states in short messages mean."""
_LONGEST_TIME = 40
_HEAD_SECONDS = 15
_COLUMNS = (
    "id", "run_id", "name", "state", "version", "attempt", "max_attempts", "queue", "remaining", "n_deps", "error",
    "progress", "worker", "due_at", "not_before", "queued_at", "started_at", "settled_at", "changed_at", "fan_group",
    "fan_index",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What tells in one query whether anything in a run has changed."""

    state: str
    round: int
    budget: str
    versions: int
    """The number of its steps and the sum of their versions, which rises with every change of any."""
    now: datetime
    """The database's time."""

    @property
    def is_over(self) -> bool:
        """True once the run's ending is noted."""
        return self.state != RunState.RUNNING

    def differs_from(self, other: Pulse) -> bool:
        """True when something changed between the two."""
        return self._beat != other._beat

    @property
    def etag(self) -> str:
        """A validator for HTTP; what a headline says of time is renewed with it every quarter of a minute."""
        moment = 0 if self.is_over else int(self.now.timestamp()) // _HEAD_SECONDS
        text = repr((*self._beat, moment))
        return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'

    @property
    def _beat(self) -> tuple[Any, ...]:
        return (self.state, self.round, self.budget, self.versions)


def pulse_of(run_id: UUID) -> Pulse | None:
    """Feel a run's pulse, in one query; None where there is no such run."""
    nodes = WorkflowNode.objects.filter(run_id=OuterRef("pk")).order_by().values("run_id")
    versions = Subquery(nodes.annotate(sum=Sum(F("version") + 1)).values("sum"))
    rows = _runs().filter(pk=run_id).order_by()
    found = rows.annotate(versions=versions, now=Now()).values("state", "round", "budget", "versions", "now").first()
    if found is None:
        return None
    return Pulse(**found | {"budget": str(found["budget"]), "versions": found["versions"] or 0})


def changes_since(run: WorkflowRun, as_of: datetime, head: dict[str, Any] | None = None) -> dict[str, Any]:
    """What changed in a run since then, in a number of queries that does not depend on its size.

    Args:
        run: The run, as it was just read.
        as_of: The database's time when the reader last looked.
        head: What the head of its page shows, where somebody has read it a moment ago and the run still goes on.

    Returns:
        ``as_of`` (the database's time now, to ask with the next time), ``run`` (what the head of the page shows) and
        ``steps``; or ``reload`` alone, where so much changed that loading the page again is less.
    """
    now = _runs().filter(pk=run.pk).values_list(Now(), flat=True).first()
    found = list(changed_steps(run.pk, as_of, LONG_MARGIN)[: MOST_REPEATED + 1])
    if len(found) > MOST_REPEATED:
        found = list(changed_steps(run.pk, as_of)[: MOST_CHANGES + 1])
    if now is None or len(found) > MOST_CHANGES:
        return {"reload": True}
    return {"as_of": timestamp(now), "run": head or head_of(run), "steps": [told(node) for node in found]}


def changed_steps(run_id: UUID, as_of: datetime, margin: timedelta = MARGIN) -> QuerySet[WorkflowNode]:
    """The steps of a run that changed since then, or a little before."""
    try:
        since = as_of - margin
    except OverflowError:
        since = as_of
    nodes = WorkflowNode.objects.using(get_settings().database).of_workflow(run_id)
    # The index of names has the steps of a run together, and a run is read in milliseconds; an index by time would cost
    # the workers with every change.
    return nodes.filter(changed_at__gte=since).order_by("id").only(*_COLUMNS)


def steps_named(run_id: UUID, ids: Collection[int]) -> QuerySet[WorkflowNode]:
    """These steps of a run."""
    nodes = WorkflowNode.objects.using(get_settings().database).of_workflow(run_id)
    return nodes.filter(pk__in=ids).order_by("id").only(*_COLUMNS)


def told(node: WorkflowNode) -> dict[str, Any]:
    """A step, as messages tell of it."""
    state = StepState(node.state)
    queued, ran = times_of(node)
    part = None if state in SETTLED else measured(node.progress)
    return {
        "id": node.pk,
        "name": node.name,
        "state": state.value,
        "label": str(state.label),
        "version": node.version,
        "attempt": node.attempt,
        "max_attempts": node.max_attempts,
        "tried": tried_of(node),
        "now": now_of(node),
        "queued": queued,
        "ran": ran,
        "started_at": timestamp(node.started_at) if node.started_at and state == StepState.EXECUTING else None,
        "progress": None if part is None else {"current": part[0], "total": part[1]},
        "group": node.fan_group,
        "index": node.fan_index,
    }


def briefly(nodes: Iterable[WorkflowNode]) -> list[list[Any]]:
    """Many steps: id, name, version and the number of the state of each."""
    return [[node.pk, node.name, node.version, STATES.index(node.state)] for node in nodes]


def head_of(run: WorkflowRun) -> dict[str, Any]:
    """What the head of a run's page shows, as messages tell of it."""
    header = header_of(run)
    bar = header.bar
    return {
        "state": header.state,
        "label": header.state_label,
        "headline": header.headline,
        "is_over": header.is_over,
        "took": header.took,
        "bar": {"done": bar.done, "label": bar.label, "rest": bar.rest},
        "cost": header.cost,
        "unpriced": header.unpriced,
        "meter": None if header.meter is None else asdict(header.meter),
        "attempts": header.attempts,
        "attempts_note": header.attempts_note,
        "html": render_to_string("baton/dashboard/told.html", {"header": header}),
    }


def read_as_of(text: Any) -> datetime:
    """A time as pages send it back.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(text, str) or len(text) > _LONGEST_TIME:
        raise ValueError("That is no time.")
    moment = parse_datetime(text)
    if moment is None or timezone.is_naive(moment):
        raise ValueError("That is no time with a time zone.")
    try:
        return moment.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError("That time is before or after all others.") from exc


def answered(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """Answer a page that asks over HTTP; whether its reader may look was seen to.

    Args:
        request: With ``since``, a time that was told as ``as_of``, and perhaps ``If-None-Match``.
        run_id: The run.
    """
    try:
        as_of = read_as_of(request.GET.get("since"))
    except ValueError as exc:
        return JsonResponse({"error": str(exc)}, status=400)
    pulse, run = pulse_of(run_id), None
    if pulse is not None and request.headers.get("If-None-Match") != pulse.etag:
        run = _runs().filter(pk=run_id).first()
    answer: HttpResponse
    if pulse is None:
        answer = JsonResponse({"gone": True}, status=404)
    elif run is None:
        answer = HttpResponse(status=304)
    else:
        answer = JsonResponse(changes_since(run, as_of))
    if pulse is not None:
        answer["ETag"] = pulse.etag
    answer["Cache-Control"] = "no-store"
    return answer


def run_socket(run_id: UUID) -> str:
    """Where the page of a run finds its socket; empty in a project that has none, whose pages ask over HTTP."""
    return f"{get_script_prefix()}baton/runs/{run_id}/live/" if _has_sockets() else ""


def runs_socket() -> str:
    """Where the list of runs finds its socket; empty in a project that has none."""
    return f"{get_script_prefix()}baton/runs/live/" if _has_sockets() else ""


def counts_of_all() -> Mapping[str, Any]:
    """What tells whether a list of runs has changed, in four queries."""
    using = get_settings().database
    nodes = WorkflowNode.objects.using(using).order_by()
    newest = _runs().order_by("-inserted_at").values_list("inserted_at", flat=True).first()
    return {
        "running": _runs().running().order_by().count(),
        "executing": nodes.filter(lease_until__isnull=False, state=StepState.EXECUTING).count(),
        "available": nodes.ready().count(),
        "newest": newest and timestamp(newest),
    }


def new_runs(listed: QuerySet[WorkflowRun], as_of: str) -> int:
    """How many of the runs that a list shows were inserted since a page was read, not counted without end."""
    try:
        since = read_as_of(as_of)
    except ValueError:
        return 0
    return listed.filter(inserted_at__gt=since).order_by()[:MOST_CHANGES].count()


def _has_sockets() -> bool:
    return find_spec("channels") is not None and bool(getattr(django_settings, "ASGI_APPLICATION", None))


def _runs() -> Any:
    return WorkflowRun.objects.using(get_settings().database)
