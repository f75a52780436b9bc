"""The stage of the crash table: a cluster and two sweepers, kept going as they die, and one run at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psutil
from django.db import connections

from baton import Workflow
from baton.models import Completion, WorkflowNode, WorkflowRun
from baton.sweep import check
from tests.faults import places, recorder
from tests.faults.conftest import QUICK
from tests.faults.steps import notes, work
from tests.processes import RealCluster, child_environment, end_group, start_django
from tests.utils import wait_until

LEASE_SECONDS = 1.0
STOPPED_SECONDS = LEASE_SECONDS * 1.5
SWEEPERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A place and the signal that strikes there."""

    place: str
    signal: signal.Signals = signal.SIGKILL


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How a run got over its faults."""

    outcome: str
    seconds: float
    """From the last strike to the end of the run."""
    executions: int
    """How often a body began; each of the run's steps needs one."""
    finished_events: int


class Stage:
    """Everything that is struck, and what keeps it going as a process manager would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("armed", "taken", "struck", "idle", "events", "notes"):
            (folder / name).mkdir()
        self._clusters = 0
        self._sweepers: list[subprocess.Popen[str]] = []
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep_sweepers, name="keeper", daemon=True)

    def __enter__(self) -> Self:
        self._sweep_environment = self._environment(places.SWEEP)
        self._start_cluster()
        self._keeper.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._closing.set()
        self._keeper.join()
        self.cluster.kill()
        for sweeper in self._sweepers:
            end_group(sweeper)

    def play(self, faults: Sequence[Fault]) -> Recovery:
        """Insert a run, strike it, wait until it is over, and assert that it came to what it had to.

        Args:
            faults: Strike one after the other, each once the one before has struck.
        """
        fails = any(places.PLACES[fault.place].fails for fault in faults)
        folder = self.folder / "notes" / str(time.monotonic_ns())
        folder.mkdir()
        armed: set[int] = set()
        self._arm(faults, 0, armed)
        run = _workflow(folder, fails=fails).insert()
        for number, fault in enumerate(faults):
            self._arm(faults, number, armed)
            at = self._strike(fault, run)
        outcome = run.wait(timeout=90)
        wait_until(lambda: not self._unannounced(run), what="the announcement")
        if fails:
            wait_until(lambda: _hooks(folder), what="the hook")
        self._be_quiet()
        return self._judged(run, folder, outcome, at, faults)

    def _arm(self, faults: Sequence[Fault], number: int, armed: set[int]) -> None:
        """Arm a fault, and those that its strike is followed by at once: a sweeper may be quicker than we are."""
        for index, fault in enumerate(faults):
            if index in armed or not (index == number or places.PLACES[fault.place].after == faults[number].place):
                continue
            armed.add(index)
            places.arm(self.folder, fault.place, fault.signal)

    def _strike(self, fault: Fault, run: WorkflowRun) -> float:
        pid, at = wait_until(
            lambda: places.struck(self.folder, fault.place), timeout=60, what=f"a process to come by {fault.place!r}"
        )
        if fault.signal == signal.SIGSTOP:
            self._resume_later(pid, at)
        return at

    def _resume_later(self, pid: int, at: float) -> None:
        """Let a stopped process go on once its lease has run out, and be done with what it was at."""
        wait_until(lambda: time.time() - at > STOPPED_SECONDS, what="the end of the stopped process's lease")
        resumed = time.time()
        os.kill(pid, signal.SIGCONT)

        def is_done() -> bool:
            with contextlib.suppress(FileNotFoundError):
                # The clock of files is some milliseconds late; what was written before the stop is seconds old.
                if (self.folder / "idle" / str(pid)).stat().st_mtime > resumed - 1:
                    return True
            return not psutil.pid_exists(pid)

        wait_until(is_done, timeout=60, what="the end of what the stopped process was at")

    def _unannounced(self, run: WorkflowRun) -> bool:
        return Completion.objects.filter(run=run, announced_at=None).exists()

    def _be_quiet(self) -> None:
        """See that workers take steps, so that a cluster that the faults have broken is not taken for ours."""
        ping = Workflow("ping").add("ping", work.bind(folder=str(self.folder / "notes"))).insert()
        try:
            ping.wait(timeout=30)
        except TimeoutError:
            self.cluster.kill()
            self._start_cluster()
            ping.wait(timeout=60)

    def _judged(self, run: WorkflowRun, folder: Path, outcome: str, at: float, faults: Sequence[Fault]) -> Recovery:
        fails = any(places.PLACES[fault.place].fails for fault in faults)
        written = notes(folder)
        begun = [note["me"] for note in written if "me" in note]
        expected = _EXPECTED[fails]
        assert {name: node.state for name, node in run.steps.items()} == expected
        assert outcome == ("failed" if fails else "completed")
        _assert_results_are_the_first(run, begun)
        if fails:
            assert _hooks(folder) == ["hooked"]
        assert Completion.objects.filter(run=run).count() == 1
        events = self._finished_events(run.pk)
        twice = any(places.PLACES[fault.place].twice for fault in faults)
        assert events in ({1, 2} if twice else {1})
        assert check() == []
        run.refresh_from_db()
        return Recovery(
            outcome=outcome,
            seconds=max(0.0, run.finished_at.timestamp() - at),
            executions=len(begun),
            finished_events=events,
        )

    def _finished_events(self, run_id: UUID) -> int:
        return Counter(event["workflow_id"] for event in recorder.recorded(self.folder / "events", "finished"))[
            str(run_id)
        ]

    def _environment(self, role: str) -> dict[str, Any]:
        return {
            "baton": {**QUICK, "LEASE_SECONDS": LEASE_SECONDS},
            "q_cluster": {"timeout": 10, "retry": 15},
            "env": {
                "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
                recorder.ENVIRONMENT: str(self.folder / "events"),
                places.ENVIRONMENT: str(self.folder),
                places.ROLE: role,
            },
        }

    def _start_cluster(self) -> None:
        self._clusters += 1
        folder = self.folder / f"cluster {self._clusters}"
        folder.mkdir()
        environment = self._environment(places.CLUSTER)
        environment["q_cluster"]["workers"] = 2
        self.cluster = RealCluster(folder, **environment)
        self.cluster.wait_until_ready(2)

    def _keep_sweepers(self) -> None:
        """Start sweepers as often as they die, as a process manager does."""
        environment = child_environment(**self._sweep_environment)
        command = ("baton_sweep", "--watch", "--interval", "0.3")
        while not self._closing.wait(0.1):
            dead = [each for each in self._sweepers if each.poll() is not None]
            for each in dead:
                self._sweepers.remove(each)
                end_group(each)
            while len(self._sweepers) < SWEEPERS:
                with (self.folder / "sweep.log").open("a") as log:
                    self._sweepers.append(start_django(command, environment, stdout=log, stderr=subprocess.STDOUT))
        connections.close_all()


_EXPECTED = {
    False: dict.fromkeys(("root", "left", "right", "join"), "completed"),
    True: {"root": "discarded", "hooked": "cancelled", "leaf": "cancelled"},
}


def _workflow(folder: Path, *, fails: bool) -> Workflow:
    step = work.bind(folder=str(folder))
    if fails:
        failing = work.bind(folder=str(folder), fails=True)
        workflow = Workflow("falls").add("root", failing).add("hooked", step, deps=["root"])
        return workflow.add("leaf", step, deps=["hooked"])
    workflow = Workflow("stands").add("root", step).add("left", step, deps=["root"]).add("right", step, deps=["root"])
    return workflow.add("join", step, deps=["left", "right"])


def _hooks(folder: Path) -> list[str]:
    return [note["hook"] for note in notes(folder) if "hook" in note]


def _assert_results_are_the_first(run: WorkflowRun, begun: list[str]) -> None:
    """No result was replaced: what each step read is what its dependencies still hold."""
    results = {node.name: node.result for node in WorkflowNode.objects.filter(run=run, has_result=True)}
    for result in results.values():
        assert result["by"] in begun
        assert result["saw"] == {name: results[name]["by"] for name in result["saw"]}
