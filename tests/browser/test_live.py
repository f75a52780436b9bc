"""Pages that follow what happens, with no reload."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from baton import Workflow
from tests import steps
from tests.browser.conftest import layers
from tests.browser.stories import list_of_runs, page_of, perform

LONG = 60_000


def chain(*names: str):
    """A run of which each step waits for the one before."""
    workflow = Workflow("live")
    for before, name in zip(("", *names), names, strict=False):
        workflow.add(name, steps.value, deps=[before] if before else [])
    return workflow.insert()


def mark(page: Page) -> None:
    """Leave something in the window that a reload would take away."""
    page.evaluate("() => { window.notReloaded = true; }")


def assert_not_reloaded(page: Page) -> None:
    assert page.evaluate("() => window.notReloaded === true")


def state_of(page: Page, step: str):
    return page.locator(f"[data-steps] tr[data-step='{step}'] [data-part=state]")


@pytest.mark.broker
def test_step_turns_completed_without_a_reload(open_page, viewer, real_cluster):
    run = chain("a", "b", "c")
    page = open_page(page_of(run, "steps"), viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    expect(state_of(page, "a")).to_contain_text("available")
    mark(page)

    real_cluster(env=layers())

    for name in ("a", "b", "c"):
        expect(state_of(page, name)).to_contain_text("completed", timeout=LONG)
    expect(page.locator("[data-run-state]")).to_contain_text("completed", timeout=LONG)
    expect(page.locator("[data-connection=finished]")).to_be_visible(timeout=LONG)
    expect(page.locator("[data-progress]")).to_contain_text("3 of 3")
    assert_not_reloaded(page)


def test_page_catches_up_when_the_server_was_away(open_page, viewer, server, problems):
    run = chain("a", "b", "c")
    page = open_page(page_of(run, "steps"), viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    mark(page)

    server.stop()
    expect(page.locator("[data-connection=lost]")).to_be_visible(timeout=LONG)
    expect(page.locator("[data-live]")).to_contain_text("Live paused")
    perform(run, "a")
    server.start()

    expect(state_of(page, "a")).to_contain_text("completed", timeout=LONG)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    expect(page.locator("[data-progress]")).to_contain_text("1 of 3")
    perform(run, "b")
    expect(state_of(page, "b")).to_contain_text("completed", timeout=LONG)
    expect(state_of(page, "c")).to_contain_text("available")
    expect(page.locator("[data-progress]")).to_contain_text("2 of 3")
    assert page.locator("[data-steps] tbody tr").count() == 3
    assert_not_reloaded(page)
    problems[:] = [each for each in problems if "ERR_CONNECTION_REFUSED" not in each]


def test_cells_and_nodes_of_the_graph_follow_too(open_page, viewer):
    run = chain("a", "b", "c")
    page = open_page(page_of(run, "graph"), viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    mark(page)

    perform(run, "a")

    expect(page.locator("[data-graph] .b-node.b-completed")).to_have_count(1, timeout=LONG)
    assert_not_reloaded(page)


def test_times_in_the_list_of_runs_tick_while_it_is_live(open_page, viewer):
    chain("a", "b")
    page = open_page(list_of_runs(), viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    # What the server would say of the time is not heard.
    page.route(f"**{list_of_runs()}", lambda route: route.abort())
    took = page.locator("#result_list [data-since]")
    before = took.inner_text()

    expect(took).not_to_have_text(before, timeout=LONG)


def test_run_that_leaves_a_filtered_list_is_told_to_its_end(open_page, viewer):
    run = chain("a")
    page = open_page(f"{list_of_runs()}?state__exact=running", viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    row = page.locator("#result_list tbody tr")
    expect(row).to_contain_text("running")

    perform(run, "a")

    expect(row).to_contain_text("completed", timeout=LONG)
    expect(row).to_have_count(1)


def test_what_the_reader_holds_stays(open_page, viewer):
    run = chain("a", "b", "c")
    page = open_page(page_of(run, "steps", "b"), viewer)
    expect(page.locator("[data-connection=open]")).to_be_visible(timeout=LONG)
    details = page.locator("[data-panel] details").first
    if details.count():
        details.locator("summary").click()
    search = page.locator("input[name=q]")
    search.fill("half a wo")

    perform(run, "a")

    expect(state_of(page, "a")).to_contain_text("completed", timeout=LONG)
    expect(search).to_be_focused()
    expect(search).to_have_value("half a wo")
    expect(page.locator("#b-panel-name")).to_have_text("b")
