"""``manage.py llm_brief``."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from research.llm_reports import write_money
from research.llm_workflows import BUDGET, MODELS, llm_brief
from research.terminal import follow


def amount(text: str) -> Decimal | None:
    """Read an amount of money, or ``none``."""
    try:
        return None if text == "none" else Decimal(text)
    except InvalidOperation:
        msg = f"{text!r} is no amount"
        raise ArgumentTypeError(msg) from None


class Command(BaseCommand):
    """Have language models write a brief on a topic."""

    help = (
        "Has language models write a brief on a topic; running qclusters, one of them for the queue llm, do the work."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the topic, the models and what it may cost."""
        parser.add_argument("topic", help='such as "priority queues"')
        parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL", help="which models summarize")
        parser.add_argument("--budget", type=amount, default=BUDGET, help="what it may cost (default: %(default)s)")
        parser.add_argument("--capture", action="store_true", help="keep every request and response, redacted")

    def handle(
        self, *args: Any, topic: str, models: Sequence[str], budget: Decimal | None, capture: bool, **options: Any
    ) -> None:
        """Insert the workflow, follow it, print the brief and what it cost."""
        run = llm_brief(topic, models=models, budget=budget, capture=capture).insert()
        follow(run, self.stdout)
        if run.state == "completed":
            self.stdout.write("\n" + run.steps["brief"].result)
        self.stdout.write("\n" + write_money(run))
        if run.state == "failed":
            reasons = [f"{node.name}: {node.error}" for node in run.steps.values() if node.state == "discarded"]
            raise CommandError("\n".join(reasons) or "the brief failed")
