from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from baton import Workflow
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]


def printed(*arguments: Any) -> str:
    out = StringIO()
    call_command("baton_cancel", *arguments, stdout=out)
    return out.getvalue()


def running() -> WorkflowRun:
    return Workflow("ingest").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()


def test_cancel_settles_the_run_and_keeps_the_reason():
    run = running()

    assert printed(run.pk, "--reason", "not wanted") == f"Run {run.pk} (ingest) is cancelled.\n"

    run.refresh_from_db()
    assert (run.state, run.cancel_reason, run.steps["b"].error) == ("cancelled", "not wanted", "not wanted")


def test_several_runs_are_cancelled_at_once_each_only_once():
    first, second = running(), running()

    out = printed(first.pk, str(second.pk)[:13], first.pk.hex)

    assert out.splitlines() == [f"Run {run.pk} (ingest) is cancelled." for run in (first, second)]


def test_json_is_one_document_with_every_run():
    first, second = running(), running()

    assert json.loads(printed(first.pk, second.pk, "--json")) == {
        "ok": True,
        "runs": [
            {"id": str(run.pk), "name": "ingest", "state": "cancelled", "cancelled": True} for run in (first, second)
        ],
    }


def test_settled_run_is_refused_with_what_to_do_and_the_others_are_cancelled_all_the_same():
    settled, run = drain(Workflow("x").add("a", steps.discard).insert()), running()

    with pytest.raises(CommandError, match="has ended as failed already, so there is nothing to cancel") as raised:
        printed(settled.pk, run.pk)

    assert raised.value.returncode == 1
    assert str(raised.value).endswith("Use baton_retry to run its failed part again.")
    run.refresh_from_db()
    assert run.state == "cancelled"


def test_refusal_in_json_is_one_document_and_exits_with_1():
    settled, run = drain(Workflow("x").add("a", steps.nothing).insert()), running()
    out = StringIO()

    with pytest.raises(SystemExit) as exit_status:
        call_command("baton_cancel", settled.pk, run.pk, "--json", stdout=out)

    assert exit_status.value.code == 1
    assert json.loads(out.getvalue()) == {
        "ok": False,
        "runs": [
            {"id": str(settled.pk), "name": "x", "state": "completed", "cancelled": False},
            {"id": str(run.pk), "name": "ingest", "state": "cancelled", "cancelled": True},
        ],
        "error": f"Run {settled.pk} (x) has ended as completed already, so there is nothing to cancel.",
    }


def test_nothing_is_cancelled_where_one_of_the_runs_cannot_be_found():
    run = running()

    with pytest.raises(CommandError, match="No run has an id that begins with 00000000"):
        printed(run.pk, "00000000")

    run.refresh_from_db()
    assert run.state == "running"
