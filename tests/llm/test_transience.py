from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from fake_llm import Failure, FakeProvider

from baton import Cancel, Discard, Snooze
from baton.exceptions import StepTimeoutError
from baton.llm.transience import CAP_SECONDS, is_transient, llm_backoff, outcome_unknown, retry_after
from tests.llm.bodies import ask_anthropic_once, ask_openai_once

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ASK = {"openai": ask_openai_once, "anthropic": ask_anthropic_once}


@pytest.fixture(scope="module")
def _server() -> Iterator[FakeProvider]:
    with FakeProvider() as server:
        yield server


@pytest.fixture
def provider(_server: FakeProvider) -> FakeProvider:
    _server.reset()
    return _server


@pytest.fixture(params=sorted(ASK))
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return ASK[request.param]


@pytest.fixture
def nobody() -> str:
    """An address on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def raised_by(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        call(*args, **kwargs)
    return caught.value


def raise_while_handling(error: Exception) -> None:
    """Fail as a body does that has caught a refusal and goes on."""
    try:
        raise error
    except AnswerError:
        raise LookupError  # noqa: B904 - as bodies do


def raise_instead_of(error: Exception) -> None:
    try:
        raise error
    except AnswerError:
        raise LookupError from None


def raise_because_of(error: Exception) -> None:
    raise LookupError from error


class AnswerError(Exception):
    """An error that tells of an answer as the clients' own do."""

    def __init__(self, status: int | None = None, **headers: str) -> None:
        self.response = SimpleNamespace(
            status_code=status, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )


# When to come back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["seconds", "date", "ms"])
def test_each_form_of_retry_after_is_read_from_the_clients_own_errors(provider, ask, form):
    provider.fail(Failure("refuse", status=429, retry_after=90, retry_after_form=form))
    before = datetime.now(UTC)

    wait = retry_after(raised_by(ask, provider.url), before)

    assert wait is not None
    assert 88 <= wait <= 95


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "3"}, 3),
        ({"Retry_After": " 2.5 "}, 2.5),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after_ms": "soon", "retry_after": "9"}, 9),
        ({"retry_after": "0"}, 0),
        ({"retry_after": "-5"}, 0),
        ({"retry_after": "86400"}, CAP_SECONDS),
        ({"retry_after": format_datetime(NOW + timedelta(seconds=40), usegmt=True)}, 40),
        ({"retry_after": format_datetime((NOW + timedelta(seconds=40)).replace(tzinfo=None))}, 40),
        ({"retry_after": format_datetime(NOW - timedelta(seconds=40), usegmt=True)}, 0),
        ({"retry_after": format_datetime(NOW + timedelta(days=40), usegmt=True)}, CAP_SECONDS),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "Sat, 99 Nov 2026 12:00:00 GMT"}, None),
        ({"retry_after": ""}, None),
        ({}, None),
    ],
)
def test_what_a_server_may_write_there_is_bounded_and_what_nobody_can_read_is_passed_over(headers, seconds):
    assert retry_after(AnswerError(429, **headers), NOW) == seconds


def test_retry_after_is_found_behind_the_error_that_a_body_made_of_it():
    refusal = AnswerError(429, retry_after="7")

    assert retry_after(raised_by(raise_because_of, refusal), NOW) == 7
    assert retry_after(raised_by(raise_while_handling, refusal), NOW) == 7
    assert retry_after(raised_by(raise_instead_of, refusal), NOW) is None


def test_of_a_group_of_errors_the_longest_wait_counts():
    group = ExceptionGroup("two of three", [ValueError(), AnswerError(429, retry_after="7"), AnswerError(429)])
    both = ExceptionGroup("more", [group, AnswerError(429, retry_after="8")])

    assert retry_after(both, NOW) == 8
    assert retry_after(ExceptionGroup("none", [ValueError()]), NOW) is None


def test_errors_in_a_circle_and_attributes_that_raise_end_the_search():
    class HostileError(Exception):
        @property
        def response(self):
            raise RuntimeError

    one, other = HostileError(), HostileError()
    one.__cause__, other.__cause__ = other, one

    assert retry_after(one, NOW) is None
    assert is_transient(one) is None
    assert outcome_unknown(one)


def test_backoff_is_what_the_server_asked_for_and_a_little_more_so_that_not_all_come_back_at_once():
    waits = [llm_backoff(1, AnswerError(429, retry_after="30")) for _ in range(200)]

    assert 30 <= min(waits) <= max(waits) <= 33
    assert len(set(waits)) > 100


def test_backoff_is_drawn_from_a_span_that_doubles_up_to_an_hour_where_the_server_says_nothing():
    for attempt in (1, 2, 5, 12, 1000):
        whole = min(2.0**attempt, 3600) if attempt < 100 else 3600
        waits = [llm_backoff(attempt, ValueError()) for _ in range(200)]

        assert 0 <= min(waits) < whole / 3
        assert whole * 2 / 3 < max(waits) <= whole


# Whether to try again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "transient"),
    [
        *[(status, False) for status in (400, 401, 403, 404, 413, 422)],
        *[(status, True) for status in (408, 409, 429, 500, 502, 503, 504, 529)],
    ],
)
def test_status_says_whether_another_attempt_may_help(provider, ask, status, transient):
    provider.fail(Failure("refuse", status=status))

    assert is_transient(raised_by(ask, provider.url)) is transient


@pytest.mark.parametrize(("status", "header", "transient"), [(400, "true", True), (500, "false", False)])
def test_server_s_own_word_wins_over_the_status(provider, ask, status, header, transient):
    provider.fail(Failure("refuse", status=status, headers={"x-should-retry": header}))

    assert is_transient(raised_by(ask, provider.url)) is transient


@pytest.mark.parametrize("error", [ValueError(), RuntimeError("429"), AnswerError(200), AnswerError(302)], ids=repr)
def test_error_that_says_nothing_of_it_is_left_to_the_engine(error):
    assert is_transient(error) is None


def test_refusal_that_was_only_being_handled_is_not_the_reason():
    """A body that turns to another model must not be judged by the first one's refusal."""
    error = raised_by(raise_while_handling, AnswerError(400))

    assert is_transient(error) is None
    assert outcome_unknown(error)


def test_refusal_that_a_body_names_as_the_reason_counts():
    error = raised_by(raise_because_of, AnswerError(400))

    assert is_transient(error) is False
    assert not outcome_unknown(error)


# Whether it was paid -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "unknown"),
    [
        *[(status, False) for status in (400, 401, 404, 429, 500, 503, 529)],
        *[(status, True) for status in (408, 502, 504, 524)],
    ],
)
def test_refusal_is_known_unless_somebody_on_the_way_gave_up_waiting(provider, ask, status, unknown):
    provider.fail(Failure("refuse", status=status))

    assert outcome_unknown(raised_by(ask, provider.url)) is unknown


@pytest.mark.parametrize(
    "failure",
    [
        Failure("drop", charged=True),
        Failure("cut"),
        Failure("garble", body='{"id": "cut o'),
        Failure("delay", seconds=60),
    ],
    ids=lambda failure: failure.kind,
)
def test_after_anything_that_can_follow_the_sending_nobody_knows(provider, ask, failure):
    provider.fail(failure)

    error = raised_by(ask, provider.url, timeout=1.5)

    assert provider.invoice.total() > 0
    assert outcome_unknown(error)
    assert is_transient(error) is not False


QUESTION = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


def over_httpx2(url: str) -> None:
    httpx2.post(url, json=QUESTION).raise_for_status()


def over_requests(url: str) -> None:
    requests = pytest.importorskip("requests")

    requests.post(url, json=QUESTION, timeout=20).raise_for_status()


def over_urllib3(url: str) -> None:
    urllib3 = pytest.importorskip("urllib3")

    with urllib3.PoolManager(retries=False) as pool:
        pool.request("POST", url, json=QUESTION)


def over_urllib(url: str) -> None:
    request = urllib.request.Request(url, json.dumps(QUESTION).encode(), {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=20).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise


BY_HAND = [over_httpx2, over_requests, over_urllib3, over_urllib]
CLIENTS = [ask_openai_once, ask_anthropic_once, *BY_HAND]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_connection_that_was_never_made_cost_nothing_and_may_be_tried_again(nobody, client):
    error = raised_by(client, nobody)

    assert not outcome_unknown(error)
    assert is_transient(error) is True


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_name_that_nobody_has_cost_nothing(client):
    error = raised_by(client, "http://nobody.invalid")

    assert not outcome_unknown(error)
    assert is_transient(error) is True


@pytest.mark.parametrize("client", BY_HAND, ids=lambda client: client.__name__)
def test_connection_that_broke_after_the_sending_may_have_cost_something(provider, client):
    provider.fail(Failure("drop", charged=True, times=None))

    error = raised_by(client, f"{provider.openai_url}/chat/completions")

    assert outcome_unknown(error)
    assert is_transient(error) is not False


@pytest.mark.parametrize("client", BY_HAND, ids=lambda client: client.__name__)
def test_connection_that_broke_while_another_refusal_was_handled_is_unknown(provider, nobody, client):
    def turn_to_another() -> None:
        try:
            client(nobody)
        except Exception:  # noqa: BLE001 - each client has its own
            client(f"{provider.openai_url}/chat/completions")

    provider.fail(Failure("drop", charged=True, times=None))

    assert outcome_unknown(raised_by(turn_to_another))


@pytest.mark.parametrize("client", [over_httpx2, over_requests, over_urllib], ids=lambda client: client.__name__)
def test_plain_http_answer_is_read_whoever_raised_it(provider, client):
    provider.fail(Failure("refuse", status=429, retry_after=7))

    error = raised_by(client, f"{provider.openai_url}/chat/completions")

    assert retry_after(error, NOW) == 7
    assert is_transient(error) is True
    assert not outcome_unknown(error)


def test_tls_that_was_never_agreed_upon_cost_nothing(provider):
    assert not outcome_unknown(raised_by(over_httpx2, provider.url.replace("http:", "https:")))


def test_word_of_the_body_to_its_own_step_is_no_unknown_outcome():
    for directive in (Snooze(5), Discard("no"), Cancel("no")):
        assert not outcome_unknown(directive)


def test_everything_else_is_unknown():
    for error in (KeyboardInterrupt(), SystemExit(404), StepTimeoutError(3), ValueError(), TimeoutError()):
        assert outcome_unknown(error)


def test_nothing_is_a_refusal_once_a_stream_began():
    for error in (AnswerError(400), ConnectionRefusedError(), Discard("no"), Snooze(1)):
        assert outcome_unknown(error, began=True)
