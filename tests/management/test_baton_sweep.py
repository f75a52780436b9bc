from __future__ import annotations

import json
import signal
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from baton import Workflow
from baton.engine.gate import claim
from baton.models import WorkflowRun
from baton.sweep import rescue
from baton.sweep.lease import SweeperLease
from baton.testing import drain
from tests import steps
from tests.clock import expire_leases
from tests.factories import WorkflowNodeFactory
from tests.recording import recorded
from tests.utils import wait_until

pytestmark = pytest.mark.django_db

COUNTS = ["rescued", "readied", "mended", "marked", "held", "hooks", "finished", "announced", "rung", "pruned"]
KEYS = ["busy", "dry_run", *COUNTS, "tables", "seconds", "errors"]


def printed(*arguments: str) -> str:
    out = StringIO()
    call_command("baton_sweep", *arguments, stdout=out)
    return out.getvalue()


def lost_step() -> WorkflowRun:
    run = Workflow("x").add("a", steps.nothing).insert()
    claim(connection, run.steps["a"].pk, worker="elsewhere:1")
    expire_leases(run)
    return run


def test_one_pass_mends_and_says_what_it_did_with_a_line_for_each_batch():
    run = lost_step()

    lines = printed().splitlines()

    assert lines[:2] == ["  rescued: 1", "  readied: 1"]
    assert lines[2].startswith(
        "rescued 1, readied 1, mended 0, marked 0, held 0, hooks 0, finished 0, announced 0, rang 0, pruned 0; "
    )
    assert drain(run).state == "completed"


def test_each_batch_of_a_long_pass_has_a_line(monkeypatch):
    monkeypatch.setattr(rescue, "BATCH", 2)
    for _ in range(5):
        lost_step()

    assert printed().splitlines()[:4] == ["  rescued: 2", "  rescued: 2", "  rescued: 1", "  readied: 5"]


def test_dry_run_changes_nothing_and_says_what_there_is_to_do():
    run = lost_step()

    told = json.loads(printed("--dry-run", "--json"))

    assert (told["dry_run"], told["rescued"], told["pruned"]) == (True, 1, 0)
    assert printed("--dry-run").startswith("Would begin with: rescued 1, readied 0, mended 0, ")
    assert run.steps["a"].state == "executing"


def test_prune_deletes_old_runs_and_says_how_many_rows_of_which_tables():
    moment = timezone.now() - timedelta(days=31)
    run = drain(Workflow("x").add("a", steps.nothing).insert())
    WorkflowRun.objects.filter(pk=run.pk).update(finished_at=moment)

    told = json.loads(printed("--prune", "--dry-run", "--json"))
    assert WorkflowRun.objects.exists()
    line = printed("--prune").splitlines()[-1]

    assert told["tables"] == {"WorkflowNode": 1, "Completion": 1, "WorkflowRun": 1}
    assert "pruned 3 (WorkflowNode 1, Completion 1, WorkflowRun 1); " in line
    assert not WorkflowRun.objects.exists()


@pytest.mark.parametrize(
    ("one", "other"),
    [("--watch", "--check"), ("--watch", "--dry-run"), ("--check", "--dry-run"), ("--check", "--prune")],
)
def test_options_that_contradict_each_other_are_wrong_usage(one, other):
    with pytest.raises(CommandError, match=f"{one} and {other} contradict each other.") as error:
        printed(one, other)

    assert error.value.returncode == 2


def test_json_is_one_document_with_the_counts():
    lost_step()

    report = json.loads(printed("--json"))

    assert list(report) == KEYS
    assert (report["rescued"], report["busy"], report["errors"]) == (1, False, {})


def test_sweep_that_finds_another_at_work_says_so_and_succeeds():
    with SweeperLease():
        assert json.loads(printed("--json"))["busy"] is True
        assert printed() == "Another sweep is at work; nothing was done.\n"


def test_check_of_good_rows_succeeds():
    drain(Workflow("x").add("a", steps.nothing).insert())

    assert printed("--check") == "Every invariant holds.\n"
    assert json.loads(printed("--check", "--json")) == {"ok": True, "broken": []}


def test_check_of_a_broken_invariant_exits_with_1_and_tells_it(capsys):
    node = WorkflowNodeFactory.create(remaining=0)
    out = StringIO()

    with pytest.raises(SystemExit) as exit_status:
        call_command("baton_sweep", "--check", "--json", stdout=out)

    assert exit_status.value.code == 1
    assert json.loads(out.getvalue()) == {
        "ok": False,
        "broken": [f"step {node.pk} ({node.name}) is pending and waits for nothing"],
    }


def test_check_mends_nothing():
    run = lost_step()

    printed("--check")

    assert run.steps["a"].state == "executing"


def test_part_that_fails_makes_the_command_fail():
    drain(Workflow("x").add("a", steps.nothing).insert())
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE baton_completion SET announced_at = NULL, finished_at = '2020-01-01 00:00:00+00:00', "
            "failed_steps = 'no json'"
        )

    with recorded(), pytest.raises(CommandError, match=r"Parts of the sweep failed, the others ran: announced: "):
        printed()


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "soon", "86401"])
def test_interval_that_is_none_is_refused(interval):
    with pytest.raises(CommandError, match="interval"):
        call_command("baton_sweep", "--watch", f"--interval={interval}")


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_commands_exit_as_documented_in_a_shell(manage):
    lost_step()

    swept = manage("baton_sweep", "--json")
    WorkflowNodeFactory.create(remaining=0)
    checked = manage("baton_sweep", "--check", check=False)
    misused = manage("baton_sweep", "--interval", "never", check=False)

    assert json.loads(swept.stdout)["rescued"] == 1
    assert (swept.returncode, checked.returncode, misused.returncode) == (0, 1, 2)
    assert manage("baton_sweep", "--watch", "--check", check=False).returncode == 2
    assert "is pending and waits for nothing" in checked.stdout


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.django_db(transaction=True)
def test_watch_sweeps_until_it_is_told_to_stop_and_stops_cleanly(manage, name):
    run = lost_step()

    process = manage.start("baton_sweep", "--watch", "--interval", "0.2", "--json")
    wait_until(lambda: run.steps["a"].state == "available")
    later = lost_step()
    wait_until(lambda: later.steps["a"].state == "available")
    process.send_signal(getattr(signal, name))
    stdout, stderr = process.communicate(timeout=60)

    assert process.returncode == 0
    assert [line for line in stderr.splitlines() if "whose lease ran out" not in line] == []
    reports = [json.loads(line) for line in stdout.splitlines()]
    assert len(reports) >= 2
    assert sum(report["rescued"] for report in reports) == 2
