"""Held steps: snoozed for no time, until there is money or a person has spoken."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from django.db import DatabaseError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2
from baton.engine import statements as sql
from baton.engine.gate import Claim
from baton.models.fields import as_units
from baton.returns import Snooze
from baton.states import HoldKind

logger = logging.getLogger("baton.engine")

Beside = Callable[[BaseDatabaseWrapper], None]
"""What is written in the transaction of something else: the usage with the answer, or with the settle."""

_WRITE = sql.Statement("""
    INSERT INTO baton_hold (node_id, run_id, kind, account, amount, reason, since)
    SELECT id, run_id, %s, %s, %s, %s, <now> FROM baton_workflownode WHERE id = %s
    ON CONFLICT (node_id) DO UPDATE
    SET kind = excluded.kind, account = excluded.account, amount = excluded.amount, reason = excluded.reason,
        since = excluded.since
""")
_RELEASE = sql.Statement("DELETE FROM baton_hold WHERE node_id <ids>")
_READY = sql.Statement("""
    UPDATE baton_workflownode
    SET state = 'available', queued_at = <now>, changed_at = <now>, version = version + 1
    WHERE id <ids> AND state = 'snoozed' AND due_at IS NULL
    RETURNING queue
""")


class Held(Snooze):
    """Put a step off until there is money or a person has spoken; no attempt is consumed and no worker is held."""

    def __init__(
        self,
        kind: HoldKind,
        reason: str,
        *,
        still: Callable[[BaseDatabaseWrapper], bool],
        account: str = "",
        amount: Decimal | None = None,
    ) -> None:
        super().__init__(0)
        self.kind, self.reason, self.account, self.amount = kind, reason, account, amount
        self.still = still
        """Asked once the hold is written, with what it waits for locked: whether it is still to be waited for."""
        self.args = (reason,)


def write_besides(connection: BaseDatabaseWrapper, besides: Sequence[Beside], *, about: Mapping[str, Any]) -> None:
    """Write usages in the transaction of a settle, or without one; one that fails harms neither it nor the others."""
    for beside in besides:
        try:
            with transaction.atomic(using=connection.alias):
                beside(connection)
        except DatabaseError:
            logger.exception("A usage of step %r could not be written.", about["step_name"], extra=about)


def write_hold(connection: BaseDatabaseWrapper, claim: Claim, hold: Held) -> None:
    """Write what a step that was just put off waits for; where that has come meanwhile, wake the step at once.

    Whoever gives money back or speaks looks for holds afterwards, so one of the two sees the other.
    """
    amount = None if hold.amount is None else as_units(hold.amount)
    sql.execute(connection, _WRITE, [hold.kind.value, hold.account, amount, hold.reason, claim.node_id])
    if not hold.still(connection):
        wake_nodes(connection, [claim.node_id])


def wake_nodes(connection: BaseDatabaseWrapper, node_ids: Sequence[int]) -> int:
    """Ready held steps, and ring for them, inside the caller's transaction.

    Returns:
        How many were readied.
    """
    if not node_ids:
        return 0
    ids = sql.ids_param(connection, sorted(node_ids))
    # The steps before their holds, as in a cancel and wherever a step is put off.
    sql.fetch(connection, sql.LOCK_NODES, [ids])
    sql.execute(connection, _RELEASE, [ids])
    readied = Counter(queue for (queue,) in sql.fetch(connection, _READY, [ids]))
    q2.ring(readied, using=connection.alias)
    return readied.total()
