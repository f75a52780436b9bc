"""Look at the real installation, and name what is wrong with it."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand

from baton.doctor import WAIT_SECONDS, Finding, examine
from baton.management.terminal import printable, tell

_INDENT = " " * 9


class Command(BaseCommand):
    """``manage.py baton_doctor``."""

    help = (
        "Look at the real installation: settings, databases and their migrations, the broker, a worker for every queue "
        "that steps use, the sweep, live runs, clocks, tables, the channel layer. Each finding comes with its fix. "
        "Exits with 1 when there is an error or a warning."
    )
    # They are reported as findings; a refusal to start would hide all the others.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--wait",
            type=_seconds,
            default=WAIT_SECONDS,
            metavar="SECONDS",
            help="how long workers may take to answer (default: %(default)g)",
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")

    def handle(self, *args: Any, wait: float, as_json: bool, **options: Any) -> None:
        """Examine, and print what was found."""
        findings = examine(wait=wait, tell=None if as_json else self.stderr.write)
        is_well = not any(finding.is_fault for finding in findings)
        if as_json:
            self.stdout.write(json.dumps({"ok": is_well, "findings": [finding.as_dict() for finding in findings]}))
        else:
            tell(self.stdout, "\n\n".join(map(_told, findings)) or "Nothing is wrong.")
        if not is_well:
            raise SystemExit(1)


def _told(finding: Finding) -> str:
    # One line each, so that a command in it can be copied.
    lines = [f"{finding.severity:<8} {finding.id}", f"{_INDENT}{printable(finding.sentence)}"]
    if finding.fix:
        lines.append(f"{_INDENT}Fix: {printable(finding.fix)}")
    return "\n".join(lines)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 600:
        msg = f"{text!r} is not a number of seconds from 0 to 600"
        raise ArgumentTypeError(msg)
    return value
