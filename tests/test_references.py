"""References to results: what can be said with one, and that the value comes where it stood."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton import result_of
from baton.exceptions import NotStorableError, ReferencePathError
from baton.references import Reference, extract, fill
from baton.values import decode, encode


class Name(Enum):
    PARSE = "parse"


class Key(StrEnum):
    TITLE = "title"


class Index(IntEnum):
    FIRST = 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@st.composite
def with_references(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments with references in them, and the same arguments with `<name>` where `name` was referred to."""
    leaves = st.sampled_from("abc").map(lambda name: (result_of(name), f"<{name}>")) | json_values.map(lambda v: (v, v))
    trees = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda pairs: ([p[0] for p in pairs], [p[1] for p in pairs]))
            | st.lists(inner, max_size=3).map(lambda pairs: (tuple(p[0] for p in pairs), [p[1] for p in pairs]))
            | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(
                lambda pairs: ({k: p[0] for k, p in pairs.items()}, {k: p[1] for k, p in pairs.items()})
            )
        ),
        max_leaves=10,
    )
    pairs = draw(st.dictionaries(st.sampled_from("xyz"), trees, max_size=3))
    return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}


def sent(args: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """The arguments as a body receives them: parted, stored, read and filled."""
    plain, references = extract(args)
    stored, stored_references = encode(plain), json.dumps(references)
    return fill(decode(stored), json.loads(stored_references), results.get)


@given(with_references())
def test_values_come_where_the_references_stood(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    args, expected = pair

    assert sent(args, {name: f"<{name}>" for name in "abc"}) == expected


@given(with_references())
def test_extracting_leaves_what_was_given_alone(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    args, _ = pair
    before = copy.deepcopy(args)

    plain, _ = extract(args)

    assert plain is not args
    assert args == before


def test_parts_are_looked_up() -> None:
    results = {"parse": {"title": "T", "rows": [[1, 2], [3, 4]]}}
    args = {
        "a": result_of("parse")["title"],
        "b": [result_of("parse")["rows"][1][0]],
        "c": result_of("parse")["rows"][-1],
    }

    assert sent(args, results) == {"a": "T", "b": [3], "c": [3, 4]}


def test_extracted_references_say_where_and_what() -> None:
    plain, references = extract({"n": 1, "rows": [0, {"title": result_of("parse")["t"][0]}]})

    assert plain == {"n": 1, "rows": [0, {"title": "result_of('parse')['t'][0]"}]}
    assert references == [{"at": ["rows", 1, "title"], "step": "parse", "path": ["t", 0]}]


def test_whole_of_a_result_never_stored_is_none() -> None:
    assert sent({"x": result_of("parse")}, {}) == {"x": None}


def test_one_list_given_twice_is_filled_at_both_places() -> None:
    shared = [result_of("a")]

    assert sent({"x": shared, "y": {"z": shared}}, {"a": 1}) == {"x": [1], "y": {"z": [1]}}


def test_filling_changes_nothing_of_what_was_stored() -> None:
    args = {"x": [{"y": "result_of('a')"}, {"z": 1}]}
    before = copy.deepcopy(args)

    filled = fill(args, [{"at": ["x", 0, "y"], "step": "a", "path": []}], {"a": 5}.get)

    assert filled == {"x": [{"y": 5}, {"z": 1}]}
    assert args == before


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            result_of("a")["z"],
            "result_of('a')['z'] is not there: result_of('a') has no key 'z', only 'list', 'none', 'text', 'n', 'yes'.",
        ),
        (
            result_of("a")["list"][3],
            "result_of('a')['list'][3] is not there: result_of('a')['list'] has no item 3, its length is 3.",
        ),
        (
            result_of("a")["list"][-4],
            "result_of('a')['list'][-4] is not there: result_of('a')['list'] has no item -4, its length is 3.",
        ),
        (
            result_of("a")["list"]["z"],
            "result_of('a')['list']['z'] is not there: result_of('a')['list'] is a list, which has no key 'z'.",
        ),
        (result_of("a")[0], "result_of('a')[0] is not there: result_of('a') is a dict, which has no index 0."),
        (result_of("a")["none"]["z"], "result_of('a')['none']['z'] is not there: result_of('a')['none'] is None."),
        (
            result_of("a")["text"][0],
            "result_of('a')['text'][0] is not there: result_of('a')['text'] is a text, which has no index 0.",
        ),
        (
            result_of("a")["n"]["z"],
            "result_of('a')['n']['z'] is not there: result_of('a')['n'] is a number, which has no key 'z'.",
        ),
        (
            result_of("a")["yes"]["z"],
            "result_of('a')['yes']['z'] is not there: result_of('a')['yes'] is a boolean, which has no key 'z'.",
        ),
        (result_of("silent")["z"], "result_of('silent')['z'] is not there: result_of('silent') is None."),
    ],
)
def test_missing_part_is_named(reference: Reference, message: str) -> None:
    results = {"a": {"list": [1, 2, 3], "none": None, "text": "abc", "n": 1, "yes": True}}

    with pytest.raises(ReferencePathError) as caught:
        sent({"x": reference}, results)

    assert str(caught.value) == message


def test_missing_key_of_a_large_result_shows_some_keys() -> None:
    with pytest.raises(ReferencePathError) as caught:
        sent({"x": result_of("a")["z"]}, {"a": {str(number): 0 for number in range(1000)}})

    assert str(caught.value).endswith("only '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ….")


def test_error_of_the_lookup_passes_through() -> None:
    def lookup(name: str) -> Any:
        raise KeyError(name)

    with pytest.raises(KeyError):
        fill({"x": ""}, [{"at": ["x"], "step": "a", "path": []}], lookup)


def test_names_and_keys_may_be_enum_members() -> None:
    reference = result_of(Name.PARSE)[Key.TITLE][Index.FIRST]

    assert repr(reference) == "result_of('parse')['title'][0]"
    assert [type(part) for part in (reference.step, *reference.path)] == [str, str, int]


@pytest.mark.parametrize("name", [None, 1, b"parse", ["parse"]])
def test_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match=r"^result_of\(\) takes the name of a step, not \w+\.$"):
        result_of(name)


@pytest.mark.parametrize("key", [True, None, 1.5, slice(0, 2), ("a", "b"), result_of("b")])
def test_key_that_json_does_not_have_is_refused(key: Any) -> None:
    with pytest.raises(TypeError) as caught:
        result_of("a")["b"][key]

    assert str(caught.value) == (
        f"result_of('a')['b'] can be subscripted by a str or an int, not by {type(key).__name__}. "
        "Take the whole and pick what you need in the body."
    )


MISUSES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "iter": (iter, "cannot be iterated"),
    "list": (list, "cannot be iterated"),
    "star": (lambda reference: [*reference], "cannot be iterated"),
    "bool": (bool, "is neither true nor false"),
    "or": (lambda reference: reference or 1, "is neither true nor false"),
    "str": (str, "cannot be put into a text"),
    "f-string": (lambda reference: f"{reference}", "cannot be put into a text"),
    "f-string with a format": (lambda reference: f"{reference:>10}", "cannot be put into a text"),
    "percent": (lambda reference: "%s" % reference, "cannot be put into a text"),  # noqa: UP031
    "format": ("{}".format, "cannot be put into a text"),
}


@pytest.mark.parametrize(("misuse", "what"), MISUSES.values(), ids=MISUSES)
def test_use_before_there_is_a_result_is_refused(misuse: Any, what: str) -> None:
    with pytest.raises(TypeError) as caught:
        misuse(result_of("a")["b"])

    assert str(caught.value) == (
        f"result_of('a')['b'] {what}: there is no result yet while the workflow is built. "
        "Give it as an argument with bind(), and the body receives the value."
    )


FOREIGN: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "in": lambda reference: "x" in reference,
    "plus": lambda reference: reference + 1,
    "text plus": lambda reference: "a" + reference,
    "less": lambda reference: reference < 1,
    "call": lambda reference: reference(),
    "double star": lambda reference: {**reference},
    "int": int,
}


@pytest.mark.parametrize("misuse", FOREIGN.values(), ids=FOREIGN)
def test_reference_has_nothing_of_a_value(misuse: Any) -> None:
    with pytest.raises(TypeError):
        misuse(result_of("a"))


def test_reference_cannot_be_changed() -> None:
    reference: Any = result_of("a")

    with pytest.raises(AttributeError, match=r"^result_of\('a'\) cannot be changed\.$"):
        reference.step = "b"
    with pytest.raises(TypeError):
        reference["x"] = 1


def test_references_to_the_same_place_are_equal() -> None:
    assert result_of("a")["b"] == result_of("a")["b"]
    assert len({result_of("a")[0], result_of("a")[0], result_of("a")["0"], result_of("b")[0]}) == 3


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "deepcopy", "pickle"]
)
def test_reference_survives_copying(copied: Any) -> None:
    assert copied(result_of("a")["b"][0]) == result_of("a")["b"][0]


def circular() -> Any:
    knot: list[Any] = [result_of("a")]
    knot.append(knot)
    return knot


def deep() -> Any:
    nested: Any = result_of("a")
    for _ in range(100_000):
        nested = [nested]
    return nested


def shared() -> Any:
    nested: Any = []
    for _ in range(100):
        nested = [nested, nested]
    return [nested, result_of("a")]


@pytest.mark.parametrize("hostile", [circular, deep, shared])
def test_what_cannot_be_stored_is_left_to_the_encoder(hostile: Any) -> None:
    plain, _ = extract({"x": hostile()})

    with pytest.raises(NotStorableError):
        encode(plain, limit=10_000)


@dataclass
class Holder:
    inside: object


@pytest.mark.parametrize("place", [Holder, lambda it: {it}, lambda it: {it: 1}], ids=["dataclass", "set", "key"])
def test_reference_in_a_place_that_is_not_searched_is_refused(place: Callable[[Any], Any]) -> None:
    plain, references = extract({"x": place(result_of("a"))})

    assert references == []
    with pytest.raises(NotStorableError):
        encode(plain)


def test_reference_is_no_result() -> None:
    with pytest.raises(NotStorableError) as caught:
        encode([result_of("a")])

    assert str(caught.value) == "value[0] is of type baton.references.Reference, which JSON cannot hold"
