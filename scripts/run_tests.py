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
from scripts.processes import Program, leave, run_lanes, say
from scripts.services import DATABASE_URL, REDIS_URL, UNCOUNTED, ServiceError, postgres, valkey

AT_HAND = "--suites-at-hand"

NO_TESTS_COLLECTED = 5

BROWSER = ("tests/browser",)
FAULTS = ("tests/faults", "tests/races")


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
    folders: tuple[str, ...] = ("tests",)
    """Where its tests are."""


@dataclass(frozen=True, slots=True)
class Check:
    """A target of the Makefile that is no test."""

    title: str


# Lanes run at the same time, for most tests wait more than they work; what is in a lane runs one after the other. They
# are about as long as each other.
LANES: tuple[tuple[Suite | Check, ...], ...] = (
    (
        Suite("SQLite", "sqlite", "orm", "not once and not browser"),
        Suite("Chromium", "sqlite", "orm", "browser", folders=BROWSER),
        Check("lint"),
        Check("types"),
        Check("docs"),
    ),
    (
        Suite("PostgreSQL", "postgres", "orm", "not once and not browser and not faults", (DATABASE_URL,)),
        Suite("PostgreSQL, Redis broker", "postgres", "redis", "broker and not browser", (DATABASE_URL, REDIS_URL)),
        Suite(
            "Chromium, PostgreSQL, Redis", "postgres", "redis", "browser and broker", (DATABASE_URL, REDIS_URL), BROWSER
        ),
    ),
    (
        Suite("PostgreSQL, faults", "postgres", "orm", "faults and not once", (DATABASE_URL,), FAULTS),
        Suite("Once", "sqlite", "orm", "once"),
    ),
)

Lanes = Sequence[Sequence[Suite | Check]]


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
    # A narrowed run is for a quick answer, and tox has environments of its own for the checks.
    lanes = without_checks(LANES) if arguments else LANES
    with compiled_once():
        tally, failed = run_at_hand(lanes, for_pytest) if at_hand else run_with_servers(lanes, for_pytest)
    if not arguments and chromium.found() is None:
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


def without_checks(lanes: Lanes) -> Lanes:
    """The same lanes with their suites alone."""
    return [[each for each in lane if isinstance(each, Suite)] for lane in lanes]


def run_with_servers(lanes: Lanes, arguments: Sequence[str]) -> tuple[Tally, list[str]]:
    """Start the servers and run everything; return the counts and what failed."""
    try:
        with contextlib.ExitStack() as servers:
            for variable, service in ((DATABASE_URL, postgres(settings=UNCOUNTED)), (REDIS_URL, valkey())):
                server = servers.enter_context(service)
                os.environ[variable] = server.url
                say(f"{variable}={server.url} ({server.origin})")
            return run_at_hand(lanes, arguments)
    except ServiceError as exc:
        say(str(exc))
        return Tally(failed=1), ["servers"]


def run_at_hand(lanes: Lanes, arguments: Sequence[str]) -> tuple[Tally, list[str]]:
    """Run what has the servers that it wants; return the counts and what failed."""
    at_hand = [[each for each in lane if _has_servers(each) and _is_meant(each, arguments)] for lane in lanes]
    return run_all([lane for lane in at_hand if lane], arguments)


def run_all(lanes: Lanes, arguments: Sequence[str]) -> tuple[Tally, list[str]]:
    """Run lanes at the same time; return the counts and what failed."""
    whole = [each for lane in lanes for each in lane]
    say(" and ".join(", then ".join(each.title for each in lane) for lane in lanes))
    tally, failed = Tally(), []
    with tempfile.TemporaryDirectory(prefix="baton-report-") as folder:
        reports = {each: Path(folder) / f"{number}.xml" for number, each in enumerate(whole)}
        programs = [[_program(each, reports[each], arguments) for each in lane] for lane in lanes]
        statuses = [status for of_lane in run_lanes(programs) for status in of_lane]
        for each, status in zip(whole, statuses, strict=True):
            succeeded = status == 0
            if isinstance(each, Suite):
                of_suite, succeeded = judge(Tally.read(reports[each]), status, narrowed=bool(arguments))
                tally += of_suite
            if not succeeded:
                failed.append(each.title)
    return tally, failed


def _has_servers(each: Suite | Check) -> bool:
    return isinstance(each, Check) or all(os.environ.get(variable) for variable in each.servers)


def _is_meant(each: Suite | Check, arguments: Sequence[str]) -> bool:
    """False for the browsers' suites where the run is narrowed to files that are none of theirs."""
    files = [argument for argument in arguments if ".py" in argument]
    return getattr(each, "folders", ()) != BROWSER or not files or any(BROWSER[0] in file for file in files)


def _program(each: Suite | Check, report: Path, arguments: Sequence[str]) -> Program:
    if isinstance(each, Check):
        return Program(["make", "--no-print-directory", each.title])
    command = [sys.executable, "-m", "pytest", f"--junitxml={report}", "-m", each.marks]
    command += arguments or each.folders
    if each.folders == BROWSER:
        command = [sys.executable, "-m", "scripts.chromium", *command]
    return Program(command, {"BATON_TEST_DB": each.database, "BATON_TEST_BROKER": each.broker})


def judge(tally: Tally, status: int, *, narrowed: bool) -> tuple[Tally, bool]:
    """Return the counts with what they do not show, and whether the suite succeeded."""
    fine = status == 0 or (status == NO_TESTS_COLLECTED and narrowed)
    if not fine and not tally.failed:
        tally += Tally(failed=1)  # pytest itself failed, or found no test
    return tally, tally.failed == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
