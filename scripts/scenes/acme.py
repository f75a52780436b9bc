"""The work of a firm that does not exist, for the pictures of the documentation.

The steps only wait, and their answers are written here; who runs them, tries them again, counts their tokens and adds
up what they cost is real.
"""

from __future__ import annotations

import os
import random
import time
from decimal import Decimal
from typing import Any

from baton import Discard, StepContext, Workflow, llm, step
from baton.models import WorkflowRun

CLAUDE, GPT, GEMINI = "claude-haiku-4-5", "gpt-5", "gemini-exp"
"""Of the last nobody has told the price."""
SOURCES = [f"[{number}] Reuters, 3 Nov: revenue of Acme up {number} %" for number in range(1, 15)]
ANSWER = {"grades": [{"source": 1, "weight": 0.9, "claim": "Revenue up 12 %"}, {"source": 2, "weight": 0.4}]}


class TemporaryError(ConnectionError):
    """A service does not answer."""


# The brief ------------------------------------------------------------------------------------------------------------


@llm.llm_step(max_attempts=5)
def plan(ctx: StepContext, seconds: float) -> dict[str, Any]:
    """Ask a model what to look for."""
    return asked(ctx, "plan", "What is to be found out about Acme?", seconds, tokens=(8120, 2400))


@step(max_attempts=5, priority=-10)
def search(ctx: StepContext, seconds: float) -> list[str]:
    """Look for sources."""
    time.sleep(seconds)
    return SOURCES


@llm.llm_step(max_attempts=5, backoff=2)
def search_papers(ctx: StepContext, seconds: float) -> list[str]:
    """Have a model write the query; what answers it is down at first, and the second attempt pays for no query."""
    asked(ctx, "query", "Write a query for papers on Acme.", seconds / 3, tokens=(3200, 1020))
    if ctx.attempt == 1:
        raise TemporaryError("HTTP 429 from api.papers.example")
    time.sleep(2 * seconds / 3)
    return SOURCES


@llm.llm_step(max_attempts=5)
def assess(ctx: StepContext, seconds: float, *, hangs: bool = False) -> dict[str, Any]:
    """Have a model grade the sources."""
    ctx.logger.info("14 sources, from 3 searches")
    prompt = "You grade sources. Cite by number only. Company: Acme.\n" + "\n".join(SOURCES)
    answer = asked(ctx, "grade", prompt, seconds, tokens=(29140, 6120))
    for number in range(1, 15):
        ctx.progress(number if not hangs else min(number, 9), 14, "source")
        time.sleep(float(os.environ.get("ACME_HANGS", "120")) if hangs and number == 9 else seconds / 60)
    return answer


@llm.llm_step(max_attempts=5)
def synthesize(ctx: StepContext, seconds: float) -> dict[str, Any]:
    """Have a model merge the grades."""
    return asked(ctx, "merge", "Merge these grades.", seconds, tokens=(41000, 9000))


@step
def publish(ctx: StepContext, seconds: float) -> dict[str, str]:
    """Publish the brief."""
    time.sleep(seconds)
    return {"url": "https://briefs.acme.example/q4"}


def brief(key: str = "brief:acme-q4", *, hangs: bool = False) -> WorkflowRun:
    """Research on a company: one step after another, some side by side, by three models."""
    searches = ["search_web", "search_papers", "search_internal"]
    workflow = Workflow(
        "research-brief",
        key=key,
        meta={"by": "maria"},
        budget=Decimal("0.50"),
        allow_unpriced=True,
        debug=True,
    )
    workflow.add("plan", plan.bind(1.5), model=CLAUDE)
    workflow.add("search_web", search.bind(1.2), deps=["plan"])
    workflow.add("search_papers", search_papers.bind(3.0), deps=["plan"], model=CLAUDE)
    workflow.add("search_internal", search.bind(0.6), deps=["plan"])
    assessments = {"assess[claude]": (CLAUDE, 4.0), "assess[gpt-5]": (GPT, 6.0), "assess[gemini]": (GEMINI, 5.0)}
    for name, (model, seconds) in assessments.items():
        workflow.add(name, assess.bind(seconds, hangs=hangs and model == GPT), deps=searches, model=model)
    workflow.add("synthesis", synthesize.bind(3.0), deps=list(assessments), model=CLAUDE)
    workflow.add("publish", publish.bind(0.4), deps=["synthesis"])
    return workflow.insert()


# The others -----------------------------------------------------------------------------------------------------------


@step
def fetch(ctx: StepContext, seconds: float = 0.8) -> dict[str, int]:
    """Fetch a list."""
    time.sleep(seconds)
    return {"invoices": 212, "open": 17}


@step(max_attempts=5, backoff=1)
def reconcile(ctx: StepContext) -> None:
    """Compare the invoices with the ledger, which does not answer."""
    ctx.logger.info("GET https://ledger.internal/v2/entries?open=1")
    time.sleep(0.9)
    raise TemporaryError("ledger.internal:443 did not answer within 10 s")


def invoice_sync() -> WorkflowRun:
    """A run that fails, after five attempts."""
    workflow = Workflow("invoice-sync", key="inv:2026-11-21", meta={"by": "schedule"})
    workflow.add("fetch_invoices", fetch)
    workflow.add("archive_raw", publish.bind(0.4), deps=["fetch_invoices"])
    workflow.add("reconcile", reconcile, deps=["fetch_invoices"])
    workflow.add("post_ledger", publish.bind(1.0), deps=["reconcile"])
    workflow.add("email_report", publish.bind(1.0), deps=["post_ledger", "archive_raw"])
    return workflow.insert()


@step(max_attempts=3, backoff=30, queue="ocr")
def read_page(ctx: StepContext, number: int) -> dict[str, int] | Discard:
    """Read a page, if it is one."""
    time.sleep(random.Random(number).uniform(1.0, 2.2))
    if number % 97 == 41:
        return Discard(f"page {number} is not a PDF")
    if number % 83 == 29:
        raise TemporaryError("ocr.internal:443 did not answer within 10 s")
    return {"words": 400 + number}


@step
def merge(ctx: StepContext) -> int:
    """Put the pages together."""
    return len(ctx.results)


def document_ingest(pages: int = 400) -> WorkflowRun:
    """A wide run: hundreds of pages side by side."""
    workflow = Workflow("document-ingest", key="doc:88213", meta={"by": "API"}).add("fetch", fetch.bind(0.5))
    workflow.add("split", fetch.bind(1.5), deps=["fetch"])
    names = [f"page[{number}]" for number in range(pages)]
    for number, name in enumerate(names):
        workflow.add(name, read_page.bind(number), deps=["split"])
    workflow.add("merge", merge, deps=names, ignore_discarded=True)
    workflow.add("index", publish.bind(2.0), deps=["merge"])
    workflow.add("notify", publish.bind(0.2), deps=["index"])
    return workflow.insert()


@llm.llm_step(max_attempts=3)
def draft(ctx: StepContext) -> dict[str, Any]:
    """Have a model write the letter; nobody knows whether it did."""

    def answer() -> dict[str, Any]:
        time.sleep(0.5)
        raise TimeoutError("api.anthropic.com did not answer within 60 s")

    request = {"model": ctx.model, "prompt": "Write this week's letter."}
    llm.call(ctx, "letter", lambda **_request: answer(), request=request, on_ambiguous="ask", max_cost="0.05")
    return ANSWER


def newsletter(number: int = 47) -> WorkflowRun:
    """A run of which a step waits for a person: a call may have been paid, and nobody knows."""
    workflow = Workflow("newsletter-weekly", key=f"nl:2026-w{number}", meta={"by": "schedule"})
    workflow.add("collect", fetch.bind(0.6)).add("draft", draft, deps=["collect"], model=CLAUDE)
    workflow.add("check_links", publish.bind(0.3), deps=["draft"])
    return workflow.add("send", publish.bind(0.2), deps=["check_links"], queue="mail").insert()


def digest(name: str, key: str | None = None, *, by: str, queue: str = "default") -> WorkflowRun:
    """A short run that completes, if somebody serves the queue of its last step."""
    workflow = Workflow(name, key=key, meta={"by": by}).add("collect", fetch.bind(0.3))
    workflow.add("write", publish.bind(0.5), deps=["collect"])
    return workflow.add("send", publish.bind(0.2), deps=["write"], queue=queue).insert()


def thumbnails() -> WorkflowRun:
    """A run that is cancelled in its middle."""
    workflow = Workflow("thumbnail-batch", meta={"by": "tomas"}).add("list", fetch.bind(0.2))
    for size in ("small", "large"):
        workflow.add(f"resize[{size}]", publish.bind(0.5 if size == "small" else 30), deps=["list"])
    return workflow.add("upload", publish.bind(1.0), deps=["resize[small]", "resize[large]"]).insert()


def asked(ctx: StepContext, key: str, prompt: str, seconds: float, *, tokens: tuple[int, int]) -> dict[str, Any]:
    """Ask the model of a step, which is not there."""

    def answer() -> dict[str, Any]:
        time.sleep(seconds * 0.7)
        used = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
        return {"model": ctx.model, "choices": [{"message": {"content": str(ANSWER)}}], "usage": used}

    request = {"model": ctx.model, "prompt": prompt, "api_key": "x"}
    llm.call(ctx, key, lambda **_request: answer(), request=request, max_cost="0.12")
    return ANSWER
