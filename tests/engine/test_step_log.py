from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.test.utils import CaptureQueriesContext

from baton import Workflow
from baton.engine.runner import answer_bell
from baton.engine.step_log import LineBuffer
from baton.models import StepLog, WorkflowNode, WorkflowRun
from baton.sweep import sweep
from baton.testing import drain, perform
from tests import steps
from tests.clock import elapse, expire_leases
from tests.utils import wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def drained(step, **options) -> WorkflowNode:
    """The only step of a workflow, after that has run to its end."""
    return drain(Workflow("x").add("a", step, **options).insert()).steps["a"]


def messages(node: WorkflowNode) -> list[str]:
    return [line["message"] for line in node.logs]


# What is kept --------------------------------------------------------------------------------------------------------


def test_line_is_kept_with_its_time_level_and_attempt():
    before = datetime.now(UTC)

    node = drained(steps.log)

    (line,) = node.logs
    assert line == {"at": line["at"], "level": "WARNING", "attempt": 1, "message": "something to say"}
    assert TIMESTAMP.fullmatch(line["at"])
    assert before <= datetime.fromisoformat(line["at"]) <= datetime.now(UTC)


def test_lines_of_all_executions_are_kept_in_order():
    node = drained(steps.log_each_time)

    assert node.state == "completed"
    assert [(line["attempt"], line["message"]) for line in node.logs] == [
        (1, "execution 1"),
        (2, "execution 2"),
        (2, "execution 3"),
    ]
    assert [line["at"] for line in node.logs] == sorted(line["at"] for line in node.logs)


@pytest.mark.parametrize("level", ["WARNING", "CRITICAL"])
def test_lines_of_level_info_and_above_are_kept_whatever_the_project_logs(level, caplog):
    with caplog.at_level(level, logger="baton.step"):
        node = drained(steps.log_at.bind(["debug", "info", "warning", "error", "critical"]))

    assert [line["level"] for line in node.logs] == ["INFO", "WARNING", "ERROR", "CRITICAL"]
    assert messages(node) == ["by info", "by warning", "by error", "by critical"]


def test_step_that_wrote_nothing_has_no_lines():
    node = drained(steps.nothing)

    assert node.logs == []
    assert not StepLog.objects.exists()


def test_newest_two_hundred_lines_are_kept():
    node = drained(steps.log_lines.bind(250))

    assert messages(node) == [f"line {number}" for number in range(51, 251)]


def test_newest_two_hundred_lines_over_all_executions_are_kept():
    node = drained(steps.log_many_each_time.bind(150))

    first, second = "attempt 1, line", "attempt 2, line"
    assert messages(node) == [
        *(f"{first} {number}" for number in range(101, 151)),
        *(f"{second} {number}" for number in range(1, 151)),
    ]


def test_long_line_loses_its_middle():
    node = drained(steps.log_text.bind("begin" + "x" * 100_000 + "end"))

    (message,) = messages(node)
    assert len(message) == 2000
    assert message.startswith("beginxxx")
    assert message.endswith("xxxend")
    assert message.count("…") == 1


def test_oldest_of_many_long_lines_go_first():
    node = drained(steps.log_lines.bind(200, "x" * 1900))

    kept = messages(node)
    assert len(StepLog.objects.values_list("lines", flat=True).get()) == len(kept)
    assert kept == [f"{'x' * 1900} {number}" for number in range(201 - len(kept), 201)]
    assert 45 < len(kept) < 55


def test_text_of_a_whole_log_stays_below_its_limit_in_any_script():
    node = drained(steps.log_lines.bind(200, "\N{CHEESE WEDGE}" * 1900))

    with connection.cursor() as cursor:
        cursor.execute("SELECT length(lines) FROM baton_steplog")
        (length,) = cursor.fetchone()
    assert 50_000 < length <= 101_000
    assert messages(node)[-1] == "\N{CHEESE WEDGE}" * 1900 + " 200"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("two arguments", [("INFO", "one of 2")]),
        ("a dict of arguments", [("INFO", "1 of 2")]),
        ("no text", [("INFO", "['a', 1]")]),
        ("a level of its own", [("Level 25", "between")]),
        ("arguments that do not fit", [("INFO", "%d (could not be formatted)")]),
        ("an argument without words", [("INFO", "%s (could not be formatted)")]),
        ("a message without words", [("INFO", "(could not be formatted)")]),
        ("NUL and half a pair", [("INFO", "a\N{REPLACEMENT CHARACTER}b?c")]),
        ("more to tell", [("INFO", "paid")]),
        ("an adapter around it", [("INFO", "from within")]),
        ("only where it is enabled", [("INFO", "enabled for [20]")]),
        ("no error at hand", [("ERROR", "nothing raised")]),
    ],
)
def test_line_is_formatted_as_a_handler_would(kind, expected):
    node = drained(steps.log_oddly.bind(kind))

    assert node.state == "completed"
    assert [(line["level"], line["message"]) for line in node.logs] == expected


@pytest.mark.parametrize("way", ["exception", "exc_info", "the error"])
def test_line_with_an_error_has_its_traceback(way):
    node = drained(steps.log_error.bind(way))

    (message,) = messages(node)
    assert message.startswith("It went wrong.\nTraceback (most recent call last):\n  File ")
    assert message.endswith("\nLookupError: no such page")
    assert "in log_error" in message


def test_lines_of_a_coroutine_its_tasks_and_its_threads_are_kept():
    node = drained(steps.log_async)

    assert messages(node) == ["begins", "task 1", "task 2", "thread", "ends"]


def test_lines_of_many_threads_are_all_kept():
    node = drained(steps.log_from_threads.bind(8, 25))

    assert sorted(messages(node)) == sorted(f"{thread} {number}" for thread in range(8) for number in range(25))


def test_lines_of_a_hook_are_kept_with_its_step():
    run = drain(
        Workflow("x").add("a", steps.discard).add("b", steps.log_in_hook, deps=["a"]).add("c", steps.nothing).insert()
    )

    (line,) = run.steps["b"].logs
    assert (line["level"], line["attempt"]) == ("WARNING", 0)
    assert line["message"] == f"heard: {run.steps['b'].error}"


# When the body does not end well --------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("then", ["return", "raise", "set", "discard"])
def test_body_inside_a_transaction_has_its_lines_however_that_ends(then):
    run = Workflow("x").add("a", steps.log_in_transaction.bind("group", then=then)).insert()

    for _ in range(2):
        answer_bell("default")
        elapse(run)

    node = run.steps["a"]
    assert messages(node) == [f"attempt {number}" for number in range(1, node.attempt + 1)]
    assert Group.objects.exists() == (node.state == "completed")


def test_body_whose_time_is_up_has_its_lines():
    node = drained(steps.log_and_hang)

    assert node.attempts[0]["outcome"] == "timed_out"
    assert set(messages(node)) == {"more"}
    assert len(node.logs) == 200


def test_execution_that_lost_its_step_does_not_write_over_a_later_one():
    run = Workflow("x").add("a", steps.log_and_outlive_lease).insert()

    answer_bell("default")

    assert run.steps["a"].result == "of the second attempt"
    assert messages(run.steps["a"]) == ["attempt 2 begins"]


def test_body_that_was_cancelled_while_it_ran_has_its_lines():
    run = drain(Workflow("x").add("a", steps.log_and_cancel_own_run).insert())

    assert (run.state, run.steps["a"].state) == ("cancelled", "cancelled")
    assert messages(run.steps["a"]) == ["before", "after"]


def test_step_that_was_deleted_while_it_ran_leaves_no_lines():
    Workflow("x").add("a", steps.log_and_delete_own_run).insert()

    answer_bell("default")

    assert not WorkflowRun.objects.exists()
    assert not StepLog.objects.exists()


# What it costs --------------------------------------------------------------------------------------------------------


def statements_of(run: WorkflowRun) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        drain(run)
    return [query["sql"] for query in captured.captured_queries if "baton_steplog" in query["sql"]]


@pytest.mark.django_db(transaction=True)
def test_step_that_writes_nothing_takes_no_statement():
    assert statements_of(Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()) == []


@pytest.mark.django_db(transaction=True)
def test_first_execution_writes_all_its_lines_by_one_statement():
    (statement,) = statements_of(Workflow("x").add("a", steps.log_lines.bind(50)).insert())

    assert statement.split()[:3] == ["INSERT", "INTO", "baton_steplog"]


@pytest.mark.django_db(transaction=True)
def test_later_execution_reads_what_is_there_once():
    found = statements_of(Workflow("x").add("a", steps.log_each_time).insert())

    assert [statement.split()[0] for statement in found] == ["INSERT", "SELECT", "INSERT", "SELECT", "INSERT"]


# When the log cannot be written ---------------------------------------------------------------------------------------


def rename(old: str, new: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


def test_log_that_cannot_be_written_in_a_test_s_transaction_does_not_fail_the_step(caplog):
    rename("baton_steplog", "baton_gone")

    node = drained(steps.log)

    assert node.state == "completed"
    assert "The log of step 'a' could not be written." in caplog.text
    rename("baton_gone", "baton_steplog")
    assert node.logs == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("step", [steps.log_each_time, steps.log_in_transaction.bind("group")], ids=["plain", "atomic"])
def test_log_that_cannot_be_written_does_not_fail_the_step(step, caplog):
    run = Workflow("x").add("a", step).insert()
    rename("baton_steplog", "baton_gone")
    try:
        for _ in range(3):
            answer_bell("default")
            elapse(run)
    finally:
        rename("baton_gone", "baton_steplog")

    assert run.wait() == "completed"
    assert "The log of step 'a' could not be written." in caplog.text
    assert "could not be settled" not in caplog.text


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_log_whose_table_is_locked_does_not_hold_up_the_step(caplog):
    run = Workflow("x").add("a", steps.log).insert()
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN; LOCK TABLE baton_steplog IN ACCESS EXCLUSIVE MODE")

        answer_bell("default")

        assert run.wait() == "completed"
    finally:
        other.close()
    (record,) = (record for record in caplog.records if record.getMessage().startswith("The log of"))
    assert "lock timeout" in str(record.exc_info[1])


def test_heartbeat_does_not_wait_for_an_execution_that_is_writing_its_log():
    node = Workflow("x").add("a", steps.nothing).insert().steps["a"]
    lines = LineBuffer({"step_name": "a", "attempt": 1, "node_id": node.pk}, fence=1)
    lines.add("INFO", "line")

    with lines._turn:
        lines.write(connection, patiently=False)
    assert node.logs == []
    lines.write(connection, patiently=False)

    assert messages(WorkflowNode.objects.get()) == ["line"]


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_connection_keeps_its_own_settings_when_a_log_was_written():
    def settings() -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout'), current_setting('synchronous_commit')")
            return list(cursor.fetchone())

    before = settings()
    run = Workflow("x").add("a", steps.log).insert()

    answer_bell("default")

    assert messages(run.steps["a"]) == ["something to say"]
    assert settings() == before


# What the project's handlers get --------------------------------------------------------------------------------------


def records_of(caplog) -> list[Any]:
    return [record for record in caplog.records if record.name == "baton.step"]


def test_record_carries_run_step_attempt_and_node(caplog):
    node = drained(steps.log)

    (record,) = records_of(caplog)
    assert (record.workflow_id, record.workflow_name) == (str(node.run_id), "x")
    assert (record.step_name, record.attempt, record.node_id) == ("a", 1, node.pk)


def test_record_carries_what_the_body_gives_besides(caplog):
    with caplog.at_level("INFO", logger="baton.step"):
        drained(steps.log_oddly.bind("more to tell"))

    (record,) = records_of(caplog)
    assert (record.order, record.step_name) == (7, "a")


def test_record_names_the_line_of_the_body(caplog):
    drained(steps.log)

    (record,) = records_of(caplog)
    assert (record.filename, record.funcName) == ("steps.py", "log")


def test_records_below_the_project_s_level_are_not_handed_on(caplog):
    with caplog.at_level("ERROR", logger="baton.step"):
        node = drained(steps.log)

    assert records_of(caplog) == []
    assert messages(node) == ["something to say"]


def test_body_performed_alone_logs_and_keeps_nothing(caplog):
    assert perform(steps.log) is None

    (record,) = records_of(caplog)
    assert (record.step_name, record.node_id) == ("step", None)
    assert not StepLog.objects.exists()


# Real workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_lines_of_a_body_that_is_running_are_there_after_a_heartbeat(real_cluster, tmp_path):
    real_cluster(baton={"HEARTBEAT_SECONDS": 0.2})
    run = Workflow("x").add("a", steps.log_and_wait_for_file.bind(str(tmp_path))).insert()

    wait_until(lambda: messages(run.steps["a"]) == ["begins"])
    assert run.steps["a"].state == "executing"
    (tmp_path / "go").touch()

    assert run.wait(timeout=60) == "completed"
    assert messages(run.steps["a"]) == ["begins", "ends"]


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_worker_that_was_killed_leaves_what_its_last_heartbeat_wrote(real_cluster, tmp_path):
    real_cluster(baton={"HEARTBEAT_SECONDS": 0.2})
    run = Workflow("x").add("a", steps.log_and_die.bind(str(tmp_path))).insert()
    wait_until(lambda: steps.traces(tmp_path, "a"))

    expire_leases(run)
    sweep()

    assert run.wait(timeout=60) == "completed"
    node = run.steps["a"]
    assert [entry["outcome"] for entry in node.attempts] == ["worker_lost", "completed"]
    assert [(line["attempt"], line["message"]) for line in node.logs] == [(1, "attempt 1"), (2, "attempt 2")]
