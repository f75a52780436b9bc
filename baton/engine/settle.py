"""Settle a step and take the next: one transaction, conditional on the fence that was claimed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2
from baton.engine import statements as sql
from baton.engine.cascade import Fall, cascade
from baton.engine.errors import error_key
from baton.engine.gate import Claim, claim_kept, claim_next
from baton.engine.holds import Beside, Held, write_besides, write_hold
from baton.engine.transitions import Transition
from baton.models.node import KEPT_EXECUTIONS
from baton.states import AttemptOutcome, StepState
from baton.values import decode, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What an execution came to."""

    state: StepState
    """Where the step goes: a settled state, ``snoozed`` or ``retryable``."""
    outcome: AttemptOutcome
    """How this execution ended."""
    error: str | None = None
    """The reason or the message, None for a completed step."""
    result: str | None = None
    """The result as JSON text, None where there is none."""
    delay: float = 0.0
    """Seconds until the step is due again, for ``snoozed`` and ``retryable``."""
    seconds: float = 0.0
    """How long the body ran."""
    progress: str | None = None
    """Progress that was buffered and not yet written, as JSON text."""
    hold: Held | None = None
    """What a snoozed step waits for, where that is no time."""
    besides: Sequence[Beside] = ()
    """What is written with the settle: usages."""

    @property
    def settles(self) -> bool:
        """True when the step ends with this execution."""
        return self.state.is_settled


@dataclass(slots=True, kw_only=True)
class Settled:
    """What one settle did."""

    is_stale: bool = False
    """True when the fence was no longer ours: nothing was written."""
    transitions: list[Transition] = field(default_factory=list)
    """What is to be announced, in order."""
    next: Claim | None = None
    """The step that this worker takes next."""
    asks_finish: bool = False
    """True when nothing behind this step is unsettled, so that the run may be at its end."""
    falls: list[Fall] = field(default_factory=list)
    """The steps that were cancelled with it."""
    readied: frozenset[int] = frozenset()
    """The steps that became ready with it."""


@dataclass(frozen=True, slots=True)
class _Locked:
    """A dependent under our lock."""

    id: int
    remaining: int
    queue: str
    priority: int
    is_early: bool
    not_before: Any


def settle(
    connection: BaseDatabaseWrapper, claim: Claim, verdict: Verdict, *, take_next: bool, expired_only: bool = False
) -> Settled:
    """Write what an execution came to, ready its dependents, ring for them, and claim the worker's next step.

    Args:
        connection: To Baton's database.
        claim: The step, with the fence it was claimed under.
        verdict: What the execution came to.
        take_next: Whether this worker goes on with another step.
        expired_only: Write only if the lease has run out (the sweep).

    Returns:
        What was done; stale when the step had been taken from this worker.
    """
    with transaction.atomic(using=connection.alias):
        if expired_only:
            sql.wait_briefly(connection)
        ready: list[_Locked] = []
        if not verdict.settles:
            settled = _put_off(connection, claim, verdict, expired_only)
        elif verdict.state == StepState.COMPLETED:
            settled, ready = _complete(connection, claim, verdict, expired_only)
        else:
            settled = _fail(connection, claim, verdict, expired_only)
        if settled.is_stale:
            return settled
        write_besides(connection, verdict.besides, about=claim.about)
        if verdict.hold is not None:
            # After what charges accounts, which are locked in the order of their names.
            write_hold(connection, claim, verdict.hold)
        if take_next and not any(fall.hook for fall in settled.falls):
            settled.next = _take_next(connection, claim, ready)
        _ring_for(connection, ready, taken=settled.next)
        settled.readied = frozenset(each.id for each in ready)
    if settled.next is not None:
        settled.transitions.append(Transition.executing(settled.next))
    return settled


def _complete(
    connection: BaseDatabaseWrapper, claim: Claim, verdict: Verdict, expired_only: bool
) -> tuple[Settled, list[_Locked]]:
    if claim.n_out == 1:
        return _complete_before_one(connection, claim, verdict, expired_only)
    dependents: list[tuple[Any, ...]] = []
    if claim.n_out:
        rows = sql.fetch(connection, sql.LOCK_DEPENDENTS, [claim.node_id, claim.node_id])
        if not any(row[0] == claim.node_id and row[1] == "executing" and row[2] == claim.fence for row in rows):
            return Settled(is_stale=True), []
        dependents = [row for row in rows if row[0] != claim.node_id]
    version = _write_settled(connection, claim, verdict, expired_only)
    if version is None:
        return Settled(is_stale=True), []
    pending = [row for row in dependents if row[1] == "pending"]
    if pending:
        sql.execute(connection, sql.LOWER_DEPENDENTS, [claim.node_id])
    settled = Settled(transitions=[_transition(claim, verdict, version)], asks_finish=not pending)
    return settled, _readied(pending)


def _complete_before_one(
    connection: BaseDatabaseWrapper, claim: Claim, verdict: Verdict, expired_only: bool
) -> tuple[Settled, list[_Locked]]:
    """The same for a step with one dependent: two locks need no pass of their own to be taken in ascending order."""
    version = _write_settled(connection, claim, verdict, expired_only)
    if version is None:
        return Settled(is_stale=True), []
    lowered = sql.fetch(connection, sql.LOWER_DEPENDENT, [claim.node_id])
    settled = Settled(transitions=[_transition(claim, verdict, version)], asks_finish=not lowered)
    return settled, _readied(lowered)


def _readied(pending: Sequence[tuple[Any, ...]]) -> list[_Locked]:
    """Those of the locked dependents that waited for this step alone."""
    return [
        _Locked(id_, remaining, queue, priority, bool(early), not_before)
        for id_, _state, _fence, remaining, queue, priority, early, not_before in pending
        if remaining == 1
    ]


def _fail(connection: BaseDatabaseWrapper, claim: Claim, verdict: Verdict, expired_only: bool) -> Settled:
    if not claim.n_out:
        version = _write_settled(connection, claim, verdict, expired_only)
        if version is None:
            return Settled(is_stale=True)
        return Settled(transitions=[_transition(claim, verdict, version)], asks_finish=True)
    fall = cascade(
        connection,
        claim.node_id,
        state=verdict.state,
        is_ours=lambda state, fence: state == "executing" and fence == claim.fence,
        workflow=(claim.run_id, claim.workflow_name),
        write=lambda: _write_settled(connection, claim, verdict, expired_only),
    )
    if fall is None:
        return Settled(is_stale=True)
    return Settled(
        transitions=[_transition(claim, verdict, fall.version), *fall.transitions],
        asks_finish=True,
        falls=fall.falls,
    )


def _put_off(connection: BaseDatabaseWrapper, claim: Claim, verdict: Verdict, expired_only: bool) -> Settled:
    if verdict.hold is not None:
        return _hold(connection, claim, verdict, expired_only)
    gives_back = 1 if verdict.state == StepState.SNOOZED else 0
    rows = sql.fetch(
        connection,
        sql.PUT_OFF,
        [
            verdict.state.value,
            verdict.error if verdict.state == StepState.RETRYABLE else None,
            _attempt_log(claim, verdict),
            round(verdict.delay, 3),
            gives_back,
            verdict.progress,
            claim.node_id,
            claim.fence,
            expired_only,
        ],
    )
    if not rows:
        return Settled(is_stale=True)
    q2.ring_at(claim.queue, verdict.delay, using=connection.alias)
    return Settled(transitions=[_transition(claim, verdict, rows[0][0])])


def _hold(connection: BaseDatabaseWrapper, claim: Claim, verdict: Verdict, expired_only: bool) -> Settled:
    """Put a step off until somebody wakes it."""
    log = _attempt_log(claim, verdict)
    rows = sql.fetch(connection, sql.HOLD, [log, verdict.progress, claim.node_id, claim.fence, expired_only])
    if not rows:
        return Settled(is_stale=True)
    return Settled(transitions=[_transition(claim, verdict, rows[0][0])])


def _write_settled(connection: BaseDatabaseWrapper, claim: Claim, verdict: Verdict, expired_only: bool) -> int | None:
    """Write the step's own row.

    Returns:
        Its new version, or None when the fence is no longer ours.
    """
    rows = sql.fetch(
        connection,
        sql.SETTLE,
        [
            verdict.state.value,
            verdict.result is not None,
            verdict.result,
            verdict.error,
            error_key(verdict.error) if verdict.state == StepState.DISCARDED else "",
            _attempt_log(claim, verdict),
            verdict.progress,
            claim.node_id,
            claim.fence,
            expired_only,
        ],
    )
    return rows[0][0] if rows else None


def _take_next(connection: BaseDatabaseWrapper, claim: Claim, ready: Sequence[_Locked]) -> Claim | None:
    """Keep the first of the steps just made ready in our queue, unless a ready one is more urgent."""
    keepable = [each for each in ready if each.queue == claim.queue and not each.is_early]
    if not keepable:
        return claim_next(connection, claim.queue, worker=claim.worker)
    kept = min(keepable, key=lambda each: (each.priority, each.id))
    return claim_kept(connection, kept.id, claim.queue, kept.priority, worker=claim.worker)


def _ring_for(connection: BaseDatabaseWrapper, ready: Sequence[_Locked], *, taken: Claim | None) -> None:
    """Ring for every step made ready but the one this worker goes on with."""
    bells = Counter(each.queue for each in ready if not each.is_early and (taken is None or each.id != taken.node_id))
    q2.ring(bells, using=connection.alias)
    for each in ready:
        if each.is_early:
            moment = sql.as_datetime(each.not_before) or datetime.now(UTC)
            q2.ring_at(each.queue, (moment - datetime.now(UTC)).total_seconds(), using=connection.alias)


def _transition(claim: Claim, verdict: Verdict, version: int) -> Transition:
    return Transition(
        run_id=claim.run_id,
        workflow_name=claim.workflow_name,
        node_id=claim.node_id,
        step_name=claim.name,
        step=claim.step,
        state=verdict.state,
        attempt=claim.attempt,
        version=version,
        has_result=verdict.result is not None,
        error=verdict.error if verdict.state != StepState.SNOOZED else None,
        duration=verdict.seconds,
        queue_wait=claim.queue_wait,
    )


def _attempt_log(claim: Claim, verdict: Verdict) -> str:
    return extended_log(
        claim.attempt_log,
        number=claim.attempt,
        worker=claim.worker,
        queued_at=claim.queued_at,
        started_at=claim.started_at,
        seconds=verdict.seconds,
        outcome=verdict.outcome,
        error=verdict.error,
    )


def extended_log(
    log: str,
    *,
    number: int,
    worker: str,
    queued_at: datetime | None,
    started_at: datetime | None,
    seconds: float,
    outcome: AttemptOutcome,
    error: str | None,
) -> str:
    """Add an execution to a step's log; snoozes in a row share one entry, and the newest fifty are kept."""
    entries = decode(log)
    started = started_at or datetime.now(UTC)
    entry = {
        "number": number,
        "worker": worker,
        "queued_at": _text(queued_at),
        "started_at": _text(started),
        "ended_at": _text(started + timedelta(seconds=seconds)),
        "outcome": outcome.value,
        "error": error,
        "count": 1,
    }
    last = entries[-1] if entries else None
    if last is not None and outcome == AttemptOutcome.SNOOZED == last["outcome"] and last["number"] == number:
        entry |= {"count": last["count"] + 1, "queued_at": last["queued_at"], "started_at": last["started_at"]}
        entries.pop()
    return encode([*entries, entry][-KEPT_EXECUTIONS:])


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
