"""Calls from wherever a body may be: threads, tasks, event loops, twice at once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from baton import llm
from baton.exceptions import CallInProgressError
from baton.llm.stats import steps_for_workflow, workflow_totals
from baton.models import LedgerEntry
from tests.llm.free_steps import adoes, did

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]

ANSWER = {"model": "gpt-4o", "usage": {"input_tokens": 1000, "output_tokens": 100}}
COST = Decimal("0.0035")
"""1000 x 2.50 + 100 x 10, for a million."""


def nobody() -> Any:
    pytest.fail("a stored answer was called again")


def test_plain_call_in_an_async_body_within_the_transaction_of_a_test():
    run = did(plainly_in_async, step=adoes)

    assert run.state == "completed", run.steps["a"].error
    assert workflow_totals(run.id)["cost"] == 2 * COST


@pytest.mark.django_db(transaction=True)
def test_plain_call_in_an_async_body():
    run = did(plainly_in_async, step=adoes)

    assert run.state == "completed", run.steps["a"].error
    assert workflow_totals(run.id)["cost"] == 2 * COST


async def plainly_in_async(ctx: Any) -> None:
    for key in ("one", "two", "one"):
        llm.call(ctx, key, lambda: ANSWER)
    assert list(llm.stream(ctx, "three", lambda: iter("ab"))) == ["a", "b"]


@pytest.mark.django_db(transaction=True)
def test_calls_in_threads_of_the_body_are_kept_and_leave_no_connection():
    left = []

    def in_thread(ctx: Any, number: int) -> None:
        llm.call(ctx, str(number), lambda: ANSWER)
        assert llm.call(ctx, str(number), nobody) == ANSWER
        assert list(llm.stream(ctx, f"s{number}", lambda: iter([ANSWER]))) == [ANSWER]
        left.append(connections["default"].connection)

    def body(ctx: Any) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: in_thread(ctx, number), range(16)))

    run = did(body)

    assert run.state == "completed", run.steps["a"].error
    assert left == [None] * 16
    assert workflow_totals(run.id)["cost"] == 32 * COST


@pytest.mark.django_db(transaction=True)
def test_calls_in_tasks_of_an_async_body_run_side_by_side():
    together = asyncio.Barrier(8)

    async def answer() -> Any:
        await together.wait()
        return ANSWER

    async def body(ctx: Any) -> None:
        await asyncio.gather(*(llm.acall(ctx, str(number), answer) for number in range(8)))

    run = did(body, step=adoes)

    assert run.state == "completed", run.steps["a"].error
    assert workflow_totals(run.id)["cost"] == 8 * COST


@pytest.mark.django_db(transaction=True)
def test_calls_in_threads_of_an_async_body_are_kept():
    async def body(ctx: Any) -> None:
        await asyncio.gather(*(asyncio.to_thread(llm.call, ctx, str(number), lambda: ANSWER) for number in range(8)))

    run = did(body, step=adoes)

    assert run.state == "completed", run.steps["a"].error
    assert workflow_totals(run.id)["cost"] == 8 * COST


def test_key_that_is_used_twice_is_called_once():
    run = did(lambda ctx: [llm.call(ctx, "k", lambda: ANSWER), llm.call(ctx, "k", nobody)])

    assert run.steps["a"].result == [ANSWER, ANSWER]
    assert [(row["from_ledger"], row["cost"], row["saved"]) for row in steps_for_workflow(run.id)] == [
        (False, COST, Decimal(0)),
        (True, Decimal(0), COST),
    ]


def test_key_that_is_used_within_its_own_call_is_refused():
    def body(ctx: Any) -> Any:
        def fn() -> Any:
            with pytest.raises(CallInProgressError, match="Give each call a key of its own"):
                llm.call(ctx, "k", nobody)
            return ANSWER

        return llm.call(ctx, "k", fn)

    run = did(body)

    assert run.steps["a"].result == ANSWER
    assert workflow_totals(run.id)["calls"] == 1


def test_key_of_a_stream_that_is_still_read_is_refused():
    def body(ctx: Any) -> Any:
        first = llm.stream(ctx, "k", lambda: iter(["a", ANSWER]))
        assert next(first) == "a"
        with pytest.raises(CallInProgressError):
            next(llm.stream(ctx, "k", nobody))
        return list(first)

    run = did(body)

    assert run.steps["a"].result == [ANSWER]


@pytest.mark.django_db(transaction=True)
def test_of_two_threads_that_use_a_key_at_once_one_calls_and_the_other_is_refused():
    is_begun, is_refused = threading.Event(), threading.Event()

    def fn() -> Any:
        is_begun.set()
        assert is_refused.wait(20)
        return ANSWER

    def body(ctx: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(llm.call, ctx, "k", fn)
            assert is_begun.wait(20)
            with pytest.raises(CallInProgressError):
                llm.call(ctx, "k", nobody)
            is_refused.set()
            return first.result()

    run = did(body)

    assert (run.state, run.steps["a"].result) == ("completed", ANSWER)
    assert workflow_totals(run.id)["calls"] == LedgerEntry.objects.count() == 1


def test_step_that_lets_a_refusal_of_a_key_through_is_discarded_at_once():
    def body(ctx: Any) -> Any:
        return llm.call(ctx, "k", lambda: llm.call(ctx, "k", nobody))

    run = did(body)

    assert (run.state, run.steps["a"].attempt) == ("failed", 1)
    assert run.steps["a"].error == (
        "Step 'a', key 'k': this execution is already calling under it. Give each call a key of its own."
    )


@pytest.mark.django_db(transaction=True)
def test_plain_body_may_run_an_event_loop_of_its_own_and_leaves_no_connection():
    async def answer() -> Any:
        return ANSWER

    async def chunks() -> Any:
        yield ANSWER

    async def main(ctx: Any) -> None:
        await asyncio.gather(*(llm.acall(ctx, str(number), answer) for number in range(4)))
        assert [chunk async for chunk in llm.astream(ctx, "s", chunks)] == [ANSWER]
        llm.record_usage(ctx, model="gpt-4o", input_tokens=1000, output_tokens=100)
        left.append(await sync_to_async(lambda: connections["default"].connection)())

    left: list[Any] = []
    run = did(lambda ctx: asyncio.run(main(ctx)))

    assert run.state == "completed", run.steps["a"].error
    assert left == [None]
    assert workflow_totals(run.id)["cost"] == 6 * COST


@pytest.mark.django_db(transaction=True)
def test_async_stream_that_a_plain_body_leaves_is_marked_for_its_loop_is_gone():
    async def chunks() -> Any:
        yield "he"
        yield ANSWER

    async def main(ctx: Any) -> Any:
        return await anext(aiter(llm.astream(ctx, "s", chunks)))

    run = did(lambda ctx: asyncio.run(main(ctx)))

    assert (run.state, run.steps["a"].result) == ("completed", "he")
    entry = LedgerEntry.objects.get()
    assert (entry.state, entry.error) == ("ambiguous", "RuntimeError: its event loop ended before it")
