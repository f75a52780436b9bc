"""The ledger: once-only effects of a step, each with its intent written before it and its answer right after.

An answer that is stored is given back on every later attempt. An intent without an answer cannot be told from a call
that was answered and paid: nobody can close that window, so it is marked, and a policy says what follows.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import DatabaseError, InterfaceError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.conf import get_settings
from baton.engine import accounts
from baton.engine import statements as sql
from baton.engine.accounts import Refusal
from baton.engine.answers import Written, is_readable, read_answer, write_answer
from baton.engine.errors import error_message, storable_text
from baton.engine.event_loop import closes_connections
from baton.engine.holds import Beside, Held, wake_nodes
from baton.engine.timer import shielded
from baton.engine.transactions import patiently
from baton.exceptions import (
    AmbiguousCallError,
    AnswerNotStorableError,
    CallInProgressError,
    CallInTransactionError,
    StepTakenError,
)
from baton.models import BudgetAccount, StepStat, WorkflowRun
from baton.models.fields import SMALLEST, as_units
from baton.registry import POLICIES
from baton.results import outside_event_loop
from baton.returns import Directive
from baton.states import EntryState, HoldKind, Resolution, StepState

T = TypeVar("T")

logger = logging.getLogger("baton.engine")

MAX_KEY = 255
_TRIES = 10

_ENTRY = "id, number, state, resolution, fence, answer, answer_type, error"

_OPEN = sql.Statement("""
    INSERT INTO baton_ledgerentry
        (run_id, node_id, key, number, is_call, policy, state, resolution, resolved_by, is_retired, fence, attempt,
        provider, model, answer_type, error, reserved, accounts, is_estimate, started_at)
    SELECT n.run_id, n.id, %s, COALESCE((
            SELECT max(e.number) FROM baton_ledgerentry e WHERE e.node_id = n.id AND e.key = %s), 0) + 1,
        %s, %s, 'calling', '', '', FALSE, n.fence, n.attempt, %s, %s, '', '', %s, %s, %s, <now>
    FROM baton_workflownode n
    WHERE n.id = %s AND n.fence = %s AND n.state = %s AND NOT EXISTS (
        SELECT 1 FROM baton_ledgerentry e
        WHERE e.node_id = n.id AND e.key = %s AND e.is_call = %s AND NOT e.is_retired
            AND (e.id > %s OR e.state = 'answered'))
    ON CONFLICT DO NOTHING
    RETURNING id, number, (
        SELECT count(*) FROM baton_ledgerentry r
        WHERE r.node_id = baton_ledgerentry.node_id AND r.key = baton_ledgerentry.key AND r.is_retired)
""")
"""Write an intent, if the step is still ours, nobody has begun since a given entry, and there is no answer that came
late. Index: baton_entry_once."""

_IS_OURS = sql.Statement("SELECT 1 FROM baton_workflownode WHERE id = %s AND fence = %s AND state = %s")

_FIND = sql.Statement(f"""
    SELECT {_ENTRY} FROM baton_ledgerentry WHERE node_id = %s AND key = %s AND is_call = %s AND NOT is_retired
    ORDER BY number
""")  # noqa: S608 - as above
"""The calls of a key. Index: baton_entry_once."""

_ANSWER = sql.Statement("""
    UPDATE baton_ledgerentry SET state = 'answered', answer = %s, answer_type = %s, ended_at = <now>,
        reserved = CASE WHEN %s THEN NULL ELSE reserved END
    WHERE id = %s AND state NOT IN ('answered', 'failed', 'ambiguous')
""")
"""Store the answer of a call under way; where its cost is known, nothing is reserved for it any more.

``calling`` would be the predicate of a partial index, of which all is read.
"""
_ANSWER_LATE = sql.Statement("""
    UPDATE baton_ledgerentry SET state = 'answered', answer = %s, answer_type = %s, ended_at = <now>
    WHERE id = %s AND state NOT IN ('answered', 'failed', 'calling')
""")
"""Store an answer that comes so late that the call was given up: it is paid for."""
_ASKED = sql.Statement("SELECT node_id FROM baton_hold WHERE node_id = %s AND kind = 'question'")

_END = sql.Statement("""
    UPDATE baton_ledgerentry SET state = %s, error = %s, ended_at = <now>
    WHERE id = %s AND (state = 'calling' OR (state = 'ambiguous' AND %s = 'failed'))
""")
"""Note how a call failed; that nothing was paid is worth knowing also late."""

_GIVE_UP = sql.Statement("""
    UPDATE baton_ledgerentry
    SET state = 'ambiguous', resolution = CASE WHEN resolution = '' THEN %s ELSE resolution END,
        error = CASE WHEN error = '' THEN %s ELSE error END,
        ended_at = COALESCE(ended_at, <now>)
    WHERE id = %s AND state IN ('calling', 'ambiguous')
    RETURNING resolution
""")
_NOTE_RESERVED = sql.Statement("UPDATE baton_ledgerentry SET reserved = %s WHERE id = %s")
_FREE = sql.Statement("UPDATE baton_ledgerentry SET reserved = NULL WHERE id = %s AND reserved IS NOT NULL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What a call may cost at most."""

    amount: Decimal | None
    """None where nobody can tell: it gets all that is left."""
    is_estimate: bool = False


@dataclass(slots=True, kw_only=True)
class Entry:
    """A call of a key: begun by us, or answered before."""

    id: int
    key: str
    number: int
    is_stored: bool = False
    answer: str = ""
    kind: str = ""
    reserved: Decimal | None = None
    accounts: tuple[str, ...] = ()
    retired: int = 0
    """How many calls of the key a re-run has retired."""

    def read(self, step: str) -> Any:
        """The stored answer.

        Raises:
            AnswerNotStorableError: It was stored for people only.
        """
        if not is_readable(self.answer, self.kind):
            raise AnswerNotStorableError(step, self.key, "nothing that could be given back")
        return read_answer(self.answer, self.kind)


class NotBegunError(TypeError):
    """Raised where a function gave what still has to be awaited: nothing was done."""


_NOTHING_DONE = (Directive, NotBegunError)


def plain(found: Any, twin: str) -> Any:
    """What a function returned.

    Args:
        found: What it is.
        twin: Which function takes async ones.

    Raises:
        NotBegunError: It is async.
    """
    if not inspect.isawaitable(found):
        return found
    if inspect.iscoroutine(found):
        found.close()
    raise NotBegunError(f"The function gave a {type(found).__name__}, which nobody awaits: use {twin}().")


def in_event_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def open_question(connection: BaseDatabaseWrapper, node_id: int, fence: int) -> Held | None:
    """What a person is to be asked of an execution that is over, for it left a call of unknown outcome."""
    rows = sql.fetch(connection, _QUESTION, [node_id, fence])
    return held_for_a_person(*rows[0]) if rows else None


def held_for_a_person(entry_id: int, key: str) -> Held:
    """A hold until somebody has said what is to follow a call."""

    def still(connection: BaseDatabaseWrapper) -> bool:
        ((resolution, state),) = sql.fetch(connection, _DECISION, [entry_id])
        return not resolution and state != EntryState.ANSWERED

    reason = f"nobody knows whether the call {key!r} was answered and paid"
    return Held(HoldKind.QUESTION, reason, still=still, account=f"entry:{entry_id}")


class Stream(Protocol):
    """A stream that a body reads, and may leave before its end."""

    def leave(self, *, is_torn: bool) -> None:
        """The body has ended: read to the end, unless it was torn out of its work, and store what there is."""

    async def aleave(self, *, is_torn: bool) -> None:
        """The same in an event loop."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Terms:
    """What holds for the calls of an execution."""

    budget: Decimal | None
    allow_unpriced: bool
    is_debug: bool


@dataclass(kw_only=True, eq=False)
class Ledger:
    """The ledger as one execution of a step sees it."""

    alias: str
    run_id: UUID
    node_id: int
    workflow_name: str
    step_name: str
    step: str
    fence: int
    attempt: int
    state: StepState = StepState.EXECUTING
    """In which the step is ours: a hook is called when its step is cancelled."""
    policy: str = "repay"
    """What follows a call of unknown outcome, where the call itself does not say."""
    capture: bool | None = None
    """Whether the step wants its calls kept; None is what the run and the settings say."""
    own: BaseDatabaseWrapper
    """The connection of the execution itself."""
    depth: int = 0
    """How many transactions were open on it before the body, one in the other, as in a test."""
    has_begun: bool = False
    """Whether this execution has called anything."""
    besides: list[Beside] = field(default_factory=list)
    """What is to be written with the settle: usages whose own transaction could be undone."""
    streams: list[Stream] = field(default_factory=list)
    """Streams that the body has begun to read."""
    flights: set[asyncio.Future[None]] = field(default_factory=set)
    """Calls that tasks of an async body are waiting for."""
    is_left: bool = False
    """Whether an async body has ended; a task of it may still be at work."""

    # Reading -----------------------------------------------------------------------------------------------------

    @cached_property
    def terms(self) -> _Terms:
        """The run's budget and its debug flag, read once for an execution."""
        runs = WorkflowRun.objects.using(self.alias).filter(pk=self.run_id)
        columns = ("budget", "allow_unpriced", "debug")
        budget, allows, debug = self.reach(lambda: runs.values_list(*columns).first()) or (None, False, False)
        return _Terms(budget=budget, allow_unpriced=allows, is_debug=debug)

    @property
    def is_debug(self) -> bool:
        """Whether the run asks for its calls to be kept."""
        return self.terms.is_debug

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """To Baton's database, of this thread."""
        return connections[self.alias]

    @property
    def is_in_transaction(self) -> bool:
        """True inside a transaction of the body, which may yet be undone."""
        connection = self.connection
        return len(connection.atomic_blocks) > (self.depth if connection is self.own else 0)

    def reach(self, work: Callable[[], T]) -> T:
        """Do something with the database from wherever the body is, also in an event loop.

        In a thread of the body's own, where nobody would close a connection behind us, none is left.
        """
        return outside_event_loop(lambda: self._tidily(work))

    async def areach(self, work: Callable[[], T]) -> T:
        """The same from an event loop; what is begun is done to its end, also where the task is cancelled meanwhile."""
        tidy = work if closes_connections.get() else partial(self._tidily, work)
        task = asyncio.ensure_future(sync_to_async(tidy)())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    def _tidily(self, work: Callable[[], T]) -> T:
        connection = self.connection
        is_new = connection is not self.own and connection.connection is None
        try:
            return work()
        finally:
            if is_new:
                connection.close()

    # The moves of a call -----------------------------------------------------------------------------------------

    def begin(
        self,
        key: str,
        *,
        policy: str | None = None,
        is_call: bool = False,
        provider: str = "",
        model: str = "",
        reserve: Callable[[], Reservation] | None = None,
    ) -> Entry:
        """Find the answer of a key, or write the intent to get one.

        Args:
            key: Names the effect within the step.
            policy: What follows a call of unknown outcome.
            is_call: Whether it is a call of a language model.
            provider: For who looks at the entry.
            model: For who looks at the entry.
            reserve: Says what the call may cost, asked only where there is a budget.

        Returns:
            The entry; where its answer is stored, nothing is to be called.

        Raises:
            AmbiguousCallError: An earlier call's outcome is unknown, and the policy is ``fail``.
            CallInProgressError: This execution is calling under that key.
            CallInTransactionError: A transaction of the body is open.
            StepTakenError: The step was taken from this worker.
            Held: There is no money, or a person is to be asked.
        """
        key = checked_key(key)
        check_policy(policy)
        said = policy or self.policy
        if self.is_left:
            raise StepTakenError(self.step_name, key)
        if self.is_in_transaction:
            raise CallInTransactionError(self.step_name, key)
        after = 0
        for _ in range(_TRIES):
            with shielded():
                what = [key, key, is_call, said, provider[:100], model[:255]]
                where = [self.node_id, self.fence, self.state.value, key, is_call, after]
                opened = self._open(key, what, where, reserve)
            if opened is not None:
                self.has_begun = True
                return opened
            found = self._find(key, is_call=is_call)
            if isinstance(found, Entry):
                return found
            after = self._after(key, found, said)
        raise StepTakenError(self.step_name, key)

    def require_money(self) -> None:
        """Hold a step that tells only afterwards what it used, where what it may spend is spent already.

        Raises:
            Held: So it is.
        """
        if not self._has_budget:
            return
        for limit in accounts.limits_of(self.run_id, self.node_id, using=self.alias):
            spent = self._spent_from(limit)
            if spent >= limit.most and self._tells_afterwards():
                # Anything that is left lets it try: what it calls may cost more, and is then held for that.
                raise self._held_for_money(Refusal(limit=limit, left=limit.most - spent, amount=SMALLEST))

    def store(
        self, entry: Entry, written: Written, *, cost: Decimal | None = None, beside: Beside | None = None
    ) -> None:
        """Store an answer in a short transaction of its own, whatever became of the step meanwhile.

        Args:
            entry: The call.
            written: Its answer.
            cost: What it cost, where that is known by now.
            beside: Writes what belongs to it.
        """

        def work() -> None:
            connection = self.connection
            with transaction.atomic(using=connection.alias):
                said = [written.text, written.kind]
                is_late = not sql.execute(connection, _ANSWER, [*said, cost is not None, entry.id])
                if is_late:
                    sql.execute(connection, _ANSWER_LATE, [*said, entry.id])
                if beside is not None:
                    beside(connection)
                if cost is not None:
                    self._settle_accounts(connection, entry, cost, is_freed=not is_late)
            if is_late:
                self._wake_asked()

        with shielded():
            patiently(work, using=self.alias, what=f"The answer {entry.key!r} of step {self.step_name!r}")
        if cost is not None:
            self._wake(entry, cost)

    def settle_cost(self, entry: Entry, cost: Decimal | None, *, beside: Beside) -> None:
        """Put a cost that became known after the answer was stored in the place of what was reserved for it.

        Args:
            entry: The call.
            cost: What it cost; None where that is still not known.
            beside: Writes the cost, in the same transaction.
        """
        connection = self.connection
        with shielded(), transaction.atomic(using=connection.alias):
            beside(connection)
            if cost is not None:
                self._settle_accounts(connection, entry, cost)
        if cost is not None:
            self._wake(entry, cost)

    def give_up(self, entry: Entry, error: BaseException, *, is_unknown: bool) -> None:
        """Note that a call raised: either nothing was paid, or nobody knows."""
        state = EntryState.AMBIGUOUS if is_unknown else EntryState.FAILED

        def work() -> None:
            connection = self.connection
            with transaction.atomic(using=connection.alias):
                sql.execute(connection, _END, [state.value, error_message(error), entry.id, state.value])
                if not is_unknown and entry.accounts:
                    self._settle_accounts(connection, entry, Decimal(0))
            if not is_unknown:
                self._wake_asked()

        with shielded():
            patiently(work, using=self.alias, what=f"How the call {entry.key!r} of step {self.step_name!r} failed")
        if not is_unknown:
            self._wake(entry, Decimal(0))

    def once(self, key: str, fn: Callable[[], Any], *, on_ambiguous: str | None = None) -> Any:
        """Do something once, whatever becomes of the execution, and give back what it returned.

        In an event loop an async function is done by :meth:`aonce`, and this returns what is to be awaited.
        """
        if inspect.iscoroutinefunction(fn) and in_event_loop():
            return self.aonce(key, fn, on_ambiguous=on_ambiguous)
        entry = self.reach(lambda: self.begin(key, policy=on_ambiguous))
        if entry.is_stored:
            return entry.read(self.step_name)
        try:
            answer = plain(fn(), "aonce")
        except BaseException as exc:
            error = exc
            self.reach(lambda: self.give_up(entry, error, is_unknown=not isinstance(error, _NOTHING_DONE)))
            raise
        with shielded():
            written = write_answer(answer)
            self.reach(lambda: self.store(entry, written))
        return self.given(entry, written)

    async def aonce(self, key: str, fn: Callable[[], Any], *, on_ambiguous: str | None = None) -> Any:
        """The async twin of :meth:`once`; ``fn`` returns an awaitable."""
        with self.flight():
            entry = await self.areach(lambda: self.begin(key, policy=on_ambiguous))
            if entry.is_stored:
                return entry.read(self.step_name)
            try:
                answer = await fn()
            except BaseException as exc:
                error = exc
                await self.areach(lambda: self.give_up(entry, error, is_unknown=not isinstance(error, _NOTHING_DONE)))
                raise
            written = write_answer(answer)
            await self.areach(lambda: self.store(entry, written))
            return self.given(entry, written)

    @contextmanager
    def flight(self) -> Iterator[None]:
        """Around a call in an event loop: the end of the body waits for it, should the body not."""
        landed = asyncio.get_running_loop().create_future()
        self.flights.add(landed)
        try:
            yield
        finally:
            self.flights.remove(landed)
            landed.set_result(None)

    def leave(self, *, is_torn: bool) -> None:
        """The body has ended: end its streams."""
        try:
            while self.streams:
                self.streams.pop().leave(is_torn=is_torn)
        finally:
            # The time ran out at one of them.
            if self.streams:
                self.leave(is_torn=True)

    async def aleave(self, *, is_torn: bool) -> None:
        """The same in an event loop; what tasks of the body have called is waited for, for it is paid for."""
        self.is_left = True
        try:
            loop = asyncio.get_running_loop()
            flights = [each for each in self.flights if each.get_loop() is loop]
            if flights and not is_torn:
                await asyncio.wait(flights)
            while self.streams:
                await self.streams.pop().aleave(is_torn=is_torn)
        finally:
            if self.streams:
                await self.aleave(is_torn=True)

    def given(self, entry: Entry, written: Written) -> Any:
        """What the caller gets at first: exactly what a replay would give.

        Raises:
            AnswerNotStorableError: A replay could not give it back.
        """
        if written.problem:
            raise AnswerNotStorableError(self.step_name, entry.key, written.problem)
        return written.given

    # How -------------------------------------------------------------------------------------------------------------

    def _open(
        self, key: str, what: list[Any], where: list[Any], reserve: Callable[[], Reservation] | None
    ) -> Entry | None:
        connection = self.connection
        limits = accounts.limits_of(self.run_id, self.node_id, using=self.alias) if reserve and self._has_budget else []
        if not limits or reserve is None:
            rows = sql.fetch(connection, _OPEN, [*what, None, "", False, *where])
            return Entry(id=rows[0][0], key=key, number=rows[0][1], retired=rows[0][2]) if rows else None
        wanted = reserve()
        names = tuple(each.name for each in limits)
        noted = None if wanted.amount is None else as_units(wanted.amount)
        is_estimate = wanted.is_estimate or wanted.amount is None
        with transaction.atomic(using=connection.alias):
            rows = sql.fetch(connection, _OPEN, [*what, noted, " ".join(names), is_estimate, *where])
            if not rows:
                return None
            id_, number, retired = rows[0]
            reserved = accounts.reserve(connection, limits, wanted.amount, run_id=self.run_id, node_id=self.node_id)
            if isinstance(reserved, Refusal):
                raise self._held_for_money(reserved)
            if noted is None:
                sql.execute(connection, _NOTE_RESERVED, [as_units(reserved), id_])
        return Entry(id=id_, key=key, number=number, reserved=reserved, accounts=names, retired=retired)

    def _tells_afterwards(self) -> bool:
        """Whether steps of its kind have reported what they used, not called by the ledger, which would reserve."""
        told = StepStat.objects.using(self.alias).filter(run_id=self.run_id, step=self.step, entry__isnull=True)
        return told.filter(from_ledger=False).exists()

    def _spent_from(self, limit: accounts.Limit) -> Decimal:
        account = BudgetAccount.objects.using(self.alias).filter(pk=limit.name).first()
        if account is None:
            # What was spent before there was an account is counted as it is opened.
            with transaction.atomic(using=self.alias):
                accounts.lock(self.connection, limit.name, run_id=self.run_id, node_id=self.node_id)
            account = BudgetAccount.objects.using(self.alias).get(pk=limit.name)
        spent: Decimal = account.spent
        return spent

    @property
    def _has_budget(self) -> bool:
        settings = get_settings()
        return self.terms.budget is not None or settings.day_budget is not None or settings.step_budget is not None

    def _find(self, key: str, *, is_call: bool) -> Entry | Sequence[Any] | None:
        """The earliest answer of a key, else its last call."""
        rows = sql.fetch(self.connection, _FIND, [self.node_id, key, is_call])
        for id_, number, state, _resolution, _fence, answer, kind, _error in rows:
            if state == EntryState.ANSWERED:
                return Entry(id=id_, key=key, number=number, is_stored=True, answer=answer, kind=kind)
        return rows[-1] if rows else None

    def _after(self, key: str, last: Sequence[Any] | None, policy: str) -> int:
        """After which call of a key another one may be begun."""
        if last is None:
            if not sql.fetch(self.connection, _IS_OURS, [self.node_id, self.fence, self.state.value]):
                raise StepTakenError(self.step_name, key)
            return 0
        id_, _number, state, resolution, fence, _answer, _kind, error = last
        if state == EntryState.FAILED:
            return int(id_)
        if state == EntryState.CALLING and fence == self.fence:
            raise CallInProgressError(self.step_name, key)
        if state == EntryState.CALLING and fence > self.fence:
            raise StepTakenError(self.step_name, key)
        decision = resolution or (policy if policy != "ask" else "")
        why = error or "its worker vanished"
        with shielded():
            given_up = sql.fetch(self.connection, _GIVE_UP, [decision, why, id_])
        if not given_up:
            return 0  # Who was taken for dead was storing the answer meanwhile: it is found.
        decision = given_up[0][0]  # A person may have decided meanwhile.
        if decision == Resolution.REPAY:
            return int(id_)
        if decision == Resolution.FAIL:
            raise AmbiguousCallError(self.step_name, key, why=why)
        raise held_for_a_person(id_, key)

    def _settle_accounts(
        self, connection: BaseDatabaseWrapper, entry: Entry, cost: Decimal, *, is_freed: bool = False
    ) -> None:
        # Only once, should a commit have been lost and tried again.
        if entry.accounts and (is_freed or sql.execute(connection, _FREE, [entry.id])):
            accounts.settle_accounts(connection, entry.accounts, reserved=entry.reserved, cost=cost)

    def _wake(self, entry: Entry, typical: Decimal) -> None:
        """Let those go on that waited for what this call has left; where that fails, the sweep does it."""
        connection = self.connection
        try:
            for name in entry.accounts:
                if accounts.is_held_for(connection, name):
                    accounts.wake_held(connection, name, typical=typical or None)
        except (DatabaseError, InterfaceError):
            if connection.in_atomic_block:
                raise
            logger.exception("Who waits for money could not be told of it; that is left to the sweep.")
            connection.close()

    def _wake_asked(self) -> None:
        """Let the step go on if a person was asked meanwhile: what nobody knew is known now."""
        connection = self.connection
        # In a transaction of its own: a settle locks the step first.
        with transaction.atomic(using=connection.alias):
            wake_nodes(connection, [row[0] for row in sql.fetch(connection, _ASKED, [self.node_id])])

    def _held_for_money(self, refusal: Refusal) -> Held:
        limit = refusal.limit
        wants = "" if refusal.amount in (None, SMALLEST) else f", and it may cost {refusal.amount.normalize():f}"
        reason = f"{limit.words} of {limit.most.normalize():f} leaves {refusal.left.normalize():f}{wants}"

        def still(connection: BaseDatabaseWrapper) -> bool:
            # Whoever raises the budget holds the account, so the limit is read after it is ours.
            accounts.lock(connection, limit.name, run_id=self.run_id, node_id=self.node_id)
            limits = accounts.limits_of(self.run_id, self.node_id, using=self.alias)
            now = next((each for each in limits if each.name == limit.name), None)
            if now is None:
                return False
            remains = accounts.left(connection, now, run_id=self.run_id, node_id=self.node_id)
            return remains <= 0 if refusal.amount is None else remains < refusal.amount

        return Held(HoldKind.BUDGET, reason, still=still, account=limit.name, amount=refusal.amount)


_QUESTION = sql.Statement("""
    SELECT id, key FROM baton_ledgerentry
    WHERE node_id = %s AND fence = %s AND policy = 'ask' AND state IN ('calling', 'ambiguous') AND resolution = ''
        AND NOT is_retired
    ORDER BY id DESC LIMIT 1
""")
"""The last call of an execution about which a person is to be asked. Index: baton_entry_once."""
_DECISION = sql.Statement("SELECT resolution, state FROM baton_ledgerentry WHERE id = %s <lock>")


def checked_key(key: Any) -> str:
    """The key of a call as it is stored.

    Raises:
        TypeError: It is no text.
        ValueError: It is too long, empty, or no database takes it.
    """
    text = getattr(key, "value", key)
    if not isinstance(text, str):
        raise TypeError(f"The key of a call is {key!r}: give a str.")
    if not 0 < len(text) <= MAX_KEY or storable_text(text) != text:
        raise ValueError(f"The key of a call is {text[:80]!r}: give 1 to {MAX_KEY} characters without NUL.")
    return str.__str__(text)


def check_policy(policy: object) -> None:
    """Refuse what is no policy.

    Raises:
        ValueError: It is none.
    """
    if policy is not None and policy not in POLICIES:
        raise ValueError(f"on_ambiguous is {policy!r}: give {', '.join(map(repr, POLICIES))}.")
