"""The graph under pointer and keys."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from baton import Workflow
from baton.testing import drain
from tests import steps
from tests.browser.stories import brief, ingest, page_of
from tests.utils import wait_until


def box(page: Page) -> list[float]:
    """What of the picture is to be seen: how far it is scrolled, and how wide it is."""
    box = "document.querySelector('[data-graph]')"
    seen = f"[{box}.scrollLeft, {box}.scrollTop, Number(document.getElementById('b-graph').getAttribute('width'))]"
    return [float(number) for number in page.evaluate(seen)]


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.dataset.step ?? document.activeElement.dataset.group ?? ''"))


def test_the_picture_zooms_and_pans_and_the_page_scrolls(open_page, viewer):
    page = open_page(page_of(brief()), viewer)
    first = box(page)
    page.click("[data-zoom=in]")
    larger = box(page)
    assert larger[2] == first[2] * 1.25
    page.click("[data-zoom=fit]")
    assert box(page) == first

    area = page.locator("[data-graph]").bounding_box()
    page.mouse.move(area["x"] + 20, area["y"] + 20)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    zoomed = box(page)
    assert zoomed[2] > first[2]
    page.mouse.wheel(0, 100)
    wait_until(lambda: page.evaluate("scrollY") > 0, what="the page to scroll")
    assert box(page) == zoomed

    page.evaluate("scrollTo(0, 0)")
    for _ in range(3):
        page.click("[data-zoom=in]")
    zoomed = box(page)
    node = page.locator(".b-node[data-step=search_web] > .b-box").bounding_box()
    page.mouse.move(node["x"] + 6, node["y"] + node["height"] - 6)
    page.mouse.down()
    page.mouse.move(node["x"] - 74, node["y"] - 44, steps=4)
    page.mouse.up()
    assert box(page)[1] > zoomed[1]
    assert "step=" not in page.url


def test_arrows_lead_along_the_edges_and_enter_opens_the_panel(open_page, viewer):
    page = open_page(page_of(brief()), viewer)
    page.locator(".b-node[data-step=plan]").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert focused(page) in {"search_web", "search_papers"}
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    assert focused(page) == "publish"
    assert page.locator("#b-graph [tabindex='0']").count() == 1
    assert page.locator("#b-graph.b-dims .b-node.b-lit").count() > 3
    page.keyboard.press("c")
    expect(page.locator("[data-critical]")).not_to_be_checked()
    page.keyboard.press("?")
    expect(page.locator("dialog[open]")).to_be_visible()
    page.keyboard.press("Escape")

    before = box(page)
    page.keyboard.press("Enter")
    expect(page.locator("#b-panel-name")).to_have_text("publish")
    expect(page.locator("#b-panel-name")).to_be_focused()
    assert box(page) == before
    page.keyboard.press("Escape")
    expect(page.locator(".b-summary")).to_be_visible()
    expect(page.locator(".b-node[data-step=publish]")).to_be_focused()


def test_cells_are_reached_by_keys_and_by_the_pointer(open_page, viewer):
    page = open_page(page_of(ingest(60)), viewer)
    page.locator(".b-group").focus()
    page.keyboard.press(" ")
    page.keyboard.press("ArrowDown")
    expect(page.locator("[data-cell-label]")).to_have_text("page[15], completed")
    page.keyboard.press("End")
    expect(page.locator("[data-cell-label]")).to_have_text("page[59], available")
    page.keyboard.press("Enter")
    expect(page.locator("#b-panel-name")).to_have_text("page[59]")

    # Through the hole in the middle of the cell.
    page.locator(".b-group .b-cells use").nth(30).hover()
    expect(page.locator("[data-tip]")).to_have_text("page[30], available")
    page.locator(".b-group .b-cells use").nth(30).click()
    expect(page.locator("#b-panel-name")).to_have_text("page[30]")


def test_without_javascript_the_picture_stands_with_its_links(open_page, viewer):
    page = open_page(page_of(ingest(60)), viewer, java_script_enabled=False)
    expect(page.locator("[data-zoom=in]")).to_be_hidden()
    # Cells of one state side by side are one use; each has the colour of its state, not that of its group.
    colours = "(cells) => cells.map((cell) => [getComputedStyle(cell).color, cell.getAttribute('href').split('-')[2]])"
    inks = page.locator(".b-cells use").evaluate_all(colours)
    assert len(inks) < 60
    assert len({ink for ink, _ in inks}) == len({state for _, state in inks}) > 1
    page.locator(".b-node[data-step=merge] > .b-box").click()
    expect(page.locator("#b-panel-name")).to_have_text("merge")
    page.locator(".b-group > .b-name").click()
    expect(page.locator("[data-group-panel] #b-panel-name")).to_have_text("page")


def test_a_long_chain_leads_to_the_right_where_the_page_is_wide(open_page, viewer):
    workflow = Workflow("chain")
    for index in range(26):
        workflow.add(f"s{index}", steps.value, deps=[f"s{index - 1}"] if index else [])
    address = page_of(workflow.insert())

    expect(open_page(address, viewer, width=1440).locator("#b-graph.b-down")).to_be_visible()
    page = open_page(address, viewer, width=1900)
    expect(page.locator("#b-graph.b-right")).to_be_visible()
    page.get_by_role("link", name="Down").click()
    expect(page.locator("#b-graph.b-down")).to_be_visible()


def test_names_stay_within_their_boxes_in_whatever_font(open_page, viewer):
    # Of the widest letters, and as long as it is not shortened where nothing stands beside it.
    name = "W" * 21
    run = drain(
        Workflow("wide").add("fails", steps.fail, max_attempts=1).add(name, steps.value, deps=["fails"]).insert()
    )

    page = open_page(page_of(run), viewer)

    node = page.locator(f".b-node[data-step={name}]")
    node.locator(".b-name[textLength]").wait_for()
    text, around = (node.locator(part).bounding_box() for part in (".b-name", ".b-box"))
    assert text["x"] + text["width"] <= around["x"] + around["width"]
