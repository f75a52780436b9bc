"""The fake provider, through the official SDKs: what it says, what it charges, how it fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from fake_llm import PRICES, Failure, FakeProvider, Tokens

from tests.utils import wait_until

PROJECT = Path(__file__).resolve().parent.parent / "example_project"
GPT, CLAUDE, GEMINI = "gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"
COUNTED = "[fake input=1000 output=50 cached=400 reasoning=20]"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def gpt(provider: FakeProvider) -> Iterator[Any]:
    import openai

    with openai.OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def claude(provider: FakeProvider) -> Iterator[Any]:
    import anthropic

    with anthropic.Anthropic(base_url=provider.url, api_key="any", max_retries=0, timeout=30) as client:
        yield client


def chat(client: Any, prompt: str = "Hello", **options: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=[user(prompt)], **options)


def message(client: Any, prompt: str = "Hello", **options: Any) -> Any:
    return client.messages.create(model=CLAUDE, max_tokens=500, messages=[user(prompt)], **options)


def user(prompt: str) -> Any:
    return {"role": "user", "content": prompt}


def over_http(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with build_opener(ProxyHandler({})).open(Request(url, data), timeout=30) as response:
        return json.load(response)


# The wire formats


def test_openai_chat_answers_with_usage(provider: FakeProvider, gpt: Any) -> None:
    answer = chat(gpt, f"Where is {COUNTED} Rome?")

    assert answer.choices[0].message.content == "An answer to: Where is Rome?"
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1000, 50, 1050)
    assert usage.prompt_tokens_details.cached_tokens == 400
    assert usage.completion_tokens_details.reasoning_tokens == 20
    assert [charge.id for charge in provider.invoice.charges] == [answer.id]


def test_openai_chat_streams_and_ends_with_usage(provider: FakeProvider, gpt: Any) -> None:
    with chat(gpt, f"Rome {COUNTED}", stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "An answer to: Rome"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (1000, 50)
    assert provider.invoice.charges[0].delivered


def test_openai_chat_streams_without_usage_where_none_is_wanted(gpt: Any) -> None:
    with chat(gpt, stream=True) as stream:
        chunks = list(stream)

    assert {chunk.usage for chunk in chunks} == {None}
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openai_responses_answers_with_usage(gpt: Any) -> None:
    answer = gpt.responses.create(model=GPT, instructions="Be short.", input=[user(f"Rome? {COUNTED}")])

    assert answer.output_text == "An answer to: Be short. Rome?"
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (1000, 50, 1050)
    assert answer.usage.input_tokens_details.cached_tokens == 400
    assert answer.usage.output_tokens_details.reasoning_tokens == 20


def test_openai_responses_streams(gpt: Any) -> None:
    with gpt.responses.stream(model=GPT, input=f"Rome? {COUNTED}") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()

    assert text == final.output_text == "An answer to: Rome?"
    assert (final.status, final.usage.input_tokens, final.usage.output_tokens) == ("completed", 1000, 50)


def test_anthropic_counts_its_cache_beside_the_input(claude: Any) -> None:
    answer = message(claude, "Rome? [fake input=1000 output=50 cached=400 cache_write=100 reasoning=20]")

    assert answer.content[0].text == "An answer to: Rome?"
    usage = answer.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (500, 400, 100)
    assert (usage.output_tokens, usage.output_tokens_details.thinking_tokens) == (50, 20)


def test_anthropic_streams_the_input_first_and_the_output_last(claude: Any) -> None:
    with message(claude, f"Rome? {COUNTED}", stream=True) as stream:
        events = {event.type: event for event in stream}

    assert events["message_start"].message.usage.input_tokens == 600
    assert events["message_start"].message.usage.cache_read_input_tokens == 400
    assert events["message_start"].message.usage.output_tokens == 1
    assert events["message_delta"].usage.output_tokens == 50
    assert events["message_delta"].usage.input_tokens is None
    with claude.messages.stream(model=CLAUDE, max_tokens=500, messages=[user("Rome?")]) as stream:
        assert "".join(stream.text_stream) == "An answer to: Rome?"
        assert stream.get_final_message().stop_reason == "end_turn"


def test_google_counts_thoughts_beside_the_candidates(provider: FakeProvider) -> None:
    url = f"{provider.url}/v1beta/models/{GEMINI}:generateContent?key=any"

    answer = over_http(url, {"contents": [{"role": "user", "parts": [{"text": f"Rome? {COUNTED}"}]}]})

    assert answer["candidates"][0]["content"]["parts"] == [{"text": "An answer to: Rome?"}]
    assert answer["usageMetadata"] == {
        "promptTokenCount": 1000,
        "cachedContentTokenCount": 400,
        "candidatesTokenCount": 30,
        "thoughtsTokenCount": 20,
        "totalTokenCount": 1050,
    }
    assert provider.invoice.charges[0].id == answer["responseId"]


def test_async_clients_are_answered_too(provider: FakeProvider) -> None:
    import anthropic
    import openai

    async def ask() -> tuple[Any, Any, str]:
        async with (
            openai.AsyncOpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as gpt,
            anthropic.AsyncAnthropic(base_url=provider.url, api_key="any", max_retries=0) as claude,
        ):
            first, second = await asyncio.gather(chat(gpt, "One"), message(claude, "Two"))
            async with claude.messages.stream(model=CLAUDE, max_tokens=9, messages=[user("Three")]) as stream:
                return first, second, "".join([text async for text in stream.text_stream])

    first, second, third = asyncio.run(ask())

    assert first.choices[0].message.content == "An answer to: One"
    assert second.content[0].text == "An answer to: Two"
    assert third == "An answer to: Three"
    assert len(provider.invoice.charges) == 3


# What it answers and counts


def test_an_answer_keeps_to_the_limit_of_its_request(gpt: Any, claude: Any) -> None:
    short = chat(gpt, "Rome " * 30, max_completion_tokens=5)
    brief = claude.messages.create(model=CLAUDE, max_tokens=5, messages=[user("Rome " * 30)])
    terse = gpt.responses.create(model=GPT, input="Rome " * 30, max_output_tokens=5)

    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (5, "length")
    assert (brief.usage.output_tokens, brief.stop_reason) == (5, "max_tokens")
    assert (terse.usage.output_tokens, terse.status) == (5, "incomplete")


def test_tokens_can_be_asked_for_by_a_header(provider: FakeProvider, gpt: Any) -> None:
    answer = chat(gpt, extra_headers={"X-Fake": "input=70 output=7"})

    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (70, 7)
    assert provider.invoice.charges[0].tokens == Tokens(input=70, output=7)


@pytest.mark.parametrize("control", ["inputs=1", "input=many", "input=5 cached=6", "output=5 reasoning=6"])
def test_tokens_that_cannot_be_are_refused(provider: FakeProvider, gpt: Any, control: str) -> None:
    import openai

    with pytest.raises(openai.BadRequestError):
        chat(gpt, f"[fake {control}]")

    assert provider.invoice.charges == ()


def test_answers_tokens_names_and_prices_can_be_given() -> None:
    import openai

    with (
        FakeProvider(
            prices={"mine": {"input": "1", "output": Decimal(3)}},
            answer=lambda request: request.prompt.upper(),
            usage=lambda request, text: Tokens(input=len(request.prompt), output=len(text)),
            served_as={"mine": "mine-2026-11-01"},
        ) as provider,
        openai.OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as client,
    ):
        answer = client.chat.completions.create(model="mine", messages=[user("loud")])
        with pytest.raises(openai.NotFoundError, match="The model `gpt-4o-mini` does not exist"):
            chat(client)

        assert (answer.choices[0].message.content, answer.model) == ("LOUD", "mine-2026-11-01")
        assert provider.invoice.total() == Decimal("0.000016")


# The invoice


def test_the_invoice_is_exact_to_the_last_digit(provider: FakeProvider, gpt: Any, claude: Any) -> None:
    chat(gpt, COUNTED)
    message(claude, "[fake input=1003 output=7 cached=401 cache_write=100]")

    first, second = provider.invoice.charges
    assert first.cost == Decimal("0.00015")  # 600 at 0.15, 400 at 0.075, 50 at 0.60, of a million
    assert second.cost == Decimal("0.0007021")  # 502 at 1, 401 at 0.10, 100 at 1.25, 7 at 5
    assert provider.invoice.total() == Decimal("0.0008521")


def test_the_invoice_names_model_key_and_delivery(provider: FakeProvider, gpt: Any) -> None:
    chat(gpt, extra_headers={"Idempotency-Key": "run-1"})

    (charge,) = provider.invoice.charges
    assert (charge.number, charge.provider, charge.model, charge.idempotency_key) == (1, "openai", GPT, "run-1")
    assert charge.delivered


def test_a_repeated_key_is_charged_again_by_a_provider_without_memory(provider: FakeProvider, gpt: Any) -> None:
    for _ in range(2):
        chat(gpt, extra_headers={"Idempotency-Key": "run-1"})

    assert len(provider.invoice.charges) == 2


def test_a_repeated_key_gets_the_first_answer_where_keys_are_honoured(provider: FakeProvider, gpt: Any) -> None:
    import openai

    provider.honours_keys = True
    provider.fail(Failure("drop"))
    with pytest.raises(openai.APIConnectionError):
        chat(gpt, extra_headers={"Idempotency-Key": "run-1"})
    again = chat(gpt, extra_headers={"Idempotency-Key": "run-1"})
    other = chat(gpt, extra_headers={"Idempotency-Key": "run-2"})

    assert [(charge.id, charge.delivered) for charge in provider.invoice.charges] == [
        (again.id, True),
        (other.id, True),
    ]
    assert len(provider.requests) == 3


def test_two_hundred_requests_at_once_are_all_answered_and_charged(provider: FakeProvider, gpt: Any) -> None:
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda number: chat(gpt, f"{number} [fake input=10 output=10]"), range(200)))

    assert len({answer.id for answer in answers}) == 200
    assert provider.invoice.total() == 200 * Tokens(input=10, output=10).cost(PRICES[GPT])


# Failures


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, ("BadRequestError", "BadRequestError", "invalid_request_error")),
        (401, ("AuthenticationError", "AuthenticationError", "authentication_error")),
        (429, ("RateLimitError", "RateLimitError", "rate_limit_error")),
        (500, ("InternalServerError", "InternalServerError", "api_error")),
        (503, ("InternalServerError", "ServiceUnavailableError", "api_error")),
        (529, ("InternalServerError", "OverloadedError", "overloaded_error")),
    ],
)
def test_a_refusal_speaks_as_its_provider_and_is_not_charged(
    provider: FakeProvider, gpt: Any, claude: Any, status: int, expected: tuple[str, str, str]
) -> None:
    provider.fail(Failure("refuse", status=status, message="No.", times=3))

    with pytest.raises(Exception) as gpt_refused:
        chat(gpt)
    with pytest.raises(Exception) as claude_refused:
        message(claude)
    with pytest.raises(HTTPError) as google_refused:
        over_http(f"{provider.url}/v1beta/models/{GEMINI}:generateContent", {})

    gpt_error, claude_error, kind = expected
    assert type(gpt_refused.value).__name__ == gpt_error
    assert gpt_refused.value.body["message"] == "No."  # type: ignore[attr-defined]
    assert type(claude_refused.value).__name__ == claude_error
    assert claude_refused.value.body == {"type": "error", "error": {"type": kind, "message": "No."}}  # type: ignore[attr-defined]
    with google_refused.value as response:
        assert json.load(response)["error"]["code"] == status
    assert provider.invoice.charges == ()
    assert len(provider.requests) == 3


def test_a_refusal_says_in_three_ways_when_to_come_again(provider: FakeProvider, gpt: Any) -> None:
    import openai

    provider.fail(
        Failure("refuse", status=429, retry_after=2),
        Failure("refuse", status=429, retry_after=90, retry_after_form="date"),
        Failure("refuse", status=429, retry_after=0.25, retry_after_form="ms", headers={"x-should-retry": "true"}),
    )
    began = datetime.now(UTC)

    headers = []
    for _ in range(3):
        with pytest.raises(openai.RateLimitError) as refused:
            chat(gpt)
        headers.append(refused.value.response.headers)

    assert headers[0]["retry-after"] == "2"
    assert parsedate_to_datetime(headers[1]["retry-after"]) >= began + timedelta(seconds=90)
    assert (headers[2]["retry-after-ms"], headers[2]["x-should-retry"]) == ("250", "true")
    chat(gpt)


@pytest.mark.parametrize("charged", [True, False])
def test_a_connection_dropped_before_the_answer_is_charged_as_told(
    provider: FakeProvider, gpt: Any, charged: bool
) -> None:
    import openai

    provider.fail(Failure("drop", charged=charged))

    with pytest.raises(openai.APIConnectionError):
        chat(gpt)

    assert [charge.delivered for charge in provider.invoice.charges] == ([False] if charged else [])


def test_a_stream_cut_in_the_middle_is_charged(provider: FakeProvider, gpt: Any, claude: Any) -> None:
    import httpx2
    import openai

    provider.fail(Failure("cut", times=3))

    texts: list[str] = []
    with pytest.raises(openai.APIConnectionError), chat(gpt, "Rome " * 9, stream=True) as stream:
        texts.extend(chunk.choices[0].delta.content for chunk in stream)
    with pytest.raises(httpx2.RemoteProtocolError), message(claude, stream=True) as stream:
        list(stream)
    with pytest.raises(openai.APIConnectionError):
        chat(gpt)

    assert "".join(texts) == "An answer to: Rome Rome Rome Rom"
    assert [charge.delivered for charge in provider.invoice.charges] == [False, False, False]


@pytest.mark.parametrize("kind", ["delay", "stall"])
def test_an_answer_that_comes_too_late_is_charged(provider: FakeProvider, gpt: Any, kind: Any) -> None:
    import openai

    provider.fail(Failure(kind, seconds=60))

    with pytest.raises(openai.APITimeoutError):
        chat(gpt, timeout=1)

    wait_until(lambda: provider.invoice.charges, what="the charge")
    assert [charge.delivered for charge in provider.invoice.charges] == [False]


def test_a_short_delay_is_only_that(provider: FakeProvider, gpt: Any) -> None:
    provider.fail(Failure("delay", seconds=0.01), Failure("stall", seconds=0.01))
    provider.delay = 0.01

    with chat(gpt, stream=True) as stream:
        list(stream)
    chat(gpt)

    assert [charge.delivered for charge in provider.invoice.charges] == [True, True]


def test_a_broken_answer_is_charged(provider: FakeProvider, gpt: Any, claude: Any) -> None:
    provider.fail(Failure("garble", times=3))

    with pytest.raises(json.JSONDecodeError):
        chat(gpt)
    with pytest.raises(json.JSONDecodeError):
        message(claude)
    with pytest.raises(json.JSONDecodeError), chat(gpt, stream=True) as stream:
        list(stream)

    assert [charge.delivered for charge in provider.invoice.charges] == [False, False, False]


def test_an_answer_without_usage_is_charged(provider: FakeProvider, gpt: Any, claude: Any) -> None:
    provider.fail(Failure("usage", times=4))

    assert chat(gpt, COUNTED).usage is None
    assert gpt.responses.create(model=GPT, input="Rome?").usage is None
    with chat(gpt, stream=True, stream_options={"include_usage": True}) as stream:
        assert {chunk.usage for chunk in stream} == {None}
    with message(claude, stream=True) as stream:
        assert [event.usage for event in stream if event.type == "message_delta"] == [None]
    assert provider.invoice.charges[0].tokens.input == 1000
    assert all(charge.delivered for charge in provider.invoice.charges)


def test_usage_can_be_anything_but_the_truth(provider: FakeProvider, gpt: Any) -> None:
    provider.fail(Failure("usage", usage={"prompt_tokens": "many"}))

    assert chat(gpt, COUNTED).usage.prompt_tokens == "many"
    assert provider.invoice.charges[0].tokens.input == 1000


def test_an_answer_can_be_of_twenty_megabytes(provider: FakeProvider, gpt: Any) -> None:
    provider.fail(Failure("huge", times=2))

    whole = chat(gpt).choices[0].message.content
    with chat(gpt, stream=True) as stream:
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert len(whole) >= 20_000_000
    assert streamed == whole
    assert provider.invoice.charges[0].tokens.output == 4


def test_a_failure_picks_its_requests_by_prompt_model_and_order(provider: FakeProvider, gpt: Any) -> None:
    import openai

    provider.fail(Failure("refuse", prompt="Rome", after=1, times=2), Failure("refuse", model="gpt-4o", times=None))

    def is_refused(prompt: str, model: str = GPT) -> bool:
        try:
            gpt.chat.completions.create(model=model, messages=[user(prompt)])
        except openai.InternalServerError:
            return True
        return False

    assert [is_refused(prompt) for prompt in ("Rome", "Oslo", "Rome", "Oslo", "Rome", "Rome")] == [
        *(False, False, True, False, True, False)
    ]
    assert [is_refused("Oslo", "gpt-4o") for _ in range(3)] == [True, True, True]
    assert provider.script.pending == 1


# As a server


def test_a_port_that_is_taken_is_said_in_a_line(provider: FakeProvider) -> None:
    port = urlsplit(provider.url).port
    command = [sys.executable, "-m", "fake_llm", "--port", str(port)]

    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"port {port} cannot be used (" in done.stderr.splitlines()[-1]


def test_the_provider_runs_and_is_told_what_to_do_as_a_process_of_its_own() -> None:
    import openai

    command = [sys.executable, "-m", "fake_llm", "--port", "0", "--honours-keys"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            assert over_http(f"{url}/script", [{"kind": "refuse", "status": 429, "retry_after": 1}]) == {"pending": 1}
            with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
                with pytest.raises(openai.RateLimitError):
                    chat(client)
                answer = chat(client, COUNTED, extra_headers={"Idempotency-Key": "run-1"})

            invoice = over_http(f"{url}/invoice")
            emptied = over_http(f"{url}/reset", {})
        finally:
            process.send_signal(signal.SIGTERM)

    assert invoice == {
        "requests": 2,
        "total": "0.00015",
        "charges": [
            {
                "id": answer.id,
                "number": 2,
                "provider": "openai",
                "model": GPT,
                "idempotency_key": "run-1",
                "tokens": {"input": 1000, "output": 50, "cached": 400, "cache_write": 0, "reasoning": 20},
                "cost": "0.00015",
                "delivered": True,
            }
        ],
    }
    assert emptied == {"requests": 0, "total": "0", "charges": []}
    assert process.returncode == 0


@pytest.mark.parametrize("script", [[{"kind": "explode"}], [{"kind": "drop", "how": "softly"}], ["drop"], 7])
def test_a_script_that_means_nothing_is_refused(provider: FakeProvider, script: object) -> None:
    with pytest.raises(HTTPError) as refused:
        over_http(f"{provider.url}/script", script)

    refused.value.close()
    assert refused.value.code == 400
    assert provider.script.pending == 0


def test_a_client_that_is_killed_has_got_nothing(provider: FakeProvider) -> None:
    provider.fail(Failure("delay", seconds=60))
    body = json.dumps({"model": GPT, "messages": [user("Hello")]})
    ask = "import sys, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(sys.argv[1], sys.argv[2].encode())"
    command = [sys.executable, "-c", ask, f"{provider.openai_url}/chat/completions", body]

    with subprocess.Popen(command) as process:
        wait_until(lambda: provider.invoice.charges, what="the charge")
        os.kill(process.pid, signal.SIGKILL)

    assert [charge.delivered for charge in provider.invoice.charges] == [False]


def test_closing_leaves_no_thread_and_no_port_behind() -> None:
    import openai

    threads = set(threading.enumerate())
    provider = FakeProvider(script=[Failure("delay", seconds=60)])
    with openai.OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as client:

        def fail_to_chat() -> None:
            with pytest.raises(openai.APIConnectionError):
                chat(client)

        late = threading.Thread(target=fail_to_chat)
        late.start()
        wait_until(lambda: provider.invoice.charges, what="the charge")
        chat(client)

        provider.close()
        provider.close()
        late.join()

        fail_to_chat()
    assert set(threading.enumerate()) <= threads
