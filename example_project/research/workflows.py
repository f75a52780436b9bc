"""The two workflows of the example, as graphs."""

from __future__ import annotations

from pathlib import Path

from baton import Workflow, result_of
from research import steps


def research_brief(topic: str, *, limit: int = 12) -> Workflow:
    """Write a brief on a topic.

    ::

                  ┌─ summary ─────┐
        sources ──┼─ keywords ────┼── brief
                  └─ credibility ─┘
    """
    return (
        Workflow("research brief", meta={"topic": topic})
        .add("sources", steps.fetch_sources.bind(topic=topic, limit=limit))
        .add("summary", steps.summarize.bind(topic=topic), deps=["sources"])
        .add("keywords", steps.keywords, deps=["sources"])
        .add("credibility", steps.credibility, deps=["sources"])
        .add("brief", steps.compile_brief.bind(topic=topic), deps=["sources", "summary", "keywords", "credibility"])
    )


def ingest(folder: str | Path) -> Workflow:
    """Read every file of a folder.

    ::

                ┌─ parse a.txt ─┐
        files ──┼─ parse b.md ──┼─┬─ index ── report      cancelled if one file cannot be parsed
                └─ parse … ─────┘ └─ tally                runs all the same
    """
    folder = Path(folder).resolve()
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    parsers = [f"parse {name}" for name in names]

    workflow = Workflow("ingest", meta={"folder": str(folder)})
    workflow.add("files", steps.list_files.bind(folder=str(folder)))
    for name, parser in zip(names, parsers, strict=True):
        workflow.add(parser, steps.parse_file.bind(file=result_of("files")[name]))
    workflow.add("index", steps.build_index, deps=["files", *parsers])
    workflow.add("report", steps.report.bind(index=result_of("index")))
    workflow.add("tally", steps.tally, deps=["files", *parsers], ignore_discarded=True)
    return workflow
