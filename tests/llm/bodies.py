"""Steps that call the fake provider with the providers' own clients; workers import them by their dotted names."""

from __future__ import annotations

from typing import Any

from baton.context import StepContext
from baton.llm.multi_model import model_for
from baton.llm.step import llm_step


def ask_openai_once(url: str, *, model: str = "gpt-4o-mini", prompt: str = "hello", timeout: float = 20.0) -> Any:
    """One call with openai's client, which is told not to try again by itself."""
    import openai

    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=timeout) as client:
        return client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}])


def ask_anthropic_once(
    url: str, *, model: str = "claude-haiku-4-5", prompt: str = "hello", timeout: float = 20.0
) -> Any:
    """The same with anthropic's."""
    import anthropic

    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=timeout) as client:
        return client.messages.create(model=model, max_tokens=50, messages=[{"role": "user", "content": prompt}])


@llm_step
def ask_openai(ctx: StepContext, url: str, prompt: str = "hello", timeout: float = 20.0) -> dict[str, Any]:
    """Ask, and return the answer beside what it used."""
    answer = ask_openai_once(url, model=model_for(ctx, "gpt-4o-mini") or "", prompt=prompt, timeout=timeout)
    return {"text": answer.choices[0].message.content, "llm_usage": answer.usage.model_dump()}


@llm_step
def ask_anthropic(ctx: StepContext, url: str, prompt: str = "hello", timeout: float = 20.0) -> dict[str, Any]:
    """The same of the other provider."""
    answer = ask_anthropic_once(url, model=model_for(ctx, "claude-haiku-4-5") or "", prompt=prompt, timeout=timeout)
    return {"text": answer.content[0].text, "llm_usage": answer.usage.model_dump()}
