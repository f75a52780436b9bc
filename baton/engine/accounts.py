"""Budgets: calls reserve what they may cost at most before they begin, and settle for what they cost.

An account has what is spent and what is reserved; what may be spent stands with the run or in the settings. Accounts
are locked in the order of their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.holds import wake_nodes
from baton.models import BudgetAccount, Hold, WorkflowRun
from baton.models.fields import as_money, as_units

PAGE = 200
"""How many held steps are looked at together."""

_OPEN = {
    "run": sql.Statement("""
        INSERT INTO baton_budgetaccount (name, spent, reserved)
        SELECT %s, COALESCE(sum(cost * count), 0), 0 FROM baton_stepstat WHERE run_id = %s AND NOT from_ledger
        ON CONFLICT (name) DO NOTHING
    """),
    "step": sql.Statement("""
        INSERT INTO baton_budgetaccount (name, spent, reserved)
        SELECT %s, COALESCE(sum(cost * count), 0), 0 FROM baton_stepstat WHERE node_id = %s AND NOT from_ledger
        ON CONFLICT (name) DO NOTHING
    """),
    "day": sql.Statement("""
        INSERT INTO baton_budgetaccount (name, spent, reserved)
        SELECT %s, COALESCE(sum(cost * count), 0), 0 FROM baton_stepstat WHERE at >= %s AND NOT from_ledger
        ON CONFLICT (name) DO NOTHING
    """),
}
"""Open an account with what was spent before there was a limit."""

RESERVE = sql.Statement("""
    UPDATE baton_budgetaccount SET reserved = reserved + %s WHERE name = %s AND spent + reserved + %s <= %s
""")
"""Reserve an amount, if it fits. Parameters: amount, name, amount, limit."""
SETTLE = sql.Statement("""
    UPDATE baton_budgetaccount SET reserved = reserved - %s, spent = spent + %s WHERE name = %s
""")
_LOCK_ACCOUNT = sql.Statement("SELECT spent, reserved FROM baton_budgetaccount WHERE name = %s <lock>")

_HELD = sql.Statement("""
    SELECT node_id, amount FROM baton_hold WHERE account = %s AND node_id > %s ORDER BY node_id LIMIT %s <skip locked>
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What may be spent from an account."""

    name: str
    most: Decimal
    words: str
    """What it is, in an error or an explanation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A limit into which a call does not fit now."""

    limit: Limit
    left: Decimal
    amount: Decimal | None


def limits_of(run_id: UUID, node_id: int, *, using: str) -> list[Limit]:
    """The limits under which a step may spend, in the order of their accounts' names."""
    settings = get_settings()
    limits = []
    if settings.day_budget is not None:
        limits.append(Limit(name=today(), most=settings.day_budget, words="the budget of the day"))
    budget = WorkflowRun.objects.using(using).values_list("budget", flat=True).filter(pk=run_id).first()
    if budget is not None:
        limits.append(Limit(name=run_account(run_id), most=budget, words="the budget of the run"))
    if settings.step_budget is not None:
        limits.append(Limit(name=step_account(node_id), most=settings.step_budget, words="the budget of the step"))
    return limits


def today() -> str:
    """The account of this day of UTC."""
    return f"day:{datetime.now(UTC):%Y-%m-%d}"


def run_account(run_id: UUID) -> str:
    return f"run:{run_id}"


def step_account(node_id: int) -> str:
    return f"step:{node_id}"


def reserve(
    connection: BaseDatabaseWrapper, limits: Sequence[Limit], amount: Decimal | None, *, run_id: UUID, node_id: int
) -> Decimal | Refusal:
    """Reserve an amount under every limit, inside the caller's transaction.

    Args:
        connection: To Baton's database, in a transaction that is undone where this is refused.
        limits: In the order of their names.
        amount: What the call may cost at most; None where nobody can tell: then it gets all that is left.
        run_id: Whose accounts they are.
        node_id: Whose accounts they are.

    Returns:
        What was reserved, or the limit into which it does not fit.
    """
    if amount is None:
        lefts = {limit: left(connection, limit, run_id=run_id, node_id=node_id) for limit in limits}
        tightest = min(limits, key=lambda limit: lefts[limit])
        amount = lefts[tightest]
        if amount <= 0:
            return Refusal(limit=tightest, left=amount, amount=None)
    units = as_units(amount)
    for limit in limits:
        params = [units, limit.name, units, as_units(limit.most)]
        if sql.execute(connection, RESERVE, params):
            continue
        remains = left(connection, limit, run_id=run_id, node_id=node_id)
        # There was no account yet, or somebody has just given something back.
        if remains < amount or not sql.execute(connection, RESERVE, params):
            return Refusal(limit=limit, left=remains, amount=amount)
    return amount


def left(connection: BaseDatabaseWrapper, limit: Limit, *, run_id: UUID, node_id: int) -> Decimal:
    """What may still be reserved under a limit, with its account locked."""
    rows = sql.fetch(connection, _LOCK_ACCOUNT, [limit.name])
    if not rows:
        _open(connection, limit.name, run_id=run_id, node_id=node_id)
        rows = sql.fetch(connection, _LOCK_ACCOUNT, [limit.name])
    spent, reserved = rows[0]
    return limit.most - as_money(spent) - as_money(reserved)


def settle_accounts(
    connection: BaseDatabaseWrapper, names: Sequence[str], *, reserved: Decimal | None, cost: Decimal | None
) -> None:
    """Put what a call cost in the place of what it had reserved; where that is unknown, its reservation stays."""
    if cost is None and reserved is not None:
        return
    for name in sorted(names):
        sql.execute(connection, SETTLE, [as_units(reserved or 0), as_units(cost or 0), name])


def release(connection: BaseDatabaseWrapper, names: Sequence[str], reserved: Decimal | None) -> None:
    """Give a reservation back: nothing was paid."""
    settle_accounts(connection, names, reserved=reserved, cost=Decimal(0))


def wake_held(connection: BaseDatabaseWrapper, account: str, *, typical: Decimal | None = None) -> int:
    """Ready the held steps of an account for which there is money, in the order of their ids.

    Args:
        connection: To Baton's database.
        account: The name of the account.
        typical: What to reckon for a step of which nobody knows what it may cost; None is all that is left.

    Returns:
        How many were readied.
    """
    with transaction.atomic(using=connection.alias):
        money = _money_of(connection, account)
        if money is not None and money <= 0:
            return 0
        chosen: list[int] = []
        for node_id, amount in sql.fetch(connection, _HELD, [account, 0, PAGE]):
            wanted = typical if amount is None else as_money(amount)
            if money is not None and wanted is not None and wanted > money:
                continue
            chosen.append(node_id)
            if money is not None:
                money -= money if wanted is None else wanted
                if money <= 0:
                    break
        return wake_nodes(connection, chosen)


def is_held_for(connection: BaseDatabaseWrapper, account: str) -> bool:
    """Whether any step waits for money of an account."""
    return bool(sql.fetch(connection, _HELD, [account, 0, 1]))


def held_accounts(using: str) -> list[str]:
    """Every account for whose money a step waits."""
    rows = Hold.objects.using(using).exclude(account="").order_by("account")
    return list(rows.values_list("account", flat=True).distinct())


def _money_of(connection: BaseDatabaseWrapper, account: str) -> Decimal | None:
    """What is left of an account, which is locked; None where it has no limit any more."""
    settings = get_settings()
    kind, _, owner = account.partition(":")
    if kind == "run":
        most = WorkflowRun.objects.using(connection.alias).values_list("budget", flat=True).filter(pk=owner).first()
    elif kind == "step":
        most = settings.step_budget
    else:
        most = settings.day_budget if account == today() else None
    if most is None:
        return None
    rows = sql.fetch(connection, _LOCK_ACCOUNT, [account])
    spent, reserved = rows[0] if rows else (0, 0)
    return Decimal(most) - as_money(spent) - as_money(reserved)


def _open(connection: BaseDatabaseWrapper, name: str, *, run_id: UUID, node_id: int) -> None:
    kind = name.partition(":")[0]
    match kind:
        case "run":
            owner: object = sql.uuid_param(connection, run_id)
        case "step":
            owner = node_id
        case _:
            midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            owner = connection.ops.adapt_datetimefield_value(midnight)
    sql.execute(connection, _OPEN[kind], [name, owner])


def balance(name: str, *, using: str) -> tuple[Decimal, Decimal]:
    """What of an account is spent and what is reserved."""
    account = BudgetAccount.objects.using(using).filter(pk=name).first()
    return (Decimal(0), Decimal(0)) if account is None else (account.spent, account.reserved)
