from __future__ import annotations

import json
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from baton import Workflow
from baton.conf import get_settings
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps
from tests.factories import WorkflowRunFactory

pytestmark = pytest.mark.django_db

EVIL = "in\x1b[31mgest\n\u202e"
TOLD = r"in\x1b[31mgest \u202e"


def said(*arguments: Any) -> str:
    """Everything that a command tells, refused or not."""
    out = StringIO()
    try:
        call_command(*arguments, stdout=out)
    except CommandError as exc:
        out.write(str(exc))
    return out.getvalue()


def run_of_evil_names() -> WorkflowRun:
    return Workflow(EVIL).add(EVIL, steps.discard).insert()


NEED_TABLES = [
    ("baton_list",),
    ("baton_show", "abcd"),
    ("baton_cancel", "abcd"),
    ("baton_retry", "abcd"),
    ("baton_sweep",),
    ("baton_sweep", "--check"),
]


@pytest.fixture
def no_tables() -> None:
    with connections[get_settings().database].cursor() as cursor:
        for table in ("workflowrun", "workflownode", "sweeplease"):
            cursor.execute(f"ALTER TABLE baton_{table} RENAME TO gone_{table}")


@pytest.mark.usefixtures("no_tables")
@pytest.mark.parametrize("command", NEED_TABLES, ids=" ".join)
def test_database_without_migrations_is_told_in_a_sentence_that_names_the_doctor(command: tuple[str, ...]):
    with pytest.raises(CommandError, match=r"\AThe database '\w+' refused: .+ See what is wrong with baton_doctor\.\Z"):
        call_command(*command, stdout=StringIO())


@pytest.mark.usefixtures("no_tables")
@pytest.mark.parametrize("command", NEED_TABLES, ids=" ".join)
def test_database_without_migrations_is_told_in_one_json_document(command: tuple[str, ...]):
    out = StringIO()

    with pytest.raises(SystemExit) as ended:
        call_command(*command, "--json", stdout=out)

    document = json.loads(out.getvalue())
    assert (ended.value.code, document["ok"], "baton_doctor" in document["error"]) == (1, False, True)


def test_no_name_reaches_the_terminal_as_a_control_character():
    run = run_of_evil_names()
    told = [said("baton_retry", run.pk), said("baton_cancel", run.pk), said("baton_cancel", run.pk)]
    drain(other := run_of_evil_names())
    told += [said("baton_retry", other.pk, "--dry-run"), said("baton_retry", other.pk)]

    assert [TOLD in text for text in told] == [True] * 5
    assert not any(set("\x1b\u202e") & set(text) for text in told)


def test_names_of_several_runs_of_one_prefix_are_printable():
    for last in "01":
        WorkflowRunFactory.create(id=UUID(f"{'abcd' * 7}000{last}"), name=EVIL)

    assert TOLD in (text := said("baton_show", "abcd"))
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("baton_sweep", "--interval=0"), "'0' is not a number of seconds above 0 and up to 86400"),
        (("baton_sweep", "--interval=x"), "'x' is not a number of seconds above 0 and up to 86400"),
        (("baton_doctor", "--wait=-1"), "'-1' is not a number of seconds from 0 to 600"),
        (("baton_doctor", "--wait=nan"), "'nan' is not a number of seconds from 0 to 600"),
    ],
)
def test_number_of_seconds_out_of_bounds_is_refused_with_the_bounds(command: tuple[str, ...], sentence: str):
    with pytest.raises(CommandError, match=f"{sentence}$"):
        call_command(*command, stdout=StringIO())


def ascii_output() -> TextIOWrapper:
    return TextIOWrapper(BytesIO(), encoding="ascii")


@pytest.mark.parametrize("command", ["baton_retry", "baton_cancel"])
def test_what_was_done_is_told_also_where_the_output_is_ascii(command: str):
    run = Workflow("bücher").add("zählen", steps.discard).insert()
    if command == "baton_retry":
        drain(run)

    call_command(command, run.pk, stdout=(out := ascii_output()))

    out.seek(0)
    assert r"(b\xfccher)" in out.read()


def test_why_is_told_also_where_the_output_is_ascii():
    run = drain(Workflow("x").add("a", steps.discard).insert())

    call_command("baton_show", run.pk, "--why", "a", stdout=(out := ascii_output()))

    out.seek(0)
    assert out.read().startswith("Discarded")


def test_name_that_no_database_stores_is_no_step():
    run = run_of_evil_names()

    with pytest.raises(CommandError, match=r"has no step named 'a\\udcff'"):
        call_command("baton_show", run.pk, "--why", "a\udcff", stdout=StringIO())
