"""Play the whole crash table on PostgreSQL, with the ORM broker and with Redis, and print it: what `make faults` does.

After it, 300 runs whose workers are killed around calls that are paid for, and some on SQLite. Arguments are pytest's.
The exit status is 0 when every run got over its faults.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.processes import Program, leave, run_together, say
from scripts.services import DATABASE_URL, REDIS_URL, UNCOUNTED, postgres, valkey

BROKERS = ("orm", "redis")
FILES = ("tests/faults/test_crash_table.py", "tests/faults/test_outages.py")
PAID = ("tests/faults/test_paid_calls.py",)
NO_TESTS_COLLECTED = 5
WORDS = {"SIGKILL": "killed", "SIGSTOP": "stopped"}


def main(arguments: Sequence[str]) -> int:
    """Play everything, and print the table."""
    signal.signal(signal.SIGTERM, leave)
    with tempfile.TemporaryDirectory(prefix="baton-faults-") as folder, contextlib.ExitStack() as servers:
        for variable, service in ((DATABASE_URL, postgres(settings=UNCOUNTED)), (REDIS_URL, valkey())):
            server = servers.enter_context(service)
            os.environ[variable] = server.url
        report = Path(folder) / "report"
        say("The crash table, with both brokers at the same time")
        statuses = run_together([_program(FILES, "postgres", broker, report, arguments) for broker in BROKERS])
        paid = Path(folder) / "paid"
        for database in ("postgres", "sqlite"):
            say(f"Calls that are paid for, {database}")
            statuses += run_together([_program(PAID, database, "orm", paid, arguments)])
        figures = [json.loads(line) for line in paid.read_text().splitlines()] if paid.exists() else []
        lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    print(table(lines))
    for each in figures:
        print(told(each))
    # A narrowed run may leave nothing to one of the programs.
    failed = any(status not in {0, NO_TESTS_COLLECTED if arguments else 0} for status in statuses)
    say("Failed: see above" if failed else "All is well")
    return 1 if failed else 0


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown: the seconds from the last strike to the end of the run, by fault and broker."""
    rows: dict[str, dict[str, str]] = {}
    for line in lines:
        rows.setdefault(title(line["faults"]), {})[line["broker"]] = f"{line['seconds']:.1f} s"
    head = ["| what is struck | ORM broker | Redis |", "| --- | --- | --- |"]
    return "\n".join(
        [
            *head,
            *(f"| {name} | {' | '.join(found.get(each, '') for each in BROKERS)} |" for name, found in rows.items()),
        ]
    )


def told(figures: dict[str, Any]) -> str:
    """What became of the paid calls: the figures, where strikes fell, and the charges of calls that are marked."""
    places = [f"| {place} | {count} |" for place, count in figures["places"].items()]
    head = [f"\n{figures['figures']}\n", "| a worker is struck | times |", "| --- | --- |"]
    return "\n".join([*head, *places, "\nCharged and marked ambiguous:", *figures["in_vain"]])


def title(faults: Sequence[dict[str, str]]) -> str:
    """The faults in words."""
    return ", then ".join(f"{WORDS[fault['signal']]} {fault['place']}" for fault in faults)


def _program(files: Sequence[str], database: str, broker: str, report: Path, arguments: Sequence[str]) -> Program:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:randomly",
        *files,
        *arguments,
    ]
    return Program(
        command,
        {
            "BATON_TEST_DB": database,
            "BATON_TEST_BROKER": broker,
            "BATON_FAULTS": "all",
            "BATON_FAULTS_REPORT": str(report),
        },
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
