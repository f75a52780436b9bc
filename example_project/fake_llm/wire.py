"""The wire formats: what each provider's API is sent and what it sends back."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fake_llm.invoice import Tokens

JSON = dict[str, Any]
Event = tuple[str, JSON | str]
"""An event of a stream: its name, empty for none, and its data."""

CREATED = 1_790_000_000  # the same for all answers, so that they are the same in every run


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came in."""

    number: int
    """Counted from 1."""
    provider: str
    model: str
    prompt: str
    """Every text of it, a line each."""
    streams: bool
    max_tokens: int | None
    idempotency_key: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said."""

    id: str
    model: str
    text: str
    tokens: Tokens
    is_cut_short: bool
    """Whether it ended because of the limit on its length."""

    @property
    def pieces(self) -> list[str]:
        """The text in at most 20 parts, as a stream brings it."""
        size = max(8, math.ceil(len(self.text) / 20))
        return [self.text[start : start + size] for start in range(0, len(self.text), size)]


class Wire(ABC):
    """One API of one provider."""

    provider: ClassVar[str]
    path: ClassVar[re.Pattern[str]]
    id_prefix: ClassVar[str]
    request_id_header: ClassVar[str] = "x-request-id"
    has_cache_writes: ClassVar[bool] = True

    def model(self, path: str, body: JSON) -> str:
        """Return the model that is asked for."""
        return str(body.get("model", ""))

    @abstractmethod
    def prompt(self, body: JSON) -> str:
        """Return every text of the request."""

    @abstractmethod
    def max_tokens(self, body: JSON) -> int | None:
        """Return the limit on the answer's length."""

    @abstractmethod
    def usage(self, tokens: Tokens) -> JSON:
        """Return the counts in the provider's own words."""

    @abstractmethod
    def message(self, answer: Answer, usage: JSON | None) -> JSON:
        """Return the whole answer."""

    def events(self, answer: Answer, usage: JSON | None, body: JSON) -> Iterator[Event]:
        """Yield the answer as a stream."""
        raise NotImplementedError

    @abstractmethod
    def error(self, status: int, message: str) -> JSON:
        """Return the body of an error."""


class _OpenAI(Wire):
    provider = "openai"

    def error(self, status: int, message: str) -> JSON:
        kind, code = {
            400: ("invalid_request_error", None),
            401: ("invalid_request_error", "invalid_api_key"),
            404: ("invalid_request_error", "model_not_found"),
            429: ("requests", "rate_limit_exceeded"),
        }.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class OpenAIChat(_OpenAI):
    """OpenAI's chat completions."""

    path = re.compile(r"/v1/chat/completions")
    id_prefix = "chatcmpl-fake"

    def prompt(self, body: JSON) -> str:
        return "\n".join(_texts(body.get("messages")))

    def max_tokens(self, body: JSON) -> int | None:
        return body.get("max_completion_tokens") or body.get("max_tokens")

    def usage(self, tokens: Tokens) -> JSON:
        return {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "prompt_tokens_details": {
                "cached_tokens": tokens.cached,
                "cache_write_tokens": tokens.cache_write,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning, "audio_tokens": 0},
        }

    def message(self, answer: Answer, usage: JSON | None) -> JSON:
        message: JSON = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish_reason(answer)}
        return {
            **_head(answer, "chat.completion"),
            "choices": [choice],
            **_given(usage=usage),
            "service_tier": "default",
        }

    def events(self, answer: Answer, usage: JSON | None, body: JSON) -> Iterator[Event]:
        wants_usage = (body.get("stream_options") or {}).get("include_usage", False)
        head = _head(answer, "chat.completion.chunk") | ({"usage": None} if wants_usage else {})

        def chunk(delta: JSON, finish_reason: str | None = None) -> Event:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            return "", {**head, "choices": [choice]}

        yield chunk({"role": "assistant", "content": "", "refusal": None})
        for piece in answer.pieces:
            yield chunk({"content": piece})
        yield chunk({}, self._finish_reason(answer))
        if wants_usage and usage is not None:
            yield "", {**head, "choices": [], "usage": usage}
        yield "", "[DONE]"

    def _finish_reason(self, answer: Answer) -> str:
        return "length" if answer.is_cut_short else "stop"


class OpenAIResponses(_OpenAI):
    """OpenAI's responses."""

    path = re.compile(r"/v1/responses")
    id_prefix = "resp_fake"

    def prompt(self, body: JSON) -> str:
        return "\n".join([*_texts(body.get("instructions")), *_texts(body.get("input"))])

    def max_tokens(self, body: JSON) -> int | None:
        return body.get("max_output_tokens")

    def usage(self, tokens: Tokens) -> JSON:
        return {
            "input_tokens": tokens.input,
            "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_write},
            "output_tokens": tokens.output,
            "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "total_tokens": tokens.input + tokens.output,
        }

    def message(self, answer: Answer, usage: JSON | None) -> JSON:
        item = self._item(answer, "completed", [self._part(answer.text)])
        return self._response(answer, self._end(answer), [item]) | _given(usage=usage)

    def events(self, answer: Answer, usage: JSON | None, body: JSON) -> Iterator[Event]:
        started = self._response(answer, "in_progress", []) | {"usage": None}
        of_item = {"output_index": 0, "item": self._item(answer, "in_progress", [])}
        of_part = {"item_id": self._item_id(answer), "output_index": 0, "content_index": 0}
        ended = self.message(answer, usage)
        told: list[tuple[str, JSON]] = [
            ("response.created", {"response": started}),
            ("response.in_progress", {"response": started}),
            ("response.output_item.added", of_item),
            ("response.content_part.added", of_part | {"part": self._part("")}),
            *(("response.output_text.delta", of_part | {"delta": piece, "logprobs": []}) for piece in answer.pieces),
            ("response.output_text.done", of_part | {"text": answer.text, "logprobs": []}),
            ("response.content_part.done", of_part | {"part": self._part(answer.text)}),
            ("response.output_item.done", {"output_index": 0, "item": ended["output"][0]}),
            (f"response.{self._end(answer)}", {"response": ended}),
        ]
        for number, (name, data) in enumerate(told):
            yield name, {"type": name, "sequence_number": number, **data}

    def _response(self, answer: Answer, status: str, output: list[JSON]) -> JSON:
        return {
            "id": answer.id,
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": answer.model,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "service_tier": "default",
        }

    def _item(self, answer: Answer, status: str, content: list[JSON]) -> JSON:
        return {
            "type": "message",
            "id": self._item_id(answer),
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _item_id(self, answer: Answer) -> str:
        return answer.id.replace("resp", "msg", 1)

    def _part(self, text: str) -> JSON:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _end(self, answer: Answer) -> str:
        return "incomplete" if answer.is_cut_short else "completed"


class AnthropicMessages(Wire):
    """Anthropic's messages: what a cache gave or took is not counted in the input."""

    provider = "anthropic"
    path = re.compile(r"/v1/messages")
    id_prefix = "msg_fake"
    request_id_header = "request-id"

    def prompt(self, body: JSON) -> str:
        return "\n".join([*_texts(body.get("system")), *_texts(body.get("messages"))])

    def max_tokens(self, body: JSON) -> int | None:
        return body.get("max_tokens")

    def usage(self, tokens: Tokens) -> JSON:
        return {
            "input_tokens": tokens.input - tokens.cached - tokens.cache_write,
            "cache_creation_input_tokens": tokens.cache_write,
            "cache_read_input_tokens": tokens.cached,
            "cache_creation": {"ephemeral_5m_input_tokens": tokens.cache_write, "ephemeral_1h_input_tokens": 0},
            "output_tokens": tokens.output,
            "output_tokens_details": {"thinking_tokens": tokens.reasoning},
            "service_tier": "standard",
        }

    def message(self, answer: Answer, usage: JSON | None) -> JSON:
        return {
            "id": answer.id,
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": [{"type": "text", "text": answer.text}],
            **self._stop(answer),
            **_given(usage=usage),
        }

    def events(self, answer: Answer, usage: JSON | None, body: JSON) -> Iterator[Event]:
        # The first event knows the input, the last but one the output.
        first: JSON | None = None
        last: JSON | None = None
        if usage is not None:
            last = {name: count for name, count in usage.items() if name.startswith("output")}
            first = {name: count for name, count in usage.items() if name not in last} | {"output_tokens": 1}
        message = self.message(answer, first) | {"content": [], "stop_reason": None}
        delta = {"delta": self._stop(answer), **_given(usage=last)}
        told: list[tuple[str, JSON]] = [
            ("message_start", {"message": message}),
            ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
            ("ping", {}),
            *(
                ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": piece}})
                for piece in answer.pieces
            ),
            ("content_block_stop", {"index": 0}),
            ("message_delta", delta),
            ("message_stop", {}),
        ]
        for name, data in told:
            yield name, {"type": name, **data}

    def error(self, status: int, message: str) -> JSON:
        kind = {
            400: "invalid_request_error",
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            413: "request_too_large",
            429: "rate_limit_error",
            504: "timeout_error",
            529: "overloaded_error",
        }.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def _stop(self, answer: Answer) -> JSON:
        return {"stop_reason": "max_tokens" if answer.is_cut_short else "end_turn", "stop_sequence": None}


class GoogleGenerate(Wire):
    """Google's generateContent: thoughts are not counted in the candidates' tokens."""

    provider = "google"
    path = re.compile(r"/v1(?:alpha|beta)?/models/(?P<model>[^/:]+):generateContent")
    id_prefix = "fake"
    has_cache_writes = False

    def model(self, path: str, body: JSON) -> str:
        found = self.path.fullmatch(path)
        return found["model"] if found else ""

    def prompt(self, body: JSON) -> str:
        instruction = body.get("systemInstruction") or body.get("system_instruction")
        return "\n".join([*_texts(instruction), *_texts(body.get("contents"))])

    def max_tokens(self, body: JSON) -> int | None:
        return (body.get("generationConfig") or {}).get("maxOutputTokens")

    def usage(self, tokens: Tokens) -> JSON:
        return {
            "promptTokenCount": tokens.input,
            "candidatesTokenCount": tokens.output - tokens.reasoning,
            "totalTokenCount": tokens.input + tokens.output,
            # Zeros are left out, as by the real one.
            **({"cachedContentTokenCount": tokens.cached} if tokens.cached else {}),
            **({"thoughtsTokenCount": tokens.reasoning} if tokens.reasoning else {}),
        }

    def message(self, answer: Answer, usage: JSON | None) -> JSON:
        reason = "MAX_TOKENS" if answer.is_cut_short else "STOP"
        content = {"role": "model", "parts": [{"text": answer.text}]}
        return {
            "candidates": [{"content": content, "finishReason": reason, "index": 0}],
            **_given(usageMetadata=usage),
            "modelVersion": answer.model,
            "responseId": answer.id,
        }

    def error(self, status: int, message: str) -> JSON:
        name = {
            400: "INVALID_ARGUMENT",
            401: "UNAUTHENTICATED",
            403: "PERMISSION_DENIED",
            404: "NOT_FOUND",
            429: "RESOURCE_EXHAUSTED",
            500: "INTERNAL",
            504: "DEADLINE_EXCEEDED",
        }.get(status, "UNAVAILABLE" if status >= 500 else "FAILED_PRECONDITION")
        return {"error": {"code": status, "message": message, "status": name}}


WIRES: tuple[Wire, ...] = (OpenAIChat(), OpenAIResponses(), AnthropicMessages(), GoogleGenerate())


def wire_of(path: str) -> Wire | None:
    """Return the API that lives at a path, None where none does."""
    return next((wire for wire in WIRES if wire.path.fullmatch(path)), None)


def _head(answer: Answer, kind: str) -> JSON:
    return {"id": answer.id, "object": kind, "created": CREATED, "model": answer.model}


def _given(**fields: JSON | None) -> JSON:
    return {name: value for name, value in fields.items() if value is not None}


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for each in value:
                yield from _texts(each)
        case dict():
            for name in ("content", "parts", "text"):
                yield from _texts(value.get(name))
