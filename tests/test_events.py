"""Events over Channels: what consumers get from which group, and what a layer that fails costs."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from channels.consumer import AsyncConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import BaseChannelLayer, InMemoryChannelLayer, get_channel_layer
from channels.testing import WebsocketCommunicator
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import override_settings

from baton import Workflow, registry
from baton.engine.runner import answer_bell
from baton.engine.transitions import steps_announced
from baton.events import WorkflowEventsMixin, all_group, publisher, workflow_group
from baton.models import Completion, WorkflowNode, WorkflowRun
from baton.sweep import sweep
from baton.telemetry import is_heard, step_transitioned, workflow_finished
from baton.testing import drain
from scripts.services import Service, Valkey, valkey
from tests import steps
from tests.pages import DOCS, blocks_of
from tests.recording import recorded
from tests.test_telemetry import assert_now, without
from tests.utils import wait_until

# Consumers close the connections of who works in their loop, so that no test can be one transaction.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("invariants")]

IN_MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
PATIENCE_SECONDS = 60.0

Event = dict[str, Any]


def layers(name: str, **config: Any) -> dict[str, Any]:
    """A channel layer of this file's."""
    return {"default": {"BACKEND": f"tests.test_events.{name}", "CONFIG": config}}


class CountingLayer(InMemoryChannelLayer):
    """Remembers what was sent to it."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.sent: list[tuple[str, Event]] = []

    async def group_send(self, group: str, message: Event) -> None:
        self.sent.append((group, message))
        await super().group_send(group, message)


class RaisingLayer(CountingLayer):
    """Takes messages, but raises while it is told to."""

    raises = True

    async def group_send(self, group: str, message: Event) -> None:
        if self.raises:
            raise ConnectionError("the layer is away")
        await super().group_send(group, message)


class HangingLayer(CountingLayer):
    """Never comes back from a message."""

    async def group_send(self, group: str, message: Event) -> None:
        self.sent.append((group, message))
        await asyncio.sleep(3600)


class RemoteLayer(BaseChannelLayer):
    """A layer of no process in particular, as Redis is one; it can be away, hang, or be slow."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.sent: list[tuple[str, Event]] = []
        self.is_away = self.is_cancelled = self.hangs = False
        self.seconds = 0.0

    async def group_send(self, group: str, message: Event) -> None:
        if self.is_away:
            raise ConnectionError("the layer is away")
        if self.is_cancelled:
            raise asyncio.CancelledError
        await asyncio.sleep(3600 if self.hangs else self.seconds)
        self.sent.append((group, message))


class BlockingLayer(RemoteLayer):
    """Does not even give its loop back."""

    async def group_send(self, group: str, message: Event) -> None:
        time.sleep(self.seconds)  # noqa: ASYNC251 - that is its fault
        self.sent.append((group, message))


def layer_in_use() -> Any:
    return get_channel_layer()


def events_of(sent: list[tuple[str, Event]], group: str) -> list[Event]:
    """The events that a group was sent, messages of many taken apart."""
    return [event for name, message in sent if name == group for event in message.get("events", [message])]


def told(events: list[Event]) -> list[tuple[str, str]]:
    """What events say in short."""
    return [(event.get("step_name", ""), event.get("state", event.get("outcome"))) for event in events]


@pytest.fixture
def in_memory(settings) -> None:
    """The channel layer of one process."""
    settings.CHANNEL_LAYERS = IN_MEMORY


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Service]:
    """The suite's Redis or, where it has none, one for these tests."""
    with valkey() as server:
        yield server


@pytest.fixture
def redis_layer(settings, redis_server) -> dict[str, Any]:
    """The channel layer over Redis, with keys of the test's own."""
    config = {"hosts": [{"address": redis_server.url, "socket_timeout": None}], "prefix": f"baton-{uuid4().hex}"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": config}}
    configured: dict[str, Any] = settings.CHANNEL_LAYERS
    return configured


@pytest.fixture(params=["in_memory", "redis_layer"])
def any_layer(request) -> str:
    """Each kind of channel layer in turn."""
    request.getfixturevalue(request.param)
    return str(request.param)


class Follower(WorkflowEventsMixin, AsyncConsumer):
    """Keeps what arrives, and does what the test asks for."""

    heard: list[Event]

    async def please(self, message: Event) -> None:
        method = getattr(self, message["method"])
        await method(*message["args"])
        await self.send({"type": "done"})

    async def workflow_step_updated(self, event: Event) -> None:
        await self.send({"type": "heard", "event": event})

    async def workflow_finished(self, event: Event) -> None:
        await self.send({"type": "heard", "event": event})


class Followed:
    """A consumer at work, as a server runs it."""

    def __init__(self, consumer: type[AsyncConsumer] = Follower) -> None:
        self.communicator = ApplicationCommunicator(consumer.as_asgi(), {"type": "test"})
        self.heard: list[Event] = []

    async def ask(self, method: str, *args: Any) -> None:
        """Have the consumer call one of its methods, and wait for it."""
        await self.communicator.send_input({"type": "please", "method": method, "args": args})
        while (answer := await self.communicator.receive_output(PATIENCE_SECONDS))["type"] != "done":
            self.heard.append(answer["event"])

    async def until_finished(self, runs: int = 1) -> list[Event]:
        """What was heard until so many runs were heard to end."""
        while sum(event["type"] == "workflow.finished" for event in self.heard) < runs:
            self.heard.append((await self.communicator.receive_output(PATIENCE_SECONDS))["event"])
        return self.heard

    async def close(self) -> None:
        self.communicator.stop()


def following(test: Callable[[Followed], Awaitable[None]]) -> None:
    """Run a test with a consumer, which ends with it."""

    async def run() -> None:
        followed = Followed()
        try:
            await test(followed)
        finally:
            await followed.close()

    async_to_sync(run)()


def diamond(name: str = "label") -> Workflow:
    return (
        Workflow(name)
        .add("a", steps.value)
        .add("b", steps.nothing, deps=["a"])
        .add("c", steps.nothing, deps=["a"])
        .add("d", steps.nothing, deps=["b", "c"])
    )


DIAMOND = [(name, state) for name in "abcd" for state in ("executing", "completed")] + [("", "completed")]


# What arrives where --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["all", "workflow"])
def test_consumer_on_either_group_receives_each_event_once_in_order(any_layer, group):
    run = diamond().insert()

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_all") if group == "all" else await consumer.ask("subscribe_workflow", run.pk)
        await sync_to_async(drain)(run)

        assert told(await consumer.until_finished()) == DIAMOND

    following(test)


def test_messages_have_exactly_the_documented_keys(any_layer):
    run = Workflow("label").add("a", steps.value.bind(1)).insert()

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_all")
        await sync_to_async(drain)(run)
        await consumer.until_finished()

        for event in consumer.heard:
            assert_now(event["timestamp"])
            assert json.loads(json.dumps(event)) == event
        began, ended, finished = consumer.heard
        node = await sync_to_async(lambda: run.steps["a"])()
        common = {
            "type": "workflow.step.updated",
            "workflow_id": str(run.pk),
            "workflow_name": "label",
            "step_name": "a",
            "step": "tests.steps.value",
            "node_id": node.pk,
            "attempt": 1,
            "error": None,
        }
        assert without(began, "timestamp") == {**common, "state": "executing", "version": 1, "has_result": False}
        assert without(ended, "timestamp") == {**common, "state": "completed", "version": 2, "has_result": True}
        assert without(finished, "timestamp") == {
            "type": "workflow.finished",
            "workflow_id": str(run.pk),
            "workflow_name": "label",
            "outcome": "completed",
            "failed_steps": [],
        }

    following(test)


def test_events_of_a_retrying_workflow_follow_each_other_as_documented(any_layer):
    run = (
        Workflow("x")
        .add("a", steps.fail, max_attempts=2)
        .add("b", steps.nothing, deps=["a"])
        .add("c", steps.snooze_once)
        .insert()
    )

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_all")
        await sync_to_async(drain)(run)
        heard = await consumer.until_finished()

        assert [state for name, state in told(heard) if name == "a"] == [
            "executing",
            "retryable",
            "executing",
            "discarded",
        ]
        assert [state for name, state in told(heard) if name == "b"] == ["cancelled"]
        assert [state for name, state in told(heard) if name == "c"] == [
            "executing",
            "snoozed",
            "executing",
            "completed",
        ]
        assert heard[-1]["outcome"] == "failed"
        assert heard[-1]["failed_steps"] == ["a", "b"]

    following(test)


def test_cancelled_run_is_told_with_its_outcome(any_layer):
    run = diamond().insert()

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_workflow", str(run.pk))
        await sync_to_async(run.cancel)(reason="enough")

        heard = await consumer.until_finished()
        assert told(heard) == [*((name, "cancelled") for name in "abcd"), ("", "cancelled")]
        assert {event["error"] for event in heard[:-1]} == {"enough"}

    following(test)


def test_long_error_is_cut_in_the_message_and_whole_in_the_row(any_layer):
    run = Workflow("x").add("a", steps.fail.bind("x" * 5_000), max_attempts=1).insert()

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_all")
        await sync_to_async(drain)(run)
        event = (await consumer.until_finished())[1]
        node = await sync_to_async(lambda: run.steps["a"])()

        assert event["error"] == f"{node.error[:999]}…"
        assert len(node.error) > 5_000

    following(test)


def test_receiver_that_reads_the_database_sees_the_announced_state(any_layer):
    run = diamond().insert()
    seen: list[tuple[str, str, str]] = []

    def look(event: Event) -> tuple[str, str, str]:
        if event["type"] == "workflow.finished":
            found, announced = WorkflowRun.objects.get(pk=event["workflow_id"]), event["outcome"]
            return "", announced, found.state
        node = WorkflowNode.objects.get(pk=event["node_id"])
        # Later news may be there already, older may not.
        return event["step_name"], event["state"], event["state"] if node.version > event["version"] else node.state

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_all")
        working = asyncio.create_task(asyncio.to_thread(answer_bell_and_close))
        while not any(name == "" for name, _announced, _found in seen):
            event = (await consumer.communicator.receive_output(PATIENCE_SECONDS))["event"]
            seen.append(await sync_to_async(look)(event))
        await working

    following(test)
    assert len(seen) == len(DIAMOND)
    assert [(name, found) for name, _announced, found in seen] == [(name, told_) for name, told_, _found in seen]
    assert run.steps["d"].state == "completed"


def answer_bell_and_close() -> None:
    """Work as another worker would, on a connection of its own."""
    try:
        answer_bell("default")
    finally:
        connection.close()


# Subscribing ---------------------------------------------------------------------------------------------------------


def test_groups_are_named_by_helpers_in_whatever_form_the_id_comes():
    id_ = UUID("6F9619FF-8B86-D011-B42D-00CF4FC964FF")

    assert all_group() == "baton.all"
    assert workflow_group(id_) == "baton.workflow.6f9619ff-8b86-d011-b42d-00cf4fc964ff"
    assert workflow_group(str(id_).upper()) == workflow_group(id_.hex) == workflow_group(id_)
    with pytest.raises(ValueError):
        workflow_group("nonsense")


def test_after_leaving_nothing_arrives(any_layer):
    first, second, third = (Workflow("x").add("a", steps.nothing).insert() for _ in range(3))

    async def test(consumer: Followed) -> None:
        for subscribe in (("subscribe_all",), ("subscribe_workflow", second.pk)):
            await consumer.ask(*subscribe)
            await consumer.ask("unsubscribe")
            await sync_to_async(drain)(second if len(subscribe) == 2 else first)
        await consumer.ask("subscribe_workflow", third.pk)
        await sync_to_async(drain)(third)

        heard = await consumer.until_finished()
        assert {event["workflow_id"] for event in heard} == {str(third.pk)}

    following(test)


def test_what_waits_for_a_consumer_that_leaves_no_longer_arrives(in_memory):
    first, second = (Workflow("x").add("a", steps.nothing).insert() for _ in range(2))

    class Leaver(Follower):
        async def workflow_step_updated(self, event: Event) -> None:
            await super().workflow_step_updated(event)
            if event["workflow_id"] == str(first.pk):
                await self.unsubscribe()
                await self.subscribe_workflow(second.pk)

    async def test() -> None:
        consumer = Followed(Leaver)
        await consumer.ask("subscribe_all")
        await sync_to_async(drain)(first)
        await sync_to_async(drain)(second)

        heard = await consumer.until_finished()
        assert [event["workflow_id"] for event in heard].count(str(first.pk)) == 1
        assert told(heard)[-3:] == [("a", "executing"), ("a", "completed"), ("", "completed")]
        await consumer.close()

    async_to_sync(test)()


def test_consumer_of_all_that_also_follows_one_run_gets_nothing_twice(any_layer):
    first, second, third = (Workflow("x").add("a", steps.nothing).insert() for _ in range(3))

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_workflow", first.pk)
        await consumer.ask("subscribe_workflow", first.pk)
        await sync_to_async(drain)(first)
        await consumer.ask("subscribe_all")
        await sync_to_async(drain)(second)
        await consumer.ask("subscribe_workflow", third.pk)
        await sync_to_async(drain)(third)

        heard = await consumer.until_finished(3)
        assert told(heard) == [("a", "executing"), ("a", "completed"), ("", "completed")] * 3

    following(test)


def test_consumer_that_ends_has_left_its_groups(in_memory):
    async def test() -> None:
        consumer = Followed()
        await consumer.ask("subscribe_all")
        assert set(layer_in_use().groups) == {all_group()}

        consumer.communicator.future.cancel()
        await consumer.communicator.wait()

        assert layer_in_use().groups == {}

    async_to_sync(test)()


def test_websocket_consumer_tells_its_page(in_memory):
    class Page(WorkflowEventsMixin, AsyncJsonWebsocketConsumer):
        async def connect(self) -> None:
            await self.subscribe_workflow(self.scope["path"].strip("/"))
            await self.accept()

        async def workflow_step_updated(self, event: Event) -> None:
            await self.send_json(event)

        async def workflow_finished(self, event: Event) -> None:
            await self.send_json(event)
            await self.close()

    run, other = diamond().insert(), diamond().insert()

    async def test() -> None:
        page = WebsocketCommunicator(Page.as_asgi(), f"/{run.pk}/")
        connected, _ = await page.connect()
        assert connected
        await sync_to_async(drain)(other)
        await sync_to_async(drain)(run)

        received = [await page.receive_json_from(PATIENCE_SECONDS) for _ in DIAMOND]
        assert told(received) == DIAMOND
        assert (await page.receive_output(PATIENCE_SECONDS))["type"] == "websocket.close"
        await page.disconnect()
        assert layer_in_use().groups == {}

    async_to_sync(test)()


def test_consumer_without_handlers_of_its_own_ignores_events(in_memory):
    class Silent(WorkflowEventsMixin, AsyncConsumer):
        please = Follower.please

    run = Workflow("x").add("a", steps.nothing).insert()

    async def test() -> None:
        consumer = Followed(Silent)
        await consumer.ask("subscribe_all")
        await sync_to_async(drain)(run)

        await consumer.ask("unsubscribe")
        assert consumer.heard == []
        await consumer.close()

    async_to_sync(test)()


def test_consumer_listens_to_the_layer_that_events_are_sent_to(settings):
    settings.CHANNEL_LAYERS = {"events": IN_MEMORY["default"], "default": IN_MEMORY["default"]}
    settings.BATON = {"CHANNEL_LAYER": "events"}
    run = diamond().insert()

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_all")
        await sync_to_async(drain)(run)

        assert told(await consumer.until_finished()) == DIAMOND

    following(test)


def test_subscribing_without_a_layer_says_what_to_configure(settings):
    settings.CHANNEL_LAYERS = {}

    async def test() -> None:
        consumer = Followed()
        await consumer.communicator.send_input({"type": "please", "method": "subscribe_all", "args": []})
        with pytest.raises(ImproperlyConfigured, match="CHANNEL_LAYERS has no 'default'"):
            await consumer.communicator.wait(PATIENCE_SECONDS)

    async_to_sync(test)()


# How many messages ---------------------------------------------------------------------------------------------------


def test_few_events_are_messages_of_their_own(settings):
    settings.CHANNEL_LAYERS = layers("CountingLayer")
    run = Workflow("x").add("a", steps.discard).add("b", steps.nothing, deps=["a"]).insert()

    drain(run)

    sent = layer_in_use().sent
    assert {message["type"] for _group, message in sent} == {"workflow.step.updated", "workflow.finished"}
    for group in (all_group(), workflow_group(run.pk)):
        assert told(events_of(sent, group)) == [
            ("a", "executing"),
            ("a", "discarded"),
            ("b", "cancelled"),
            ("", "failed"),
        ]


@pytest.mark.parametrize("layer", ["CountingLayer", "RemoteLayer"])
def test_burst_of_a_hundred_is_a_handful_of_messages(settings, layer):
    settings.CHANNEL_LAYERS = layers(layer)
    workflow = Workflow("x").add("a", steps.discard)
    for number in range(100):
        workflow.add(f"b{number}", steps.nothing, deps=["a"])
    run = workflow.insert()

    drain(run)

    sent = layer_in_use().sent
    assert len(sent) <= 8
    for group in (all_group(), workflow_group(run.pk)):
        assert told(events_of(sent, group)) == [
            ("a", "executing"),
            ("a", "discarded"),
            *((f"b{number}", "cancelled") for number in range(100)),
            ("", "failed"),
        ]


def test_burst_is_taken_apart_in_order_for_the_consumer(any_layer):
    workflow = Workflow("x").add("a", steps.discard)
    for number in range(600):
        workflow.add(f"b{number}", steps.nothing, deps=["a"])
    run = workflow.insert()

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_workflow", run.pk)
        await sync_to_async(drain)(run)

        assert told(await consumer.until_finished())[2:] == [
            *((f"b{number}", "cancelled") for number in range(600)),
            ("", "failed"),
        ]

    following(test)


def test_message_holds_five_hundred_events_at_most(settings):
    settings.CHANNEL_LAYERS = layers("CountingLayer")
    workflow = Workflow("x").add("a", steps.discard)
    for number in range(1_100):
        workflow.add(f"b{number}", steps.nothing, deps=["a"])

    drain(workflow.insert())

    sizes = [len(message.get("events", [message])) for group, message in layer_in_use().sent if group == all_group()]
    assert sizes == [1, 500, 500, 101, 1]


def test_wide_run_on_a_layer_of_other_processes_is_bundled_by_time(settings, monkeypatch):
    # So long that no machine is too slow for a bundle.
    monkeypatch.setattr(publisher, "PAUSE_SECONDS", 10.0)
    settings.CHANNEL_LAYERS = layers("RemoteLayer")
    workflow = Workflow("x").add("a", steps.nothing)
    for number in range(100):
        workflow.add(f"b{number}", steps.nothing, deps=["a"])
    workflow.insert()

    answer_bell_until_done()

    sent = layer_in_use().sent
    assert len(events_of(sent, all_group())) == 203
    assert len(sent) < 101


def answer_bell_until_done() -> None:
    with override_settings(BATON={"BELL_SECONDS": 60}):
        answer_bell("default")


# Without a layer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("baton", "channel_layers"),
    [({}, {}), ({}, {"other": IN_MEMORY["default"]}), ({"CHANNEL_LAYER": None}, IN_MEMORY), ({}, None)],
)
def test_without_a_layer_nothing_is_connected_and_signals_fire_without_a_warning(
    settings, caplog, baton, channel_layers
):
    settings.CHANNEL_LAYERS = IN_MEMORY
    assert is_heard(steps_announced)
    assert is_heard(workflow_finished)

    settings.BATON, settings.CHANNEL_LAYERS = baton, channel_layers

    assert not is_heard(steps_announced, step_transitioned, workflow_finished)
    with caplog.at_level(logging.WARNING), recorded() as events:
        run = drain(diamond().insert())
    assert (run.state, len(events.steps), len(events.finished)) == ("completed", 8, 1)
    assert caplog.records == []


def test_layer_is_followed_as_settings_change():
    run = diamond().insert()
    with override_settings(CHANNEL_LAYERS=layers("CountingLayer")):
        layer = layer_in_use()
        drain(run)
    drain(diamond().insert())

    assert len(events_of(layer.sent, all_group())) == 9
    assert not is_heard(steps_announced, step_transitioned, workflow_finished)


@pytest.mark.slow
@pytest.mark.once
def test_without_channels_installed_a_workflow_completes_and_nothing_is_said(manage):
    program = (
        "import sys; sys.modules['channels'] = None\n"
        "import django; django.setup()\n"
        "from baton import Workflow, events, telemetry\n"
        "from baton.testing import drain\n"
        "from tests import steps\n"
        "assert not telemetry.is_heard(telemetry.step_transitioned, telemetry.workflow_finished)\n"
        "print(drain(Workflow('x').add('a', steps.nothing).insert()).state)\n"
    )
    environment = {"BATON_TEST_CHANNEL_LAYERS_SETTING": json.dumps(IN_MEMORY)}

    done = manage("shell", "-v", "0", "-c", f"exec({_in_a_process(program)!r})", env=environment)

    assert (done.stdout.strip(), done.stderr) == ("completed", "")


def _in_a_process(program: str) -> str:
    """A program that runs another and says what that one said."""
    return (
        "import subprocess, sys\n"
        f"done = subprocess.run([sys.executable, '-c', {program!r}], capture_output=True, text=True)\n"
        "print(done.stdout, end=''); print(done.stderr, end='', file=sys.stderr); assert not done.returncode\n"
    )


# A layer that fails --------------------------------------------------------------------------------------------------


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "baton.events"]


def test_layer_that_raises_harms_no_workflow_and_is_told_once(settings, caplog):
    settings.CHANNEL_LAYERS = layers("RaisingLayer")

    run = drain(diamond().insert())

    assert run.state == "completed"
    assert Completion.objects.get(run=run).announced_at is not None
    assert warnings_in(caplog) == [
        "The channel layer takes no events (ConnectionError('the layer is away')); they are dropped until it does."
    ]

    layer_in_use().raises = False
    drain(diamond().insert())

    assert told(events_of(layer_in_use().sent, all_group())) == DIAMOND
    assert warnings_in(caplog)[1:] == ["The channel layer takes events again; 9 were dropped (9 failures)."]


def test_layer_that_hangs_is_left_alone_for_a_while(settings, caplog, monkeypatch):
    monkeypatch.setattr(publisher, "OUTAGE_SECONDS", (600.0,))
    settings.CHANNEL_LAYERS = layers("HangingLayer")

    run = drain(diamond().insert())

    assert run.state == "completed"
    assert len(layer_in_use().sent) == 1
    assert warnings_in(caplog) == [
        "The channel layer takes no events (nothing came back within 1 s); they are dropped until it does."
    ]


@pytest.mark.parametrize("fault", ["is_away", "is_cancelled", "hangs"])
def test_remote_layer_that_fails_harms_no_workflow_and_is_used_again(settings, caplog, fault):
    settings.CHANNEL_LAYERS = layers("RemoteLayer")
    layer = layer_in_use()
    setattr(layer, fault, True)

    assert drain(diamond().insert()).state == "completed"
    wait_until(lambda: warnings_in(caplog), what="a word about the failure")
    assert len(warnings_in(caplog)) == 1
    assert layer.sent == []

    setattr(layer, fault, False)

    def is_heard_again() -> bool:
        drain(diamond().insert())
        return bool(layer.sent)

    wait_until(is_heard_again, what="events after the outage")
    wait_until(lambda: len(warnings_in(caplog)) == 2, what="a word about the recovery")
    assert "takes events again" in warnings_in(caplog)[1]
    run = drain(diamond().insert())
    # Not at once: what was slow a moment ago is not waited for.
    wait_until(lambda: told(events_of(layer.sent, workflow_group(run.pk))) == DIAMOND, what="all events of a run")


def test_slow_layer_is_not_waited_for_at_every_end(settings):
    settings.CHANNEL_LAYERS = layers("BlockingLayer")
    layer = layer_in_use()
    layer.seconds = 1.0

    runs = [drain(Workflow("x").add("a", steps.nothing).insert()) for _ in range(10)]

    heard = len(events_of(layer.sent, all_group()))
    layer.seconds = 0.0
    assert {run.state for run in runs} == {"completed"}
    assert heard < 30
    assert Completion.objects.filter(announced_at__isnull=True).count() == 0


def test_more_events_than_can_wait_are_dropped_and_counted(settings, caplog, monkeypatch):
    monkeypatch.setattr(publisher, "QUEUED_EVENTS", 50)
    settings.CHANNEL_LAYERS = layers("RemoteLayer")
    layer = layer_in_use()
    workflow = Workflow("x").add("a", steps.discard)
    for number in range(100):
        workflow.add(f"b{number}", steps.nothing, deps=["a"])

    run = drain(workflow.insert())

    assert run.state == "failed"
    assert told(events_of(layer.sent, all_group()))[-2:] == [("b99", "cancelled"), ("", "failed")]
    wait_until(lambda: warnings_in(caplog), what="a word about what was dropped")
    assert "events were dropped: more than 50 waited to be sent." in warnings_in(caplog)[0]


def test_layer_that_cannot_be_built_harms_no_workflow_and_is_told_once(settings, caplog):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.nowhere.Layer"}}

    assert drain(diamond().insert()).state == "completed"
    assert len(warnings_in(caplog)) == 1
    assert "Cannot import BACKEND" in warnings_in(caplog)[0]


def test_sending_inside_a_running_loop_wakes_who_waits_there(in_memory, monkeypatch):
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    run = diamond().insert()

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_all")
        drain(run)
        connection.close()  # the loop has one of its own

        assert told(await consumer.until_finished()) == DIAMOND

    asyncio.run(_with_consumer(test))


async def _with_consumer(test: Callable[[Followed], Awaitable[None]]) -> None:
    followed = Followed()
    await test(followed)
    await followed.close()


# Other processes -----------------------------------------------------------------------------------------------------


class Listening:
    """Everything that arrives over the layer, heard in a thread of its own."""

    def __init__(self) -> None:
        self.messages: list[Event] = []
        self._joined = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._joined.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def events(self) -> list[Event]:
        return [event for message in list(self.messages) for event in message.get("events", [message])]

    def of(self, run: WorkflowRun) -> list[Event]:
        return [event for event in self.events if event["workflow_id"] == str(run.pk)]

    def has_ended(self, *runs: WorkflowRun) -> bool:
        ended = {event["workflow_id"] for event in self.events if event["type"] == "workflow.finished"}
        return ended >= {str(run.pk) for run in runs}

    async def _listen(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        layer = layer_in_use()
        channel = await layer.new_channel()
        await layer.group_add(all_group(), channel)
        self._joined.set()
        receiving = asyncio.create_task(self._receive(layer, channel))
        await self._over.wait()
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self, layer: Any, channel: str) -> None:
        while True:
            self.messages.append(await layer.receive(channel))


@pytest.mark.slow
@pytest.mark.broker
def test_real_workers_tell_every_step_and_the_end_as_good_as_always_last(redis_layer, real_cluster):
    real_cluster(env={"BATON_TEST_CHANNEL_LAYERS_SETTING": json.dumps(redis_layer)})

    with Listening() as listening:
        runs = []
        for number in range(12):
            runs.append(diamond(f"run {number}").insert())
            if number % 2:
                assert runs[-1].wait(timeout=60) == "completed"
        wait_until(lambda: listening.has_ended(*runs), what="the ends of all runs")

    for run in runs:
        heard = told(listening.of(run))
        assert sorted(heard) == sorted(DIAMOND)
        for name in "abcd":
            assert [state for step, state in heard if step == name] == ["executing", "completed"]
    # A worker that gets no CPU for 50 ms tells of its last step behind the end that another has told.
    assert sum(told(listening.of(run))[-1] == ("", "completed") for run in runs) >= len(runs) / 2


@pytest.mark.slow
@pytest.mark.broker
def test_real_workers_bundle_a_wide_run(redis_layer, real_cluster):
    real_cluster(env={"BATON_TEST_CHANNEL_LAYERS_SETTING": json.dumps(redis_layer)})
    workflow = Workflow("wide").add("first", steps.nothing)
    names = [f"item {number}" for number in range(200)]
    for name in names:
        workflow.add(name, steps.nothing, deps=["first"])

    with Listening() as listening:
        run = workflow.add("last", steps.nothing, deps=names).insert()
        assert run.wait(timeout=60) == "completed"
        wait_until(lambda: listening.has_ended(run), what="the end of the run")

    assert len(listening.of(run)) == 2 * 202 + 1
    # How many share a message is a matter of the workers' speed.
    assert len(listening.messages) < len(listening.of(run))


@pytest.mark.slow
@pytest.mark.broker
def test_real_workers_complete_while_redis_is_away_and_are_heard_once_it_is_back(settings, real_cluster):
    with Valkey() as server:
        config = {"hosts": [{"address": server.url, "socket_timeout": None}]}
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": config}}
        cluster = real_cluster(env={"BATON_TEST_CHANNEL_LAYERS_SETTING": json.dumps(settings.CHANNEL_LAYERS)})
        assert diamond().insert().wait(timeout=60) == "completed"

        server.stop()
        for _ in range(5):
            assert diamond().insert().wait(timeout=60) == "completed"
        server.start()

        with Listening() as listening:

            def is_heard_again() -> bool:
                run = diamond().insert()
                run.wait(timeout=60)
                return listening.has_ended(run)

            wait_until(is_heard_again, timeout=60, what="events after Redis came back")
    # One line for each outage that one of the two workers sees: a stale connection can be another one.
    outages, ends = (cluster.log().count(f"The channel layer takes {what}") for what in ("no events", "events again"))
    assert 1 <= outages <= ends + 2


@pytest.mark.slow
def test_process_that_ends_has_sent_its_last_events(redis_layer, manage):
    run = diamond().insert()
    program = (
        "from baton.engine.runner import answer_bell\n"
        "from baton.telemetry import workflow_finished\n"
        "workflow_finished.receivers.clear(); workflow_finished.sender_receivers_cache.clear()\n"
        "answer_bell('default')\n"
    )

    with Listening() as listening:
        manage("shell", "-c", program, env={"BATON_TEST_CHANNEL_LAYERS_SETTING": json.dumps(redis_layer)})
        wait_until(lambda: len(listening.of(run)) == 8, what="every event of the steps")

    assert told(listening.of(run)) == DIAMOND[:-1]


def test_end_that_the_sweep_finds_is_told_by_the_sweep(any_layer):
    run = diamond().insert()
    with override_settings(CHANNEL_LAYERS={}):
        drain(run)
    completion = Completion.objects.get(run=run)
    Completion.objects.update(announced_at=None, finished_at=completion.finished_at.replace(year=2020))

    async def test(consumer: Followed) -> None:
        await consumer.ask("subscribe_all")
        report = await sync_to_async(sweep)()
        assert report.announced == 1

        assert told(await consumer.until_finished()) == [("", "completed")]

    following(test)


# The guide -----------------------------------------------------------------------------------------------------------


def test_test_of_the_guide_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_steps", dict(registry._steps))
    monkeypatch.syspath_prepend(str(tmp_path))
    for block in blocks_of(DOCS / "howto/follow-events.md"):
        if block.file:
            path = tmp_path / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)
    (tmp_path / "shop" / "__init__.py").touch()
    try:
        tests = importlib.import_module("shop.tests").FollowingTests
        with override_settings(**tests._overridden_settings):
            tests("test_page_is_told_of_the_end").test_page_is_told_of_the_end()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]
