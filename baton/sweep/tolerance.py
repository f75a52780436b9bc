"""One row that cannot be mended must not keep the others from it, pass after pass."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import InterfaceError, OperationalError

from baton.engine.statements import is_locked

logger = logging.getLogger("baton.sweep")


class Tolerance:
    """Keeps what a row raised until the others are done."""

    def __init__(self) -> None:
        self._first: Exception | None = None

    @contextmanager
    def over(self, what: str, **about: Any) -> Iterator[None]:
        """Go on after this block, whatever it raises, unless the database is away.

        Args:
            what: Names the row, for the log.
            about: What the log record carries besides.
        """
        try:
            yield
        except (InterfaceError, OperationalError) as exc:
            if not is_locked(exc):
                raise
            logger.warning("Somebody keeps a lock on %s, which the sweep would mend.", what, extra=about)
            self._first = self._first or exc
        except Exception as exc:
            logger.exception("The sweep could not mend %s.", what, extra=about)
            self._first = self._first or exc

    def raise_first(self) -> None:
        """Raise what the first of them raised, so that the part counts as failed."""
        if self._first is not None:
            raise self._first
