"""Run the whole suite on the servers it wants, then the other checks: what `make test` does.

Arguments are pytest's, but for --suites-at-hand, which starts no server and leaves out what would need one.
The last line printed sums up the runs, and goes to the file BATON_CLOSING_LINE where one is named; the exit status
is 0 when all went well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from xml.etree import ElementTree as ET

from scripts.processes import leave, run, say
from scripts.services import DATABASE_URL, REDIS_URL, ServiceError, postgres, valkey

AT_HAND = "--suites-at-hand"

CHECKS = ("lint", "types", "docs")

NO_TESTS_COLLECTED = 5


@dataclass(frozen=True, slots=True)
class Suite:
    """One run of pytest."""

    title: str
    environment: Mapping[str, str]
    servers: tuple[str, ...] = ()
    """The variables that name what it runs on."""
    arguments: tuple[str, ...] = ()


SUITES = (
    Suite("SQLite, ORM broker", {"BATON_TEST_DB": "sqlite", "BATON_TEST_BROKER": "orm"}),
    Suite("PostgreSQL, ORM broker", {"BATON_TEST_DB": "postgres", "BATON_TEST_BROKER": "orm"}, (DATABASE_URL,)),
    Suite(
        "PostgreSQL, Redis broker",
        {"BATON_TEST_DB": "postgres", "BATON_TEST_BROKER": "redis"},
        (DATABASE_URL, REDIS_URL),
        ("-m", "broker"),
    ),
)


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the tests of one or more runs."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @classmethod
    def read(cls, report: Path) -> Self:
        """Read a JUnit report; a run that left none was cut off, which is a failure."""
        try:
            suites = list(ET.parse(report).iter("testsuite"))  # noqa: S314 - our own pytest wrote it
        except (OSError, ET.ParseError):
            return cls(failed=1)
        total, failed, skipped = (
            sum(int(suite.get(name, 0)) for suite in suites for name in names)
            for names in (("tests",), ("failures", "errors"), ("skipped",))
        )
        return cls(passed=max(0, total - failed - skipped), failed=failed, skipped=skipped)

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def main(arguments: Sequence[str]) -> int:
    """Run everything, say what failed, and print the closing line last."""
    signal.signal(signal.SIGTERM, leave)
    at_hand = AT_HAND in arguments
    for_pytest = [argument for argument in arguments if argument != AT_HAND]
    tally, failed = run_suites_at_hand(for_pytest) if at_hand else run_all_suites(for_pytest)
    # A narrowed run is for a quick answer.
    if not arguments:
        failed += [check for check in CHECKS if not run_check(check)]
    say(f"Failed: {', '.join(failed)}" if failed else "All is well")
    print(tally, flush=True)
    if closing_line := os.environ.get("BATON_CLOSING_LINE"):
        Path(closing_line).write_text(f"{tally}\n")
    return 1 if failed else 0


def run_all_suites(arguments: Sequence[str]) -> tuple[Tally, list[str]]:
    """Start the servers and run every suite; return the counts and what failed."""
    try:
        with contextlib.ExitStack() as servers:
            for variable, service in ((DATABASE_URL, postgres()), (REDIS_URL, valkey())):
                server = servers.enter_context(service)
                os.environ[variable] = server.url
                say(f"{variable}={server.url} ({server.origin})")
            return run_suites_at_hand(arguments)
    except ServiceError as exc:
        say(str(exc))
        return Tally(failed=1), ["servers"]


def run_suites_at_hand(arguments: Sequence[str]) -> tuple[Tally, list[str]]:
    """Run the suites whose servers the environment names; return the counts and what failed."""
    tally, failed = Tally(), []
    for suite in SUITES:
        if all(os.environ.get(variable) for variable in suite.servers):
            of_suite, succeeded = run_suite(suite, arguments)
            tally += of_suite
            if not succeeded:
                failed.append(suite.title)
    return tally, failed


def run_suite(suite: Suite, arguments: Sequence[str]) -> tuple[Tally, bool]:
    """Run pytest once; return its counts and whether it succeeded."""
    say(suite.title)
    with tempfile.TemporaryDirectory(prefix="baton-report-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *suite.arguments, *arguments]
        status = run(command, suite.environment)
        tally = Tally.read(report)
    nothing_chosen = status == NO_TESTS_COLLECTED and bool(arguments)
    succeeded = status == 0 or nothing_chosen
    if not succeeded and not tally.failed:
        tally += Tally(failed=1)  # pytest itself failed, or found no test
    return tally, succeeded


def run_check(name: str) -> bool:
    """Run another target of the Makefile; return whether it succeeded."""
    say(name)
    return run(["make", "--no-print-directory", name], {}) == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
