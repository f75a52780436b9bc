"""The timeline under pointer and keys, and while it goes on."""

from __future__ import annotations

import re
from datetime import timedelta

from django.utils import timezone
from playwright.sync_api import Page, expect

from baton.models import WorkflowRun
from tests.browser.stories import brief, page_of
from tests.factories import WorkflowNodeFactory, WorkflowRunFactory
from tests.utils import wait_until


def two_minutes() -> WorkflowRun:
    """A run of two steps, one minute each."""
    begin = timezone.now() - timedelta(seconds=120)
    run = WorkflowRunFactory.create(state="completed", inserted_at=begin, finished_at=begin + timedelta(seconds=120))
    for name in ("first", "second"):
        times = [begin.isoformat(), begin.isoformat(), (begin + timedelta(seconds=60)).isoformat()]
        entry = dict(zip(("queued_at", "started_at", "ended_at"), times, strict=True))
        log = [{**entry, "number": 1, "worker": "w", "outcome": "completed", "error": None, "count": 1}]
        WorkflowNodeFactory.create(run=run, name=name, state="completed", attempt=1, attempt_log=log, settled_at=begin)
        begin += timedelta(seconds=60)
    return run


def brush(page: Page, start: float, end: float) -> None:
    """Drag over a part of the axis."""
    axis = page.locator("[data-axis]").bounding_box()
    assert axis is not None
    page.mouse.move(axis["x"] + start * axis["width"], axis["y"] + 14)
    page.mouse.down()
    page.mouse.move(axis["x"] + end * axis["width"], axis["y"] + 14, steps=3)
    page.mouse.up()


def test_dragging_over_the_axis_zooms_and_the_address_keeps_it(open_page, viewer):
    page = open_page(page_of(two_minutes(), "timeline"), viewer)
    whole = page.locator("[data-axis]").get_attribute("data-axis")

    brush(page, 0.25, 0.75)

    expect(page).to_have_url(re.compile(r"from=.*to="))
    expect(page.locator("[data-axis]")).not_to_have_attribute("data-axis", str(whole))
    part = str(page.locator("[data-axis]").get_attribute("data-axis"))
    page.reload()
    expect(page.locator("[data-axis]")).to_have_attribute("data-axis", part)
    page.go_back()
    expect(page.locator("[data-axis]")).to_have_attribute("data-axis", str(whole))
    page.go_forward()
    expect(page.locator("[data-axis]")).to_have_attribute("data-axis", part)
    page.locator("[data-axis]").dblclick()
    expect(page).not_to_have_url(re.compile("from="))


def test_rows_are_walked_and_the_time_is_zoomed_by_keys(open_page, viewer):
    page = open_page(page_of(two_minutes(), "timeline"), viewer)
    row = page.locator("a.b-tl-row")
    row.first.focus()

    page.keyboard.press("ArrowDown")

    expect(row.nth(1)).to_be_focused()
    page.keyboard.press("+")
    expect(page).to_have_url(re.compile("from="))
    expect(row.nth(1)).to_be_focused()
    page.keyboard.press("0")
    expect(page).not_to_have_url(re.compile("from="))
    page.keyboard.press("Enter")
    expect(page.locator("#b-panel-name")).to_be_focused()


def test_now_and_what_runs_go_on_without_a_message(open_page, viewer):
    page = open_page(page_of(brief(), "timeline"), viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible()
    bar = page.locator(".b-tl-list .b-bar-of.b-executing")

    def ends() -> list[float]:
        line = page.locator(".b-now-line").get_attribute("x1")
        x, width = (bar.get_attribute(name) for name in ("x", "width"))
        found = [float(str(each).rstrip("%")) for each in (line, x, width)]
        return [found[0], found[1] + found[2]]

    first = ends()

    wait_until(lambda: ends()[0] > first[0], what="the line of now to go on")
    line, bar_end = ends()
    assert abs(line - bar_end) < 0.1


def test_without_javascript_the_links_zoom(open_page, viewer):
    page = open_page(page_of(two_minutes(), "timeline"), viewer, java_script_enabled=False)

    page.locator("[data-zoom=in]").click()

    expect(page).to_have_url(re.compile("from="))
    page.locator("[data-zoom=fit]").click()
    expect(page).not_to_have_url(re.compile("from="))
