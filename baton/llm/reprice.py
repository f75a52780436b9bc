"""Fill in what calls cost once their price is known; tokens were stored first, so that nothing is lost by waiting."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from typing import Any
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Count, Q, QuerySet

from baton.conf import get_settings
from baton.engine.accounts import held_accounts, settle_accounts, wake_held
from baton.llm.pricing import Quote, Usage, price
from baton.llm.recording import accounts_of, priced
from baton.models import StepStat

BATCH = 500
_READ = (
    "run_id", "node_id", "entry_id", "from_ledger", "provider", "model", "input_tokens", "output_tokens",
    "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "cost", "currency", "unpriced_because", "context",
    "at",
)  # fmt: skip
_HAS_TOKENS = Q(input_tokens__isnull=False, output_tokens__isnull=False)


@dataclass(slots=True, kw_only=True)
class RepriceReport:
    """What was priced, and what has still no price."""

    dry_run: bool = False
    """Nothing was written."""
    looked_at: int = 0
    """How many calls were looked at."""
    priced: int = 0
    """How many had no price and have one now."""
    changed: int = 0
    """How many had a price and have another one now."""
    added: Decimal = Decimal(0)
    """By how much the sum of what was paid has risen."""
    currency: str = ""
    """What that is counted in."""
    still: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """How many calls have no price: by model, provider and reason."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {
            "dry_run": self.dry_run,
            "looked_at": self.looked_at,
            "priced": self.priced,
            "changed": self.changed,
            "added": f"{self.added:f}",
            "currency": self.currency,
            "unpriced": [
                {"model": model, "provider": provider, "reason": reason, "calls": calls}
                for (model, provider, reason), calls in self.unpriced
            ],
        }

    @property
    def unpriced(self) -> list[tuple[tuple[str, str, str], int]]:
        """What has no price, the most frequent first."""
        return sorted(self.still.items(), key=lambda item: (-item[1], item[0]))


def reprice(
    *,
    run_id: UUID | None = None,
    model: str | None = None,
    everything: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RepriceReport:
    """Price the calls that have no price yet, and put what they cost into the accounts of budgets.

    Args:
        run_id: Calls of this run only.
        model: Calls of this model only.
        everything: Also price again what has a price. Where there is none now, the old one stays.
        dry_run: Change nothing, and say what would be.
        progress: Called after each batch with how many calls were looked at, and how many there are.
    """
    calls = StepStat.objects.using(get_settings().database).order_by()
    if run_id is not None:
        calls = calls.filter(run_id=run_id)
    if model is not None:
        calls = calls.filter(model=model)
    if not everything:
        calls = calls.filter(cost__isnull=True)
    report = RepriceReport(dry_run=dry_run, currency=get_settings().currency)
    report.still.update(_without_tokens(calls))
    calls = calls.filter(_HAS_TOKENS)
    total = calls.count() if progress else 0
    for batch in _batches(calls):
        quotes = [(stat, price(_usage_of(stat))) for stat in batch]
        report.looked_at += len(batch)
        # Whoever calls this may reckon with fewer digits.
        with localcontext(Context(prec=60)):
            if dry_run:
                for stat, quote in quotes:
                    _note(report, stat, quote)
            else:
                _write(report, quotes)
        if progress:
            progress(report.looked_at, total)
    return report


def _without_tokens(calls: QuerySet[StepStat]) -> dict[tuple[str, str, str], int]:
    rows = calls.filter(cost__isnull=True).exclude(_HAS_TOKENS)
    groups = rows.values_list("model", "provider", "unpriced_because").annotate(Count("id"))
    return {(model, provider, reason): count for model, provider, reason, count in groups}


def _batches(calls: QuerySet[StepStat]) -> Iterator[Sequence[StepStat]]:
    """The calls in the order of their ids: what is written meanwhile is neither seen twice nor skipped."""
    last = 0
    while batch := list(calls.filter(pk__gt=last).order_by("pk").only(*_READ)[:BATCH]):
        yield batch
        last = batch[-1].pk


def _usage_of(stat: StepStat) -> Usage:
    return Usage(
        provider=stat.provider,
        model=stat.model,
        input_tokens=stat.input_tokens or 0,
        output_tokens=stat.output_tokens or 0,
        cached_input_tokens=stat.cached_input_tokens or 0,
        cache_write_tokens=stat.cache_write_tokens or 0,
        reasoning_tokens=stat.reasoning_tokens or 0,
        at=stat.at,
        context=stat.context if isinstance(stat.context, dict) else {},
    )


def _note(report: RepriceReport, stat: StepStat, quote: Quote) -> None:
    if quote.cost is None:
        if stat.cost is None:
            report.still[stat.model, stat.provider, quote.reason] += 1
        return
    if stat.cost is None:
        report.priced += 1
    elif _is_other(stat, quote):
        report.changed += 1
    if not stat.from_ledger:
        report.added += _difference(stat, quote)


def _is_other(stat: StepStat, quote: Quote) -> bool:
    return (stat.cost, stat.currency) != (quote.cost, quote.currency)


def _difference(stat: StepStat, quote: Quote) -> Decimal:
    """By how much a call is dearer than was known, in the currency of the settings."""
    currency = get_settings().currency
    before = stat.cost if stat.cost is not None and stat.currency == currency else Decimal(0)
    after = quote.cost if quote.cost is not None and quote.currency == currency else Decimal(0)
    return after - before


def _write(report: RepriceReport, quotes: Sequence[tuple[StepStat, Quote]]) -> None:
    """Write the prices of a batch and move the budgets, together or not at all."""
    using = get_settings().database
    spent: defaultdict[str, Decimal] = defaultdict(Decimal)
    freed: defaultdict[str, Decimal] = defaultdict(Decimal)
    with transaction.atomic(using=using):
        for stat, quote in quotes:
            if not _is_written(stat, quote, using=using):
                continue
            _note(report, stat, quote)
            if stat.from_ledger or quote.cost is None:
                continue
            names, reserved = accounts_of(stat, using=using)
            for name in names:
                spent[name] += _difference(stat, quote)
                freed[name] += reserved.get(name, Decimal(0))
        for name in sorted(spent):
            settle_accounts(connections[using], [name], reserved=freed[name], cost=spent[name])
    for name in held_accounts(using):
        if name in spent:
            wake_held(connections[using], name)


def _is_written(stat: StepStat, quote: Quote, *, using: str) -> bool:
    """Write a price, unless somebody else was faster. False where there is nothing to tell."""
    unchanged = StepStat.objects.using(using).filter(pk=stat.pk, cost=stat.cost)
    if stat.cost is None:
        unchanged = StepStat.objects.using(using).filter(pk=stat.pk, cost__isnull=True)
    if quote.cost is None:
        if stat.cost is None and stat.unpriced_because != quote.reason:
            unchanged.update(unpriced_because=quote.reason)
        return stat.cost is None
    return bool(unchanged.update(**priced(quote)))
