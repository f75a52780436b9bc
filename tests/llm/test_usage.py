"""Usage as the providers' own clients hand it over, and whatever else an answer may be."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import anthropic
import openai
import pytest
from fake_llm import Failure, FakeProvider
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage

from baton.llm.usage import MAX_TOKENS, guess_provider, read_usage, usage_of_chunks

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
SPENT = "[fake input=1000 output=50 cached=400 cache_write=100 reasoning=20]"
SPENT_AT_GOOGLE = "[fake input=1000 output=50 cached=400 reasoning=20]"
NO_USAGE = "and do not count"
TOKENS = {
    "input_tokens": 1000,
    "output_tokens": 50,
    "cached_input_tokens": 400,
    "cache_write_tokens": 100,
    "reasoning_tokens": 20,
}
DATED = {
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "gemini-2.5-flash": "gemini-2.5-flash-001",
}


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    uncounted = Failure("usage", usage=None, prompt=NO_USAGE, times=None)
    with FakeProvider(served_as=DATED, script=[uncounted]) as provider:
        yield provider


@pytest.fixture(scope="module")
def of_openai(provider: FakeProvider) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.openai_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def of_anthropic(provider: FakeProvider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=provider.url, api_key="none", max_retries=0) as client:
        yield client


def said(prompt: str) -> list[Any]:
    return [{"role": "user", "content": prompt}]


def chat(client: openai.OpenAI, prompt: str = SPENT) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=said(prompt))


def respond(client: openai.OpenAI, prompt: str = SPENT) -> Any:
    return client.responses.create(model="gpt-4o-mini", input=prompt)


def message(client: anthropic.Anthropic, prompt: str = SPENT) -> Any:
    return client.messages.create(model="claude-haiku-4-5", max_tokens=99, messages=said(prompt))


def stream_chat(client: openai.OpenAI, prompt: str = SPENT, *, include_usage: bool = True) -> list[Any]:
    options: Any = {"include_usage": include_usage}
    return list(
        client.chat.completions.create(model="gpt-4o-mini", messages=said(prompt), stream=True, stream_options=options)
    )


def stream_response(client: openai.OpenAI, prompt: str = SPENT) -> list[Any]:
    return list(client.responses.create(model="gpt-4o-mini", input=prompt, stream=True))


def stream_message(client: anthropic.Anthropic, prompt: str = SPENT) -> list[Any]:
    return list(client.messages.create(model="claude-haiku-4-5", max_tokens=99, messages=said(prompt), stream=True))


def generate(provider: FakeProvider, prompt: str = SPENT_AT_GOOGLE) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{provider.url}/v1beta/models/gemini-2.5-flash:generateContent",
        data=json.dumps({"contents": [{"parts": [{"text": prompt}]}]}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def told(answer: object, **given: Any) -> dict[str, Any] | None:
    """What is read of an answer, without what is its default."""
    return shown(read_usage(answer, at=AT, **given))


def told_by(chunks: list[Any], **given: Any) -> dict[str, Any] | None:
    return shown(usage_of_chunks(chunks, at=AT, **given))


def shown(usage: Any) -> dict[str, Any] | None:
    if usage is None:
        return None
    assert usage.at == AT
    found = {name: getattr(usage, name) for name in ("provider", "model", *TOKENS, "context")}
    return {name: value for name, value in found.items() if value}


# The providers' own clients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [chat, respond])
def test_usage_of_openai_is_read_with_cached_written_and_reasoning_tokens_apart(of_openai, ask):
    answer = ask(of_openai)

    expected = {
        "provider": "openai",
        "model": "gpt-4o-mini-2024-07-18",
        **TOKENS,
        "context": {"service_tier": "default"},
    }
    assert told(answer) == expected
    assert told(answer.model_dump(mode="json")) == expected


def test_usage_of_anthropic_has_the_caches_in_its_input(of_anthropic):
    answer = message(of_anthropic)

    assert answer.usage.input_tokens == 500
    expected = {
        "provider": "anthropic",
        "model": "claude-haiku-4-5-20251001",
        **TOKENS,
        "context": {"service_tier": "standard"},
    }
    assert told(answer) == expected
    assert told(answer.model_dump(mode="json")) == expected


def test_usage_of_google_s_json_has_the_thoughts_in_its_output(provider):
    answer = generate(provider)

    assert answer["usageMetadata"]["candidatesTokenCount"] == 30
    assert told(answer) == {
        "provider": "gcp.gemini",
        "model": "gemini-2.5-flash-001",
        **{name: count for name, count in TOKENS.items() if name != "cache_write_tokens"},
    }


@pytest.mark.parametrize("stream", [stream_chat, stream_response])
def test_usage_of_a_stream_of_openai_is_read_from_its_chunks(of_openai, stream):
    chunks = stream(of_openai)

    expected = {"provider": "openai", "model": "gpt-4o-mini-2024-07-18", **TOKENS}
    for found in (told_by(chunks), told_by([chunk.model_dump(mode="json") for chunk in chunks])):
        assert {name: value for name, value in found.items() if name != "context"} == expected


def test_usage_of_a_stream_of_anthropic_takes_the_input_from_its_start_and_the_output_from_its_end(of_anthropic):
    chunks = stream_message(of_anthropic)

    expected = {
        "provider": "anthropic",
        "model": "claude-haiku-4-5-20251001",
        **TOKENS,
        "context": {"service_tier": "standard"},
    }
    assert told_by(chunks) == expected
    assert told_by([chunk.model_dump(mode="json") for chunk in chunks]) == expected


def test_anthropic_s_own_helper_for_streams_is_read_too(of_anthropic):
    with of_anthropic.messages.stream(model="claude-haiku-4-5", max_tokens=99, messages=said(SPENT)) as stream:
        events = list(stream)

    assert told_by(events) == told_by(stream_message(of_anthropic))


def test_openai_s_own_helper_for_streams_is_read_too(of_openai):
    options: Any = {"include_usage": True}
    with of_openai.chat.completions.stream(model="gpt-4o-mini", messages=said(SPENT), stream_options=options) as stream:
        events = list(stream)

    assert told_by(events) == told_by(stream_chat(of_openai))


def test_answer_without_usage_has_none_and_not_zeros(provider, of_openai, of_anthropic):
    for ask in (chat, respond):
        assert read_usage(ask(of_openai, NO_USAGE), at=AT) is None
    assert read_usage(message(of_anthropic, NO_USAGE), at=AT) is None
    assert read_usage(generate(provider, NO_USAGE), at=AT) is None


def test_stream_without_usage_has_none_and_not_zeros(of_openai, of_anthropic):
    assert usage_of_chunks(stream_chat(of_openai, include_usage=False), at=AT) is None
    for stream in (stream_chat, stream_response):
        assert usage_of_chunks(stream(of_openai, NO_USAGE), at=AT) is None
    assert usage_of_chunks(stream_message(of_anthropic, NO_USAGE), at=AT) is None
    assert usage_of_chunks([], at=AT) is None


@pytest.mark.parametrize("kept", range(1, 8))
def test_stream_that_ends_before_the_output_is_counted_has_no_usage(of_anthropic, kept):
    chunks = stream_message(of_anthropic)
    counted = next(number for number, chunk in enumerate(chunks) if chunk.type == "message_delta")

    assert usage_of_chunks(chunks[: min(kept, counted)], at=AT) is None


# Who answered --------------------------------------------------------------------------------------------------------


def test_provider_is_guessed_from_the_class_or_the_shape_of_an_answer(provider, of_openai, of_anthropic):
    answers = [chat(of_openai), respond(of_openai), *stream_chat(of_openai)]
    assert {guess_provider(answer) for answer in answers} == {"openai"}
    assert {guess_provider(answer.model_dump()) for answer in answers} == {"openai"}
    assert {guess_provider(event) for event in stream_response(of_openai)} == {"openai"}
    assert {guess_provider(event.model_dump()) for event in stream_response(of_openai)} == {"openai"}
    assert {guess_provider(event) for event in stream_message(of_anthropic)} == {"anthropic"}
    assert guess_provider(message(of_anthropic).model_dump()) == "anthropic"
    assert guess_provider(generate(provider)) == "gcp.gemini"


@pytest.mark.parametrize("answer", [None, "text", 7, {}, [], {"object": "list"}, object(), {"type": 3}])
def test_provider_of_what_says_nothing_is_empty(answer):
    assert guess_provider(answer) == ""


def test_provider_that_is_given_wins_and_the_model_of_the_answer_wins(of_openai):
    usage = read_usage(chat(of_openai), provider="azure.ai.openai", model="my-deployment", at=AT)

    assert (usage.provider, usage.model) == ("azure.ai.openai", "gpt-4o-mini-2024-07-18")


def test_model_that_is_given_is_taken_where_the_answer_names_none():
    usage = {"prompt_tokens": 3, "completion_tokens": 2}

    assert read_usage({"usage": usage}, model="gpt-5", at=AT).model == "gpt-5"
    assert read_usage({"usage": usage, "model": "", "object": None}, model="gpt-5", at=AT).model == "gpt-5"
    assert read_usage({"usage": usage}, at=AT).model == ""


# Shapes by hand ------------------------------------------------------------------------------------------------------


@dataclass
class Counted:
    model: str
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0


BY_HAND = {"model": "mine", "provider": "local", **TOKENS}


@pytest.mark.parametrize(
    "answer",
    [
        BY_HAND,
        {"usage": BY_HAND},
        {"llm_usage": BY_HAND, "text": "hello"},
        {"usage": TOKENS, "model": "mine", "provider": "local"},
        {"llmUsage": {"model": "mine", "provider": "local", "inputTokens": 1000, "outputTokens": 50,
                      "cachedInputTokens": 400, "cacheWriteTokens": 100, "reasoningTokens": 20}},
        SimpleNamespace(**BY_HAND),
        SimpleNamespace(usage=SimpleNamespace(**BY_HAND)),
    ],
)  # fmt: skip
def test_any_object_or_dict_with_the_documented_names_is_read(answer):
    assert told(answer, provider="local") == BY_HAND


def test_documented_names_of_a_dataclass_are_read():
    assert told(Counted("mine", 7, 5, 3)) == {
        "model": "mine",
        "input_tokens": 7,
        "output_tokens": 5,
        "reasoning_tokens": 3,
    }


def test_usage_may_be_the_part_of_an_answer_that_a_step_returns(of_openai, of_anthropic):
    for answer in (chat(of_openai), respond(of_openai), message(of_anthropic)):
        counts = {name: value for name, value in told(answer).items() if name in TOKENS}
        for returned in (answer.usage, answer.usage.model_dump(), {"llm_usage": answer.usage}, {"llm_usage": answer}):
            assert {name: value for name, value in told(returned).items() if name in TOKENS} == counts


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(
            {"usage": {"prompt_tokens": 9, "total_tokens": 9}}, {"input_tokens": 9}, id="embeddings have no output"
        ),
        pytest.param(
            {"usage": {"prompt_tokens": 100, "completion_tokens": 5, "prompt_cache_hit_tokens": 60,
                       "prompt_cache_miss_tokens": 40}},
            {"input_tokens": 100, "output_tokens": 5, "cached_input_tokens": 60}, id="DeepSeek",
        ),
        pytest.param(
            {"usage": {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 125,
                       "completion_tokens_details": {"reasoning_tokens": 20}}},
            {"input_tokens": 100, "output_tokens": 25, "reasoning_tokens": 20}, id="xAI counts reasoning beside",
        ),
        pytest.param(
            {"usage": {"prompt_tokens": 100, "completion_tokens": 5, "cache_read_input_tokens": 60,
                       "cache_creation_input_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}},
            {"input_tokens": 100, "output_tokens": 5, "cached_input_tokens": 60, "cache_write_tokens": 10},
            id="LiteLLM counts Anthropic's caches in its input",
        ),
        pytest.param(
            {"usage": {"inputTokens": 30, "outputTokens": 5, "totalTokens": 105, "cacheReadInputTokens": 60,
                       "cacheWriteInputTokens": 10}},
            {"input_tokens": 100, "output_tokens": 5, "cached_input_tokens": 60, "cache_write_tokens": 10},
            id="Bedrock",
        ),
        pytest.param(
            {"usage_metadata": {"input_tokens": 100, "output_tokens": 5, "total_tokens": 105,
                                "input_token_details": {"cache_read": 60, "cache_creation": 10}}},
            {"input_tokens": 100, "output_tokens": 5, "cached_input_tokens": 60, "cache_write_tokens": 10},
            id="LangChain",
        ),
        pytest.param(
            {"usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}, "candidates": []},
            {"input_tokens": 9}, id="Google leaves zeros out",
        ),
        pytest.param(
            {"usageMetadata": {"promptTokenCount": 9, "thoughtsTokenCount": 4, "totalTokenCount": 13}},
            {"input_tokens": 9, "output_tokens": 4, "reasoning_tokens": 4}, id="Google thought and said nothing",
        ),
        pytest.param(
            {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2, "toolUsePromptTokenCount": 5}},
            {"input_tokens": 14, "output_tokens": 2}, id="Google's tools are input",
        ),
    ],
)  # fmt: skip
def test_usage_in_the_words_of_others_is_read(answer, expected):
    found = told(answer)

    assert {name: value for name, value in found.items() if name in TOKENS} == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"service_tier": "priority", "speed": "fast", "inference_geo": "us"},
         {"service_tier": "priority", "speed": "fast", "inference_geo": "us"}),
        ({"service_tier": None, "speed": 3}, {}),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}},
         {"cache_write_1h_tokens": 4}),
        ({"server_tool_use": {"web_search_requests": 2}}, {"web_searches": 2}),
        ({"server_tool_use": {"web_search_requests": 0}}, {}),
        ({"input_tokens_details": {"image_tokens": 7}, "output_tokens_details": {"image_tokens": 8}},
         {"input_image_tokens": 7, "output_image_tokens": 8}),
        ({"input_token_details": {"audio": 7}, "output_token_details": {"audio": 8}},
         {"input_audio_tokens": 7, "output_audio_tokens": 8}),
        ({"prompt_tokens_details": [{"modality": "TEXT", "tokenCount": 1}, {"modality": "AUDIO", "tokenCount": 6}]},
         {"input_audio_tokens": 6}),
    ],
)  # fmt: skip
def test_context_has_what_else_the_price_depends_on(usage, expected):
    answer = {"usage": {"input_tokens": 10, "output_tokens": 5, **usage}}

    assert read_usage(answer, at=AT).context == expected


def test_what_a_client_s_classes_do_not_declare_is_read_all_the_same():
    told_by_deepseek = {
        "prompt_tokens": 100,
        "completion_tokens": 5,
        "total_tokens": 105,
        "prompt_cache_hit_tokens": 60,
    }

    usage = read_usage(CompletionUsage.model_validate(told_by_deepseek), at=AT)

    assert (usage.provider, usage.input_tokens, usage.cached_input_tokens) == ("openai", 100, 60)


def test_searches_of_openai_are_counted_from_its_output():
    kinds = ["reasoning", "web_search_call", "message", "web_search_call", "file_search_call", None]
    answer = {
        "usage": {"input_tokens": 10, "output_tokens": 5},
        "output": [{"type": kind, "id": str(number)} for number, kind in enumerate(kinds)],
    }

    expected = {"web_searches": 2, "storage_searches": 1}
    assert read_usage(answer, at=AT).context == expected
    assert usage_of_chunks([{"type": "response.completed", "response": answer}], at=AT).context == expected


def test_searches_that_google_does_not_count_are_named_so_that_nobody_prices_the_call_without_them():
    answer = {
        "candidates": [{"groundingMetadata": {"webSearchQueries": ["weather in Rome"]}}],
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5},
    }

    assert read_usage(answer, at=AT).context == {"unreadable": ["web_searches"]}


def test_context_of_the_answer_wins_over_what_is_given():
    answer = {"usage": {"input_tokens": 10, "output_tokens": 5}, "service_tier": "default"}

    usage = read_usage(answer, at=AT, context={"service_tier": "flex", "processing": "batch", "odd": object()})

    assert usage.context == {"service_tier": "default", "processing": "batch"}


# Shapes that nobody expects ------------------------------------------------------------------------------------------

NO_COUNTS = [-1, True, "12", 1.0, float("nan"), MAX_TOKENS + 1, 10**400, [3], {"n": 3}, b"3", object()]


@pytest.mark.parametrize("value", [*NO_COUNTS, None], ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("name", ["input_tokens", "output_tokens"])
def test_answer_whose_input_or_output_is_no_count_has_no_usage(name, value):
    assert read_usage({"usage": TOKENS | {name: value}}, at=AT) is None


@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("name", ["cached_input_tokens", "cache_write_tokens"])
def test_part_that_is_no_count_is_named_so_that_nobody_prices_the_call_without_it(name, value):
    usage = read_usage({"usage": TOKENS | {name: value}}, at=AT)

    assert (usage.input_tokens, getattr(usage, name)) == (1000, 0)
    assert usage.context == {"unreadable": [name]}


@pytest.mark.parametrize("value", [*NO_COUNTS, None], ids=lambda value: str(value)[:20])
def test_reasoning_that_is_no_count_is_left_out_for_no_price_depends_on_it(value):
    usage = read_usage({"usage": TOKENS | {"reasoning_tokens": value}}, at=AT)

    assert (usage.reasoning_tokens, usage.context) == (0, {})


def test_names_that_no_database_takes_are_mended():
    usage = read_usage({"usage": TOKENS, "model": " a\x00b\ud800" + "c" * 999}, provider="p\x00", at=AT)

    assert usage.model == "a\ufffdb?" + "c" * 251
    assert usage.provider == "p\ufffd"


class Spiteful:
    """Raises whatever it is asked for."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Endless:
    """Is its own part, whatever it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return self


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Spiteful(), id="raises"),
        pytest.param(Endless(), id="endless"),
        pytest.param({"usage": Spiteful()}, id="usage that raises"),
        pytest.param({"usage": Endless()}, id="endless usage"),
        pytest.param({"message": {"usage": Spiteful()}}, id="usage of a message that raises"),
        pytest.param(print, id="function"),
        pytest.param(int, id="class"),
        pytest.param([TOKENS], id="list"),
        pytest.param("usage", id="text"),
        pytest.param(b"usage", id="bytes"),
        pytest.param(3, id="number"),
        pytest.param(None, id="None"),
        pytest.param({"usage": []}, id="usage is a list"),
        pytest.param({"usage": {}}, id="usage is empty"),
        pytest.param({3: 4}, id="keys that are no text"),
        pytest.param({"usage": {"total_tokens": 9}}, id="total only"),
    ],
)
def test_answer_that_says_nothing_has_no_usage(answer):
    assert read_usage(answer, at=AT) is None


NAMES = st.sampled_from([
    "usage", "llm_usage", "usageMetadata", "usage_metadata", "message", "response", "chunk", "type", "object", "model",
    "modelVersion", "provider", "service_tier", "input_tokens", "output_tokens", "prompt_tokens", "completion_tokens",
    "total_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "cache_read_input_tokens",
    "cache_creation_input_tokens", "prompt_tokens_details", "completion_tokens_details", "cached_tokens",
    "promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount", "cachedContentTokenCount",
    "cache_creation", "ephemeral_1h_input_tokens", "server_tool_use", "web_search_requests", "candidates",
    "promptTokensDetails", "modality", "tokenCount", "output", "groundingMetadata", "webSearchQueries",
])  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(0, 2000) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["message_start", "message_delta", "response.completed", "AUDIO", "web_search_call"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=20,
)  # fmt: skip


@given(VALUES, st.booleans())
def test_json_of_any_shape_has_whole_counts_or_no_usage(value, as_objects):
    answer = objects(value) if as_objects else value

    for usage in (read_usage(answer, at=AT), usage_of_chunks(value if isinstance(value, list) else [answer], at=AT)):
        if usage is not None:
            counts = [getattr(usage, name) for name in TOKENS]
            assert all(type(count) is int and count >= 0 for count in counts)
            assert isinstance(usage.model, str)
            json.dumps(dict(usage.context))
    assert isinstance(guess_provider(answer), str)


def objects(value: Any) -> Any:
    """The same as objects with attributes."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: objects(each) for name, each in value.items()})
    return [objects(each) for each in value] if isinstance(value, list) else value
