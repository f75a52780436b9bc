"""What must hold of every page, whatever it shows: in light and dark, on a wide screen and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

WIDE, HALF, PHONE = 1440, 720, 390
"""Widths of screens; a wide one at 200 % is as wide as half of it."""
CONTRAST = ["color-contrast"]
OF_WIDTH = [*CONTRAST, "target-size", "scrollable-region-focusable", "link-in-text-block"]
"""What axe may find on a phone alone."""
SERIOUS = ("serious", "critical")

_TOOLS = [Axe().axe_script, Path(__file__).with_suffix(".js").read_text()]


def inspect(page: Page, problems: list[str]) -> None:
    """Look at the page that is open as different people do. It is light and wide, also afterwards.

    Args:
        page: A page that has come to rest, and does not move.
        problems: What its browser complained about.
    """
    assert_nothing(problems, page.url)
    bring_tools(page)
    assert_nothing(ask(page, "wordless"), f"{page.url}: icons without words")
    assert_nothing(ask(page, "underlined"), f"{page.url}: underlined")
    _look(page, "light")
    _look(page, "dark", CONTRAST)
    page.set_viewport_size({"width": PHONE, "height": 900})
    assert_no_wider_than(page, PHONE)
    _look(page, "dark", OF_WIDTH)
    _look(page, "light", CONTRAST)
    page.set_viewport_size({"width": HALF, "height": 450})
    assert_no_wider_than(page, HALF)
    page.set_viewport_size({"width": WIDE, "height": 900})
    problems.clear()  # what axe itself does is against the policy on Django 5.2


def inspect_at_its_largest(page: Page) -> None:
    """Look at the page that is open in forced colours, and with text of double size, which it then keeps."""
    bring_tools(page)
    page.emulate_media(forced_colors="active")
    ask(page, "arrive")
    assert_nothing([*faults(page, CONTRAST), *ask(page, "paleText")], f"{page.url} in forced colours")
    page.emulate_media(forced_colors="none")
    ask(page, "doubleText")
    assert_no_wider_than(page, WIDE)
    assert_nothing(ask(page, "cutText"), f"{page.url} with large text")


def bring_tools(page: Page) -> None:
    """Put axe and our own questions into a page."""
    for tool in _TOOLS:
        page.evaluate(tool)


def ask(page: Page, question: str, *arguments: Any) -> list[str]:
    """Ask one of the questions of ``inspection.js``."""
    found: list[str] | None = page.evaluate("([name, given]) => inspection[name](...given)", [question, arguments])
    return found or []


def assert_no_wider_than(page: Page, width: int) -> None:
    """See that nobody has to scroll sideways."""
    if page.evaluate("document.documentElement.scrollWidth") > width:
        assert_nothing(ask(page, "wider", width) or ["something"], f"{page.url} on a screen of {width}")


def assert_nothing(found: list[str], where: str) -> None:
    """Fail with what was found, if anything was."""
    assert not found, "\n".join([where, *found])


def faults(page: Page, rules: list[str] | None = None) -> list[str]:
    """What axe finds in our part of a page and calls serious or critical."""
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    if rules:
        options["runOnly"] = rules
    found = page.evaluate("([context, options]) => axe.run(context, options)", [".baton", options])
    return [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for fault in found["violations"]
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]


def _look(page: Page, scheme: Literal["light", "dark"], rules: list[str] | None = None) -> None:
    page.emulate_media(color_scheme=scheme)
    ask(page, "arrive")
    assert_nothing([*faults(page, rules), *ask(page, "paleText")], f"{page.url} {scheme}, {page.viewport_size}")
