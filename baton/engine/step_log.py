"""Step logs: the newest lines that bodies wrote to ``ctx.logger``, gathered in memory and kept beside the step's row.

They are a courtesy: nothing here fails a step, and nothing holds it up for long.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.engine import statements as sql
from baton.engine.errors import storable_text
from baton.telemetry import timestamp
from baton.values import decode, encode

logger = logging.getLogger("baton.engine")

KEPT_LINES = 200
"""How many lines a step keeps, over all its executions."""
MESSAGE_LENGTH = 2_000
"""How long a line may be, in characters; a longer one loses its middle."""
LOG_LENGTH = 100_000
"""How long all lines of a step may be, in characters of JSON; the oldest go first."""

_TURN_SECONDS = 1.0
"""How long an execution waits for its heartbeat, where that is writing the same log."""


class LineBuffer:
    """The lines of one execution, to be written with each heartbeat and once before the step settles.

    Any thread may add a line. A signal may tear a body out of anything, so adding takes no lock.
    """

    def __init__(self, about: Mapping[str, Any], *, fence: int) -> None:
        self._about, self._fence = about, fence
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._written: str | None = None
        self._earlier: Sequence[str] | None = None
        self._turn = threading.Lock()

    def add(self, level: str, message: str) -> None:
        """Add a line."""
        line = {"at": timestamp(), "level": level, "attempt": self._about["attempt"], "message": _short(message)}
        self._lines.append(encode(line))

    def write(self, connection: BaseDatabaseWrapper, *, patiently: bool = True) -> None:
        """Write what is new, in one try.

        Args:
            connection: To Baton's database.
            patiently: Whether to wait where another thread is writing these lines.
        """
        if not self._lines or self._lines[-1] is self._written:
            return
        if not self._turn.acquire(timeout=_TURN_SECONDS if patiently else 0):
            return
        try:
            lines = self._lines.copy()
            if lines[-1] is not self._written:
                self._write(connection, lines)
                self._written = lines[-1]
        except Exception:
            name, extra = self._about["step_name"], self._about
            logger.warning("The log of step %r could not be written.", name, exc_info=True, extra=extra)
            if not connection.in_atomic_block:
                connection.close()
        finally:
            self._turn.release()

    def _write(self, connection: BaseDatabaseWrapper, lines: Iterable[str]) -> None:
        stands_alone = not connection.in_atomic_block
        with transaction.atomic(using=connection.alias):
            if stands_alone and connection.vendor == "postgresql":
                sql.fetch(connection, sql.STAND_ASIDE, [])
            if self._earlier is None:
                self._earlier = self._read(connection)
            text = f"[{', '.join(_newest([*self._earlier, *lines]))}]"
            sql.execute(connection, sql.WRITE_LOG, [self._fence, text, self._about["node_id"]])

    def _read(self, connection: BaseDatabaseWrapper) -> list[str]:
        """The lines of earlier executions, of which the first has none."""
        if self._fence <= 1:
            return []
        rows = sql.fetch(connection, sql.READ_LOG, [self._about["node_id"]])
        return [encode(line) for line in decode(rows[0][0])] if rows else []


def _newest(lines: list[str]) -> list[str]:
    """As many of the newest lines as a step keeps."""
    kept: list[str] = []
    length = 0
    for line in reversed(lines[-KEPT_LINES:]):
        length += len(line)
        if kept and length > LOG_LENGTH:
            break
        kept.append(line)
    return kept[::-1]


def _short(message: str) -> str:
    """A message that every row can hold, without its middle if it is long: a traceback says most at its ends."""
    if len(message) > MESSAGE_LENGTH:
        half = MESSAGE_LENGTH // 2
        message = f"{message[: half - 1]}…{message[-half:]}"
    return storable_text(message)
