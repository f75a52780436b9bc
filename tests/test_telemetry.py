from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.db import connection

from baton import Workflow
from baton.engine.runner import answer_bell
from baton.models import WorkflowNode, WorkflowRun
from baton.telemetry import step_transitioned, timestamp, workflow_failed, workflow_finished, workflow_inserted
from baton.testing import drain
from tests import steps
from tests.recording import recorded

pytestmark = pytest.mark.django_db

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def without(payload: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in payload.items() if key not in keys}


def assert_now(text: object) -> None:
    assert isinstance(text, str)
    assert TIMESTAMP.fullmatch(text)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) < 30


@pytest.mark.django_db(transaction=True)
def test_insert_is_announced_with_exactly_these_keys():
    with recorded() as events:
        run = Workflow("label").add("a", steps.nothing).add("b", steps.nothing).insert()

    (event,) = events.inserted
    assert_now(event["timestamp"])
    assert without(event, "timestamp") == {"workflow_id": str(run.pk), "workflow_name": "label", "count": 2}


def test_steps_are_announced_with_exactly_these_keys():
    with recorded() as events:
        run = drain(Workflow("label").add("a", steps.value.bind(1)).insert())

    began, ended = events.steps
    for event in (began, ended):
        assert_now(event["timestamp"])
        assert isinstance(event["queue_wait"], float)
        assert event["queue_wait"] >= 0
        json.dumps(event)
    common = {
        "workflow_id": str(run.pk),
        "workflow_name": "label",
        "step_name": "a",
        "step": "tests.steps.value",
        "node_id": run.steps["a"].pk,
        "attempt": 1,
        "error": None,
    }
    assert without(began, "timestamp", "queue_wait") == {
        **common,
        "state": "executing",
        "version": 1,
        "has_result": False,
        "duration": None,
    }
    assert without(ended, "timestamp", "queue_wait", "duration") == {
        **common,
        "state": "completed",
        "version": 2,
        "has_result": True,
    }
    assert isinstance(ended["duration"], float)
    assert ended["duration"] >= 0
    assert UUID(ended["workflow_id"]) == run.pk


def test_failures_are_announced_with_what_was_wrong():
    with recorded() as events:
        drain(
            Workflow("x")
            .add("a", steps.fail.bind("no paper"), max_attempts=2)
            .add("b", steps.nothing, deps=["a"])
            .insert()
        )

    assert [(event["step_name"], event["state"], event["error"], event["attempt"]) for event in events.steps] == [
        ("a", "executing", None, 1),
        ("a", "retryable", "RuntimeError: no paper", 1),
        ("a", "executing", None, 2),
        ("a", "discarded", "RuntimeError: no paper", 2),
        ("b", "cancelled", "dependency 'a' was discarded", 0),
    ]
    assert events.steps[-1]["duration"] is None
    assert events.steps[-1]["queue_wait"] is None


def test_snooze_is_announced_without_an_error():
    run = Workflow("x").add("a", steps.snooze_once).insert()

    with recorded() as events:
        answer_bell("default")

    assert [(event["state"], event["error"], event["attempt"]) for event in events.steps] == [
        ("executing", None, 1),
        ("snoozed", None, 1),
    ]
    assert run.steps["a"].attempt == 0


def test_end_is_announced_with_exactly_these_keys():
    with recorded() as events:
        run = drain(Workflow("label").add("a", steps.nothing).insert())

    (event,) = events.finished
    assert_now(event["timestamp"])
    assert without(event, "timestamp") == {
        "workflow_id": str(run.pk),
        "workflow_name": "label",
        "outcome": "completed",
        "failed_steps": [],
        "failed_count": 0,
        "total_count": 1,
    }
    json.dumps(event)
    assert events.failed == []


def test_failed_run_is_announced_by_both_signals_alike():
    with recorded() as events:
        drain(Workflow("x").add("a", steps.discard).add("b", steps.nothing, deps=["a"]).insert())

    (finished,), (failed,) = events.finished, events.failed
    assert without(finished, "timestamp") == without(failed, "timestamp")
    assert (finished["outcome"], finished["failed_count"], finished["total_count"]) == ("failed", 2, 2)
    assert finished["failed_steps"] == ["a", "b"]


def test_step_that_a_worker_takes_next_by_itself_is_announced_as_executing():
    Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()

    with recorded() as events:
        answer_bell("default")

    assert [(event["step_name"], event["state"]) for event in events.steps] == [
        ("a", "executing"),
        ("a", "completed"),
        ("b", "executing"),
        ("b", "completed"),
    ]


@pytest.mark.django_db(transaction=True)
def test_receiver_sees_the_announced_state_committed():
    seen = []

    def look(*, node_id: int, state: str, **_):
        seen.append((state, str(WorkflowNode.objects.get(pk=node_id).state), connection.in_atomic_block))

    def look_at_run(*, workflow_id: str, outcome: str, **_):
        seen.append((outcome, str(WorkflowRun.objects.get(pk=workflow_id).state), connection.in_atomic_block))

    step_transitioned.connect(look)
    workflow_finished.connect(look_at_run)
    try:
        Workflow("x").add("a", steps.nothing).insert()
        answer_bell("default")
    finally:
        step_transitioned.disconnect(look)
        workflow_finished.disconnect(look_at_run)

    assert seen == [
        ("executing", "executing", False),
        ("completed", "completed", False),
        ("completed", "completed", False),
    ]


@pytest.mark.parametrize("signal", [step_transitioned, workflow_finished, workflow_failed, workflow_inserted])
@pytest.mark.django_db(transaction=True)
def test_receiver_that_raises_harms_neither_the_run_nor_other_receivers(signal, caplog):
    def bad(**_):
        raise RuntimeError("a bad receiver")

    signal.connect(bad)
    try:
        with recorded() as events:
            run = drain(Workflow("x").add("a", steps.discard).insert())
    finally:
        signal.disconnect(bad)

    assert run.state == "failed"
    assert events.order == ["inserted", "steps", "steps", "finished", "failed"]
    assert "of a Baton signal raised" in caplog.text


def test_receivers_may_ask_for_the_sender():
    heard = []

    def hear(sender, **payload):
        heard.append((sender, payload["state"]))

    step_transitioned.connect(hear, sender="baton")
    try:
        drain(Workflow("x").add("a", steps.nothing).insert())
    finally:
        step_transitioned.disconnect(hear, sender="baton")

    assert heard == [("baton", "executing"), ("baton", "completed")]


def test_times_in_messages_are_iso_8601_in_utc_with_microseconds():
    assert timestamp(datetime(2026, 6, 14, 18, 0, tzinfo=UTC)) == "2026-06-14T18:00:00.000000Z"
    assert TIMESTAMP.fullmatch(timestamp())
