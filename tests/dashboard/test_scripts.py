"""What the pages' scripts weigh: modules as they are written, with no build step."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

import baton

FOLDER = Path(baton.__file__).parent / "static" / "baton" / "js"
_IMPORT = re.compile(r'from "\./([a-z]+\.js)"')


def loaded(*entries: str) -> list[str]:
    """The modules that a page loads for these, each once."""
    found = list(entries)
    for name in found:
        found += [each for each in _IMPORT.findall((FOLDER / name).read_text()) if each not in found]
    return found


@pytest.mark.parametrize(
    ("entries", "most", "most_zipped"),
    [
        (["page.js", "graph.js"], 40_000, 14_000),
        (["page.js", "timeline.js"], 26_000, 9_300),
        (["page.js"], 22_500, 8_200),
        (["list.js"], 11_500, 4_300),
    ],
)
def test_a_page_loads_no_more_than_its_budget(entries: list[str], most: int, most_zipped: int) -> None:
    together = b"".join((FOLDER / name).read_bytes() for name in sorted(loaded(*entries)))

    assert len(together) <= most
    assert len(gzip.compress(together)) <= most_zipped


def test_every_module_is_loaded_by_somebody() -> None:
    entries = ["page.js", "graph.js", "timeline.js", "list.js", "width.js", "dialog.js"]

    assert {path.name for path in FOLDER.glob("*")} == set(loaded(*entries))
