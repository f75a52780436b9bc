"""How long a failed step waits for its next attempt."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping
from typing import Any

from baton.registry import Backoff
from baton.returns import MAX_DELAY_SECONDS

logger = logging.getLogger("baton.engine")

CAP_SECONDS = 3600.0


def backoff_seconds(
    backoff: Backoff, attempt: int, error: BaseException, *, about: Mapping[str, Any] | None = None
) -> float:
    """Seconds from the failure of an attempt to the due time of the next.

    The default is exponential with "equal jitter" (M. Brooker, *Exponential Backoff And Jitter*, AWS Architecture
    Blog, 2015): between the half and the whole of ``2 ** attempt`` seconds, an hour at most.

    Args:
        backoff: What the step says: seconds, a list of seconds whose last repeats, a callable, or None.
        attempt: The attempt that failed: 1, 2, …
        error: What it failed with.
        about: What log records about the step carry.
    """
    if isinstance(backoff, list):
        return backoff[min(attempt, len(backoff)) - 1]
    if isinstance(backoff, (int, float)):
        return float(backoff)
    if backoff is not None:
        try:
            seconds = float(backoff(attempt, error))
        except Exception:
            logger.exception("The backoff %r raised; the default is used.", backoff, extra=about)
        else:
            if math.isfinite(seconds) and 0 <= seconds <= MAX_DELAY_SECONDS:
                return seconds
            logger.error("The backoff %r returned %r; the default is used.", backoff, seconds, extra=about)
    whole = min(2.0 ** min(attempt, 32), CAP_SECONDS)
    return random.uniform(whole / 2, whole)  # noqa: S311 - spread, not secrecy
