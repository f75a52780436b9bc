"""Why a step is where it is, in a sentence."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.runner import answer_bell
from baton.testing import drain
from tests import steps

pytestmark = pytest.mark.django_db


def clock(moment: datetime) -> str:
    return f"{timezone.localtime(moment):%H:%M:%S}"


def test_waiting_step_names_what_it_waits_for():
    run = (
        Workflow("x").add("a", steps.nothing).add("b", steps.nothing).add("c", steps.nothing, deps=["a", "b"]).insert()
    )
    claim(connection, run.steps["a"].pk, worker="host:1")

    assert re.fullmatch(r"Waits for a \(executing for [\d.]+ s\) and b \(available\)\.", run.steps["c"].explain())


def test_step_with_many_dependencies_names_a_few():
    workflow = Workflow("x").add("z", steps.nothing, deps=[str(number) for number in range(8)])
    for number in range(8):
        workflow.add(str(number), steps.nothing)
    run = workflow.insert()

    assert run.steps["z"].explain().endswith("4 (available) and 3 more.")


def test_ready_step_tells_since_when_and_for_whom():
    node = Workflow("x").add("a", steps.nothing, queue="slow").insert().steps["a"]

    assert node.explain() == f"Ready since {clock(node.queued_at)}, for the next free worker of queue slow."


def test_running_step_tells_where_and_whether_its_worker_is_gone():
    run = Workflow("x").add("a", steps.nothing).insert()
    claim(connection, run.steps["a"].pk, worker="host:1")
    assert re.fullmatch(r"Running for [\d.]+ s on host:1, attempt 1 of 5\.", run.steps["a"].explain())

    run.nodes.update(lease_until=timezone.now() - timedelta(seconds=1))

    assert "Its lease ran out at" in run.steps["a"].explain()


def test_step_that_waits_for_a_time_tells_which_and_why():
    later = timezone.now() + timedelta(hours=1)
    run = (
        Workflow("x")
        .add("as inserted", steps.nothing, not_before=later)
        .add("snoozed", steps.snooze_once.bind(3600))
        .add("failed", steps.fail, backoff=3600)
        .insert()
    )

    answer_bell("default")

    assert run.steps["as inserted"].explain().startswith("Not before ")
    assert run.steps["snoozed"].explain().startswith("The step asked to run again at ")
    assert run.steps["failed"].explain().startswith("Attempt 1 of 5 failed: RuntimeError: it failed. Again at ")


def test_settled_step_tells_how_it_ended():
    run = drain(
        Workflow("x")
        .add("done", steps.nothing)
        .add("given up", steps.discard.bind(reason="not a PDF"))
        .add("failed", steps.fail, max_attempts=2)
        .add("behind", steps.nothing, deps=["failed"])
        .insert()
    )

    assert re.fullmatch(r"Completed in attempt 1 of 5, [\d.]+ s\.", run.steps["done"].explain())
    assert run.steps["given up"].explain() == "Discarded by the step: not a PDF"
    assert run.steps["failed"].explain() == "Discarded after 2 of 2 attempts: RuntimeError: it failed"
    assert run.steps["behind"].explain() == "Cancelled: dependency 'failed' was discarded"
