from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.runner import answer_bell
from baton.exceptions import NoResultError, StepNotFoundError
from baton.models import Completion, SweepLease, WorkflowEdge, WorkflowNode, WorkflowRun
from baton.testing import drain
from tests import steps
from tests.factories import (
    CompletionFactory,
    QueueSightingFactory,
    SweepLeaseFactory,
    WorkflowEdgeFactory,
    WorkflowNodeFactory,
    WorkflowRunFactory,
)
from tests.test_workflow import Name

pytestmark = pytest.mark.django_db


def some_run() -> WorkflowRun:
    return (
        Workflow("x")
        .add("fetch", steps.value.bind({"n": 1}))
        .add("bad", steps.fail.bind("no paper"), max_attempts=2, backoff=3600)
        .add("naps", steps.snooze_once)
        .add("after bad", steps.nothing, deps=["bad"])
        .insert()
    )


# run.progress --------------------------------------------------------------------------------------------------------


def test_progress_counts_the_steps_by_state(django_assert_num_queries):
    run = some_run()
    assert run.progress == {"total": 4, "settled": 0, "states": {"available": 3, "pending": 1}}

    answer_bell("default")

    with django_assert_num_queries(1):
        assert run.progress == {
            "total": 4,
            "settled": 1,
            "states": {"completed": 1, "retryable": 1, "snoozed": 1, "pending": 1},
        }
    assert drain(run).progress["settled"] == 4


# run.steps -----------------------------------------------------------------------------------------------------------


def test_steps_is_a_mapping_of_names_in_topological_order():
    run = some_run()

    assert list(run.steps) == list(run.steps.keys()) == ["fetch", "bad", "naps", "after bad"]
    assert len(run.steps) == 4
    assert "fetch" in run.steps
    assert Name.FETCH in run.steps
    assert "nope" not in run.steps
    assert run.steps.get("nope") is None
    assert [name for name, _ in run.steps.items()] == [node.name for node in run.steps.values()] == list(run.steps)


def test_unknown_step_of_a_run_is_told():
    run = some_run()

    with pytest.raises(StepNotFoundError) as refusal:
        _ = run.steps["nope"]

    assert str(refusal.value) == f"Run {run.pk} has no step named 'nope'."
    assert isinstance(refusal.value, KeyError | LookupError)


@pytest.mark.parametrize("name", ["a\0", "\ud800"])
def test_text_that_no_database_stores_names_no_step(name):
    run = Workflow("x").add("a", steps.nothing).insert()

    assert name not in run.steps
    with pytest.raises(StepNotFoundError):
        _ = run.steps[name]


def test_each_look_at_a_step_reads_it_afresh():
    run = some_run()
    found = run.steps
    before = found["fetch"]

    answer_bell("default")

    assert before.state == "available"
    assert found["fetch"].state == "completed"


def test_node_tells_what_the_contract_names_before_it_ran():
    node = some_run().steps["fetch"]

    assert (node.state, node.attempt, node.max_attempts, node.version) == ("available", 0, 5, 0)
    assert node.args == {"value": {"n": 1}}
    assert (node.has_result, node.error, node.attempts) == (False, None, [])
    assert (node.due_at, node.started_at, node.finished_at) == (None, None, None)
    with pytest.raises(NoResultError, match="it is available"):
        _ = node.result


def test_node_tells_what_the_contract_names_after_it_ran():
    run = some_run()
    answer_bell("default")

    node = run.steps["fetch"]
    assert (node.state, node.attempt, node.version, node.error) == ("completed", 1, 2, None)
    assert (node.has_result, node.result) == (True, {"n": 1})
    assert node.started_at <= node.finished_at
    assert len(node.attempts) == 1


def test_node_of_a_failed_attempt_tells_the_message_and_when_it_is_due():
    run = some_run()
    answer_bell("default")

    node = run.steps["bad"]
    assert (node.state, node.error, node.attempt) == ("retryable", "RuntimeError: no paper", 1)
    assert timedelta(minutes=59) < node.due_at - timezone.now() <= timedelta(hours=1)
    assert node.finished_at is None


def test_node_tells_the_reason_of_a_discard_or_a_cascade():
    run = drain(some_run())

    assert run.steps["bad"].error == "RuntimeError: no paper"
    assert run.steps["after bad"].error == "dependency 'bad' was discarded"
    assert run.steps["naps"].error is None
    assert run.steps["after bad"].attempts == []


def test_executing_node_tells_who_runs_it():
    run = some_run()
    claim(connection, run.steps["fetch"].pk, worker="host:1")

    node = run.steps["fetch"]
    assert (node.state, node.attempt, node.worker) == ("executing", 1, "host:1")
    assert [entry["outcome"] for entry in node.attempts] == [None]


# Rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: WorkflowRunFactory.create(name="ingest"), "ingest "),
        (lambda: WorkflowNodeFactory.create(name="fetch"), "fetch (pending)"),
        (WorkflowEdgeFactory.create, " waits for "),
        (CompletionFactory.create, " completed"),
        (lambda: QueueSightingFactory.create(queue="slow", host="h"), "slow on h"),
        (lambda: SweepLeaseFactory.create(held=True), "elsewhere:1"),
        (SweepLeaseFactory.create, "free"),
    ],
)
def test_rows_say_what_they_are(make, text):
    assert text in str(make())


def test_factories_make_rows_in_every_state():
    traits = ["available", "executing", "snoozed", "retryable", "completed", "discarded", "cancelled"]

    nodes = [WorkflowNodeFactory.create(**{trait: True}) for trait in traits]

    assert [str(node.state) for node in nodes] == traits
    assert [node.is_settled for node in nodes] == [False] * 4 + [True] * 3
    assert [
        str(WorkflowRunFactory.create(**{trait: True}).state) for trait in ("completed", "failed", "cancelled")
    ] == [
        "completed",
        "failed",
        "cancelled",
    ]
    assert CompletionFactory.create(unannounced=True).announced_at is None


def test_querysets_ask_in_words():
    run = WorkflowRunFactory.create()
    ready = WorkflowNodeFactory.create(run=run, available=True)
    done = WorkflowNodeFactory.create(run=run, completed=True)
    other = WorkflowNodeFactory.create()
    settled = WorkflowRunFactory.create(failed=True)

    assert set(WorkflowNode.objects.of_workflow(run.pk)) == {ready, done}
    assert set(WorkflowNode.objects.unsettled()) == {ready, other}
    assert set(WorkflowNode.objects.ready()) == {ready}
    assert set(WorkflowRun.objects.running()) == {run, other.run}
    assert set(WorkflowRun.objects.settled()) == {settled}


def refused(make) -> str:
    with pytest.raises(IntegrityError) as refusal, transaction.atomic():
        make()
    return str(refusal.value)


def test_database_refuses_rows_that_cannot_be():
    run = WorkflowRunFactory.create(name="n", key="k")
    node = WorkflowNodeFactory.create(run=run, name="a")
    edge = WorkflowEdgeFactory.create()
    completion = CompletionFactory.create()

    refused(lambda: WorkflowNodeFactory.create(run=run, name="a"))
    refused(lambda: WorkflowRunFactory.create(name="n", key="k"))
    refused(lambda: WorkflowEdgeFactory.create(node=edge.node, dependency=edge.dependency))
    refused(lambda: CompletionFactory.create(run=completion.run, round=1))
    refused(lambda: WorkflowNode.objects.filter(pk=node.pk).update(settled_at=timezone.now()))
    refused(lambda: WorkflowNode.objects.filter(pk=node.pk).update(state="completed"))
    CompletionFactory.create(run=completion.run, round=2)
    WorkflowRunFactory.create(name="n", key="k", completed=True)


def test_deleting_a_run_deletes_all_of_it():
    run = drain(some_run())

    run.delete()

    assert not WorkflowNode.objects.exists()
    assert not WorkflowEdge.objects.exists()
    assert not Completion.objects.exists()


def test_edge_outlives_the_row_of_its_dependency():
    edge = WorkflowEdgeFactory.create()

    WorkflowNode.objects.filter(pk=edge.dependency_id).delete()

    edge.refresh_from_db()
    assert edge.dependency_id is not None


def test_lease_of_the_sweepers_is_one_row():
    SweepLeaseFactory.create()
    SweepLeaseFactory.create()

    assert SweepLease.objects.count() == 1
