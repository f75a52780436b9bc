"""Calls of the official SDKs, which are told not to try again by themselves, against a provider with its own books."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from fake_llm import PRICES, Failure, FakeProvider

from baton import Workflow
from baton.llm.stats import steps_for_workflow, workflow_totals
from baton.models import LedgerEntry
from baton.testing import drain
from tests.llm import provider_steps as steps
from tests.llm import scripted
from tests.utils import wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "book")]

SPENT = "[fake input=1001 output=57 cached=403 reasoning=23]"
SPENT_AT_ANTHROPIC = "[fake input=1001 output=57 cached=403 cache_write=101 reasoning=23]"
DATED = {"gpt-4o-mini": "gpt-4o-mini-2024-07-18", "claude-haiku-4-5": "claude-haiku-4-5-20251001"}
ALSO_ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@pytest.fixture(scope="module")
def _server() -> Iterator[FakeProvider]:
    with FakeProvider(served_as=DATED) as server:
        yield server
    steps.close_clients()


@pytest.fixture
def provider(_server: FakeProvider) -> Iterator[FakeProvider]:
    _server.reset()
    yield _server
    steps.SEEN.clear()


@pytest.fixture
def book(settings: Any) -> None:
    """The provider's prices, and nobody else's."""
    settings.BATON = {**settings.BATON, "PRICES": PRICES, "CURRENCY": "EUR"}


def spent(form: str) -> str:
    return f"hello {SPENT_AT_ANTHROPIC if 'messages' in form else SPENT}"


def fail_once() -> None:
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after the call"))]


def drained(step: Any, provider: FakeProvider, **arguments: Any) -> Any:
    return drain(Workflow("w").add("a", step.bind(url=provider.url, **arguments)).insert())


def entries(run: Any) -> list[tuple[int, str]]:
    return list(LedgerEntry.objects.filter(run=run).order_by("number").values_list("number", "state"))


# Answers --------------------------------------------------------------------------------------------------------------


@ALSO_ASYNC
@pytest.mark.parametrize("form", steps.FORMS)
def test_answer_of_each_api_is_counted_and_priced_to_the_last_digit_as_on_the_invoice(provider, form, is_async):
    run = drained(steps.aasks if is_async else steps.asks, provider, form=form, prompt=spent(form))

    assert run.state == "completed", run.steps["a"].error
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["unpriced"], totals["cost"]) == (1, 0, provider.invoice.total())
    assert (totals["input_tokens"], totals["output_tokens"], totals["reasoning_tokens"]) == (1001, 57, 23)
    assert (totals["cached_input_tokens"], totals["cache_write_tokens"]) == (403, 101 if form == "messages" else 0)
    (row,) = steps_for_workflow(run.id)
    (charge,) = provider.invoice.charges
    assert row["model"] == DATED.get(charge.model, charge.model)
    assert row["provider"] == {"messages": "anthropic", "google": "gcp.gemini"}.get(form, "openai")


@ALSO_ASYNC
@pytest.mark.parametrize("form", steps.FORMS)
def test_replay_gives_an_object_of_the_sdk_s_class_that_equals_the_first_and_asks_nobody(provider, form, is_async):
    fail_once()

    run = drained(steps.aasks if is_async else steps.asks, provider, form=form, prompt=spent(form))

    first, again = steps.SEEN
    assert (type(again), again) == (type(first), first)
    classes = {"chat": "ChatCompletion", "responses": "Response", "messages": "Message", "google": "dict"}
    assert type(again).__name__ == classes[form]
    assert steps.text_of(again) == "An answer to: hello"
    assert len(provider.requests) == 1
    totals = workflow_totals(run.id)
    assert (totals["cost"], totals["saved"]) == (provider.invoice.total(), provider.invoice.total())


def test_replayed_message_has_only_the_fields_that_the_provider_sent(provider):
    fail_once()

    drained(steps.asks, provider)

    # So that it can be sent back as a part of the conversation.
    sent = [answer.choices[0].message.model_dump(exclude_unset=True) for answer in steps.SEEN]
    assert sent[0] == sent[1]
    assert set(sent[0]) == {"role", "content", "refusal", "annotations"}


def test_request_by_keyword_and_in_a_partial_function_is_what_is_asked_and_names_the_model(provider):
    run = drained(steps.asks_by_request, provider)

    assert run.state == "completed", run.steps["a"].error
    assert [request.max_tokens for request in provider.requests] == [60, 60]
    assert set(LedgerEntry.objects.values_list("key", "model")) == {("keyword", steps.GPT), ("partial", steps.GPT)}
    assert workflow_totals(run.id)["cost"] == provider.invoice.total()


# Streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "form"),
    [
        *((steps.streams, form) for form in steps.STREAMS),
        *((steps.astreams, form) for form in ("chat", "responses", "messages")),
    ],
    ids=[*steps.STREAMS, "async-chat", "async-responses", "async-messages"],
)
def test_stream_of_each_api_is_priced_as_on_the_invoice_and_replayed_chunk_by_chunk(provider, step, form):
    fail_once()

    run = drained(step, provider, form=form, prompt=spent(form))

    assert run.state == "completed", run.steps["a"].error
    first, again = steps.SEEN
    assert [(type(chunk), chunk) for chunk in again] == [(type(chunk), chunk) for chunk in first]
    assert {type(chunk).__module__.split(".")[0] for chunk in again} <= {"openai", "anthropic"}
    assert steps.text_of_chunks(again) == "An answer to: hello"
    assert len(provider.requests) == 1
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["unpriced"], totals["cost"]) == (1, 0, provider.invoice.total())
    assert (totals["input_tokens"], totals["output_tokens"], totals["cached_input_tokens"]) == (1001, 57, 403)
    assert totals["saved"] == provider.invoice.total()


def test_context_managers_of_async_clients_are_streams(provider):
    fail_once()

    run = drained(steps.streams_by_manager, provider, prompt=f"hello {SPENT}")

    assert run.state == "completed", run.steps["a"].error
    assert steps.SEEN[:3] == steps.SEEN[3:]
    assert [steps.text_of_chunks(chunks) for chunks in steps.SEEN] == ["An answer to: hello"] * 6
    assert len(provider.requests) == 3
    assert workflow_totals(run.id)["cost"] == provider.invoice.total()


def test_stream_of_which_no_usage_was_asked_for_is_unpriced_and_not_free(provider):
    run = drained(steps.streams_without_usage, provider)

    totals = workflow_totals(run.id)
    assert (run.state, totals["calls"], totals["unpriced"], totals["cost"]) == ("completed", 1, 1, None)
    assert steps_for_workflow(run.id)[0]["unpriced_because"] == "the answer says nothing of its usage"


# Idempotency keys -----------------------------------------------------------------------------------------------------


def test_provider_is_told_the_same_key_when_a_call_is_made_again_and_charges_once():
    with FakeProvider(honours_keys=True, script=[Failure("drop", charged=True)]) as provider:
        run = drained(steps.asks_with_key, provider)

        assert run.state == "completed", run.steps["a"].error
        (entry, _) = LedgerEntry.objects.order_by("number")
        assert [request.idempotency_key for request in provider.requests] == [entry.idempotency_key] * 2
        totals = workflow_totals(run.id)
        assert (totals["ambiguous"], totals["cost"]) == (1, provider.invoice.total())
        assert len(provider.invoice.charges) == 1
    steps.close_clients()


def test_key_is_another_for_each_key_of_a_step_each_step_and_each_run(provider):
    for _ in range(2):
        step = steps.asks_with_keys.bind(url=provider.url, keys=["one", "two"])
        drain(Workflow("w").add("a", step).add("b", step).insert())

    assert len({request.idempotency_key for request in provider.requests}) == 8


# Failures -------------------------------------------------------------------------------------------------------------

REFUSED = [
    *(
        pytest.param(Failure("refuse", status=429, retry_after=1, retry_after_form=form), id=f"429-{form}")
        for form in ("seconds", "date", "ms")
    ),
    *(pytest.param(Failure("refuse", status=status), id=str(status)) for status in (409, 500, 503, 529)),
]
UNKNOWN = [
    *(pytest.param(Failure("refuse", status=status), id=str(status)) for status in (408, 502, 504)),
    pytest.param(Failure("drop", charged=True), id="dropped-charged"),
    pytest.param(Failure("drop", charged=False), id="dropped-uncharged"),
    pytest.param(Failure("cut"), id="cut"),
    pytest.param(Failure("garble"), id="garbled"),
]
BOTH = pytest.mark.parametrize("form", ["chat", "messages"])


@BOTH
@pytest.mark.parametrize("failure", REFUSED)
def test_refused_call_is_failed_and_made_again_and_costs_nothing(provider, form, failure):
    provider.fail(failure)

    run = drained(steps.asks, provider, form=form, prompt=spent(form))

    assert (run.state, run.steps["a"].attempt) == ("completed", 2)
    assert entries(run) == [(1, "failed"), (2, "answered")]
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["ambiguous"], totals["cost"]) == (1, 0, provider.invoice.total())


@BOTH
@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_call_that_is_refused_for_good_is_not_made_again_and_costs_nothing(provider, form, status):
    provider.fail(Failure("refuse", status=status, message="no such thing", times=None))

    run = drained(steps.asks, provider, form=form)

    assert (run.state, run.steps["a"].state, len(provider.requests)) == ("failed", "discarded", 1)
    assert "no such thing" in run.steps["a"].error
    assert entries(run) == [(1, "failed")]
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["ambiguous"], totals["cost"], provider.invoice.total()) == (0, 0, None, 0)


@BOTH
@pytest.mark.parametrize("failure", UNKNOWN)
def test_call_of_which_nobody_knows_is_marked_and_made_again(provider, form, failure):
    provider.fail(failure)

    run = drained(steps.asks, provider, form=form, prompt=spent(form))

    assert (run.state, run.steps["a"].attempt) == ("completed", 2), run.steps["a"].error
    assert entries(run) == [(1, "ambiguous"), (2, "answered")]
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["ambiguous"]) == (1, 1)
    assert totals["cost"] == cost_of(provider, delivered=True)
    assert provider.invoice.total() - totals["cost"] == cost_of(provider, delivered=False)


@pytest.mark.parametrize("failure", [Failure("cut"), Failure("garble"), Failure("drop")], ids=lambda each: each.kind)
@pytest.mark.parametrize("form", steps.STREAMS)
def test_stream_that_breaks_off_is_marked_and_made_again(provider, form, failure):
    provider.fail(failure)

    run = drained(steps.streams, provider, form=form, prompt=spent(form))

    assert (run.state, run.steps["a"].attempt) == ("completed", 2), run.steps["a"].error
    assert entries(run) == [(1, "ambiguous"), (2, "answered")]
    assert workflow_totals(run.id)["ambiguous"] == 1
    assert workflow_totals(run.id)["cost"] == provider.invoice.charges[-1].cost


@BOTH
@pytest.mark.parametrize("kind", ["delay", "stall"])
def test_call_that_its_client_gives_up_is_marked_and_made_again(provider, form, kind):
    provider.fail(Failure(kind, seconds=5))

    run = drained(steps.asks_in_a_hurry, provider, form=form, prompt=spent(form))

    assert (run.state, run.steps["a"].attempt) == ("completed", 2), run.steps["a"].error
    assert entries(run) == [(1, "ambiguous"), (2, "answered")]
    totals = workflow_totals(run.id)
    assert (totals["ambiguous"], totals["cost"]) == (1, provider.invoice.charges[-1].cost)


@pytest.mark.parametrize("kind", ["delay", "stall"])
@pytest.mark.parametrize(
    ("step", "form"),
    [(steps.asks, "chat"), (steps.asks, "messages"), (steps.streams, "chat"), (steps.streams, "messages-manager")],
    ids=["chat", "messages", "stream", "manager"],
)
def test_call_out_of_which_its_step_is_torn_is_marked_and_its_client_works_on(provider, step, form, kind):
    # A client's first call loads much, which should not be what the time runs out in.
    drained(step, provider, form=form)
    provider.fail(Failure(kind, seconds=10))
    tearing = threading.Thread(target=tear, args=(provider, 2))
    tearing.start()

    run = drain(Workflow("w").add("a", step.bind(url=provider.url, form=form), timeout=60).insert())
    tearing.join()

    assert run.state == "completed", run.steps["a"].error
    assert [each["outcome"] for each in run.steps["a"].attempts] == ["timed_out", "completed"]
    assert entries(run) == [(1, "ambiguous"), (2, "answered")]
    assert workflow_totals(run.id)["cost"] == provider.invoice.charges[-1].cost


def tear(provider: FakeProvider, number: int) -> None:
    """Let the timer of the step strike once so many requests have come."""
    wait_until(lambda: len(provider.requests) == number)
    os.kill(os.getpid(), signal.SIGALRM)


@pytest.mark.parametrize("step", [steps.aasks, steps.astreams], ids=["call", "stream"])
def test_async_call_out_of_which_its_step_is_torn_is_marked(provider, step):
    drained(step, provider)
    provider.fail(Failure("delay", seconds=20))

    run = drain(Workflow("w").add("a", step.bind(url=provider.url), timeout=2).insert())

    assert run.state == "completed", run.steps["a"].error
    assert [each["outcome"] for each in run.steps["a"].attempts] == ["timed_out", "completed"]
    assert entries(run) == [(1, "ambiguous"), (2, "answered")]


def test_call_that_nobody_took_is_failed_and_not_marked():
    with FakeProvider() as gone:
        pass

    run = drained(steps.asks_a_few_times, gone)

    assert (run.state, run.steps["a"].attempt) == ("failed", 2)
    assert entries(run) == [(1, "failed"), (2, "failed")]
    assert workflow_totals(run.id)["ambiguous"] == 0
    steps.close_clients()


@BOTH
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": "many", "input_tokens": "many"}, {}])
def test_answer_that_says_nothing_of_its_usage_is_given_and_counted_as_unpriced(provider, form, usage):
    provider.fail(Failure("usage", usage=usage))

    run = drained(steps.asks, provider, form=form)

    assert run.state == "completed", run.steps["a"].error
    totals = workflow_totals(run.id)
    assert (totals["calls"], totals["unpriced"], totals["cost"], totals["ambiguous"]) == (1, 1, None, 0)


def test_ledger_is_the_invoice_less_the_marked_calls_over_every_api_and_failure(provider):
    prompts = ["hello", spent("messages").replace("cache_write=101 ", ""), "why"]
    provider.fail(
        Failure("refuse", status=429, after=2),
        Failure("drop", charged=True, after=3),
        Failure("cut", after=5),
        Failure("refuse", status=529, after=7),
        Failure("garble", after=9),
        Failure("drop", charged=False, after=11),
        Failure("cut", after=20),
    )
    scripted.AFTER[:] = [scripted.fail(RuntimeError("after the calls")), lambda: None]

    run = drained(steps.asks_many, provider, prompts=prompts)

    assert run.state == "completed", run.steps["a"].error
    assert provider.script.pending == 0
    totals = workflow_totals(run.id)
    answered, unknown = 30, 5
    assert (totals["calls"], totals["ambiguous"], totals["unpriced"]) == (answered, unknown, 0)
    assert totals["cost"] == cost_of(provider, delivered=True)
    assert provider.invoice.total() - totals["cost"] == cost_of(provider, delivered=False) > 0


def cost_of(provider: FakeProvider, *, delivered: bool) -> Decimal:
    """What was charged for answers that arrived whole, or for the others."""
    return sum((each.cost for each in provider.invoice.charges if each.delivered is delivered), Decimal(0))
