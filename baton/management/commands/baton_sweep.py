"""Mend what crashes and lost messages left: one pass, or one every few seconds."""

from __future__ import annotations

import json
import signal
import threading
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections, connections

from baton.management.refusals import refusals
from baton.management.terminal import printable, tell
from baton.sweep import SweepReport, check, sweep

USAGE_ERROR = 2


class Command(BaseCommand):
    """``manage.py baton_sweep``."""

    help = (
        "Mend what crashes and lost messages left behind: steps of vanished workers, steps that are ready or due and "
        "have no bell, waiters that nothing would wake, endings that nobody noted or announced. Then delete what is "
        "older than RETENTION_DAYS and DEBUG_LOG_RETENTION_DAYS say. One pass, unless --watch is given; a pass that "
        "finds another sweep at work does nothing and succeeds. Exit codes: 0 done, 1 a part failed or --check found "
        "a broken invariant, 2 wrong usage."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--watch", action="store_true", help="stay, and make a pass every few seconds until SIGTERM"
        )
        parser.add_argument(
            "--interval",
            type=_seconds,
            default=10.0,
            help="seconds between two passes of --watch (default: %(default)s)",
        )
        parser.add_argument(
            "--prune",
            action="store_true",
            help="delete old settled runs, also where RETENTION_DAYS is None: then those of more than 30 days",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="change nothing, and say what there is to mend and to delete"
        )
        parser.add_argument(
            "--check", action="store_true", help="do not mend: look for broken invariants, exit with 1 if there is one"
        )
        parser.add_argument(
            "--json", action="store_true", dest="as_json", help="print JSON, with --watch a line a pass"
        )

    def handle(self, *args: Any, watch: bool, interval: float, check: bool, as_json: bool, **options: Any) -> None:
        """Do what was asked."""
        asked = {"--watch": watch, "--check": check, "--dry-run": options["dry_run"], "--prune": options["prune"]}
        for one, other in _contradictions(asked):
            raise CommandError(f"{one} and {other} contradict each other.", returncode=USAGE_ERROR)
        if check:
            self._check(as_json=as_json)
        elif watch:
            self._watch(interval, prune=options["prune"], as_json=as_json)
        else:
            self._sweep(prune=options["prune"], dry_run=options["dry_run"], as_json=as_json)

    def _sweep(self, *, prune: bool, dry_run: bool, as_json: bool) -> None:
        progress = None if as_json or dry_run else self._print_batch
        with refusals(self, as_json=as_json):
            report = sweep(prune=prune, dry_run=dry_run, progress=progress)
        self._print(report, as_json=as_json)
        if report.errors:
            raise CommandError(_failures(report))

    def _watch(self, interval: float, *, prune: bool, as_json: bool) -> None:
        stop = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        while not stop.is_set():
            try:
                report = sweep(prune=prune, progress=None if as_json else self._print_batch)
            except Exception as exc:  # noqa: BLE001 - the database may be away for a while; the watch stays
                self.stderr.write(f"This pass failed, the next follows in {interval:g} s: {printable(str(exc))}")
                connections.close_all()
            else:
                if as_json or report.work or report.rung or report.pruned or report.errors:
                    self._print(report, as_json=as_json)
                if report.errors:
                    self.stderr.write(_failures(report))
            close_old_connections()
            stop.wait(interval)

    def _check(self, *, as_json: bool) -> None:
        with refusals(self, as_json=as_json):
            broken = check()
        if as_json:
            self.stdout.write(json.dumps({"ok": not broken, "broken": broken}))
        else:
            tell(self.stdout, "\n".join(map(printable, broken)) or "Every invariant holds.")
        if broken:
            raise SystemExit(1)

    def _print_batch(self, part: str, count: int) -> None:
        self.stdout.write(f"  {part}: {count}")
        self.stdout.flush()

    def _print(self, report: SweepReport, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(report.as_dict()))
        elif report.busy and not report.work:
            self.stdout.write("Another sweep is at work; nothing was done.")
        else:
            self.stdout.write(f"{'Would begin with: ' if report.dry_run else ''}{_counts(report)}")
        self.stdout.flush()


def _contradictions(asked: dict[str, bool]) -> Iterator[tuple[str, str]]:
    for one, other in (
        ("--watch", "--check"),
        ("--watch", "--dry-run"),
        ("--check", "--dry-run"),
        ("--check", "--prune"),
    ):
        if asked[one] and asked[other]:
            yield one, other


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value <= 86_400:
        msg = f"{text!r} is not a number of seconds above 0 and up to 86400"
        raise ArgumentTypeError(msg)
    return value


def _counts(report: SweepReport) -> str:
    pruned = ", ".join(f"{table} {count}" for table, count in report.tables.items())
    return (
        f"rescued {report.rescued}, readied {report.readied}, mended {report.mended}, "
        f"marked {report.marked}, held {report.held}, hooks {report.hooks}, "
        f"finished {report.finished}, announced {report.announced}, rang {report.rung}, pruned {report.pruned}"
        f"{f' ({pruned})' if pruned else ''}; {report.seconds:.3f} s"
    )


def _failures(report: SweepReport) -> str:
    parts = "; ".join(f"{name}: {printable(error)}" for name, error in report.errors.items())
    return f"Parts of the sweep failed, the others ran: {parts}"
