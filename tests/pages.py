"""The documentation as programs: its blocks, its shell sessions, its commands.

The session part needs nothing but Python, for a shell of a project outside the repository runs it too:
`python manage.py shell -c "from tests.pages import answer; answer()"`.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"

_FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})\s*(?P<info>[^`]*)$")
_DIRECTIVE = re.compile(r"^\{(?P<name>[\w:-]+)\}")
_FILE = re.compile(r"^# (?P<path>[\w./-]+\.py)$")
_LIST_ITEM = re.compile(r"^\s*(-|\d+\.) ")
_CODE_SPAN = re.compile(r"`+[^`]+`+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    """Where its text begins."""
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file it is to be written to, if its first line names one."""
        match = _FILE.match(self.text.partition("\n")[0]) if self.language == "python" else None
        return match["path"] if match else ""

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def padded(self) -> str:
        """Its text, so far down that a traceback names the line of the page."""
        return "\n" * (self.line - 1) + self.text


def pages() -> list[Path]:
    """Every page that users read: the README and the documentation."""
    return [README, *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]


def name_of(page: Path) -> str:
    """A page as messages and test ids name it."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, directives left out."""
    blocks = []
    fence, language, start = "", "", 0
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        match = _FENCE.match(line)
        if not fence and match:
            fence, start = match["fence"], number + 1
            language = "" if _DIRECTIVE.match(match["info"]) else match["info"].strip()
        elif fence and line.strip() == fence:
            if language:
                text = "\n".join(lines[start - 1 : number - 1]) + "\n"
                blocks.append(Block(page=name_of(page), line=start, language=language, text=text))
            fence = ""
    assert not fence, f"{name_of(page)}:{start}: this block has no end"
    return blocks


def prose_of(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page that are sentences, with their numbers: no blocks, tables, headings and code spans."""
    fence = ""
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        match = _FENCE.match(line)
        if match and not fence:
            fence = match["fence"]
        elif fence:
            fence = "" if line.strip() == fence else fence
        elif line.strip() and not line.lstrip().startswith(("|", "#", "(", "%", ":")):
            yield number, _CODE_SPAN.sub("`code`", _LIST_ITEM.sub("", line))


def converse(text: str, namespace: dict[str, Any], *, line: int = 1, patience: float = 0.0) -> list[str]:
    """Type a shell session in, and compare what comes back with what the page shows.

    Args:
        text: The session, with its prompts.
        namespace: The names of the session so far.
        line: Where the session begins in its page.
        patience: Seconds for which a question is asked again until its answer is the one shown, as a reader does who
            waits for a worker. Only expressions are asked again.

    Returns:
        What was not as shown.
    """
    faults = []
    for example in doctest.DocTestParser().get_examples(text):
        deadline = time.monotonic() + patience
        while True:
            got = _typed(example.source, namespace)
            is_right = doctest.OutputChecker().check_output(example.exc_msg or example.want, got, doctest.ELLIPSIS)
            if is_right or time.monotonic() > deadline or not _is_question(example.source):
                break
            time.sleep(0.05)
        if not is_right:
            faults.append(f"line {line + example.lineno}: {example.source}shown:\n{example.want}got:\n{got}")
    return faults


def answer() -> None:
    """Be the shell of a project: a session a line comes in as JSON, what was not as shown goes out."""
    namespace: dict[str, Any] = {}
    for request in sys.stdin:
        sys.stdout.write(json.dumps(converse(**json.loads(request), namespace=namespace)) + "\n")
        sys.stdout.flush()


def _typed(source: str, namespace: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(source, "<page>", "single"), namespace)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the page may show it
            return printed.getvalue() + traceback.format_exception_only(exc)[-1]
    return printed.getvalue()


def _is_question(source: str) -> bool:
    try:
        compile(source, "<page>", "eval")
    except SyntaxError:
        return False
    return True
