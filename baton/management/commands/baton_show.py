"""Show one run in the terminal: its graph, where every step stands, and why."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from difflib import get_close_matches
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from baton.exceptions import StepNotFoundError
from baton.explain.words import listed
from baton.management.money import MoneyView
from baton.management.refusals import refusals
from baton.management.runs import find_run, run_prefix
from baton.management.showing import View, changes, follow, name_width
from baton.management.terminal import Terminal, leaving_quietly, options_of_terminal, printable, tell
from baton.models import WorkflowNode, WorkflowRun
from baton.states import RunState


class Command(BaseCommand):
    """``manage.py baton_show``."""

    help = (
        "Show a run: its steps in the order of their dependencies, with states, attempts, times and errors. "
        "With --follow it stays until the run has ended, and exits with 0 if it completed, else with 1."
    )
    # Whoever looks because something is broken must be able to look.
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("run", type=run_prefix, help="the run's id, or the beginning of it")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--follow", action="store_true", help="stay, and print each change, until the run has ended")
        how.add_argument("--why", metavar="STEP", help="say in a sentence or two why this step is where it is")
        how.add_argument("--money", action="store_true", help="show what its calls of language models took and cost")
        parser.add_argument(
            "--json",
            action="store_true",
            dest="as_json",
            help="print one JSON document, with --follow when the run has ended",
        )

    def handle(
        self, *args: Any, run: str, follow: bool, why: str | None, money: bool, as_json: bool, **options: Any
    ) -> None:
        """Show the run, or a step of it."""
        terminal = Terminal.of(self.stdout, **options_of_terminal(options))
        with refusals(self, as_json=as_json), leaving_quietly():
            found = find_run(run)
            if why is not None:
                self._explain(_step(found, why), as_json=as_json)
                return
            view = View.of(found)
            paid = MoneyView.of(found, is_whole=as_json) if money else None
            if not as_json:
                below = view.graph(width=terminal.width) if paid is None else paid.lines()
                terminal.write(*view.head(width=terminal.width), "", *below)
            if follow and not found.is_settled:
                view = _followed(view, terminal, is_quiet=as_json)
            if as_json:
                self.stdout.write(json.dumps(view.document() | ({"money": paid.document()} if paid else {})))
        if follow and view.run.state != RunState.COMPLETED:
            raise SystemExit(1)

    def _explain(self, node: WorkflowNode, *, as_json: bool) -> None:
        if as_json:
            told = {"run": str(node.run_id), "step": node.name, "state": str(node.state), "why": node.explain()}
            self.stdout.write(json.dumps(told))
        else:
            tell(self.stdout, printable(node.explain()))


def _step(run: WorkflowRun, name: str) -> WorkflowNode:
    try:
        return run.steps[name]
    except StepNotFoundError as exc:
        names = list(run.steps)
        close = get_close_matches(name, names) or [each for each in names if name.casefold() in each.casefold()][:3]
        hint = f" Did you mean {listed([repr(each) for each in close])}?" if close else ""
        raise CommandError(f"{exc}{hint}") from None


def _followed(view: View, terminal: Terminal, *, is_quiet: bool) -> View:
    """Wait for the end of a run, and tell each change unless that is not wanted."""
    width = name_width(view)
    try:
        for seen in follow(view):
            if not is_quiet:
                terminal.write(*changes(seen, name_width=width))
    except WorkflowRun.DoesNotExist:
        raise CommandError(f"Run {view.run.pk} was deleted meanwhile.") from None
    view = View.of(view.run)
    if not is_quiet:
        terminal.write("", *view.head(width=terminal.width))
    return view
