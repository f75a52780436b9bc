"""A call that must not take for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable


def in_time(call: Callable[[], object], *, seconds: float) -> None:
    """Call it in a thread of its own, which is left behind when it takes too long.

    Raises:
        TimeoutError: It took longer.
        Exception: Whatever it raised.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:  # noqa: BLE001 - raised again by whoever waits
            raised.append(exc)

    thread = threading.Thread(target=run, name="baton-doctor", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        msg = f"no answer within {seconds:g} s"
        raise TimeoutError(msg)
    if raised:
        raise raised[0]
