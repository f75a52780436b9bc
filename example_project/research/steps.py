"""The steps of both workflows: each reads what it depends on, calls plain functions and returns JSON values."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from baton import Discard, StepContext, step
from research.analysis import assess, best_sentences, document_frequencies, search, weigh_terms
from research.files import READERS
from research.reports import write_brief, write_index, write_tally
from research.sources import MODULES, Document, documents_of
from research.text import terms

# The research brief ---------------------------------------------------------------------------------------------------


@step(timeout=60)
def fetch_sources(ctx: StepContext, topic: str, limit: int = 12) -> dict[str, Any] | Discard:
    """Gather the texts of Python's own documentation that say most about a topic."""
    corpus: list[Document] = []
    for number, module in enumerate(MODULES, start=1):
        corpus += documents_of(module)
        ctx.progress(number, len(MODULES), module)

    frequencies = document_frequencies(corpus)
    found = search(corpus, topic, frequencies=frequencies, limit=limit)
    if not found:
        # A second attempt would find nothing either.
        return Discard(f"Python's documentation says nothing about {topic!r}")

    ctx.logger.info("%d of %d texts speak of %r", len(found), len(corpus), topic)
    met = {term for document in found for term in terms(document.text)}
    return {
        "documents": [asdict(document) for document in found],
        "corpus_size": len(corpus),
        "frequencies": {term: frequencies[term] for term in sorted(met)},
        "python": platform.python_version(),
    }


@step(timeout=30)
def summarize(ctx: StepContext, topic: str) -> list[dict[str, str]]:
    """Choose the sentences that say most, each with its source."""
    return best_sentences(ctx.results["sources"]["documents"], topic)


@step(timeout=30)
def keywords(ctx: StepContext) -> list[dict[str, Any]]:
    """Weigh the terms that mark the sources off from the rest of the documentation."""
    sources = ctx.results["sources"]
    return weigh_terms(sources["documents"], frequencies=sources["frequencies"], corpus_size=sources["corpus_size"])


@step(timeout=30)
def credibility(ctx: StepContext) -> list[dict[str, Any]]:
    """Score the sources, the most trustworthy first, with the reasons."""
    verdicts = [assess(source) for source in ctx.results["sources"]["documents"]]
    return sorted(verdicts, key=lambda verdict: (-verdict["score"], verdict["name"]))


@step(timeout=30)
def compile_brief(ctx: StepContext, topic: str) -> str:
    """Write the brief from everything that was found out."""
    return write_brief(
        topic,
        sources=ctx.results["sources"],
        summary=ctx.results["summary"],
        keywords=ctx.results["keywords"],
        credibility=ctx.results["credibility"],
    )


# The ingest -----------------------------------------------------------------------------------------------------------


@step(timeout=30)
def list_files(ctx: StepContext, folder: str) -> dict[str, dict[str, str]]:
    """List a folder's files by name, with what the parsers need to know."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    ctx.logger.info("%d files in %s", len(files), folder)
    return {path.name: {"path": str(path), "suffix": path.suffix.lower()} for path in files}


@step(timeout=30, max_attempts=2, backoff=1)
def parse_file(ctx: StepContext, file: dict[str, str]) -> dict[str, Any] | Discard:
    """Read one file; a broken one is read once more, for it may just be being written."""
    if file["suffix"] not in READERS:
        # Waiting makes no reader appear: give up at once.
        return Discard(f"no reader for {file['suffix'] or 'a file without suffix'}")

    title, text = READERS[file["suffix"]](Path(file["path"]))
    ctx.logger.info("read %s in attempt %d", file["path"], ctx.attempt)
    return {"title": title, "words": len(text.split()), "terms": dict(Counter(terms(text)))}


@step(timeout=30)
def build_index(ctx: StepContext) -> dict[str, list[str]]:
    """Say for each term in which files it stands."""
    index: dict[str, list[str]] = {}
    for name, file in parsed_files(ctx).items():
        for term in file["terms"]:
            index.setdefault(term, []).append(name)
    return dict(sorted(index.items()))


@build_index.on_dependency_discarded
def mourn_index(ctx: StepContext, reason: str) -> None:
    """Tell the log why there is no index; a real project would tell a person."""
    ctx.logger.warning("no index: %s", reason)


@step(timeout=30)
def report(ctx: StepContext, index: dict[str, list[str]]) -> str:
    """Write the index as a report; it is handed over as an argument, by reference."""
    ctx.logger.info("%d terms", len(index))
    return write_index(index)


@step(timeout=30)
def tally(ctx: StepContext) -> str:
    """Sum up what was read and what was not; runs also when files were discarded."""
    parsed = parsed_files(ctx)
    return write_tally(parsed, [name for name in ctx.results["files"] if name not in parsed])


def parsed_files(ctx: StepContext) -> dict[str, dict[str, Any]]:
    """The results of the parsers that succeeded, by file name."""
    return {name: ctx.results[f"parse {name}"] for name in ctx.results["files"] if f"parse {name}" in ctx.results}
