"""The headline of a run: what runs, what waits for what, what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

from django.db.models import Count, Exists, Min, OuterRef, Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton import q2
from baton.conf import get_settings
from baton.explain.cancels import BY_DEPENDENCY, read_reason
from baton.explain.executions import failed_attempt, last_execution
from baton.explain.facts import (
    UNSERVED_SECONDS,
    Service,
    Sweep,
    Wait,
    heartbeat_at,
    look_for_sweep,
    oldest,
    read_beside,
    who_serves,
)
from baton.explain.holds import what_is_asked, what_is_lacking, what_to_raise
from baton.explain.steps import how_run_cancelled
from baton.explain.words import (
    between,
    clock,
    closed,
    code,
    duration,
    first_line,
    listed,
    number,
    paragraph,
    parts,
    plain,
    strong,
)
from baton.models import Hold, WorkflowNode, WorkflowRun
from baton.models.node import WorkflowNodeQuerySet
from baton.states import FAILED, SETTLED, AttemptOutcome, HoldKind, RunState, StepState

_BUSY_SECONDS = 60.0
_RATE_SECONDS = 60.0
_RATE_FROM = 10
_YOUNGEST_RATE = 5.0
_NAMED = 3
_ASKED_QUEUES = 3


class Headline(NamedTuple):
    """What is going on in a run."""

    marked: str
    """The sentences, with marks around what they are about."""
    tone: StepState
    """The state whose colour it has: that of what must be done, or of how it goes."""

    @property
    def text(self) -> str:
        """The sentences."""
        return plain(self.marked)

    @property
    def parts(self) -> list[tuple[str, str]]:
        """The same in pieces, each with the name of the element it is put into."""
        return parts(self.marked)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """The ready steps of a run in one queue."""

    queue: str
    count: int
    since: datetime | None


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A run, and what was read beside it."""

    run: WorkflowRun
    using: str
    now: datetime
    states: Counter[str]
    recent: int
    """How many of its steps were settled in the last minute."""
    lease: datetime | None
    """When the first lease of its steps ends, or has ended."""
    due: datetime | None
    """When the first of its steps that wait for a time is due, or was due."""
    late: int
    """How many are overdue."""
    is_accepted: bool
    """Whether no failure can have done harm: nothing was cancelled, and something waits for all that was discarded."""
    is_held: bool
    """Whether a step may wait for a person or for money."""
    waiting: Sequence[_Waiting]
    """Where its ready steps wait, the longest wait first."""

    @property
    def nodes(self) -> WorkflowNodeQuerySet:
        return WorkflowNode.objects.using(self.using).of_workflow(self.run.pk)

    @property
    def total(self) -> int:
        return sum(self.states.values())

    @property
    def unsettled(self) -> int:
        return sum(count for state, count in self.states.items() if state not in SETTLED)

    @cached_property
    def services(self) -> dict[str, Service]:
        return who_serves([each.queue for each in self.waiting], using=self.using, now=self.now)

    @cached_property
    def sweep(self) -> Sweep:
        return look_for_sweep(using=self.using, now=self.now)

    def clock(self, moment: datetime | None) -> str:
        return clock(moment, now=self.now)


def counting(now: datetime) -> dict[str, Any]:
    """What a headline counts of the steps in each state and queue, for who counts other things with it."""
    recent = Q(settled_at__gt=now - timedelta(seconds=_RATE_SECONDS))
    return {
        "n": Count("id"),
        "n_recent": Count("id", filter=recent),
        "since": Min("queued_at"),
        "lease": Min("lease_until"),
        "due": Min("due_at"),
        "n_late": Count("id", filter=Q(due_at__lte=now)),
        "n_ends": Count("id", filter=Q(n_out=0)),
    }


def explain_run(
    run: WorkflowRun,
    *,
    now: datetime | None = None,
    counted: Sequence[tuple[Any, ...]] | None = None,
    is_held: bool = True,
) -> str:
    """Say in a line what is going on in a run, or how it ended.

    Args:
        run: The run, as it was read.
        now: The database's time, where it was read already.
        counted: State, queue, and what :func:`counting` counts then, where that was read already, too.
        is_held: Whether a step of it may wait for a person or for money.

    Returns:
        Some sentences of plain text, in the active language; times are in the current time zone. The number of queries
        does not depend on the size of the run.
    """
    return headline_of(run, now=now, counted=counted, is_held=is_held).text


def headline_of(
    run: WorkflowRun,
    *,
    now: datetime | None = None,
    counted: Sequence[tuple[Any, ...]] | None = None,
    is_held: bool = True,
) -> Headline:
    """The same with how serious it is."""
    look = _look_at(run, now, counted, is_held=is_held)
    if not look.total:
        return Headline(_("This run has no steps."), StepState.PENDING)
    match run.state:
        case RunState.COMPLETED:
            return Headline(_completed(look), StepState.COMPLETED)
        case RunState.CANCELLED:
            return Headline(_cancelled(look), StepState.CANCELLED)
        case RunState.FAILED:
            return Headline(_failed(look) or _failed_somehow(look), StepState.DISCARDED)
    said = (Headline(tell(look), tone) for tell, tone in _FIRST_THAT_FITS)
    return next((each for each in said if each.text), Headline("", StepState.EXECUTING))


def _look_at(
    run: WorkflowRun, now: datetime | None, counted: Sequence[tuple[Any, ...]] | None, *, is_held: bool
) -> _Look:
    using = run._state.db or get_settings().database  # noqa: SLF001 - its own alias
    if now is None:
        now, _found = read_beside(WorkflowRun.objects.using(using).filter(pk=run.pk).order_by())
    if counted is None:
        rows = WorkflowNode.objects.using(using).of_workflow(run.pk).order_by().values_list("state", "queue")
        counted = list(rows.annotate(**counting(now)))
    states: Counter[str] = Counter()
    for state, _queue, count, *_rest in counted:
        states[state] += count
    waiting = [
        _Waiting(queue=queue, count=count, since=since)
        for state, queue, count, _recent, since, *_rest in counted
        if state == StepState.AVAILABLE
    ]
    return _Look(
        run=run,
        using=using,
        now=now,
        states=states,
        recent=sum(row[3] for row in counted),
        lease=oldest(row[5] for row in counted),
        due=oldest(row[6] for row in counted),
        late=sum(row[7] for row in counted),
        is_accepted=not states[StepState.CANCELLED]
        and not any(row[8] for row in counted if row[0] == StepState.DISCARDED),
        is_held=is_held and bool(states[StepState.SNOOZED]),
        waiting=sorted(waiting, key=lambda each: each.since or now),
    )


# What went wrong ------------------------------------------------------------------------------------------------------


def _failed(look: _Look) -> str:
    """Which step failed, what it cost, and what is kept; nothing where no failure did any harm."""
    if look.is_accepted:
        return ""
    fallen = WorkflowNode.objects.using(look.using).filter(
        edges_in__dependency_id=OuterRef("pk"), state=StepState.CANCELLED
    )
    own = look.nodes.filter(state__in=FAILED).exclude(error__startswith=BY_DEPENDENCY)
    harmful = own.filter(Q(n_out=0) | Exists(fallen)).order_by("settled_at", "id")
    cause = harmful.first()
    if cause is None:
        return ""
    count = harmful.count()
    return paragraph(
        _how_it_fell(cause),
        _more_failures(count - 1),
        _what_fell_with_it(look, is_one=count == 1),
        _what_is_left(look),
    )


def _how_it_fell(node: WorkflowNode) -> str:
    outcome, error = last_execution(node).get("outcome"), first_line(node.error)
    if node.state == StepState.CANCELLED:
        if outcome == AttemptOutcome.CANCELLED:
            return _("{step} cancelled itself: “{reason}”.").format(
                step=strong(node.name), reason=error.removesuffix(".")
            )
        return closed(_("{step} was cancelled: {reason}").format(step=strong(node.name), reason=error))
    if outcome == AttemptOutcome.DISCARDED:
        return _("{step} was discarded: “{reason}”.").format(step=strong(node.name), reason=error.removesuffix("."))
    text = ngettext(
        "{step} was discarded after {count} attempt: {error}",
        "{step} was discarded after {count} attempts: {error}",
        node.attempt,
    )
    return closed(
        text.format(
            step=strong(node.name), count=number(node.attempt), error=code(error) if error else _("no error is known")
        )
    )


def _more_failures(count: int) -> str:
    if not count:
        return ""
    return ngettext("{count} more step failed.", "{count} more steps failed.", count).format(count=number(count))


def _what_fell_with_it(look: _Look, *, is_one: bool) -> str:
    fallen = look.nodes.filter(state=StepState.CANCELLED, error__startswith=BY_DEPENDENCY).order_by("id")
    names = list(fallen.values_list("name", flat=True)[: _NAMED + 1])
    if not names:
        return ""
    if is_one and len(names) <= _NAMED:
        text = ngettext("Because of it {steps} was cancelled.", "Because of it {steps} were cancelled.", len(names))
        return text.format(steps=listed(list(map(strong, names))))
    count = fallen.count() if len(names) > _NAMED else len(names)
    if is_one:
        text = ngettext(
            "Because of it {count} step was cancelled.", "Because of it {count} steps were cancelled.", count
        )
    else:
        text = ngettext(
            "Because of that {count} step was cancelled.", "Because of that {count} steps were cancelled.", count
        )
    return text.format(count=number(count))


def _what_is_left(look: _Look) -> str:
    if not look.run.is_settled:
        return ngettext("{count} step goes on.", "{count} steps go on.", look.unsettled).format(
            count=number(look.unsettled)
        )
    kept = look.states[StepState.COMPLETED]
    if not kept:
        return _("No result is kept.")
    text = ngettext("{count} result is kept for a retry.", "{count} results are kept for a retry.", kept)
    return text.format(count=number(kept))


def _failed_somehow(look: _Look) -> str:
    bad = look.states[StepState.DISCARDED] + look.states[StepState.CANCELLED]
    return ngettext(
        "{count} of {total} steps did not complete.", "{count} of {total} steps did not complete.", bad
    ).format(count=number(bad), total=number(look.total))


# What a person is to do -----------------------------------------------------------------------------------------------


def _needs_a_person(look: _Look) -> str:
    """Which steps wait for a person's word, else which for money."""
    if not look.is_held:
        return ""
    # Questions first: they are asked of nobody else, while money may be given back.
    holds = Hold.objects.using(look.using).filter(run=look.run.pk).order_by("-kind", "since", "node_id")
    first = holds.select_related("node").defer("node__result_json", "node__attempt_log").first()
    if first is None:
        return ""
    if first.kind == HoldKind.QUESTION:
        count = holds.filter(kind=first.kind).count()
        text = ngettext(
            "{step} waits for a person since {time}.",
            "{count} steps wait for a person, {step} since {time}.",
            count,
        ).format(step=strong(first.node.name), count=number(count), time=look.clock(first.since))
        return paragraph(text, what_is_asked(first, step=first.node.name, using=look.using))
    count = holds.filter(account=first.account).count()
    text = ngettext("{count} step is held: {why}", "{count} steps are held: {why}", count)
    why = what_is_lacking(first, using=look.using)
    return paragraph(text.format(count=number(count), why=why), what_to_raise(first))


# What holds it up -----------------------------------------------------------------------------------------------------


def _not_noted(look: _Look) -> str:
    if look.unsettled:
        return ""
    return paragraph(_("Every step is settled, but the end of the run is still to be noted."), look.sweep.does_that())


def _unserved(look: _Look) -> str:
    for each in look.waiting[:_ASKED_QUEUES]:
        service = look.services[each.queue]
        if service.why_not_taken(each.since) != Wait.UNSERVED:
            continue
        waits = ngettext(
            "{count} step waits because no worker has served queue {queue} for {time}.",
            "{count} steps wait because no worker has served queue {queue} for {time}.",
            each.count,
        )
        start = _("Start one: {command}")
        return paragraph(
            waits.format(
                count=number(each.count), queue=strong(each.queue), time=duration(service.untouched_seconds(each.since))
            ),
            start.format(command=code(_command_for(each.queue))),
        )
    return ""


def _command_for(queue: str) -> str:
    command = "manage.py qcluster"
    return command if queue == q2.DEFAULT_QUEUE else f"Q_CLUSTER_NAME={queue} {command}"


def _vanished(look: _Look) -> str:
    if look.lease is None or look.lease > look.now:
        return ""
    lost = look.nodes.filter(lease_until__isnull=False, lease_until__lte=look.now).order_by("lease_until")
    node = lost.first()
    if node is None or node.lease_until is None:
        return ""
    text = _("{step} was running on {worker}, which has given no sign of life for {time}.")
    time = between(heartbeat_at(node.lease_until), look.now)
    if node.attempt < node.max_attempts:
        then = _("It is to be tried again.")
    else:
        then = _("It is to be discarded, for it was the last attempt.")
    return paragraph(
        text.format(step=strong(node.name), worker=node.worker or "?", time=time), then, look.sweep.does_that()
    )


def _busy(look: _Look) -> str:
    for each in look.waiting[:_ASKED_QUEUES]:
        waited = 0.0 if each.since is None else (look.now - each.since).total_seconds()
        service = look.services[each.queue]
        if waited < _BUSY_SECONDS or service.why_not_taken(each.since) != Wait.BUSY:
            continue
        return _text_on_busy(service, each.count).format(
            count=number(each.count), busy=number(service.busy), queue=strong(each.queue)
        )
    return ""


def _text_on_busy(service: Service, count: int) -> str:
    if not service.is_full:
        return ngettext(
            "{count} step waits because all workers of queue {queue} are busy.",
            "{count} steps wait because all workers of queue {queue} are busy.",
            count,
        )
    if service.busy == 1:
        return ngettext(
            "{count} step waits because the only worker of queue {queue} is busy.",
            "{count} steps wait because the only worker of queue {queue} is busy.",
            count,
        )
    return ngettext(
        "{count} step waits because all {busy} workers of queue {queue} are busy.",
        "{count} steps wait because all {busy} workers of queue {queue} are busy.",
        count,
    )


def _message_lost(look: _Look) -> str:
    for each in look.waiting[:_ASKED_QUEUES]:
        waited = 0.0 if each.since is None else (look.now - each.since).total_seconds()
        if waited < UNSERVED_SECONDS or look.services[each.queue].why_not_taken(each.since) != Wait.LOST:
            continue
        text = ngettext(
            "{count} step is ready in queue {queue}, but its message is lost and is to be sent again.",
            "{count} steps are ready in queue {queue}, but their messages are lost and are to be sent again.",
            each.count,
        )
        return paragraph(text.format(count=number(each.count), queue=strong(each.queue)), look.sweep.does_that())
    return ""


def _overdue(look: _Look) -> str:
    first, count = look.due, look.late
    if first is None or (look.now - first).total_seconds() < UNSERVED_SECONDS:
        return ""
    node = look.nodes.filter(due_at__lte=look.now).order_by("due_at").first()
    if node is None:
        return ""
    text = ngettext(
        "{step} has been due for {time}, and no worker of queue {queue} has looked.",
        "{step} and others, {count} in all, have been due for {time}, and no worker of queue {queue} has looked.",
        count,
    )
    return paragraph(
        text.format(
            step=strong(node.name), count=number(count), time=between(first, look.now), queue=strong(node.queue)
        ),
        _("What is due is to be made ready."),
        look.sweep.does_that(),
    )


# How it goes on -------------------------------------------------------------------------------------------------------


def _retrying(look: _Look) -> str:
    count = look.states[StepState.RETRYABLE]
    node = look.nodes.filter(state=StepState.RETRYABLE).order_by("due_at", "id").first() if count else None
    if node is None:
        return ""
    text = ngettext(
        "{step} is tried again at {time}, in {wait}.",
        "{count} steps are tried again, first {step} at {time}, in {wait}.",
        count,
    )
    told = text.format(
        step=strong(node.name), count=number(count), time=look.clock(node.due_at), wait=between(look.now, node.due_at)
    )
    return paragraph(told, failed_attempt(node))


def _one_alone(look: _Look) -> str:
    pending = look.states[StepState.PENDING]
    if look.states[StepState.EXECUTING] != 1 or look.unsettled != 1 + pending:
        return ""
    node = look.nodes.filter(state=StepState.EXECUTING).first()
    if node is None:
        return ""
    runs = _("{step} has run for {time}.").format(step=strong(node.name), time=between(node.started_at, look.now))
    if not pending:
        return paragraph(runs, _("It is the last step of the run."))
    return paragraph(runs, _what_waits_for_it(look, node, pending))


def _what_waits_for_it(look: _Look, node: WorkflowNode, pending: int) -> str:
    direct = look.nodes.filter(edges_in__dependency_id=node.pk, state=StepState.PENDING, remaining=1).order_by("id")
    names, count = list(direct.values_list("name", flat=True)[:1]), direct.count()
    if count != 1:
        text = ngettext("{count} step waits for it alone.", "{count} steps wait for it alone.", count or pending)
        return text.format(count=number(count or pending))
    if pending == 1:
        return _("{step} waits for it alone and ends the run.").format(step=strong(names[0]))
    if pending == 2:
        last = look.nodes.filter(state=StepState.PENDING).exclude(name=names[0]).values_list("name", flat=True).first()
        return _("{step} waits for it alone; then {last} ends the run.").format(
            step=strong(names[0]), last=strong(last or "")
        )
    more = pending - 1
    text = ngettext(
        "{step} waits for it alone, and {count} more step behind that.",
        "{step} waits for it alone, and {count} more steps behind that.",
        more,
    )
    return text.format(step=strong(names[0]), count=number(more))


def _waiting_for_a_time(look: _Look) -> str:
    count = look.states[StepState.SNOOZED]
    if not count or look.states[StepState.EXECUTING] or look.waiting:
        return ""
    node = look.nodes.filter(state=StepState.SNOOZED).order_by("due_at", "id").first()
    if node is None:
        return ""
    if node.due_at is not None and node.due_at == node.not_before:
        text = _("{step} waits until {time}, as inserted.")
    else:
        text = _("{step} asked to run again at {time}.")
    told = text.format(step=strong(node.name), time=look.clock(node.due_at))
    if count == 1:
        return told
    more = ngettext("{count} more step waits for a time.", "{count} more steps wait for a time.", count - 1)
    return paragraph(told, more.format(count=number(count - 1)))


def _ready(look: _Look) -> str:
    if look.states[StepState.EXECUTING] or not look.waiting:
        return ""
    first = look.waiting[0]
    text = ngettext(
        "{count} step is ready for the next free worker of queue {queue}.",
        "{count} steps are ready for the next free worker of queue {queue}.",
        first.count,
    )
    return text.format(count=number(first.count), queue=strong(first.queue))


def _going_well(look: _Look) -> str:
    running = look.states[StepState.EXECUTING]
    age = (look.now - look.run.inserted_at).total_seconds()
    if look.recent >= _RATE_FROM and age >= _YOUNGEST_RATE:
        rate = round(look.recent * 60 / min(_RATE_SECONDS, age))
        well = _("Going well: {rate} steps a minute with {count} at once.")
        told = well.format(rate=number(rate), count=number(running))
    else:
        well = ngettext(
            "Going well: {done} of {total} steps completed, {count} executes now.",
            "Going well: {done} of {total} steps completed, {count} execute now.",
            running,
        )
        done = look.states[StepState.COMPLETED]
        told = well.format(done=number(done), total=number(look.total), count=number(running))
    return paragraph(told, _accepted(look))


def _accepted(look: _Look) -> str:
    """Which failures do no harm, and who says so."""
    count = look.states[StepState.DISCARDED]
    if not count:
        return ""
    accepting = (
        look.nodes.filter(edges_in__dependency__state=StepState.DISCARDED, ignore_discarded=True)
        .order_by()
        .values_list("name", flat=True)
        .distinct()
    )
    names = sorted(accepting[:2])
    if len(names) == 1:
        text = ngettext(
            "{count} step was discarded; {step} accepts that.",
            "{count} steps were discarded; {step} accepts that.",
            count,
        )
        return text.format(count=number(count), step=strong(names[0]))
    text = ngettext(
        "{count} step was discarded; what waits for it accepts that.",
        "{count} steps were discarded; what waits for them accepts that.",
        count,
    )
    return text.format(count=number(count))


# How it ended ---------------------------------------------------------------------------------------------------------


def _completed(look: _Look) -> str:
    return paragraph(_how_many_completed(look), _where_the_result_is(look))


def _how_many_completed(look: _Look) -> str:
    run, done = look.run, look.states[StepState.COMPLETED]
    bad = look.total - done
    if bad:
        text = ngettext(
            "{done} of {total} steps completed; the failure of {count} was accepted.",
            "{done} of {total} steps completed; the failures of {count} were accepted.",
            bad,
        )
    elif run.round > 1:
        text = ngettext(
            "The only step completed, in round {round} at {at}.",
            "All {total} steps completed, in round {round} at {at}.",
            look.total,
        )
    else:
        text = ngettext("The only step completed in {time}.", "All {total} steps completed in {time}.", look.total)
    return text.format(
        done=number(done),
        total=number(look.total),
        count=number(bad),
        round=number(run.round),
        at=look.clock(run.finished_at),
        time=between(run.inserted_at, run.finished_at),
    )


def _where_the_result_is(look: _Look) -> str:
    ends = look.nodes.filter(n_out=0, has_result=True).order_by("id").values_list("name", flat=True)
    names = list(ends[: _NAMED + 1])
    if not names:
        return ""
    if len(names) > _NAMED:
        return _("The results are in {count} steps.").format(count=number(ends.count()))
    text = ngettext("The result is in {steps}.", "The results are in {steps}.", len(names))
    return text.format(steps=listed(list(map(strong, names))))


def _cancelled(look: _Look) -> str:
    run = look.run
    reason = read_reason(run.cancel_reason)
    at = look.clock(run.cancelled_at or run.finished_at)
    told = how_run_cancelled(reason.who, first_line(reason.why), at, of_step=False)
    done = look.states[StepState.COMPLETED]
    text = ngettext("{done} of {total} steps had completed.", "{done} of {total} steps had completed.", look.total)
    return paragraph(told, text.format(done=number(done), total=number(look.total)))


_FIRST_THAT_FITS: Sequence[tuple[Callable[[_Look], str], StepState]] = (
    (_not_noted, StepState.EXECUTING),
    (_needs_a_person, StepState.SNOOZED),
    (_failed, StepState.DISCARDED),
    (_unserved, StepState.DISCARDED),
    (_vanished, StepState.RETRYABLE),
    (_busy, StepState.RETRYABLE),
    (_message_lost, StepState.RETRYABLE),
    (_overdue, StepState.RETRYABLE),
    (_retrying, StepState.RETRYABLE),
    (_one_alone, StepState.EXECUTING),
    (_waiting_for_a_time, StepState.EXECUTING),
    (_ready, StepState.EXECUTING),
    (_going_well, StepState.EXECUTING),
)
