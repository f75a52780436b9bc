"""Steps that pay: through the official SDKs, in every way that there is, struck where their strikes say."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import anthropic
import openai

from baton import llm
from baton.engine.answers import read_answer, write_answer
from baton.llm.pricing import DefaultPricing, Usage
from baton.llm.transience import retry_after
from tests.faults import llm_places
from tests.faults.llm_places import Place, Strike

PATIENCE = 30.0

EFFECT = "effect"
STREAM = " stream"
KINDS = ("chat", "responses", "messages", "chat stream", "responses stream", "messages stream")
"""What is asked for, by the names that the providers' APIs have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a body, as its arguments bring it."""

    key: str
    kind: str
    model: str
    prompt: str
    timeout: float = PATIENCE
    leaves_after: int = 0
    """How many chunks of the stream the body reads; 0 is all."""
    is_repeated: bool = False
    """The body asks for it a second time."""
    policy: str | None = None
    max_cost: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of `llm.call`."""
        return {"model": self.model, "on_ambiguous": self.policy, "max_cost": self.max_cost}


class OwnPricing:
    """A pricing class as a project has it: it is asked once the answer is stored."""

    def cost(self, usage: Usage) -> Decimal | None:
        """What the table in the settings says."""
        return DefaultPricing().cost(usage)


def backoff(_attempt: int, error: BaseException) -> float:
    """Seconds until the next attempt: what the provider asks for, else hardly any."""
    return retry_after(error, datetime.now(UTC)) or 0.05


@llm.llm_step(queue="default", max_attempts=100, backoff=backoff)
def pays(ctx: Any, *, folder: str, calls: list[Any], strikes: list[Any]) -> dict[str, str]:
    """Make the calls one after the other, and return which answer each got."""
    llm_places.enter(folder, [Strike(**each) for each in strikes])
    got: dict[str, str] = {}
    for call in [Call(**each) for each in calls]:
        for _ in range(2 if call.is_repeated else 1):
            answer = _paid(ctx, call, folder)
            assert got.setdefault(call.key, answer) == answer
    return got


@llm.llm_step(queue="default", max_attempts=100, backoff=backoff)
async def apays(ctx: Any, *, folder: str, calls: list[Any], strikes: list[Any]) -> dict[str, str]:
    """The async twin of `pays`."""
    llm_places.enter(folder, [Strike(**each) for each in strikes])
    got: dict[str, str] = {}
    async with _async_openai() as gpt, _async_anthropic() as claude:
        for call in [Call(**each) for each in calls]:
            for _ in range(2 if call.is_repeated else 1):
                answer = await _apaid(ctx, call, folder, {"openai": gpt, "anthropic": claude})
                assert got.setdefault(call.key, answer) == answer
    return got


def _paid(ctx: Any, call: Call, folder: str) -> str:
    if call.kind == EFFECT:
        return str(ctx.once(call.key, lambda: _effect(call, folder), on_ambiguous=call.policy))

    def ask(paid: llm.Call) -> Any:
        return _create(clients(), call, paid)

    if not call.kind.endswith(STREAM):
        return _name(llm.call(ctx, call.key, ask, **call.options))
    chunks: Iterator[Any] = llm.stream(ctx, call.key, ask, **call.options)
    first = ""
    for number, chunk in enumerate(chunks, 1):
        first = first or _name(chunk)
        if number == call.leaves_after:
            break
        llm_places.strike(Place.BETWEEN_CHUNKS, call.key)
    return first


async def _apaid(ctx: Any, call: Call, folder: str, clients: Mapping[str, Any]) -> str:
    async def aeffect() -> str:
        return _effect(call, folder)

    if call.kind == EFFECT:
        return str(await ctx.aonce(call.key, aeffect, on_ambiguous=call.policy))

    async def ask(paid: llm.Call) -> Any:
        return await _create(clients, call, paid)

    if not call.kind.endswith(STREAM):
        return _name(await llm.acall(ctx, call.key, ask, **call.options))
    chunks: AsyncIterator[Any] = llm.astream(ctx, call.key, ask, **call.options)
    first, number = "", 0
    async for chunk in chunks:
        first, number = first or _name(chunk), number + 1
        if number == call.leaves_after:
            break
        llm_places.strike(Place.BETWEEN_CHUNKS, call.key)
    return first


def _create(clients: Mapping[str, Any], call: Call, paid: llm.Call) -> Any:
    """Send the request."""
    said = [{"role": "user", "content": call.prompt}]
    options: dict[str, Any] = {
        "model": call.model,
        "timeout": call.timeout,
        "extra_headers": paid.headers | llm_places.asked_of_provider(call.key),
    }
    if call.kind.endswith(STREAM):
        options["stream"] = True
    match call.kind.removesuffix(STREAM):
        case "chat":
            if call.kind.endswith(STREAM):
                options["stream_options"] = {"include_usage": True}
            return clients["openai"].chat.completions.create(messages=said, **options)
        case "responses":
            return clients["openai"].responses.create(input=said, **options)
    return clients["anthropic"].messages.create(messages=said, max_tokens=4000, **options)


def _name(answer: Any) -> str:
    """The id that the provider gave an answer, or the answer that a first chunk begins."""
    for part in ("message", "response"):
        answer = getattr(answer, part, answer)
    return str(answer.id)


def _effect(call: Call, folder: str) -> str:
    """Something else that is not to happen twice: a line in a file."""
    name = uuid4().hex
    with (Path(folder).parent / f"effect {call.prompt}").open("ab", buffering=0) as file:
        file.write(f"{name}\n".encode())
    return name


@functools.cache
def clients() -> dict[str, Any]:
    """The clients, made before a cluster forks: they have no connections yet."""
    url, options = _provider()
    return {
        "openai": openai.OpenAI(base_url=url + "/v1", **options),
        "anthropic": anthropic.Anthropic(base_url=url, **options),
    }


def warm_up() -> None:
    """Make one call of each kind before a cluster forks: the clients build what they read answers with at first use.

    No connection is left over, and the calls have no idempotency key.
    """
    url, options = _provider()
    with (
        openai.OpenAI(base_url=url + "/v1", **options) as gpt,
        anthropic.Anthropic(base_url=url, **options) as claude,
    ):
        for kind in KINDS:
            call = Call(key="", kind=kind, model="claude-haiku-4-5" if "messages" in kind else "gpt-4o", prompt="warm")
            answer = _create({"openai": gpt, "anthropic": claude}, call, llm.Call(idempotency_key=""))
            for each in answer if kind.endswith(STREAM) else [answer]:
                written = write_answer(each)
                read_answer(written.text, written.kind)
    clients()


def _async_openai() -> openai.AsyncOpenAI:
    url, options = _provider()
    return openai.AsyncOpenAI(
        base_url=url + "/v1", http_client=openai.DefaultAsyncHttpxClient(verify=_trust()), **options
    )


def _async_anthropic() -> anthropic.AsyncAnthropic:
    url, options = _provider()
    client = anthropic.DefaultAsyncHttpxClient(verify=_trust())
    return anthropic.AsyncAnthropic(base_url=url, http_client=client, **options)


def _provider() -> tuple[str, dict[str, Any]]:
    return os.environ[llm_places.PROVIDER], {"api_key": "any", "max_retries": 0, "timeout": PATIENCE}


@functools.cache
def _trust() -> ssl.SSLContext:
    """Read once, for that takes longer than a call."""
    return ssl.create_default_context()
