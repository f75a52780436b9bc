"""What an error of a provider's client means: whether to try again and when, and whether the call may have been paid.

Errors are known by their attributes and by the names of their classes, so that no client need be installed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from baton.returns import Directive

CAP_SECONDS = 3600.0
"""The longest wait, whatever a server asks for."""

_TRANSIENT = frozenset({408, 409, 429})
# Somebody on the way gave up: whether the provider behind went on is not known.
_GAVE_UP_WAITING = frozenset({408, 502, 504, 524})
_NEVER_CONNECTED = frozenset(
    {
        "ClientConnectorError",  # aiohttp
        "ConnectError",  # httpx and httpx2, TLS included
        "ConnectTimeout",  # the same, and requests
        "ConnectTimeoutError",  # urllib3
        "ConnectionRefusedError",
        "ConnectionTimeoutError",  # aiohttp
        "NewConnectionError",  # urllib3
        "PoolTimeout",  # httpx and httpx2
        "SSLCertVerificationError",
        "gaierror",
    }
)
_CONNECTIONS = _NEVER_CONNECTED | {
    "APIConnectionError",  # openai and anthropic
    "ClientConnectionError",  # aiohttp
    "ConnectionError",  # Python's own, and requests
    "Timeout",  # requests
    "TimeoutError",  # Python's own, and urllib3
    "TransportError",  # httpx and httpx2
}


def retry_after(error: BaseException, now: datetime) -> float | None:
    """Seconds that the server asked to wait, an hour at most; None where it did not say.

    Both forms of ``Retry-After`` are read, and ``retry-after-ms``, which OpenAI sends beside it. Of a group of errors
    the longest wait counts.

    Args:
        error: What the client raised, or something raised because of that or while that was handled.
        now: An aware time, from which a date is counted.
    """
    for each in _explained(error, by_context=True):
        if isinstance(each, BaseExceptionGroup):
            waits = [retry_after(member, now) for member in each.exceptions]
            return max((wait for wait in waits if wait is not None), default=None)
        headers = _headers(each)
        wait = _milliseconds(headers.get("retry-after-ms"))
        if wait is None:
            wait = _seconds_or_date(headers.get("retry-after"), now)
        if wait is not None:
            return min(max(wait, 0.0), CAP_SECONDS)
    return None


def is_transient(error: BaseException) -> bool | None:
    """Whether another attempt may help; None where the error says nothing of it.

    The header ``x-should-retry`` wins. Otherwise 408, 409, 429 and every 5xx, connection errors and time-outs are
    transient, and every other 4xx is not.
    """
    for each in _explained(error):
        match _headers(each).get("x-should-retry"):
            case "true":
                return True
            case "false":
                return False
        status = _status(each)
        if status is not None:
            if 400 <= status < 500:
                return status in _TRANSIENT
            return True if 500 <= status < 600 else None
        if _is_one_of(each, _CONNECTIONS):
            return True
    return None


def outcome_unknown(error: BaseException, *, began: bool = False) -> bool:
    """Whether nobody can know if the provider answered, and charges for it.

    Known are refusals: a status from 400 to 599 of the provider itself, a connection that was never made, and what a
    body raises to steer its step. After anything else the answer may be on its way: a time-out, a connection that
    broke, an answer that could not be read.

    Args:
        error: What the call raised.
        began: The first chunk of a stream was read, so that nothing is a refusal any more.
    """
    if isinstance(error, Directive):
        return began
    if began or not isinstance(error, Exception):
        return True
    for each in _explained(error):
        status = _status(each)
        if status is not None:
            return not 400 <= status < 600 or status in _GAVE_UP_WAITING
        if _is_one_of(each, _NEVER_CONNECTED):
            return False
    return True


def llm_backoff(attempt: int, error: BaseException) -> float:
    """Seconds before the next attempt of a call: what the server asked for, else a time drawn from a doubling span.

    What was asked for gets up to a tenth on top, a second at least, so that steps which were refused together do not
    come back together. The span is "full jitter" (M. Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog,
    2015): from 0 to ``2 ** attempt`` seconds, an hour at most.
    """
    asked = retry_after(error, datetime.now(UTC))
    if asked is not None:
        return asked + random.uniform(0, max(1.0, asked / 10))  # noqa: S311 - spread, not secrecy
    return random.uniform(0, min(2.0 ** min(attempt, 32), CAP_SECONDS))  # noqa: S311 - as above


def _explained(error: BaseException, *, by_context: bool = False) -> Iterator[BaseException]:
    """An error and what it names as its reason, from one to the next.

    What was merely being handled is no reason: that may be the refusal of another call.
    """
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        context = following.__context__ if by_context and not following.__suppress_context__ else None
        # requests and urllib tell the reason by an argument, urllib3 by an attribute.
        argument = next(iter(_arguments(following)), None)
        reasons = (following.__cause__, _attribute(following, "reason"), argument, context)
        following = next((each for each in reasons if isinstance(each, BaseException)), None)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error tells of."""
    response = _attribute(error, "response")
    candidates = [_attribute(error, "status_code"), _attribute(response, "status_code")]
    if response is not None or _attribute(error, "headers") is not None:
        # aiohttp, urllib and Google's clients; without an answer beside it a code can be any number.
        candidates += [_attribute(error, "status"), _attribute(error, "code")]
    return next((each for each in candidates if isinstance(each, int) and not isinstance(each, bool)), None)


def _headers(error: BaseException) -> dict[str, str]:
    """The headers of the answer that an error tells of, by their names in lower case."""
    headers = _attribute(_attribute(error, "response"), "headers") or _attribute(error, "headers")
    try:
        return {str(name).lower(): str(value).strip() for name, value in headers.items()}
    except Exception:  # noqa: BLE001 - no mapping, or None
        return {}


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a property that raises says nothing
        return None


def _arguments(error: BaseException) -> tuple[Any, ...]:
    arguments = _attribute(error, "args")
    return arguments if isinstance(arguments, tuple) else ()


def _is_one_of(error: BaseException, names: frozenset[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _milliseconds(text: str | None) -> float | None:
    number = _number(text)
    return None if number is None else number / 1000


def _seconds_or_date(text: str | None, now: datetime) -> float | None:
    number = _number(text)
    if number is not None or not text:
        return number
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    # Without a zone it is the UTC of RFC 5322's "-0000".
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now.timestamp()


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
