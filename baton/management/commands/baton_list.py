"""List runs in the terminal, newest first, with how far they are."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from baton.management.listing import document_of, lines_of
from baton.management.refusals import refusals
from baton.management.terminal import Terminal, leaving_quietly, options_of_terminal
from baton.queries import MOST_RUNS, runs
from baton.states import RunState

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


class Command(BaseCommand):
    """``manage.py baton_list``."""

    help = "List runs, newest first: their state, how many of their steps are settled, and how long they took."
    # Whoever looks because something is broken must be able to look.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--state",
            action="append",
            choices=RunState.values,
            help="runs in this state; may be given more than once",
        )
        parser.add_argument("--name", help="runs of exactly this name")
        parser.add_argument(
            "--search", metavar="TEXT", help="runs with this in their name or key, or whose id begins so"
        )
        parser.add_argument(
            "--since", type=_moment, metavar="TIME", help="runs inserted then or later: 2h, 3d, or a time in ISO 8601"
        )
        parser.add_argument("--until", type=_moment, metavar="TIME", help="runs inserted before")
        parser.add_argument(
            "--limit", type=_limit, default=50, help=f"runs at most, 1 to {MOST_RUNS} (default: %(default)s)"
        )
        parser.add_argument("--after", metavar="CURSOR", help="the next page, as the page before says")
        parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document")

    def handle(
        self,
        *args: Any,
        state: list[str] | None,
        name: str | None,
        search: str | None,
        since: datetime | None,
        until: datetime | None,
        limit: int,
        after: str | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        """List what was asked for."""
        try:
            with refusals(self, as_json=as_json):
                page = runs(state, name, search, since, until, limit, after)
        except ValueError as exc:
            raise CommandError(str(exc), returncode=2) from exc
        terminal = Terminal.of(self.stdout, **options_of_terminal(options))
        with leaving_quietly():
            if as_json:
                self.stdout.write(json.dumps(document_of(page)))
            else:
                terminal.write(*lines_of(page, width=terminal.width))


def _moment(text: str) -> datetime:
    age = _AGE.fullmatch(text)
    try:
        if age:
            return timezone.now() - timedelta(**{_UNITS[age[2]]: float(age[1])})
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else timezone.make_aware(moment)
    except (ValueError, OverflowError):
        msg = f"{text!r} is no time: give an age such as 90s, 30m, 2h, 3d or 1w, or a time in ISO 8601"
        raise ArgumentTypeError(msg) from None


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_RUNS:
        msg = f"{text!r} is not between 1 and {MOST_RUNS}"
        raise ArgumentTypeError(msg)
    return int(text)
