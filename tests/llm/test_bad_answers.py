"""Answers, prices and bodies as bad as they come: what was paid is kept and counted, the step says what is wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import io
import itertools
import json
import logging
import math
import signal
import sqlite3
import threading
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, Generic, TypeVar
from uuid import uuid4

import pydantic
import pytest
from django.db import connection, transaction
from fake_llm import PRICES, Failure, FakeProvider
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from baton import Cancel, Discard, Snooze, llm
from baton.exceptions import AnswerNotStorableError, StepTakenError
from baton.llm import capture
from baton.llm.stats import steps_for_workflow, workflow_totals
from baton.models import DebugLog, LedgerEntry, StepStat, WorkflowRun
from baton.sweep import sweep
from baton.testing import drain
from tests.clock import expire_leases
from tests.llm import provider_steps
from tests.llm.free_steps import adoes, did, inserted
from tests.utils import wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]

T = TypeVar("T")
USAGE = {"input_tokens": 1000, "output_tokens": 100, "cached_input_tokens": 400}
PAID = {"model": "gpt-4o", "usage": USAGE}
ANSWER = {**PAID, "text": "hello"}
COST = Decimal("0.0030")
"""600 x 2.50 + 400 x 1.25 + 100 x 10, for a million."""
BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def nobody() -> Any:
    pytest.fail("a stored answer was called again")


def entries(run: Any) -> list[tuple[int, str]]:
    return list(LedgerEntry.objects.filter(run=run).order_by("id").values_list("number", "state"))


def attempts(run: Any) -> list[tuple[str, str]]:
    return [(each["outcome"], each["error"] or "") for each in run.steps["a"].attempts]


def once(*behaviours: Any) -> Callable[[], Any]:
    """A function that does one thing after the other: raises an exception, or gives what is no exception."""
    script = iter(behaviours)

    def fn() -> Any:
        behaviour = next(script)
        if isinstance(behaviour, BaseException):
            raise behaviour
        return behaviour() if callable(behaviour) else behaviour

    return fn


# Shapes ---------------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
SHAPELESS = st.recursive(
    JSON | st.binary() | st.floats() | st.decimals() | st.dates() | st.sets(st.integers()) | st.complex_numbers(),
    lambda inner: (
        st.tuples(inner) | st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)


def test_any_json_is_given_as_it_is_and_the_same_on_a_replay():
    keys = map(str, itertools.count())

    def body(ctx: Any) -> None:
        @hypothesis_settings(max_examples=100)
        @given(answer=JSON)
        def check(answer: Any) -> None:
            key = next(keys)
            first = llm.call(ctx, key, lambda: answer)
            assert repr(first) == repr(answer)
            assert repr(llm.call(ctx, key, nobody)) == repr(first)
            chunks = list(llm.stream(ctx, f"s{key}", lambda: iter([answer])))
            assert repr(chunks) == repr([answer]) == repr(list(llm.stream(ctx, f"s{key}", nobody)))

        check()

    run = did(body)

    assert run.state == "completed", run.steps["a"].error


def test_answer_of_any_shape_is_given_as_a_replay_gives_it_or_named_and_never_called_again():
    keys = map(str, itertools.count())

    def outcome(ctx: Any, key: str, fn: Callable[[], Any]) -> str:
        try:
            return repr(llm.call(ctx, key, fn))
        except AnswerNotStorableError as exc:
            return str(exc).partition("for it is")[0]

    def body(ctx: Any) -> None:
        @hypothesis_settings(max_examples=100)
        @given(answer=SHAPELESS)
        def check(answer: Any) -> None:
            key = next(keys)
            assert outcome(ctx, key, lambda: answer) == outcome(ctx, key, nobody)

        check()

    run = did(body)

    assert run.state == "completed", run.steps["a"].error
    assert set(LedgerEntry.objects.values_list("state", flat=True)) == {"answered"}


class Colour(enum.StrEnum):
    RED = "red"


class Plain(pydantic.BaseModel):
    name: str
    price: Decimal = Decimal("1.50")
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    colour: Colour = Colour.RED
    parts: tuple[int, ...] = ()


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(validate_by_name=True)

    stop_reason: str = pydantic.Field(alias="stopReason")


class TwiceAliased(pydantic.BaseModel):
    """What it is written as is not what it is read from."""

    tokens: int = pydantic.Field(default=0, validation_alias="in", serialization_alias="out")


class WithFactory(pydantic.BaseModel):
    id: str = pydantic.Field(default_factory=lambda: uuid4().hex)


class Computing(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    words: list[str]

    @pydantic.computed_field
    def count(self) -> int:
        return len(self.words)


class Validating(pydantic.BaseModel):
    """Takes no answer of its own back."""

    name: str

    @pydantic.field_validator("name")
    @classmethod
    def shout(cls, name: str) -> str:
        return f"{name}!"


class Listing(pydantic.RootModel[list[int]]):
    pass


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Loose(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Outer:
    class Inner(pydantic.BaseModel):
        name: str


@dataclasses.dataclass
class Data:
    name: str
    parts: tuple[int, int] = (1, 2)


class LookAlike:
    """Says that it is pydantic's and knows no words."""

    def model_dump(self) -> Any:
        return {"name": "x", "at": datetime(2026, 1, 1, tzinfo=UTC)}


def local() -> Any:
    class Local(pydantic.BaseModel):
        name: str

    return Local(name="x")


SAME = {
    "nothing": None,
    "text": "a\x00b\ud800c",
    "bytes": b"\x00\xff",
    "huge int": 10**4000,
    "negative zero": -0.0,
    "nested": {"a": [{"b": [[], {}]}]},
    "model": Plain(name="x", price=Decimal("0.10"), parts=(1, 2)),
    "aliased model": Aliased(stopReason="end"),
    "model with a factory": WithFactory(),
    "root model": Listing([1, 2]),
    "model with extras": Loose(**{"a b": 1, "model_name": [None]}),
    "class inside a class": Outer.Inner(name="x"),
    "model with text that no database takes": Plain(name="a\x00\ud800"),
}
AS_JSON: dict[str, tuple[Any, Any]] = {
    "tuple": ((1, (2, 3)), [1, [2, 3]]),
    "decimal": ({"price": Decimal("0.10")}, {"price": "0.10"}),
    "date": (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00Z"),
    "enum member inside": ([Colour.RED], ["red"]),
    "dict with order": ([OrderedDict(a=1)], [{"a": 1}]),
    "dict with default": ({"a": defaultdict(list)}, {"a": {}}),
    "dataclass": (Data("x"), {"name": "x", "parts": [1, 2]}),
    "model of a function": (local(), {"name": "x"}),
    "model that takes nothing back": (Validating(name="x"), {"name": "x!"}),
    "model that computes and forbids": (Computing(words=["a"]), {"words": ["a"], "count": 1}),
    "model that is written by other names": (TwiceAliased.model_validate({"in": 5}), {"tokens": 5}),
    "look-alike": (LookAlike(), {"name": "x", "at": "2026-01-01T00:00:00Z"}),
}


def given_twice(answer: Any) -> tuple[Any, Any]:
    """What a call gives at first and on a replay."""
    seen = []
    run = did(lambda ctx: seen.extend([llm.call(ctx, "k", lambda: answer), llm.call(ctx, "k", nobody)]))
    assert run.state == "completed", run.steps["a"].error
    first, again = seen
    return first, again


@pytest.mark.parametrize("answer", SAME.values(), ids=SAME)
def test_answer_is_given_as_the_same_of_the_same_class_at_first_and_on_a_replay(answer):
    first, again = given_twice(answer)

    assert [(type(each), each) for each in (first, again)] == [(type(answer), answer)] * 2


@pytest.mark.parametrize(("answer", "as_json"), AS_JSON.values(), ids=AS_JSON)
def test_answer_that_only_json_can_give_back_is_given_so_at_first_too(answer, as_json):
    first, again = given_twice(answer)

    assert json.dumps(first) == json.dumps(again) == json.dumps(as_json)


def test_generic_model_is_given_as_the_class_it_is_made_of():
    first, again = given_twice(Page[Plain](items=[Plain(name="x")]))

    assert type(first) is type(again) is Page
    assert first == again
    assert first.items[0]["name"] == "x"


def test_private_attributes_are_gone_at_first_too():
    answer = Plain(name="x")
    object.__setattr__(answer, "_request_id", "req_1")

    first, again = given_twice(answer)

    assert not hasattr(first, "_request_id")
    assert not hasattr(again, "_request_id")


class Paid:
    """An answer that says what it used, and holds something."""

    def __init__(self, held: Any = None) -> None:
        self.model, self.usage, self.held = "gpt-4o", USAGE, held


class RaisesWhenShown(Paid):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class RaisesWhenDumped(Paid):
    def model_dump(self, **_: Any) -> Any:
        raise RuntimeError("no dump")


class RaisesWithoutText(Paid):
    def model_dump(self, **_: Any) -> Any:
        class MuteError(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        raise MuteError


class RaisesWhenCompared(pydantic.BaseModel):
    model: str = "gpt-4o"
    usage: dict[str, int] = USAGE

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None


class NoNumber(pydantic.BaseModel):
    model: str = "gpt-4o"
    usage: dict[str, int] = USAGE
    score: float


def circular() -> Any:
    answer: dict[str, Any] = dict(PAID)
    answer["self"] = answer
    return answer


def deep() -> Any:
    inner: Any = []
    for _ in range(300):
        inner = [inner]
    return {**PAID, "deep": inner}


UNSTORABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "set": (lambda: {**PAID, "held": {1}}, "of type set, which JSON cannot hold: make it a list"),
    "set in an object": (lambda: Paid(held={1}), "of type tests.llm.test_bad_answers.Paid, which JSON cannot hold"),
    "not a number": (lambda: {**PAID, "held": math.nan}, "nan, a float that JSON does not have"),
    "bytes inside": (lambda: {**PAID, "held": b"x"}, "of type bytes, which JSON cannot hold"),
    "key that is no text": (lambda: {**PAID, 5: 5}, "the key 5 of type int: keys must be str"),
    "int without end": (lambda: {**PAID, "held": 10**5000}, "an int of more than 4,300 digits"),
    "circle": (circular, "a container that holds itself"),
    "too deep": (deep, "more than 200"),
    "raises when shown": (lambda: RaisesWhenShown({1}), "RaisesWhenShown, which JSON cannot hold"),
    "raises when dumped": (RaisesWhenDumped, "not readable: RuntimeError: no dump"),
    "raises an error without text": (RaisesWithoutText, "not readable: MuteError"),
    "model without a number": (lambda: NoNumber(score=math.nan), "nan, a float that JSON does not have"),
}


@BOTH
@pytest.mark.parametrize(("answer", "why"), UNSTORABLE.values(), ids=UNSTORABLE)
def test_answer_that_cannot_be_stored_is_paid_counted_and_named_and_never_called_again(answer, why, is_async):
    calls = []

    def fn() -> Any:
        calls.append("call")
        return answer()

    async def asks(ctx: Any) -> Any:
        return await llm.acall(ctx, "k", fn)

    run = did(asks, step=adoes) if is_async else did(lambda ctx: llm.call(ctx, "k", fn))
    run.retry()
    drain(run)

    assert (run.state, calls) == ("failed", ["call"])
    first, again = attempts(run)
    assert why in first[1]
    assert "It was paid for and is not called again" in first[1]
    assert "is not called again" in again[1]
    assert entries(run) == [(1, "answered")]
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["unpriced"]) == (1, COST, 0)


class Response:
    """As the clients for HTTP give: what was paid for is kept in private, and beside it what nobody should read."""

    def __init__(self) -> None:
        self.status_code, self._content, self._headers = 200, b"paid words", {"Authorization": "Bearer sk-1"}

    @property
    def text(self) -> str:
        return self._content.decode()


class Slotted:
    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = "paid words"


class Silent:
    def __init__(self) -> None:
        self.text, self.held = "paid words", {1}

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def without_end() -> Any:
    inner: Any = []
    for _ in range(100_000):
        inner = [inner]
    return {"text": "paid words", "deep": inner}


class Unread(io.StringIO):
    text = "paid words"


WORDS: dict[str, Callable[[], Any]] = {
    "int without end": lambda: {"text": "paid words", "n": 10**5000},
    "depth without end": without_end,
    "not a number": lambda: {"text": "paid words", "n": math.inf},
    "keys that are written the same": lambda: {1: "paid words", "1": "others"},
    "object with private parts": Response,
    "object in a dict": lambda: {"a": [Response()]},
    "object with slots": Slotted,
    "object without a repr": Silent,
    "mapping that is no dict": lambda: UserDict(text="paid words"),
    "file": Unread,
    "exception": lambda: ValueError("paid words"),
    "namespace with more": lambda: SimpleNamespace(text="paid words", more=object()),
}


@pytest.mark.parametrize("answer", WORDS.values(), ids=WORDS)
def test_words_of_an_answer_that_cannot_be_given_back_are_kept_and_no_secret_beside_them(answer):
    run = did(lambda ctx: llm.call(ctx, "k", once(answer)))

    assert run.state == "failed"
    assert "It was paid for and is not called again" in run.steps["a"].error
    ((state, text),) = LedgerEntry.objects.values_list("state", "answer")
    assert state == "answered"
    assert "paid words" in text
    assert "sk-1" not in text


class OfItsClass:
    """What it says stands with its class."""

    model, usage, text = "gpt-4o", USAGE, "hello"


class Computed:
    def __init__(self) -> None:
        self.model, self.usage, self.parts = "gpt-4o", USAGE, ["hel", "lo"]

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def refused(self) -> str:
        raise RuntimeError("a refusal has no words")


@pytest.mark.parametrize("answer", [SimpleNamespace(text="hello"), OfItsClass(), Computed()])
def test_object_is_given_with_all_that_it_says_at_first_and_on_a_replay(answer):
    first, again = given_twice(answer)

    assert (first.text, again.text) == ("hello", "hello")
    assert first == again


def test_answer_that_cannot_be_stored_is_asked_for_anew_where_a_retry_says_so():
    fn = once({1}, ANSWER)
    run = did(lambda ctx: llm.call(ctx, "k", fn))

    run.retry(new_answers=True)
    drain(run)

    assert (run.state, run.steps["a"].result) == ("completed", ANSWER)
    assert workflow_totals(run.id)["calls"] == 2


def test_answer_whose_comparison_raises_is_given():
    first, again = given_twice(RaisesWhenCompared())

    assert type(first) is type(again) is RaisesWhenCompared


def test_chunk_that_cannot_be_stored_is_told_at_the_end_and_the_stream_is_counted():
    seen: list[Any] = []

    def body(ctx: Any) -> None:
        seen.extend(llm.stream(ctx, "k", lambda: iter([{1}, ANSWER])))

    run = did(body)

    assert (run.state, entries(run)) == ("failed", [(1, "answered")])
    assert "of type set" in run.steps["a"].error
    assert workflow_totals(run.id)["cost"] == COST


@pytest.mark.parametrize("answer", [ANSWER, "text", b"bytes", None, 5, Plain(name="x")], ids=repr)
@BOTH
def test_what_is_no_stream_is_a_stream_of_one_chunk(answer, is_async):
    seen: list[Any] = []

    async def reads(ctx: Any) -> None:
        seen.extend([[chunk async for chunk in llm.astream(ctx, "k", lambda: answer)] for _ in range(2)])

    run = (
        did(reads, step=adoes)
        if is_async
        else did(lambda ctx: seen.extend(list(llm.stream(ctx, "k", lambda: answer)) for _ in range(2)))
    )

    assert run.state == "completed", run.steps["a"].error
    assert seen == [[answer], [answer]]
    assert workflow_totals(run.id)["cost"] == (COST if answer is ANSWER else None)


def test_answer_that_was_stored_by_a_call_is_the_only_chunk_of_a_stream_and_chunks_are_a_list():
    def body(ctx: Any) -> list[Any]:
        llm.call(ctx, "called", lambda: ANSWER)
        list(llm.stream(ctx, "streamed", lambda: iter(["he", ANSWER])))
        return [list(llm.stream(ctx, "called", nobody)), llm.call(ctx, "streamed", nobody)]

    run = did(body)

    assert run.steps["a"].result == [[ANSWER], ["he", ANSWER]]


def test_plain_stream_is_read_by_an_async_body():
    seen: list[Any] = []

    async def reads(ctx: Any) -> None:
        parts = ["he", ANSWER]
        seen.extend([[chunk async for chunk in llm.astream(ctx, "k", lambda: iter(parts))] for _ in range(2)])

    run = did(reads, step=adoes)

    assert run.state == "completed", run.steps["a"].error
    assert seen == [["he", ANSWER]] * 2


def test_generator_is_no_answer_and_is_named():
    run = did(lambda ctx: llm.call(ctx, "k", lambda: (each for each in [ANSWER])))

    assert (run.state, entries(run)) == ("failed", [(1, "answered")])
    assert "of type generator, which JSON cannot hold" in run.steps["a"].error
    assert workflow_totals(run.id)["unpriced"] == 1


def test_coroutine_that_nobody_awaits_is_refused_as_a_call_that_was_never_made():
    async def asks() -> Any:
        return nobody()

    run = did(lambda ctx: llm.call(ctx, "k", asks), max_attempts=2)

    assert (run.state, entries(run)) == ("failed", [(1, "failed"), (2, "failed")])
    assert "The function gave a coroutine, which nobody awaits: use acall()." in run.steps["a"].error
    assert workflow_totals(run.id)["calls"] == workflow_totals(run.id)["ambiguous"] == 0


def test_async_stream_in_a_plain_one_is_refused():
    async def asks() -> Any:
        return nobody()

    run = did(lambda ctx: list(llm.stream(ctx, "k", asks)), max_attempts=1)

    assert (run.state, entries(run)) == ("failed", [(1, "failed")])
    assert "use astream()" in run.steps["a"].error


def test_plain_answer_of_an_async_call_is_taken():
    async def asks(ctx: Any) -> Any:
        return await llm.acall(ctx, "k", lambda: ANSWER)

    run = did(asks, step=adoes)

    assert (run.steps["a"].result, workflow_totals(run.id)["cost"]) == (ANSWER, COST)


# Large and strange text -----------------------------------------------------------------------------------------------


def test_answer_of_20_mb_is_kept_priced_and_given_again(settings):
    settings.BATON = {**settings.BATON, "PRICES": PRICES, "CURRENCY": "EUR"}
    sizes = []

    with FakeProvider(script=[Failure("huge", size=20_000_000)]) as provider:

        def body(ctx: Any) -> None:
            for _ in range(2):
                answer = llm.call(ctx, "k", lambda: provider_steps.chat(provider.url, "hello"))
                sizes.append(len(answer.choices[0].message.content))

        run = did(body)

        assert run.state == "completed", run.steps["a"].error
        assert sizes[0] == sizes[1] >= 20_000_000
        assert workflow_totals(run.id)["cost"] == provider.invoice.total()
    provider_steps.close_clients()


def test_prompt_and_answer_with_nul_are_kept_also_where_they_are_captured(settings):
    settings.BATON = {**settings.BATON, "PRICES": PRICES, "CURRENCY": "EUR", "CAPTURE": True}
    answers: list[str] = []
    with FakeProvider(answer="a\x00b\ud800") as provider:

        def body(ctx: Any) -> None:
            request = {"model": "gpt-4o-mini", "messages": provider_steps.said("nul \x00")}
            create = provider_steps.gpt(provider.url).chat.completions.create
            given = [llm.call(ctx, "k", create, request=request) for _ in range(2)]
            answers.extend(each.choices[0].message.content for each in given)

        run = did(body)

        assert run.state == "completed", run.steps["a"].error
        assert provider.requests[0].prompt == "nul \x00"
        assert answers == ["a\x00b\ud800"] * 2
        assert workflow_totals(run.id)["cost"] == provider.invoice.total()
    (row,) = capture.entries(run)
    assert row["request"]["messages"][0]["content"].startswith("nul ")
    provider_steps.close_clients()


@pytest.mark.parametrize("name", ["gpt\x004o", "gpt\ud800", "m" * 300, ""], ids=["nul", "surrogate", "long", "empty"])
def test_model_and_provider_of_any_text_fit_their_columns(name):
    run = did(lambda ctx: llm.call(ctx, "k", lambda: "hello", model=name, provider=name))

    assert run.state == "completed", run.steps["a"].error
    assert workflow_totals(run.id)["unpriced"] == 1
    assert StepStat.objects.get().model == LedgerEntry.objects.get().model


# Prices ---------------------------------------------------------------------------------------------------------------


class _Pricing:
    answer: Any = None

    def cost(self, usage: Any) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Raising(_Pricing):
    answer = RuntimeError("no price today")


class Leaving(_Pricing):
    answer = SystemExit("no price today")


class Floating(_Pricing):
    answer = 0.5


class Writing(_Pricing):
    answer = "0.5"


class NoNumberAtAll(_Pricing):
    answer = Decimal("nan")


class Paying(_Pricing):
    answer = Decimal(-1)


class Ruinous(_Pricing):
    answer = Decimal("1e30")


class Unmade(_Pricing):
    def __init__(self) -> None:
        raise RuntimeError("no prices at all")


class Asking(_Pricing):
    """Asks a table that is not there, of which PostgreSQL tells the rest of a transaction."""

    def cost(self, usage: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("SELECT price FROM nowhere")


class Knowing(_Pricing):
    answer = Decimal("0.123456789012")


BAD_PRICES = {
    "Raising": "Raising raised RuntimeError: no price today",
    "Leaving": "Leaving raised SystemExit: no price today",
    "Floating": "Floating says 0.5 (float), which is no Decimal",
    "Writing": "Writing says '0.5' (str), which is no Decimal",
    "NoNumberAtAll": "which is no number",
    "Paying": "which is negative",
    "Ruinous": "which is more than a row holds",
    "Unmade": "which cannot be used: RuntimeError: no prices at all",
    "Missing": "which cannot be used",
}


@pytest.mark.parametrize(("name", "why"), BAD_PRICES.items(), ids=BAD_PRICES)
def test_bad_price_leaves_the_answer_stored_its_tokens_counted_and_the_call_unpriced(settings, name, why):
    settings.BATON = {**settings.BATON, "PRICING": f"{__name__}.{name}"}

    run = did(lambda ctx: [llm.call(ctx, "k", lambda: ANSWER), llm.call(ctx, "k", nobody)])

    assert (run.state, run.steps["a"].result) == ("completed", [ANSWER, ANSWER])
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["unpriced"], totals["cost"], totals["input_tokens"]) == (1, 1, None, 1000)
    assert why in steps_for_workflow(run.id)[0]["unpriced_because"]


def test_query_of_a_price_that_fails_undoes_nothing_of_the_body_s_transaction(settings):
    settings.BATON = {**settings.BATON, "PRICING": f"{__name__}.Asking"}

    def body(ctx: Any) -> int:
        with transaction.atomic():
            llm.record_usage(ctx, model="gpt-4o", input_tokens=1, output_tokens=1)
            return WorkflowRun.objects.count()

    run = did(body, max_attempts=1)

    assert (run.state, run.steps["a"].result) == ("completed", 1), run.steps["a"].error
    assert (workflow_totals(run.id)["calls"], workflow_totals(run.id)["unpriced"]) == (1, 1)


def test_price_of_the_project_s_own_is_exact(settings):
    settings.BATON = {**settings.BATON, "PRICING": f"{__name__}.Knowing"}

    run = did(lambda ctx: llm.call(ctx, "k", lambda: ANSWER))

    assert workflow_totals(run.id)["cost"] == Decimal("0.123456789012")


# Capture --------------------------------------------------------------------------------------------------------------


def raising_hook(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no redaction today")


def test_redaction_hook_that_raises_loses_no_answer_and_lets_no_secret_through(settings):
    settings.BATON = {**settings.BATON, "CAPTURE": True, "REDACT_HOOK": f"{__name__}.raising_hook"}

    run = did(lambda ctx: llm.call(ctx, "k", lambda **_: ANSWER, request={"api_key": "sk-secret", "prompt": "whisper"}))

    assert (run.state, run.steps["a"].result) == ("completed", ANSWER)
    assert workflow_totals(run.id)["cost"] == COST
    kept = " ".join(map(str, DebugLog.objects.values_list("request", "response", "upstream")))
    assert "sk-secret" not in kept
    assert "whisper" not in kept


# Bodies that call wrongly ---------------------------------------------------------------------------------------------

NO_FUNCTION: Any = ANSWER
NO_TEXT: Any = 5
WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no function": (lambda ctx: llm.call(ctx, "k", NO_FUNCTION), "TypeError: The call 'k' is given {'model'"),
    "key of a number": (lambda ctx: llm.call(ctx, NO_TEXT, nobody), "TypeError: The key of a call is 5: give a str."),
    "no key": (lambda ctx: llm.call(ctx, None, nobody), "TypeError: The key of a call is None: give a str."),
    "empty key": (lambda ctx: llm.call(ctx, "", nobody), "ValueError: The key of a call is '': give 1 to 255"),
    "long key": (lambda ctx: llm.call(ctx, "k" * 256, nobody), "ValueError: The key of a call is 'kkkk"),
    "key with NUL": (lambda ctx: llm.call(ctx, "a\x00b", nobody), "ValueError: The key of a call is 'a"),
    "key with half a pair": (lambda ctx: llm.call(ctx, "\ud800", nobody), "ValueError: The key of a call is"),
    "unknown policy": (
        lambda ctx: llm.call(ctx, "k", nobody, on_ambiguous="again"),
        "ValueError: on_ambiguous is 'again': give 'repay', 'fail', 'ask'.",
    ),
    "unhashable policy": (lambda ctx: llm.call(ctx, "k", nobody, on_ambiguous=["fail"]), "ValueError: on_ambiguous"),
    "unknown option": (lambda ctx: llm.call(ctx, "k", nobody, modle="gpt-4o"), "TypeError:"),
    "request of text": (lambda ctx: llm.call(ctx, "k", nobody, request="hi"), "TypeError: request is 'hi'"),
    "model of a number": (lambda ctx: llm.call(ctx, "k", nobody, model=5), "TypeError: model is 5"),
    "provider of a number": (lambda ctx: llm.call(ctx, "k", nobody, provider=5), "TypeError: provider is 5"),
    "float of money": (
        lambda ctx: llm.call(ctx, "k", nobody, max_cost=0.5),
        "ValueError: 0.5 (float) is no exact amount",
    ),
    "negative money": (lambda ctx: llm.call(ctx, "k", nobody, max_cost=-1), "ValueError: -1 (int) is not from 0"),
    "half a token": (lambda ctx: llm.call(ctx, "k", nobody, max_output_tokens=0.5), "TypeError: max_output_tokens"),
    "stream without a key": (lambda ctx: list(llm.stream(ctx, "", nobody)), "ValueError: The key of a call is ''"),
}


@pytest.mark.parametrize(("body", "why"), WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused_before_anything_is_asked_or_written(body, why):
    run = did(body, max_attempts=1)

    assert run.state == "failed"
    assert run.steps["a"].error.startswith(why)
    assert not LedgerEntry.objects.exists()
    assert not StepStat.objects.exists()


def test_key_may_be_an_enum_member():
    run = did(lambda ctx: [llm.call(ctx, Colour.RED, lambda: ANSWER), llm.call(ctx, "red", nobody)])

    assert run.state == "completed", run.steps["a"].error
    assert LedgerEntry.objects.get().key == "red"


# The database goes away -----------------------------------------------------------------------------------------------


@pytest.fixture
def outage() -> Iterator[Callable[[], None]]:
    """Take the database away from this thread's connection; it is back once somebody has tried in vain."""
    tried = threading.Event()
    helpers: list[threading.Thread] = []

    class Trying(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "could not be written yet" in record.getMessage():
                tried.set()

    handler = Trying()
    logging.getLogger("baton.engine").addHandler(handler)

    def begin() -> None:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor, connection.copy("other").cursor() as other:
                cursor.execute("SELECT pg_backend_pid()")
                other.execute("SELECT pg_terminate_backend(%s)", cursor.fetchone())
                other.connection.close()
            tried.set()
            return
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 1")
        locked = threading.Event()

        def hold() -> None:
            other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            locked.set()
            tried.wait(20)
            other.execute("ROLLBACK")
            other.close()

        helpers.append(threading.Thread(target=hold))
        helpers[-1].start()
        assert locked.wait(20)

    yield begin
    logging.getLogger("baton.engine").removeHandler(handler)
    tried.set()
    for helper in helpers:
        helper.join()


@pytest.mark.django_db(transaction=True)
def test_answer_is_stored_when_the_database_is_back(outage):
    def fn() -> Any:
        outage()
        return ANSWER

    run = did(lambda ctx: llm.call(ctx, "k", fn))

    assert (run.state, run.steps["a"].attempt, run.steps["a"].result) == ("completed", 1, ANSWER)
    assert entries(run) == [(1, "answered")]
    assert (workflow_totals(run.id)["calls"], workflow_totals(run.id)["cost"]) == (1, COST)


@pytest.mark.django_db(transaction=True)
def test_stream_is_stored_when_the_database_is_back(outage):
    def chunks() -> Iterator[Any]:
        yield "hello"
        outage()
        yield ANSWER

    run = did(lambda ctx: list(llm.stream(ctx, "k", chunks)))

    assert (run.state, run.steps["a"].attempt, run.steps["a"].result) == ("completed", 1, ["hello", ANSWER])
    assert workflow_totals(run.id)["cost"] == COST


@pytest.mark.django_db(transaction=True)
def test_refusal_is_noted_as_one_when_the_database_is_back(outage):
    class RefusedError(Exception):
        status_code = 429

    def refuse() -> Any:
        outage()
        raise RefusedError("slow down")

    fn = once(refuse, ANSWER)
    run = did(lambda ctx: llm.call(ctx, "k", fn))

    assert (run.state, run.steps["a"].attempt) == ("completed", 2)
    assert attempts(run)[0] == ("failed", "RefusedError: slow down")
    assert entries(run) == [(1, "failed"), (2, "answered")]


@pytest.mark.django_db(transaction=True)
def test_usage_is_recorded_when_the_database_is_back(outage):
    def body(ctx: Any) -> None:
        outage()
        llm.record_usage(ctx, model="gpt-4o", input_tokens=1000, output_tokens=100, cached_input_tokens=400)

    run = did(body)

    assert run.state == "completed", run.steps["a"].error
    assert workflow_totals(run.id)["cost"] == COST


# Time runs out --------------------------------------------------------------------------------------------------------


def time_is_up() -> None:
    """Let the timer of the step strike now; where that is held back, go on."""
    signal.raise_signal(signal.SIGALRM)


async def aforever() -> Any:
    await asyncio.Event().wait()


class SlowToWrite(pydantic.BaseModel):
    """Its time runs out while it is written."""

    model: str = "gpt-4o"
    usage: dict[str, int] = USAGE

    def model_dump(self, **how: Any) -> Any:
        time_is_up()
        return super().model_dump(**how)


def test_time_that_runs_out_while_the_provider_answers_leaves_a_call_of_unknown_outcome():
    fn = once(time_is_up, ANSWER)

    run = did(lambda ctx: llm.call(ctx, "k", fn), timeout=60)

    assert (run.state, run.steps["a"].result) == ("completed", ANSWER)
    assert attempts(run) == [("timed_out", "timed out after 60 s"), ("completed", "")]
    assert entries(run) == [(1, "ambiguous"), (2, "answered")]


def test_time_that_runs_out_while_an_async_call_is_answered_leaves_it_of_unknown_outcome():
    fn = once(aforever, ANSWER)

    async def asks(ctx: Any) -> Any:
        return await llm.acall(ctx, "k", fn)

    run = did(asks, step=adoes, timeout=1)

    assert (run.state, run.steps["a"].result) == ("completed", ANSWER)
    assert attempts(run) == [("timed_out", "timed out after 1 s"), ("completed", "")]
    assert entries(run) == [(1, "ambiguous"), (2, "answered")]


def test_time_that_runs_out_while_the_answer_is_written_waits_until_it_is_stored():
    run = did(lambda ctx: llm.call(ctx, "k", once(SlowToWrite())).model, timeout=60)

    assert (run.state, run.steps["a"].result) == ("completed", "gpt-4o")
    assert attempts(run) == [("timed_out", "timed out after 60 s"), ("completed", "")]
    assert entries(run) == [(1, "answered")]
    assert (workflow_totals(run.id)["calls"], workflow_totals(run.id)["cost"]) == (1, COST)


def test_time_that_runs_out_while_the_answer_of_an_async_call_is_written_waits_until_it_is_stored():
    tasks: list[asyncio.Task[Any]] = []

    class Slow(SlowToWrite):
        def model_dump(self, **how: Any) -> Any:
            wait_until(tasks[0].cancelling)
            return super(SlowToWrite, self).model_dump(**how)

    fn = once(Slow())

    async def asks(ctx: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        return (await llm.acall(ctx, "k", fn))["model"]

    run = did(asks, step=adoes, timeout=1)

    assert (run.state, run.steps["a"].result) == ("completed", "gpt-4o")
    assert attempts(run) == [("timed_out", "timed out after 1 s"), ("completed", "")]
    assert entries(run) == [(1, "answered")]


@BOTH
def test_time_that_runs_out_in_a_stream_leaves_it_of_unknown_outcome(is_async):
    endings = iter([True, False])

    def chunks() -> Iterator[Any]:
        yield "he"
        if next(endings):
            time_is_up()
        yield ANSWER

    async def achunks() -> Any:
        yield "he"
        if next(endings):
            await aforever()
        yield ANSWER

    async def reads(ctx: Any) -> Any:
        return [chunk async for chunk in llm.astream(ctx, "k", achunks)]

    run = (
        did(reads, step=adoes, timeout=1)
        if is_async
        else did(lambda ctx: list(llm.stream(ctx, "k", chunks)), timeout=60)
    )

    assert (run.state, run.steps["a"].result) == ("completed", ["he", ANSWER])
    assert [outcome for outcome, _ in attempts(run)] == ["timed_out", "completed"]
    assert entries(run) == [(1, "ambiguous"), (2, "answered")]


def test_time_that_runs_out_in_one_left_stream_marks_the_others_too():
    behaviours = iter([time_is_up, lambda: None])

    def first() -> Iterator[Any]:
        yield "first"
        yield ANSWER

    def second() -> Iterator[Any]:
        yield "second"
        next(behaviours)()
        yield ANSWER

    def body(ctx: Any) -> None:
        next(llm.stream(ctx, "first", first))
        next(llm.stream(ctx, "second", second))

    run = did(body, timeout=60)

    assert run.state == "completed", run.steps["a"].error
    states = LedgerEntry.objects.order_by("key", "number").values_list("key", "state")
    assert list(states) == [
        ("first", "ambiguous"),
        ("first", "answered"),
        ("second", "ambiguous"),
        ("second", "answered"),
    ]


# The step is taken away -----------------------------------------------------------------------------------------------


def test_answer_of_a_run_that_is_cancelled_meanwhile_is_stored_and_nothing_more_is_called():
    def cancelled() -> Any:
        WorkflowRun.objects.get().cancel()
        return ANSWER

    def body(ctx: Any) -> None:
        llm.call(ctx, "one", cancelled)
        with pytest.raises(StepTakenError, match="so nothing was called"):
            llm.call(ctx, "two", nobody)

    run = did(body)

    node = run.steps["a"]
    assert (run.state, node.state) == ("cancelled", "cancelled")
    assert list(LedgerEntry.objects.values_list("key", "state")) == [("one", "answered")]
    assert workflow_totals(run.id)["cost"] == COST


@pytest.mark.parametrize("policy", ["repay", "ask"])
def test_answer_that_comes_after_another_worker_has_the_step_is_stored_and_serves_it(policy):
    """A worker that was taken for dead comes back with the answer."""

    def slow() -> Any:
        run = WorkflowRun.objects.get()
        expire_leases(run)
        sweep()
        drain(run)
        return ANSWER

    fn = once(slow, {**ANSWER, "text": "second"})
    run = inserted(lambda ctx: llm.call(ctx, "k", fn, on_ambiguous=policy))
    drain(run)

    assert run.state == "completed", run.steps["a"].error
    totals = workflow_totals(run.id)
    if policy == "repay":
        # Both were paid, and both are counted.
        assert entries(run) == [(1, "answered"), (2, "answered")]
        assert (totals["calls"], totals["cost"], totals["ambiguous"]) == (2, 2 * COST, 0)
        assert run.steps["a"].result["text"] == "second"
    else:
        # Nobody needs to be asked any more.
        assert entries(run) == [(1, "answered")]
        assert (totals["calls"], totals["cost"], totals["ambiguous"]) == (1, COST, 0)
        assert run.steps["a"].result == ANSWER


@pytest.mark.parametrize("policy", ["repay", "ask"])
def test_refusal_that_comes_after_another_worker_has_the_step_is_known_to_have_cost_nothing(policy):
    class RefusedError(Exception):
        status_code = 429

    def slow() -> Any:
        run = WorkflowRun.objects.get()
        expire_leases(run)
        sweep()
        drain(run)
        raise RefusedError("slow down")

    fn = once(slow, ANSWER)
    run = inserted(lambda ctx: llm.call(ctx, "k", fn, on_ambiguous=policy))
    drain(run)

    assert run.state == "completed", run.steps["a"].error
    assert entries(run) == [(1, "failed"), (2, "answered")]
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["cost"], totals["ambiguous"]) == (1, COST, 0)


@pytest.mark.parametrize(
    ("directive", "state"),
    [(Snooze(1), "completed"), (Discard("enough"), "discarded"), (Cancel("enough"), "cancelled")],
    ids=["snooze", "discard", "cancel"],
)
def test_function_that_steers_its_step_has_called_nobody(directive, state):
    fn = once(directive, ANSWER)

    run = did(lambda ctx: llm.call(ctx, "k", fn))

    assert run.steps["a"].state == state
    assert entries(run)[0] == (1, "failed")
    assert workflow_totals(run.id)["ambiguous"] == 0
