from __future__ import annotations

import base64
import json
import logging
from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic
import pytest
from django.db import connection
from django.test import override_settings
from django.utils.translation import gettext_lazy
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from baton import StepContext, Workflow, step
from baton.conf import Settings
from baton.llm.capture import entries, log_request, log_response
from baton.llm.redaction import HOOK_FAILED, REMOVED
from baton.models import DebugLog, WorkflowNode, WorkflowRun
from baton.testing import drain
from tests.steps import Colour

pytestmark = pytest.mark.django_db

_said: list[Any] = []
"""What the body logs, which no argument of a step could be."""


@step
def say(ctx: StepContext) -> None:
    log_request(ctx, _said.pop())


@step
def answer(ctx: StepContext) -> None:
    log_response(ctx, _said.pop())


def kept(value: Any, body: Any = say) -> Any:
    """What is kept of a request."""
    _said.append(value)
    run = drain(Workflow("x", debug=True).add("a", body).insert())
    (row,) = entries(run)
    return row["request" if body is say else "response"]


def all_text() -> str:
    """Everything that the table holds, as it is stored."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT key, provider, model, request, response, upstream FROM baton_debuglog")
        return "\n".join(str(column) for row in cursor.fetchall() for column in row)


HUGE = [10**5000]
Header = namedtuple("Header", ["name", "x_api_key"])  # noqa: PYI024 - as untyped code has them


@dataclass
class Options:
    api_key: str
    model: str = "gpt-5"


class Login(pydantic.BaseModel):
    user: str = "me"
    password: Any = None
    inner: Any = None


class Client:
    """An object that says all it knows."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __repr__(self) -> str:
        return f"Client({', '.join(f'{name}={value!r}' for name, value in self.options.items())})"


class Unreadable:
    def __repr__(self) -> str:
        raise ValueError("the secret is sk-12345678")


class UnreadableMapping(UserDict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("the secret is sk-12345678")


class Leaving:
    model = property(lambda self: self.missing)

    def __repr__(self) -> str:
        raise SystemExit("the secret is sk-12345678")


class LooksLikePydantic:
    def model_dump(self) -> dict[str, Any]:
        return {"token": "abc", "user": "me"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"api_key": "abc", "a": 1}, {"api_key": REMOVED, "a": 1}),
        ({"API-Key": "abc"}, {"API-Key": REMOVED}),
        ({"apiKey": "abc"}, {"apiKey": REMOVED}),
        ({"x_api_key": "abc"}, {"x_api_key": REMOVED}),
        ({"token": {"a": ["abc"]}}, {"token": REMOVED}),
        ({"password": None, "cookie": 3}, {"password": REMOVED, "cookie": REMOVED}),
        ({"a": [{"b": ({"secret": "abc"},)}]}, {"a": [{"b": [{"secret": REMOVED}]}]}),
        ({"total_tokens": 3, "tokens": 4}, {"total_tokens": 3, "tokens": 4}),
        ([("Authorization", "Bearer abc"), ("accept", "x")], [["Authorization", REMOVED], ["accept", "x"]]),
        ([(b"authorization", "Bearer abc")], [["authorization", REMOVED]]),
        ({b"authorization": b"Bearer abc"}, {"authorization": REMOVED}),
        ([{"name": "Cookie", "value": "abc"}], [{"name": "Cookie", "value": REMOVED}]),
        (Options(api_key="abc"), {"api_key": REMOVED, "model": "gpt-5"}),
        (Login(password="abc"), {"user": "me", "password": REMOVED, "inner": None}),
        (LooksLikePydantic(), {"token": REMOVED, "user": "me"}),
        (Header("a", "abc"), {"name": "a", "x_api_key": REMOVED}),
        (OrderedDict(token="abc"), {"token": REMOVED}),
        ("https://a.test/v1/m:generate?key=abc&alt=sse", f"https://a.test/v1/m:generate?key={REMOVED}&alt=sse"),
        (ValueError("429 for 'https://a.test/?b=1&key=abc'"), f"ValueError: 429 for 'https://a.test/?b=1&key={REMOVED}'"),
        ("redis://:abc@host:6379/0 is down", f"redis://:{REMOVED} is down"),
        ("postgresql://me:abc@host/db", f"postgresql://me:{REMOVED}"),
        ("https://host:8000/a?b=c@d and a key=word", "https://host:8000/a?b=c@d and a key=word"),
        (UserDict(token="abc"), {"token": REMOVED}),
        (Client(api_key="abc", n=1), f"Client(api_key={REMOVED}, n=1)"),
        ('{"api_key": "abc", "n": 1}', f'{{"api_key": "{REMOVED}", "n": 1}}'),
        ('{"a": 1, "token": "x", "token": "abc"}', f'{{"a": 1, "token": "{REMOVED}"}}'),
        (
            {"arguments": json.dumps({"body": json.dumps({"token": "abc"})})},
            {"arguments": json.dumps({"body": json.dumps({"token": REMOVED})})},
        ),
        ("see https://example.com/?token=abc&page=2", f"see https://example.com/?token={REMOVED}&page=2"),
        ("{'token': 'a b', 'n': 1}", f"{{'token': {REMOVED}, 'n': 1}}"),
        ('data: {"token": {"a": "}"}, "n": 1}', f'data: {{"token": {REMOVED}, "n": 1}}'),
        ('it broke off: {"token": "abc', f'it broke off: {{"token": {REMOVED}'),
        ("curl -H 'authorization: Bearer abc' -d x=1", f"curl -H 'authorization: {REMOVED}' -d x=1"),
        ("password: abc\nuser: me", f"password: {REMOVED}\nuser: me"),
        ("my_token: abc", f"my_token: {REMOVED}"),
        ({"OPENAI_API_KEY": "abc", "x-goog-api-key": "abc"}, {"OPENAI_API_KEY": REMOVED, "x-goog-api-key": REMOVED}),
        ({"max_tokens": 5, "prompt_tokens": 7}, {"max_tokens": 5, "prompt_tokens": 7}),
        ("Tokens: they are small. Keep it secret.", "Tokens: they are small. Keep it secret."),
        (ValueError("Authorization: Bearer abc def"), f"ValueError: Authorization: {REMOVED}"),
    ],
)  # fmt: skip
def test_value_under_a_configured_key_is_removed(given, expected):
    assert kept(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("my card is 4111111111111111, thanks", f"my card is {REMOVED}, thanks"),
        ({"card 4111111111111111": 1}, {f"card {REMOVED}": 1}),
        ({"n": 4111111111111111, "m": 12}, {"n": REMOVED, "m": 12}),
        (json.dumps({"q": "of \u00e4 4111111111111111"}), f'{{"q": "of \u00e4 {REMOVED}"}}'),
        ('{"q": "\\u0034111111111111111"}', f'{{"q": "{REMOVED}"}}'),
        (ValueError("4111111111111111"), f"ValueError: {REMOVED}"),
        (Client(card="4111111111111111"), f"Client(card='{REMOVED}')"),
        (Decimal("4111111111111111.00"), f"{REMOVED}.00"),
        (["card 4111", "1111", "11111111 it is"], [f"card {REMOVED}", "", " it is"]),
        (
            [{"delta": {"text": "card 4111", "n": 1}}, {"delta": {"text": "111111111111 it", "n": 2}}],
            [{"delta": {"text": f"card {REMOVED}", "n": 1}}, {"delta": {"text": " it", "n": 2}}],
        ),
        ("mail b@example.com and 4111111111111111", f"mail {REMOVED} and {REMOVED}"),
        # One pattern finds a part of what the other finds.
        ("4111111111111111@example.com", REMOVED),
    ],
)
def test_what_a_pattern_matches_is_removed_from_any_text(settings, given, expected):
    settings.BATON = {"REDACT_PATTERNS": [r"\d{16}", r"[\w.]+@[\w.]+\w"]}

    assert kept(given) == expected


def test_two_keys_that_read_the_same_without_their_secrets_are_both_kept(settings):
    settings.BATON = {"REDACT_PATTERNS": [r"\d+"]}

    assert kept({"of 1": "a", "of 2": "b", "of 3": "c"}) == {
        f"of {REMOVED}": "a",
        f"of {REMOVED} (2)": "b",
        f"of {REMOVED} (3)": "c",
    }


def test_configured_keys_replace_the_usual_ones(settings):
    settings.BATON = {"REDACT_KEYS": ["Patient-ID"]}

    assert kept({"patient_id": 7, "patientId": 8, "token": "abc"}) == {
        "patient_id": REMOVED,
        "patientId": REMOVED,
        "token": "abc",
    }


def test_no_keys_and_no_patterns_leave_everything_as_it_is(settings):
    settings.BATON = {"REDACT_KEYS": []}

    assert kept({"token": "token=b", "text": '{"token": 1}'}) == {"token": "token=b", "text": '{"token": 1}'}


def test_model_of_a_row_is_redacted_too(settings):
    settings.BATON = {"REDACT_PATTERNS": ["acme"]}

    kept({"model": "ft:gpt-5:acme"})

    assert DebugLog.objects.get().model == f"ft:gpt-5:{REMOVED}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a\x00\ud800\u00e4\U0001f600", "a\x00\ud800\u00e4\U0001f600"),
        (b"\x00" * 1234, "<1,234 bytes>"),
        (memoryview(b"12"), "<2 bytes>"),
        ({1}, [1]),
        (deque([(1,), frozenset()]), [[1], []]),
        ({1: "a", "1": "b", None: "c", Colour.RED: "d"}, {"1": "a", "1 (2)": "b", "None": "c", "red": "d"}),
        ([float("nan"), float("-inf"), 1e300, True], ["nan", "-inf", 1e300, True]),
        (HUGE, ["(a number of 16,610 bits)"]),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        ([date(2026, 1, 2), timedelta(hours=1), UUID(int=0)],
         ["2026-01-02", "1:00:00", "00000000-0000-0000-0000-000000000000"]),
        ([gettext_lazy("run"), Colour.RED, "plain"], ["run", "red", "plain"]),
        (Unreadable(), "(Unreadable, which could not be read)"),
        ({"a": 1, "b": UnreadableMapping()}, {"a": 1, "b": "(UnreadableMapping, which could not be read)"}),
        (Colour, "<enum 'Colour'>"),
        (pydantic.BaseModel, "<class 'pydantic.main.BaseModel'>"),
        (WorkflowNode.objects.all(), "<WorkflowNodeQuerySet of baton.WorkflowNode>"),
        (iter([1]), None),
        (None, None),
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_kept_as_what_it_says_of_itself(given, expected):
    found = kept(given)

    if hasattr(given, "__next__"):
        assert found.startswith("<list_iterator object")
        assert [*given] == [1]
    else:
        assert found == expected


def test_container_that_holds_itself_is_kept_once():
    itself: dict[str, Any] = {"a": 1}
    itself["b"] = [itself]

    assert kept(itself) == {"a": 1, "b": ["(a container that holds itself)"]}


@pytest.mark.parametrize("depth", [150, 200, 5000])
def test_deep_structure_is_kept_down_to_a_depth(depth):
    deep: Any = "bottom"
    for _ in range(depth):
        deep = {"a": [deep]}

    found = kept({"token": "abc", "deep": deep})

    assert found["token"] == REMOVED
    assert "…" in json.dumps(found, ensure_ascii=False)
    assert "bottom" not in json.dumps(found)


def test_deep_json_text_gives_nothing_away():
    text = "[" * 100_000 + '{"token": "abc"}' + "]" * 100_000

    assert "abc" not in json.dumps(kept(text))


def test_structure_that_shares_its_parts_does_not_grow_without_end():
    shared: Any = ["abc"]
    for _ in range(60):
        shared = [shared, shared]

    assert len(json.dumps(kept(shared))) <= Settings().capture_max_chars


PICTURE = base64.b64encode(bytes(range(256)) * 12).decode()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            f"data:image/png;base64,{PICTURE}",
            f"data:image/png;base64,{PICTURE[:18]}… (data URL of 4,118 characters)",
        ),
        (
            f"see ![it](data:image/png;base64,{PICTURE}) here",
            f"see ![it](data:image/png;base64,{PICTURE[:18]}… (data URL of 4,118 characters)) here",
        ),
        ({"data": PICTURE}, {"data": f"{PICTURE[:40]}… (base64 of 4,096 characters)"}),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        ("x" * 2000, "x" * 2000),
    ],
)
def test_pictures_are_kept_without_their_bulk(given, expected):
    assert kept(given) == expected


@pytest.mark.parametrize("most", [100, 1000, 5000])
@pytest.mark.parametrize(
    "given",
    [
        {"messages": [{"content": "hello " * 10_000}]},
        "hello " * 10_000,
        '\x00\U0001f600\u00e4"\\' * 10_000,
        [{"n": number} for number in range(20_000)],
        "x" * 5001,
    ],
    ids=["dict", "text", "letters", "list", "nearly"],
)  # fmt: skip
def test_what_is_too_long_is_cut_and_says_how_long_it_was(settings, given, most):
    settings.BATON = {"CAPTURE_MAX_CHARS": most}

    found = kept(given)

    assert most - 12 - 6 <= len(json.dumps(found)) <= most
    assert found.endswith(" characters of JSON)")
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    assert text.startswith(found.partition(" … (cut: ")[0])
    if not isinstance(given, list):
        assert f"(cut: {len(json.dumps(given)):,} " in found


def test_what_fits_exactly_is_not_cut(settings):
    settings.BATON = {"CAPTURE_MAX_CHARS": 1000}

    assert kept("x" * 998) == "x" * 998


def test_secret_is_removed_before_the_cut_wherever_that_falls(settings):
    for most in range(100, 240, 7):
        settings.BATON = {"CAPTURE_MAX_CHARS": most, "REDACT_PATTERNS": ["sk-[a-z0-9]+"]}
        kept(["the text is long " * 3, "sk-abcdefgh12345678" * 9, {"token": "qqqqqqqqqqqqqqqqqqqqq"}, "end" * 99])

    assert "sk-" not in all_text()
    assert "qqq" not in all_text()


@pytest.mark.once
def test_answer_of_20_mb_is_kept_without_its_bulk():
    text = "a word " * 3_000_000

    found = kept({"text": text, "token": "abc"}, answer)

    assert len(json.dumps(found)) <= Settings().capture_max_chars
    assert "(cut: 21,0" in found


@pytest.mark.once
@pytest.mark.parametrize(
    "given",
    [
        "\\" * 1_000_000,
        "token:" * 500_000 + " the end",
        "token: {" * 100_000,
        'token="' + "\\" * 1_000_000,
        [*"token=zq7 "] * 10_000,
        [f"token=zq7 {number}" for number in range(50_000)],
        {f"token=zq7{number}": number for number in range(50_000)},
        list(range(500_000)),
        [{"delta": {"content": "a word "}}] * 500_000,
        json.dumps([{"text": "a word " * 20, "token": "zq7"}] * 100_000),
    ],
    ids=["backslashes", "names", "braces", "open", "letters", "texts", "keys", "numbers", "chunks", "json"],
)
def test_work_for_what_is_kept_does_not_grow_with_what_repeats_itself(given):
    """Each would take minutes were it looked through from every place again, and no time-out ends a search in C."""
    found = kept({"token": "zq7", "answer": given}, answer)

    assert len(json.dumps(found)) <= Settings().capture_max_chars
    assert "zq7" not in all_text()


@pytest.mark.parametrize("most", [100, 1000])
def test_what_comes_after_a_picture_or_a_long_secret_is_kept(settings, most):
    settings.BATON = {"CAPTURE_MAX_CHARS": most, "REDACT_PATTERNS": ["sk-[a-z0-9]+"]}
    given = ["sk-" + "a1" * 5000 + " and then?", *[{"data": PICTURE * 9}] * 3, "the end"]

    found = kept(given)

    assert "and then?" in json.dumps(found)
    assert most == 100 or found[2]["data"].endswith("… (base64 of 36,864 characters)")
    assert most == 100 or found[-1] == "the end"
    assert "a1a1" not in all_text()


def shout(kind: str, value: Any) -> Any:
    return {"kind": kind, "value": {**value, "text": value["text"].upper()}}


def leak(kind: str, value: Any) -> Any:
    return Options(api_key="abc")


def pass_on(kind: str, value: Any) -> Any:
    return value


def give_up(kind: str, value: Any) -> Any:
    raise ValueError(f"cannot read {value}")


def leave(kind: str, value: Any) -> Any:
    raise SystemExit(str(value))


def test_hook_is_given_what_is_about_to_be_kept_and_returns_what_is_kept(settings):
    settings.BATON = {"REDACT_HOOK": f"{__name__}.shout"}

    expected = {"value": {"text": "HELLO", "token": REMOVED}}
    assert kept({"text": "hello", "token": "abc"}) == {"kind": "request", **expected}
    assert kept({"text": "hello", "token": "abc"}, answer) == {"kind": "response", **expected}


def test_what_the_hook_returns_is_redacted_too(settings):
    settings.BATON = {"REDACT_HOOK": f"{__name__}.leak"}

    assert kept("hello") == {"api_key": REMOVED, "model": "gpt-5"}


def test_what_was_taken_out_before_the_hook_is_not_taken_out_of_again(settings):
    settings.BATON = {"REDACT_HOOK": f"{__name__}.pass_on"}

    assert kept("My password=hunter2 and my token: abc.") == f"My password={REMOVED} and my token: {REMOVED}"


@pytest.mark.parametrize("hook", [f"{__name__}.give_up", f"{__name__}.leave", f"{__name__}.missing", "no.module"])
def test_nothing_is_kept_where_the_hook_fails_and_the_step_completes(settings, caplog, hook):
    settings.BATON = {"REDACT_HOOK": hook}

    assert kept("a private word") == HOOK_FAILED
    assert WorkflowRun.objects.get().state == "completed"
    assert "private" not in all_text()
    assert "private" not in caplog.text
    ((name, level),) = {(record.name, record.levelno) for record in caplog.records}
    assert (name, level) == ("baton.llm", logging.ERROR)
    assert caplog.messages[0].startswith(f"{hook} (REDACT_HOOK) raised ")


def test_value_that_ends_the_process_when_it_is_read_costs_the_step_nothing():
    _said.append(Leaving())

    run = drain(Workflow("x", debug=True).add("a", say).insert())

    assert run.state == "completed"
    assert "sk-" not in all_text()


KEYS = ["api_key", "API-Key", "apikey", "Authorization", "X-Api-Key", "x_api_key", "Token", "secret", "PASSWORD"]

# Each puts a secret under a key into something.
UNDER_KEY: list[Any] = [
    lambda key, secret: {key: secret},
    lambda key, secret: {key: [secret, {"a": secret}]},
    lambda key, secret: UserDict({key: secret}),
    lambda key, secret: {key.encode(): secret},
    lambda key, secret: (key, secret),
    lambda key, secret: [key, secret],
    lambda key, secret: {"name": key, "value": secret},
    lambda key, secret: json.dumps({key: secret}),
    lambda key, secret: json.dumps({key: [secret]}, indent=2),
    lambda key, secret: json.dumps(json.dumps({"a": [json.dumps({key: secret})]})),
    lambda key, secret: f"data: {json.dumps({'n': 1, key: secret})}\n\n",
    lambda key, secret: f"```json\n{json.dumps({'a': {key: {'b': secret}}})}\n```",
    lambda key, secret: repr({key: secret, "n": 1}),
    lambda key, secret: f"it says {json.dumps(json.dumps({key: secret}))} and no more",
    lambda key, secret: f"https://example.com/?{key}={secret}&b=1",
    lambda key, secret: Options(api_key=secret),
    lambda key, secret: Login(password={"a": secret}),
    lambda key, secret: Login(inner={key: secret}),
    lambda key, secret: Login(inner=Client(**{key.replace("-", "_"): secret})),
    lambda key, secret: Client(**{key.replace("-", "_"): secret}),
    lambda key, secret: RuntimeError({key: secret}),
]

# Each puts a secret that a pattern knows into something.
ANYWHERE: list[Any] = [
    lambda secret: secret,
    lambda secret: f"it is {secret}, they say",
    lambda secret: {secret: 1},
    lambda secret: json.dumps({"a": f"b {secret}"}),
    lambda secret: json.dumps({secret: [secret]}),
    lambda secret: '{"a": "' + "".join(f"\\u{ord(letter):04x}" for letter in secret) + '"}',
    lambda secret: ValueError(f"refused: {secret}"),
    lambda secret: Client(a=secret),
    lambda secret: Options(api_key="", model=secret),
    lambda secret: Login(inner=secret),
    lambda secret: {secret},
    lambda secret: secret.encode(),
]

# The same, where no text that is made of it could tell.
ONLY_AS_THEY_ARE: list[Any] = [
    lambda key, secret: [*json.dumps({"a": 1, key: secret})],
    lambda key, secret: ValueError(f"{key}: {secret} is refused"),
    lambda _, secret: [*f"sk-{secret}"],
    lambda _, secret: [{"delta": {"content": piece}} for piece in pieces(secret)],
]


def pieces(secret: str) -> list[str]:
    return ["so ", f"it is sk-{secret[:2]}", secret[2:9], secret[9:], " it is"]


# Each puts something into something else.
AROUND: list[Any] = [
    lambda thing: {"a": thing, "b": "text"},
    lambda thing: {"messages": [{"role": "user", "content": [{"type": "text", "text": thing}]}]},
    lambda thing: ["x", thing, 3],
    lambda thing: (thing,),
    lambda thing: deque([thing]),
    lambda thing: Login(inner=thing),
]
AS_TEXT: list[Any] = [
    lambda thing: json.dumps({"arguments": as_text(thing)}),
    lambda thing: f"they say {thing!r} to me",
]


def as_text(thing: Any) -> str:
    try:
        return json.dumps(thing, default=repr)
    except TypeError:
        return repr(thing)


letters = st.text("abcdefghijkmnopqrstuvwxyz0123456789", min_size=12, max_size=20)


@st.composite
def with_secret(draw: st.DrawFn) -> tuple[str, Any]:
    # In words that nothing else here has.
    word = f"zq{draw(letters)}"
    around = [*AROUND, *AS_TEXT]
    match draw(st.sampled_from(["under a key", "anywhere", "as it is"])):
        case "under a key":
            thing = draw(st.sampled_from(UNDER_KEY))(draw(st.sampled_from(KEYS)), word)
        case "anywhere":
            thing = draw(st.sampled_from(ANYWHERE))(f"sk-{word}")
        case _:
            around = AROUND
            thing = draw(st.sampled_from(ONLY_AS_THEY_ARE))(draw(st.sampled_from(KEYS)), word)
    for put in draw(st.lists(st.sampled_from(around), max_size=4)):
        thing = put(thing)
    return word, thing


def read_through(value: Any) -> str:
    """Every text in a value, one after the other, and those that JSON in them holds."""
    if isinstance(value, str):
        try:
            inner = json.loads(value)
        except ValueError:
            return value
        return value + (read_through(inner) if not isinstance(inner, (int, float)) else "")
    if isinstance(value, dict):
        return "".join(read_through(each) for pair in value.items() for each in pair)
    if isinstance(value, list):
        return "".join(map(read_through, value))
    return str(value)


@hypothesis_settings(max_examples=150)
@given(with_secret(), st.sampled_from([100, 1000, 100_000]), st.sampled_from([say, answer]))
@example(("zqabcdefghijkl", repr({"token": json.dumps({"a": "zqabcdefghijkl"})})), 1000, say)
def test_secret_never_reaches_the_table_whatever_the_shape(secret, most, body):
    word, thing = secret
    DebugLog.objects.all().delete()

    with override_settings(BATON={"CAPTURE_MAX_CHARS": most, "REDACT_PATTERNS": [r"sk-[a-z0-9]{8,}"]}):
        found = kept(thing, body)

    assert word not in all_text()
    assert word not in read_through(found)
