"""The path of somebody who has no pointer."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.stories import failed, list_of_runs, page_of


def tab_to(page: Page, selector: str, *, at_most: int = 80) -> None:
    """Press Tab until what is meant has the focus."""
    for _ in range(at_most):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} was not reached by {at_most} times Tab")


def test_from_the_list_to_the_error_of_a_failed_step_on_to_its_rerun_and_the_end_of_it(open_page, boss):
    run = failed()
    page = open_page(list_of_runs(), boss)

    tab_to(page, "#result_list tbody th a")
    page.keyboard.press("Enter")
    expect(page.locator("[data-run]")).to_have_attribute("data-run", str(run.pk))
    tab_to(page, "[data-tab=steps]")
    page.keyboard.press("Enter")
    expect(page.locator("[data-steps]")).to_be_visible()
    tab_to(page, "[data-steps] tr[data-step=reconcile] a")
    page.keyboard.press("Enter")
    expect(page.locator("#b-panel-name")).to_have_text("reconcile")
    tab_to(page, "[data-panel] pre")
    expect(page.locator("[data-panel] pre:focus")).to_contain_text("row 17 of 'a.csv' is bad")
    page.goto(page_of(run))
    tab_to(page, "a[href$='/retry/']")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Re-run 2 steps")).to_be_visible()
    tab_to(page, "button.b-go")
    page.keyboard.press("Enter")
    expect(page.locator("[data-run-state]")).to_contain_text("running")
    tab_to(page, "a[href$='/cancel/']")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel run")).to_be_visible()
    tab_to(page, "button.b-danger")
    page.keyboard.press("Enter")
    expect(page.locator("[data-run-state]")).to_contain_text("cancelled")


def test_focus_can_be_seen_wherever_it_is(open_page, viewer):
    page = open_page(page_of(failed(), "steps"), viewer)
    tab_to(page, ".baton.b-page *")

    while page.evaluate("document.activeElement.matches('.baton.b-page *')"):
        style = "e => (e => e.outlineStyle + ' ' + e.outlineWidth)(getComputedStyle(document.activeElement))"
        outline = page.evaluate(style)
        assert outline not in ("none 0px", "none 3px"), page.evaluate("document.activeElement.outerHTML")
        page.keyboard.press("Tab")
