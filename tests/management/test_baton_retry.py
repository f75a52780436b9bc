from __future__ import annotations

import json
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from baton import Workflow
from baton.management.runs import RunLookupError, find_run
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]


def printed(*arguments: Any) -> str:
    out = StringIO()
    call_command("baton_retry", *arguments, stdout=out)
    return out.getvalue()


def refused(*arguments: Any) -> dict[str, Any]:
    out = StringIO()
    with pytest.raises(SystemExit) as exit_status:
        call_command("baton_retry", *arguments, "--json", stdout=out)
    assert exit_status.value.code == 1
    answer: dict[str, Any] = json.loads(out.getvalue())
    assert (list(answer), answer["ok"]) == (["ok", "error"], False)
    return answer


def failed_run() -> WorkflowRun:
    return drain(
        Workflow("ingest")
        .add("fetch", steps.nothing)
        .add("parse", steps.discard, deps=["fetch"])
        .add("store", steps.nothing, deps=["parse"])
        .insert()
    )


def test_retry_begins_another_round_and_says_what_runs_again_and_what_is_kept():
    run = failed_run()

    out = printed(run.pk)

    assert out == (
        f"Round 2 of run {run.pk} (ingest) has begun.\nruns again: parse, store\nis kept: fetch\n"
    )  # fmt: skip
    run.refresh_from_db()
    assert (run.state, run.round) == ("running", 2)
    assert drain(run).completions.count() == 2


def test_retry_from_a_step():
    run = drain(Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert())

    assert printed(run.pk, "--from", "a").splitlines()[1:] == ["runs again: a, b", "is kept: nothing"]

    assert drain(run).state == "completed"


def test_dry_run_says_what_would_be_done_and_changes_nothing():
    run = failed_run()
    before = list(run.nodes.values())

    out = printed(run.pk, "--dry-run")

    assert out.startswith(f"Nothing was changed. A retry of run {run.pk} (ingest) would do this:\nruns again: parse")
    run.refresh_from_db()
    assert (run.state, run.round, list(run.nodes.values())) == ("failed", 1, before)


def test_many_names_are_cut_for_the_eye_and_whole_in_json():
    workflow = Workflow("wide")
    for number in range(25):
        workflow.add(f"s{number}", steps.discard)
    run = drain(workflow.insert())

    assert printed(run.pk, "--dry-run").splitlines()[1].endswith("s19, and 5 more")
    assert len(json.loads(printed(run.pk, "--dry-run", "--json"))["reruns"]) == 25


def test_json_is_one_document_with_the_plan():
    run = failed_run()

    expected = {"ok": True, "id": str(run.pk), "name": "ingest", "reruns": ["parse", "store"], "keeps": ["fetch"]}
    expected["new_answers"] = False
    assert json.loads(printed(run.pk, "--dry-run", "--json")) == {**expected, "round": 1, "dry_run": True}
    assert json.loads(printed(run.pk, "--json")) == {**expected, "round": 2, "dry_run": False}


def test_run_that_has_not_ended_is_refused_with_what_to_do():
    run = Workflow("x").add("a", steps.nothing).insert()

    with pytest.raises(CommandError, match=r"is still running\. Wait for its end, or cancel it first") as raised:
        printed(run.pk)

    assert raised.value.returncode == 1
    assert "is still running" in refused(run.pk)["error"]


def test_run_of_which_nothing_failed_is_refused_with_what_to_do():
    run = drain(Workflow("x").add("a", steps.nothing).insert())

    assert refused(run.pk)["error"].endswith("Name a step to run it again from there.")


def test_unknown_step_is_refused():
    assert "has no step named 'nobody'" in refused(failed_run().pk, "--from", "nobody")["error"]


def test_run_whose_key_is_in_use_is_refused():
    run = drain(Workflow("x", key="k").add("a", steps.discard).insert())
    Workflow("x", key="k").add("a", steps.nothing).insert()

    assert "holds the key 'k'" in refused(run.pk)["error"]


# The run, by the beginning of its id ----------------------------------------------------------------------------------


@pytest.fixture
def alike() -> list[WorkflowRun]:
    """Three runs whose ids begin with the same digits."""
    ids = ["abcdef01-0000-4000-8000-000000000000", "abcdef01-2fff-4000-8000-000000000000"]
    ids.append("abcdef02-ffff-4fff-bfff-ffffffffffff")
    return [Workflow("x", id=UUID(each)).add("a", steps.nothing).insert() for each in ids]


@pytest.mark.parametrize(
    ("prefix", "index"),
    [
        ("abcdef010", 0),
        ("ABCDEF01-2", 1),
        ("abcdef012fff40", 1),
        ("abcdef02", 2),
        ("abcdef02-ffff-4fff-bfff-ffffffffffff", 2),
        ("abcdef02ffff4fffbfffffffffffffff", 2),
        (" abcdef02 ", 2),
    ],
    ids=str,
)
def test_run_is_found_by_any_beginning_of_its_id_that_no_other_has(alike, prefix, index):
    assert str(alike[index].pk) in refused(prefix)["error"]


def test_beginning_that_several_ids_have_is_refused_with_the_runs_it_could_mean(alike):
    error = refused("abcdef01")["error"]

    assert error.startswith("Several runs have an id that begins with abcdef01. Give more digits of one of these:\n")
    assert {str(run.pk) for run in alike if str(run.pk) in error} == {str(run.pk) for run in alike[:2]}
    with pytest.raises(RunLookupError) as raised:
        find_run("abcdef01")
    assert {run.pk for run in raised.value.matches} == {run.pk for run in alike[:2]}


def test_beginning_that_very_many_ids_have_names_ten_of_them():
    for number in range(12):
        Workflow("x", id=UUID(f"abcdef00-0000-4000-8000-0000000000{number:02}")).add("a", steps.nothing).insert()

    lines = refused("abcd")["error"].splitlines()

    assert (len(lines), lines[-1]) == (12, "  and more")


@pytest.mark.parametrize("prefix", ["abce", "abcdef01-0000-4000-8000-000000000001"])
def test_beginning_that_no_id_has_is_refused(alike, prefix):
    assert refused(prefix)["error"].startswith("No run has ")


@pytest.mark.parametrize(
    "prefix", ["", "abc", "a-b-c", "nonsense", "abcdef01-0000-4000-8000-0000000000000", "%", "_abc"]
)
def test_what_is_no_beginning_of_an_id_is_a_wrong_use(prefix):
    with pytest.raises(CommandError, match="is no run: give its id"):
        call_command("baton_retry", prefix)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_commands_exit_as_documented_in_a_shell(manage):
    run = failed_run()

    retried = manage("baton_retry", str(run.pk)[:13], "--json")
    again = manage("baton_retry", str(run.pk), "--json", check=False)
    told = manage("baton_retry", str(run.pk), check=False)
    misused = manage("baton_retry", "xyz", check=False)
    cancelled = manage("baton_cancel", str(run.pk)[:13], "--reason", "enough")
    cancelled_again = manage("baton_cancel", str(run.pk), check=False)

    assert [each.returncode for each in (retried, again, told, misused, cancelled, cancelled_again)] == [
        0, 1, 1, 2, 0, 1,
    ]  # fmt: skip
    assert json.loads(retried.stdout)["round"] == 2
    assert json.loads(again.stdout)["ok"] is False
    assert (told.stdout, "is still running" in told.stderr) == ("", True)
    assert cancelled.stdout == f"Run {run.pk} (ingest) is cancelled.\n"
    run.refresh_from_db()
    assert (run.state, run.cancel_reason) == ("cancelled", "enough")
