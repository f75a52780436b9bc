"""Price the calls of language models that had no price when they were made."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand

from baton import money
from baton.explain.words import number
from baton.llm.reprice import RepriceReport, reprice
from baton.management.refusals import refusals
from baton.management.runs import find_run, run_prefix
from baton.management.terminal import leaving_quietly, printable, tell

_SHOWN = 50


class Command(BaseCommand):
    """``manage.py baton_reprice``."""

    help = (
        "Price the calls of language models that had no price when they were made: at what PRICES, or the class of "
        "PRICING, says now. What they cost is added to the budgets that they were paid from. Exits with 1 where it is "
        "refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--run", metavar="RUN", type=run_prefix, help="calls of this run: its id, or at least 4 digits of it"
        )
        parser.add_argument("--model", help="calls of exactly this model")
        parser.add_argument(
            "--all",
            action="store_true",
            dest="everything",
            help="also price again what has a price, and say what that changes; where there is none now the old stays",
        )
        parser.add_argument("--dry-run", action="store_true", help="change nothing: say what would be priced")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")

    def handle(
        self,
        *args: Any,
        run: str | None,
        model: str | None,
        everything: bool,
        dry_run: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        """Do what was asked."""
        with refusals(self, as_json=as_json), leaving_quietly():
            report = reprice(
                run_id=find_run(run).pk if run else None,
                model=model,
                everything=everything,
                dry_run=dry_run,
                progress=None if as_json else self._print_batch,
            )
        if as_json:
            self.stdout.write(json.dumps({"ok": True, **report.as_dict()}))
        else:
            tell(self.stdout, *_sentences(report, everything=everything))

    def _print_batch(self, looked_at: int, total: int) -> None:
        if looked_at < total:
            self.stdout.write(f"  {number(looked_at)} of {number(total)} calls")
            self.stdout.flush()


def _sentences(report: RepriceReport, *, everything: bool) -> Iterator[str]:
    if report.dry_run:
        yield "Nothing was changed. This would be done:"
    yield f"priced: {_calls(report.priced)}"
    if everything:
        yield f"priced anew: {_calls(report.changed)}"
    yield f"added to what was paid: {money.amount(report.added, report.currency)}"
    yield f"still unpriced: {_calls(report.still.total())}"
    for (model, provider, reason), calls in report.unpriced[:_SHOWN]:
        who = printable(model) or "a model without a name"
        of = f" of {printable(provider)}" if provider else ""
        yield f"  {number(calls)} of {who}{of}: {printable(reason) or 'nobody said why'}"
    if len(report.unpriced) > _SHOWN:
        yield f"  and {number(len(report.unpriced) - _SHOWN)} more kinds; all of them with --json"


def _calls(count: int) -> str:
    return f"{number(count)} call" if count == 1 else f"{number(count)} calls"
