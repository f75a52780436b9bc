"""Helpers that tests share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, timeout: float = 60.0, what: str = "the condition") -> T:
    """Ask until the answer is true, and return it.

    Args:
        condition: Asked every few milliseconds.
        timeout: Seconds after which the test fails.
        what: What is waited for, for the message.
    """
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout:g} seconds")
        time.sleep(0.01)
    return answer
