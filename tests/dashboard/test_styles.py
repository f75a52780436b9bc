"""The style sheets: small, without a dead rule, within Baton's own markup, and readable in both schemes."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

MOST_BYTES, MOST_BYTES_GZIPPED = 28_000, 7_000
STATES = ("pending", "available", "executing", "snoozed", "retryable", "completed", "discarded", "cancelled")
GROUNDS = (("#ffffff", "#f8f8f8"), ("#121212", "#212121"))
"""Light and dark: the admin's own, and that of every other row of its lists."""
OF_BATON = re.compile(
    r"(?:html\.dark )?(?::is\()?\.baton\b|\.model-workflowrun #result_list |#content:has\(\.baton\.b-page\) > h1$"
)
"""Where a rule may begin. The list's columns and the heading of a run's page are Baton's, in the admin's markup."""
SKIPPED = re.compile(r"@keyframes [\w-]+$|from$|to$")


@pytest.fixture(scope="module")
def package() -> Path:
    return Path(__file__).resolve().parents[2] / "baton"


@pytest.fixture(scope="module")
def sheets(package: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((package / "static/baton/css").glob("*.css"))}


def rules_of(sheet: str) -> Iterator[tuple[list[str], str]]:
    """Each rule that stands by itself, not in another one: the conditions around it, and its selector."""
    around: list[str] = []
    for text, mark in re.findall(r"([^{};]*)([{};])", re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL)):
        head = " ".join(text.split())
        if mark == "{":
            if all(each.startswith("@") for each in around) and not head.startswith("@"):
                yield [*around], head
            around.append(head)
        elif mark == "}":
            around.pop()


def parts_of(selector: str) -> list[str]:
    """A list of selectors, split at its commas but not at those in parentheses."""
    return [each.strip() for each in re.split(r",(?![^()]*\))", selector)]


def test_they_are_small(sheets):
    everything = "".join(sheets.values()).encode()

    assert len(everything) <= MOST_BYTES
    assert len(gzip.compress(everything, mtime=0)) <= MOST_BYTES_GZIPPED


def test_every_class_is_one_that_pages_have(package, sheets):
    styled = set(re.findall(r"\.(b-[a-z0-9-]+)", re.sub(r"/\*.*?\*/", "", "".join(sheets.values()), flags=re.DOTALL)))
    files = [path for kind in ("html", "py", "js") for path in package.rglob(f"*.{kind}")]
    words = set(re.findall(r"\bb-[a-z0-9-]+", "\n".join(path.read_text() for path in files)))
    # These are put together: b-{{ state }}, b-of-{{ icon }}, b-model-{{ kind }}, b-{{ tone }}, b-pause-{{ kind }}.
    made = {f"b-{state}" for state in STATES} | {
        "b-of-discarded",
        "b-amber",
        "b-red",
        "b-pause-retry",
        "b-pause-snooze",
    }
    made |= {f"b-model-{kind}" for kind in ("1", "2", "3", "other")} | {"b-waiting", "b-cause"}

    assert sorted(styled - words - made) == []


def test_no_rule_reaches_outside_of_baton_and_none_asks_for_anything_elsewhere(sheets):
    selectors = [
        (name, part)
        for name, sheet in sheets.items()
        for around, selector in rules_of(sheet)
        if not any(map(SKIPPED.match, [*around, selector]))
        for part in parts_of(selector)
    ]

    assert len(selectors) > len(sheets)
    assert [each for each in selectors if not OF_BATON.match(each[1])] == []
    assert not re.search(r"url\((?!#)|@import|!important", "".join(sheets.values()))


def test_braces_are_balanced_and_no_rule_stands_twice(sheets):
    for name, sheet in sheets.items():
        assert sheet.count("{") == sheet.count("}"), name
        lines = [line.strip() for line in sheet.splitlines() if line.strip().endswith("}") and "{" in line]
        assert sorted({line for line in lines if lines.count(line) > 1}) == [], name


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_ink_of_a_state_is_read_on_the_grounds_and_on_its_tint(sheets, state, scheme):
    ink = colour(sheets["admin.css"], rf"--b-{state}", scheme)
    tint = colour(sheets["admin.css"], rf"\.b-{state}\b[^{{}}]*\{{[^}}]*--b-tint", scheme)

    assert min(contrast(ink, ground) for ground in (*GROUNDS[scheme], tint)) >= 4.5


def colour(sheet: str, name: str, scheme: int) -> str:
    found = re.search(name + r":\s*light-dark\((#\w+), (#\w+)\)", sheet)
    assert found, name
    return found[scheme + 1]


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
