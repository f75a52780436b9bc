"""The texts that the workflows end in, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def write_brief(
    topic: str,
    *,
    sources: Mapping[str, Any],
    summary: Sequence[Mapping[str, str]],
    keywords: Sequence[Mapping[str, Any]],
    credibility: Sequence[Mapping[str, Any]],
) -> str:
    """Write the research brief: what is said, in which words, and by whom."""
    found, searched, python = len(sources["documents"]), sources["corpus_size"], sources["python"]
    numbers = {verdict["name"]: number for number, verdict in enumerate(credibility, start=1)}
    lines = [
        f"# {topic[:1].upper()}{topic[1:]}",
        "",
        f"From {found} of {searched} texts in Python {python}'s own documentation.",
        "",
        "## Summary",
        "",
        *(f"- {point['sentence']} [{numbers[point['source']]}]" for point in summary),
        "",
        "## Keywords",
        "",
        ", ".join(f"{keyword['term']} ({keyword['weight']})" for keyword in keywords),
        "",
        "## Sources by credibility",
        "",
        *(f"{numbers[verdict['name']]}. {line_of(verdict)}" for verdict in credibility),
    ]
    return "\n".join(lines) + "\n"


def line_of(verdict: Mapping[str, Any]) -> str:
    """Write one source's score and the reasons for it."""
    return f"`{verdict['name']}` {verdict['score']}/100: {', '.join(verdict['reasons']) or 'nothing stands out'}"


def write_index(index: Mapping[str, Sequence[str]]) -> str:
    """Write the terms that several files share."""
    shared = {term: names for term, names in index.items() if len(names) > 1}
    lines = [f"- {term}: {', '.join(names)}" for term, names in shared.items()]
    return "\n".join(["# Terms in several files", "", *(lines or ["None."])]) + "\n"


def write_tally(parsed: Mapping[str, Mapping[str, Any]], unread: Sequence[str]) -> str:
    """Write how many files were read, what they are, and which were not."""
    total = len(parsed) + len(unread)
    lines = [
        f"# {len(parsed)} of {total} files read",
        "",
        *(f"- {name}: {file['title']} ({file['words']} words)" for name, file in parsed.items()),
        *(f"- {name}: not read" for name in unread),
    ]
    return "\n".join(lines) + "\n"
