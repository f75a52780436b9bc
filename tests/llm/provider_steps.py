"""Steps that call the fake provider with the official SDKs, in each form that they have; for tests in one process."""

from __future__ import annotations

import functools
import json
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import openai

from baton import llm
from tests.llm.scripted import then

SEEN: list[Any] = []
"""The answers that bodies were given, and lists of the chunks that they read."""

CLIENTS: list[Any] = []

GPT, CLAUDE, GEMINI = "gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"
TIMEOUT = 20.0


@functools.cache
def gpt(url: str, timeout: float = TIMEOUT) -> openai.OpenAI:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=timeout)
    CLIENTS.append(client)
    return client


@functools.cache
def claude(url: str, timeout: float = TIMEOUT) -> anthropic.Anthropic:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=timeout)
    CLIENTS.append(client)
    return client


@asynccontextmanager
async def agpt(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT) as client:
        yield client


@asynccontextmanager
async def aclaude(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT) as client:
        yield client


def close_clients() -> None:
    """Close the clients that a module of tests has used."""
    for client in CLIENTS:
        client.close()
    CLIENTS.clear()
    gpt.cache_clear()
    claude.cache_clear()


def said(prompt: str) -> list[Any]:
    return [{"role": "user", "content": prompt}]


def chat(url: str, prompt: str, **more: Any) -> Any:
    return gpt(url).chat.completions.create(model=GPT, messages=said(prompt), **more)


def responses(url: str, prompt: str, **more: Any) -> Any:
    return gpt(url).responses.create(model=GPT, input=prompt, **more)


def messages(url: str, prompt: str, **more: Any) -> Any:
    return claude(url).messages.create(model=CLAUDE, max_tokens=99, messages=said(prompt), **more)


def google(url: str, prompt: str, **_more: Any) -> Any:
    body = json.dumps(_for_google(prompt)).encode()
    with urllib.request.urlopen(urllib.request.Request(_at_google(url), body), timeout=TIMEOUT) as response:
        return json.load(response)


async def achat(url: str, prompt: str) -> Any:
    async with agpt(url) as client:
        return await client.chat.completions.create(model=GPT, messages=said(prompt))


async def aresponses(url: str, prompt: str) -> Any:
    async with agpt(url) as client:
        return await client.responses.create(model=GPT, input=prompt)


async def amessages(url: str, prompt: str) -> Any:
    async with aclaude(url) as client:
        return await client.messages.create(model=CLAUDE, max_tokens=99, messages=said(prompt))


async def agoogle(url: str, prompt: str) -> Any:
    async with httpx2.AsyncClient() as client:
        return (await client.post(_at_google(url), json=_for_google(prompt))).json()


FORMS: dict[str, Callable[..., Any]] = {"chat": chat, "responses": responses, "messages": messages, "google": google}
AFORMS: dict[str, Callable[..., Any]] = {
    "chat": achat,
    "responses": aresponses,
    "messages": amessages,
    "google": agoogle,
}

WITH_USAGE: Any = {"include_usage": True}


def chat_in_parts(url: str, prompt: str) -> Any:
    return chat(url, prompt, stream=True, stream_options=WITH_USAGE)


def responses_in_parts(url: str, prompt: str) -> Any:
    return responses(url, prompt, stream=True)


def messages_in_parts(url: str, prompt: str) -> Any:
    return messages(url, prompt, stream=True)


def chat_manager(url: str, prompt: str) -> Any:
    """What is a context manager, and gives events beside chunks."""
    return gpt(url).chat.completions.stream(model=GPT, messages=said(prompt), stream_options=WITH_USAGE)


def responses_manager(url: str, prompt: str) -> Any:
    return gpt(url).responses.stream(model=GPT, input=prompt)


def messages_manager(url: str, prompt: str) -> Any:
    return claude(url).messages.stream(model=CLAUDE, max_tokens=99, messages=said(prompt))


STREAMS: dict[str, Callable[..., Any]] = {
    "chat": chat_in_parts,
    "responses": responses_in_parts,
    "messages": messages_in_parts,
    "chat-manager": chat_manager,
    "responses-manager": responses_manager,
    "messages-manager": messages_manager,
}


async def a_stream(form: str, url: str, prompt: str) -> AsyncIterator[Any]:
    """The stream of a client that is closed behind it."""
    async with agpt(url) as of_openai, aclaude(url) as of_anthropic:
        match form:
            case "chat":
                found: Any = await of_openai.chat.completions.create(
                    model=GPT, messages=said(prompt), stream=True, stream_options=WITH_USAGE
                )
            case "responses":
                found = await of_openai.responses.create(model=GPT, input=prompt, stream=True)
            case _:
                found = await of_anthropic.messages.create(
                    model=CLAUDE, max_tokens=99, messages=said(prompt), stream=True
                )
        async for chunk in found:
            yield chunk


@llm.llm_step(backoff=0)
def asks(ctx: Any, url: str, form: str = "chat", prompt: str = "hello", **options: Any) -> None:
    """Call once under the key "k"."""
    SEEN.append(llm.call(ctx, "k", lambda: FORMS[form](url, prompt), **options))
    then()


@llm.llm_step(backoff=0)
async def aasks(ctx: Any, url: str, form: str = "chat", prompt: str = "hello", **options: Any) -> None:
    SEEN.append(await llm.acall(ctx, "k", lambda: AFORMS[form](url, prompt), **options))
    then()


@llm.llm_step(backoff=0)
def streams(ctx: Any, url: str, form: str = "chat", prompt: str = "hello", **options: Any) -> None:
    """Stream once under the key "k"."""
    SEEN.append(list(llm.stream(ctx, "k", lambda: STREAMS[form](url, prompt), **options)))
    then()


@llm.llm_step(backoff=0)
async def astreams(ctx: Any, url: str, form: str = "chat", prompt: str = "hello", **options: Any) -> None:
    parts = llm.astream(ctx, "k", lambda: a_stream(form, url, prompt), **options)
    SEEN.append([chunk async for chunk in parts])
    then()


@llm.llm_step(backoff=0)
async def streams_by_manager(ctx: Any, url: str, prompt: str = "hello") -> None:
    """An async client's context managers: openai's and anthropic's."""
    async with agpt(url) as of_openai, aclaude(url) as of_anthropic:
        forms: list[Callable[[], Any]] = [
            lambda: of_openai.chat.completions.stream(model=GPT, messages=said(prompt), stream_options=WITH_USAGE),
            lambda: of_openai.responses.stream(model=GPT, input=prompt),
            lambda: of_anthropic.messages.stream(model=CLAUDE, max_tokens=99, messages=said(prompt)),
        ]
        for number, form in enumerate(forms):
            SEEN.append([chunk async for chunk in llm.astream(ctx, str(number), form)])
    then()


@llm.llm_step(backoff=0)
def asks_by_request(ctx: Any, url: str, prompt: str = "hello") -> None:
    """Give the request by keyword, and in a partial function."""
    create = gpt(url).chat.completions.create
    request = {"model": GPT, "messages": said(prompt), "max_tokens": 60}
    SEEN.append(llm.call(ctx, "keyword", create, request=request))
    SEEN.append(llm.call(ctx, "partial", functools.partial(create, **request)))
    then()


@llm.llm_step(backoff=0)
def asks_with_key(ctx: Any, url: str, prompt: str = "hello") -> None:
    """Tell the provider the idempotency key."""
    llm.call(ctx, "k", lambda call: chat(url, prompt, extra_headers=call.headers))
    then()


@llm.llm_step(backoff=0)
def asks_with_keys(ctx: Any, url: str, keys: list[str]) -> None:
    for key in keys:
        llm.call(ctx, key, lambda call: chat(url, "hello", extra_headers=call.headers))


@llm.llm_step(backoff=0)
def streams_without_usage(ctx: Any, url: str) -> None:
    SEEN.append(list(llm.stream(ctx, "k", lambda: chat(url, "hello", stream=True))))


@llm.llm_step(backoff=0, max_attempts=2)
def asks_a_few_times(ctx: Any, url: str) -> None:
    llm.call(ctx, "k", lambda: chat(url, "hello"))


@llm.llm_step(backoff=0)
def asks_in_a_hurry(ctx: Any, url: str, form: str, prompt: str = "hello") -> None:
    """Give up soon."""
    client: Any = {"chat": gpt, "messages": claude}[form](url, 1.0)
    forms: dict[str, Callable[[], Any]] = {
        "chat": lambda: client.chat.completions.create(model=GPT, messages=said(prompt)),
        "messages": lambda: client.messages.create(model=CLAUDE, max_tokens=99, messages=said(prompt)),
    }
    SEEN.append(llm.call(ctx, "k", forms[form]))


@llm.llm_step(backoff=0, max_attempts=20)
def asks_many(ctx: Any, url: str, prompts: list[str]) -> None:
    """Everything in the mix: each prompt in each form."""
    for number, prompt in enumerate(prompts):
        for name, form in FORMS.items():
            llm.call(ctx, f"call {name} {number}", lambda form=form, prompt=prompt: form(url, prompt))
        for name, form in STREAMS.items():
            for _ in llm.stream(ctx, f"stream {name} {number}", lambda form=form, prompt=prompt: form(url, prompt)):
                pass
        then()


def _at_google(url: str) -> str:
    return f"{url}/v1beta/models/{GEMINI}:generateContent"


def _for_google(prompt: str) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}


def text_of(answer: Any) -> str:
    """What an answer of any form says."""
    if isinstance(answer, dict):
        return str(answer["candidates"][0]["content"]["parts"][0]["text"])
    if hasattr(answer, "choices"):
        return str(answer.choices[0].message.content)
    return str(answer.output_text if hasattr(answer, "output_text") else answer.content[0].text)


def text_of_chunks(chunks: list[Any]) -> str:
    """What the chunks of a stream say together."""
    by_helper = any(getattr(chunk, "type", "") == "text" for chunk in chunks)
    return "".join(_texts(chunks, by_helper=by_helper))


def _texts(chunks: list[Any], *, by_helper: bool) -> Iterator[str]:
    for chunk in chunks:
        kind = getattr(chunk, "type", "")
        if getattr(chunk, "object", "") == "chat.completion.chunk" and chunk.choices:
            yield chunk.choices[0].delta.content or ""
        elif kind in ("response.output_text.delta", "content.delta"):
            yield chunk.delta
        elif kind == "text":
            yield chunk.text
        elif kind == "content_block_delta" and not by_helper:
            yield getattr(chunk.delta, "text", "")
