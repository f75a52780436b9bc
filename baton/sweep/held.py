"""Calls whose worker vanished, and held steps for which what they wait for has come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.engine import statements as sql
from baton.engine.accounts import count_fitting, held_accounts, wake_held
from baton.engine.holds import wake_nodes
from baton.models import LedgerEntry
from baton.states import EntryState
from baton.sweep.tolerance import Tolerance

BATCH = 500
HOOK_SECONDS = 900.0
"""How long the call of a hook may take before it counts as given up."""

_IS_OVER = """
    FROM baton_ledgerentry e
    WHERE e.state = 'calling' AND NOT EXISTS (
        SELECT 1 FROM baton_workflownode n
        WHERE n.id = e.node_id AND n.fence = e.fence
            AND (n.state = 'executing' OR (n.state = 'cancelled' AND e.started_at > <before>)))
"""
# The hook of a cancelled step may call, too, and nobody knows how long it takes.
_MARK_VANISHED = sql.Statement(f"""
    UPDATE baton_ledgerentry
    SET state = 'ambiguous', ended_at = <now>,
        error = CASE WHEN error = '' THEN 'its worker vanished' ELSE error END
    WHERE id <in>SELECT e.id {_IS_OVER} ORDER BY e.started_at LIMIT %s <skip locked></in>
""")  # noqa: S608 - built from our own constants
"""Calls whose execution is over; an answer may still come. Index: baton_entry_calling."""
_COUNT_VANISHED = sql.Statement(f"SELECT count(*) {_IS_OVER}")

_QUESTIONS = sql.Statement("""
    SELECT node_id, account FROM baton_hold
    WHERE account > %s AND account < 'entry;' AND kind = 'question' ORDER BY account LIMIT %s
""")
"""Steps that wait for a person, by the calls that they wait with. Index: baton_hold_by_account."""

_IS_NOT_HELD = """
    FROM baton_hold h WHERE (
        SELECT n.state = 'snoozed' AND n.due_at IS NULL FROM baton_workflownode n WHERE n.id = h.node_id) IS NOT TRUE
"""
# Not NOT EXISTS, which the planner makes a join of, and then reads every step there is.
_DELETE_STALE = sql.Statement(f"""
    DELETE FROM baton_hold WHERE node_id <in>SELECT h.node_id {_IS_NOT_HELD} LIMIT %s <skip locked></in>
""")  # noqa: S608 - built from our own constants
_COUNT_STALE = sql.Statement(f"SELECT count(*) {_IS_NOT_HELD}")


def mark_vanished(connection: BaseDatabaseWrapper) -> Iterator[int]:
    """Mark calls as of unknown outcome whose worker vanished, was cancelled or has lost its step.

    Yields:
        How many, batch by batch.
    """
    marked = BATCH
    while marked == BATCH:
        marked = sql.execute(connection, _MARK_VANISHED, [HOOK_SECONDS, BATCH])
        yield marked


def count_vanished(connection: BaseDatabaseWrapper) -> int:
    """How many calls are to be marked."""
    return int(sql.fetch(connection, _COUNT_VANISHED, [HOOK_SECONDS])[0][0])


def wake_waiting(connection: BaseDatabaseWrapper) -> Iterator[int]:
    """Ready held steps for which there is money, or a word, and forget holds of steps that are not held.

    Whoever gives money back or speaks does that at once; this is for what a crash has left, for budgets that were
    raised behind Baton's back or in the settings, and for a new day.

    Yields:
        How many, batch by batch.
    """
    tolerance = Tolerance()
    for account in held_accounts(connection.alias):
        count = 0
        with tolerance.over(f"what is held for {account}"), transaction.atomic(using=connection.alias):
            sql.wait_briefly(connection)
            count = wake_held(connection, account, most=BATCH)
        yield count
    for node_ids in _answered(connection):
        with transaction.atomic(using=connection.alias):
            count = wake_nodes(connection, node_ids)
        yield count
    stale = BATCH
    while stale == BATCH:
        stale = sql.execute(connection, _DELETE_STALE, [BATCH])
        yield stale
    tolerance.raise_first()


def count_waiting(connection: BaseDatabaseWrapper) -> int:
    """How many held steps could go on, or are not held any more."""
    fitting = sum(count_fitting(connection, account, most=BATCH) for account in held_accounts(connection.alias))
    asked = sum(map(len, _answered(connection)))
    return fitting + asked + int(sql.fetch(connection, _COUNT_STALE, [])[0][0])


def _answered(connection: BaseDatabaseWrapper) -> Iterator[list[int]]:
    """Steps that wait for a person's word on a call, though it was given, or the call was answered after all."""
    last: Any = "entry:"
    while rows := sql.fetch(connection, _QUESTIONS, [last, BATCH]):
        last = rows[-1][1]
        asked = {int(account.partition(":")[2]): node_id for node_id, account in rows}
        # The state is compared here: with it the planner may read every call of unknown outcome for these few ids.
        calls = LedgerEntry.objects.using(connection.alias).filter(pk__in=asked)
        still = {
            entry_id
            for entry_id, state, resolution, is_retired in calls.values_list("pk", "state", "resolution", "is_retired")
            if state == EntryState.AMBIGUOUS and not resolution and not is_retired
        }
        yield sorted(node_id for entry_id, node_id in asked.items() if entry_id not in still)
