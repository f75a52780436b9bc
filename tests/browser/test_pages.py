"""Every page, as a browser shows it."""

from __future__ import annotations

from django.urls import reverse
from playwright.sync_api import expect

from tests.browser.inspection import inspect, inspect_at_its_largest
from tests.browser.stories import TABS, brief, evil, failed, ingest, list_of_runs, now, page_of
from tests.people import user_with


def test_every_tab_of_a_run_is_for_everybody(open_page, boss, problems):
    run, spoilt, wide = brief(), failed(), ingest()
    page = open_page(list_of_runs(), boss, reduced_motion="reduce")

    for tab in TABS:
        page.goto(page_of(run, tab))
        expect(page.locator("[data-connection=open]")).to_be_visible()
        expect(page.locator(".b-tab[aria-current]")).to_have_attribute("data-tab", tab)
        inspect(page, problems)
    for address, words in {
        page_of(spoilt): "Discarded after 2 of 2 attempts",
        page_of(run, "steps", "assess[sonnet-4-5]"): "Completed in attempt 1",
        page_of(wide, "graph") + "&group=page": "100 available",
        page_of(wide, "timeline", "page[3]"): "page[3]",
    }.items():
        page.goto(address)
        expect(page.locator(".b-columns > aside")).to_contain_text(words)
        inspect(page, problems)


def test_pages_of_all_runs_and_those_that_ask_are_for_everybody(open_page, boss, problems):
    run, spoilt = brief(), failed()
    page = open_page(list_of_runs(), boss, reduced_motion="reduce")

    for address, words in {
        list_of_runs(): "invoice-sync",
        now(): "tests.steps.fail",
        reverse("admin:index"): "1 running",
        reverse("admin:baton_workflowrun_cancel", args=[run.pk]): "3 steps",
        reverse("admin:baton_workflowrun_retry", args=[spoilt.pk]): "Keeps its result",
        reverse("admin:baton_workflowrun_retry", args=[spoilt.pk], query={"from_step": "fetch"}): "Runs again",
        reverse("admin:baton_workflowrun_budget", args=[run.pk]): "New budget",
    }.items():
        page.goto(address)
        expect(page.locator(".baton").locator("visible=true").first).to_be_visible()
        expect(page.locator("body")).to_contain_text(words)
        inspect(page, problems)


def test_pages_are_readable_in_forced_colours_and_with_text_of_double_size(open_page, boss):
    run = brief()
    page = open_page(list_of_runs(), boss, reduced_motion="reduce")

    for scheme, addresses in {
        "light": [list_of_runs(), page_of(run, "graph"), page_of(run, "timeline")],
        "dark": [now(), page_of(run, "steps", "plan"), page_of(run, "money")],
    }.items():
        page.emulate_media(color_scheme=scheme)
        for address in addresses:
            page.goto(address)
            inspect_at_its_largest(page)


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
