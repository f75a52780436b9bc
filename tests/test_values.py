"""Values: what is stored comes back as JSON gives it, and the rest is refused by name and path."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag, StrEnum
from types import MappingProxyType, SimpleNamespace
from typing import Any, Self
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.utils.functional import SimpleLazyObject, lazy, lazystr
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from baton import Workflow
from baton.exceptions import NotStorableError
from baton.models import WorkflowNode, WorkflowRun
from baton.values import MAX_DEPTH, MAX_INT_DIGITS, decode, encode
from tests import steps

texts = st.text(st.characters(exclude_categories=()), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
plain_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)


class Colour(Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(IntEnum):
    HIGH = 3


class Kind(StrEnum):
    FILE = "file"


class Rights(IntFlag):
    READ = 1
    WRITE = 2


class Label(models.TextChoices):
    NEW = "new", "New"


class Odd(str, Enum):  # noqa: UP042 - its texts come from its own __new__
    """Its value is not the text it is."""

    value: str

    A = "stored"

    def __new__(cls, value: str) -> Self:
        member = str.__new__(cls, "shown")
        member._value_ = value
        return member


@dataclass
class Point:
    x: float
    y: Any = None
    tags: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slotted:
    a: Any


class Answer:
    """An object with pydantic's protocol."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        if mode == "json":
            return {key: list(value) if isinstance(value, set) else value for key, value in self.fields.items()}
        return self.fields


class OldAnswer:
    def model_dump(self) -> dict[str, Any]:
        return {"at": date(2026, 1, 2)}


class Loose(str):
    """A str that says something else about itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


Pair = namedtuple("Pair", "left right")  # noqa: PYI024 - as users have them


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPS: dict[str, Callable[[Any], Any]] = {
    "list": lambda inner: [inner],
    "dict": lambda inner: {"k": inner},
    "tuple": lambda inner: (inner,),
    "dataclass": Slotted,
}


# --- What is stored


@given(plain_values)
def test_plain_values_come_back_as_json_gives_them(value: Any) -> None:
    text = encode(value)

    assert text.isascii()
    assert "\0" not in text
    assert decode(text) == json.loads(json.dumps(value))
    assert repr(decode(text)) == repr(json.loads(json.dumps(value)))


@given(plain_values)
def test_walk_and_the_short_way_write_the_same(value: Any) -> None:
    # A text of a class of its own is met by the walk only.
    assert encode([value, Loose("x")]) == encode([value, "x"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (-0.0, "-0.0"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        ("a\x00b", r'"a\u0000b"'),
        ("\ud800", r'"\ud800"'),
        ("é\U0001f600", r'"\u00e9\ud83d\ude00"'),
        ("\u2028\x7f", r'"\u2028\u007f"'),
        ((1, (2, [])), "[1,[2,[]]]"),
        ({}, "{}"),
        ({"": {"\0": 1}}, r'{"":{"\u0000":1}}'),
        (datetime(2026, 1, 2, 3, 4, 5, 678901), '"2026-01-02T03:04:05.678901"'),  # noqa: DTZ001
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05Z"'),
        (datetime(2026, 7, 2, 3, 4, 5, 1, tzinfo=ZoneInfo("Europe/Berlin")), '"2026-07-02T03:04:05.000001+02:00"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (time(3, 4, 5, 678901), '"03:04:05.678901"'),
        (time(3, 4, tzinfo=ZoneInfo("Europe/Berlin")), '"03:04:00"'),
        (timedelta(days=1, microseconds=5), '"P1DT00H00M00.000005S"'),
        (timedelta(seconds=-1), '"-P0DT00H00M01S"'),
        (Decimal("1.10"), '"1.10"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (lazystr("lazy"), '"lazy"'),
        (gettext_lazy("Yes"), '"Yes"'),
        (mark_safe("<b>"), '"<b>"'),
        (Loose("plain"), '"plain"'),
        (Colour.RED, '"red"'),
        (Colour.PAIR, "[1,2]"),
        (Level.HIGH, "3"),
        (Kind.FILE, '"file"'),
        (Label.NEW, '"new"'),
        (Odd.A, '"stored"'),
        (Rights.READ | Rights.WRITE, "3"),
        ({Kind.FILE: {"deep": [Level.HIGH, Colour.RED]}}, '{"file":{"deep":[3,"red"]}}'),
        (Point(1.5, Point(2), [Colour.RED]), '{"x":1.5,"y":{"x":2,"y":null,"tags":[]},"tags":["red"]}'),
        (Slotted(1), '{"a":1}'),
        (Answer(a=1, inner=Answer(b={2})), '{"a":1,"inner":{"b":[2]}}'),
        (OldAnswer(), '{"at":"2026-01-02"}'),
        ([Point(date(2026, 1, 2).day, Answer(z=Decimal(1)))], '[{"x":2,"y":{"z":"1"},"tags":[]}]'),
        (Pair(1, "b"), '[1,"b"]'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (defaultdict(list, {"a": [1]}), '{"a":[1]}'),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_value_is_stored(value: Any, text: str) -> None:
    assert encode(value) == text
    # The same inside containers, where more than one way leads.
    assert encode({"k": [value, 1]}) == f'{{"k":[{text},1]}}'
    assert encode({"k": [value, Loose("w")]}) == f'{{"k":[{text},"w"]}}'


@given(
    st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=5, minutes=30))))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
)
def test_these_are_written_as_django_does_but_for_the_microseconds(value: Any) -> None:
    whole = value.replace(microsecond=0) if isinstance(value, (datetime, time)) else value

    assert encode(whole) == json.dumps(whole, cls=DjangoJSONEncoder)
    if isinstance(value, datetime):
        assert datetime.fromisoformat(decode(encode(value))) == value
    elif isinstance(value, time):
        assert time.fromisoformat(decode(encode(value))) == value


@pytest.mark.parametrize("sign", [1, -1])
def test_int_of_the_most_digits_comes_back(sign: int) -> None:
    largest = sign * (10**MAX_INT_DIGITS - 1)

    assert decode(encode([largest])) == [largest]
    assert decode(encode([largest, Kind.FILE])) == [largest, "file"]


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_deepest_value_is_stored(wrap: Callable[[Any], Any]) -> None:
    assert decode(encode(nested(MAX_DEPTH, wrap))) == json.loads(encode(nested(MAX_DEPTH, wrap)))
    with pytest.raises(NotStorableError):
        encode(nested(MAX_DEPTH + 1, wrap))


@pytest.mark.parametrize(
    "value", ["x" * 98, {"k": "x" * 92}, [1] * 48 + [10], Loose("x" * 98)], ids=lambda v: type(v).__name__
)
def test_text_as_long_as_the_limit_is_stored(value: Any) -> None:
    assert len(encode(value, limit=100)) == 100
    with pytest.raises(NotStorableError):
        encode(value, limit=99)


def test_limit_counts_the_stored_characters() -> None:
    assert len(encode("é" * 16, limit=98)) == 98
    with pytest.raises(NotStorableError) as caught:
        encode("é" * 17, limit=98, what="result")

    assert str(caught.value) == (
        "result is 104 characters long as JSON: at most 98 characters are stored (MAX_RESULT_CHARS)"
    )


def test_same_object_at_several_places_is_no_circle() -> None:
    shared = {"a": [1]}

    assert encode([shared, [shared], Loose("x")]) == '[{"a":[1]},[{"a":[1]}],"x"]'
    assert encode([shared, [shared]]) == '[{"a":[1]},[{"a":[1]}]]'


def test_value_is_not_changed_by_encoding() -> None:
    value = {"a": (1, Kind.FILE), "b": [Point(1)]}

    encode(value)

    assert value == {"a": (1, Kind.FILE), "b": [Point(1)]}
    assert type(value["a"]) is tuple


@pytest.mark.django_db
@given(value=plain_values)
def test_values_come_back_from_the_database(value: Any) -> None:
    run = Workflow("values", meta={"value": value}).add("only", steps.value.bind(value=value)).insert()

    assert WorkflowRun.objects.get(pk=run.pk).meta == {"value": json.loads(json.dumps(value))}
    assert run.steps["only"].args == {"value": json.loads(json.dumps(value))}


# --- What is refused

knot: list[Any] = [1]
knot.append({"back": knot})
held: dict[str, Any] = {"marker": Kind.FILE}
held["inside"] = [held]
looped = Point(1)
looped.y = looped
type_of_querysets = f"{type(WorkflowNode.objects.none()).__module__}.{type(WorkflowNode.objects.none()).__qualname__}"
NOT_JSON = "which JSON cannot hold"


class Broken:
    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        msg = "no network"
        raise RuntimeError(msg)


class HalfJSON:
    """As a model whose JSON fails, for another reason than a set that would have become a list in it."""

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        if mode == "json":
            msg = "Unable to serialize unknown type"
            raise ValueError(msg)
        return {"fine": {1}}


class Endless:
    def model_dump(self, *, mode: str = "python") -> Any:
        return Endless()


class Strange(dict[str, Any]):
    def items(self) -> Any:
        msg = "not now"
        raise RuntimeError(msg)


@dataclass(slots=True)
class HalfMade:
    a: int
    b: int = field(init=False)


async def coroutine() -> None:
    pass


def failing() -> str:
    msg = "no language"
    raise ValueError(msg)


REFUSED: dict[str, tuple[Any, str]] = {
    "set": ({"a": [{1}]}, f'value["a"][0] is of type set, {NOT_JSON}: make it a list, sorted if its order matters'),
    "bytes": (b"x", f"value is of type bytes, {NOT_JSON}: decode it to text, or store it elsewhere and give its name"),
    "nan": ([1.5, float("nan")], "value[1] is nan, a float that JSON does not have"),
    "infinity": ({"x": float("-inf")}, 'value["x"] is -inf, a float that JSON does not have'),
    "huge int": ([10**MAX_INT_DIGITS], "value[0] is an int of more than 4,300 digits"),
    "huge negative int": ([-(10**MAX_INT_DIGITS)], "value[0] is an int of more than 4,300 digits"),
    "object": (object(), f"value is of type object, {NOT_JSON}"),
    "object of a module": (SimpleNamespace(a=1), f"value is of type types.SimpleNamespace, {NOT_JSON}"),
    "class": ([Answer], f"value[0] is the class Answer, {NOT_JSON}: give an instance or a name"),
    "enum class": (Colour, f"value is the class Colour, {NOT_JSON}: give an instance or a name"),
    "function": (failing, f"value is of type function, {NOT_JSON}"),
    "complex": (1j, f"value is of type complex, {NOT_JSON}"),
    "generator": ((each for each in "ab"), f"value is of type generator, {NOT_JSON}: make it a list"),
    "range": (range(3), f"value is of type range, {NOT_JSON}: make it a list"),
    "keys": ({"k": 1}.keys(), f"value is of type dict_keys, {NOT_JSON}: make it a list"),
    "deque": (deque([1]), f"value is of type collections.deque, {NOT_JSON}: make it a list"),
    "mapping": (MappingProxyType({}), f"value is of type mappingproxy, {NOT_JSON}: make it a dict"),
    "user dict": (UserDict(), f"value is of type collections.UserDict, {NOT_JSON}: make it a dict"),
    "model": (WorkflowNode(), f"value is of type baton.models.node.WorkflowNode, {NOT_JSON}: give its primary key"),
    "queryset": ([WorkflowNode.objects.none()], f"value[0] is of type {type_of_querysets}, {NOT_JSON}: make it a list"),
    "lazy object": (
        SimpleLazyObject(lambda: "text"),
        f"value is of type django.utils.functional.SimpleLazyObject, {NOT_JSON}: give what is inside it",
    ),
    "int key": ({"a": {1: 2}}, 'value["a"] is a dict with the key 1 of type int: keys must be str'),
    "bool key": ({True: 2}, "value is a dict with the key True of type bool: keys must be str"),
    "float key": ({1.5: 2}, "value is a dict with the key 1.5 of type float: keys must be str"),
    "none key": ([{None: 2}], "value[0] is a dict with the key None of type NoneType: keys must be str"),
    "tuple key": ({(1, 2): 2}, "value is a dict with a key of type tuple: keys must be str"),
    "enum key": ({Colour.RED: 2}, "value is a dict with a key of type Colour: keys must be str"),
    "int enum key": ({Level.HIGH: 2}, "value is a dict with a key of type Level: keys must be str"),
    "aware time": (
        [time(1, tzinfo=UTC)],
        "value[0] is a time with a time zone, which has no meaning without its date: give a datetime",
    ),
    "list in itself": (knot, 'value[1]["back"] is a container that holds itself'),
    "dict in itself": (held, 'value["inside"][0] is a container that holds itself'),
    "dataclass in itself": (looped, 'value["y"] is a container that holds itself'),
    "too deep": (nested(MAX_DEPTH + 1), f"value is nested more than {MAX_DEPTH} levels deep"),
    "far too deep": (nested(100_000), f"value is nested more than {MAX_DEPTH} levels deep"),
    "far too deep in dicts": (
        nested(5_000, lambda it: {"a": it}),
        f"value is nested more than {MAX_DEPTH} levels deep",
    ),
    "model in model without end": (Endless(), f"value is nested more than {MAX_DEPTH} levels deep"),
    "shared without end": (
        nested(60, lambda it: [it, it]),
        "value is far too long: at most 1,000,000 characters are stored (MAX_RESULT_CHARS)",
    ),
    "in a dataclass": (Point(1, {"k": b""}), f'value["y"]["k"] is of type bytes, {NOT_JSON}: decode it'),
    "in a model": (Answer(a=[b""]), f'value["a"][0] is of type bytes, {NOT_JSON}: decode it'),
    "in an enum": (Enum("Bad", {"A": b""}), "value is the class Bad"),
    "broken model": ([Broken()], "value[0] is not readable: RuntimeError: no network"),
    "model without JSON": ([HalfJSON()], "value[0] is not readable: ValueError: Unable to serialize unknown type"),
    "broken lazy text": ({"t": lazy(failing, str)()}, 'value["t"] is not readable: ValueError: no language'),
    "broken dict": ([Strange(a=1)], "value[0] is not readable: RuntimeError: not now"),
    "half-made dataclass": ([HalfMade(1)], "value[0] is not readable: AttributeError: "),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_value_is_refused(value: Any, message: str) -> None:
    with pytest.raises(NotStorableError) as caught:
        encode(value, limit=1_000_000)

    assert str(caught.value).startswith(message)
    assert message
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("value", [value for value, _ in REFUSED.values()], ids=REFUSED)
def test_value_is_refused_inside_others(value: Any) -> None:
    with pytest.raises(NotStorableError):
        encode([{"k": (value,)}], limit=50_000)
    with pytest.raises(NotStorableError):
        encode([Kind.FILE, {"k": (value,)}], limit=50_000)


@pytest.mark.parametrize("value", [knot, held, nested(100_000), [knot, knot]], ids=["list", "dict", "deep", "twice"])
def test_value_without_end_is_refused_where_nothing_limits_it(value: Any) -> None:
    with pytest.raises(NotStorableError):
        encode(value)


def test_coroutine_is_refused_with_advice() -> None:
    made = coroutine()

    with pytest.raises(NotStorableError) as caught:
        encode({"r": made})

    made.close()
    assert str(caught.value) == f'value["r"] is of type coroutine, {NOT_JSON}: await it'


def test_refusal_carries_path_and_finding() -> None:
    with pytest.raises(NotStorableError) as caught:
        encode({"rows": [0, {"at": {1}}]}, what="result")

    assert caught.value.path == 'result["rows"][1]["at"]'
    assert caught.value.found.startswith("of type set")


def test_failure_of_the_value_is_chained() -> None:
    with pytest.raises(NotStorableError) as caught:
        encode([Broken()])

    assert isinstance(caught.value.__cause__, RuntimeError)


def test_dict_whose_keys_are_written_alike_is_refused() -> None:
    class Sensitive(str):
        __slots__ = ()
        __hash__ = object.__hash__

        def __eq__(self, other: object) -> bool:
            return self is other

    with pytest.raises(NotStorableError) as caught:
        encode({Sensitive("a"): 1, Sensitive("a"): 2})

    assert str(caught.value) == 'value["a"] is there twice: two keys of the dict are written the same'


@pytest.mark.parametrize("key", ["k" * 1000, "\0\ud800"])
def test_path_stays_printable(key: str) -> None:
    with pytest.raises(NotStorableError) as caught:
        encode([{key: [{key: {1}}]}])

    assert caught.value.path.replace("…", "").isascii()
    assert len(caught.value.path) < 200


def test_path_of_a_deep_fault_leaves_out_its_middle() -> None:
    value: Any = {1}
    for index in range(150):
        value = {f"k{index}": value}

    with pytest.raises(NotStorableError) as caught:
        encode(value)

    assert caught.value.path == (
        'value["k149"]["k148"]["k147"]["k146"]["k145"]["k144"]…["k5"]["k4"]["k3"]["k2"]["k1"]["k0"]'
    )


@pytest.mark.parametrize("digits", [0, 5000, 640])
def test_ints_have_the_same_limit_whatever_the_interpreter_allows(digits: int) -> None:
    usual = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(digits)
    try:
        assert encode([10**600]) == f"[1{'0' * 600}]"
        with pytest.raises(NotStorableError):
            encode([10**MAX_INT_DIGITS])
    finally:
        sys.set_int_max_str_digits(usual)


def test_little_stack_left_is_a_refusal_and_no_crash() -> None:
    def deep(levels: int) -> str:
        return encode(nested(150, lambda it: [Kind.FILE, it])) if not levels else deep(levels - 1)

    outcomes = set()
    for levels in range(0, sys.getrecursionlimit(), 25):
        try:
            outcomes.add(deep(levels)[:7])
        except NotStorableError as exc:
            outcomes.add(exc.found)
        except RecursionError:
            break

    assert outcomes == {'["file"', "nested too deep for what is left of the stack"}


def test_what_stops_the_body_stops_the_encoder() -> None:
    class Stop(BaseException):
        pass

    class Slow:
        def model_dump(self, *, mode: str = "python") -> Any:
            raise Stop

    with pytest.raises(Stop):
        encode(Slow())
