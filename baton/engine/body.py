"""Run a body and judge what it came to: nothing that it does gets past here."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import tracing, values
from baton.conf import get_settings
from baton.context import StepContext
from baton.engine import statements as sql
from baton.engine.backoff import backoff_seconds
from baton.engine.errors import error_message, is_ours, storable_text
from baton.engine.event_loop import run_async
from baton.engine.gate import Claim
from baton.engine.holds import Held
from baton.engine.lease import Holding
from baton.engine.ledger import Ledger, open_question
from baton.engine.settle import Verdict
from baton.engine.timer import TimeIsUp, Timer
from baton.engine.transactions import mend_connections, open_transactions
from baton.exceptions import (
    LedgerError,
    NotStorableError,
    ReferencePathError,
    ResultNotStorableError,
    StepTimeoutError,
    UnknownStepError,
)
from baton.references import fill
from baton.registry import RegisteredStep, StepOptions
from baton.results import DependencyResults, Row, get_own_result, load_rows, outside_event_loop
from baton.returns import Cancel, Directive, Discard, Snooze
from baton.states import AttemptOutcome, StepState

logger = logging.getLogger("baton.engine")

PROGRESS_SECONDS = 0.5
"""How often progress is written at most; the last is always written when the step settles."""

BLOCKED_LOOP_SECONDS = 1.0
"""How much later than its time-out an async body is torn by a signal, if it blocks its event loop."""


class Execution:
    """One execution of a claimed step."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        claim: Claim,
        step: RegisteredStep,
        options: StepOptions,
        *,
        holding: Holding,
        rows: dict[str, Row] | None = None,
        span: tracing.Off = tracing.OFF,
    ) -> None:
        self.connection, self.claim, self.step, self.options = connection, claim, step, options
        self.holding, self.span = holding, span
        self.results = DependencyResults(claim.name, claim.run_id, self._load(rows))
        self.progress: str | None = None
        self.raised = False
        """True when the body did not return something that can stand: an atomic one is then rolled back."""
        self.around = open_transactions()
        """Where a transaction was open before the body."""
        self.was_torn = False
        self.ledger = Ledger(
            alias=connection.alias,
            run_id=claim.run_id,
            node_id=claim.node_id,
            workflow_name=claim.workflow_name,
            step_name=claim.name,
            step=claim.step,
            fence=claim.fence,
            attempt=claim.attempt,
            policy=options.on_ambiguous,
            capture=options.capture,
            own=connection,
            depth=len(connection.atomic_blocks),
        )
        self._progress_written_at = 0.0
        self._asked_at = 0.0

    def run(self) -> Verdict:
        """Run the body and say what it came to."""
        started = time.monotonic()
        # In an event loop the body is cancelled by the loop; the signal is for code that blocks the loop.
        limit = self.claim.timeout
        timer = Timer(limit + BLOCKED_LOOP_SECONDS if limit and self.step.is_async else limit)
        try:
            returned = self._returned(timer)
        except KeyboardInterrupt:
            timer.disarm()
            raise
        except BaseException as exc:  # noqa: BLE001 - SystemExit too: a body must not end the worker
            timer.disarm()
            self.raised = True
            returned = exc
        seconds = time.monotonic() - started
        if timer.fired or isinstance(returned, TimeIsUp):
            self.raised = True
            self.was_torn = True
            returned = StepTimeoutError(self.claim.timeout or 0)
        verdict = self._judge(returned, seconds)
        return replace(verdict, besides=tuple(self.ledger.besides)) if self.ledger.besides else verdict

    def mend(self) -> None:
        """Leave the connections as a worker's next step expects them."""
        mend_connections(self.around, was_torn=self.was_torn)

    def failed_to_commit(self, error: BaseException, verdict: Verdict) -> Verdict:
        """What an atomic step came to when the database refused its writes."""
        return replace(self._failed(error, verdict.seconds, verdict.progress), besides=verdict.besides)

    def _returned(self, timer: Timer) -> Any:
        """What the body returned; what it raised passes through, but never outlives its timer."""
        arguments = self._arguments()
        context = self._context(arguments)
        try:
            if self.step.is_async:
                # Read before there is a loop, in which every query would need a thread and a connection of its own.
                self.results.load()
            self.step.prepare(context)
            with timer:
                if self.step.is_async:
                    returned = self._awaited(lambda: self.step.function(context, **arguments))
                else:
                    try:
                        returned = self.step.function(context, **arguments)
                    finally:
                        self.ledger.leave(is_torn=timer.fired)
                    if inspect.isawaitable(returned):
                        returned = self._awaited(lambda: returned)
        finally:
            timer.disarm()
        result, usage = self.step.take_out(returned)
        if usage is not None:
            self.step.record(context, usage)
        return _Encoded(self.claim.name, result)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = values.decode(self.claim.args)
        references = values.decode(self.claim.refs) if self.claim.refs != "[]" else []
        return fill(arguments, references, self.results.whole) if references else arguments

    def _awaited(self, work: Callable[[], Any]) -> Any:
        async def body() -> Any:
            try:
                return await work()
            finally:
                await self.ledger.aleave(is_torn=isinstance(sys.exception(), asyncio.CancelledError))

        return run_async(self.connection, body, seconds=self.claim.timeout)

    def _judge(self, returned: Any, seconds: float) -> Verdict:  # noqa: PLR0911 - one for each way to end
        progress = self.progress
        if isinstance(returned, _Encoded):
            if isinstance(returned.value, Directive):
                returned = returned.value
            else:
                try:
                    text = returned.text()
                except ResultNotStorableError as exc:
                    self.raised = True
                    return self._failed(exc, seconds, progress)
                return Verdict(
                    state=StepState.COMPLETED,
                    outcome=AttemptOutcome.COMPLETED,
                    result=text,
                    seconds=seconds,
                    progress=progress,
                )
        match returned:
            case Held():
                return self._held(returned, seconds, progress)
            case Snooze():
                return Verdict(
                    state=StepState.SNOOZED,
                    outcome=AttemptOutcome.SNOOZED,
                    delay=returned.seconds,
                    seconds=seconds,
                    progress=progress,
                )
            case Discard():
                return _ended(StepState.DISCARDED, AttemptOutcome.DISCARDED, returned.reason, seconds, progress)
            case Cancel():
                return _ended(StepState.CANCELLED, AttemptOutcome.CANCELLED, returned.reason, seconds, progress)
        return self._failed(returned, seconds, progress)

    def _held(self, hold: Held, seconds: float, progress: str | None) -> Verdict:
        return Verdict(
            state=StepState.SNOOZED, outcome=AttemptOutcome.SNOOZED, hold=hold, seconds=seconds, progress=progress
        )

    def _question(self, error: BaseException) -> Held | None:
        """What a person is to be asked before the step is given up after its last attempt."""
        if not self.ledger.has_begun or isinstance(error, LedgerError):
            return None
        return open_question(self.connection, self.claim.node_id, self.claim.fence)

    def _failed(self, error: BaseException, seconds: float, progress: str | None) -> Verdict:
        self.span.failed(error)
        message = error_message(error)
        outcome = (
            AttemptOutcome.TIMED_OUT if isinstance(error, TimeoutError) and is_ours(error) else AttemptOutcome.FAILED
        )
        if not is_retried(error, self.options, self.step) or self.claim.attempt >= self.claim.max_attempts:
            outcome = outcome if outcome == AttemptOutcome.TIMED_OUT else AttemptOutcome.FAILED
            if (hold := self._question(error)) is not None:
                verdict = self._held(hold, seconds, progress)
                return replace(verdict, outcome=outcome, error=message)
            return _ended(StepState.DISCARDED, outcome, message, seconds, progress)
        return Verdict(
            state=StepState.RETRYABLE,
            outcome=outcome,
            error=message,
            delay=backoff_seconds(self.options.backoff, self.claim.attempt, error, about=self.claim.about),
            seconds=seconds,
            progress=progress,
        )

    def _context(self, arguments: dict[str, Any]) -> StepContext:
        claim = self.claim
        return StepContext(
            workflow_id=claim.run_id,
            workflow_name=claim.workflow_name,
            step_name=claim.name,
            attempt=claim.attempt,
            max_attempts=claim.max_attempts,
            args=arguments,
            results=self.results,
            _own_result=self._own_result,
            _report=self._report,
            _ask_cancelled=self._is_cancelled,
            _keep_line=self.holding.lines.add,
            model=self.options.model,
            _node_id=claim.node_id,
            ledger=self.ledger,
        )

    def _own_result(self) -> Any:
        from baton.models import WorkflowNode  # noqa: PLC0415 - read by name, see the rooms

        alias = self.connection.alias
        return outside_event_loop(
            lambda: get_own_result(WorkflowNode.objects.using(alias).only("id").get(pk=self.claim.node_id))
        )

    def _report(self, current: float, total: float | None, message: str) -> None:
        self.progress = values.encode({"current": current, "total": total, "message": message}, what="progress")
        now = time.monotonic()
        if now - self._progress_written_at < PROGRESS_SECONDS or self._touches_no_row():
            return
        self._progress_written_at = now
        claim = self.claim
        if (
            self._with_database(lambda: sql.execute(_db(), sql.PROGRESS, [self.progress, claim.node_id, claim.fence]))
            == 0
        ):
            self.holding.lost = True
        else:
            self.progress = None

    def _is_cancelled(self) -> bool:
        now = time.monotonic()
        if self.holding.lost or now - self._asked_at < PROGRESS_SECONDS / 5:
            return self.holding.lost
        self._asked_at = now
        claim = self.claim
        if self._with_database(lambda: bool(sql.fetch(_db(), sql.HOLDS, [claim.node_id, claim.fence]))) is False:
            self.holding.lost = True
        return self.holding.lost

    def _touches_no_row(self) -> bool:
        """Inside a transaction of the body its row stays untouched: the lock would hold up a heartbeat."""
        return self.connection.in_atomic_block and self.connection.alias not in self.around

    def _with_database(self, work: Callable[[], Any]) -> Any:
        """A courtesy to the body that must not fail it."""
        try:
            return outside_event_loop(work)
        except Exception:
            logger.exception("Step %r could not reach its row.", self.claim.name, extra=self.claim.about)
            return None

    def _load(self, rows: dict[str, Row] | None) -> Callable[[], dict[str, Row]]:
        node_id = self.claim.node_id
        return (lambda: rows) if rows is not None else (lambda: load_rows(node_id))


class _Encoded:
    """What a body returned, kept apart from what it raised."""

    def __init__(self, step: str, value: Any) -> None:
        self.step, self.value = step, value

    def text(self) -> str | None:
        if self.value is None:
            return None
        try:
            return values.encode(self.value, limit=get_settings().max_result_chars, what="result")
        except NotStorableError as exc:
            raise ResultNotStorableError(self.step, str(exc)) from exc


def is_retried(error: BaseException, options: StepOptions, step: RegisteredStep) -> bool:
    """Whether an error is worth another attempt, by the step's ``retry_on`` and ``no_retry_on``, else by its kind."""
    if isinstance(error, (*options.no_retry_on, LedgerError)):
        return False
    if options.retry_on is not None:
        return isinstance(error, options.retry_on)
    # Faults of the code or of the graph: another attempt would find the same.
    if isinstance(error, (ResultNotStorableError, ReferencePathError, UnknownStepError)):
        return False
    return step.is_transient(error) is not False


def _ended(state: StepState, outcome: AttemptOutcome, error: str, seconds: float, progress: str | None) -> Verdict:
    return Verdict(state=state, outcome=outcome, error=storable_text(error), seconds=seconds, progress=progress)


def _db() -> BaseDatabaseWrapper:
    return connections[get_settings().database]
