"""Why a step is where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton.conf import get_settings
from baton.explain.cancels import BY_RUN, read_dependency, read_reason
from baton.explain.executions import failed_alike, failed_attempt, history, last_execution
from baton.explain.facts import UNSERVED_SECONDS, Service, Wait, heartbeat_at, look_for_sweep, read_beside, who_serves
from baton.explain.holds import why_held
from baton.explain.words import between, clock, closed, duration, first_line, listed, number, paragraph, plain, strong
from baton.models import Hold, WorkflowEdge, WorkflowNode, WorkflowRun
from baton.states import FAILED, SETTLED, AttemptOutcome, StepState

_NAMED_DEPENDENCIES = 5
_COUNTED_AHEAD = 10_000
_OVERDUE_SECONDS = UNSERVED_SECONDS
_WORDS_OF_STATES = (
    StepState.EXECUTING,
    StepState.AVAILABLE,
    StepState.RETRYABLE,
    StepState.SNOOZED,
    StepState.PENDING,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """A step, and what was read beside it."""

    node: WorkflowNode
    using: str
    now: datetime
    cancelled_at: datetime | None
    cancel_reason: str

    def clock(self, moment: datetime | None) -> str:
        return clock(moment, now=self.now)

    def since(self, moment: datetime | None) -> str:
        return between(moment, self.now)

    def seconds_since(self, moment: datetime | None) -> float:
        return 0.0 if moment is None else (self.now - moment).total_seconds()

    def sweep_does_that(self) -> str:
        return look_for_sweep(using=self.using, now=self.now).does_that()


def explain_step(node: WorkflowNode, *, now: datetime | None = None, run: WorkflowRun | None = None) -> str:
    """Say why a step waits, runs, or ended as it did.

    Args:
        node: The step, as it was read.
        now: The database's time, where it was read already.
        run: The step's run, where it was read then, too.

    Returns:
        Some sentences of plain text, in the active language; times are in the current time zone. The number of queries
        does not depend on the size of the run.
    """
    return plain(explain_marked(node, now=now, run=run))


def explain_marked(node: WorkflowNode, *, now: datetime | None = None, run: WorkflowRun | None = None) -> str:
    """The same with marks around what the sentences are about, as ``baton.explain.words.parts`` reads them."""
    tell = _TELLS.get(node.state)
    return "" if tell is None else tell(_look_at(node, now, run))


def _look_at(node: WorkflowNode, now: datetime | None, run: WorkflowRun | None) -> _Look:
    using = node._state.db or get_settings().database  # noqa: SLF001 - its own alias
    if now is None or run is None:
        rows = WorkflowNode.objects.using(using).filter(pk=node.pk)
        now, found = read_beside(rows, "run__cancelled_at", "run__cancel_reason")
        cancelled_at, reason = found or (None, "")
    else:
        cancelled_at, reason = run.cancelled_at, run.cancel_reason
    return _Look(node=node, using=using, now=now, cancelled_at=cancelled_at, cancel_reason=reason or "")


# Waiting for dependencies ---------------------------------------------------------------------------------------------


def _pending(look: _Look) -> str:
    node = look.node
    rows = WorkflowEdge.objects.using(look.using).filter(node_id=node.pk).order_by().values_list("dependency__state")
    states = dict(rows.annotate(Count("id")))
    unsettled = sum(count for state, count in states.items() if state not in SETTLED)
    stuck = _stuck(node, states, unsettled)
    if stuck:
        return paragraph(stuck, look.sweep_does_that())
    waits = _waits_for_few(look) if unsettled <= _NAMED_DEPENDENCIES else _waits_for_many(node, states, unsettled)
    return paragraph(waits, *_accepted(node, states), _not_before_then(look))


def _stuck(node: WorkflowNode, states: Mapping[str, int], unsettled: int) -> str:
    """What a settle or a cascade should have done, and did not, for its worker died or its dependencies are gone."""
    gone = node.n_deps - sum(states.values())
    if gone > 0:
        return ngettext(
            "The row of {count} dependency is gone, so it is to be cancelled.",
            "The rows of {count} dependencies are gone, so it is to be cancelled.",
            gone,
        ).format(count=number(gone))
    for state, is_accepted in _flags(node):
        count = states.get(state, 0)
        if count and not is_accepted:
            return ngettext(
                "{count} dependency was {state}, which it does not accept, so it is to be cancelled.",
                "{count} dependencies were {state}, which it does not accept, so it is to be cancelled.",
                count,
            ).format(count=number(count), state=StepState(state).label)
    if not unsettled:
        return _("Everything it waited for is settled, so it is to be made ready.")
    return ""


def _waits_for_few(look: _Look) -> str:
    unsettled = WorkflowNode.objects.using(look.using).filter(edges_out__node_id=look.node.pk, settled_at__isnull=True)
    columns = ("id", "name", "state", "queue", "due_at", "queued_at", "started_at")
    named = [_named(look, each) for each in unsettled.order_by("id").only(*columns)[:_NAMED_DEPENDENCIES]]
    return _("Waits for {steps}.").format(steps=listed(named))


def _named(look: _Look, dependency: WorkflowNode) -> str:
    """A dependency with its state in a few words."""
    match dependency.state:
        case StepState.EXECUTING:
            text = _("{step} (executing for {time})")
            return text.format(step=strong(dependency.name), time=look.since(dependency.started_at))
        case StepState.AVAILABLE:
            text = _("{step} (available since {time} in queue {queue})")
            return text.format(
                step=strong(dependency.name), time=look.clock(dependency.queued_at), queue=strong(dependency.queue)
            )
        case StepState.SNOOZED if dependency.due_at is None:
            return _("{step} (held)").format(step=strong(dependency.name))
        case StepState.SNOOZED | StepState.RETRYABLE:
            text = _("{step} ({state}, again at {time})")
            state = StepState(dependency.state).label
            return text.format(step=strong(dependency.name), state=state, time=look.clock(dependency.due_at))
    return _("{step} ({state})").format(step=strong(dependency.name), state=dependency.get_state_display())


def _waits_for_many(node: WorkflowNode, states: Mapping[str, int], unsettled: int) -> str:
    parts = [_count_of(state, states[state]) for state in _WORDS_OF_STATES if states.get(state)]
    return _("Waits for {unsettled} of {total} steps: {states}.").format(
        unsettled=number(unsettled), total=number(node.n_deps), states=listed(parts)
    )


def _count_of(state: StepState, count: int) -> str:
    match state:
        case StepState.EXECUTING:
            text = ngettext("{count} executes", "{count} execute", count)
        case StepState.AVAILABLE:
            text = ngettext("{count} waits for a worker", "{count} wait for a worker", count)
        case StepState.RETRYABLE:
            text = ngettext("{count} is tried again", "{count} are tried again", count)
        case StepState.SNOOZED:
            text = ngettext("{count} waits for a time", "{count} wait for a time", count)
        case _:
            text = ngettext("{count} waits for other steps", "{count} wait for other steps", count)
    return text.format(count=number(count))


def _accepted(node: WorkflowNode, states: Mapping[str, int]) -> list[str]:
    return [
        ngettext(
            "It accepts {state} steps, so the {count} that was {state} does not stop it.",
            "It accepts {state} steps, so the {count} that were {state} do not stop it.",
            states[state],
        ).format(count=number(states[state]), state=StepState(state).label)
        for state, is_accepted in _flags(node)
        if is_accepted and states.get(state)
    ]


def _flags(node: WorkflowNode) -> list[tuple[str, bool]]:
    return [
        (StepState.DISCARDED.value, node.ignore_discarded),
        (StepState.CANCELLED.value, node.ignore_cancelled),
    ]


def _not_before_then(look: _Look) -> str:
    not_before = look.node.not_before
    if not_before is None or not_before <= look.now:
        return ""
    return _("Then it runs not before {time}, as inserted.").format(time=look.clock(not_before))


# Waiting for a worker -------------------------------------------------------------------------------------------------


def _available(look: _Look) -> str:
    return paragraph(_why_not_taken(look), history(look.node, but_last=False))


def _why_not_taken(look: _Look) -> str:
    node = look.node
    service = who_serves([node.queue], using=look.using, now=look.now)[node.queue]
    since = look.clock(node.queued_at)
    match service.why_not_taken(node.queued_at):
        case Wait.BUSY:
            ahead = _ahead(_count_ahead(look)) or _("It is the next.")
            return paragraph(_("Ready since {time}.").format(time=since), _busy(service), ahead)
        case Wait.UNSERVED:
            served = _("No worker has served {queue} for {time}.").format(
                queue=strong(node.queue), time=duration(service.untouched_seconds(node.queued_at))
            )
            return paragraph(_("Ready since {time}.").format(time=since), served)
        case Wait.LOST:
            return _message_lost(look, since)
        case Wait.UNKNOWN:
            text = _("Ready since {time}, but the broker does not answer, which would bring it to a worker of {queue}.")
            return text.format(time=since, queue=strong(node.queue))
    text = _("Ready since {time}, for the next free worker of {queue}.")
    return paragraph(text.format(time=since, queue=strong(node.queue)), _ahead(_count_ahead(look)))


def _busy(service: Service) -> str:
    if not service.is_full:
        return _("All workers of {queue} are busy.").format(queue=strong(service.queue))
    text = ngettext("The only worker of {queue} is busy.", "All {count} workers of {queue} are busy.", service.busy)
    return text.format(queue=strong(service.queue), count=number(service.busy))


def _count_ahead(look: _Look) -> int:
    """How many ready steps of the queue are taken before this one; counted up to a limit."""
    node = look.node
    ready = WorkflowNode.objects.using(look.using).filter(queue=node.queue, state=StepState.AVAILABLE).order_by()
    before = ready.filter(priority__lt=node.priority) | ready.filter(priority=node.priority, id__lt=node.pk)
    return before.values("id")[:_COUNTED_AHEAD].count()


def _ahead(count: int) -> str:
    if not count:
        return ""
    if count >= _COUNTED_AHEAD:
        return _("More than {count} steps are before it.").format(count=number(_COUNTED_AHEAD - 1))
    return ngettext("{count} step is before it.", "{count} steps are before it.", count).format(count=number(count))


def _message_lost(look: _Look, since: str) -> str:
    sweep = look_for_sweep(using=look.using, now=look.now)
    if sweep.age is None:
        text = _("Ready since {time}, but its message is lost, and no sweep that sends it again has ever been seen.")
    elif sweep.is_overdue:
        text = _("Ready since {time}, but its message is lost, and no sweep that sends it again was seen for {age}.")
    elif sweep.within:
        text = _("Ready since {time}, but its message is lost: the sweep sends it again within {within}.")
    else:
        text = _("Ready since {time}, but its message is lost: the next sweep sends it again.")
    return text.format(time=since, age=duration(sweep.age or 0.0), within=sweep.within)


# Running --------------------------------------------------------------------------------------------------------------


def _executing(look: _Look) -> str:
    node = look.node
    running = _("Running for {time} on {worker}, attempt {attempt} of {most}.").format(
        time=look.since(node.started_at),
        worker=node.worker or "?",
        attempt=number(node.attempt),
        most=number(node.max_attempts),
    )
    return paragraph(running, _heartbeat(look), history(node, but_last=False))


def _heartbeat(look: _Look) -> str:
    node, until = look.node, look.node.lease_until
    if until is None:
        return ""
    age = look.seconds_since(heartbeat_at(until))
    if until <= look.now:
        if node.attempt < node.max_attempts:
            text = _("No heartbeat for {age}: its lease ran out at {time}, so it is to be tried again.")
        else:
            text = _("No heartbeat for {age}: its lease ran out at {time}, so it is to be discarded.")
        return paragraph(text.format(age=duration(age), time=look.clock(until)), look.sweep_does_that())
    if age <= 2 * get_settings().heartbeat_interval:
        return _("Its heartbeat was {age} ago.").format(age=duration(age))
    if node.attempt < node.max_attempts:
        text = _("No heartbeat for {age}: it is taken for dead at {time} and tried again.")
    else:
        text = _("No heartbeat for {age}: it is taken for dead at {time} and discarded.")
    return text.format(age=duration(age), time=look.clock(until))


# Waiting for a time ---------------------------------------------------------------------------------------------------


def _snoozed(look: _Look) -> str:
    node, last = look.node, last_execution(look.node)
    hold = Hold.objects.using(look.using).filter(pk=node.pk).first() if node.due_at is None else None
    if hold is not None:
        return why_held(hold, step=node.name, using=look.using, now=look.now)
    if node.due_at is not None and node.due_at == node.not_before:
        text = _("Not before {time}, as inserted.").format(time=look.clock(node.due_at))
    elif (last.get("count") or 1) > 1:
        text = _("The step asked {count} times to run again, now at {time}; no attempt was used.").format(
            count=number(last["count"]), time=look.clock(node.due_at)
        )
    else:
        text = _("The step asked to run again at {time}; no attempt was used.").format(time=look.clock(node.due_at))
    return paragraph(text, _overdue(look))


def _retryable(look: _Look) -> str:
    node = look.node
    wait = -look.seconds_since(node.due_at)
    if wait > 0:
        again = _("Again at {time}, in {wait}.").format(time=look.clock(node.due_at), wait=duration(wait))
    else:
        again = _("Again at {time}.").format(time=look.clock(node.due_at))
    return paragraph(failed_attempt(node), again, _overdue(look), history(node, but_last=True))


def _overdue(look: _Look) -> str:
    """What should have been made ready by a message that was lost, or that nobody has taken."""
    age = look.seconds_since(look.node.due_at)
    if age < _OVERDUE_SECONDS:
        return ""
    text = _("That was {age} ago, and no worker of {queue} has looked, so it is to be made ready.")
    return paragraph(text.format(age=duration(age), queue=strong(look.node.queue)), look.sweep_does_that())


# Settled --------------------------------------------------------------------------------------------------------------


def _completed(look: _Look) -> str:
    node = look.node
    text = _("Completed in attempt {attempt} of {most}, {time}.").format(
        attempt=number(node.attempt),
        most=number(node.max_attempts),
        time=between(node.started_at, node.settled_at),
    )
    return paragraph(text, history(node, but_last=True))


def _discarded(look: _Look) -> str:
    node = look.node
    is_alike = failed_alike(node)
    return paragraph(how_discarded(node), history(node, but_last=node.attempt <= 1, only_rounds=is_alike))


def how_discarded(node: WorkflowNode) -> str:
    """A sentence on what a step was discarded for, without its name."""
    error, outcome = first_line(node.error), last_execution(node).get("outcome")
    attempt, most = number(node.attempt), number(node.max_attempts)
    if outcome == AttemptOutcome.DISCARDED:
        if error.startswith(f"No step is registered as {node.step!r}"):
            return closed(_("Discarded: {error}").format(error=error))
        return _("Discarded by the step: “{reason}”.").format(reason=error)
    if node.attempt < node.max_attempts:
        text = _("Discarded after {attempt} of {most} attempts, for this is not tried again: {error}")
    else:
        text = _("Discarded after {attempt} of {most} attempts: {error}")
    return closed(text.format(attempt=attempt, most=most, error=error or _("no error is known")))


def _cancelled(look: _Look) -> str:
    return paragraph(_why_cancelled(look), _hook_due(look), history(look.node, but_last=True))


def _why_cancelled(look: _Look) -> str:
    node, error = look.node, first_line(look.node.error)
    dependency = read_dependency(node.error or "")
    if dependency is not None:
        name, state = dependency
        return _("Cancelled because {step} was {state}.").format(step=strong(name), state=StepState(state).label)
    if look.cancelled_at is not None and node.error == (look.cancel_reason or BY_RUN):
        reason = read_reason(look.cancel_reason)
        return how_run_cancelled(reason.who, first_line(reason.why), look.clock(look.cancelled_at), of_step=True)
    if last_execution(node).get("outcome") == AttemptOutcome.CANCELLED and node.attempt:
        return _("Cancelled by the step: “{reason}”.").format(reason=error)
    return closed(_("Cancelled: {reason}").format(reason=error)) if error else _("Cancelled.")


def how_run_cancelled(who: str, why: str, at: str, *, of_step: bool) -> str:
    """A sentence on who cancelled a run when and why, for the run or for one of its steps."""
    match bool(who), bool(why):
        case True, True:
            text = _("Cancelled by {who} at {time}: {reason}")
        case True, False:
            text = _("Cancelled by {who} at {time}.")
        case False, True:
            text = _("Cancelled with its run at {time}: {reason}") if of_step else _("Cancelled at {time}: {reason}")
        case _:
            text = _("Cancelled with its run at {time}.") if of_step else _("Cancelled at {time}.")
    return closed(text.format(who=who, time=at, reason=why))


def _hook_due(look: _Look) -> str:
    hook = look.node.hook_due
    if not hook:
        return ""
    text = _("Its hook for a {state} dependency is still to be called.")
    label = StepState(hook).label if hook in FAILED else hook
    return paragraph(text.format(state=label), look.sweep_does_that())


_TELLS: dict[str, Callable[[_Look], str]] = {
    StepState.PENDING: _pending,
    StepState.AVAILABLE: _available,
    StepState.EXECUTING: _executing,
    StepState.SNOOZED: _snoozed,
    StepState.RETRYABLE: _retryable,
    StepState.COMPLETED: _completed,
    StepState.DISCARDED: _discarded,
    StepState.CANCELLED: _cancelled,
}
