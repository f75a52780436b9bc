"""Steps that open beside the graph, and what the page asks the server for again by itself."""

from __future__ import annotations

from playwright.sync_api import expect

from baton import Workflow
from tests import steps
from tests.browser.stories import brief, failed, ingest, page_of, perform

LONG = 60_000


def test_panels_open_without_loading_the_page_and_back_leads_back(open_page, viewer):
    page = open_page(page_of(brief()), viewer)
    page.evaluate("() => { window.notReloaded = true; }")
    name = page.locator("#b-panel-name")

    page.locator(".b-node[data-step=plan] .b-box").click()
    expect(name).to_have_text("plan")
    page.locator(".b-node[data-step=publish] .b-box").click()
    expect(name).to_have_text("publish")

    page.go_back()
    expect(name).to_have_text("plan")
    page.go_back()
    expect(page.locator(".b-summary")).to_be_visible()
    page.go_forward()
    expect(name).to_have_text("plan")
    page.locator(".b-close").click()
    expect(page.locator(".b-summary")).to_be_visible()
    assert page.evaluate("() => window.notReloaded === true")


def test_links_open_in_other_windows_and_names_can_be_selected(open_page, viewer):
    page = open_page(page_of(ingest(60)), viewer)

    with page.context.expect_page() as opened:
        page.locator(".b-node[data-step=merge] .b-box").click(button="middle")
    assert opened.value.url.endswith("step=merge")
    cells = page.locator(".b-cells").bounding_box()
    assert cells is not None
    page.mouse.move(cells["x"] + 17, cells["y"] + 5)
    with page.context.expect_page() as opened:
        page.mouse.click(cells["x"] + 17, cells["y"] + 5, button="middle")
    assert opened.value.url.endswith("step=page%5B1%5D")

    text = page.locator(".b-node[data-step=list] .b-name").bounding_box()
    assert text is not None
    page.mouse.move(text["x"] + 1, text["y"] + 8)
    page.mouse.down()
    page.mouse.move(text["x"] + text["width"] - 1, text["y"] + 8, steps=4)
    page.mouse.up()
    assert page.evaluate("getSelection().toString()") == "list"
    assert "step=" not in page.url


def test_rows_say_what_they_still_wait_for_and_keep_their_order(open_page, viewer):
    workflow = Workflow("pair").add("a", steps.value).add("b", steps.value).add("last", steps.value, deps=["a", "b"])
    run = workflow.insert()
    page = open_page(page_of(run, "steps"), viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    waits = page.locator("tr[data-step=last] [data-part=now]")
    before = page.locator("[data-steps] tbody a").all_inner_texts()
    said = waits.inner_text()

    perform(run, "a")

    expect(waits).not_to_have_text(said, timeout=LONG)
    assert page.locator("[data-steps] tbody a").all_inner_texts() == before
    page.get_by_role("link", name="Order changed, sort again").click()
    expect(page.locator("[data-steps] tbody a").first).not_to_have_text("a")


def test_the_tools_are_those_of_the_run_that_has_ended(open_page, boss):
    run = Workflow("single").add("only", steps.value).insert()
    page = open_page(page_of(run), boss)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("link", name="Cancel run…")).to_be_visible()

    perform(run, "only")

    expect(page.locator("[data-connection=finished]")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("link", name="Cancel run…")).to_be_hidden(timeout=LONG)
    expect(page.locator(".b-facts")).to_contain_text("Took")


def test_letters_lead_to_tabs_and_failed_steps_until_they_are_turned_off(open_page, viewer):
    page = open_page(page_of(failed()), viewer)
    page.locator(".b-close").click()
    expect(page.locator(".b-summary")).to_be_visible()

    page.keyboard.press("n")
    expect(page.locator("#b-panel-name")).to_have_text("reconcile")
    expect(page.locator("#b-panel-name")).to_be_focused()
    page.locator("[data-keys]").click()
    page.keyboard.press("t")
    page.locator("[data-page-keys]").click()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    expect(page.locator("#b-graph")).to_be_visible()
    expect(page.locator("#b-panel-name")).to_have_text("reconcile")

    page.locator("[data-keys]").click()
    page.locator("[data-page-keys]").click()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    expect(page.locator("[data-timeline]")).to_be_visible()


def test_steps_and_what_happened_are_searched_with_and_without_scripts(open_page, viewer):
    run = ingest(20)
    for has_scripts in (True, False):
        page = open_page(page_of(run, "steps"), viewer, java_script_enabled=has_scripts)
        page.get_by_placeholder("Name, error or worker").fill("page[1")
        page.keyboard.press("Enter")
        expect(page.locator("[data-steps] tbody tr")).to_have_count(11)
        expect(page.get_by_placeholder("Name, error or worker")).to_have_value("page[1")
        assert "csrf" not in page.url
        page.locator(".b-chip.b-completed").click()
        expect(page.get_by_text("No steps match.")).to_be_visible()
        page.get_by_placeholder("Name, error or worker").fill("")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("[data-steps] tbody a")).to_have_text(["merge"])

        page.locator("[data-tab=activity]").click()
        page.get_by_placeholder("Name of a step").fill("list")
        page.get_by_role("button", name="Search").click()
        expect(page.locator(".b-events a").first).to_have_text("list")
        expect(page.locator(".b-events").get_by_text("page[")).to_have_count(0)

        page.goto(page_of(run))
        page.locator(".b-node[data-members] .b-name").click()
        page.get_by_placeholder("number or text").fill("17")
        page.keyboard.press("Enter")
        expect(page.locator(".b-panel .b-rows a")).to_have_text(["page[17]"])


def test_keys_of_the_graph_are_told_and_closed_by_a_button(open_page, viewer):
    page = open_page(page_of(brief()), viewer)
    page.locator("[data-keys]").click()
    keys = page.get_by_role("dialog", name="Keys of the graph")
    expect(keys).to_be_visible()

    keys.get_by_role("button", name="Close").click()

    expect(keys).to_be_hidden()
    expect(page.locator("#b-graph")).to_be_visible()
    page.locator("#b-graph [tabindex='0']").press("?")
    expect(keys).to_be_visible()
