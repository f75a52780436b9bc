"""What asks before it acts, over the page of the run."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from baton import Workflow
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps
from tests.browser.stories import brief, failed, page_of


def test_a_cancel_is_asked_over_the_graph_and_esc_leads_back(open_page, boss):
    run = brief()
    page = open_page(page_of(run), boss)
    button = page.get_by_role("link", name="Cancel run…")
    button.focus()

    page.keyboard.press("Enter")

    dialog = page.get_by_role("dialog", name="Cancel research-brief")
    expect(dialog).to_contain_text("3 steps are cancelled.")
    assert page.url.endswith(page_of(run))
    expect(page.locator(".b-node[data-step=publish]")).to_have_class(re.compile("b-lit"))
    expect(page.locator(".b-node[data-step=plan]")).not_to_have_class(re.compile("b-lit"))
    expect(page.locator(".b-node[data-step=plan]")).to_have_css("opacity", "0.35")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    expect(page.locator("#b-graph")).not_to_have_class(re.compile("b-dims"))

    page.keyboard.press("Enter")
    dialog.get_by_role("textbox").fill("a wrong bucket")
    dialog.get_by_role("button", name="Cancel run").click()

    expect(page.locator("[data-run-state]")).to_contain_text("cancelled")
    assert "a wrong bucket" in WorkflowRun.objects.get(pk=run.pk).cancel_reason


def test_a_rerun_from_a_step_is_asked_and_can_be_declined(open_page, boss):
    page = open_page(page_of(failed()), boss)

    page.get_by_role("link", name="Re-run from here…").click()

    dialog = page.get_by_role("dialog", name="Re-run from reconcile")
    expect(dialog.get_by_role("button", name="Re-run 2 steps")).to_be_visible()
    dialog.get_by_role("link", name="Keep as it is").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("[data-run-state]")).to_contain_text("failed")


def test_a_rerun_of_a_settled_run_asks_from_which_step_and_then_what_to_do(open_page, boss):
    run = drain(Workflow("nightly").add("load", steps.value).add("publish", steps.value, deps=["load"]).insert())
    page = open_page(page_of(run), boss)

    page.get_by_role("link", name="Re-run from…").click()
    dialog = page.get_by_role("dialog", name="Re-run from a step")
    dialog.get_by_label("Step").fill("publish")
    dialog.get_by_role("button", name="Show what runs again").click()

    expect(page.get_by_text("1 step runs again. 1 step stays as it is.")).to_be_visible()
    page.get_by_role("button", name="Re-run 1 step").click()
    expect(page.locator("[data-run-state]")).to_contain_text("running")
    assert [node.state for node in run.steps.values()] == ["completed", "available"]


def test_a_rerun_begins_at_the_step_that_is_open(open_page, boss):
    page = open_page(page_of(failed(), "steps", "fetch"), boss)

    page.get_by_role("link", name="Re-run from…").click()

    dialog = page.get_by_role("dialog", name="Re-run from fetch")
    expect(dialog.get_by_role("button", name="Re-run 3 steps")).to_be_visible()


def test_what_is_no_longer_possible_is_said_on_the_page(open_page, boss):
    run = brief()
    page = open_page(page_of(run), boss)
    run.cancel("by another")

    page.get_by_role("link", name="Cancel run…").click()

    expect(page.get_by_text("You can't cancel this run")).to_have_count(1)
