"""What a body may leave behind on the connections of its worker, and how they are mended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

T = TypeVar("T")

logger = logging.getLogger("baton.engine")

PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0, 3.0)
"""Seconds between tries to write what must not be lost while the database is away; in all well below a lease."""


def patiently(work: Callable[[], T], *, using: str, what: str, extra: dict[str, Any] | None = None) -> T:
    """Write something that must not be lost, and try again while the database is away.

    Args:
        work: Writes it in a transaction of its own; what it does twice has the effect of once.
        using: The alias of the database.
        what: How a log line names it.
        extra: What log records carry.
    """
    for pause in PAUSES:
        try:
            return work()
        except (OperationalError, InterfaceError):
            if connections[using].in_atomic_block:
                raise
            logger.warning("%s could not be written yet; trying again.", what, exc_info=True, extra=extra)
            connections[using].close()
            time.sleep(pause)
    return work()


def open_transactions() -> frozenset[str]:
    """The aliases on which somebody holds a transaction open around us, as a test does: those are not ours to break."""
    return frozenset(each.alias for each in connections.all(initialized_only=True) if each.in_atomic_block)


def mend_connections(around: frozenset[str], *, was_torn: bool = False) -> None:
    """Leave no broken connection and no open transaction of a body behind.

    Args:
        around: The aliases on which a transaction was open before the body.
        was_torn: The body was torn out of whatever it did, perhaps a query: nothing is known of its connections.
    """
    for connection in connections.all(initialized_only=True):
        if connection.alias in around:
            continue
        if connection.in_atomic_block:
            _reset(connection)
        elif connection.connection is not None and (
            was_torn or connection.errors_occurred or not connection.get_autocommit()
        ):
            connection.close()


def _reset(connection: BaseDatabaseWrapper) -> None:
    """Give a wrapper back its first state: the body was torn inside ``atomic()``, or never left it.

    Django would keep such a connection, closed, for ever: every later task of this worker would find it broken.
    """
    connection.close()
    connection.connection = None
    connection.in_atomic_block = connection.closed_in_transaction = connection.needs_rollback = False
    connection.savepoint_ids, connection.atomic_blocks, connection.run_on_commit = [], [], []
