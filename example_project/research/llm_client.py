"""OpenAI and Anthropic by the standard library: a request out, a dict back. The guides show the official clients."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from http.client import HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from baton import llm

TIMEOUT_SECONDS = 60


def ask(call: llm.Call, *, model: str, prompt: str, max_tokens: int) -> Any:
    """Ask a model and return the provider's answer as it came."""
    address, headers, body = to_anthropic(model) if model.startswith("claude") else to_openai(model)
    body["messages"] = [{"role": "user", "content": prompt}]
    body["max_tokens" if "/messages" in address else "max_completion_tokens"] = max_tokens
    headers = {"Content-Type": "application/json", **call.headers, **headers}
    request = Request(address, json.dumps(body).encode(), headers)  # noqa: S310 - whoever sets the address may choose
    try:
        answer: HTTPResponse
        with opener_for(address).open(request, timeout=TIMEOUT_SECONDS) as answer:
            return json.load(answer)
    except HTTPError as refusal:
        # Baton reads its status and its headers, Retry-After among them; what the provider says is for people.
        with refusal:
            refusal.msg += f": {refusal.read(500).decode(errors='replace')}"
        raise


def to_openai(model: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Where OpenAI, or a server that speaks as it does, is asked, and as whom."""
    address = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1") + "/chat/completions"
    return address, {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}, {"model": model}


def to_anthropic(model: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Where Anthropic is asked, and as whom."""
    address = os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com") + "/v1/messages"
    headers = {"x-api-key": os.environ.get("ANTHROPIC_API_KEY", ""), "anthropic-version": "2023-06-01"}
    return address, headers, {"model": model}


def text_of(answer: Mapping[str, Any]) -> str:
    """What the model said, in either provider's shape."""
    if "choices" in answer:
        return str(answer["choices"][0]["message"]["content"] or "").strip()
    return "".join(part.get("text", "") for part in answer["content"]).strip()


def opener_for(address: str) -> OpenerDirector:
    """Open addresses as the environment says, but never ask a proxy for this machine."""
    is_here = urlsplit(address).hostname in {"127.0.0.1", "::1", "localhost"}
    return build_opener(ProxyHandler({})) if is_here else build_opener()
