"""The research brief once more, this time written by language models."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from baton import Workflow
from baton.llm import configure, fan_out_models
from research import llm_steps, steps

MODELS = ("gpt-5-mini", "gpt-4o-mini", "claude-haiku-4-5")
"""Which models summarize; the first also merges their summaries, the last rates the sources."""
BUDGET = Decimal("0.10")
"""What a brief may cost, in US dollars. A step for whose calls it does not suffice is held until it is raised."""


def llm_brief(
    topic: str,
    *,
    models: Sequence[str] = MODELS,
    budget: Decimal | None = BUDGET,
    capture: bool = False,
    limit: int = 6,
) -> Workflow:
    """Write a brief on a topic.

    ::

                  ┌─ summary[gpt-5-mini] ─────────┐
                  ├─ summary[gpt-4o-mini] ────────┼── summary_synthesis ─┐
        sources ──┼─ summary[claude-haiku-4-5] ───┘                      ├── brief
                  ├─ keywords ───────────────────────────────────────────┤
                  └─ credibility ────────────────────────────────────────┘
    """
    # A budget is kept by reserving what a call may cost, so it takes models whose prices are known.
    workflow = Workflow("llm brief", meta={"topic": topic}, budget=budget, debug=capture)
    workflow.add("sources", steps.fetch_sources.bind(topic=topic, limit=limit))
    fan_out_models(
        workflow,
        "summary",
        llm_steps.summarize.bind(topic=topic),
        models=models,
        deps=["sources"],
        synthesize_with=llm_steps.synthesize.bind(topic=topic),
        synthesize_model=models[0],
    )
    workflow.add("keywords", llm_steps.find_keywords.bind(topic=topic), deps=["sources"])
    workflow.add("credibility", llm_steps.rate_sources, deps=["sources"])
    parts = ["sources", "summary_synthesis", "keywords", "credibility"]
    workflow.add("brief", llm_steps.compile_brief.bind(topic=topic), deps=parts)
    return configure(workflow, {"keywords": models[0], "credibility": models[-1]})
