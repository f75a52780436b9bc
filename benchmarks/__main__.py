"""The command: ``python -m benchmarks``, which is ``make bench``.

It starts a durable PostgreSQL, measures each database in a process of its own, prints the table and the JSON, and
leaves nothing running, also when it is interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cluster import ROOT
from benchmarks.environment import DATABASE_VARIABLE
from scripts import watchdog
from scripts.services import Postgres, Valkey

PARTS = {
    "postgresql": ("W1", "W2", "W3", "W4", "W5", "URGENT", "PLAIN", "EVENTS", "SLOPE"),
    "sqlite": ("W2", "W3", "LOCKED"),
}
STOP_SECONDS = 30.0


def main() -> int:
    """Measure and print; exit with 1 when a figure misses what it must reach and ``--strict`` was given."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    reports = {}
    try:
        with tempfile.TemporaryDirectory(prefix="baton-bench-") as folder:
            for vendor in options.databases:
                reports[vendor] = measure(vendor, options, Path(folder) / vendor)
    except KeyboardInterrupt:
        print("interrupted; everything is stopped", file=sys.stderr)
        return 130
    except subprocess.CalledProcessError as exc:
        print(f"the measurement failed with exit status {exc.returncode}", file=sys.stderr)
        return 2
    for each in reports.values():
        print(report.render(each), end="\n\n")
    document = json.dumps(
        {vendor: {**each, "judged": report.summary(each)} for vendor, each in reports.items()}, indent=2
    )
    if options.json:
        options.json.write_text(document + "\n", encoding="utf-8")
    else:
        print(document)
    missed = {f"{vendor} {name}" for vendor, each in reports.items() for name in report.misses(each)}
    print("missed: " + (", ".join(sorted(missed)) or "nothing"), file=sys.stderr)
    return 1 if missed and options.strict else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    known = list(dict.fromkeys(part for parts in PARTS.values() for part in parts))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Baton beside raw django-q2.")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions (default 5)")
    parser.add_argument("--only", default="", help=f"what to measure, of {', '.join(known)} (default all)")
    parser.add_argument("--sqlite", action="store_true", help="measure SQLite only")
    parser.add_argument("--postgres", action="store_true", help="measure PostgreSQL only")
    parser.add_argument("--prefetch", type=int, default=2, help="queue_limit and bulk of Baton's cluster (default 2)")
    parser.add_argument("--json", type=Path, help="write the JSON here instead of printing it")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a figure misses what it must reach")
    options = parser.parse_args()
    only = {part.strip().upper() for part in options.only.split(",") if part.strip()}
    if unknown := only - set(known):
        parser.error(f"--only does not know {', '.join(sorted(unknown))}")
    chosen = ["sqlite"] * options.sqlite + ["postgresql"] * options.postgres or list(PARTS)
    options.parts = {vendor: [part for part in PARTS[vendor] if not only or part in only] for vendor in chosen}
    options.databases = [vendor for vendor in ("postgresql", "sqlite") if options.parts.get(vendor)]
    return options


def measure(vendor: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bring the database, measure on it in a process of its own, and read what that one found."""
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        if vendor == "postgresql":
            # Never the server that the environment names: nobody knows what else it does, or whether it is durable.
            url = stack.enter_context(Postgres(durable=True)).url
        else:
            url = f"sqlite://{folder / 'bench.sqlite3'}"
        layer = stack.enter_context(Valkey()).url if "EVENTS" in options.parts[vendor] else ""
        run_session(url, ",".join(options.parts[vendor]), options, folder, layer=layer)
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


def run_session(url: str, parts: str, options: argparse.Namespace, folder: Path, *, layer: str) -> None:
    """Run ``benchmarks.measure``; whatever ends us, it is asked to stop and waited for."""
    command = [sys.executable, "-m", "benchmarks.measure", "--folder", str(folder), "--parts", parts]
    command += ["--repeat", str(options.repeat), "--prefetch", str(options.prefetch), "--layer", layer]
    environment = {**os.environ, DATABASE_VARIABLE: url}
    with subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True) as process:
        watchdog.watch(process, stop_with=signal.SIGTERM, folder=folder.parent)
        try:
            returncode = process.wait()
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()
            process.wait()
            watchdog.forget(process)
    if returncode:
        raise subprocess.CalledProcessError(returncode, "benchmarks.measure")


if __name__ == "__main__":
    sys.exit(main())
