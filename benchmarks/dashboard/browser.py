"""What is seen in a real Chromium."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.dashboard.site import Site
from scripts import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, CDPSession, Page

PROBE = Path(__file__).with_name("probe.js")
PATIENCE_MS = 30_000.0
SIZE: Any = {"width": 1440, "height": 900}
WHERE = """() => {
    const {x, y, width, height} = document.querySelector("#b-graph .b-nodes").getBoundingClientRect();
    return [x, y, width, height].map(Math.round).join(" ");
}"""
"""Where the picture is on the screen."""


@contextlib.contextmanager
def started() -> Iterator[Browser]:
    """A Chromium for the length of a block."""
    binary = chromium.found()
    if binary is None:
        raise RuntimeError(chromium.REMEDY)
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - of a group that not everybody has

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=[*chromium.FLAGS])
        yield browser
        browser.close()


class Window:
    """A window of a browser in which somebody is logged in, watched by the probe from the first script on."""

    def __init__(self, browser: Browser, site: Site) -> None:
        self.site = site
        self.context: BrowserContext = browser.new_context(base_url=site.url, viewport=SIZE)
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.add_init_script(path=PROBE)
        name, _, value = site.cookie.partition("=")
        self.context.add_cookies([{"name": name, "value": value, "url": site.url}])
        self.complaints: list[str] = []

    def close(self) -> None:
        """Close it."""
        self.context.close()

    def open(self, path: str, *, live: bool = False) -> Page:
        """Open a page, and wait until its graph is painted, and for its connection where that is wanted."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.goto(path)
        page.wait_for_function("batonProbe.painted > 0")
        if live:
            page.wait_for_selector("[data-connection=open]")
        return page

    def timings(self, path: str) -> dict[str, float]:
        """Open a page once, and say when it was painted, in milliseconds from the navigation's start."""
        page = self.open(path)
        page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
        found: dict[str, float] = page.evaluate(
            """() => {
                const [navigation] = performance.getEntriesByType("navigation");
                const paint = performance.getEntriesByName("first-contentful-paint")[0].startTime;
                return {
                    paint,
                    paint_after: paint - navigation.responseEnd,
                    painted: batonProbe.painted,
                    elements: document.querySelectorAll(".baton *").length,
                };
            }"""
        )
        page.close()
        return found


class Frames:
    """The longest frame, and the longest time that scripts ran in one, during a ``with`` block."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.script_ms = 0.0
        self.frame_ms = 0.0
        self.worst = ""

    def __enter__(self) -> Self:
        self.page.wait_for_timeout(300)
        if not self.page.evaluate("batonProbe.kind"):
            raise RuntimeError("this Chromium tells neither of long frames nor of long tasks")
        self.page.evaluate("() => { batonProbe.frames.length = 0; }")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is not None:
            return
        self.page.wait_for_timeout(300)
        frames = self.page.evaluate("batonProbe.frames")
        if frames:
            worst = max(frames, key=lambda frame: frame["ms"])
            self.script_ms = worst["ms"]
            self.frame_ms = max(frame["frame"] for frame in frames)
            scripts = sorted(worst["scripts"], key=lambda each: -each["ms"])[:2]
            self.worst = "; ".join(
                f"{each['invoker']} in {each['name']} {each['ms']:.0f} ms, {each['layout']:.0f} of it layout"
                for each in scripts
            )


def zoom_and_pan(page: Page) -> None:
    """Zoom by wheel and by keys, and drag the picture about."""
    area = page.locator("[data-graph]").bounding_box()
    assert area is not None
    seen = {page.evaluate(WHERE)}
    x, y = area["x"] + area["width"] / 2, area["y"] + min(area["height"], 600) / 2
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    for way in (-1, 1, -1, 1):
        for _ in range(8):
            page.mouse.wheel(0, way * 60)
            page.wait_for_timeout(16)
        seen.add(page.evaluate(WHERE))
    page.keyboard.up("Control")
    page.locator("#b-graph [tabindex='0']").first.focus()
    for key in "++++----0++":
        page.keyboard.press(key)
        page.wait_for_timeout(30)
    seen.add(page.evaluate(WHERE))
    page.mouse.move(area["x"] + 6, area["y"] + 6)
    page.mouse.down()
    for way in (1, -1):
        for place in range(12):
            page.mouse.move(area["x"] + 6 + (place if way > 0 else 12 - place) * 40, area["y"] + 6 + place * way * 15)
            page.wait_for_timeout(16)
    page.mouse.up()
    if len(seen) < 4:
        raise RuntimeError(f"the graph was not zoomed: {seen}")


def seen_so_far(page: Page) -> list[tuple[int, str, float]]:
    """Take what the probe has seen of cells since the last time; nothing while the page loads itself again."""
    from playwright.sync_api import Error  # noqa: PLC0415 - of a group that not everybody has

    try:
        seen: list[tuple[int, str, float]] = page.evaluate("batonProbe.seen.splice(0)")
    except Error:
        return []
    return seen


def heap_megabytes(session: CDPSession) -> float:
    """What the page's scripts hold in memory after everything that can go has gone."""
    for _ in range(2):
        session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")["usedSize"]
    return float(used) / 1e6
