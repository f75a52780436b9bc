from __future__ import annotations

import json
import logging
import re
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.dispatch import Signal

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.runner import answer_bell
from baton.models import Completion, WorkflowNode, WorkflowRun
from baton.sweep import sweep
from baton.telemetry import (
    attach_default_logger,
    detach_default_logger,
    is_heard,
    step_transitioned,
    steps_rescued,
    sweep_finished,
    sweep_started,
    timestamp,
    workflow_failed,
    workflow_finished,
    workflow_inserted,
)
from baton.testing import drain
from tests import steps
from tests.clock import expire_leases
from tests.recording import recorded
from tests.utils import wait_until

pytestmark = pytest.mark.django_db

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def without(payload: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in payload.items() if key not in keys}


@contextmanager
def heard(signal: Signal) -> Iterator[list[dict[str, Any]]]:
    """What one signal says."""
    events: list[dict[str, Any]] = []

    def hear(*, sender: str, signal: Signal, **payload: Any) -> None:
        events.append(payload)

    signal.connect(hear)
    try:
        yield events
    finally:
        signal.disconnect(hear)


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


def retrying() -> Workflow:
    """A workflow whose steps come through all six states that are announced."""
    return (
        Workflow("label")
        .add("a", steps.fail_times.bind(1))
        .add("b", steps.snooze_once, deps=["a"])
        .add("c", steps.discard, deps=["b"])
        .add("d", steps.nothing, deps=["c"])
    )


def test_recorded_sequence_of_a_retrying_workflow_is_the_expected_list():
    with recorded() as events:
        drain(retrying().insert())

    assert [(each["step_name"], each["state"], each["attempt"]) for each in events.steps] == [
        ("a", "executing", 1),
        ("a", "retryable", 1),
        ("a", "executing", 2),
        ("a", "completed", 2),
        ("b", "executing", 1),
        ("b", "snoozed", 1),
        ("b", "executing", 1),
        ("b", "completed", 1),
        ("c", "executing", 1),
        ("c", "discarded", 1),
        ("d", "cancelled", 0),
    ]
    for name in "abcd":
        versions = [each["version"] for each in events.steps if each["step_name"] == name]
        assert versions == sorted(set(versions))


def test_every_value_of_every_step_event_has_its_type_and_is_json():
    expected: dict[str, tuple[type, ...]] = {
        "workflow_id": (str,),
        "workflow_name": (str,),
        "step_name": (str,),
        "step": (str,),
        "state": (str,),
        "node_id": (int,),
        "attempt": (int,),
        "version": (int,),
        "has_result": (bool,),
        "error": (str, type(None)),
        "timestamp": (str,),
        "duration": (float, type(None)),
        "queue_wait": (float, type(None)),
    }

    with recorded() as events:
        drain(retrying().insert())

    assert len(events.steps) == 11
    for event in events.steps:
        assert set(event) == set(expected)
        assert [key for key, value in event.items() if type(value) not in expected[key]] == []
        assert json.loads(json.dumps(event)) == event


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


# The sweep -----------------------------------------------------------------------------------------------------------


def lost(**options: Any) -> WorkflowRun:
    """A run whose step a worker elsewhere has taken and lost."""
    run = Workflow("label").add("a", steps.nothing, **options).insert()
    claim(connection, run.steps["a"].pk, worker="elsewhere:1")
    expire_leases(run)
    return run


def test_failure_that_nobody_announced_is_announced_by_the_first_of_two_sweeps():
    run = drain(Workflow("label").add("a", steps.discard).add("b", steps.nothing, deps=["a"]).insert())
    # Its last worker died between its settle and the end.
    Completion.objects.all().delete()
    WorkflowRun.objects.update(state="running", finished_at=None)

    with recorded() as events:
        sweep()
        sweep()

    assert events.order == ["finished", "failed"]
    (failed,) = events.failed
    assert without(failed, "timestamp") == {
        "workflow_id": str(run.pk),
        "workflow_name": "label",
        "outcome": "failed",
        "failed_steps": ["a", "b"],
        "failed_count": 2,
        "total_count": 2,
    }


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.django_db(transaction=True)
def test_run_whose_last_step_was_killed_is_announced_as_failed_by_the_next_sweep(real_cluster, tmp_path):
    real_cluster()
    run = Workflow("label").add("a", steps.die.bind(str(tmp_path)), max_attempts=1).insert()
    wait_until(lambda: steps.traces(tmp_path, "a"), what="the body that kills its worker")

    with recorded() as events:
        expire_leases(run)
        sweep()
        sweep()

    assert events.order == ["steps", "finished", "failed"]
    assert [event["workflow_id"] for event in events.failed] == [str(run.pk)]


def test_rescue_is_told_with_exactly_these_keys():
    run = lost()

    with heard(steps_rescued) as events:
        sweep()
        sweep()

    (event,) = events
    assert_now(event["timestamp"])
    assert without(event, "timestamp") == {"count": 1, "node_ids": [run.steps["a"].pk]}
    json.dumps(event)


# Receivers that raise ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", [sweep_started, steps_rescued, step_transitioned, sweep_finished], ids=repr)
def test_receiver_that_raises_harms_neither_a_sweep_nor_other_receivers(signal, caplog):
    run = lost()

    def bad(**_):
        raise RuntimeError("a bad receiver")

    signal.connect(bad)
    try:
        with heard(signal) as events:
            report = sweep()
    finally:
        signal.disconnect(bad)

    assert (report.rescued, report.errors) == (1, {})
    assert run.steps["a"].state == "available"
    assert len(events) == 1
    assert "of a Baton signal raised" in caplog.text


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


@pytest.mark.parametrize("error", [SystemExit, CancelledError])
@pytest.mark.django_db(transaction=True)
def test_receiver_that_ends_its_process_or_task_does_not_end_the_worker(error, caplog):
    def bad(**_):
        raise error("enough")

    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()
    step_transitioned.connect(bad)
    try:
        answer_bell("default")
    finally:
        step_transitioned.disconnect(bad)

    assert run.wait(timeout=0) == "completed"
    assert "were not all called" in caplog.text


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


# The default logger --------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog) -> Iterator[pytest.LogCaptureFixture]:
    """What is logged, from INFO on; the default logger is detached afterwards."""
    caplog.set_level(logging.INFO)
    yield caplog
    detach_default_logger()


def of_baton(lines: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in lines.records if record.name == "baton.telemetry"]


def failing() -> Workflow:
    return Workflow("label").add("a", steps.discard).add("b", steps.nothing, deps=["a"]).add("c", steps.nothing)


def test_one_failure_is_one_line_one_rescue_another_and_after_detach_there_is_none(lines):
    attach_default_logger()

    run = drain(failing().insert())
    rescued = lost()
    sweep()

    failure, rescue = of_baton(lines)
    assert failure.getMessage() == (
        f"Workflow 'label' failed: 2 of its 3 steps were discarded or cancelled: 'a', 'b' (run {run.pk})."
    )
    assert rescue.getMessage() == f"Taken from workers that vanished: 1 step (node {rescued.steps['a'].pk})."
    assert (failure.levelname, rescue.levelname) == ("WARNING", "WARNING")

    detach_default_logger()
    lines.clear()
    drain(failing().insert())
    lost()
    sweep()
    assert of_baton(lines) == []


def test_lines_carry_what_they_say_as_attributes(lines):
    attach_default_logger()

    run = drain(failing().insert())
    rescued = lost()
    sweep()

    failure, rescue = map(vars, of_baton(lines))
    assert {key: failure[key] for key in ("workflow_id", "workflow_name", "outcome")} == {
        "workflow_id": str(run.pk),
        "workflow_name": "label",
        "outcome": "failed",
    }
    assert (failure["failed_steps"], failure["failed_count"], failure["total_count"]) == (["a", "b"], 2, 3)
    assert (rescue["count"], rescue["node_ids"]) == (1, [rescued.steps["a"].pk])


@pytest.mark.parametrize("level", [logging.ERROR, "ERROR", "error"])
def test_logger_that_is_attached_again_logs_once_and_at_the_level_given_last(lines, level):
    attach_default_logger(logging.INFO)
    attach_default_logger(level)

    drain(failing().insert())

    assert [record.levelname for record in of_baton(lines)] == ["ERROR"]


def test_line_names_ten_of_many_failed_steps(lines):
    attach_default_logger()
    workflow = Workflow("label").add("bad", steps.discard)
    for number in range(150):
        workflow.add(f"s{number}", steps.nothing, deps=["bad"])

    drain(workflow.insert())

    (line,) = of_baton(lines)
    assert "151 of its 151 steps were discarded or cancelled: 'bad', 's0', 's1', " in line.getMessage()
    assert "'s8' and 141 more (run " in line.getMessage()


def test_line_names_ten_of_many_rescued_steps(lines):
    attach_default_logger()
    workflow = Workflow("label")
    for number in range(12):
        workflow.add(f"s{number}", steps.nothing)
    run = workflow.insert()
    for node in run.steps.values():
        claim(connection, node.pk, worker="elsewhere:1")
    expire_leases(run)

    sweep()

    (line,) = of_baton(lines)
    assert line.getMessage().startswith("Taken from workers that vanished: 12 steps (nodes ")
    assert line.getMessage().endswith(" and 2 more).")


def test_run_that_completed_or_was_cancelled_is_no_failure(lines):
    attach_default_logger()

    drain(Workflow("label", ignore_discarded=True).add("a", steps.discard).add("b", steps.nothing, deps=["a"]).insert())
    Workflow("label").add("a", steps.nothing).insert().cancel()

    assert of_baton(lines) == []


def test_level_that_there_is_not_is_refused():
    with pytest.raises(ValueError) as caught:
        attach_default_logger("loud")

    assert str(caught.value).startswith("attach_default_logger: level is 'loud'. Give a number, or one of CRITICAL, ")


def test_detaching_what_was_not_attached_does_nothing():
    detach_default_logger()

    assert not is_heard(workflow_failed, steps_rescued)
