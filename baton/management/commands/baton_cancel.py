"""Cancel runs: everything of them that is not settled is settled as cancelled, at once."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from baton.management.refusals import refusals
from baton.management.runs import find_run, run_prefix
from baton.management.terminal import printable, tell
from baton.models import WorkflowRun
from baton.states import RunState


class Command(BaseCommand):
    """``manage.py baton_cancel``."""

    help = (
        "Cancel runs. Everything that is not settled is cancelled at once; a body that is running is told, and what it "
        "returns is dropped. Exits with 1 where a run has already ended; the others are cancelled all the same."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "runs", metavar="RUN", nargs="+", type=run_prefix, help="the id of a run, or at least 4 digits of it"
        )
        parser.add_argument("--reason", default="", metavar="TEXT", help="kept with the run and with each of its steps")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")

    def handle(self, *args: Any, runs: list[str], reason: str, as_json: bool, **options: Any) -> None:
        """Do what was asked."""
        with refusals(self, as_json=as_json):
            # All are found before any is cancelled.
            found = list(dict.fromkeys(find_run(prefix) for prefix in runs))
        done = [(run, run.cancel(reason)) for run in found]
        error = "\n".join(_why_not(run) for run, is_cancelled in done if not is_cancelled)
        if as_json:
            told = [
                {"id": str(run.pk), "name": run.name, "state": str(run.state), "cancelled": is_cancelled}
                for run, is_cancelled in done
            ]
            self.stdout.write(json.dumps({"ok": not error, "runs": told, **({"error": error} if error else {})}))
            if error:
                raise SystemExit(1)
            return
        for run, is_cancelled in done:
            if is_cancelled:
                tell(self.stdout, f"Run {run.pk} ({printable(run.name)}) is cancelled.")
        if error:
            raise CommandError(error)


def _why_not(run: WorkflowRun) -> str:
    sentence = f"Run {run.pk} ({printable(run.name)}) has ended as {run.state} already, so there is nothing to cancel."
    return sentence if run.state == RunState.COMPLETED else f"{sentence} Use baton_retry to run its failed part again."
