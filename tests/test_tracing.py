from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

from baton import Workflow, telemetry, tracing
from baton.engine.gate import claim
from baton.engine.runner import Held, answer_bell, database, execute
from baton.exceptions import WorkflowExistsError
from baton.models import WorkflowRun
from baton.sweep import sweep
from baton.testing import drain
from tests import steps
from tests.clock import expire_leases
from tests.llm import scripted
from tests.processes import child_environment
from tests.spans import apps as span_files
from tests.spans import steps as spanned
from tests.spans.collector import Collector, in_order, parent_of, roots
from tests.utils import wait_until

pytestmark = pytest.mark.django_db


@pytest.fixture
def collector() -> Collector:
    """Where spans and metrics go within `collector.traces()`."""
    return Collector()


@pytest.fixture
def traced(collector: Collector) -> Iterator[Collector]:
    """The same, for the whole test."""
    with collector.traces():
        yield collector


def current_span(name: str) -> AbstractContextManager[trace.Span]:
    """A span of somebody else's; the tracer is asked for anew, for it would keep its first provider."""
    return trace.get_tracer("tests").start_as_current_span(name)


def executions(spans: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """What the spans of executions say, in their order."""
    return [
        (
            span["attributes"]["baton.step.name"],
            span["attributes"]["baton.step.attempt"],
            span["attributes"]["baton.step.outcome"],
        )
        for span in spans
        if span["name"].startswith("baton.step ")
    ]


def is_sampled(run: WorkflowRun) -> bool:
    return int(run.trace.rpartition("-")[2], 16) & trace.TraceFlags.SAMPLED == 1


def only(spans: list[dict[str, Any]]) -> dict[str, Any]:
    (span,) = spans
    return span


# The tree ------------------------------------------------------------------------------------------------------------


def fan_in() -> Workflow:
    return (
        Workflow("fan-in")
        .add("a", steps.nothing)
        .add("b", spanned.fail_at_first, deps=["a"])
        .add("c", spanned.work, deps=["a"])
        .add("join", spanned.work_later, deps=["b", "c"])
    )


def test_run_with_a_retry_and_a_fan_in_is_one_connected_tree(traced):
    with current_span("request"):
        run = fan_in().insert()

    drain(run)

    spans = traced.spans
    assert len({span["trace_id"] for span in spans}) == 1
    assert roots(spans) == ["request"]
    assert executions(spans) == [
        ("a", 1, "completed"),
        ("b", 1, "failed"),
        ("c", 1, "completed"),
        ("b", 2, "completed"),
        ("join", 1, "completed"),
    ]
    parents = Counter((parent_of(span, spans), span["name"]) for span in spans)
    assert parents == {
        (None, "request"): 1,
        ("request", "baton.insert fan-in"): 1,
        ("baton.insert fan-in", "baton.step a"): 1,
        ("baton.insert fan-in", "baton.step b"): 2,
        ("baton.insert fan-in", "baton.step c"): 1,
        ("baton.insert fan-in", "baton.step join"): 1,
        ("baton.step b", "work"): 1,
        ("baton.step c", "work"): 1,
        ("baton.step join", "work"): 2,
    }


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.django_db(transaction=True)
def test_run_of_several_workers_is_one_connected_tree_from_the_request_on(traced, real_cluster, tmp_path):
    folder, meeting = tmp_path / "spans", tmp_path / "meeting"
    folder.mkdir()
    meeting.mkdir()
    # Every worker leaves after each bell, and sends its spans as it does.
    real_cluster(
        q_cluster={"recycle": 1},
        env={"DJANGO_SETTINGS_MODULE": "tests.spans.settings", span_files.ENVIRONMENT: str(folder)},
    )
    with current_span("request"):
        run = (
            Workflow("far")
            .add("a", spanned.fail_at_first, backoff=0)
            .add("b", steps.meet.bind(folder=str(meeting), other="c"), deps=["a"])
            .add("c", steps.meet.bind(folder=str(meeting), other="b"), deps=["a"])
            .add("join", spanned.work_later, deps=["b", "c"])
            .insert()
        )

    # Redis delivers nothing at a due time.
    wait_until(lambda: sweep() and run.progress["settled"] == 4, timeout=60, what="the last step")
    wait_until(lambda: len(span_files.written(folder)) >= 8, what="the span of the last step")

    spans = in_order([*traced.spans, *span_files.written(folder)])
    assert len({span["trace_id"] for span in spans}) == 1
    assert roots(spans) == ["request"]
    assert Counter(executions(spans)) == Counter(
        [
            ("a", 1, "failed"),
            ("a", 2, "completed"),
            ("b", 1, "completed"),
            ("c", 1, "completed"),
            ("join", 1, "completed"),
        ]
    )
    assert {parent_of(span, spans) for span in spans if span["name"].startswith("baton.step ")} == {"baton.insert far"}
    assert Counter(parent_of(span, spans) for span in spans if span["name"] == "work") == {
        "baton.step a": 1,
        "baton.step join": 2,
    }
    workers = {span["attributes"]["baton.step.worker"] for span in spans if "baton.step.worker" in span["attributes"]}
    assert len(workers) >= 2


def test_insert_without_a_current_span_begins_a_trace_and_steps_ignore_what_is_current_where_they_run(traced):
    run = Workflow("x").add("a", steps.nothing).insert()

    with current_span("something else"):
        drain(run)

    (insert,) = traced.named("baton.insert x")
    assert insert["parent_id"] is None
    assert only(traced.named("baton.step a"))["parent_id"] == insert["span_id"]
    assert only(traced.named("something else"))["trace_id"] != insert["trace_id"]


def test_run_keeps_the_trace_context_of_its_insert_as_w3c_writes_it(traced):
    run = Workflow("x").add("a", steps.nothing).insert()

    (insert,) = traced.spans
    version, trace_id, span_id, flags = run.trace.split("-")
    assert (version, trace_id, span_id) == ("00", insert["trace_id"], insert["span_id"])
    assert is_sampled(run)
    assert WorkflowRun.objects.get().trace == run.trace == f"00-{trace_id}-{span_id}-{flags}"


def test_step_of_a_run_that_was_inserted_without_a_trace_begins_one(collector):
    run = Workflow("x").add("a", spanned.work).insert()
    assert run.trace == ""

    with collector.traces():
        drain(run)

    assert roots(collector.spans) == ["baton.step a"]
    assert only(collector.named("work"))["parent_id"] == only(collector.named("baton.step a"))["span_id"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("body", [spanned.work, spanned.work_later, spanned.work_atomically])
def test_spans_that_a_body_makes_hang_under_its_step(traced, body):
    drain(Workflow("x").add("a", body).insert())

    (span,) = traced.named("baton.step a")
    own = traced.named("work")
    assert own
    assert {each["parent_id"] for each in own} == {span["span_id"]}
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_run_inserted_by_a_body_hangs_under_its_step(traced):
    run = drain(Workflow("outer").add("a", spanned.insert_another).insert())
    drain(WorkflowRun.objects.get(pk=run.steps["a"].result))

    spans = traced.spans
    assert [(parent_of(span, spans), span["name"]) for span in spans] == [
        (None, "baton.insert outer"),
        ("baton.insert outer", "baton.step a"),
        ("baton.step a", "baton.insert inner"),
        ("baton.insert inner", "baton.step inside"),
        ("baton.step inside", "work"),
    ]


def test_spans_that_a_hook_makes_hang_under_it_and_it_under_the_insert(traced):
    drain(Workflow("x").add("bad", steps.discard).add("b", spanned.work_and_hook, deps=["bad"]).insert())

    spans = traced.spans
    (hook,) = traced.named("baton.hook b")
    assert parent_of(hook, spans) == "baton.insert x"
    assert hook["attributes"]["baton.hook.dependency_state"] == "discarded"
    assert parent_of(only(traced.named("work")), spans) == "baton.hook b"


def test_context_that_a_body_leaves_behind_is_gone_with_the_step(traced):
    Workflow("x").add("a", spanned.leave_a_context).add("b", spanned.work, deps=["a"]).insert()

    answer_bell("default")

    assert parent_of(only(traced.named("work")), traced.spans) == "baton.step b"
    assert trace.get_current_span() is trace.INVALID_SPAN


async def _insert_from_a_coroutine() -> WorkflowRun:
    with current_span("request"):
        return await Workflow("x").add("a", steps.nothing).ainsert()


@pytest.mark.django_db(transaction=True)
def test_insert_by_a_coroutine_hangs_under_the_coroutine_s_span(traced):
    from asgiref.sync import async_to_sync

    async_to_sync(_insert_from_a_coroutine)()

    assert parent_of(only(traced.named("baton.insert x")), traced.spans) == "request"


def test_second_insert_of_a_key_says_which_run_it_came_to(traced):
    first = Workflow("x", key="k").add("a", steps.nothing).insert()
    second = Workflow("x", key="k").add("a", steps.nothing).insert()

    assert second.trace == first.trace
    about = [span["attributes"] for span in traced.named("baton.insert x")]
    assert [each["baton.workflow.id"] for each in about] == [str(first.pk)] * 2
    assert ["baton.workflow.existed" in each for each in about] == [False, True]


def test_insert_that_is_refused_ends_its_span_with_the_error(traced):
    run = Workflow("x").add("a", steps.nothing).insert()

    with pytest.raises(WorkflowExistsError):
        Workflow("again", id=run.pk).add("a", steps.nothing).insert()

    (span,) = traced.named("baton.insert again")
    assert span["status"] == "ERROR"
    assert [event["exception.type"] for event in span["events"]] == ["baton.exceptions.WorkflowExistsError"]


# Sampling ------------------------------------------------------------------------------------------------------------


def test_run_that_was_not_sampled_at_its_insert_is_sampled_nowhere(collector):
    with collector.traces(sampler=ParentBased(ALWAYS_OFF)):
        run = Workflow("x").add("a", spanned.insert_another).insert()
    assert not is_sampled(run)

    with collector.traces(sampler=ParentBased(ALWAYS_ON)):
        drain(run)
        inner = WorkflowRun.objects.get(pk=run.steps["a"].result)
        drain(inner)

    assert collector.spans == []
    assert inner.trace[:35] == run.trace[:35]
    assert not is_sampled(inner)


# What spans say ------------------------------------------------------------------------------------------------------


def test_span_of_an_insert_says_what_was_inserted(traced):
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing).insert()

    (span,) = traced.spans
    assert (span["kind"], span["status"]) == ("PRODUCER", "UNSET")
    assert span["attributes"] == {
        "baton.workflow.id": str(run.pk),
        "baton.workflow.name": "x",
        "baton.workflow.steps": 2,
    }


def test_span_of_an_execution_says_which_and_what_it_came_to(traced):
    run = drain(Workflow("x").add("a", steps.value, queue="slow", max_attempts=3).insert())

    (span,) = traced.named("baton.step a")
    assert (span["kind"], span["status"], span["events"]) == ("CONSUMER", "UNSET", [])
    wait = span["attributes"].pop("baton.step.queue_wait")
    assert wait >= 0
    assert span["attributes"] == {
        "baton.workflow.id": str(run.pk),
        "baton.workflow.name": "x",
        "baton.step.name": "a",
        "baton.step.function": "tests.steps.value",
        "baton.step.queue": "slow",
        "baton.step.attempt": 1,
        "baton.step.max_attempts": 3,
        "baton.step.node_id": run.steps["a"].pk,
        "baton.step.worker": run.steps["a"].attempts[0]["worker"],
        "baton.step.outcome": "completed",
        "baton.step.state": "completed",
    }


@pytest.mark.parametrize(
    ("body", "outcome", "status", "description"),
    [
        (steps.discard, "discarded", "ERROR", "no use"),
        (steps.cancel, "cancelled", "UNSET", None),
        (steps.snooze_once, "snoozed", "UNSET", None),
    ],
)
def test_span_of_a_body_that_steers_says_so_without_an_exception(traced, body, outcome, status, description):
    Workflow("x").add("a", body).insert()

    answer_bell("default")

    (span,) = traced.named("baton.step a")
    assert (span["attributes"]["baton.step.outcome"], span["attributes"]["baton.step.state"]) == (outcome, outcome)
    assert (span["status"], span["description"], span["events"]) == (status, description, [])


@pytest.mark.parametrize(("max_attempts", "state"), [(2, "retryable"), (1, "discarded")])
def test_span_of_a_body_that_raises_holds_the_exception(traced, max_attempts, state):
    Workflow("x").add("a", steps.fail.bind("no paper"), max_attempts=max_attempts).insert()

    answer_bell("default")

    (span,) = traced.named("baton.step a")
    assert (span["attributes"]["baton.step.outcome"], span["attributes"]["baton.step.state"]) == ("failed", state)
    assert (span["status"], span["description"]) == ("ERROR", "RuntimeError: no paper")
    (event,) = span["events"]
    assert (event["exception.type"], event["exception.message"]) == ("RuntimeError", "no paper")
    assert "in fail" in event["exception.stacktrace"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("body", [steps.hang, steps.hang_async])
def test_span_of_a_body_over_its_timeout_says_so(traced, body):
    drain(Workflow("x").add("a", body).insert())

    (span,) = traced.named("baton.step a")
    assert (span["attributes"]["baton.step.outcome"], span["status"]) == ("timed_out", "ERROR")
    assert [event["exception.type"] for event in span["events"]] == ["baton.exceptions.StepTimeoutError"]


def test_span_of_a_step_that_cannot_be_found_says_so(traced):
    run = Workflow("x").add("a", steps.nothing).insert()
    run.nodes.update(step="gone.away")

    drain(run)

    (span,) = traced.named("baton.step a")
    assert (span["attributes"]["baton.step.outcome"], span["status"]) == ("discarded", "ERROR")
    assert "gone.away" in span["description"]


def test_span_of_an_execution_that_was_taken_away_says_that_it_was_dropped(traced):
    Workflow("x").add("a", steps.cancel_own_run).insert()

    answer_bell("default")

    (span,) = traced.named("baton.step a")
    assert span["attributes"]["baton.step.is_dropped"] is True


def test_execution_whose_worker_vanished_has_a_span_from_its_start_to_its_rescue(traced):
    run = Workflow("x").add("a", steps.nothing).insert()
    claim(connection, run.steps["a"].pk, worker="elsewhere:1")
    expire_leases(run)

    sweep()
    drain(run)

    assert executions(traced.spans) == [("a", 1, "worker_lost"), ("a", 2, "completed")]
    lost, _ = traced.named("baton.step a")
    assert parent_of(lost, traced.spans) == "baton.insert x"
    assert lost["attributes"]["baton.step.worker"] == "elsewhere:1"
    assert (lost["status"], lost["description"]) == ("ERROR", "worker elsewhere:1 vanished: its lease ran out")
    assert lost["start"] <= lost["end"]


# Metrics -------------------------------------------------------------------------------------------------------------


def test_executions_and_endings_are_counted_and_measured(traced):
    drain(
        Workflow("x")
        .add("a", steps.value)
        .add("b", steps.fail_times.bind(1), deps=["a"])
        .add("bad", steps.discard)
        .add("after", steps.nothing, deps=["bad"])
        .insert()
    )

    def points(name: str, *keys: str) -> Counter[tuple[Any, ...]]:
        found = traced.measured(name)
        return Counter({tuple(each[key] for key in keys): each.get("value", each.get("count")) for each in found})

    outcomes = points("baton.step.duration", "baton.step.function", "baton.step.outcome")
    assert outcomes == {
        ("tests.steps.value", "completed"): 1,
        ("tests.steps.fail_times", "failed"): 1,
        ("tests.steps.fail_times", "completed"): 1,
        ("tests.steps.discard", "discarded"): 1,
    }
    waits = points("baton.step.queue_wait", "baton.step.function", "baton.step.queue")
    assert waits == {
        ("tests.steps.value", "default"): 1,
        ("tests.steps.fail_times", "default"): 2,
        ("tests.steps.discard", "default"): 1,
    }
    changes = points("baton.step.transitions", "baton.step.function", "baton.step.state")
    assert changes["tests.steps.nothing", "cancelled"] == 1
    assert changes["tests.steps.fail_times", "executing"] == 2
    assert points("baton.step.retries", "baton.step.function") == {("tests.steps.fail_times",): 1}
    assert points("baton.workflow.inserts", "baton.workflow.name") == {("x",): 1}
    assert points("baton.workflow.endings", "baton.workflow.name", "baton.workflow.outcome") == {("x", "failed"): 1}
    assert all(each["sum"] >= 0 for each in traced.measured("baton.step.duration"))


def test_work_of_the_sweep_is_counted_and_measured(traced):
    run = Workflow("x").add("a", steps.nothing).insert()
    claim(connection, run.steps["a"].pk, worker="elsewhere:1")
    expire_leases(run)

    sweep()

    (duration,) = traced.measured("baton.sweep.duration")
    assert duration["count"] == 1
    rows = {each["baton.sweep.part"]: each["value"] for each in traced.measured("baton.sweep.rows")}
    assert rows["rescued"] == 1
    assert traced.measured("baton.step.retries")[0]["value"] == 1


def test_reference_names_every_attribute_and_every_metric_and_no_others(traced, repository: Path):
    names = {value for name, value in vars(tracing).items() if name.isupper() and isinstance(value, str)}
    attributes = {name for name in names if name.startswith("baton.")} | {"baton.hook.dependency_state"}
    attributes |= set(tracing.GEN_AI.values())
    metrics = {instrument.name for instrument in vars(tracing._installed().instruments).values()}

    page = (repository / "docs/reference/opentelemetry.md").read_text()

    found = set(re.findall(r"`((?:baton|gen_ai|error)\.[a-z_.]+)`", page)) - {"baton.tracing"}
    assert found == attributes | metrics


def test_failed_parts_and_pruned_rows_of_the_sweep_are_counted(traced):
    telemetry.send(telemetry.sweep_failed, timestamp="", duration=0.1, part="mended", error="gone")
    telemetry.send(telemetry.rows_pruned, timestamp="", count=3, tables={"WorkflowRun": 1, "WorkflowNode": 2})

    assert [each["baton.sweep.part"] for each in traced.measured("baton.sweep.failures")] == ["mended"]
    pruned = {each["baton.table"]: each["value"] for each in traced.measured("baton.sweep.pruned")}
    assert pruned == {"WorkflowRun": 1, "WorkflowNode": 2}


# Calls of language models ----------------------------------------------------------------------------------------

ANSWER = {
    "model": "gpt-4o-2024-08-06",
    "usage": {"input_tokens": 1000, "output_tokens": 100, "cached_input_tokens": 400, "reasoning_tokens": 20},
}


@pytest.fixture
def priced(settings) -> None:
    price = {"input": "2.50", "output": "10", "cached_input": "1.25"}
    settings.BATON = {**settings.BATON, "PRICES": {"gpt-4o": price}, "CURRENCY": "EUR"}


@pytest.mark.usefixtures("priced")
@pytest.mark.parametrize(
    ("step", "script"),
    [
        (scripted.asks, [ANSWER]),
        (scripted.aasks, [ANSWER]),
        (scripted.streams, [[{"text": "he"}, ANSWER]]),
        (scripted.astreams, [[{"text": "he"}, ANSWER]]),
    ],
    ids=["call", "acall", "stream", "astream"],
)
def test_call_is_a_span_under_its_execution_with_the_names_of_the_conventions(traced, step, script):
    scripted.SCRIPT[:] = script

    drain(Workflow("brief").add("a", step.bind(model="gpt-4o", provider="openai")).insert())

    span = only(traced.named("chat gpt-4o"))
    assert parent_of(span, traced.spans) == "baton.step a"
    assert (span["kind"], span["status"]) == ("CLIENT", "UNSET")
    assert span["attributes"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.workflow.name": "brief",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": 400,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 20,
        "baton.llm.key": "s" if "stream" in step.name else "k",
        "baton.llm.cost": 0.003,
        "baton.llm.currency": "EUR",
    }
    tokens = {each["gen_ai.token.type"]: each["sum"] for each in traced.measured("gen_ai.client.token.usage")}
    assert tokens == {"input": 1000, "output": 100}
    assert traced.measured("gen_ai.client.operation.duration")[0]["count"] == 1
    assert traced.measured("baton.llm.cost")[0]["value"] == 0.003


@pytest.mark.parametrize("step", [scripted.asks, scripted.aasks, scripted.streams, scripted.astreams])
def test_call_that_raises_has_an_error_in_its_span_and_the_next_one_a_span_of_its_own(traced, step):
    error = TimeoutError("no answer")
    scripted.SCRIPT[:] = [[error], [ANSWER]] if "stream" in step.name else [error, ANSWER]

    drain(Workflow("brief").add("a", step).insert())

    assert [span["status"] for span in traced.named("chat")] == ["ERROR", "UNSET"]
    kinds = [each.get("error.type") for each in traced.measured("gen_ai.client.operation.duration")]
    assert sorted(kinds, key=str) == [None, "TimeoutError"]


def test_replay_is_no_call_and_is_counted(traced):
    scripted.SCRIPT[:] = [ANSWER]
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after the call"))]

    drain(Workflow("brief").add("a", scripted.asks.bind(model="gpt-4o")).insert())

    assert len(traced.named("chat gpt-4o")) == 1
    assert traced.measured("baton.llm.replays") == [{"gen_ai.request.model": "gpt-4o", "value": 1}]


# Harmless, and nothing where it is not wanted ------------------------------------------------------------------------


class BadProcessor(SpanProcessor):
    """Raises whenever it is told something."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        msg = "a bad start"
        raise RuntimeError(msg)

    def on_end(self, span: ReadableSpan) -> None:
        msg = "a bad end"
        raise RuntimeError(msg)


class BadAtEnd(BadProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Say nothing yet."""


@pytest.mark.parametrize("processor", [BadProcessor(), BadAtEnd()], ids=["start", "end"])
def test_tracer_that_raises_fails_neither_an_insert_nor_a_step_and_is_logged_once(
    collector, processor, caplog, monkeypatch
):
    monkeypatch.setattr(tracing, "_harmless", tracing._Harmless())

    with collector.traces(processor=processor):
        run = drain(Workflow("x").add("a", steps.value.bind(7)).add("b", steps.read.bind("a"), deps=["a"]).insert())

    assert (run.state, run.steps["b"].result) == ("completed", 7)
    assert len(run.steps["b"].attempts) == 1
    (record,) = [record for record in caplog.records if record.name == "baton.tracing"]
    assert record.getMessage() == "OpenTelemetry raised; the step goes on without it. Told once."
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_meter_that_raises_fails_no_step(collector, monkeypatch, caplog):
    monkeypatch.setattr(tracing, "_harmless", tracing._Harmless())

    def refuse(*_args: Any) -> None:
        msg = "no meter"
        raise RuntimeError(msg)

    monkeypatch.setattr(collector.meter_provider, "get_meter", refuse)
    with collector.traces():
        run = drain(Workflow("x").add("a", steps.nothing).insert())

    assert run.state == "completed"
    assert len(collector.spans) == 2
    assert [record.name for record in caplog.records if record.levelname == "ERROR"] == ["baton.tracing"]


def test_setting_turns_it_off(traced, settings):
    settings.BATON = {"OPENTELEMETRY": False}

    run = drain(Workflow("x").add("a", steps.nothing).insert())
    sweep()

    assert (run.state, run.trace, traced.spans) == ("completed", "", [])
    assert traced.measured("baton.step.duration") == []
    assert traced.measured("baton.sweep.duration") == []


def test_nobody_listens_to_steps_and_runs_because_opentelemetry_is_installed():
    assert tracing.is_wanted()
    assert not telemetry.is_heard(
        telemetry.workflow_inserted,
        telemetry.step_transitioned,
        telemetry.workflow_finished,
        telemetry.workflow_failed,
    )


def test_without_a_provider_nothing_is_done():
    run = Workflow("x").add("a", steps.nothing).insert()

    assert run.trace == ""
    assert tracing.executing(claim(connection, run.steps["a"].pk, worker="here:1")) is tracing.OFF


def test_provider_that_a_worker_sets_after_its_first_step_is_used(collector):
    drain(Workflow("x").add("a", steps.nothing).insert())

    with collector.traces():
        drain(Workflow("y").add("a", steps.nothing).insert())

    assert roots(collector.spans) == ["baton.insert y"]


WITHOUT = """
    import sys
    from importlib.abc import MetaPathFinder

    class Absent(MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "opentelemetry":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())

    import django
    django.setup()

    from baton import Workflow, telemetry, tracing
    from baton.sweep import sweep
    from baton.testing import drain
    from tests import steps

    run = drain(Workflow("x").add("a", steps.fail_times.bind(1)).add("b", steps.hooked, deps=["a"]).insert())
    sweep()
    assert (run.state, run.trace) == ("completed", ""), run.state
    assert tracing.executing(None) is tracing.OFF
    assert not tracing.is_wanted()
    signals = [each for name, each in vars(telemetry).items() if isinstance(each, django.dispatch.Signal)]
    assert len(signals) >= 9
    assert not telemetry.is_heard(*signals)
    assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    print("works")
"""


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_without_the_package_everything_works_and_nothing_is_connected(repository: Path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT)],
        cwd=repository,
        env=child_environment(),
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.stdout.split(), done.returncode) == (["works"], 0), done.stderr


def test_span_of_an_execution_that_could_not_be_settled_holds_the_database_s_error(traced, monkeypatch):
    run = Workflow("x").add("a", steps.break_query).insert()

    execute(database(), Held(claim=claim(connection, run.steps["a"].pk, worker="here:1")), until=None)

    (span,) = traced.named("baton.step a")
    assert span["status"] == "ERROR"
    assert len(span["events"]) == 1
