"""A run's live view outside the admin: the template tag, and the example's pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.template import Context, Template
from django.test import Client, RequestFactory
from django.test.utils import override_settings
from run_pages.sockets import RunPageConsumer

from baton import Workflow
from baton.dashboard.routing import application
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps
from tests.factories import StepStatFactory
from tests.people import client_of, user_with

pytestmark = pytest.mark.django_db

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def _example() -> Iterator[None]:
    apps = [*settings.INSTALLED_APPS, "run_pages"]
    with override_settings(INSTALLED_APPS=apps, ROOT_URLCONF="config.urls", LOGIN_URL="login"):
        yield


def running_run() -> WorkflowRun:
    return Workflow("brief").add("a", steps.value.bind(1)).add("b", steps.nothing, deps=["a"]).insert()


def rendered(run: WorkflowRun, user: User | AnonymousUser | None, words: str = "", **query: str) -> str:
    request = RequestFactory().get("/anywhere/", query)
    request.session = Client().session
    if user is not None:
        request.user = user
    context = Context({"request": request, "run": run})
    return Template("{% load baton %}{% baton_run run " + words + " %}").render(context)


def test_tag_shows_the_run_with_all_that_it_needs() -> None:
    run = running_run()

    shown = rendered(run, user_with("view_workflowrun", is_staff=False), 'changes="/c/" socket="/s/"')

    assert f'data-run="{run.pk}"' in shown
    assert 'data-changes="/c/" data-socket="/s/"' in shown
    assert 'id="b-completed"' in shown
    assert set(re.findall(r"baton/(?:css|js)/(\w+\.\w+)", shown)) == {
        "admin.css", "dashboard.css", "graph.css", "timeline.css", "live.css", "graph.js", "page.js",
    }  # fmt: skip
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", shown)
    assert "You can look, not act." not in shown


def test_tag_shows_the_tab_and_the_step_of_the_address() -> None:
    run = drain(running_run())

    shown = rendered(run, user_with("view_workflowrun", is_staff=False), view="steps", step="a")

    assert 'data-view="steps"' in shown
    assert 'data-panel data-step="a"' in shown
    assert "/admin/" not in shown


@pytest.mark.parametrize("view", ["graph", "steps", "timeline", "activity"])
def test_no_tab_leads_into_the_admin(view: str) -> None:
    assert "/admin/" not in rendered(running_run(), user_with("view_workflowrun", is_staff=False), view=view, step="")


@pytest.mark.parametrize("view", ["graph", "steps", "timeline", "money", "activity"])
@pytest.mark.parametrize("is_staff", [True, False])
def test_project_need_not_serve_the_admin(view: str, is_staff: bool) -> None:
    run = drain(running_run())
    StepStatFactory.create(node=run.steps["a"])
    permissions = ("view_workflowrun", "view_workflownode", "view_stepstat", "view_debuglog")

    with override_settings(ROOT_URLCONF="run_pages.urls"):
        shown = rendered(run, user_with(*permissions, is_staff=is_staff), view=view, step="a")

    assert 'data-changes=""' in shown
    assert 'data-panel data-step="a"' in shown


def test_tag_shows_nothing_to_who_may_not_look() -> None:
    run = running_run()

    assert rendered(run, AnonymousUser()).strip() == ""
    assert rendered(run, None).strip() == ""
    assert rendered(run, user_with("view_workflownode", is_staff=False)).strip() == ""
    leaver = user_with("view_workflowrun", is_staff=False)
    leaver.is_active = False
    assert rendered(run, leaver).strip() == ""


def test_addresses_of_the_dashboard_are_for_staff() -> None:
    run = running_run()

    staff = rendered(run, user_with("view_workflowrun"))
    other = rendered(run, user_with("view_workflowrun", is_staff=False))

    assert f'data-changes="/admin/baton/workflowrun/{run.pk}/changes/"' in staff
    assert 'data-changes="" data-socket=""' in other


def test_names_are_escaped() -> None:
    run = drain(Workflow(EVIL).add(EVIL, steps.value.bind(EVIL)).insert())

    for view in ("graph", "steps", "timeline", "activity"):
        assert EVIL not in rendered(run, user_with("view_workflowrun", is_staff=False), view=view, step=EVIL)


@pytest.mark.usefixtures("_example")
def test_pages_of_the_example_ask_who_it_is() -> None:
    run = running_run()
    addresses = ["/runs/", f"/runs/{run.pk}/", f"/runs/{run.pk}/changes/"]

    for address in addresses:
        assert Client().get(address)["Location"] == f"/login/?next={address}"
        assert client_of(user_with(is_staff=False)).get(address).status_code == 403
    assert Client().get(f"/login/?next=/runs/{run.pk}/").status_code == 200


@pytest.mark.usefixtures("_example")
def test_pages_of_the_example_show_all_runs_and_one() -> None:
    run, client = running_run(), client_of(user_with("view_workflowrun", is_staff=False))

    listed = client.get("/runs/").content.decode()
    shown = client.get(f"/runs/{run.pk}/").content.decode()

    assert f'<a href="/runs/{run.pk}/">brief</a>' in listed
    assert f'data-changes="/runs/{run.pk}/changes/" data-socket="/runs/{run.pk}/live/"' in shown
    assert client.get(f"/runs/{uuid4()}/").status_code == 404
    changes = client.get(f"/runs/{run.pk}/changes/", {"since": "2026-01-01T00:00:00Z"}).json()
    assert {step["name"] for step in changes["steps"]} == {"a", "b"}
    assert client.post(f"/runs/{run.pk}/changes/").status_code == 405


def test_socket_of_the_example_lets_in_who_may_see_runs() -> None:
    may_look = RunPageConsumer().may_look

    assert may_look(user_with("view_workflowrun", is_staff=False))
    assert not may_look(user_with("view_workflownode"))
    assert not may_look(AnonymousUser())
    assert not may_look(None)


def test_sockets_of_a_project_stand_beside_the_dashboards() -> None:
    from run_pages.sockets import websocket_urlpatterns

    async def refused(path: str) -> int:
        headers = [(b"origin", b"http://testserver"), (b"host", b"testserver")]
        socket = WebsocketCommunicator(application(None, websocket_urlpatterns), path, headers=headers)
        connected, code = await socket.connect()
        assert not connected
        return int(code or 0)

    assert async_to_sync(refused)(f"/runs/{uuid4()}/live/") == 4403
    assert async_to_sync(refused)(f"/baton/runs/{uuid4()}/live/") == 4403
