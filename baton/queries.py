"""What people ask across tables: the steps of a run, and which runs there are."""

from __future__ import annotations

import base64
import binascii
import string
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

from django.db import connections
from django.db.models import CharField, Count, OuterRef, Q, Subquery, Value
from django.utils import timezone

from baton.conf import get_settings
from baton.models import WorkflowNode, WorkflowRun
from baton.states import RunState, StepState
from baton.telemetry import timestamp

MOST_RUNS = 1000
"""The longest page that ``runs`` returns."""

FEWEST_DIGITS = 4
"""How many digits of an id ``runs`` searches for at least."""

_COLUMNS = ("id", "name", "key", "state", "inserted_at", "finished_at")
_COLUMNS_OF_EVENTS = (
    "run_id", "run__name", "run__inserted_at", "name", "step", "state", "attempt", "version", "has_result", "error",
    "changed_at",
)  # fmt: skip
_NEWEST_FIRST = ("-inserted_at", "-id")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS_OF_A_UUID = 32
_BYTES_OF_A_TIME = 8
_SHORTEST_ID = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """A page of runs, newest first."""

    runs: Sequence[dict[str, Any]]
    """A dict for each: ``id`` (text), ``name``, ``key``, ``state``, ``inserted_at``, ``finished_at`` (aware datetimes,
    the latter None while it runs) and ``steps``, a count for each state that occurs among its steps."""
    counts: dict[str, int]
    """How many runs are in each of the four states, under all filters but ``state``; not of this page alone."""
    next: str | None
    """Given as ``after`` it brings the next page; None on the last."""


def steps_of(workflow_id: UUID | str) -> list[dict[str, Any]]:
    """The steps of a run as they stand, in the shape of step events, in one query.

    Args:
        workflow_id: The id of the run.

    Returns:
        In topological order a dict for each step, also for those that never ran: ``workflow_id``, ``workflow_name``,
        ``step_name``, ``step``, ``state``, ``node_id``, ``attempt``, ``version``, ``has_result``, ``error`` and
        ``timestamp``, which is when the step last changed. Empty where there is no such run.

    Raises:
        ValueError: The text is no id.
    """
    run_id = workflow_id if isinstance(workflow_id, UUID) else UUID(workflow_id)
    nodes = WorkflowNode.objects.using(get_settings().database).of_workflow(run_id).order_by("id")
    return [as_event(node) for node in nodes.select_related("run").only(*_COLUMNS_OF_EVENTS)]


def as_event(node: WorkflowNode) -> dict[str, Any]:
    """A step as it stands, in the shape of the event that tells of it."""
    return {
        "workflow_id": str(node.run_id),
        "workflow_name": node.run.name,
        "step_name": node.name,
        "step": node.step,
        "state": str(node.state),
        "node_id": node.pk,
        "attempt": node.attempt,
        "version": node.version,
        "has_result": node.has_result,
        # As in the event: what an earlier attempt failed with is not told of the one that runs.
        "error": None if node.state == StepState.EXECUTING else node.error,
        "timestamp": timestamp(node.changed_at or node.run.inserted_at),
    }


def runs(  # noqa: PLR0917 - fixed in the API's contract
    state: str | Iterable[str] | None = None,
    name: str | None = None,
    search: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
    after: str | None = None,
) -> RunPage:
    """A page of the runs that pass every filter, newest first, in three queries at most.

    Args:
        state: Runs in this state, or in one of these.
        name: Runs of exactly this name.
        search: Runs with this text in their name or key, in upper or lower case, or whose id begins so (with four
            digits or more).
        since: Runs inserted then or later.
        until: Runs inserted before.
        limit: How many runs at most, 1 to 1000.
        after: The ``next`` of the page before. Runs that were inserted meanwhile move nothing.

    Raises:
        ValueError: A state that runs do not have, a limit out of bounds, a time without a time zone, text that no
            database stores, or a cursor that no page gave.
    """
    states = _states(state)
    if not 1 <= limit <= MOST_RUNS:
        raise ValueError(f"limit is {limit!r}; it can be 1 to {MOST_RUNS}.")
    others = _is_named(name) & _is_found(search) & _is_between(since, until)
    place = None if after is None else _read_cursor(after)

    found = _page(states, others if place is None else others & _is_beyond(*place), limit + 1)
    page, rest = found[:limit], found[limit:]
    steps = _step_counts([run["id"] for run in page])
    return RunPage(
        runs=[{**run, "id": str(run["id"]), "steps": steps.get(run["id"], {})} for run in page],
        counts=_run_counts(others),
        next=_cursor(page[-1]["inserted_at"], page[-1]["id"]) if rest else None,
    )


def edges_of(run_id: UUID) -> dict[int, list[int]]:
    """The dependencies of the steps of a run: ids of nodes by the id of the node that waits, in one query."""
    waits_for: dict[int, list[int]] = defaultdict(list)
    nodes = WorkflowNode.objects.using(get_settings().database).of_workflow(run_id)
    for node_id, dependency_id in nodes.filter(n_deps__gt=0).values_list("id", "edges_in__dependency_id"):
        if dependency_id is not None:
            waits_for[node_id].append(dependency_id)
    return {node_id: sorted(ids) for node_id, ids in waits_for.items()}


def short_ids(run_ids: Collection[UUID]) -> dict[UUID, str]:
    """The beginning of each id that no other run's id has, at least eight digits long, in one query.

    An id is told from all others where it is told from its two neighbours in the order of ids.
    """
    all_runs = WorkflowRun.objects.using(get_settings().database)
    before = all_runs.filter(pk__lt=OuterRef("pk")).order_by("-pk").values("pk")[:1]
    behind = all_runs.filter(pk__gt=OuterRef("pk")).order_by("pk").values("pk")[:1]
    rows = all_runs.filter(pk__in=run_ids).values_list("pk", Subquery(before), Subquery(behind))
    return {run_id: _told_apart(str(run_id), [str(each) for each in others if each]) for run_id, *others in rows}


# Filters --------------------------------------------------------------------------------------------------------


def _states(state: str | Iterable[str] | None) -> list[str]:
    """The states asked for, none where all are."""
    if state is None:
        return []
    asked = {str(each) for each in ([state] if isinstance(state, str) else state)}
    if unknown := sorted(asked - set(RunState.values)):
        raise ValueError(f"Runs are never {' or '.join(unknown)}; their states are {', '.join(RunState.values)}.")
    if not asked:
        raise ValueError("state names no state; leave it out for runs in every state.")
    return [] if asked == set(RunState.values) else sorted(asked)


def _is_named(name: str | None) -> Q:
    return Q() if name is None else Q(name=_storable("name", name))


def _is_found(search: str | None) -> Q:
    if not search:
        return Q()
    text = _storable("search", search)
    found = Q(name__icontains=text) | Q(key__icontains=text)
    digits = text.strip().lower().replace("-", "")
    if FEWEST_DIGITS <= len(digits) <= _DIGITS_OF_A_UUID and set(digits) <= set(string.hexdigits):
        first, last = (UUID(digits.ljust(_DIGITS_OF_A_UUID, digit)) for digit in "0f")
        found |= Q(pk__gte=first, pk__lte=last)
    return found


def _is_between(since: datetime | None, until: datetime | None) -> Q:
    for word, moment in (("since", since), ("until", until)):
        if moment is None:
            continue
        if timezone.is_naive(moment):
            raise ValueError(f"{word} has no time zone: {moment!r}.")
        try:
            moment.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{word} is before or after all time that UTC can write: {moment!r}.") from None
    return (Q() if since is None else Q(inserted_at__gte=_as_stored(since)[0])) & (
        Q() if until is None else Q(inserted_at__lt=_as_stored(until)[0])
    )


def _is_beyond(inserted_at: datetime, run_id: UUID) -> Q:
    """What stands behind a run where the newest are first, in the words of the indexes: a bound, and then a filter."""
    forms = _as_stored(inserted_at)
    same_time = reduce(or_, (Q(inserted_at=form) for form in forms))
    return Q(inserted_at__lte=forms[-1]) & ~(same_time & Q(pk__gte=run_id))


def _as_stored(moment: datetime) -> list[Any]:
    """A time in every way in which a row may have it, the smallest first.

    SQLite keeps text and compares it letter by letter; its own clock writes milliseconds, Django microseconds or, where
    there are none, nothing.
    """
    if connections[get_settings().database].vendor != "sqlite":
        return [moment]
    local = moment.astimezone(UTC).replace(tzinfo=None)
    texts = [local.isoformat(sep=" ", timespec=unit) for unit in ("seconds", "milliseconds", "microseconds")]
    return [Value(text, CharField()) for text in texts if datetime.fromisoformat(text) == local]


def _storable(word: str, text: str) -> str:
    """The text, unless PostgreSQL would refuse the question."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"{word} has characters that no database stores: {text!r}.")
    return text


# Rows -----------------------------------------------------------------------------------------------------------


def _page(states: Sequence[str], others: Q, count: int) -> list[dict[str, Any]]:
    """Read runs from an index that has them in their order; of several states from each one's part of it."""
    using = get_settings().database
    found = WorkflowRun.objects.using(using).order_by().filter(others).values(*_COLUMNS)
    parts = [found.filter(state=state) for state in states] or [found]
    if len(parts) > 1 and connections[using].features.supports_slicing_ordering_in_compound:
        parts = [part.order_by(*_NEWEST_FIRST)[:count] for part in parts]
    rows = parts[0].union(*parts[1:], all=True) if len(parts) > 1 else parts[0]
    return [{**run, "state": str(run["state"])} for run in rows.order_by(*_NEWEST_FIRST)[:count]]


def _step_counts(run_ids: Sequence[UUID]) -> dict[UUID, dict[str, int]]:
    nodes = WorkflowNode.objects.using(get_settings().database).filter(run_id__in=run_ids).order_by()
    counts: dict[UUID, dict[str, int]] = defaultdict(dict)
    for run_id, state, count in nodes.values_list("run_id", "state").annotate(Count("id")):
        counts[run_id][str(state)] = count
    return counts


def _run_counts(others: Q) -> dict[str, int]:
    # Each state is named, so that an index by state and time can be asked for the times alone.
    found = WorkflowRun.objects.using(get_settings().database).filter(others, state__in=RunState.values).order_by()
    counts = dict(found.values_list("state").annotate(Count("id")))
    return {state: counts.get(state, 0) for state in RunState.values}


# Cursors and ids ------------------------------------------------------------------------------------------------


def _cursor(inserted_at: datetime, run_id: UUID) -> str:
    microseconds = (inserted_at - _EPOCH) // timedelta(microseconds=1)
    place = microseconds.to_bytes(_BYTES_OF_A_TIME, signed=True) + run_id.bytes
    return base64.urlsafe_b64encode(place).decode()


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        place = base64.b64decode(cursor, altchars=b"-_", validate=True)
        microseconds = int.from_bytes(place[:_BYTES_OF_A_TIME], signed=True)
        return _EPOCH + timedelta(microseconds=microseconds), UUID(bytes=place[_BYTES_OF_A_TIME:])
    except (binascii.Error, ValueError, OverflowError):
        raise ValueError(f"after is {cursor!r}, which no page of runs gave as its next.") from None


def _told_apart(text: str, others: Iterable[str]) -> str:
    shared = (
        next((place for place, pair in enumerate(zip(text, other, strict=True)) if len(set(pair)) > 1), len(text))
        for other in others
    )
    return text[: max(_SHORTEST_ID, 1 + max(shared, default=0))]
