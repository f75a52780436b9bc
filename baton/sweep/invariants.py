"""The invariants of the design, asked of the rows: what ``baton_sweep --check`` and every test of a crash look at."""

from __future__ import annotations

from django.db import connections

from baton.conf import get_settings
from baton.engine import statements as sql

_SHOWN = 20

_BROKEN: dict[str, sql.Statement] = {
    "step {0} ({1}) started before its dependency {2} ({3}) was settled": sql.Statement("""
        SELECT n.id, n.name, d.id, d.name FROM baton_workflownode n
            JOIN baton_workflowedge e ON e.node_id = n.id JOIN baton_workflownode d ON d.id = e.dependency_id
        WHERE n.started_at IS NOT NULL AND (d.settled_at IS NULL OR d.settled_at > n.started_at)
            AND n.attempt > 0 LIMIT 20
    """),
    "step {0} ({1}) ran or is ready although its dependency {2} is {3}, which it does not ignore": sql.Statement("""
        SELECT n.id, n.name, d.name, d.state FROM baton_workflownode n
            JOIN baton_workflowedge e ON e.node_id = n.id JOIN baton_workflownode d ON d.id = e.dependency_id
        WHERE n.state IN ('available', 'executing', 'snoozed', 'retryable', 'completed')
            AND ((d.state = 'cancelled' AND NOT n.ignore_cancelled)
                OR (d.state = 'discarded' AND NOT n.ignore_discarded)) LIMIT 20
    """),
    "step {0} ({1}) is executing without a lease, or has a lease without executing": sql.Statement("""
        SELECT id, name FROM baton_workflownode
        WHERE (state = 'executing' AND lease_until IS NULL) OR (state <> 'executing' AND lease_until IS NOT NULL)
        LIMIT 20
    """),
    "step {0} ({1}) is {2} with the due time {3}": sql.Statement("""
        SELECT id, name, state, due_at FROM baton_workflownode
        WHERE (state IN ('snoozed', 'retryable')) <> (due_at IS NOT NULL)
            AND NOT (state = 'snoozed' AND EXISTS (SELECT 1 FROM baton_hold h WHERE h.node_id = baton_workflownode.id))
        LIMIT 20
    """),
    "step {0} ({1}) is {2} and has the due time {3}, but is held": sql.Statement("""
        SELECT n.id, n.name, n.state, n.due_at FROM baton_hold h JOIN baton_workflownode n ON n.id = h.node_id
        WHERE n.state <> 'snoozed' OR n.due_at IS NOT NULL LIMIT 20
    """),
    # A day keeps what was reserved for calls of unknown outcome whose run retention has deleted.
    "account {0} has {1} reserved, but the calls that hold it have {2}": sql.Statement("""
        SELECT name, reserved, held FROM (
            SELECT a.name, a.reserved, (
                SELECT COALESCE(sum(e.reserved), 0) FROM baton_ledgerentry e
                WHERE e.reserved IS NOT NULL AND ' ' || e.accounts || ' ' LIKE '%% ' || a.name || ' %%') AS held
            FROM baton_budgetaccount a) balances
        WHERE reserved < held OR (reserved <> held AND name NOT LIKE 'day:%%') LIMIT 20
    """),
    "call {0} of step {1} is answered and has {2} usages": sql.Statement("""
        SELECT e.id, e.node_id, count(s.id) FROM baton_ledgerentry e
            LEFT JOIN baton_stepstat s ON s.entry_id = e.id AND NOT s.from_ledger
        WHERE e.is_call AND e.state = 'answered' GROUP BY e.id, e.node_id HAVING count(s.id) <> 1 LIMIT 20
    """),
    "step {0} ({1}) is pending and counts {2} unsettled dependencies, but has {3}": sql.Statement("""
        SELECT id, name, remaining, unsettled FROM (
            SELECT n.id, n.name, n.remaining, (
                SELECT count(*) FROM baton_workflowedge e WHERE e.node_id = n.id
                    AND (SELECT d.settled_at FROM baton_workflownode d WHERE d.id = e.dependency_id) IS NULL)
                    AS unsettled
            FROM baton_workflownode n WHERE n.settled_at IS NULL AND n.state = 'pending') waiting
        WHERE remaining <> unsettled LIMIT 20
    """),
    "step {0} ({1}) is pending and waits for nothing": sql.Statement("""
        SELECT id, name FROM baton_workflownode WHERE settled_at IS NULL AND state = 'pending' AND remaining = 0
        LIMIT 20
    """),
    "step {0} ({1}) counts {2} attempts, more than the {3} it may have": sql.Statement("""
        SELECT id, name, attempt, max_attempts FROM baton_workflownode WHERE attempt > max_attempts LIMIT 20
    """),
    "run {0} ({1}) is {2} but step {3} is unsettled": sql.Statement("""
        SELECT r.id, r.name, r.state, n.name FROM baton_workflowrun r JOIN baton_workflownode n ON n.run_id = r.id
        WHERE r.state <> 'running' AND n.settled_at IS NULL LIMIT 20
    """),
    "run {0} ({1}) is {2} and has {3} completions of its round": sql.Statement("""
        SELECT r.id, r.name, r.state,
            (SELECT count(*) FROM baton_completion c WHERE c.run_id = r.id AND c.round = r.round)
        FROM baton_workflowrun r WHERE (CASE WHEN r.state = 'running' THEN 0 ELSE 1 END) <>
            (SELECT count(*) FROM baton_completion c WHERE c.run_id = r.id AND c.round = r.round) LIMIT 20
    """),
    "run {0} ({1}) is {2} but its completion says {3}": sql.Statement("""
        SELECT r.id, r.name, r.state, c.outcome FROM baton_workflowrun r
            JOIN baton_completion c ON c.run_id = r.id AND c.round = r.round
        WHERE r.state <> c.outcome LIMIT 20
    """),
}


def check() -> list[str]:
    """Look at every row for a broken invariant.

    Returns:
        A sentence for each broken one, at most twenty of a kind; empty when all hold.
    """
    connection = connections[get_settings().database]
    return [
        sentence.format(*row)
        for sentence, statement in _BROKEN.items()
        for row in sql.fetch(connection, statement, [])[:_SHOWN]
    ]
