"""Usages by hand, and those that a body returns."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from baton import Workflow, llm, step
from baton.llm.stats import cost_by_model, steps_for_workflow, workflow_totals
from baton.models import StepStat
from baton.testing import drain, perform
from tests.llm import scripted
from tests.llm.free_steps import BODY, adoes, did, does

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]

TOKENS: dict[str, Any] = {"input_tokens": 1000, "output_tokens": 100, "cached_input_tokens": 400}
USAGE = {"model": "gpt-4o", **TOKENS}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*USAGE, "usage"]), inner),
    max_leaves=8,
)
USAGES = JSON | st.dictionaries(st.sampled_from([*USAGE, "cache_write_tokens", "reasoning_tokens"]), JSON)
COST = Decimal("0.0030")
"""600 x 2.50 + 400 x 1.25 + 100 x 10, for a million."""


def recorded(ctx: Any, **more: Any) -> None:
    llm.record_usage(ctx, **{**USAGE, **more})


# By hand --------------------------------------------------------------------------------------------------------------


def test_two_calls_in_a_step_give_two_rows():
    def body(ctx: Any) -> None:
        recorded(ctx)
        recorded(ctx, key="second")

    run = did(body)

    rows = steps_for_workflow(run.id)
    assert [(row["step_name"], row["model"], row["cost"], row["key"]) for row in rows] == [
        ("a", "gpt-4o", COST, ""),
        ("a", "gpt-4o", COST, "second"),
    ]
    assert workflow_totals(run.id)["cost"] == 2 * COST


def test_every_count_is_kept():
    counts: dict[str, Any] = {
        "input_tokens": 2**53 + 1,
        "output_tokens": 5,
        "cached_input_tokens": 4,
        "cache_write_tokens": 3,
        "reasoning_tokens": 2,
    }
    run = did(lambda ctx: llm.record_usage(ctx, model="m", provider="us", duration=1.5, **counts))

    (row,) = steps_for_workflow(run.id)
    assert {name: row[name] for name in counts} == counts
    assert (row["provider"], row["duration"], row["cost"]) == ("us", 1.5, None)


def test_model_of_a_step_that_has_none_is_not_known():
    run = did(lambda ctx: recorded(ctx, model=ctx.model))

    ((model, why),) = [(row["model"], row["unpriced_because"]) for row in steps_for_workflow(run.id)]
    assert (model, why) == ("", "the model is not known")


def test_usage_fills_the_call_of_its_key_whose_answer_said_nothing():
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after it"))]

    def body(ctx: Any) -> None:
        llm.call(ctx, "k", lambda: "only text", model="gpt-4o")
        recorded(ctx, key="k")
        scripted.then()

    run = did(body)

    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["unpriced"], totals["cost"], totals["served"]) == (1, 0, COST, 1)
    assert totals["cached_input_tokens"] == 400


def test_usage_of_a_call_that_said_it_itself_is_not_counted_twice():
    def body(ctx: Any) -> None:
        llm.call(ctx, "k", lambda: {"model": "gpt-4o", "usage": TOKENS})
        recorded(ctx, key="k")

    run = did(body)

    assert (workflow_totals(run.id)["calls"], workflow_totals(run.id)["cost"]) == (1, COST)


WRONG = {
    "text for a count": ({"input_tokens": "1000"}, "TypeError: record_usage: input_tokens is '1000'"),
    "float for a count": ({"output_tokens": 1.5}, "TypeError: record_usage: output_tokens is 1.5"),
    "bool for a count": ({"reasoning_tokens": True}, "TypeError: record_usage: reasoning_tokens is True"),
    "negative count": ({"cached_input_tokens": -1}, "ValueError: record_usage: cached_input_tokens is -1"),
    "count without end": ({"output_tokens": 2**63}, "ValueError: record_usage: output_tokens is 9223372036854775808"),
    "key of a number": ({"key": 5}, "TypeError: The key of a call is 5: give a str."),
    "empty key": ({"key": ""}, "ValueError: The key of a call is ''"),
    "key with NUL": ({"key": "a\x00"}, "ValueError: The key of a call is"),
    "long key": ({"key": "k" * 256}, "ValueError: The key of a call is"),
    "duration of text": ({"duration": "long"}, "TypeError: record_usage: duration is 'long'"),
    "duration without end": ({"duration": float("inf")}, "ValueError: record_usage: duration is inf"),
}


@pytest.mark.parametrize(("wrong", "why"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("performed", [False, True], ids=["drained", "performed"])
def test_wrong_usage_is_refused_and_nothing_is_written(wrong, why, performed):
    def body(ctx: Any) -> None:
        recorded(ctx, **wrong)

    if performed:
        BODY[:] = [body]
        with pytest.raises((TypeError, ValueError)) as raised:
            perform(does)
        assert f"{raised.type.__name__}: {raised.value}".startswith(why)
    else:
        run = did(body, max_attempts=1)
        assert run.steps["a"].error.startswith(why)
    assert not StepStat.objects.exists()


@pytest.mark.parametrize("name", ["gpt\x004o", "\ud800", "m" * 300, ""], ids=["nul", "surrogate", "long", "empty"])
def test_model_of_any_text_is_recorded(name):
    run = did(lambda ctx: recorded(ctx, model=name, provider=name))

    assert run.state == "completed", run.steps["a"].error
    assert workflow_totals(run.id)["unpriced"] == 1


def test_parts_larger_than_the_whole_are_kept_and_unpriced():
    run = did(lambda ctx: recorded(ctx, cached_input_tokens=1001))

    (row,) = steps_for_workflow(run.id)
    assert (row["cached_input_tokens"], row["cost"]) == (1001, None)
    assert row["unpriced_because"] == "of 1000 input tokens, 1001 cannot be cached and 0 written to a cache"


def test_usage_recorded_in_a_transaction_that_is_rolled_back_is_counted_with_the_settle():
    def body(ctx: Any) -> None:
        with transaction.atomic():
            recorded(ctx)
            recorded(ctx, key="k")
            transaction.set_rollback(True)

    run = did(body)

    assert (workflow_totals(run.id)["calls"], workflow_totals(run.id)["cost"]) == (2, 2 * COST)


@pytest.mark.django_db(transaction=True)
def test_usage_is_recorded_in_an_async_body_and_in_a_thread_of_it():
    async def body(ctx: Any) -> None:
        recorded(ctx)
        await asyncio.to_thread(recorded, ctx)

    run = did(body, step=adoes)

    assert workflow_totals(run.id)["cost"] == 2 * COST


@pytest.mark.django_db(transaction=True)
def test_usage_is_recorded_in_threads_of_the_body_and_each_key_once():
    def body(ctx: Any) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: recorded(ctx, key=str(number % 3)), range(12)))

    run = did(body)

    assert run.state == "completed", run.steps["a"].error
    assert workflow_totals(run.id)["calls"] == 3


# Returned -------------------------------------------------------------------------------------------------------------


@llm.llm_step
def returns(ctx: Any, usage: Any) -> Any:
    return {"text": "hello", "llm_usage": usage}


@step
def sees(ctx: Any) -> Any:
    return dict(ctx.results)


def returned(usage: Any) -> Any:
    """A run whose step returns that as its usage."""
    return drain(Workflow("w").add("a", returns.bind(usage=usage)).insert())


def test_returned_usage_is_recorded_once_and_no_dependent_sees_it():
    run = drain(Workflow("w").add("a", returns.bind(usage=USAGE)).add("b", sees, deps=["a"]).insert())

    assert run.steps["b"].result == {"a": {"text": "hello"}}
    assert StepStat.objects.count() == 1
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["cached_input_tokens"]) == (1, COST, 400)


@pytest.mark.parametrize("duration", [1.5, "long", -1, float("nan")])
def test_returned_usage_is_recorded_with_the_time_that_it_took(duration):
    run = did(lambda ctx: {"llm_usage": {**USAGE, "duration": duration}})

    (row,) = steps_for_workflow(run.id)
    assert row["cost"] == COST
    assert row["duration"] == (1.5 if duration == 1.5 else None)


def test_returned_usage_that_nobody_can_read_counts_for_its_model():
    did(lambda ctx: {"llm_usage": {**USAGE, "input_tokens": -1}})

    assert [(row["model"], row["calls"], row["unpriced"]) for row in cost_by_model()] == [("gpt-4o", 1, 1)]


@pytest.mark.parametrize(
    ("usage", "calls", "unpriced", "cost"),
    [
        pytest.param([USAGE, USAGE], 2, 0, 2 * COST, id="list"),
        pytest.param([USAGE, "odd"], 2, 1, COST, id="list with something odd"),
        pytest.param([], 0, 0, None, id="empty list"),
        pytest.param(None, 0, 0, None, id="nothing"),
        pytest.param({"model": "gpt-4o", "usage": TOKENS}, 1, 0, COST, id="whole answer"),
        pytest.param(
            {"model": "gpt-4o", "prompt_tokens": 1000, "completion_tokens": 100, "cached_tokens": 400},
            1, 0, COST, id="words of another provider",
        ),
        pytest.param({**USAGE, "input_tokens": "many"}, 1, 1, None, id="text for a count"),
        pytest.param({**USAGE, "input_tokens": -1}, 1, 1, None, id="negative count"),
        pytest.param({**USAGE, "input_tokens": 10**30}, 1, 1, None, id="count without end"),
        pytest.param({**USAGE, "cached_input_tokens": 2000}, 1, 1, None, id="part larger than the whole"),
        pytest.param({**USAGE, "model": "a\x00b"}, 1, 1, None, id="model with NUL"),
        pytest.param({**USAGE, "model": {"a": 1}}, 1, 1, None, id="model of no text"),
        pytest.param({}, 1, 1, None, id="empty dict"),
        pytest.param("1000 tokens", 1, 1, None, id="text"),
        pytest.param(0, 1, 1, None, id="number"),
        pytest.param([[USAGE]], 1, 1, None, id="list in a list"),
    ],
)  # fmt: skip
def test_returned_usage_of_any_shape_is_counted_or_counted_as_unpriced(usage, calls, unpriced, cost):
    run = returned(usage)

    assert (run.state, run.steps["a"].result) == ("completed", {"text": "hello"})
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["unpriced"], totals["cost"]) == (calls, unpriced, cost)


@hypothesis_settings(max_examples=40)
@given(usage=USAGES)
def test_returned_usage_of_any_json_fails_no_step(usage):
    run = returned(usage)

    assert (run.state, run.steps["a"].result) == ("completed", {"text": "hello"})


def test_returned_usage_may_be_an_object_of_a_client():
    details = SimpleNamespace(cached_tokens=400)
    usage = SimpleNamespace(prompt_tokens=1000, completion_tokens=100, prompt_tokens_details=details)

    run = did(lambda ctx: {"llm_usage": [usage, SimpleNamespace(model="gpt-4o", usage=usage)]}, model="gpt-4o")

    assert run.state == "completed", run.steps["a"].error
    assert workflow_totals(run.id)["cost"] == 2 * COST


def test_returned_usage_is_counted_also_where_the_rest_cannot_be_stored():
    run = did(lambda ctx: {"odd": {1}, "llm_usage": USAGE})

    assert run.state == "failed"
    assert "cannot be stored" in run.steps["a"].error
    assert workflow_totals(run.id)["cost"] == COST


def test_dict_that_a_plain_step_returns_keeps_its_key():
    run = drain(Workflow("w").add("a", plainly).insert())

    assert run.steps["a"].result == {"llm_usage": 5}
    assert not StepStat.objects.exists()


@step
def plainly(ctx: Any) -> Any:
    return {"llm_usage": 5}


# Without a worker -----------------------------------------------------------------------------------------------------


def test_body_that_is_performed_calls_streams_and_records_nothing():
    def body(ctx: Any) -> Any:
        recorded(ctx, key="k")
        key = llm.call(ctx, "k", lambda call: call.idempotency_key)
        again = llm.call(ctx, "k", lambda **request: request, request={"model": "gpt-4o"})
        return {"key": key, "again": again, "chunks": list(llm.stream(ctx, "s", lambda: iter("ab"))), "llm_usage": 5}

    BODY[:] = [body]

    assert perform(does) == {"key": "", "again": {"model": "gpt-4o"}, "chunks": ["a", "b"]}
    assert not StepStat.objects.exists()


def test_async_body_that_is_performed_calls_and_streams():
    async def chunks() -> Any:
        yield "a"

    async def answer() -> str:
        return "hello"

    async def body(ctx: Any) -> Any:
        return [await llm.acall(ctx, "k", answer), [chunk async for chunk in llm.astream(ctx, "s", chunks)]]

    BODY[:] = [body]

    assert perform(adoes) == ["hello", ["a"]]


@pytest.mark.parametrize("wrong", [{"key": ""}, {"key": "k", "on_ambiguous": "again"}, {"key": "k", "modle": "x"}])
def test_wrong_use_is_refused_also_where_a_body_is_performed(wrong):
    key = wrong.pop("key")
    BODY[:] = [lambda ctx: llm.call(ctx, key, lambda: "hello", **wrong)]

    with pytest.raises((TypeError, ValueError)):
        perform(does)
