"""What a body may return or raise besides its result."""

from __future__ import annotations

import math
from datetime import timedelta

# A due time must stay inside what every database and datetime can hold.
MAX_DELAY_SECONDS = 100 * 366 * 24 * 3600.0


class Directive(Exception):  # noqa: N818 - control flow, not an error
    """The base of what a body returns or raises to steer its own step."""


class Snooze(Directive):
    """Run the step again later; no attempt is consumed.

    Attributes:
        seconds: How long to wait at least; 0 is at once.

    Raises:
        ValueError: The time is negative, not finite, or more than a hundred years.

    Example:
        ``raise Snooze(30)`` or ``return Snooze(timedelta(minutes=5))``.
    """

    def __init__(self, seconds: float | timedelta = 0) -> None:
        value = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
        if not math.isfinite(value) or not 0 <= value <= MAX_DELAY_SECONDS:
            msg = f"Snooze({seconds!r}): give seconds from 0 to a hundred years."
            raise ValueError(msg)
        self.seconds = value
        super().__init__(f"snoozed for {value:g} s")


class Discard(Directive):
    """Give the step up now: it becomes discarded, whatever attempts remain.

    Attributes:
        reason: Kept as the step's error.
    """

    def __init__(self, reason: object = "") -> None:
        self.reason = str(reason) or "discarded by its body"
        super().__init__(self.reason)


class Cancel(Directive):
    """Call the step off now: it becomes cancelled.

    Attributes:
        reason: Kept as the step's error.
    """

    def __init__(self, reason: object = "") -> None:
        self.reason = str(reason) or "cancelled by its body"
        super().__init__(self.reason)
