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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from xml.etree import ElementTree as ET

from scripts import chromium
from scripts.processes import Program, leave, run, run_lanes, say
from scripts.services import DATABASE_URL, REDIS_URL, ServiceError, postgres, valkey

AT_HAND = "--suites-at-hand"

CHECKS = ("lint", "types", "docs")

NO_TESTS_COLLECTED = 5

BROWSER = "tests/browser"


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
    folder: str = "tests"
    """Where its tests are."""


# The lanes of a round run at the same time, for most tests wait more than they work; in a lane one suite follows the
# other, and browsers follow the shortest.
ROUNDS = (
    (
        (Suite("SQLite", "sqlite", "orm", "not quiet and not browser"),),
        (Suite("PostgreSQL", "postgres", "orm", "not quiet and not once and not browser", (DATABASE_URL,)),),
        (
            Suite("PostgreSQL, Redis broker", "postgres", "redis", "broker and not browser", (DATABASE_URL, REDIS_URL)),
            Suite("Chromium", "sqlite", "orm", "browser", folder=BROWSER),
            Suite(
                "Chromium, PostgreSQL, Redis",
                "postgres",
                "redis",
                "browser and broker",
                (DATABASE_URL, REDIS_URL),
                BROWSER,
            ),
        ),
    ),
    ((Suite("SQLite, what measures time", "sqlite", "orm", "quiet"),),),
    ((Suite("PostgreSQL, what measures time", "postgres", "orm", "quiet", (DATABASE_URL,)),),),
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
    with compiled_once():
        tally, failed = run_suites_at_hand(for_pytest) if at_hand else run_all_suites(for_pytest)
    # A narrowed run is for a quick answer.
    if not arguments:
        failed += [check for check in CHECKS if not run_check(check)]
        if chromium.found() is None:
            say(f"Left out: the browser tests. {chromium.REMEDY}")
    say(f"Failed: {', '.join(failed)}" if failed else "All is well")
    print(tally, flush=True)
    if closing_line := os.environ.get("BATON_CLOSING_LINE"):
        Path(closing_line).write_text(f"{tally}\n")
    return 1 if failed else 0


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Let the processes of the run share what Python compiles, where the environment lets it keep nothing.

    Clusters, commands and servers are started by the hundred: compiling takes longer than what they do.
    """
    if not os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="baton-bytecode-", ignore_cleanup_errors=True) as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        yield
        del os.environ["PYTHONPYCACHEPREFIX"]


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
    for lanes in ROUNDS:
        at_hand = [
            [suite for suite in lane if all(os.environ.get(variable) for variable in suite.servers)] for lane in lanes
        ]
        for suite, of_suite, succeeded in run_suites([lane for lane in at_hand if lane], arguments):
            tally += of_suite
            if not succeeded:
                failed.append(suite.title)
    return tally, failed


def run_suites(lanes: Sequence[Sequence[Suite]], arguments: Sequence[str]) -> list[tuple[Suite, Tally, bool]]:
    """Run lanes of suites at the same time; return the counts of each and whether it succeeded."""
    if not lanes:
        return []
    suites = [suite for lane in lanes for suite in lane]
    say(" and ".join(", then ".join(suite.title for suite in lane) for lane in lanes))
    with tempfile.TemporaryDirectory(prefix="baton-report-") as folder:
        reports = {suite: Path(folder) / f"{number}.xml" for number, suite in enumerate(suites)}
        programs = [[_program(suite, reports[suite], arguments) for suite in lane] for lane in lanes]
        statuses = [status for of_lane in run_lanes(programs) for status in of_lane]
        tallies = [Tally.read(reports[suite]) for suite in suites]
    return [
        (suite, *judge(tally, status, narrowed=bool(arguments)))
        for suite, tally, status in zip(suites, tallies, statuses, strict=True)
    ]


def _program(suite: Suite, report: Path, arguments: Sequence[str]) -> Program:
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-m", suite.marks]
    command += arguments or [suite.folder]
    if suite.folder == BROWSER:
        command = [sys.executable, "-m", "scripts.chromium", *command]
    return Program(command, {"BATON_TEST_DB": suite.database, "BATON_TEST_BROKER": suite.broker})


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
