"""Budgets: calls reserve what they may cost at most before they begin, and settle for what they cost.

An account has what is spent and what is reserved; what may be spent stands with the run or in the settings. Accounts
are locked in the order of their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import EllipsisType
from uuid import UUID

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Q, Sum

from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.holds import wake_nodes
from baton.models import BudgetAccount, Hold, LedgerEntry, StepStat, WorkflowRun
from baton.models.fields import SMALLEST, as_money, as_units
from baton.models.ledger import unknown_outcome
from baton.states import HoldKind

PAGE = 200
"""How many held steps are looked at together."""
_MOST_UNITS = 2**63 - 1

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

_COUNT_ANEW = sql.Statement("""
    UPDATE baton_budgetaccount SET spent = (
        SELECT COALESCE(sum(cost * count), 0) FROM baton_stepstat WHERE run_id = %s AND NOT from_ledger)
    WHERE name = %s
""")
"""What a run has spent, also while it had no limit. Whoever charges the account just then adds to it afterwards."""

RESERVE = sql.Statement("""
    UPDATE baton_budgetaccount SET reserved = reserved + %s WHERE name = %s AND spent + reserved + %s <= %s
""")
"""Reserve an amount, if it fits. Parameters: amount, name, amount, limit."""
SETTLE = sql.Statement("""
    UPDATE baton_budgetaccount SET reserved = reserved - %s, spent = spent + %s WHERE name = %s
""")
_BUDGET = sql.Statement("SELECT budget FROM baton_workflowrun WHERE id = %s")
_LOCK_ACCOUNT = sql.Statement("SELECT spent, reserved FROM baton_budgetaccount WHERE name = %s <lock>")

_FITTING = sql.Statement("""
    SELECT node_id, amount FROM baton_hold
    WHERE account = %s AND node_id > %s AND COALESCE(amount, %s) <= %s ORDER BY node_id LIMIT %s
""")
"""Held steps of an account that would fit. Whoever wakes them holds the account. Index: baton_hold_by_account."""
_IS_HELD_FOR = sql.Statement("SELECT 1 FROM baton_hold WHERE account = %s LIMIT 1")
_NEXT_ACCOUNT = sql.Statement("""
    SELECT account FROM baton_hold WHERE account > %s AND kind = 'budget' ORDER BY account LIMIT 1
""")
"""The next account for which something is held. Index: baton_hold_by_account."""


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
    connection = connections[using]
    found = sql.fetch(connection, _BUDGET, [sql.uuid_param(connection, run_id)])
    if found and found[0][0] is not None:
        limits.append(Limit(name=run_account(run_id), most=as_money(found[0][0]), words="the budget of the run"))
    if settings.step_budget is not None:
        limits.append(Limit(name=step_account(node_id), most=settings.step_budget, words="the budget of the step"))
    return limits


def today() -> str:
    """The account of this day of UTC."""
    return BudgetAccount.of_today()


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
    if amount is not None:
        # As its column will hold it, so that everybody who compares it sees the same.
        amount = as_money(as_units(amount))
    else:
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
    spent, reserved = lock(connection, limit.name, run_id=run_id, node_id=node_id)
    return limit.most - spent - reserved


def lock(connection: BaseDatabaseWrapper, name: str, *, run_id: UUID, node_id: int = 0) -> tuple[Decimal, Decimal]:
    """Hold an account until the end of the transaction, and open it where there is none yet.

    Returns:
        What is spent and what is reserved.
    """
    rows = sql.fetch(connection, _LOCK_ACCOUNT, [name])
    if not rows:
        _open(connection, name, run_id=run_id, node_id=node_id)
        rows = sql.fetch(connection, _LOCK_ACCOUNT, [name])
    spent, reserved = rows[0]
    return as_money(spent), as_money(reserved)


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


def wake_held(
    connection: BaseDatabaseWrapper,
    account: str,
    *,
    typical: Decimal | None = None,
    limit: Decimal | EllipsisType | None = ...,
    most: int | None = None,
) -> int:
    """Ready the held steps of an account for which there is money, in the order of their ids.

    Args:
        connection: To Baton's database.
        account: The name of the account.
        typical: What to reckon for a step of which nobody knows what it may cost; None is all that is left.
        limit: What may be spent from the account, where that is about to be written; None is no limit.
        most: How many are readied at most.

    Returns:
        How many were readied.
    """
    with transaction.atomic(using=connection.alias):
        pages = _fitting(connection, account, typical=typical, limit=limit, most=most)
        return sum(wake_nodes(connection, chosen) for chosen in pages)


def count_fitting(connection: BaseDatabaseWrapper, account: str, *, most: int) -> int:
    """How many held steps of an account could be readied, counted up to a limit."""
    with transaction.atomic(using=connection.alias):
        return sum(map(len, _fitting(connection, account, typical=None, limit=..., most=most)))


def _fitting(
    connection: BaseDatabaseWrapper,
    account: str,
    *,
    typical: Decimal | None,
    limit: Decimal | EllipsisType | None,
    most: int | None,
) -> Iterator[list[int]]:
    """The held steps for which an account has money, page by page; the account is locked."""
    money = _left_of(connection, account, limit)
    if money == 0 and typical is not None:
        # A call has cost what it had reserved. Who wants nothing waits for the sweep, not for a look at all who wait.
        return
    left_over, last, is_full = most, 0, True
    while is_full and left_over != 0 and (money is None or money >= 0):
        page = PAGE if left_over is None else min(PAGE, left_over)
        fits = _MOST_UNITS if money is None else as_units(money)
        # Who may cost anything needs at least the smallest part of it.
        held = sql.fetch(connection, _FITTING, [account, last, as_units(typical or 0) or 1, fits, page])
        chosen: list[int] = []
        for node_id, units in held:
            last = node_id
            if money is not None:
                wanted = as_money(units) if units is not None else typical or money or SMALLEST
                if wanted > money:
                    continue
                money -= wanted
            chosen.append(node_id)
        yield chosen
        is_full = len(held) == page
        left_over = None if left_over is None else left_over - len(chosen)


def is_held_for(connection: BaseDatabaseWrapper, account: str) -> bool:
    """Whether any step waits for money of an account."""
    return bool(sql.fetch(connection, _IS_HELD_FOR, [account]))


def held_accounts(using: str) -> list[str]:
    """Every account for whose money a step waits."""
    names: list[str] = []
    while rows := sql.fetch(connections[using], _NEXT_ACCOUNT, [names[-1] if names else ""]):
        names.append(rows[0][0])
    return names


def change_budget(connection: BaseDatabaseWrapper, run_id: UUID, budget: Decimal | None) -> int:
    """Ready what a new budget of a run has room for, inside the transaction that goes on to write it.

    The account is locked first: whoever is about to be held for it sees the new budget, or is seen here. The run's row
    comes last, after the steps, as in a cancel.

    Returns:
        How many steps were readied.
    """
    name = run_account(run_id)
    lock(connection, name, run_id=run_id)
    # Calls that were made without a limit have charged nobody.
    sql.execute(connection, _COUNT_ANEW, [sql.uuid_param(connection, run_id), name])
    return wake_held(connection, name, limit=budget)


def _left_of(connection: BaseDatabaseWrapper, name: str, limit: Decimal | EllipsisType | None) -> Decimal | None:
    """What is left of an account, which is locked; None where it has no limit any more."""
    rows = sql.fetch(connection, _LOCK_ACCOUNT, [name])
    most = BudgetAccount(name=name).limit(using=connection.alias) if isinstance(limit, EllipsisType) else limit
    if most is None:
        return None
    spent, reserved = rows[0] if rows else (0, 0)
    return most - as_money(spent) - as_money(reserved)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What of a run's budget is spent, reserved and left."""

    budget: Decimal | None
    """What its calls may cost; None is no limit."""
    spent: Decimal
    """What they cost, as far as that is known."""
    reserved: Decimal
    """What calls under way may cost at most, and those whose cost is not known."""
    estimated: Decimal
    """How much of what is reserved is an estimate: these calls may cost more, beyond the budget, too."""
    unknown: Decimal
    """How much of what is reserved belongs to calls of unknown outcome."""
    held: int
    """How many steps wait for money, of this budget or another."""
    currency: str
    """What it is counted in."""

    @property
    def left(self) -> Decimal | None:
        """What further calls may reserve; below zero where calls cost more than was estimated, None without a limit."""
        return None if self.budget is None else self.budget - self.spent - self.reserved


def balance_of(run: WorkflowRun) -> Balance:
    """Read what of a run's budget is spent, reserved and left, in three queries."""
    using = run._state.db or get_settings().database  # noqa: SLF001 - its own alias
    name = run_account(run.pk)
    account = BudgetAccount.objects.using(using).filter(pk=name).first()
    if account is None or run.budget is None:
        # Nothing is charged where there is no limit.
        paid = StepStat.objects.using(using).filter(run=run.pk, from_ledger=False).order_by()
        account = account or BudgetAccount(name=name)
        account.spent = paid.aggregate(total=Sum("cost"))["total"] or Decimal(0)
    calls = LedgerEntry.objects.using(using).filter(run=run.pk, reserved__isnull=False, accounts__contains=name)
    sums = calls.order_by().aggregate(
        estimated=Sum("reserved", filter=Q(is_estimate=True)), unknown=Sum("reserved", filter=unknown_outcome())
    )
    return Balance(
        budget=None if run.budget is None else as_money(as_units(run.budget)),
        spent=account.spent,
        reserved=account.reserved or Decimal(0),
        estimated=sums["estimated"] or Decimal(0),
        unknown=sums["unknown"] or Decimal(0),
        held=Hold.objects.using(using).filter(run=run.pk, kind=HoldKind.BUDGET).count(),
        currency=get_settings().currency,
    )
