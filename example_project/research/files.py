"""Readers of files: each gives a title and the words of one format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def read_text(path: Path) -> tuple[str, str]:
    """Read plain text; its first line is the title."""
    text = path.read_text(encoding="utf-8")
    return text.partition("\n")[0].strip(), text


def read_markdown(path: Path) -> tuple[str, str]:
    """Read Markdown; its first heading is the title."""
    text = path.read_text(encoding="utf-8")
    headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    return headings[0] if headings else path.stem, text


def read_table(path: Path) -> tuple[str, str]:
    """Read comma-separated values; the title names the columns."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    columns = list(rows[0]) if rows else []
    cells = [f"{column} {row[column]}" for row in rows for column in columns]
    return f"{len(rows)} rows of {', '.join(columns)}", "\n".join(cells)


def read_json(path: Path) -> tuple[str, str]:
    """Read JSON; the title is what it calls itself."""
    data = json.loads(path.read_text(encoding="utf-8"))
    title = data.get("title") if isinstance(data, dict) else None
    return title or path.stem, "\n".join(words_in(data))


def words_in(data: Any) -> Iterator[str]:
    """Yield every key and text in a JSON value."""
    match data:
        case dict():
            for key, value in data.items():
                yield key
                yield from words_in(value)
        case list():
            for value in data:
                yield from words_in(value)
        case str():
            yield data


READERS: dict[str, Callable[[Path], tuple[str, str]]] = {
    ".txt": read_text,
    ".md": read_markdown,
    ".csv": read_table,
    ".json": read_json,
}
"""How each kind of file is read, by its suffix."""
