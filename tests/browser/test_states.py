"""What a page says of itself: how it follows its run, what its reader may do, that there is nothing."""

from __future__ import annotations

import re

from django.urls import reverse
from playwright.sync_api import Locator, Page, expect

from baton import Workflow
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps
from tests.browser.inspection import inspect
from tests.browser.stories import brief, failed, list_of_runs, now, page_of, perform

LONG = 60_000
POLL = 5_000


def pass_time_until(page: Page, what: Locator) -> None:
    """Let the page's clock run ahead until something is to be seen."""
    for _ in range(60):
        if what.is_visible():
            return
        page.clock.fast_forward(500)
    expect(what).to_be_visible()


def test_page_whose_socket_is_refused_says_so_and_asks_over_http(open_page, boss, problems):
    run = brief()
    # A window of its own, for a clock is set for all pages with the same options.
    page = open_page(list_of_runs(), boss, width=1441, reduced_motion="reduce")
    page.route_web_socket(re.compile("/live/"), lambda socket: socket.close())
    page.clock.install()
    page.goto(page_of(run, "steps"))

    pass_time_until(page, page.locator("[data-connection=lost]"))
    expect(page.locator("[data-live]")).to_contain_text("Live paused, reconnecting. Shown: ")
    expect(page.get_by_role("button", name="Try now")).to_be_visible()
    inspect(page, problems)
    pass_time_until(page, page.locator("[data-connection=polling]"))
    expect(page.locator("[data-live]")).to_have_text("Refreshes every 5 s")
    perform(run, "assess[gemini-pro]")
    row = page.locator("tr[data-step='assess[gemini-pro]']")
    pass_time_until(page, row.get_by_text("completed"))
    for _ in range(10):
        with page.expect_response(re.compile("/changes/")) as asked:
            page.clock.fast_forward(POLL)
        if asked.value.status == 304:
            break
    assert asked.value.status == 304
    assert asked.value.request.headers["if-none-match"]


def test_page_of_a_settled_run_says_that_nothing_will_change_and_opens_no_socket(open_page, viewer):
    run = drain(Workflow("nightly").add("a", steps.value).insert())
    page = open_page(list_of_runs(), viewer)
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))

    page.goto(page_of(run))

    expect(page.locator("[data-live]")).to_have_text("Finished: nothing more will change")
    expect(page.locator("[data-cost]")).to_contain_text("no LLM step")
    expect(page.locator("[data-tab=activity]")).to_be_visible()
    expect(page.locator("[data-tab=money]")).to_have_count(0)
    expect(page).to_have_title(re.compile("^✓ nightly, completed"))
    assert [url for url in sockets if str(run.pk) in url] == []


def test_page_of_a_run_that_is_removed_says_so(open_page, viewer):
    run = brief()
    page = open_page(page_of(run), viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible()

    WorkflowRun.objects.get(pk=run.pk).delete()

    expect(page.locator("[data-live]")).to_have_text("This run was removed.", timeout=LONG)
    expect(page.locator(".b-announcer")).to_have_text("This run was removed.")


def test_who_may_only_look_is_told_and_finds_nothing_to_act_with(open_page, viewer):
    for run in (brief(), failed()):
        page = open_page(page_of(run), viewer)

        expect(page.locator("div.b-head")).to_contain_text("You can look, not act.")
        for act in ("cancel", "retry", "budget", "decide"):
            assert page.locator(f"a[href*='{reverse(f'admin:baton_workflowrun_{act}', args=[run.pk])}']").count() == 0


def test_empty_pages_say_what_to_do(open_page, boss, problems):
    page = open_page(list_of_runs(), boss, reduced_motion="reduce")

    expect(page.locator(".b-none")).to_contain_text("No runs yet")
    expect(page.locator(".b-none")).to_contain_text("python manage.py qcluster")
    inspect(page, problems)
    page.goto(now())
    expect(page.locator(".b-now-page")).to_contain_text("Nothing has failed.")
    inspect(page, problems)
    run = brief()
    page.goto(f"{list_of_runs()}?q=nothing+like+it")
    inspect(page, problems)
    page.locator(".b-none").get_by_role("link", name="Clear the filters.").click()
    expect(page.locator("#result_list")).to_contain_text("research-brief")
    page.goto(page_of(run, "steps") + "&q=nothing")
    inspect(page, problems)
    page.get_by_role("link", name="Clear the filters.").click()
    expect(page.locator("[data-steps]")).to_contain_text("publish")
