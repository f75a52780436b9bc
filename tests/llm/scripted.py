"""Steps whose provider does what a test has written down for it; for tests in one process."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any

from django.db import connection
from django.test.utils import CaptureQueriesContext

from baton import llm, step
from baton.llm.pricing import Usage

SCRIPT: list[Any] = []
"""What each call answers: an exception is raised, what can be called is called."""
CALLS: list[str] = []
"""The calls that were made."""
AFTER: list[Callable[[], Any]] = []
"""What bodies do after their calls, once each: most raise."""
PRICES = {
    "gpt-4o": {"input": "2.50", "output": "10", "cached_input": "1.25"},
    "fixed": {"input": "0", "output": "1000"},
}
"""What the models of the answers cost."""


def answer() -> Any:
    CALLS.append("call")
    return played(SCRIPT.pop(0))


async def aanswer() -> Any:
    return answer()


def chunks() -> Iterator[Any]:
    CALLS.append("stream")
    for each in SCRIPT.pop(0):
        yield played(each)


async def achunks() -> AsyncIterator[Any]:
    for each in chunks():
        yield each


def played(each: Any) -> Any:
    if callable(each):
        return each()
    if isinstance(each, BaseException):
        raise each
    return each


def then() -> None:
    if AFTER:
        AFTER.pop(0)()


def fail(error: BaseException) -> Callable[[], Any]:
    def raises() -> None:
        raise error

    return raises


@llm.llm_step(backoff=0)
def asks(ctx: Any, keys: list[str] | None = None, **options: Any) -> Any:
    """Call under each key, then do what comes after, and return the answers."""
    answers = [llm.call(ctx, key, answer, **options) for key in keys or ["k"]]
    then()
    return answers


@llm.llm_step(backoff=0)
async def aasks(ctx: Any, keys: list[str] | None = None, **options: Any) -> Any:
    answers = [await llm.acall(ctx, key, aanswer, **options) for key in keys or ["k"]]
    then()
    return answers


@llm.llm_step(backoff=0)
def streams(ctx: Any, most: int = 1000, **options: Any) -> Any:
    """Read a stream, at most so many chunks of it."""
    seen = []
    for chunk in llm.stream(ctx, "s", chunks, **options):
        seen.append(chunk)
        if len(seen) == most:
            break
    then()
    return seen


@llm.llm_step(backoff=0)
async def astreams(ctx: Any, most: int = 1000, **options: Any) -> Any:
    seen = []
    async for chunk in llm.astream(ctx, "s", achunks, **options):
        seen.append(chunk)
        if len(seen) == most:
            break
    then()
    return seen


@step(backoff=0)
def effects(ctx: Any, **options: Any) -> Any:
    done = ctx.once("e", answer, **options)
    then()
    return done


@step(backoff=0)
async def aeffects(ctx: Any, **options: Any) -> Any:
    done = await ctx.aonce("e", aanswer, **options)
    then()
    return done


@step(backoff=0, atomic=True)
def calls_in_its_transaction(ctx: Any) -> Any:
    return llm.call(ctx, "k", answer)


@llm.llm_step(backoff=0)
def records(ctx: Any, **usage: Any) -> None:
    llm.record_usage(ctx, **usage)
    then()


@llm.llm_step(backoff=0)
def returns_usage(ctx: Any) -> Any:
    then()
    return {"text": "hello", "llm_usage": {"model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100}}


@llm.llm_step
def counts_statements(ctx: Any, keys: list[str], **options: Any) -> list[list[str]]:
    """Call under each key, and under the first again; return what that took of the database."""
    taken = []
    for key in [*keys, keys[0]]:
        with CaptureQueriesContext(connection) as captured:
            llm.call(ctx, key, answer, **options)
        taken.append([_shape(query["sql"]) for query in captured.captured_queries])
    return taken


def _shape(statement: str) -> str:
    """The verb of a statement and its table."""
    verb = statement.split(maxsplit=1)[0]
    table = re.search(r"(?:FROM|INTO|UPDATE) \"?(baton_\w+)", statement)
    return f"{verb} {table[1]}" if table else verb


@step
def fails(ctx: Any) -> None:
    raise RuntimeError("as it is told")


@step
def mourns(ctx: Any) -> None:
    """Run never; its hook calls."""


@mourns.on_dependency_discarded
def call_for_help(ctx: Any, reason: str) -> None:
    ctx.logger.info("%s", llm.call(ctx, "k", answer))
    llm.record_usage(ctx, model="gpt-4o", input_tokens=1000, output_tokens=100)


class FlatPricing:
    """A project's own prices: a quarter for each call of what it knows."""

    def cost(self, usage: Usage) -> Decimal | None:
        return Decimal("0.25") if usage.model == "gpt-4o" else None


@step(backoff=0)
def calls_and_sends(ctx: Any) -> Any:
    return [llm.call(ctx, "summary", answer), ctx.once("summary", answer)]


@step(backoff=0)
async def awaits_once(ctx: Any) -> Any:
    done = await ctx.once("e", aanswer)
    then()
    return done


@step(max_attempts=2, backoff=0)
def once_with_an_async_function(ctx: Any) -> Any:
    return ctx.once("e", aanswer)


@llm.llm_step(backoff=0)
def reads_attributes(ctx: Any) -> Any:
    found = llm.call(ctx, "k", answer)
    then()
    return found.choices[0].content


@step(backoff=0)
def effects_twice(ctx: Any) -> Any:
    return [ctx.once("e", answer), ctx.once("e", answer)]
