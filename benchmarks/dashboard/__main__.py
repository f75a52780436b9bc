"""The command: ``python -m benchmarks.dashboard``, which is ``make bench-dashboard``.

It starts a durable PostgreSQL, a Valkey, real daphnes and a Chromium, fills the database with runs of up to 10,000
steps, and prints a table.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from benchmarks.dashboard import table
from benchmarks.environment import DATABASE_VARIABLE, Q_CLUSTER_VARIABLE, with_prefetch
from scripts.services import Postgres, Valkey


def main() -> int:
    """Measure and print; exit with 1 when a figure misses what it must reach and ``--strict`` was given."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # The database keeps when it committed what, for what a page shows is compared with that.
    server = Postgres(durable=True, settings={"track_commit_timestamp": "on"})
    with server, Valkey() as valkey, tempfile.TemporaryDirectory(prefix="baton-bench-") as folder:
        os.environ |= {
            DATABASE_VARIABLE: server.url,
            Q_CLUSTER_VARIABLE: json.dumps(with_prefetch(2)),
            "DJANGO_SETTINGS_MODULE": "benchmarks.dashboard.settings",
            # Playwright keeps an event loop in this thread, beside which Django would not speak to the database.
            "DJANGO_ALLOW_ASYNC_UNSAFE": "1",
        }
        import django  # noqa: PLC0415 - its settings name the database that has just been started

        django.setup()
        from benchmarks.dashboard.measure import Session  # noqa: PLC0415 - needs a configured Django
        from benchmarks.measure import describe_machine  # noqa: PLC0415

        machine = describe_machine()
        session = Session(Path(folder), layer=valkey.url, seconds=options.seconds)
        figures: dict[str, float] = {}
        troubles: dict[str, str] = {}
        session.prepare()
        for part in options.parts:
            try:
                getattr(session, part)(figures)
            except Exception as exc:  # noqa: BLE001 - one part that fails leaves the others
                traceback.print_exc()
                troubles[part] = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
    rows = table.rows_of(options.parts)
    if options.json:
        judged = table.summary(rows, figures, troubles)
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        print(json.dumps({"machine": machine, "figures": figures, "rows": judged, "troubles": troubles}, indent=2))
    else:
        print(_title(machine))
        print()
        print(table.render(rows, figures, troubles))
    missed = table.misses(rows, figures, troubles)
    print("missed: " + ("; ".join(missed) or "nothing"), file=sys.stderr)
    return 1 if missed and options.strict else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboard", description="Measure the dashboard.")
    parser.add_argument("--only", default="", help=f"what to measure, of {', '.join(table.PARTS)} (default all)")
    parser.add_argument("--seconds", type=float, default=15, help="of updates, each time (default 15)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a figure misses what it must reach")
    options = parser.parse_args()
    only = {part.strip() for part in options.only.split(",") if part.strip()}
    if unknown := only - set(table.PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.parts = [part for part in table.PARTS if not only or part in only]
    return options


def _title(machine: dict[str, object]) -> str:
    return (
        f"The dashboard on PostgreSQL, daphne and Chromium: Python {machine['python']}, Django {machine['django']}, "
        f"{machine['cores']} cores, load {machine['load_before']:.1f} before"
    )


if __name__ == "__main__":
    sys.exit(main())
