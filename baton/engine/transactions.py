"""What a body may leave behind on the connections of its worker, and how they are mended."""

from __future__ import annotations

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


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
