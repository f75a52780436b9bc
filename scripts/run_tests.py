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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from xml.etree import ElementTree as ET

from scripts.processes import Program, leave, run, run_together, say
from scripts.services import DATABASE_URL, REDIS_URL, ServiceError, postgres, valkey

AT_HAND = "--suites-at-hand"

CHECKS = ("lint", "types", "docs")

NO_TESTS_COLLECTED = 5


@dataclass(frozen=True, slots=True)
class Suite:
    """One run of pytest."""

    title: str
    database: str
    broker: str
    marks: str
    """Which tests belong to it, as pytest's `-m` has it."""
    servers: tuple[str, ...] = ()
    """The variables that name what it runs on."""


# What stands together runs at the same time: most tests wait more than they work.
ROUNDS = (
    (
        Suite("SQLite", "sqlite", "orm", "not quiet"),
        Suite("PostgreSQL", "postgres", "orm", "not quiet and not once", (DATABASE_URL,)),
        Suite("PostgreSQL, Redis broker", "postgres", "redis", "broker", (DATABASE_URL, REDIS_URL)),
    ),
    (Suite("SQLite, what measures time", "sqlite", "orm", "quiet"),),
    (Suite("PostgreSQL, what measures time", "postgres", "orm", "quiet", (DATABASE_URL,)),),
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
    for together in ROUNDS:
        at_hand = [suite for suite in together if all(os.environ.get(variable) for variable in suite.servers)]
        if not at_hand:
            continue
        for suite, (of_suite, succeeded) in zip(at_hand, run_suites(at_hand, arguments), strict=True):
            tally += of_suite
            if not succeeded:
                failed.append(suite.title)
    return tally, failed


def run_suites(suites: Sequence[Suite], arguments: Sequence[str]) -> list[tuple[Tally, bool]]:
    """Run some suites at the same time; return the counts of each and whether it succeeded."""
    say(" and ".join(suite.title for suite in suites))
    with tempfile.TemporaryDirectory(prefix="baton-report-") as folder:
        reports = [Path(folder) / f"{number}.xml" for number in range(len(suites))]
        programs = [
            Program(
                [sys.executable, "-m", "pytest", f"--junitxml={report}", "-m", suite.marks, *arguments],
                {"BATON_TEST_DB": suite.database, "BATON_TEST_BROKER": suite.broker},
            )
            for suite, report in zip(suites, reports, strict=True)
        ]
        statuses = run_together(programs)
        tallies = [Tally.read(report) for report in reports]
    return [judge(tally, status, narrowed=bool(arguments)) for tally, status in zip(tallies, statuses, strict=True)]


def judge(tally: Tally, status: int, *, narrowed: bool) -> tuple[Tally, bool]:
    """Return the counts with what they do not show, and whether the suite succeeded."""
    fine = status == 0 or (status == NO_TESTS_COLLECTED and narrowed)
    if not fine and not tally.failed:
        tally += Tally(failed=1)  # pytest itself failed, or found no test
    return tally, tally.failed == 0


def run_check(name: str) -> bool:
    """Run another target of the Makefile; return whether it succeeded."""
    say(name)
    return run(Program(["make", "--no-print-directory", name])) == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
