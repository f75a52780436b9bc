"""Run the failed part of a settled run again, or a step and everything after it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand

from baton.engine.retry import retry_run
from baton.management.refusals import refusals
from baton.management.runs import find_run, run_prefix
from baton.management.terminal import printable, tell

_SHOWN = 20


class Command(BaseCommand):
    """``manage.py baton_retry``."""

    help = (
        "Run the failed part of a run again: every step that was discarded or cancelled, and everything after them. "
        "All other steps keep their results. The run must have ended. Exits with 1 where it is refused."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("run", metavar="RUN", type=run_prefix, help="the id of the run, or at least 4 digits of it")
        parser.add_argument(
            "--from",
            dest="from_step",
            metavar="STEP",
            help="run this step and everything after it again instead, whether or not it failed",
        )
        parser.add_argument(
            "--new-answers",
            action="store_true",
            help="ask language models anew, and pay again, instead of taking the answers that are stored",
        )
        parser.add_argument("--dry-run", action="store_true", help="change nothing: say what would run again")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")

    def handle(
        self,
        *args: Any,
        run: str,
        from_step: str | None,
        new_answers: bool,
        dry_run: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        """Do what was asked."""
        with refusals(self, as_json=as_json):
            found = find_run(run)
            plan = retry_run(found.pk, from_step=from_step, dry_run=dry_run, new_answers=new_answers)
        found.refresh_from_db()
        if as_json:
            told = {"ok": True, "id": str(found.pk), "name": found.name, "round": found.round, "dry_run": dry_run}
            self.stdout.write(
                json.dumps({**told, "reruns": plan.reruns, "keeps": plan.keeps, "new_answers": new_answers})
            )
            return
        which = f"run {found.pk} ({printable(found.name)})"
        tell(
            self.stdout,
            f"Nothing was changed. A retry of {which} would do this:"
            if dry_run
            else f"Round {found.round} of {which} has begun.",
            f"runs again: {_listed(plan.reruns)}",
            f"is kept: {_listed(plan.keeps)}",
            *(["Language models are asked anew."] if new_answers else []),
        )


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return ", ".join([*map(printable, names[:_SHOWN]), *more]) or "nothing"
