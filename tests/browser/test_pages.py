"""Every page, as a browser shows it."""

from __future__ import annotations

from urllib.parse import quote

from django.urls import reverse
from playwright.sync_api import expect

from baton import Workflow
from tests import steps
from tests.browser.inspection import assert_no_wider_than, inspect, inspect_at_its_largest
from tests.browser.stories import EVIL, TABS, brief, evil, failed, ingest, list_of_runs, now, page_of, vast
from tests.people import user_with

LONG = 60_000


def test_every_tab_of_a_run_is_for_everybody(open_page, boss, problems):
    run, spoilt, wide = brief(), failed(), ingest()
    page = open_page(list_of_runs(), boss, reduced_motion="reduce")

    for address, words in {
        page_of(run): "Critical path",
        page_of(spoilt): "Discarded after 2 of 2 attempts",
        page_of(wide) + "?group=page": "100 available",
        page_of(wide, "timeline", "page[3]"): "page[3]",
        page_of(run, "steps", "assess[sonnet-4-5]"): "Completed in attempt 1",
        page_of(run, "money"): "unheard-of",
        page_of(spoilt, "activity"): "fetch",
    }.items():
        page.goto(address)
        expect(page.locator(":is([data-connection=open], [data-connection=finished])")).to_be_visible()
        expect(page.locator(".b-columns")).to_contain_text(words)
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
        reverse("admin:baton_workflowrun_retry", args=[spoilt.pk], query={"from_step": ""}): "Show what runs again",
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


def test_texts_of_steps_are_harmless_on_every_tab_and_panel(open_page, boss):
    run = evil()
    other = Workflow(f"other {EVIL}").add(EVIL, steps.value).insert()
    other.cancel(EVIL)
    going = Workflow(f"going {EVIL}", key=EVIL).add(EVIL, steps.value.bind(EVIL)).insert()
    page = open_page(list_of_runs(), boss)

    for address in [
        list_of_runs(),
        now(),
        *(page_of(run, tab) for tab in TABS),
        *(page_of(run, "graph", name) for name in (EVIL, f"fails {EVIL}", f"waits {EVIL}", f"logs {EVIL}")),
        page_of(run, "steps", EVIL) + f"&q={quote(EVIL)}",
        page_of(run, "graph", f"unknown {EVIL}"),
        page_of(run) + "?everything=1",
        page_of(other, "activity"),
        page_of(going),
        reverse("admin:baton_workflowrun_retry", args=[run.pk]),
        reverse("admin:baton_workflowrun_cancel", args=[going.pk]),
        reverse("admin:baton_workflownode_change", args=[run.steps[f"fails {EVIL}"].pk]),
    ]:
        page.goto(address)

        expect(page.locator("body")).to_contain_text("<script>")
        assert page.title() != "evil", address
        assert page.locator("script:not([src])").count() == page.locator("script[type='application/json']").count()
        assert page.locator("img[src=x]").count() == 0


def test_run_of_ten_thousand_steps_opens_zooms_and_is_no_larger_than_others(open_page, viewer):
    run = vast()
    page = open_page(page_of(run), viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    expect(page.locator("[data-progress]")).to_contain_text("4,000 of 10,000")
    first = page.get_attribute("#b-graph", "width")
    page.click("[data-zoom=in]")
    expect(page.locator("#b-graph")).not_to_have_attribute("width", first)
    page.click("[data-zoom=out]")
    expect(page.locator("#b-graph")).to_have_attribute("width", first)
    page.locator("#b-graph [tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#b-panel-name")).to_be_focused()

    for address in (
        page_of(run),
        page_of(run, "graph", "s40_7"),
        *(page_of(run, tab) for tab in ("timeline", "steps")),
    ):
        page.goto(address)

        assert 100 < page.locator(".baton, .baton *").count() <= 2500, address
        assert_no_wider_than(page, 1440)


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
