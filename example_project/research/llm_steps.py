"""The steps of the brief that ask language models. Each call has a key, and what was paid for is never asked again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from baton import StepContext, llm, step
from baton.llm import llm_step
from research.llm_client import ask, text_of
from research.llm_reports import write_llm_brief

DEFAULT_MODEL = "gpt-4o-mini"
"""Who is asked where the workflow does not say."""
MAX_CHARS = 1500
"""How much of a source a model is shown."""

SUMMARY = "Summarize in at most four sentences what these texts say about {topic}."
SYNTHESIS = "Merge these summaries on {topic} into one of at most four sentences. Leave out what only one of them says."
KEYWORDS = "Name the eight terms that matter most in these texts on {topic}, separated by commas, and nothing else."
CREDIBILITY = "How far can a reader rely on this text? Answer with a number from 0 to 100 and a short reason."


@llm_step(timeout=300)
def summarize(ctx: StepContext, topic: str) -> str:
    """Summarize the sources with the model that this step was given; several do so side by side."""
    return ask_once(ctx, "summary", SUMMARY.format(topic=topic), texts_of(ctx), max_tokens=1000)


@llm_step(timeout=300)
def synthesize(ctx: StepContext, topic: str) -> str:
    """Make one summary of those of all models."""
    summaries = llm.results_by_model(ctx)
    return ask_once(ctx, "synthesis", SYNTHESIS.format(topic=topic), "\n\n".join(summaries.values()), max_tokens=1000)


@llm_step(timeout=300)
def find_keywords(ctx: StepContext, topic: str) -> list[str]:
    """Name the terms that matter."""
    said = ask_once(ctx, "keywords", KEYWORDS.format(topic=topic), texts_of(ctx), max_tokens=500)
    return [term.strip(" .\n") for term in said.split(",") if term.strip(" .\n")][:12]


@llm_step(timeout=600)
def rate_sources(ctx: StepContext) -> list[dict[str, Any]]:
    """Rate each source by a call of its own: whoever is killed in the middle goes on where they were."""
    documents = ctx.results["sources"]["documents"]
    verdicts = []
    for number, source in enumerate(documents):
        ctx.progress(number, len(documents), source["name"])
        said = ask_once(ctx, source["name"], CREDIBILITY, shown(source), max_tokens=500)
        verdicts.append({"name": source["name"], "score": score_in(said), "reason": said})
    return sorted(verdicts, key=lambda verdict: (-(verdict["score"] or 0), verdict["name"]))


@step(timeout=30)
def compile_brief(ctx: StepContext, topic: str) -> str:
    """Write the brief from what the models said."""
    return write_llm_brief(
        topic,
        sources=ctx.results["sources"],
        summary=ctx.results["summary_synthesis"],
        keywords=ctx.results["keywords"],
        credibility=ctx.results["credibility"],
    )


def ask_once(ctx: StepContext, key: str, instruction: str, text: str, *, max_tokens: int) -> str:
    """Ask the step's model, unless an earlier attempt has paid for the answer already."""
    # The keywords of the partial are the request: a budget reads its worst case from them, and capture keeps them.
    prompt = f"{instruction}\n\n{text}"
    request = partial(ask, model=ctx.model or DEFAULT_MODEL, prompt=prompt, max_tokens=max_tokens)
    return text_of(llm.call(ctx, key, request))


def texts_of(ctx: StepContext) -> str:
    """Write the sources for a prompt."""
    return "\n\n".join(shown(source) for source in ctx.results["sources"]["documents"])


def shown(source: Mapping[str, Any]) -> str:
    """Write one source for a prompt."""
    return f"# {source['name']}\n{source['text'][:MAX_CHARS]}"


def score_in(said: str) -> int | None:
    """Find the number in an answer; None where a model gave none that can be."""
    found = re.search(r"\d+", said)
    return int(found[0]) if found and int(found[0]) <= 100 else None
