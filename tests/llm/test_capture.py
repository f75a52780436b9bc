from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction

from baton import StepContext, Workflow, step
from baton.llm import acall, call, stream
from baton.llm.capture import entries, log_request, log_response, log_upstream
from baton.llm.redaction import HOOK_FAILED
from baton.models import DebugLog, LedgerEntry, WorkflowRun
from baton.testing import drain, perform
from tests.steps import Colour

pytestmark = pytest.mark.django_db

REQUEST = {"model": "gpt-5", "messages": [{"role": "user", "content": "hello"}]}
RESPONSE = {"id": "r1", "choices": [{"message": {"content": "good day"}}]}


@step
def find(ctx: StepContext) -> dict[str, str]:
    return {"text": "found"}


@step
def ask(ctx: StepContext, times: int = 1) -> str:
    for _ in range(times):
        log_request(ctx, REQUEST)
        log_upstream(ctx)
        log_response(ctx, RESPONSE)
    return "asked"


@step
async def ask_async(ctx: StepContext) -> str:
    log_request(ctx, REQUEST)
    log_upstream(ctx)
    await asyncio.sleep(0)
    log_response(ctx, RESPONSE)
    return "asked"


def asked(**options: Any) -> WorkflowRun:
    return Workflow("x", **options).add("find", find).add("ask", ask, deps=["find"]).insert()


def test_row_has_request_response_results_of_dependencies_model_and_duration():
    run = drain(asked(debug=True))

    (row,) = entries(run)
    assert row.pop("created_at") == DebugLog.objects.get().created_at
    assert row.pop("duration") >= 0
    assert row == {
        "id": DebugLog.objects.get().pk,
        "step_name": "ask",
        "attempt": 1,
        "key": "",
        "provider": "",
        "model": "gpt-5",
        "request": REQUEST,
        "response": RESPONSE,
        "upstream": {"find": {"text": "found"}},
    }


def test_nothing_is_kept_unless_it_is_asked_for():
    run = drain(asked())

    assert run.steps["ask"].result == "asked"
    assert not DebugLog.objects.exists()


def test_run_with_debug_is_kept_and_no_other_run():
    other, run = asked(), asked(debug=True)

    drain(other)
    drain(run)

    assert (len(entries(other)), len(entries(run))) == (0, 1)


@pytest.mark.parametrize(
    ("setting", "debug", "option", "is_kept"),
    [
        (False, False, None, False),
        (True, False, None, True),
        (False, True, None, True),
        (True, True, False, False),
        (False, False, True, True),
    ],
)
def test_step_says_whether_its_calls_are_kept_else_the_run_else_the_setting(settings, setting, debug, option, is_kept):
    settings.BATON = {"CAPTURE": setting}

    run = drain(Workflow("x", debug=debug).add("ask", ask, capture=option).insert())

    assert len(entries(run)) == is_kept


def test_body_that_is_called_by_hand_keeps_nothing_and_fails_not(settings):
    settings.BATON = {"CAPTURE": True}

    assert perform(ask) == "asked"
    assert ask(StepContext(workflow_id=UUID(int=1), workflow_name="x", step_name="a")) == "asked"
    assert not DebugLog.objects.exists()


def test_each_request_has_a_row():
    run = drain(Workflow("x", debug=True).add("ask", ask.bind(times=3)).insert())

    assert [(row["request"], row["response"]) for row in entries(run)] == [(REQUEST, RESPONSE)] * 3


@step
def nest(ctx: StepContext) -> None:
    log_request(ctx, "outer")
    log_request(ctx, "inner")
    log_response(ctx, "of the inner")
    log_response(ctx, "of the outer")
    log_response(ctx, "of nobody")


def test_response_goes_to_the_newest_request_that_has_none_and_else_into_a_row_of_its_own():
    run = drain(Workflow("x", debug=True).add("a", nest).insert())

    assert [(row["request"], row["response"], row["duration"] is None) for row in entries(run)] == [
        ("outer", "of the outer", False),
        ("inner", "of the inner", False),
        (None, "of nobody", True),
    ]


@step
def tell_first(ctx: StepContext) -> None:
    log_upstream(ctx)
    log_request(ctx, "a request")
    log_response(ctx, "a response")
    log_upstream(ctx)


def test_results_of_dependencies_that_are_logged_first_share_the_row_of_the_next_request():
    run = drain(Workflow("x", debug=True).add("find", find).add("tell", tell_first, deps=["find"]).insert())

    upstream = {"find": {"text": "found"}}
    assert [(row["request"], row["response"], row["upstream"]) for row in entries(run)] == [
        ("a request", "a response", upstream),
        (None, None, upstream),
    ]


@step(max_attempts=2, backoff=0)
def fail_first(ctx: StepContext) -> None:
    log_request(ctx, f"request {ctx.attempt}")
    if ctx.attempt == 1:
        raise ConnectionError
    log_response(ctx, f"response {ctx.attempt}")


def test_request_of_an_attempt_that_failed_stays_without_a_response():
    run = drain(Workflow("x", debug=True).add("a", fail_first).insert())

    assert [(row["attempt"], row["request"], row["response"]) for row in entries(run)] == [
        (1, "request 1", None),
        (2, "request 2", "response 2"),
    ]


@step(atomic=True, max_attempts=2, backoff=0)
def fail_first_atomic(ctx: StepContext) -> None:
    log_request(ctx, f"request {ctx.attempt}")
    if ctx.attempt == 1:
        raise ConnectionError


def test_what_an_atomic_body_logged_by_hand_is_undone_with_it():
    run = drain(Workflow("x", debug=True).add("a", fail_first_atomic).insert())

    assert [row["request"] for row in entries(run)] == ["request 2"]


def test_async_body_is_kept_too():
    run = drain(Workflow("x", debug=True).add("find", find).add("ask", ask_async, deps=["find"]).insert())

    assert [(row["request"], row["response"], row["upstream"]) for row in entries(run)] == [
        (REQUEST, RESPONSE, {"find": {"text": "found"}})
    ]


@pytest.mark.django_db(transaction=True)
def test_async_body_is_kept_where_its_event_loop_has_connections_of_its_own():
    run = drain(Workflow("x", debug=True).add("ask", ask_async).insert())

    assert [(row["request"], row["response"], row["upstream"]) for row in entries(run)] == [(REQUEST, RESPONSE, {})]


@step
async def ask_side_by_side(ctx: StepContext) -> None:
    async def call(number: int, turn: asyncio.Event, next_turn: asyncio.Event) -> None:
        log_request(ctx, number)
        await turn.wait()
        log_response(ctx, number)
        next_turn.set()

    first, second, third = asyncio.Event(), asyncio.Event(), asyncio.Event()
    # The first request is answered first, though the second is the newest.
    first.set()
    await asyncio.gather(call(1, first, second), call(2, second, third))


def test_requests_side_by_side_get_their_own_responses():
    run = drain(Workflow("x", debug=True).add("a", ask_side_by_side).insert())

    assert [(row["request"], row["response"]) for row in entries(run)] == [(1, 1), (2, 2)]


@step
async def ask_in_a_thread(ctx: StepContext) -> None:
    log_request(ctx, "from the loop")
    await asyncio.to_thread(log_response, ctx, "from a thread")


@pytest.mark.django_db(transaction=True)
def test_response_may_be_logged_in_another_thread_than_its_request():
    run = drain(Workflow("x", debug=True).add("a", ask_in_a_thread).insert())

    assert [(row["request"], row["response"]) for row in entries(run)] == [("from the loop", "from a thread")]


def test_entries_are_found_by_run_by_id_and_by_step():
    run = drain(Workflow("x", debug=True).add("one", ask).add("two", ask.bind(times=2)).add(Colour.RED, ask).insert())

    assert len(entries(run)) == len(entries(run.pk)) == len(entries(str(run.pk))) == 4
    assert {row["step_name"] for row in entries(run, step="two")} == {"two"}
    assert len(entries(run, "two")) == 2
    assert len(entries(run, step=Colour.RED)) == 1
    assert entries(run, step="three") == entries(uuid4()) == []
    with pytest.raises(ValueError, match="run_or_id is 'no id', which is no id: give a run, its id"):
        entries("no id")


@step
def ask_for(ctx: StepContext, model: str) -> None:
    log_request(ctx, {"model": model})


@pytest.mark.parametrize(
    ("given", "kept"),
    [("gpt-5", "gpt-5"), ("m" * 300, "m" * 255), ("a\x00\ud800", "a\ufffd?"), (None, "")],
)
def test_model_of_a_row_is_text_that_every_database_takes(given, kept):
    run = drain(Workflow("x", debug=True).add("a", ask_for.bind(model=given)).insert())

    assert [row["model"] for row in entries(run)] == [kept]


@step
def ask_by_option(ctx: StepContext) -> None:
    log_request(ctx, "a text names no model")


def test_model_of_the_step_stands_where_the_request_names_none():
    run = drain(Workflow("x", debug=True).add("a", ask_by_option, model="gpt-5-mini").insert())

    assert [row["model"] for row in entries(run)] == ["gpt-5-mini"]


@step
def ask_and_write(ctx: StepContext) -> str:
    with transaction.atomic():
        log_request(ctx, REQUEST)
        log_upstream(ctx)
        log_response(ctx, RESPONSE)
        WorkflowRun.objects.filter(pk=ctx.workflow_id).update(meta={"written": True})
    return "asked"


@contextlib.contextmanager
def without_table():
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE baton_debuglog RENAME TO elsewhere")
        yield
        cursor.execute("ALTER TABLE elsewhere RENAME TO baton_debuglog")


def test_row_that_the_database_refuses_costs_the_step_and_its_transaction_nothing(caplog):
    run = Workflow("x", debug=True).add("a", ask_and_write).insert()

    with without_table():
        drain(run)

    assert run.steps["a"].result == "asked"
    assert run.meta == {"written": True}
    assert {(record.name, record.levelno, record.getMessage()) for record in caplog.records} == {
        ("baton.llm", logging.ERROR, "A call of step 'a' could not be kept as a debug log.")
    }


@step
def break_transaction(ctx: StepContext) -> str:
    with transaction.atomic():
        transaction.set_rollback(True)
        log_request(ctx, REQUEST)
    return "done"


def test_transaction_that_is_to_be_rolled_back_keeps_nothing_and_the_step_goes_on(caplog):
    run = drain(Workflow("x", debug=True).add("a", break_transaction).insert())

    assert run.steps["a"].result == "done"
    assert entries(run) == []
    assert "could not be kept" in caplog.text


def test_setting_that_is_faulty_costs_the_step_nothing(settings, caplog):
    run = Workflow("x", debug=True).add("a", ask_with_faulty_settings).insert()

    drain(run)

    assert run.steps["a"].result == "asked"
    assert entries(run) == []
    assert "could not be kept" in caplog.text


@step
def ask_with_faulty_settings(ctx: StepContext) -> str:
    from django.test import override_settings

    with override_settings(BATON={"REDACT_KEYS": 3}):
        log_request(ctx, REQUEST)
        log_response(ctx, RESPONSE)
    return "asked"


@step
def call_once(ctx: StepContext, log: str = "") -> Any:
    """The wrapper, with nothing or something logged by hand inside the function."""
    prompt, client = "hello", object()

    def ask() -> dict[str, Any]:
        if "request" in log:
            log_request(ctx, REQUEST)
        if "response" in log:
            log_response(ctx, "by hand")
        if "fail" in log:
            raise ConnectionResetError(f"{prompt} {client is None}: token=abc")
        return {**RESPONSE, "said": prompt}

    return call(ctx, "greeting", ask, model="gpt-5", provider="openai")


@step
async def call_once_async(ctx: StepContext, log: str = "") -> Any:
    async def ask() -> dict[str, Any]:
        if "request" in log:
            log_request(ctx, REQUEST)
        await asyncio.sleep(0)
        return RESPONSE

    return await acall(ctx, "greeting", ask, model="gpt-5", provider="openai")


def called(body: Any = call_once, **options: Any) -> WorkflowRun:
    return drain(Workflow("x", debug=True).add("find", find).add("a", body.bind(**options), deps=["find"]).insert())


def test_call_is_kept_with_request_response_results_of_dependencies_model_and_duration():
    run = drain(Workflow("x", debug=True).add("find", find).add("a", call_with_request, deps=["find"]).insert())

    (row,) = entries(run)
    assert row.pop("created_at")
    assert row.pop("duration") >= 0
    assert row.pop("id")
    assert row == {
        "step_name": "a",
        "attempt": 1,
        "key": "greeting",
        "provider": "openai",
        "model": "gpt-5",
        "request": REQUEST,
        "response": RESPONSE,
        "upstream": {"find": {"text": "found"}},
    }


@step
def call_with_request(ctx: StepContext) -> Any:
    return call(ctx, "greeting", create, request=REQUEST, provider="openai")


def create(*, model: str, messages: list[Any]) -> dict[str, Any]:
    return RESPONSE


def test_call_of_a_function_without_parameters_is_kept_with_the_values_it_has_from_around_it():
    (row,) = entries(called())

    assert row["request"] == {
        "function": "tests.llm.test_capture.call_once.<locals>.ask",
        "values": {"log": "", "prompt": "hello"},
    }
    assert row["response"] == {**RESPONSE, "said": "hello"}


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize("setting", [True, False])
@pytest.mark.parametrize("option", [True, False, None])
def test_call_keeps_nothing_unless_it_is_asked_for(settings, debug, setting, option):
    settings.BATON = {"CAPTURE": setting}

    run = drain(Workflow("x", debug=debug).add("a", call_once, capture=option).insert())

    assert run.steps["a"].state == "completed"
    assert len(entries(run)) == (debug or setting if option is None else option)


@pytest.mark.parametrize(
    ("log", "request_kept", "response_kept"),
    [
        ("request", REQUEST, {**RESPONSE, "said": "hello"}),
        ("request response", REQUEST, "by hand"),
        ("response", {"function": "tests.llm.test_capture.call_once.<locals>.ask",
                      "values": {"log": "response", "prompt": "hello"}}, "by hand"),
    ],
)  # fmt: skip
def test_what_the_function_of_a_call_logs_by_hand_is_in_the_row_of_the_call(log, request_kept, response_kept):
    (row,) = entries(called(log=log))

    assert (row["key"], row["provider"], row["model"]) == ("greeting", "openai", "gpt-5")
    assert (row["request"], row["response"]) == (request_kept, response_kept)
    assert row["upstream"] == {"find": {"text": "found"}}


@pytest.mark.parametrize("log", ["", "request"])
@pytest.mark.django_db(transaction=True)
def test_async_call_has_one_row_too(log):
    (row,) = entries(called(call_once_async, log=log))

    assert (row["key"], row["response"]) == ("greeting", RESPONSE)
    assert row["request"] == (REQUEST if log else {
        "function": "tests.llm.test_capture.call_once_async.<locals>.ask", "values": {"log": ""}
    })  # fmt: skip


def test_call_that_failed_is_kept_with_its_error_redacted():
    run = drain(
        Workflow("x", debug=True).add("a", call_once.bind(log="fail"), max_attempts=1, on_ambiguous="repay").insert()
    )

    (row,) = entries(run)
    assert row["response"] == {"error": "ConnectionResetError: hello False: token=removed by redaction"}


@step(max_attempts=2, backoff=0)
def call_then_fail(ctx: StepContext) -> None:
    call(ctx, "greeting", lambda: RESPONSE)
    if ctx.attempt == 1:
        raise ConnectionError


def test_answer_that_comes_from_the_ledger_was_no_call_and_has_no_row():
    run = drain(Workflow("x", debug=True).add("a", call_then_fail).insert())

    assert run.steps["a"].state == "completed"
    assert [row["attempt"] for row in entries(run)] == [1]


def test_call_whose_row_the_database_refuses_is_answered_and_stored(caplog):
    run = Workflow("x", debug=True).add("a", call_once).insert()

    with without_table():
        drain(run)

    assert run.steps["a"].result["said"] == "hello"
    assert LedgerEntry.objects.get().state == "answered"
    assert "could not be kept as a debug log" in caplog.text


@step
def call_stream(ctx: StepContext) -> str:
    chunks = [{"model": "gpt-5-mini", "delta": piece} for piece in ("it is sk-", "abcdefgh", "1234 they say")]
    return "".join(chunk["delta"] for chunk in stream(ctx, "greeting", lambda: chunks))


def test_stream_is_kept_chunk_by_chunk_without_a_secret_that_runs_over_several(settings):
    settings.BATON = {"REDACT_PATTERNS": ["sk-[a-z0-9]+"]}

    run = drain(Workflow("x", debug=True).add("a", call_stream).insert())

    assert run.steps["a"].error is None
    assert run.steps["a"].result == "it is sk-abcdefgh1234 they say"
    (row,) = entries(run)
    assert row["model"] == "gpt-5-mini"
    assert [chunk["delta"] for chunk in row["response"]] == ["it is removed by redaction", "", " they say"]


def give_up(kind: str, value: Any) -> Any:
    raise ValueError(kind)


def test_hook_that_fails_costs_a_call_nothing_and_keeps_nothing_of_it(settings):
    settings.BATON = {"REDACT_HOOK": f"{__name__}.give_up"}

    run = called()

    (row,) = entries(run)
    assert run.steps["a"].state == "completed"
    assert {row["request"], row["response"], row["upstream"]} == {HOOK_FAILED}
