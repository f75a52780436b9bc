"""The loop of a bell: claim, run, settle and take the next, until nothing is ready or the time is used up."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass, field

from django.db import DatabaseError, InterfaceError, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2, tracing
from baton.conf import get_settings
from baton.engine.body import Execution
from baton.engine.clock import read_clock
from baton.engine.errors import error_message, storable_text
from baton.engine.finish import finish
from baton.engine.gate import Claim, claim_next, is_ready, ready_due, seconds_until_due, worker_name
from baton.engine.holds import write_besides
from baton.engine.hooks import call_hooks
from baton.engine.lease import Holding, heartbeat, renew
from baton.engine.options import module_in, options_of
from baton.engine.settle import Settled, Verdict, settle
from baton.engine.transactions import patiently
from baton.engine.transitions import Transition, announce
from baton.exceptions import UnknownStepError
from baton.models import QueueSighting
from baton.registry import find_step
from baton.results import Row
from baton.states import AttemptOutcome, StepState

logger = logging.getLogger("baton.engine")

_NOT_AT_ONCE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A claim, and the results that are already at hand for it."""

    claim: Claim
    rows: dict[str, Row] | None = None
    claimed_at: float = field(default_factory=time.monotonic)
    """When, by the monotonic clock."""


def answer_bell(queue: str) -> None:
    """Run the steps of a queue that are ready. This is what every bell calls.

    Nothing escapes: django-q2 acknowledges the bell whatever happened, and what was left undone the sweep finds.
    """
    try:
        _answer(queue)
    except Exception:
        logger.exception(
            "A bell of queue %r ended early; the sweep will mend what it left.", queue, extra={"queue": queue}
        )
        connections[get_settings().database].close()


def answer_roll_call(queue: str) -> None:
    """Sign that this host serves the queue."""
    try:
        clock = read_clock(database())
        # By the database's clock: a host whose own is behind would never seem to have answered.
        signature = {"worker": worker_name(), "seen_at": clock.at, "clock_offset": clock.offset}
        QueueSighting.objects.using(get_settings().database).update_or_create(
            queue=queue, host=socket.gethostname(), defaults=signature
        )
    except Exception:
        logger.exception("The roll call of queue %r could not be answered.", queue, extra={"queue": queue})


def execute(connection: BaseDatabaseWrapper, held: Held, *, until: float | None) -> Held | None:
    """Run one claimed step to its settle, and do what follows from it.

    Args:
        connection: To Baton's database.
        held: The claimed step.
        until: By the monotonic clock, when this worker no longer claims another step as it settles; None is never.

    Returns:
        The next step, if one was taken.
    """
    claim = held.claim
    if time.monotonic() - held.claimed_at > get_settings().heartbeat_interval and not renew(connection, claim):
        # Slow receivers of the step before have cost us this one: whoever took it runs it.
        return take(connection, claim.queue) if _is_before(until) else None
    holding = heartbeat.hold(claim, timeout=claim.timeout)
    try:
        with tracing.executing(claim) as span:
            verdict, settled = _run_and_settle(connection, held, holding, until, span)
            span.ended(verdict, is_dropped=settled.is_stale)
    finally:
        heartbeat.release(holding)
    _follow_up(connection, claim, settled)
    if (settled.is_stale or any(fall.hook for fall in settled.falls)) and _is_before(until):
        # Nothing was claimed with that settle, and the ready steps still count on this worker.
        return take(connection, claim.queue)
    return _next(settled, claim, verdict)


def take(connection: BaseDatabaseWrapper, queue: str) -> Held | None:
    """Claim the first ready step of a queue, and announce that."""
    claim = claim_next(connection, queue, worker=worker_name())
    if claim is None:
        return None
    announce([Transition.executing(claim)])
    return Held(claim=claim)


def _follow_up(connection: BaseDatabaseWrapper, claim: Claim, settled: Settled) -> None:
    """What follows a commit. It must not cost this worker the step that it has claimed with that commit."""
    try:
        announce(settled.transitions, may_end=settled.asks_finish)
        call_hooks(connection, settled.falls)
        if settled.asks_finish:
            finish(connection, claim.run_id)
    except (DatabaseError, InterfaceError):
        if connection.in_atomic_block:
            raise
        logger.exception(
            "What follows step %r of run %s is left to the sweep.", claim.name, claim.run_id, extra=claim.about
        )
        connection.close()


def _answer(queue: str) -> None:
    connection = database()
    try:
        ready_due(connection, queue)
    except (OperationalError, InterfaceError):
        # An idle connection that the server has closed meanwhile: nothing is claimed yet, so once more.
        connection.close()
        ready_due(connection, queue)
    ends_at = time.monotonic() + get_settings().bell_seconds
    held = take(connection, queue)
    if held is None:
        _ring_for_due(connection, queue)
        return
    # A bell passes on at most one bell. It is passed on at once, so that a wide burst wakes worker after worker, on
    # any number of hosts; whoever takes it finds nothing, or passes on another.
    passed_on = _pass_on(connection, queue)
    while held is not None:
        held = execute(connection, held, until=ends_at)
    if time.monotonic() < ends_at:
        _ring_for_due(connection, queue)
    elif not passed_on:
        _pass_on(connection, queue)


def _pass_on(connection: BaseDatabaseWrapper, queue: str) -> bool:
    if not is_ready(connection, queue):
        return False
    q2.ring({queue: 1}, using=connection.alias)
    return True


def _ring_for_due(connection: BaseDatabaseWrapper, queue: str) -> None:
    """Ring for the next due time: the bell that was rung for it may have been answered too early."""
    if not q2.can_delay(connection.alias):
        return
    seconds = seconds_until_due(connection, queue)
    if seconds is not None:
        # Never at once: what is due and was not readied is locked by somebody, and this would be a loop.
        q2.ring_at(queue, max(_NOT_AT_ONCE, seconds), using=connection.alias, is_committed=True)


def _run_and_settle(
    connection: BaseDatabaseWrapper, held: Held, holding: Holding, until: float | None, span: tracing.Off
) -> tuple[Verdict, Settled]:
    claim = held.claim
    if not claim.is_whole:
        verdict = _refused(StepState.CANCELLED, "the row of a dependency is gone")
        return verdict, _settle(connection, claim, verdict, until)
    try:
        step = find_step(claim.step, module=module_in(claim.options))
        options = options_of(step, claim.options)
    except UnknownStepError as exc:
        verdict = _refused(StepState.DISCARDED, str(exc))
        return verdict, _settle(connection, claim, verdict, until)
    execution = Execution(connection, claim, step, options, holding=holding, rows=held.rows, span=span)
    if options.atomic:
        verdict, settled = _run_atomic(connection, execution, until)
        holding.lines.write(connection)
        return verdict, settled
    verdict = execution.run()
    execution.mend()
    holding.lines.write(connection)
    return verdict, _settle(connection, claim, verdict, until)


def _run_atomic(connection: BaseDatabaseWrapper, execution: Execution, until: float | None) -> tuple[Verdict, Settled]:
    """Run a body inside the transaction that settles it: what it wrote is kept with its result, or not at all."""
    claim = execution.claim
    verdict: Verdict | None = None
    settled: Settled | None = None
    committed: list[bool] = []
    try:
        with transaction.atomic(using=connection.alias):
            transaction.on_commit(lambda: committed.append(True), using=connection.alias)
            verdict = execution.run()
            if execution.raised:
                raise _Undo  # noqa: TRY301 - leaves the atomic block
            settled = settle(connection, claim, verdict, take_next=_is_before(until))
            if settled.is_stale:
                raise _Undo  # noqa: TRY301 - leaves the atomic block
        return verdict, settled  # noqa: TRY300 - only once it is committed
    except _Undo:
        if settled is not None and verdict is not None:
            # Taken from this worker. Where its own transaction did that, it is undone with what the body wrote.
            refused = RuntimeError("the step was settled inside its own transaction, which was rolled back")
            verdict = execution.failed_to_commit(refused, verdict)
    except Exception as exc:
        if committed and verdict is not None and settled is not None:
            logger.exception("What step %r left for after its commit raised.", claim.name, extra=claim.about)
            return verdict, settled
        if not isinstance(exc, (DatabaseError, InterfaceError)):
            raise
        if verdict is None:
            verdict = _refused(StepState.DISCARDED, error_message(exc))
        verdict = execution.failed_to_commit(exc, verdict)
    assert verdict is not None  # noqa: S101 - raised only after it was set
    execution.mend()
    execution.holding.lines.write(connection)
    return verdict, _settle(connection, claim, verdict, until)


class _Undo(Exception):  # noqa: N818 - control flow
    """Rolls a body back."""


def _settle(connection: BaseDatabaseWrapper, claim: Claim, verdict: Verdict, until: float | None) -> Settled:
    """Settle, and try again while the database is away: the work is done and must not be done twice."""
    tries = 0

    def work() -> Settled:
        nonlocal tries
        tries += 1
        return settle(connection, claim, verdict, take_next=_is_before(until))

    settled = patiently(work, using=connection.alias, what=f"The settle of step {claim.name!r}", extra=claim.about)
    # An earlier try may have been committed and its answer lost: then nobody has asked for the end of the run.
    settled.asks_finish |= tries > 1
    if settled.is_stale:
        # What was paid for is recorded whatever became of the step.
        write_besides(connection, verdict.besides, about=claim.about)
    return settled


def _is_before(until: float | None) -> bool:
    return until is not None and time.monotonic() < until


def _next(settled: Settled, claim: Claim, verdict: Verdict) -> Held | None:
    if settled.next is None:
        return None
    # The result of an only dependency that was settled here is at hand; any other is read after the claim, since an
    # older snapshot would miss what a sibling stored.
    follows = (
        settled.next.n_deps == 1 and settled.next.run_id == claim.run_id and settled.next.node_id in settled.readied
    )
    rows: dict[str, Row] | None = None
    if follows:
        rows = {claim.name: (verdict.state.value, verdict.result is not None, verdict.result)}
    return Held(claim=settled.next, rows=rows)


def _refused(state: StepState, reason: str) -> Verdict:
    outcome = AttemptOutcome.CANCELLED if state == StepState.CANCELLED else AttemptOutcome.DISCARDED
    return Verdict(state=state, outcome=outcome, error=storable_text(reason))


def database() -> BaseDatabaseWrapper:
    """The connection to Baton's database."""
    return connections[get_settings().database]
