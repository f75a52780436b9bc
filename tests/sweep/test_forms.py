"""The ways in which a project can run the sweep, each in processes of its own."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command
from django.db import connection
from django_q.models import Schedule
from django_q.scheduler import scheduler

from baton import Workflow
from baton.engine.gate import claim
from baton.models import SweepLease, WorkflowNode, WorkflowRun
from tests import steps
from tests.clock import expire_leases
from tests.utils import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("invariants"),
    pytest.mark.slow,
]


def lost() -> WorkflowRun:
    """A run whose step a worker elsewhere has taken and lost, in a queue that nobody serves."""
    run = Workflow("x").add("a", steps.nothing, queue="slow").insert()
    claim(connection, run.steps["a"].pk, worker="elsewhere:1")
    expire_leases(run)
    return run


def test_command_makes_a_pass(manage):
    run = lost()

    swept = manage("baton_sweep", "--json")

    assert json.loads(swept.stdout)["rescued"] == 1
    assert run.steps["a"].state == "available"


def test_resident_form_makes_pass_after_pass(manage):
    process = manage.start("baton_sweep", "--watch", "--interval", "0.1")
    for _ in range(3):
        lost()
        wait_until(lambda: not WorkflowNode.objects.exclude(state="available").exists())

    process.terminate()
    stdout, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    assert stdout.count("rescued 1, ") == 3


def test_schedule_of_django_q2_makes_its_workers_sweep(real_cluster, settings):
    settings.BATON = {"SWEEP_SCHEDULE": True, "SWEEP_SECONDS": 120}
    call_command("migrate", verbosity=0)
    run = lost()

    real_cluster(baton={"SWEEP_SCHEDULE": True})
    # What the guard of a cluster calls every half a minute.
    scheduler()
    wait_until(lambda: run.steps["a"].state == "available")
    wait_until(lambda: not SweepLease.objects.get().holder)

    assert SweepLease.objects.get().swept_at is not None
    schedule = Schedule.objects.get()
    assert (schedule.func, schedule.minutes) == ("baton.sweep.scheduled_sweep", 2)
