"""Real processes on the test database: management commands and clusters."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import psutil
from django.db import connections

from scripts import watchdog
from scripts.services import DATABASE_URL
from tests.utils import wait_until

ROOT = Path(__file__).resolve().parent.parent


def child_environment(
    *,
    q_cluster: Mapping[str, Any] | None = None,
    baton: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the environment in which a process finds the test database.

    Args:
        q_cluster: Laid over the settings' `Q_CLUSTER`.
        baton: Laid over the settings' `BATON`.
        env: More variables.
    """
    database = connections["default"].settings_dict
    found = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings", "BATON_TEST_DB_NAME": str(database["NAME"])}
    if connections["default"].vendor == "postgresql":
        login = quote(database["USER"]) + (f":{quote(database['PASSWORD'])}" if database["PASSWORD"] else "")
        port = f":{database['PORT']}" if database["PORT"] else ""
        found[DATABASE_URL] = f"postgresql://{login}@{database['HOST']}{port}/{database['NAME']}"
    if q_cluster:
        found["BATON_TEST_Q_CLUSTER_SETTING"] = json.dumps(dict(q_cluster))
    if baton:
        found["BATON_TEST_BATON_SETTING"] = json.dumps(dict(baton))
    return found | dict(env or {})


class Manage:
    """Runs management commands as a shell would: `manage("baton_sweep", "--check")`."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def __call__(
        self, *arguments: str, check: bool = True, timeout: float = 120.0, **environment: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, its output captured.

        Args:
            arguments: The command and its arguments.
            check: Fail the test when the command does.
            timeout: Seconds the command may take.
            environment: As for `child_environment`.
        """
        process = self.start(*arguments, **environment)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            self._end(process)
        if check and process.returncode:
            raise AssertionError(f"{' '.join(arguments)} exited with {process.returncode}:\n{stdout}{stderr}")
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def start(self, *arguments: str, **environment: Any) -> subprocess.Popen[str]:
        """Start a command and leave it running, at most until the end of the test."""
        process = start_django(
            arguments, child_environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End whatever still runs."""
        for process in list(self._started):
            self._end(process)

    def _end(self, process: subprocess.Popen[str]) -> None:
        self._started.remove(process)
        end_group(process)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


class RealCluster:
    """A `manage.py qcluster` in processes of its own, all of one group."""

    def __init__(self, folder: Path, *, queue: str | None = None, **environment: Any) -> None:
        """Start a cluster.

        Args:
            folder: An empty folder for its log and for what its workers report.
            queue: The queue it serves; None for the default one.
            environment: As for `child_environment`.
        """
        self.folder = folder
        self.queue = queue
        self._reported = folder / "workers"
        self._reported.mkdir()
        variables = child_environment(**environment) | {"BATON_TEST_READY_FOLDER": str(self._reported)}
        variables.pop("Q_CLUSTER_NAME", None)
        if queue is not None:
            variables["Q_CLUSTER_NAME"] = queue
        with (folder / "log").open("w") as log:
            self.process = start_django(("qcluster",), variables, stdout=log, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        """The process id of the cluster's main process, which is also its group's."""
        return self.process.pid

    @property
    def worker_pids(self) -> list[int]:
        """The workers that have started and still live."""
        pids = sorted(int(path.name) for path in self._reported.iterdir())
        return [pid for pid in pids if _lives(pid)]

    def processes(self) -> list[psutil.Process]:
        """Every live process of the cluster, helpers included."""
        return [process for process in psutil.process_iter() if _is_of_group(process, self.pid)]

    def wait_until_ready(self, workers: int, *, timeout: float = 90.0) -> None:
        """Wait until so many workers take tasks."""

        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the cluster ended by itself with {self.process.returncode}:\n{self.log()}")
            return len(self.worker_pids) >= workers

        wait_until(is_ready, timeout=timeout, what=f"a cluster with {workers} workers")

    def log(self) -> str:
        """What the cluster has printed so far."""
        return (self.folder / "log").read_text()

    def stop(self, *, timeout: float = 30.0) -> int:
        """Ask the cluster to stop, as a process manager does, and return its exit status.

        A cluster that does not obey is killed: django-q2 hangs in some of its stops.
        """
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """Kill every process of the cluster at once."""
        end_group(self.process)


def start_django(
    arguments: tuple[str, ...], environment: Mapping[str, str], *, stdout: int | IO[str], stderr: int
) -> subprocess.Popen[str]:
    """Start a management command in a process group of its own, which ends with this process at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-m", "django", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    watchdog.watch(process, stop_with=signal.SIGKILL)
    return process


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill a process and all its descendants of its group, and wait until none of them lives."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(
        lambda: not any(_is_of_group(other, process.pid) for other in psutil.process_iter()),
        what=f"the end of process group {process.pid}",
    )
    watchdog.forget(process)


def _is_of_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
