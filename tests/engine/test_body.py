from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Group
from django.db import connection
from django.utils import timezone

from baton import Workflow, result_of
from baton.engine.gate import claim, worker_name
from baton.engine.runner import Held, answer_bell, execute
from baton.exceptions import NoResultError
from baton.models import WorkflowNode
from baton.sweep import sweep
from baton.testing import drain
from tests import steps
from tests.clock import elapse, expire_leases
from tests.recording import recorded

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants")]


def drained(step, **options) -> WorkflowNode:
    """The only step of a workflow, after that has run to its end."""
    return drain(Workflow("x").add("a", step, **options).insert()).steps["a"]


def outcomes(node: WorkflowNode) -> list[str]:
    return [entry["outcome"] for entry in node.attempts]


# What a body returns -----------------------------------------------------------------------------------------------


def test_body_that_returns_none_completes_the_step_without_a_result():
    node = drained(steps.nothing)

    assert (node.state, node.has_result, node.error) == ("completed", False, None)
    with pytest.raises(NoResultError, match="'a' has no result: it returned nothing"):
        _ = node.result


def test_body_that_returns_a_value_completes_the_step_and_a_dependent_reads_it():
    run = drain(
        Workflow("x")
        .add("a", steps.value.bind({"title": "Ä"}))
        .add("b", steps.read.bind("a"), deps=["a"])
        .add("c", steps.results, deps=["b"])
        .insert()
    )

    node = run.steps["a"]
    assert (node.state, node.has_result, node.result) == ("completed", True, {"title": "Ä"})
    assert run.steps["b"].result == {"title": "Ä"}
    assert run.steps["c"].result == {"b": {"title": "Ä"}}


@pytest.mark.parametrize(("make", "expected"), steps.STORABLE.values(), ids=steps.STORABLE)
def test_storable_value_comes_through_as_json_gives_it_back(make, expected, request):
    kind = request.node.callspec.id
    run = drain(
        Workflow("x")
        .add("a", steps.made.bind(kind))
        .add("in memory", steps.read.bind("a"), deps=["a"])
        .add("from the row", steps.results, deps=["a", "in memory"])
        .add("referred to", steps.value.bind({"whole": result_of("a")}))
        .add("as an argument", steps.value.bind(make()))
        .insert()
    )

    assert run.state == "completed"
    assert run.steps["a"].result == expected
    assert type(run.steps["a"].result) is type(expected)
    assert run.steps["in memory"].result == expected
    assert run.steps["from the row"].result == {"a": expected, "in memory": expected}
    assert run.steps["referred to"].result == {"whole": expected}
    assert run.steps["as an argument"].result == expected


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", steps.UNSTORABLE)
def test_unstorable_result_discards_the_step_at_once_with_a_clear_error(kind):
    run = drain(Workflow("x").add("a", steps.unmade.bind(kind)).add("b", steps.ran, deps=["a"]).insert())

    node = run.steps["a"]
    assert (node.state, node.has_result, outcomes(node)) == ("discarded", False, ["failed"])
    assert node.error.startswith("The result of step 'a' cannot be stored: result")
    assert "store it yourself and return where it is." in node.error
    assert run.steps["b"].state == "cancelled"
    assert steps.bodies_of(run) == []


def test_unstorable_result_is_retried_where_retry_on_names_its_error():
    node = drained(steps.unmade_at_first)

    assert (node.state, node.result) == ("completed", [1])
    assert outcomes(node) == ["failed", "completed"]


def test_limit_of_a_result_is_a_setting(settings):
    settings.BATON = {"MAX_RESULT_CHARS": 20}

    run = drain(Workflow("x").add("fits", steps.repeat.bind(20)).add("a", steps.repeat.bind(21)).insert())

    assert run.steps["fits"].state == "completed"
    assert run.steps["a"].state == "discarded"
    assert "20 characters" in run.steps["a"].error


# What a body raises ------------------------------------------------------------------------------------------------


def test_body_that_raises_makes_the_step_retryable_with_the_message_in_error(settings):
    run = Workflow("x").add("a", steps.fail.bind("no paper")).insert()

    answer_bell("default")

    node = run.steps["a"]
    assert (node.state, node.attempt, node.error) == ("retryable", 1, "RuntimeError: no paper")
    assert node.due_at > timezone.now()
    assert (outcomes(node), node.attempts[0]["error"]) == (["failed"], "RuntimeError: no paper")


def test_body_that_fails_twice_completes_in_its_third_attempt():
    with recorded() as events:
        node = drained(steps.fail_times.bind(2))

    assert (node.state, node.attempt, node.result, node.error) == ("completed", 3, "done", None)
    assert [entry["number"] for entry in node.attempts] == [1, 2, 3]
    assert outcomes(node) == ["failed", "failed", "completed"]
    assert events.states() == ["executing", "retryable", "executing", "retryable", "executing", "completed"]
    assert [event["attempt"] for event in events.steps] == [1, 1, 2, 2, 3, 3]


def test_step_whose_attempts_are_exhausted_is_discarded():
    with recorded() as events:
        node = drained(steps.fail, max_attempts=2)

    assert (node.state, node.attempt, node.error) == ("discarded", 2, "RuntimeError: it failed")
    assert events.states() == ["executing", "retryable", "executing", "discarded"]


def test_step_of_one_attempt_is_never_retried():
    node = drained(steps.fail, max_attempts=1)

    assert (node.state, outcomes(node)) == ("discarded", ["failed"])


@pytest.mark.parametrize("way", ["raise", "return"])
def test_body_that_discards_is_not_retried_and_its_reason_is_kept(way):
    node = drained(steps.discard.bind("empty page", way))

    assert (node.state, node.attempt, node.error) == ("discarded", 1, "empty page")
    assert outcomes(node) == ["discarded"]


@pytest.mark.parametrize("way", ["raise", "return"])
def test_body_that_cancels_is_not_retried_and_its_reason_is_kept(way):
    node = drained(steps.cancel.bind("nobody asks", way))

    assert (node.state, node.attempt, node.error) == ("cancelled", 1, "nobody asks")
    assert outcomes(node) == ["cancelled"]


def test_directive_without_a_reason_says_who_gave_it():
    assert drained(steps.discard.bind("")).error == "discarded by its body"
    assert drained(steps.cancel.bind("")).error == "cancelled by its body"


def test_body_that_ends_the_process_has_failed_and_the_process_lives():
    node = drained(steps.leave, max_attempts=1)

    assert (node.state, node.error) == ("discarded", "SystemExit: 3")


@pytest.mark.parametrize("message", ["", "a\x00b", "\ud800", "x" * 20_000, "line\nline"])
def test_any_message_of_an_error_is_kept(message):
    node = drained(steps.fail.bind(message), max_attempts=1)

    assert node.state == "discarded"
    assert node.error.startswith("RuntimeError")
    assert len(node.error) <= 10_100


@pytest.mark.parametrize("step", [steps.raise_oddly, steps.raise_oddly_later], ids=["function", "coroutine"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("StopIteration", "StopIteration"),
        ("GeneratorExit", "GeneratorExit"),
        ("CancelledError", "CancelledError"),
        ("ExceptionGroup", "ExceptionGroup: many (2 sub-exceptions)"),
        ("BaseException", "BaseException: base"),
        ("TimeoutError", "TimeoutError: its own"),
        ("RecursionError", "RecursionError: maximum recursion depth exceeded"),
        ("MemoryError", "MemoryError"),
        ("without words", "WordlessError"),
    ],
)
def test_whatever_is_raised_is_a_failed_attempt(kind, error, step):
    node = drained(step.bind(kind), max_attempts=2, backoff=0)

    assert (node.state, outcomes(node)) == ("discarded", ["failed", "failed"])
    assert error in node.error


@pytest.mark.parametrize(
    ("kind", "state"), [("a class", "discarded"), ("a generator", "discarded"), ("a coroutine", "completed")]
)
def test_whatever_is_returned_settles_the_step(kind, state):
    node = drained(steps.return_oddly.bind(kind))

    assert (node.state, len(node.attempts)) == (state, 1)


def test_directive_may_be_raised_as_a_class():
    node = drained(steps.raise_oddly.bind("Discard"))

    assert (node.state, node.error) == ("discarded", "discarded by its body")


# Snoozes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["raise", "return"])
@pytest.mark.parametrize(
    ("amount", "unit", "seconds"),
    [(30.5, "number", 30.5), (90, "number", 90), (30, "seconds", 30), (2, "hours", 7200), (0.25, "days", 21600)],
)
def test_snoozed_step_runs_again_not_before_its_time_and_keeps_its_attempt(amount, unit, seconds, way):
    run = Workflow("x").add("a", steps.snooze_for.bind(amount, unit, way)).insert()
    before = timezone.now()

    answer_bell("default")
    answer_bell("default")

    node = run.steps["a"]
    assert (node.state, node.attempt, node.error, outcomes(node)) == ("snoozed", 0, None, ["snoozed"])
    # SQLite's clock has milliseconds.
    snoozed_at, nearly = node.due_at - timedelta(seconds=seconds), timedelta(milliseconds=2)
    assert before - nearly <= snoozed_at <= timezone.now() + nearly

    elapse(run)
    answer_bell("default")

    node = run.steps["a"]
    assert (node.state, node.attempt, node.result) == ("completed", 1, "awake")


@pytest.mark.parametrize("way", ["raise", "return"])
def test_snooze_of_zero_is_due_at_once(way):
    run = Workflow("x").add("a", steps.snooze_for.bind(0, "number", way)).insert()

    answer_bell("default")
    assert run.steps["a"].due_at <= timezone.now()
    answer_bell("default")

    assert run.steps["a"].state == "completed"


def test_snoozes_do_not_count_as_attempts_however_many_there_are():
    with recorded() as events:
        node = drained(steps.snooze_times.bind(20), max_attempts=1)

    assert (node.state, node.attempt) == ("completed", 1)
    assert events.states() == ["executing", "snoozed"] * 20 + ["executing", "completed"]
    assert {event["attempt"] for event in events.steps} == {1}


def test_snoozes_in_a_row_share_one_entry_with_a_count():
    node = drained(steps.snooze_times.bind(20))

    assert [(entry["outcome"], entry["count"], entry["number"]) for entry in node.attempts] == [
        ("snoozed", 20, 1),
        ("completed", 1, 1),
    ]
    assert node.attempts[0]["started_at"] < node.attempts[0]["ended_at"]


def test_error_of_the_last_failure_stays_while_the_step_is_snoozed():
    run = Workflow("x").add("a", steps.fail_then_snooze).insert()
    answer_bell("default")
    elapse(run)
    answer_bell("default")

    node = run.steps["a"]
    assert (node.state, node.attempt) == ("snoozed", 1)
    assert node.error == "RuntimeError: before the nap"


# Timeouts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [steps.hang, steps.hang_and_return, steps.hang_async], ids=lambda step: step.name)
def test_body_over_its_timeout_has_failed_whatever_it_catches_or_returns(step):
    node = drained(step)

    assert (node.state, node.error, node.has_result) == ("discarded", "timed out after 0.1 s", False)
    assert outcomes(node) == ["timed_out"]


@pytest.mark.parametrize("step", [steps.hang, steps.hang_async], ids=lambda step: step.name)
@pytest.mark.django_db(transaction=True)
def test_body_over_its_timeout_has_failed_also_outside_a_transaction(step):
    node = drained(step)

    assert (node.state, outcomes(node)) == ("discarded", ["timed_out"])
    assert drained(steps.value).state == "completed"


def test_time_out_counts_as_a_step_timeout_error_for_retry_on():
    node = drained(steps.hang_at_first)

    assert (node.state, outcomes(node)) == ("completed", ["timed_out", "completed"])


def test_time_out_counts_as_a_step_timeout_error_for_no_retry_on():
    node = drained(steps.hang, max_attempts=3, no_retry_on=TimeoutError)

    assert (node.state, outcomes(node)) == ("discarded", ["timed_out"])


def test_time_out_that_retry_on_does_not_name_is_not_retried():
    node = drained(steps.hang, max_attempts=3, retry_on=ValueError)

    assert (node.state, outcomes(node)) == ("discarded", ["timed_out"])


def test_body_within_its_timeout_is_left_alone():
    assert drained(steps.value, timeout=30).state == "completed"


# Coroutines ----------------------------------------------------------------------------------------------------------


def test_async_body_is_awaited():
    run = drain(Workflow("x").add("a", steps.later.bind(2)).add("b", steps.later_total, deps=["a"]).insert())

    assert (run.steps["a"].result, run.steps["b"].result) == (2, 2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["g"])
def test_async_body_reads_and_writes_by_the_orm(name):
    assert drained(steps.later_group.bind(name)).result == 1
    assert Group.objects.get().name == name


def test_async_body_reads_and_writes_by_the_orm_inside_a_test_case():
    assert drained(steps.later_group.bind("g")).result == 1
    assert Group.objects.get().name == "g"


@pytest.mark.parametrize(
    ("way", "state", "error"),
    [
        ("return", "completed", None),
        ("discard", "discarded", "no use"),
        ("raise", "retryable", "RuntimeError: from a coroutine"),
    ],
)
def test_async_body_steers_its_step_as_any_other(way, state, error):
    run = Workflow("x").add("a", steps.later_way.bind(way)).insert()

    answer_bell("default")

    assert (run.steps["a"].state, run.steps["a"].error) == (state, error)


@pytest.mark.django_db(transaction=True)
def test_async_body_snoozes():
    run = Workflow("x").add("a", steps.later_way.bind("snooze")).insert()

    answer_bell("default")
    assert (run.steps["a"].state, run.steps["a"].attempt) == ("snoozed", 0)
    elapse(run)
    answer_bell("default")

    assert run.steps["a"].result == "done"


# Atomic steps --------------------------------------------------------------------------------------------------------


def test_writes_of_an_atomic_body_are_kept_with_its_result():
    assert drained(steps.write_group.bind("g")).result == 1
    assert Group.objects.get().name == "g"


@pytest.mark.parametrize(
    ("then", "state"),
    [
        ("raise", "discarded"),
        ("discard", "discarded"),
        pytest.param(
            "set",
            "discarded",
        ),
    ],
)
def test_writes_of_an_atomic_body_that_gives_no_result_are_rolled_back(then, state):
    node = drained(steps.write_group.bind("g", then), max_attempts=2)

    assert (node.state, node.has_result) == (state, False)
    assert not Group.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_writes_of_an_atomic_body_are_not_seen_before_it_is_settled():
    with recorded() as events:
        node = drained(steps.write_group.bind("g"))

    assert node.state == "completed"
    assert events.states() == ["executing", "completed"]
    assert Group.objects.count() == 1


def test_atomic_body_whose_fence_is_lost_is_rolled_back():
    run = Workflow("x").add("a", steps.write_group.bind("g")).insert()
    claimed = claim(connection, run.steps["a"].pk, worker=worker_name())
    assert claimed is not None
    expire_leases(run)
    assert sweep().rescued == 1

    execute(connection, Held(claim=claimed), until=None)

    assert not Group.objects.exists()
    assert (run.steps["a"].state, run.steps["a"].attempt) == ("available", 1)
    assert drain(run).steps["a"].result == 1


@pytest.mark.django_db(transaction=True)
def test_atomic_body_over_its_timeout_is_rolled_back():
    node = drained(steps.write_group.bind("g", "hang"), timeout=0.2, max_attempts=1)

    assert (node.state, outcomes(node)) == ("discarded", ["timed_out"])
    assert not Group.objects.exists()


def test_atomic_body_that_breaks_its_transaction_has_failed():
    node = drained(steps.break_transaction.bind("g"))

    assert (node.state, node.has_result) == ("discarded", False)
    assert not Group.objects.exists()


def test_progress_of_an_atomic_body_is_written_when_it_settles():
    node = drained(steps.write_group.bind("g", "report"))

    assert node.progress == {"current": 1, "total": 2, "message": "half"}
    assert node.state == "completed"


def test_atomic_may_be_said_where_the_step_is_added():
    node = drained(steps.write_group_and_fail.bind("g"), atomic=True, max_attempts=1)

    assert node.state == "discarded"
    assert not Group.objects.exists()


def test_writes_of_a_body_that_is_not_atomic_stay_when_it_fails():
    node = drained(steps.write_group_and_fail.bind("g"), max_attempts=1)

    assert node.state == "discarded"
    assert Group.objects.exists()


# References ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (result_of("a"), {"pages": [{"n": 1}, {"n": 2}]}),
        (result_of("a")["pages"], [{"n": 1}, {"n": 2}]),
        (result_of("a")["pages"][-1]["n"], 2),
        ({"deep": [1, (result_of("a")["pages"][0],)]}, {"deep": [1, [{"n": 1}]]}),
        ([result_of("none")], [None]),
    ],
    ids=repr,
)
def test_reference_is_filled_with_what_the_step_returned(reference, expected):
    run = drain(
        Workflow("x")
        .add("a", steps.value.bind({"pages": [{"n": 1}, {"n": 2}]}))
        .add("none", steps.nothing)
        .add("b", steps.value.bind(reference))
        .insert()
    )

    assert run.steps["b"].result == expected


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        (result_of("a")["title"], "result_of('a')['title'] is not there: result_of('a') has no key 'title'"),
        (result_of("a")["pages"][2], "result_of('a')['pages'][2] is not there: result_of('a')['pages'] has no item 2"),
        (result_of("a")["pages"]["n"], "result_of('a')['pages']['n'] is not there: result_of('a')['pages'] is a list"),
        (result_of("none")["x"], "result_of('none')['x'] is not there: result_of('none') is None"),
    ],
    ids=repr,
)
def test_reference_to_a_part_that_is_not_there_discards_the_step_at_once_naming_the_path(reference, path):
    run = drain(
        Workflow("x")
        .add("a", steps.value.bind({"pages": [1, 2]}))
        .add("none", steps.nothing)
        .add("b", steps.ran.bind(reference))
        .insert()
    )

    node = run.steps["b"]
    assert (node.state, node.attempt) == ("discarded", 1)
    assert path in node.error
    assert steps.bodies_of(run) == []


def test_reference_to_a_failed_step_that_is_ignored_is_none():
    run = drain(
        Workflow("x", ignore_discarded=True)
        .add("a", steps.discard)
        .add("b", steps.value.bind([result_of("a")]))
        .insert()
    )

    assert run.steps["b"].result == [None]


# Code that is not there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tests.steps.renamed", "No step is registered as 'tests.steps.renamed'. It was renamed, removed"),
        ("tests.gone.step", "No step is registered as 'tests.gone.step'. It was renamed, removed"),
        ("gone", "No step is registered as 'gone'. It was renamed, removed"),
        ("tests.broken.step", "importing tests.broken raised ZeroDivisionError: division by zero"),
        ("tests.misspelt.step", "importing tests.misspelt raised SyntaxError"),
        ("tests.needy.step", "importing tests.needy raised ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        pytest.param(
            "tests.leaving.step",
            "importing tests.leaving raised SystemExit",
        ),
    ],
)
def test_step_without_code_is_discarded_with_the_reason(name, why, broken_modules):
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()
    run.nodes.filter(name="a").update(step=name)

    drain(run)

    node = run.steps["a"]
    assert (node.state, node.attempt) == ("discarded", 1)
    assert why in node.error
    assert run.steps["b"].state == "cancelled"


@pytest.fixture
def broken_modules(tmp_path, monkeypatch):
    """Modules of the package ``tests`` that cannot be imported."""
    import sys

    import tests

    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "misspelt.py").write_text("def\n")
    (tmp_path / "needy.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit\n")
    monkeypatch.setattr(tests, "__path__", [*tests.__path__, str(tmp_path)])
    yield
    for name in ("broken", "misspelt", "needy", "leaving"):
        sys.modules.pop(f"tests.{name}", None)


def test_option_that_is_gone_discards_the_step_with_the_reason():
    run = Workflow("x").add("a", steps.fail, retry_on=steps.RefusedError).insert()
    run.nodes.update(options={"retry_on": {"classes": ["tests.steps.Gone"]}})

    drain(run)

    assert run.steps["a"].state == "discarded"
    assert "an option given at add is gone" in run.steps["a"].error


def test_arguments_that_no_longer_fit_fail_the_attempt():
    run = Workflow("x").add("a", steps.nothing, max_attempts=1).insert()
    run.nodes.update(args={"gone": 1})

    drain(run)

    assert run.steps["a"].state == "discarded"
    assert "unexpected keyword argument 'gone'" in run.steps["a"].error


# The context ---------------------------------------------------------------------------------------------------------


def test_context_says_who_the_step_is():
    run = drain(Workflow("label").add("a", steps.about.bind(word="b"), max_attempts=3).insert())

    assert run.steps["a"].result == {
        "workflow_id": str(run.id),
        "workflow_name": "label",
        "step_name": "a",
        "attempt": 1,
        "max_attempts": 3,
        "args": {"word": "b"},
        "model": None,
        "is_cancelled": False,
    }


def test_own_result_raises_before_there_is_one():
    node = drained(steps.own_result, max_attempts=1)

    assert (node.state, node.error) == ("discarded", "Step 'a' has no result: it is executing.")


def test_progress_of_a_running_body_is_in_its_row_and_raises_the_version():
    node = drained(steps.report.bind(3))

    assert node.progress == {"current": 3, "total": 3, "message": "3 of 3"}
    assert node.version == 3


def test_progress_of_a_body_that_fails_is_kept():
    node = drained(steps.report_and_fail, max_attempts=1)

    assert node.progress == {"current": 2, "total": 3, "message": "nearly"}


def test_records_of_the_context_s_logger_carry_run_step_and_attempt(caplog):
    with caplog.at_level(logging.INFO, logger="baton.step"):
        run = drain(Workflow("label").add("a", steps.log).insert())

    (record,) = [record for record in caplog.records if record.name == "baton.step"]
    assert record.getMessage() == "something to say"
    assert (record.workflow_id, record.workflow_name) == (str(run.id), "label")
    assert (record.step_name, record.attempt) == ("a", 1)


# The log of executions -----------------------------------------------------------------------------------------------


def test_attempts_hold_an_entry_for_each_execution_with_its_times():
    before = datetime.now(UTC) - timedelta(seconds=1)

    node = drained(steps.fail_times.bind(1))

    first, second = node.attempts
    assert first == {
        "number": 1,
        "worker": worker_name(),
        "queued_at": first["queued_at"],
        "started_at": first["started_at"],
        "ended_at": first["ended_at"],
        "outcome": "failed",
        "error": "RuntimeError: attempt 1",
        "count": 1,
    }
    assert (second["number"], second["outcome"], second["error"]) == (2, "completed", None)
    times = [entry[key] for entry in (first, second) for key in ("queued_at", "started_at", "ended_at")]
    # SQLite's clock has milliseconds.
    moments = [datetime.fromisoformat(text).replace(microsecond=0) for text in times]
    assert moments == sorted(moments)
    assert before < moments[0]
    assert moments[-1] < datetime.now(UTC) + timedelta(seconds=1)


def test_attempts_keep_the_newest_fifty():
    node = drained(steps.fail_times.bind(59), max_attempts=60)

    assert [entry["number"] for entry in node.attempts] == list(range(11, 61))
    assert node.attempts[-1]["outcome"] == "completed"


def test_attempts_of_an_executing_step_are_fifty_at_most_too():
    node = drained(steps.count_attempts.bind(55), max_attempts=60)

    assert node.result == 50


def test_attempts_of_an_executing_step_show_the_execution_that_goes_on():
    run = Workflow("x").add("a", steps.nothing).insert()
    claim(connection, run.steps["a"].pk, worker="host:1")

    (entry,) = run.steps["a"].attempts

    assert (entry["number"], entry["worker"], entry["outcome"], entry["ended_at"]) == (1, "host:1", None, None)
    assert run.steps["a"].attempt == 1
    drain_after_rescue(run)


def drain_after_rescue(run) -> None:
    expire_leases(run)
    sweep()
    drain(run)
