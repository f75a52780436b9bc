"""Every page, as a browser shows it."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.stories import TABS, brief, evil, failed, ingest, list_of_runs, now, page_of
from tests.people import user_with

SCHEMES = ("light", "dark")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_tab_of_a_run_renders_with_an_empty_console(open_page, viewer, scheme):
    run = failed()
    page = open_page(list_of_runs(), viewer, scheme=scheme)
    expect(page.locator("#result_list")).to_contain_text("invoice-sync")
    page.goto(now())
    expect(page.locator(".b-now-page")).to_contain_text("tests.steps.fail")

    for tab in TABS:
        page.goto(page_of(run, tab))

        expect(page.locator(".b-tab[aria-current]")).to_have_attribute("data-tab", tab)
        expect(page.locator("[data-headline]")).to_contain_text("reconcile")
        expect(page.locator("[data-panel] [data-why]")).to_contain_text("Discarded")


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
def test_pages_have_no_serious_fault_for_people_with_disabilities(open_page, viewer, scheme, width):
    # What axe itself does is against the policy; that the pages keep to it is tested above.
    page = open_page(list_of_runs(), viewer, scheme=scheme, width=width, bypass_csp=True)

    run = brief()
    for address in [list_of_runs(), now(), page_of(failed()), *(page_of(run, tab) for tab in TABS)]:
        page.goto(address)
        expect(page.locator("#content h1").first).to_be_visible()

        assert faults(page) == [], address


def faults(page: Page) -> list[str]:
    """What axe finds in our part of a page and calls serious or critical."""
    found = Axe().run(page, context=".baton", options={"resultTypes": ["violations"], "preload": False})
    return [
        f"{fault['id']}: {node['html'][:200]}"
        for fault in found.response["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]


def test_nothing_is_wider_than_a_phone(open_page, viewer):
    page = open_page(list_of_runs(), viewer, width=390)

    for address in [list_of_runs(), now(), *(page_of(run, tab) for run in (ingest(), evil()) for tab in TABS)]:
        page.goto(address)

        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address


def test_texts_of_steps_are_harmless_on_every_tab(open_page, boss):
    run = evil()
    page = open_page(list_of_runs(), boss)

    tabs = [page_of(run, tab) for tab in TABS]
    for address in [list_of_runs(), now(), *tabs, *(page_of(run, "graph", name) for name in run.steps)]:
        page.goto(address)

        expect(page.locator("#content")).to_contain_text("<script>")
        assert page.title() != "evil", address
        assert page.locator("script:not([src])").count() == page.locator("script[type='application/json']").count()
        assert page.locator("img[src=x]").count() == 0


def test_anonymous_visitors_are_asked_to_log_in(open_page):
    run = failed()

    for address in (list_of_runs(), now(), page_of(run), page_of(run, "steps", "reconcile")):
        page = open_page(address)

        expect(page.locator("#id_password")).to_be_visible()
        assert "invoice-sync" not in page.content()


def test_staff_without_the_permission_see_nothing(open_page, problems):
    run = failed()

    for address in (list_of_runs(), now(), page_of(run), page_of(run, "steps", "reconcile")):
        page = open_page(address, user_with("view_completion"))

        expect(page.get_by_text("403 Forbidden")).to_be_visible()
        assert "reconcile" not in page.content()
    problems.clear()  # the console notes the three refusals


def test_without_javascript_every_tab_is_complete(open_page, viewer):
    run = brief()
    page = open_page(page_of(run), viewer, java_script_enabled=False)

    for tab in TABS:
        page.locator(f"[data-tab={tab}]").click()

        expect(page.locator(".b-tab[aria-current]")).to_have_attribute("data-tab", tab)
        expect(page.locator(".b-main")).to_contain_text("assess[")
        assert "Reload to see changes." in page.content()
    page.goto(page_of(run, "steps"))
    page.locator("[data-steps]").get_by_role("link", name="assess[gpt-5]").click()
    expect(page.locator("#b-panel-name")).to_have_text("assess[gpt-5]")
