"""The crash table: a process struck at every place of the engine and of the sweep, and pairs of faults in one run.

`make faults` plays all of it, with both brokers, and prints the table; the suite plays a part.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from pytest_django import DjangoDbBlocker

from tests.conftest import end_sessions
from tests.faults.places import BEFORE_ANNOUNCEMENT, BEFORE_ENDING, IN_BODY, PLACES
from tests.faults.stage import Fault, Stage

KILL, STOP = signal.SIGKILL, signal.SIGSTOP

IS_WHOLE = os.environ.get("BATON_FAULTS") == "all"
REPORT = os.environ.get("BATON_FAULTS_REPORT", "")
BROKER = "redis" if settings.Q_CLUSTER.get("redis") else "orm"

PAIRS = [
    [IN_BODY, IN_BODY],
    [IN_BODY, "before the body"],
    [IN_BODY, "in the settle, before the commit"],
    ["after the body", "after the commit"],
    ["after the commit", IN_BODY],
    [IN_BODY, "sweep: after a rescue", "in the settle, after the next claim"],
    ["in the settle, after the step's row", BEFORE_ENDING, "sweep: before an ending"],
    [BEFORE_ANNOUNCEMENT, "sweep: holds its lease", "sweep: before an announcement"],
]

STOPPED_IN_SHORT = {IN_BODY, "in the settle, after the step's row", "after the commit"}
ON_SQLITE = {
    IN_BODY,
    "after the body",
    "in the settle, after the dependents",
    "after the commit",
    "in the cascade, after its rows",
    "before the hook",
    BEFORE_ANNOUNCEMENT,
    "sweep: after a rescue",
}
ON_REDIS_IN_SHORT = {"before the claim", IN_BODY, "after the commit", "before the acknowledgement"}


def _cases() -> Iterator[list[Fault]]:
    for place in PLACES.values():
        before = [Fault(place=place.after)] if place.after else []
        for number in (KILL, STOP):
            yield [*before, Fault(place=place.name, signal=number)]
    for pair in PAIRS:
        yield [Fault(place=name) for name in pair]


def _is_played(faults: list[Fault]) -> bool:
    names = {fault.place for fault in faults}
    is_stopped = any(fault.signal == STOP for fault in faults)
    if BROKER == "redis" and not all(PLACES[name].redis for name in names):
        return False
    if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        # A writer that stands still holds the only lock there is.
        return not is_stopped and faults[-1].place in ON_SQLITE and len(names) <= 2
    if IS_WHOLE:
        return True
    if BROKER == "redis":
        return not is_stopped and len(faults) == 1 and names <= ON_REDIS_IN_SHORT
    return not is_stopped or names <= STOPPED_IN_SHORT


def _title(faults: list[Fault]) -> str:
    return ", then ".join(f"{'stopped' if fault.signal == STOP else 'killed'} {fault.place}" for fault in faults)


@pytest.fixture(autouse=True)
def _django_db_marker() -> None:
    """In place of pytest-django's: the mark brings the database, and the stage keeps it open for the whole table."""


@pytest.fixture(scope="module")
def stage(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """One cluster for the whole table, and the database emptied after it."""
    with django_db_blocker.unblock():
        call_command("flush", interactive=False, verbosity=0)
        with Stage(tmp_path_factory.mktemp("stage")) as stage:
            yield stage
        end_sessions()
        call_command("flush", interactive=False, verbosity=0)


@pytest.mark.broker
@pytest.mark.django_db
@pytest.mark.parametrize("faults", [pytest.param(each, id=_title(each)) for each in _cases() if _is_played(each)])
def test_run_gets_over(stage: Stage, faults: list[Fault]):
    recovery = stage.play(faults)

    if REPORT:
        line = {
            "broker": BROKER,
            "faults": [{"place": fault.place, "signal": fault.signal.name} for fault in faults],
            "outcome": recovery.outcome,
            "seconds": round(recovery.seconds, 2),
            "executions": recovery.executions,
            "finished_events": recovery.finished_events,
        }
        with Path(REPORT).open("a") as report:
            report.write(json.dumps(line) + "\n")
