"""Calls that are paid for once: the intent before, the answer right after, the same answer on every later attempt."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from django.db.models import Max

from baton import tracing
from baton.conf import Settings, amount, get_settings
from baton.context import StepContext
from baton.engine.answers import CHUNKS, Written, is_model, write_answer, write_chunks
from baton.engine.errors import storable_text
from baton.engine.ledger import Entry, Ledger, NotBegunError, Reservation, check_policy, checked_key, plain
from baton.engine.timer import shielded
from baton.exceptions import AnswerNotStorableError, UnpricedModelError
from baton.llm import capture
from baton.llm.pricing import Quote, Usage, price
from baton.llm.recording import NO_USAGE, TOKENS, call_key, insert_stat, note_served, priced, stat_of
from baton.llm.transience import outcome_unknown
from baton.llm.usage import guess_provider, named_model, read_usage, usage_of_chunks
from baton.models import StepStat
from baton.models.ledger import idempotency_key

logger = logging.getLogger("baton.llm")

Fn = Callable[..., Any]

_OUTPUT_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_CHARS_PER_TOKEN = 3
"""How many characters of a request are reckoned for a token of its input: few, for a worst case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a function that takes one parameter is given."""

    idempotency_key: str
    """The same for every call of this key, so that a provider that honours it charges once."""

    @property
    def headers(self) -> dict[str, str]:
        """The key as the header that providers look for: ``create(..., extra_headers=call.headers)``."""
        return {"Idempotency-Key": self.idempotency_key}


def call(ctx: StepContext, key: str, fn: Fn, **options: Any) -> Any:
    """Call a language model once, whatever becomes of this execution; a later attempt gets the stored answer.

    Args:
        ctx: What the body was given.
        key: Names the call within the step.
        fn: Makes the call and returns the provider's answer; it should do nothing else. It is called without arguments,
            with a :class:`Call` where it takes one, or with ``request`` as its keywords.
        options: The fields of :class:`CallOptions`.

    Returns:
        The answer, of its own class where that is pydantic's, else as JSON gives it back; the same on a replay.

    Raises:
        LedgerError: It cannot be called, or its answer cannot be given back.
    """
    paid = _PaidCall(ctx, key, fn, CallOptions.of(options))
    if paid.ledger is None:
        return plain(paid.ask(), "acall")
    entry = paid.ledger.reach(paid.begin)
    if entry.is_stored:
        return paid.ledger.reach(lambda: paid.replayed(entry))
    with paid.tracing():
        try:
            answer = plain(paid.ask(), "acall")
        except BaseException as exc:
            error = exc
            paid.ledger.reach(lambda: paid.failed(entry, error))
            raise
        with shielded():
            return paid.ledger.reach(lambda: paid.answered(entry, answer))


async def acall(ctx: StepContext, key: str, fn: Fn, **options: Any) -> Any:
    """The async twin of :func:`call`; ``fn`` returns an awaitable, or the answer."""
    paid = _PaidCall(ctx, key, fn, CallOptions.of(options))
    if paid.ledger is None:
        return await _awaited(paid.ask())
    with paid.ledger.flight():
        entry = await paid.ledger.areach(paid.begin)
        if entry.is_stored:
            return await paid.ledger.areach(lambda: paid.replayed(entry))
        with paid.tracing():
            try:
                answer = await _awaited(paid.ask())
            except BaseException as exc:
                error = exc
                await paid.ledger.areach(lambda: paid.failed(entry, error))
                raise
            return await paid.ledger.areach(lambda: paid.answered(entry, answer))


def stream(ctx: StepContext, key: str, fn: Fn, **options: Any) -> Iterator[Any]:
    """Stream an answer once; a later attempt gets the stored chunks.

    A stream is paid for to its end: where the body leaves it before, it is read to the end when the body ends, so that
    a replay has all of it.

    Args:
        ctx: What the body was given.
        key: Names the call within the step.
        fn: As for :func:`call`; it returns an iterable of chunks, or a context manager that gives one. What is neither
            is one chunk.
        options: The fields of :class:`CallOptions`.

    Returns:
        The chunks, one by one.

    Raises:
        LedgerError: It cannot be called, or a chunk cannot be given back.
    """
    paid = _PaidCall(ctx, key, fn, CallOptions.of(options))
    return _plain_stream(paid) if paid.ledger is None else _Streaming(paid)


def astream(ctx: StepContext, key: str, fn: Fn, **options: Any) -> AsyncIterator[Any]:
    """The async twin of :func:`stream`; what ``fn`` returns may be async, or an awaitable of that."""
    paid = _PaidCall(ctx, key, fn, CallOptions.of(options))
    return _aplain_stream(paid) if paid.ledger is None else _AsyncStreaming(paid)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """What may be said of a call."""

    model: str | Enum | None = None
    """The model that is asked; by default that of ``request``, or the step's."""
    provider: str | None = None
    """Who is asked; by default guessed from the answer."""
    on_ambiguous: str | None = None
    """What follows a call of unknown outcome: ``repay``, ``fail`` or ``ask``; by default what the step says."""
    request: Mapping[str, Any] | None = None
    """The keywords that ``fn`` is called with. They are kept where capture is on, and a budget reads its worst case
    from them."""
    max_cost: Decimal | str | int | None = None
    """What the call may cost at most, for a budget."""
    max_input_tokens: int | None = None
    """How long the input is at most, for a budget."""
    max_output_tokens: int | None = None
    """How long the answer may be, for a budget."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> CallOptions:
        """Options as they were given.

        Raises:
            TypeError: One is unknown or of the wrong type.
            ValueError: ``on_ambiguous`` or ``max_cost`` is none.
        """
        names = [each.name for each in fields(cls)]
        if unknown := [name for name in options if name not in names]:
            raise TypeError(f"A call has no option {unknown[0]!r}; its options are {', '.join(names)}.")
        given = cls(**options)
        if not isinstance(given.model, str | Enum | None):
            raise TypeError(f"model is {given.model!r}: give its name, or None.")
        if not isinstance(given.provider, str | None):
            raise TypeError(f"provider is {given.provider!r}: give a name, or None.")
        check_policy(given.on_ambiguous)
        for name in ("max_input_tokens", "max_output_tokens"):
            value = getattr(given, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise TypeError(f"{name} is {value!r}: give a whole number, or None.")
        if given.request is not None and not isinstance(given.request, Mapping):
            raise TypeError(f"request is {given.request!r}: give the keywords of the call as a dict.")
        if given.max_cost is not None:
            amount(given.max_cost)
        return given


class _PaidCall:
    """One call on its way: what is done before, after and instead of it."""

    def __init__(self, ctx: StepContext, key: str, fn: Fn, options: CallOptions) -> None:
        if not callable(fn):
            raise TypeError(f"The call {key!r} is given {fn!r}: give a function that makes it.")
        self.ctx, self.key, self.fn, self.options = ctx, checked_key(key), fn, options
        self.ledger = ctx.ledger if isinstance(ctx.ledger, Ledger) else None
        self.request = dict(options.request) if options.request is not None else _keywords_of(fn)
        model = options.model or self.request.get("model") or ctx.model or ""
        self.model = storable_text(str(getattr(model, "value", model)))
        self.provider = storable_text(options.provider or "")
        self.began_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._retired = 0
        self._span = tracing.OFF
        self._spans = contextlib.ExitStack()
        self._is_streaming = False

    def begin(self) -> Entry:
        """Write the intent, or find the answer."""
        ledger = self._ledger
        _warm(self.model)
        entry = ledger.begin(
            self.key,
            policy=self.options.on_ambiguous,
            is_call=True,
            provider=self.provider,
            model=self.model,
            reserve=self._reservation,
        )
        self.began_at, self._started = datetime.now(UTC), time.monotonic()
        self._retired = entry.retired
        return entry

    def tracing(self, *, is_current: bool = True) -> tracing.Off:
        """The span of the call."""
        self._span = tracing.calling(
            self.key,
            provider=self.provider,
            model=self.model,
            workflow_name=self.ctx.workflow_name,
            is_current=is_current,
        )
        return self._span

    def open_span(self) -> None:
        """The same for a stream: it ends with that, and is not current meanwhile."""
        self._is_streaming = True
        self._spans.enter_context(self.tracing(is_current=False))

    def ask(self) -> Any:
        """Call the function."""
        if self.options.request is not None:
            return self.fn(**self.options.request)
        if not _takes_call(self.fn):
            return self.fn()
        ledger = self.ledger
        known = ""
        if ledger is not None:
            known = idempotency_key(ledger.run_id, ledger.node_id, self.key, retired=self._retired)
        return self.fn(Call(idempotency_key=known))

    def replayed(self, entry: Entry) -> Any:
        """The stored answer; that it was not paid for again is noted."""
        answer = entry.read(self.ctx.step_name)
        note_served(self._ledger, entry)
        tracing.count_replay(self.model)
        return answer

    def failed(self, entry: Entry, error: BaseException, *, began: bool = False) -> None:
        """Note that it raised, and whether anybody can know what that means."""
        seconds = time.monotonic() - self._started
        if self._is_streaming:
            self._span.failed(error)
            self._spans.close()
        is_unknown = not isinstance(error, NotBegunError) and outcome_unknown(error, began=began)
        self._ledger.give_up(entry, error, is_unknown=is_unknown)
        self._keep(None, seconds, error)

    def answered(self, entry: Entry, answer: Any) -> Any:
        """Store an answer, count and price it, and give what a replay would give."""
        seconds = time.monotonic() - self._started
        written = write_answer(answer)
        provider = self.provider or guess_provider(answer)
        usage = read_usage(answer, provider=provider, model=self.model, at=self.began_at)
        model = self.model if usage else named_model([answer]) or self.model
        self._store(entry, written, usage, provider=provider, model=model, seconds=seconds)
        self._keep(answer, seconds)
        return self._ledger.given(entry, written)

    def streamed(self, entry: Entry, chunks: list[Any], each: list[Written], *, seconds: float) -> None:
        """Store the chunks of a stream that was read to its end."""
        written = write_chunks(each)
        provider = self.provider or (guess_provider(chunks[0]) if chunks else "")
        usage = usage_of_chunks(chunks, provider=provider, model=self.model, at=self.began_at)
        model = self.model if usage else named_model(chunks) or self.model
        self._store(entry, written, usage, provider=provider, model=model, seconds=seconds)
        self._spans.close()
        self._keep(chunks, seconds)
        if written.problem:
            raise AnswerNotStorableError(self.ctx.step_name, self.key, written.problem)

    def seconds(self) -> float:
        """How long it has been under way."""
        return time.monotonic() - self._started

    @property
    def _ledger(self) -> Ledger:
        assert self.ledger is not None  # noqa: S101 - without one nothing is kept
        return self.ledger

    def _store(
        self, entry: Entry, written: Written, usage: Usage | None, *, provider: str, model: str, seconds: float
    ) -> None:
        """Write the answer with its tokens. A pricing of the project's own is asked afterwards, for it may hang."""
        ledger = self._ledger
        is_quick = _has_quick_prices()
        quote = (
            Quote(reason=NO_USAGE) if usage is None else price(usage) if is_quick else Quote(reason="not priced yet")
        )
        stat = stat_of(
            ledger,
            usage,
            quote,
            key=self.key,
            once_key=call_key(entry),
            entry=entry,
            provider=provider,
            model=model,
            duration=seconds,
        )
        ledger.store(entry, written, cost=quote.cost, beside=lambda connection: _insert(connection, stat))
        if usage is not None and not is_quick:
            quote = price(usage)
            rows = StepStat.objects.using(ledger.alias).filter(node_id=ledger.node_id, once_key=call_key(entry))
            unpriced = rows.filter(cost__isnull=True)

            def write(_connection: Any) -> None:
                unpriced.update(**priced(quote))

            ledger.settle_cost(entry, quote.cost, beside=write)
        self._span.answered(_used(usage, provider), cost=quote.cost, currency=quote.currency)

    def _keep(self, response: Any, seconds: float, error: BaseException | None = None) -> None:
        capture.keep(
            self.ctx,
            key=self.key,
            provider=self.provider or guess_provider(response),
            model=self.model,
            request=self.request or None,
            response=response,
            duration=seconds,
            error=error,
            began=self._started,
            fn=self.fn,
        )

    # The worst case --------------------------------------------------------------------------------------------------

    def _reservation(self) -> Reservation:
        """What it may cost at most: as said, as reckoned from its limits, or as the costliest of its kind so far."""
        options = self.options
        if options.max_cost is not None:
            return Reservation(amount=amount(options.max_cost))
        if self.model:
            quote = price(self._usage(1, 1))
            if quote.cost is None and self._ledger.terms.allow_unpriced:
                return Reservation(amount=Decimal(0), is_estimate=True)
            if quote.cost is None:
                raise UnpricedModelError(self.ctx.step_name, self.key, self.model, why=quote.reason)
        written = next((self.request[name] for name in _OUTPUT_LIMITS if name in self.request), None)
        most_out = options.max_output_tokens if options.max_output_tokens is not None else _whole(written)
        most_in = options.max_input_tokens
        is_estimate = most_in is None
        if most_in is None and self.request:
            most_in = sum(map(len, map(str, self.request.values()))) // _CHARS_PER_TOKEN + 1
        if self.model and most_in is not None and most_out is not None:
            worst = self._worst(most_in, most_out * (_whole(self.request.get("n")) or 1))
            if worst is not None:
                return Reservation(amount=worst, is_estimate=is_estimate)
        return Reservation(amount=self._costliest(), is_estimate=True)

    def _worst(self, most_in: int, most_out: int) -> Decimal | None:
        """With all of the input written to a cache, where that is dearer than none."""
        costs = [price(self._usage(most_in, most_out, cache_write=each)).cost for each in (0, most_in)]
        return max((each for each in costs if each is not None), default=None)

    def _costliest(self) -> Decimal | None:
        ledger = self._ledger
        alike = StepStat.objects.using(ledger.alias).filter(
            run_id=ledger.run_id, step=ledger.step, entry__model=self.model, from_ledger=False
        )
        cost: Decimal | None = alike.aggregate(most=Max("cost"))["most"]
        return cost

    def _usage(self, tokens_in: int, tokens_out: int, *, cache_write: int = 0) -> Usage:
        return Usage(
            provider=self.provider,
            model=self.model,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            cache_write_tokens=cache_write,
            at=datetime.now(UTC),
        )


class _Chunks:
    """What was read of a stream so far."""

    def __init__(self, paid: _PaidCall) -> None:
        self.paid = paid
        self.entry: Entry | None = None
        self.is_over = False
        self._read: list[Any] = []
        self._written: list[Written] = []

    def _take(self, chunk: Any) -> Any:
        """Keep a chunk, and give what a replay would give."""
        written = write_answer(chunk)
        self._read.append(chunk)
        self._written.append(written)
        return chunk if written.problem else written.given

    def _store(self) -> None:
        assert self.entry is not None  # noqa: S101 - it was begun
        self.is_over = True
        self.paid.streamed(self.entry, self._read, self._written, seconds=self.paid.seconds())

    def _give_up(self, error: BaseException, *, began: bool | None = None) -> None:
        assert self.entry is not None  # noqa: S101 - it was begun
        self.is_over = True
        self.paid.failed(self.entry, error, began=bool(self._read) if began is None else began)

    @property
    def _ledger(self) -> Ledger:
        assert self.paid.ledger is not None  # noqa: S101 - without one it is no matter of ours
        return self.paid.ledger


class _Streaming(_Chunks):
    """A stream that is read, and stored at its end."""

    def __init__(self, paid: _PaidCall) -> None:
        super().__init__(paid)
        self._source: Iterator[Any] | None = None
        self._opened = contextlib.ExitStack()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._source is None:
            self._source = self._begin()
        if self.entry is None or self.is_over:
            return next(self._source)
        return self._next(self._source)

    def leave(self, *, is_torn: bool) -> None:
        """Read what the body has left, or say that nobody knows what was paid."""
        if self.entry is None or self.is_over:
            return
        if is_torn:
            self._fail(TimeoutError("the body's time was up"), began=True)
            return
        try:
            for _ in self:
                pass
        except Exception:
            logger.exception("The stream %r, which its body has left, broke off.", self.paid.key)

    async def aleave(self, *, is_torn: bool) -> None:
        """The same, where an async body reads a plain stream."""
        self.leave(is_torn=is_torn)

    def _begin(self) -> Iterator[Any]:
        entry = self._ledger.reach(self.paid.begin)
        if entry.is_stored:
            return iter(_stored_chunks(entry, self._ledger.reach(lambda: self.paid.replayed(entry))))
        self._source = iter(())
        self.entry = entry
        self._ledger.streams.append(self)
        self.paid.open_span()
        try:
            return _opened(self.paid.ask(), self._opened)
        except BaseException as exc:
            self._fail(exc)
            raise

    def _next(self, source: Iterator[Any]) -> Any:
        try:
            chunk = next(source)
        except StopIteration:
            try:
                with shielded():
                    self._ledger.reach(self._store)
            finally:
                self._close()
            raise
        except BaseException as exc:
            self._fail(exc)
            raise
        return self._take(chunk)

    def _fail(self, error: BaseException, *, began: bool | None = None) -> None:
        try:
            self._ledger.reach(lambda: self._give_up(error, began=began))
        finally:
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(Exception):
            self._opened.close()


class _AsyncStreaming(_Chunks):
    """The same in an event loop."""

    def __init__(self, paid: _PaidCall) -> None:
        super().__init__(paid)
        self._source: AsyncIterator[Any] | None = None
        self._opened = contextlib.AsyncExitStack()
        # A task may be reading it when the body ends without that task.
        self._turn = asyncio.Lock()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        async with self._turn:
            if self._source is None:
                self._source = await self._begin()
            if self.is_over:
                raise StopAsyncIteration
            if self.entry is None:
                return await anext(self._source)
            return await self._next(self._source)

    def leave(self, *, is_torn: bool) -> None:
        """The loop in which it could have been read to its end is gone, as of a plain body that ran one by itself."""
        if self.entry is not None and not self.is_over:
            gone = RuntimeError("its event loop ended before it")
            self._ledger.reach(lambda: self._give_up(gone, began=True))

    async def aleave(self, *, is_torn: bool) -> None:
        """Read what the body has left, or say that nobody knows what was paid."""
        if self.entry is None or self.is_over:
            return
        if is_torn:
            await self._fail(TimeoutError("the body's time was up"), began=True)
            return
        try:
            async for _ in self:
                pass
        except Exception:
            logger.exception("The stream %r, which its body has left, broke off.", self.paid.key)

    async def _begin(self) -> AsyncIterator[Any]:
        entry = await self._ledger.areach(self.paid.begin)
        if entry.is_stored:
            return _each(_stored_chunks(entry, await self._ledger.areach(lambda: self.paid.replayed(entry))))
        self._source = _each(())
        self.entry = entry
        self._ledger.streams.append(self)
        self.paid.open_span()
        try:
            return await _aopened(await _awaited(self.paid.ask()), self._opened)
        except BaseException as exc:
            await self._fail(exc)
            raise

    async def _next(self, source: AsyncIterator[Any]) -> Any:
        try:
            chunk = await anext(source)
        except StopAsyncIteration:
            try:
                await self._ledger.areach(self._store)
            finally:
                await self._close()
            raise
        except BaseException as exc:
            await self._fail(exc)
            raise
        return self._take(chunk)

    async def _fail(self, error: BaseException, *, began: bool | None = None) -> None:
        try:
            await self._ledger.areach(lambda: self._give_up(error, began=began))
        finally:
            await self._close()

    async def _close(self) -> None:
        with contextlib.suppress(Exception):
            await self._opened.aclose()


def _opened(found: Any, opened: contextlib.ExitStack) -> Iterator[Any]:
    """The chunks of what a function returned, which is closed behind them."""
    found = plain(found, "astream")
    if isinstance(found, contextlib.AbstractContextManager) and not isinstance(found, Iterable):
        found = opened.enter_context(found)
    elif callable(close := getattr(found, "close", None)):
        opened.callback(close)
    return iter(found) if _is_stream(found) else iter([found])


async def _aopened(found: Any, opened: contextlib.AsyncExitStack) -> AsyncIterator[Any]:
    if isinstance(found, AsyncIterable):
        close = getattr(found, "aclose", None) or getattr(found, "close", None)
        if inspect.iscoroutinefunction(close):
            opened.push_async_callback(close)
        return aiter(found)
    if isinstance(found, contextlib.AbstractAsyncContextManager):
        found = await opened.enter_async_context(found)
        return aiter(found) if isinstance(found, AsyncIterable) else _each([found])
    return _each(_opened(found, opened.enter_context(contextlib.ExitStack())))


def _is_stream(found: Any) -> bool:
    """Whether something is to be taken apart: an answer is not, though its class may be iterable."""
    return isinstance(found, Iterable) and not (isinstance(found, str | bytes | Mapping) or is_model(found))


def _stored_chunks(entry: Entry, stored: Any) -> Any:
    """The chunks of a replay; what was stored by a call is one."""
    return stored if entry.kind == CHUNKS else [stored]


def _plain_stream(paid: _PaidCall) -> Iterator[Any]:
    with contextlib.ExitStack() as opened:
        yield from _opened(paid.ask(), opened)


async def _aplain_stream(paid: _PaidCall) -> AsyncIterator[Any]:
    async with contextlib.AsyncExitStack() as opened:
        async for chunk in await _aopened(await _awaited(paid.ask()), opened):
            yield chunk


async def _each(chunks: Iterable[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


async def _awaited(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


def _used(usage: Usage | None, provider: str) -> dict[str, Any]:
    """What a span says of a call."""
    if usage is None:
        return {"provider": provider}
    return {
        "provider": usage.provider,
        "response_model": usage.model,
        **{name: getattr(usage, name) for name in TOKENS},
    }


def _insert(connection: Any, stat: StepStat) -> None:
    insert_stat(connection, stat)


def _keywords_of(fn: Fn) -> dict[str, Any]:
    """The request, where the function is a partial one that carries it."""
    return dict(fn.keywords) if isinstance(fn, functools.partial) else {}


def _takes_call(fn: Fn) -> bool:
    """Whether a function wants the :class:`Call`: it has exactly one parameter that must be given."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [
        each
        for each in parameters
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == 1


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _has_quick_prices() -> bool:
    return get_settings().pricing == Settings().pricing


@functools.cache
def _warm(model: str) -> None:
    """Load the prices before the first call rather than between an answer and its row."""
    if _has_quick_prices():
        price(Usage(model=model or "gpt-4o", input_tokens=0, output_tokens=0, at=datetime.now(UTC)))
