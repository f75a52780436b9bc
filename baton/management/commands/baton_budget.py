"""Show what of a run's budget is spent and left, or change the budget."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand

from baton import money
from baton.conf import amount
from baton.engine.accounts import Balance
from baton.explain.words import number
from baton.management.refusals import refusals
from baton.management.runs import find_run, run_prefix
from baton.management.terminal import printable, tell
from baton.models import WorkflowRun

_KEEP = object()


class Command(BaseCommand):
    """``manage.py baton_budget``."""

    help = (
        "Show what of a run's budget is spent, reserved and left; or give it another budget, which lets the steps go "
        "on that were held for want of it. Exits with 1 where it is refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("run", metavar="RUN", type=run_prefix, help="the id of the run, or at least 4 digits of it")
        parser.add_argument(
            "amount",
            metavar="AMOUNT",
            nargs="?",
            type=_amount,
            default=_KEEP,
            help="what its calls of language models may cost in all, or none for no limit; without it nothing changes",
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")

    def handle(self, *args: Any, run: str, amount: Any, as_json: bool, **options: Any) -> None:
        """Do what was asked."""
        with refusals(self, as_json=as_json):
            found = find_run(run)
            held = found.balance().held
            if amount is not _KEEP:
                found.budget = amount
                found.save(update_fields=["budget"])
            balance = found.balance()
        woken = max(0, held - balance.held)
        if as_json:
            self.stdout.write(json.dumps({"ok": True, **_document(found, balance), "woken": woken}))
            return
        tell(self.stdout, *_sentences(found, balance))
        if woken:
            tell(self.stdout, f"{_steps(woken)} can go on.")


def _amount(text: str) -> Decimal | None:
    if text.casefold() == "none":
        return None
    try:
        return amount(text)
    except ValueError as exc:
        msg = f"{exc}: give an amount such as 2.50, or none"
        raise ArgumentTypeError(msg) from None


def _document(run: WorkflowRun, balance: Balance) -> dict[str, Any]:
    amounts = {name: getattr(balance, name) for name in ("budget", "spent", "reserved", "left", "estimated", "unknown")}
    return {
        "id": str(run.pk),
        "name": run.name,
        **{name: None if value is None else f"{value:f}" for name, value in amounts.items()},
        "currency": balance.currency,
        "held": balance.held,
    }


def _sentences(run: WorkflowRun, balance: Balance) -> Iterator[str]:
    def shown(value: Decimal) -> str:
        return money.amount(value, balance.currency)

    yield f"Run {run.pk} ({printable(run.name)})"
    yield f"budget: {'none' if balance.budget is None else shown(balance.budget)}"
    yield f"spent: {shown(balance.spent)}"
    yield f"reserved: {shown(balance.reserved)}"
    if balance.estimated:
        yield f"  {shown(balance.estimated)} of it is an estimate: these calls may cost more"
    if balance.unknown:
        yield f"  {shown(balance.unknown)} of it is for calls of unknown outcome, which may have been paid"
    if balance.left is not None:
        yield f"left: {shown(balance.left)}"
    if balance.held:
        yield f"held: {_steps(balance.held)}"


def _steps(count: int) -> str:
    return f"{number(count)} step" if count == 1 else f"{number(count)} steps"
