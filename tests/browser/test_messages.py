"""What a page makes of messages, told by a socket of the test's own."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page, WebSocketRoute, expect

from baton import Workflow
from baton.dashboard.changes import STATES
from baton.models import WorkflowRun
from tests import steps
from tests.browser.stories import list_of_runs, page_of
from tests.utils import wait_until


class Server:
    """The other end of the sockets that a page opens."""

    def __init__(self, page: Page) -> None:
        self.sockets: list[WebSocketRoute] = []
        self.asked: list[dict[str, Any]] = []
        self.is_away = False
        page.route_web_socket("**/live/**", self._accept)

    def _accept(self, socket: WebSocketRoute) -> None:
        if self.is_away:
            socket.close()
            return
        self.sockets.append(socket)
        socket.on_message(lambda text: self.asked.append(json.loads(text)))

    def tell(self, *steps: dict[str, Any], **more: Any) -> None:
        self.sockets[-1].send(json.dumps({"type": "changes", "steps": steps, **more}))


def pair() -> WorkflowRun:
    return Workflow("pair").add("a", steps.value).add("b", steps.value).insert()


def step(run: WorkflowRun, name: str, state: str, version: int) -> dict[str, Any]:
    """A step, as messages tell of it."""
    told = {"now": "", "queued": "", "ran": "1 s", "attempt": 1, "started_at": None, "progress": None}
    return {"id": run.steps[name].pk, "name": name, "state": state, "label": state, "version": version, **told}


def state_of(page: Page, name: str) -> Any:
    return page.locator(f"[data-steps] tr[data-step='{name}'] [data-part=state]")


def test_nothing_is_shown_before_the_answer_and_nothing_older_after(open_page, viewer):
    run = pair()
    page = open_page(list_of_runs(), viewer)
    server = Server(page)
    page.goto(page_of(run, "steps"))
    wait_until(lambda: page.evaluate("1") and server.asked, what="a question")

    server.tell(step(run, "a", "discarded", 7))
    server.tell(is_answer=True)
    expect(page.locator("[data-connection=open]")).to_be_visible()
    expect(state_of(page, "a")).to_contain_text("available")
    server.tell(step(run, "a", "executing", 9))
    server.tell(step(run, "a", "available", 8), step(run, "b", "executing", 9))

    expect(state_of(page, "b")).to_contain_text("executing")
    expect(state_of(page, "a")).to_contain_text("executing")


def test_failures_are_announced_together_and_not_twice_in_ten_seconds(open_page, viewer):
    run = pair()
    page = open_page(list_of_runs(), viewer)
    server = Server(page)
    page.goto(page_of(run, "graph"))
    wait_until(lambda: page.evaluate("1") and server.asked, what="a question")

    server.tell(step(run, "a", "discarded", 9), step(run, "b", "discarded", 9), is_answer=True)

    expect(page.locator(".b-announcer")).to_have_text("2 steps were discarded.")
    expect(page.locator("[data-graph] .b-node.b-discarded")).to_have_count(2)
    server.tell(step(run, "a", "executing", 10))
    server.tell(step(run, "a", "discarded", 11))
    server.tell(step(run, "b", "executing", 11))
    expect(page.locator("[data-graph] .b-node.b-executing")).to_have_count(1)
    expect(page.locator(".b-announcer")).to_have_text("2 steps were discarded.")


def test_row_of_a_step_that_is_told_briefly_says_nothing_of_another_state(open_page, viewer):
    run = Workflow("pair").add("a", steps.value).add("b", steps.value, deps=["a"]).insert()
    page = open_page(list_of_runs(), viewer)
    server = Server(page)
    page.goto(page_of(run, "steps"))
    wait_until(lambda: page.evaluate("1") and server.asked, what="a question")
    row = page.locator("[data-steps] tr[data-step=b]")
    expect(row).to_contain_text("waits for 1 of 1")
    page.route("**/change/**", lambda route: route.abort())

    server.tell(brief=[[run.steps["b"].pk, "b", 9, STATES.index("completed")]], is_answer=True)

    expect(state_of(page, "b")).to_contain_text("completed")
    expect(row).not_to_contain_text("waits for")
    expect(row).not_to_contain_text("0 of 5")


def test_after_five_failures_the_page_asks_over_http(open_page, viewer):
    run = pair()
    # A window of its own, for a clock is set for all pages with the same options.
    page = open_page(list_of_runs(), viewer, width=1430)
    server = Server(page)
    server.is_away = True
    page.clock.install()
    page.goto(page_of(run, "steps"))

    # Little by little, for sockets close in their own time.
    says = page.get_by_text("Refreshes every 5 s")
    wait_until(lambda: says.is_visible() or page.clock.run_for(500), what="the fifth failure")
    server.is_away = False
    wait_until(lambda: server.asked or page.clock.run_for(1_000), what="a question")
    server.tell(is_answer=True)
    expect(page.locator("[data-live]")).to_have_text("Live")
