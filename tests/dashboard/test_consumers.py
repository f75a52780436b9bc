"""The sockets of the dashboard: who may look, what is heard, and what is said."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import InMemoryChannelLayer, channel_layers
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from baton import Workflow
from baton.dashboard import changes, consumers, following
from baton.dashboard.routing import application, websocket_urlpatterns
from baton.models import WorkflowNode, WorkflowRun
from baton.telemetry import timestamp
from baton.testing import drain
from tests import steps
from tests.people import client_with, user_with

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE_SECONDS = 60
IN_MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


@pytest.fixture
def run() -> WorkflowRun:
    return Workflow("ingest").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()


@pytest.fixture(autouse=True)
def _look_often(monkeypatch) -> None:
    monkeypatch.setattr(following, "DATABASE_SECONDS", 0.05)
    monkeypatch.setattr(following, "MESSAGE_SECONDS", 0.05)
    monkeypatch.setattr(following, "HEAD_SECONDS", 0.1)
    monkeypatch.setattr(following, "HEAD_SHARE", 0)


def path_of(run: WorkflowRun | Any) -> str:
    return f"/baton/runs/{getattr(run, 'pk', run)}/live/"


def socket_of(client: Client | None, path: str, *, origin: str = "http://testserver") -> WebsocketCommunicator:
    headers = [(b"origin", origin.encode())]
    if client is not None and "sessionid" in client.cookies:
        headers.append((b"cookie", f"sessionid={client.cookies['sessionid'].value}".encode()))
    return WebsocketCommunicator(application(None), path, headers=headers)


@asynccontextmanager
async def looking(client: Client, path: str) -> Any:
    socket = socket_of(client, path)
    connected, _ = await socket.connect(PATIENCE_SECONDS)
    assert connected
    try:
        yield socket
    finally:
        await socket.disconnect()


async def ask(socket: WebsocketCommunicator, as_of: str | None = None) -> Any:
    await socket.send_json_to({"type": "since", "as_of": as_of or timestamp()})
    return await socket.receive_json_from(PATIENCE_SECONDS)


async def closed_with(socket: WebsocketCommunicator) -> int:
    """Wait for the closing, whatever is said before."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            output = await socket.receive_output(PATIENCE_SECONDS)
            if output["type"] == "websocket.close":
                return int(output.get("code", 1000))


async def told_of(socket: WebsocketCommunicator, name: str, state: str) -> dict[str, Any]:
    """Wait until the step is said to be in that state."""
    while True:
        message = await socket.receive_json_from(PATIENCE_SECONDS)
        for step in message.get("steps", []):
            if (step["name"], step["state"]) == (name, state):
                return dict(step)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for belongs to others, who set no event
            await asyncio.sleep(0.01)


def turn(run: WorkflowRun, names: str | list[str], state: str, *, ago: float = 0.0, **values: Any) -> None:
    """Say that steps are in a state, since a while perhaps."""
    at = timezone.now() - timedelta(seconds=ago)
    settled = {"settled_at": at} if state == "completed" else {}
    nodes = WorkflowNode.objects.filter(run=run, name__in=[names] if isinstance(names, str) else names)
    nodes.update(state=state, version=9, changed_at=at, **settled | values)


def played(scene: Callable[[], Awaitable[None]]) -> None:
    async_to_sync(scene)()


def refused(client: Client | None, path: str, **more: Any) -> bool:
    async def scene() -> None:
        socket = socket_of(client, path, **more)
        connected, _ = await socket.connect(PATIENCE_SECONDS)
        found.append(not connected)
        await socket.disconnect()

    found: list[bool] = []
    played(scene)
    return found[0]


# Who may look ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_list", [False, True])
@pytest.mark.parametrize(
    ("kind", "is_refused"),
    [
        ("anonymous", True),
        ("no staff", True),
        ("no permission", True),
        ("another permission", True),
        ("inactive", True),
        ("logged out", True),
        ("viewer", False),
        ("superuser", False),
    ],
)
def test_only_staff_with_the_permission_connects(run, kind, is_refused, is_list):
    client: Client | None
    match kind:
        case "anonymous":
            client = None
        case "no staff":
            client = client_with("view_workflowrun", is_staff=False)
        case "no permission":
            client = client_with()
        case "another permission":
            client = client_with("view_workflownode", "view_stepstat", "control_workflowrun")
        case "inactive":
            client = client_with("view_workflowrun")
            User.objects.update(is_active=False)
        case "logged out":
            client = client_with("view_workflowrun")
            Session.objects.all().delete()
        case "viewer":
            client = client_with("view_workflowrun")
        case _:
            client = client_with(is_superuser=True)

    assert refused(client, "/baton/runs/live/" if is_list else path_of(run)) is is_refused


def test_run_that_is_not_there_is_refused_like_one_that_may_not_be_seen(viewer):
    assert refused(viewer, path_of(uuid4()))


@pytest.mark.parametrize("path", ["/", "/baton/runs/x/live/", "/baton/runs/", "/admin/"])
def test_socket_at_no_address_is_refused_without_an_error(viewer, path):
    assert refused(viewer, path)


def test_page_of_another_site_is_refused(viewer, run, settings):
    settings.ALLOWED_HOSTS = ["testserver"]

    assert refused(viewer, path_of(run), origin="https://evil.example")
    assert not refused(viewer, path_of(run))


def test_sockets_are_found_below_a_script_name_that_stands_in_the_path(viewer, run, settings):
    settings.FORCE_SCRIPT_NAME = "/app"

    assert not refused(viewer, f"/app{path_of(run)}")
    assert not refused(viewer, path_of(run))


@pytest.mark.parametrize("end", ["permission", "log out", "inactive"])
def test_who_may_no_longer_look_is_put_out(viewer, run, monkeypatch, end):
    monkeypatch.setattr(consumers, "CHECK_SECONDS", 0.1)

    def take() -> None:
        match end:
            case "permission":
                User.objects.get().user_permissions.clear()
            case "log out":
                Session.objects.all().delete()
            case "inactive":
                User.objects.update(is_active=False)

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await sync_to_async(take)()
            assert await closed_with(socket) == 4403

    played(scene)


@pytest.mark.parametrize("end", ["permission", "inactive", "deleted"])
def test_who_may_no_longer_look_is_put_out_where_a_project_knows_no_sessions(run, monkeypatch, end):
    monkeypatch.setattr(consumers, "CHECK_SECONDS", 0.1)
    user = user_with("view_workflowrun")

    def take() -> None:
        match end:
            case "permission":
                user.user_permissions.clear()
            case "inactive":
                User.objects.update(is_active=False)
            case "deleted":
                User.objects.all().delete()

    async def scene() -> None:
        socket = WebsocketCommunicator(URLRouter(websocket_urlpatterns), path_of(run))
        socket.scope["user"] = user  # type: ignore[typeddict-unknown-key]
        assert (await socket.connect(PATIENCE_SECONDS))[0]
        await ask(socket)
        await sync_to_async(take)()
        assert await closed_with(socket) == 4403

    played(scene)


# What is heard --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "[]",
        "null",
        "7",
        "{}",
        '{"type": "since"}',
        '{"type": "since", "as_of": null}',
        '{"type": "since", "as_of": "soon"}',
        '{"type": "since", "as_of": "2026-01-01T00:00:00"}',
        '{"type": "cancel", "as_of": "2026-01-01T00:00:00Z"}',
        '{"type": "since", "as_of": "2026-01-01T00:00:00Z", "run": 1}',
        '{"type": "since", "as_of": "2026-01-01T00:00:00Z"' + " " * 200 + "}",
        "[" * 150,
        '{"type": "since", "as_of": "9999-12-31T23:59:59-12:00"}',
    ],
)
def test_any_other_message_closes_the_socket(viewer, run, text):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await socket.send_to(text_data=text)
            assert await closed_with(socket) == 4400

    played(scene)


def test_bytes_close_the_socket(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await socket.send_to(bytes_data=b'{"type": "since", "as_of": "2026-01-01T00:00:00Z"}')
            assert await closed_with(socket) == 4400

    played(scene)


def test_who_asks_without_end_is_put_out(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            for _ in range(11):
                await socket.send_json_to({"type": "since", "as_of": timestamp()})
            assert await closed_with(socket) == 4429

    played(scene)


# What is said ---------------------------------------------------------------------------------------------------------


def test_first_answer_catches_up(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            answer = await ask(socket, "2020-01-01T00:00:00Z")

            assert (answer["type"], answer["is_answer"]) == ("changes", True)
            assert {step["name"] for step in answer["steps"]} == {"a", "b"}
            assert answer["run"]["bar"]["done"] == "0 of 2"

    played(scene)


def test_nothing_is_said_before_the_page_asks(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await sync_to_async(WorkflowNode.objects.filter(run=run).update)(version=9, changed_at=timezone.now())
            assert await socket.receive_nothing(0.4)

    played(scene)


@pytest.mark.parametrize("layer", [None, IN_MEMORY])
def test_step_that_completes_is_told_until_the_run_ends(viewer, run, settings, layer):
    settings.CHANNEL_LAYERS = layer or {}

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await sync_to_async(drain)(run)

            step = await told_of(socket, "a", "completed")
            assert step["version"] == (await sync_to_async(lambda: run.steps["a"])()).version
            last: dict[str, Any] = {}
            while last.get("type") != "finished":
                before, last = last, await socket.receive_json_from(PATIENCE_SECONDS)
            assert before == {} or before["run"]["state"] == "completed"
            assert await closed_with(socket) == 1000

    played(scene)


def test_without_a_layer_the_database_is_asked_one_question_when_nothing_changes(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            follower = following.follower_of(run.pk, "en-us")

            def look() -> int:
                with CaptureQueriesContext(connection) as queries:
                    follower._read(())
                return len(queries)

            assert await sync_to_async(look)() == 1
            assert await socket.receive_nothing(0.3)

    played(scene)


def test_events_of_a_layer_are_told_without_waiting_for_the_next_look(viewer, run, settings, monkeypatch):
    monkeypatch.setattr(following, "DATABASE_SECONDS", 60.0)
    settings.CHANNEL_LAYERS = IN_MEMORY

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await until(lambda: channel_layers["default"].groups)  # type: ignore[attr-defined]
            await sync_to_async(drain)(run)
            await told_of(socket, "a", "completed")

    played(scene)


class ImpatientLayer(InMemoryChannelLayer):
    """A layer that gives a silence out as an error, as redis-py 8 does."""

    silences = 0

    async def receive(self, channel: str) -> Any:
        try:
            async with asyncio.timeout(0.1):
                return await super().receive(channel)
        except TimeoutError:
            type(self).silences += 1
            raise


def test_layer_that_raises_after_a_silence_is_heard_on(viewer, run, settings, monkeypatch):
    monkeypatch.setattr(following, "DATABASE_SECONDS", 60.0)
    monkeypatch.setattr(following, "SILENCE_SECONDS", 0.05)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.dashboard.test_consumers.ImpatientLayer"}}

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await until(lambda: ImpatientLayer.silences > 1)
            await sync_to_async(drain)(run)
            await told_of(socket, "a", "completed")

    played(scene)


class LeavingLayer:
    """A layer that can be joined, and fails while it is listened to; or says nothing."""

    is_mute = False

    def __init__(self, **config: Any) -> None:
        pass

    async def new_channel(self, prefix: str = "") -> str:
        return "specific.test!channel"

    async def group_add(self, group: str, channel: str) -> None:
        pass

    async def group_discard(self, group: str, channel: str) -> None:
        pass

    async def receive(self, channel: str) -> Any:
        if self.is_mute:
            await asyncio.Event().wait()
        raise ConnectionError("it went away")


class MuteLayer(LeavingLayer):
    """A layer to which no worker sends."""

    is_mute = True


@pytest.mark.parametrize("layer", ["LeavingLayer", "MuteLayer"])
def test_layer_that_tells_nothing_is_no_help_so_the_database_is_followed(viewer, run, settings, monkeypatch, layer):
    monkeypatch.setattr(following, "LAYER_SECONDS", 60.0 if layer == "LeavingLayer" else 0.2)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"tests.dashboard.test_consumers.{layer}"}}

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await sync_to_async(turn)(run, "a", "executing")
            await told_of(socket, "a", "executing")
            follower = following.follower_of(run.pk, "en-us")
            assert follower._interval == following.DATABASE_SECONDS

    played(scene)


def test_layer_that_fails_leaves_the_page_live(viewer, run, settings, monkeypatch, caplog):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.dashboard.test_consumers.BrokenLayer"}}

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await sync_to_async(turn)(run, "a", "executing")
            await told_of(socket, "a", "executing")

    played(scene)
    assert "The channel layer failed, so runs are followed in the database: it is away" in caplog.text


class BrokenLayer:
    """A layer that is away."""

    def __init__(self, **config: Any) -> None:
        pass

    async def new_channel(self, prefix: str = "") -> str:
        raise ConnectionError("it is away")


def test_sockets_of_one_run_share_what_is_read(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as one, looking(viewer, path_of(run)) as other:
            await ask(one)
            await ask(other)
            assert len(following._followers()) == 1
            await sync_to_async(turn)(run, "a", "executing")
            assert await told_of(one, "a", "executing") == await told_of(other, "a", "executing")
        await until(lambda: not following._followers())

    played(scene)


def test_socket_that_the_server_drops_without_a_word_leaves_nothing_behind(viewer, run):
    async def scene() -> None:
        before = asyncio.all_tasks()
        for path in (path_of(run), "/baton/runs/live/"):
            socket = socket_of(viewer, path)
            await socket.connect(PATIENCE_SECONDS)
            await ask(socket)
            socket.stop(exceptions=False)
        await until(lambda: not following._followers() and asyncio.all_tasks() == before)

    played(scene)


def test_page_that_cannot_be_answered_is_closed_and_leaves_nothing_behind(viewer, run, settings, caplog):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            settings.BATON = {"DATABASE": "away"}
            await socket.send_json_to({"type": "since", "as_of": timestamp()})
            assert await closed_with(socket) == 4500
        await until(lambda: not following._followers())

    played(scene)
    assert "A page could not be told what changed." in caplog.text


def test_what_was_changed_long_before_it_was_committed_is_told(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await sync_to_async(turn)(run, "a", "executing", ago=30)
            await told_of(socket, "a", "executing")

    played(scene)


def test_a_version_is_told_once(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await sync_to_async(turn)(run, "a", "executing")
            await told_of(socket, "a", "executing")
            await sync_to_async(WorkflowNode.objects.filter(run=run, name="b").update)(
                version=9, changed_at=timezone.now()
            )
            message = await socket.receive_json_from(PATIENCE_SECONDS)
            while not message.get("steps"):
                message = await socket.receive_json_from(PATIENCE_SECONDS)
            assert [step["name"] for step in message["steps"]] == ["b"]

    played(scene)


def test_very_many_changes_are_told_in_brief(viewer, run, monkeypatch):
    monkeypatch.setattr(following, "MOST_DETAILED", 1)

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await sync_to_async(turn)(run, ["a", "b"], "executing")
            message = await socket.receive_json_from(PATIENCE_SECONDS)
            executing = changes.STATES.index("executing")
            assert [told[1:] for told in message["brief"]] == [["a", 9, executing], ["b", 9, executing]]
            assert "steps" not in message

    played(scene)


def test_messages_keep_their_distance(viewer, run, monkeypatch):
    monkeypatch.setattr(following, "MESSAGE_SECONDS", 0.2)
    monkeypatch.setattr(following, "DATABASE_SECONDS", 0.01)

    def change(version: int) -> None:
        WorkflowNode.objects.filter(run=run, name="a").update(version=version, changed_at=timezone.now())

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            began, count = time.monotonic(), 0
            for version in range(10, 40):
                await sync_to_async(change)(version)
            told = 0
            while told < 39:
                message = await socket.receive_json_from(PATIENCE_SECONDS)
                told = max((step["version"] for step in message.get("steps", [])), default=told)
                count += 1
            assert count <= (time.monotonic() - began) / 0.2 + 1

    played(scene)


def test_settled_run_is_answered_and_finished(viewer, run):
    drain(run)

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            assert (await ask(socket))["run"]["is_over"]
            assert await socket.receive_json_from(PATIENCE_SECONDS) == {"type": "finished"}
            assert await closed_with(socket) == 1000

    played(scene)


def test_run_that_is_removed_is_said_to_be_gone(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await sync_to_async(run.delete)()
            message = await socket.receive_json_from(PATIENCE_SECONDS)
            assert message == {"type": "gone"}
            assert await closed_with(socket) == 1000

    played(scene)


def test_too_many_changes_are_a_reload(viewer, run, monkeypatch):
    monkeypatch.setattr(changes, "MOST_CHANGES", 1)

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            assert await ask(socket, "2020-01-01T00:00:00Z") == {"type": "reload"}

    played(scene)


@pytest.mark.parametrize("asked", ["de", "xx", "../../etc", ""])
def test_language_of_the_page_is_taken_where_there_is_one(viewer, run, asked):
    async def scene() -> None:
        async with looking(viewer, f"{path_of(run)}?lang={asked}") as socket:
            answer = await ask(socket, "2020-01-01T00:00:00Z")
            assert answer["steps"][0]["label"]

    played(scene)


def test_text_of_a_step_is_data(viewer):
    evil = "<script>alert(1)</script>"
    run = Workflow("ingest").add(evil, steps.nothing).insert()

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            answer = await ask(socket, "2020-01-01T00:00:00Z")
            assert [step["name"] for step in answer["steps"]] == [evil]

    played(scene)


# The list of runs -----------------------------------------------------------------------------------------------------


def test_list_of_runs_hears_when_it_has_changed(viewer, run, monkeypatch):
    monkeypatch.setattr(consumers, "LIST_SECONDS", 0.05)

    async def scene() -> None:
        async with looking(viewer, "/baton/runs/live/") as socket:
            message = await ask(socket)
            newest = timestamp(run.inserted_at)
            counts = {"running": 1, "executing": 0, "available": 1, "newest": newest}
            assert message == {"type": "runs", "counts": counts}
            await sync_to_async(Workflow("x").add("a", steps.nothing).insert)()
            message = await socket.receive_json_from(PATIENCE_SECONDS)
            assert message["counts"]["running"] == 2
            assert message["counts"]["newest"] > newest

    played(scene)


def test_messages_are_compact(viewer, run):
    async def scene() -> None:
        async with looking(viewer, path_of(run)) as socket:
            await ask(socket)
            await sync_to_async(WorkflowNode.objects.filter(run=run).update)(version=9, changed_at=timezone.now())
            text = await socket.receive_from(PATIENCE_SECONDS)
            assert text == json.dumps(json.loads(text), separators=(",", ":"))

    played(scene)


def test_pages_that_ask_at_once_share_an_answer(viewer, run, monkeypatch):
    asked = []

    def changes_since(*args: Any) -> dict[str, Any]:
        asked.append(args)
        return changes.changes_since(*args)

    monkeypatch.setattr(consumers, "changes_since", changes_since)

    async def scene() -> None:
        async with looking(viewer, path_of(run)) as one, looking(viewer, path_of(run)) as other:
            await ask(one)
            await ask(other)
            as_of = timestamp()
            assert len(asked) == 2
            assert await ask(one, as_of) == await ask(other, as_of)
            assert len(asked) == 2

    played(scene)
