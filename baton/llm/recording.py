"""Usages on their way into the table of step stats: by a call, by hand, or with a returned result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.context import StepContext
from baton.engine import accounts
from baton.engine import statements as sql
from baton.engine.errors import storable_text
from baton.engine.ledger import Entry, Ledger, checked_key
from baton.engine.transactions import patiently
from baton.llm.pricing import Quote, Usage, price
from baton.llm.usage import named_model, read_usage
from baton.models import LedgerEntry, StepStat
from baton.values import decode, encode

logger = logging.getLogger("baton.llm")

TOKENS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
MAX_TOKENS = 2**63 - 1
NO_USAGE = "the answer says nothing of its usage"

_COPIED = f"""run_id, node_id, entry_id, key, workflow_name, step_name, step, provider, model, {", ".join(TOKENS)},
        cost, currency, unit_prices, price_source, price_version, unpriced_because, context, duration"""

_SERVE = sql.Statement(f"""
    INSERT INTO baton_stepstat ({_COPIED}, once_key, attempt, from_ledger, count, at)
    SELECT {_COPIED}, %s, %s, TRUE, 1, <now> FROM baton_stepstat WHERE node_id = %s AND once_key = %s
    ON CONFLICT (node_id, once_key) DO UPDATE SET count = baton_stepstat.count + 1, at = excluded.at
""")  # noqa: S608 - built from our own constants
"""Note that an answer was given from the ledger; once for an attempt, with how often."""


def record_usage(
    ctx: StepContext,
    *,
    model: str | Enum | None,
    input_tokens: int,
    output_tokens: int,
    cached_input_tokens: int = 0,
    cache_write_tokens: int = 0,
    reasoning_tokens: int = 0,
    duration: float | None = None,
    provider: str | None = None,
    key: str | None = None,
) -> None:
    """Record what a call of a language model used, where :func:`call` did not make it or cannot read its answer.

    Args:
        ctx: What the body was given.
        model: The model's full name. ``None``, as where the step has none, is recorded as not known.
        input_tokens: All of the input; what was read from a cache and written to one is part of it.
        output_tokens: All of the output, reasoning included.
        cached_input_tokens: What of the input was read from the provider's cache.
        cache_write_tokens: What of the input was written to the provider's cache.
        reasoning_tokens: What of the output was reasoning.
        duration: How long the call took, in seconds.
        provider: Who answered.
        key: With a key it is counted once for the step, however often the step is tried; without one, each time. The
            key of a :func:`call` whose answer said nothing of its usage gives it that usage.

    Raises:
        TypeError: A count is no whole number, the duration no number, or the key no text.
        ValueError: A count or the duration is out of range, or the key is empty or longer than 255 characters.
    """
    key = None if key is None else checked_key(key)
    duration = _seconds(duration)
    usage = Usage(
        provider=storable_text(str(provider or "")),
        model="" if model is None else storable_text(str(getattr(model, "value", model))),
        input_tokens=_count("input_tokens", input_tokens),
        output_tokens=_count("output_tokens", output_tokens),
        cached_input_tokens=_count("cached_input_tokens", cached_input_tokens),
        cache_write_tokens=_count("cache_write_tokens", cache_write_tokens),
        reasoning_tokens=_count("reasoning_tokens", reasoning_tokens),
        at=datetime.now(UTC),
    )
    ledger = ctx.ledger
    if not isinstance(ledger, Ledger):
        return
    once_key = None if key is None else f"u:{key}"
    stat = stat_of(ledger, usage, price(usage), key=key or "", once_key=once_key, duration=duration)
    _write(ledger, lambda connection: _keep(connection, stat))


def record_returned(ctx: StepContext, returned: Any) -> None:
    """Record what a body returned under ``llm_usage``, with the settle: it counts once for each stored result."""
    ledger = ctx.ledger
    if not isinstance(ledger, Ledger) or returned is None:
        return
    at = datetime.now(UTC)
    for number, each in enumerate(returned if isinstance(returned, list | tuple) else [returned]):
        usage = read_usage(each, model=ctx.model or "", at=at)
        quote = price(usage) if usage is not None else Quote(reason="what stood under llm_usage could not be read")
        stat = stat_of(
            ledger,
            usage,
            quote,
            once_key=f"d:{ledger.fence}:{number}",
            model="" if usage else named_model([each]) or ctx.model or "",
            duration=_told_duration(each),
        )
        ledger.besides.append(lambda connection, stat=stat: _keep(connection, stat))  # type: ignore[misc]


def stat_of(
    ledger: Ledger,
    usage: Usage | None,
    quote: Quote,
    *,
    key: str = "",
    once_key: str | None = None,
    entry: Entry | None = None,
    provider: str = "",
    model: str = "",
    duration: float | None = None,
) -> StepStat:
    """A row for one call, not yet written."""
    return StepStat(
        run_id=ledger.run_id,
        node_id=ledger.node_id,
        entry_id=None if entry is None else entry.id,
        once_key=None if once_key is None else once_key[:300],
        key=key[:255],
        workflow_name=ledger.workflow_name,
        step_name=ledger.step_name,
        step=ledger.step,
        attempt=ledger.attempt,
        provider=((usage.provider if usage else "") or provider)[:100],
        model=((usage.model if usage else "") or model)[:255],
        duration=duration,
        context=_context(usage),
        **({name: min(getattr(usage, name), MAX_TOKENS) for name in TOKENS} if usage else {}),
        **priced(quote),
    )


def priced(quote: Quote) -> dict[str, Any]:
    """The columns that a quote fills."""
    return {
        "cost": quote.cost,
        "currency": quote.currency[:8],
        "unit_prices": None if quote.unit_prices is None else dict(quote.unit_prices),
        "price_source": quote.source[:255],
        "price_version": quote.version[:64],
        "unpriced_because": quote.reason[:500],
    }


def note_served(ledger: Ledger, entry: Entry) -> None:
    """Note that an answer was given from the ledger instead of being paid for; a courtesy that fails nobody."""
    params = [f"r:{entry.id}:{ledger.attempt}", ledger.attempt, ledger.node_id, call_key(entry)]
    try:
        with transaction.atomic(using=ledger.alias):
            sql.execute(ledger.connection, _SERVE, params)
    except Exception:
        logger.exception("What the ledger saved step %r could not be noted.", ledger.step_name)


def call_key(entry: Entry) -> str:
    """Under which a call's usage is counted once."""
    return f"c:{entry.id}"


def insert_stat(connection: BaseDatabaseWrapper, stat: StepStat) -> bool:
    """Write a row, unless it is counted already."""
    columns = _columns()
    params = [column.get_db_prep_save(getattr(stat, column.attname), connection) for column in columns]
    return bool(sql.fetch(connection, _insertion(), params))


@cache
def _insertion() -> sql.Statement:
    """What writes a row; two at once are told apart by the constraint ``baton_stat_once``."""
    names = [column.column for column in _columns()]
    places = ", ".join(["%s"] * len(names))
    return sql.Statement(
        f"INSERT INTO baton_stepstat ({', '.join(names)}, at) VALUES ({places}, <now>) "  # noqa: S608
        "ON CONFLICT DO NOTHING RETURNING id"
    )


@cache
def _columns() -> list[Any]:
    """All but the time, which is the database's, as that of an answer from the ledger."""
    columns = StepStat._meta.concrete_fields  # noqa: SLF001 - public
    return [column for column in columns if not column.primary_key and column.name != "at"]


def _keep(connection: BaseDatabaseWrapper, stat: StepStat) -> None:
    if stat.key and _fill(connection, stat):
        return
    if insert_stat(connection, stat) and stat.cost is not None:
        _spend(connection, stat, stat.cost)


def _fill(connection: BaseDatabaseWrapper, stat: StepStat) -> bool:
    """Give the usage to a call of that key which had none."""
    calls = StepStat.objects.using(connection.alias).filter(
        node_id=stat.node_id, key=stat.key, entry__isnull=False, from_ledger=False
    )
    names = (*TOKENS, "cost", "currency", "unit_prices", "price_source", "price_version", "unpriced_because", "context")
    known = {name: getattr(stat, name) for name in names}
    named = {name: getattr(stat, name) for name in ("provider", "model") if getattr(stat, name)}
    call = calls.filter(input_tokens__isnull=True).order_by("id").first()
    if call is None:
        return calls.exists()
    if calls.filter(pk=call.pk, input_tokens__isnull=True).update(**known, **named) and stat.cost is not None:
        settle_late(connection, call, stat.cost)
    return True


def settle_late(connection: BaseDatabaseWrapper, call: StepStat, cost: Decimal) -> None:
    """Charge a call whose cost has become known after its answer was stored, in the place of what it had reserved."""
    names, reserved = accounts_of(call, using=connection.alias)
    for name in sorted(names):
        accounts.settle_accounts(connection, [name], reserved=reserved.get(name), cost=cost)
    # Not within a settle, which has locked its step.
    transaction.on_commit(lambda: _wake(connection, reserved, cost), using=connection.alias, robust=True)


def accounts_of(call: StepStat, *, using: str) -> tuple[set[str], dict[str, Decimal]]:
    """The accounts that a call is paid from, and what is still reserved for it in them, which the caller gives back.

    A call that had no price when it was answered keeps its reservation: from then on its cost stands in its place.
    """
    reserved: dict[str, Decimal] = {}
    if call.entry_id is not None and call.cost is None:
        entries = LedgerEntry.objects.using(using).filter(pk=call.entry_id, reserved__isnull=False)
        held = entries.only("reserved", "accounts").first()
        if held is not None and held.reserved is not None and entries.update(reserved=None):
            reserved = dict.fromkeys(held.accounts.split(), held.reserved)
    day = next((name for name in reserved if name.startswith("day:")), f"day:{call.at.astimezone(UTC):%Y-%m-%d}")
    return {accounts.run_account(call.run_id), accounts.step_account(call.node_id), day, *reserved}, reserved


def _wake(connection: BaseDatabaseWrapper, names: Iterable[str], cost: Decimal) -> None:
    for name in names:
        if accounts.is_held_for(connection, name):
            accounts.wake_held(connection, name, typical=cost or None)


def _spend(connection: BaseDatabaseWrapper, stat: StepStat, cost: Decimal) -> None:
    """Charge what was not reserved to the accounts that there are."""
    names = [accounts.today(), accounts.run_account(stat.run_id), accounts.step_account(stat.node_id)]
    accounts.settle_accounts(connection, names, reserved=None, cost=cost)


def _write(ledger: Ledger, work: Callable[[BaseDatabaseWrapper], None]) -> None:
    """Write at once, or with the settle where a transaction of the body could undo it."""
    if ledger.reach(lambda: ledger.is_in_transaction):
        ledger.besides.append(work)
        return

    def write() -> None:
        with transaction.atomic(using=ledger.alias):
            work(ledger.connection)

    what = f"A usage of step {ledger.step_name!r}"
    ledger.reach(lambda: patiently(write, using=ledger.alias, what=what))


def _context(usage: Usage | None) -> Any:
    return decode(encode(dict(usage.context), what="context")) if usage is not None and usage.context else None


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"record_usage: {name} is {value!r}: give a whole number.")
    if not 0 <= value <= MAX_TOKENS:
        raise ValueError(f"record_usage: {name} is {value!r}: give a number from 0 to 2**63 - 1.")
    return value


def _told_duration(returned: Any) -> float | None:
    """How long a returned usage says that the call took; nothing of it fails a step that has paid."""
    try:
        return _seconds(returned.get("duration")) if isinstance(returned, Mapping) else None
    except (TypeError, ValueError):
        return None


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"record_usage: duration is {value!r}: give a number of seconds.")
    if not 0 <= value <= MAX_TOKENS:
        raise ValueError(f"record_usage: duration is {value!r}: give seconds from 0 on.")
    return float(value)
