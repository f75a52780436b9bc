"""Say what is to follow a call of which nobody knows whether it was answered and paid."""

from __future__ import annotations

import getpass
import json
from argparse import ArgumentParser
from typing import Any, Literal

from django.core.management.base import BaseCommand

from baton.engine.questions import resolve
from baton.explain.words import listed
from baton.management.refusals import refusals
from baton.management.runs import find_run, run_prefix
from baton.management.terminal import printable, tell


class Command(BaseCommand):
    """``manage.py baton_resolve``."""

    help = (
        "Say what is to follow a call of a step of which nobody knows whether it was answered and paid: --pay calls "
        "again, --fail discards the step. A step that waited for that goes on. Exits with 1 where there is no such "
        "call."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("run", metavar="RUN", type=run_prefix, help="the id of the run, or at least 4 digits of it")
        parser.add_argument("step", metavar="STEP", help="the name of the step")
        decision = parser.add_mutually_exclusive_group(required=True)
        decision.add_argument(
            "--pay", action="store_const", const="pay", dest="decision", help="call again, and pay for that"
        )
        decision.add_argument(
            "--fail", action="store_const", const="fail", dest="decision", help="discard the step, and call no more"
        )
        parser.add_argument("--key", help="the call with this key only; else every call of the step that is undecided")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")

    def handle(
        self,
        *args: Any,
        run: str,
        step: str,
        decision: Literal["pay", "fail"],
        key: str | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        """Do what was asked."""
        with refusals(self, as_json=as_json):
            found = find_run(run)
            keys = resolve(found, step, key, decision=decision, by=_user())
        if as_json:
            told = {"ok": True, "id": str(found.pk), "name": found.name, "step": step, "keys": keys}
            self.stdout.write(json.dumps({**told, "decision": decision}))
            return
        calls = listed([repr(printable(each)) for each in keys])
        then = "is made again" if decision == "pay" else "fails the step"
        if len(keys) > 1:
            then = "are made again" if decision == "pay" else "fail the step"
        noun = "The call" if len(keys) == 1 else "The calls"
        tell(self.stdout, f"{noun} {calls} of step {printable(step)} {then}.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A user without a name, as in some containers.
        return ""
