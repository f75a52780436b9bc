from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from baton.models import WorkflowRun
from baton.queries import runs
from tests.factories import WorkflowNodeFactory, WorkflowRunFactory
from tests.processes import ROOT, child_environment

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 6, 14, 12, tzinfo=UTC)
FIRST = UUID("11111111-2222-4000-8000-000000000000")
SECOND = UUID("11111111-2233-4000-8000-000000000000")
THIRD = UUID("99999999-2222-4000-8000-000000000000")


def printed(*arguments: str) -> str:
    out = StringIO()
    call_command("baton_list", *arguments, stdout=out)
    return out.getvalue()


def ids(*arguments: str) -> list[str]:
    return [run["id"] for run in json.loads(printed("--json", *arguments))["runs"]]


def three_runs() -> None:
    """A completed run, a failed one, and one that was cancelled."""
    first = WorkflowRunFactory.create(
        id=FIRST, name="ingest", completed=True, inserted_at=NOON, finished_at=NOON + timedelta(seconds=8.2)
    )
    for _ in range(2):
        WorkflowNodeFactory.create(run=first, completed=True)
    second = WorkflowRunFactory.create(
        id=SECOND,
        name="nightly\x1b[31m report",
        key="2026-06-14",
        failed=True,
        inserted_at=NOON + timedelta(minutes=1),
        finished_at=NOON + timedelta(minutes=74),
    )
    WorkflowNodeFactory.create(run=second, completed=True)
    WorkflowNodeFactory.create(run=second, discarded=True)
    WorkflowNodeFactory.create(run=second, cancelled=True)
    WorkflowRunFactory.create(
        id=THIRD,
        name="ingest",
        cancelled=True,
        inserted_at=NOON + timedelta(minutes=2),
        finished_at=NOON + timedelta(minutes=3, seconds=17),
    )


def test_list_is_a_table_with_the_newest_run_first():
    three_runs()

    assert (
        printed()
        == """\
RUN           NAME                    KEY         STATE        STEPS  INSERTED             TOOK
99999999      ingest                              ⊘ cancelled  0/0    2026-06-14 12:02:00  1 m 17 s
11111111-223  nightly\\x1b[31m report  2026-06-14  ✗ failed     3/3    2026-06-14 12:01:00  1 h 13 m
11111111-222  ingest                              ✓ completed  2/2    2026-06-14 12:00:00  8.2 s

0 running, 1 completed, 1 failed, 1 cancelled
"""
    )


def test_run_that_goes_on_is_listed_with_what_is_settled_and_how_long_it_has_run():
    run = WorkflowRunFactory.create(id=THIRD, name="ingest", inserted_at=timezone.now() - timedelta(minutes=72.5))
    WorkflowNodeFactory.create(run=run, completed=True)
    WorkflowNodeFactory.create(run=run, executing=True)

    line = printed().splitlines()[1]
    assert re.fullmatch(r"99999999  ingest       ► running  1/2    \d{4}-\d\d-\d\d [\d:]{8}  1 h 12 m", line)


def test_ids_in_the_list_are_as_long_as_baton_show_needs_them():
    three_runs()

    for line in printed().splitlines()[1:4]:
        out = StringIO()
        call_command("baton_show", line.split()[0], stdout=out)
        assert line.split()[1] in out.getvalue()


def test_list_of_nothing_has_counts_alone():
    assert printed() == "0 running, 0 completed, 0 failed, 0 cancelled\n"
    assert json.loads(printed("--json")) == {
        "runs": [],
        "counts": {"running": 0, "completed": 0, "failed": 0, "cancelled": 0},
        "next": None,
    }


def test_list_says_how_to_get_the_next_page():
    three_runs()

    first = printed("--limit", "2").splitlines()

    hint, cursor = first[-1].rsplit(" ", 1)
    assert hint == "Older runs: the same command with --after"
    assert ids("--limit", "2", "--after", cursor) == [str(FIRST)]
    assert "Older runs" not in printed("--limit", "2", "--after", cursor)


def test_list_as_json_is_one_document_with_what_the_query_returns():
    three_runs()

    told = json.loads(printed("--json", "--limit", "1", "--state", "failed", "--state", "completed"))

    assert told == {
        "runs": [
            {
                "id": str(SECOND),
                "name": "nightly\x1b[31m report",
                "key": "2026-06-14",
                "state": "failed",
                "inserted_at": "2026-06-14T12:01:00.000000Z",
                "finished_at": "2026-06-14T13:14:00.000000Z",
                "steps": {"completed": 1, "discarded": 1, "cancelled": 1},
            }
        ],
        "counts": {"running": 0, "completed": 1, "failed": 1, "cancelled": 1},
        "next": runs(state=["failed", "completed"], limit=1).next,
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--state", "failed"], [SECOND]),
        (["--state", "failed", "--state", "cancelled"], [THIRD, SECOND]),
        (["--name", "ingest"], [THIRD, FIRST]),
        (["--search", "NIGHT"], [SECOND]),
        (["--search", "99999999-2"], [THIRD]),
        (["--since", "2026-06-14T12:01"], [THIRD, SECOND]),
        (["--since", "2026-06-14 14:01:30+02:00"], [THIRD]),
        (["--until", "2026-06-14T12:01:00Z"], [FIRST]),
        (["--since", "2026-06-14", "--until", "2026-06-15"], [THIRD, SECOND, FIRST]),
        (["--since", "2h"], []),
        (["--until", "2h"], [THIRD, SECOND, FIRST]),
    ],
)
def test_list_takes_the_filters_of_the_query(arguments, expected):
    three_runs()

    assert ids(*arguments) == [str(run_id) for run_id in expected]


@pytest.mark.parametrize(
    ("age", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("3d", 259_200), ("1w", 604_800)]
)
def test_time_may_be_an_age(age, seconds):
    older, younger = (
        WorkflowRunFactory.create(inserted_at=timezone.now() - timedelta(seconds=seconds + moved))
        for moved in (20, -20)
    )

    assert ids("--since", age) == [str(younger.pk)]
    assert ids("--until", age) == [str(older.pk)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "'0' is not between 1 and 1000"),
        (["--limit", "1001"], "'1001' is not between 1 and 1000"),
        (["--limit", "many"], "'many' is not between 1 and 1000"),
        (["--since", "soon"], "'soon' is no time: give an age such as 90s, 30m, 2h, 3d or 1w, or a time in ISO 8601"),
        (["--until", "9999999999w"], "'9999999999w' is no time: "),
        (["--state", "discarded"], "invalid choice: 'discarded'"),
        (["--after", "x"], "after is 'x', which no page of runs gave as its next."),
        (["--name", "\ud800"], "name has characters that no database stores: "),
    ],
)
def test_what_cannot_be_asked_for_is_wrong_usage(arguments, message):
    with pytest.raises(CommandError) as refusal:
        printed(*arguments)

    assert message in str(refusal.value)
    assert refusal.value.returncode == 2 or "argument " in str(refusal.value)


class Screen(StringIO):
    """A terminal, as far as a command looks."""

    def isatty(self) -> bool:
        return True


def test_lines_are_cut_where_the_terminal_ends_and_not_in_a_pipe(monkeypatch):
    WorkflowRunFactory.create(name="山" * 30 + "end", key="k" * 60)
    monkeypatch.setenv("COLUMNS", "100")

    screen = Screen()
    call_command("baton_list", stdout=screen)

    line = screen.getvalue().splitlines()[1]
    assert f"  {'山' * 19}…  {'k' * 23}…  ► running" in line
    assert line.endswith("…")
    assert f"  {'山' * 30}end  {'k' * 60}  ► running" in printed()


def test_symbols_are_ascii_where_the_output_is():
    class Ascii(StringIO):
        encoding = "ascii"

    three_runs()
    WorkflowRun.objects.filter(pk=FIRST).update(name="Änderung")

    out = Ascii()
    call_command("baton_list", stdout=out)

    assert [line.split()[2:4] for line in out.getvalue().splitlines()[1:4]] == [
        ["-", "cancelled"],
        ["report", "2026-06-14"],
        ["+", "completed"],
    ]
    assert r"\xc4nderung" in out.getvalue()
    assert out.getvalue().isascii()


def test_list_is_as_many_queries_for_a_long_page_as_for_a_short_one(django_assert_num_queries):
    for _ in range(30):
        WorkflowNodeFactory.create()

    with django_assert_num_queries(4):
        printed("--limit", "1")
    with django_assert_num_queries(4):
        printed()


# In a shell ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_list_exits_as_documented_in_a_shell(manage):
    three_runs()

    listed = manage("baton_list")
    misused = [manage("baton_list", *arguments, check=False) for arguments in (["--limit", "0"], ["--after", "x"])]

    assert listed.stdout == printed()
    assert [done.returncode for done in misused] == [2, 2]


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command prints to a terminal, as the terminal gets it."""
    ours, its = pty.openpty()
    try:
        variables = {**child_environment(env={"TERM": "xterm", "COLUMNS": "120"}), **environment}
        command = [sys.executable, "-m", "django", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdin=its, stdout=its, stderr=its)
        os.close(its)
        shown = b""
        try:
            while piece := os.read(ours, 65_536):
                shown += piece
        except OSError:
            pass  # how Linux says that the other end is closed
        assert process.wait(30) == 0, shown.decode()
        return shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_terminal_gets_colours_unless_they_are_not_wanted():
    three_runs()

    colourful = on_a_terminal("baton_list")
    plain = on_a_terminal("baton_list", "--no-color")

    assert "\x1b[31;1mfailed\x1b[0m" in colourful
    assert "\x1b[32;1m✓\x1b[0m \x1b[32;1mcompleted\x1b[0m" in colourful
    assert plain == printed()
    assert on_a_terminal("baton_list", NO_COLOR="1") == plain
    assert "\x1b[31;1mfailed\x1b[0m" in printed("--force-color")
