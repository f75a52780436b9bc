from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from django_q.models import OrmQ

from baton import Workflow, q2
from baton.engine.runner import answer_bell, answer_roll_call
from baton.models import QueueSighting
from tests import steps
from tests.clock import elapse

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]


def waiting_from_now() -> int:
    """Bells that wait for a time ahead."""
    return OrmQ.objects.filter(lock__gt=timezone.now()).count()


def test_bell_runs_what_is_ready_until_nothing_is_left():
    runs = [Workflow("x").add("a", steps.ran).add("b", steps.ran, deps=["a"]).insert() for _ in range(3)]

    answer_bell("default")

    assert steps.bodies_of_all(*runs) == ["a", "b"] * 3


def test_bell_whose_time_is_used_up_leaves_the_rest_to_the_next_and_rings_for_it(settings):
    settings.BATON = {"BELL_SECONDS": 0}
    run = Workflow("x").add("a", steps.ran).add("b", steps.ran).add("c", steps.ran).insert()
    OrmQ.objects.all().delete()

    answer_bell("default")
    assert steps.bodies_of(run) == ["a"]
    assert q2.waiting_bells("default") == 1
    answer_bell("default")
    answer_bell("default")

    assert steps.bodies_of(run) == ["a", "b", "c"]


def test_worker_that_leaves_steps_ready_rings_one_bell_more():
    workflow = Workflow("x")
    for number in range(9):
        workflow.add(str(number), steps.ring_count)
    run = workflow.insert()
    OrmQ.objects.all().delete()

    answer_bell("default")

    assert run.steps["0"].result == 1
    assert run.steps["8"].result == 1


def test_doubled_and_late_bells_do_no_harm():
    run = Workflow("x").add("a", steps.ran).insert()

    for _ in range(10):
        answer_bell("default")

    assert steps.bodies_of(run) == ["a"]


@pytest.mark.parametrize("queue", ["nobody's", "with spaces and ünicode", ""])
def test_bell_of_a_queue_that_nobody_uses_does_no_harm(queue, caplog):
    answer_bell(queue)

    assert not OrmQ.objects.exists()
    assert caplog.records == []


def test_bell_is_rung_for_the_time_of_a_snooze_and_once_for_many_of_the_same_time():
    workflow = Workflow("x")
    for number in range(20):
        workflow.add(str(number), steps.snooze_once.bind(3600))
    workflow.insert()
    OrmQ.objects.all().delete()

    answer_bell("default")

    assert 1 <= waiting_from_now() <= 3


def test_bell_that_comes_too_early_rings_again_for_the_time_that_was_meant():
    run = Workflow("x").add("a", steps.snooze_once.bind(3600)).insert()
    answer_bell("default")
    OrmQ.objects.all().delete()

    answer_bell("default")

    assert waiting_from_now() == 1
    elapse(run)
    answer_bell("default")
    assert run.steps["a"].state == "completed"


def test_bell_for_a_time_ahead_is_rung_at_insert():
    Workflow("x").add("a", steps.nothing, not_before=timezone.now() + timedelta(hours=1)).insert()

    assert waiting_from_now() == 1


def test_roll_call_signs_that_this_host_serves_the_queue():
    answer_roll_call("slow")
    answer_roll_call("slow")

    sighting = QueueSighting.objects.get()
    assert sighting.queue == "slow"
    assert sighting.worker.startswith(f"{sighting.host}:")


def test_body_that_leaves_a_broken_transaction_harms_no_other_step():
    run = Workflow("x").add("a", steps.break_query, max_attempts=1).add("b", steps.ran).insert()

    answer_bell("default")

    assert run.steps["a"].state == "discarded"
    assert steps.bodies_of(run) == ["b"]


@pytest.mark.django_db(transaction=True)
def test_body_that_leaves_a_transaction_open_harms_no_other_step():
    run = Workflow("x").add("a", steps.leave_transaction_open).add("b", steps.ran).insert()

    answer_bell("default")

    assert steps.bodies_of(run) == ["b"]
    assert not connection.in_atomic_block
    assert run.wait(timeout=60) in {"completed", "failed"}


@pytest.mark.django_db(transaction=True)
def test_body_that_closes_the_connection_is_settled_all_the_same():
    run = Workflow("x").add("a", steps.close_connection).add("b", steps.ran, deps=["a"]).insert()

    answer_bell("default")

    assert run.wait(timeout=60) == "completed"
