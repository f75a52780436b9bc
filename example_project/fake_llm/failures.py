"""How the provider fails when it is told to."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Literal, get_args

from fake_llm.wire import Request

Kind = Literal["refuse", "drop", "cut", "delay", "stall", "garble", "usage", "huge"]


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing to go wrong, and when.

    Only ``refuse``, and ``drop`` when told so, are free of charge. What else fails is on the invoice as if nothing had
    happened.
    """

    kind: Kind
    """``refuse``: an error of HTTP with the provider's JSON. ``drop``: the connection ends before the answer, ``cut``:
    in the middle of it, of a stream or not. ``delay``: the answer comes late, ``stall``: its second half does.
    ``garble``: ``body`` instead of the answer, in a stream instead of its second half. ``usage``: ``usage`` stands in
    the place of the truth, None leaves it out. ``huge``: an answer of ``size`` bytes."""
    _: KW_ONLY
    status: int = 500
    message: str = "The fake provider was told to fail."
    retry_after: float | None = None
    """In seconds, for ``refuse``."""
    retry_after_form: Literal["seconds", "date", "ms"] = "seconds"
    headers: Mapping[str, str] = field(default_factory=dict)
    """More headers of a refusal."""
    charged: bool = True
    """Whether a ``drop`` is paid for."""
    seconds: float = 0
    size: int = 20_000_000
    body: str = '{"id": "cut o'
    usage: Mapping[str, Any] | None = None

    prompt: str = ""
    """Only requests whose prompt contains this."""
    model: str = ""
    """Only requests for this model."""
    after: int = 0
    """How many such requests are let through first."""
    times: int | None = 1
    """How many fail then; None for all."""

    def __post_init__(self) -> None:
        """Refuse a kind that there is not."""
        if self.kind not in get_args(Kind):
            raise ValueError(f"{self.kind!r} is no failure; there are {', '.join(get_args(Kind))}.")

    def concerns(self, request: Request) -> bool:
        """Say whether it is about a request like this."""
        return self.prompt in request.prompt and self.model in {"", request.model}

    def refusal_headers(self) -> dict[str, str]:
        """Return what a refusal says in its headers."""
        headers = dict(self.headers)
        if self.retry_after is None:
            return headers
        match self.retry_after_form:
            case "seconds":
                headers["retry-after"] = f"{self.retry_after:g}"
            case "date":
                # HTTP-dates have whole seconds; rounded up, for nobody may be sent away to come too early.
                due = math.ceil((datetime.now(UTC) + timedelta(seconds=self.retry_after)).timestamp())
                headers["retry-after"] = format_datetime(datetime.fromtimestamp(due, UTC), usegmt=True)
            case "ms":
                headers["retry-after-ms"] = f"{self.retry_after * 1000:g}"
        return headers


class Script:
    """The failures still to come; each request gets the first that is about it and not used up."""

    def __init__(self, failures: Iterable[Failure] = ()) -> None:
        self._lock = threading.Lock()
        self._seen: list[tuple[Failure, int]] = [(failure, 0) for failure in failures]

    def add(self, *failures: Failure) -> None:
        """Append failures."""
        with self._lock:
            self._seen += [(failure, 0) for failure in failures]

    def clear(self) -> None:
        """Forget what was to come."""
        with self._lock:
            self._seen.clear()

    def next(self, request: Request) -> Failure | None:
        """Return what goes wrong with this request, None for nothing."""
        with self._lock:
            for place, (failure, seen) in enumerate(self._seen):
                if not failure.concerns(request) or _is_used_up(failure, seen):
                    continue
                self._seen[place] = (failure, seen + 1)
                if seen >= failure.after:
                    return failure
        return None

    @property
    def pending(self) -> int:
        """How many of the failures are not used up."""
        with self._lock:
            return sum(not _is_used_up(failure, seen) for failure, seen in self._seen)


def _is_used_up(failure: Failure, seen: int) -> bool:
    return failure.times is not None and seen >= failure.after + failure.times
