"""A real ``qcluster`` as a subprocess: started, watched, measured and always stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

import psutil
from django.db import connection

from benchmarks.environment import LAYER_VARIABLE, Q_CLUSTER_VARIABLE, RAW_VARIABLE
from scripts import watchdog

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 8.0
PSS_SECONDS = 0.25


class Cluster:
    """One ``qcluster``, for the length of a ``with`` block."""

    def __init__(self, q_cluster: dict[str, Any], *, log: Path, raw: bool = False, layer: str = "") -> None:
        self.q_cluster = q_cluster
        self.log = log
        self.environment = {
            **os.environ,
            Q_CLUSTER_VARIABLE: json.dumps(q_cluster),
            RAW_VARIABLE: "1" if raw else "",
            LAYER_VARIABLE: layer,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches the benchmark, which then stops the cluster in order.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "django", "qcluster"],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        watchdog.watch(self.process, stop_with=signal.SIGTERM)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask politely, then kill everything of the cluster's session that is still there."""
        process = self.process
        if process is None:
            return
        tree = self.tree()
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        watchdog.forget(process)
        psutil.wait_procs(tree, timeout=STOP_SECONDS)
        self.process = None

    def tree(self) -> list[psutil.Process]:
        """Return the cluster's living processes."""
        if self.process is None:
            return []
        try:
            top = psutil.Process(self.process.pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def assert_alive(self) -> None:
        """Raise, with the end of its log, when the cluster has gone."""
        if self.process is None or self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            message = f"the cluster has ended:\n{tail}"
            raise RuntimeError(message)


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """Add up the CPU time of processes and of their children that have ended and been waited for."""
    seconds = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def pss_bytes(processes: list[psutil.Process]) -> int:
    """Add up the proportional set sizes of processes."""
    total = 0
    for process in processes:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def server_processes() -> list[psutil.Process]:
    """Return the processes of the PostgreSQL on this machine that we are connected to; none for SQLite."""
    if connection.vendor != "postgresql":
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()
    server = psutil.Process(backend).parent()
    return [server, *server.children()] if server else []


class Usage:
    """What a cluster uses during a ``with`` block: CPU seconds, its database's too, and the peak of its memory."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.cpu_seconds = 0.0
        self.server_seconds = 0.0
        self.wall_seconds = 0.0
        self.peak_bytes = 0
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="pss", daemon=True)

    def __enter__(self) -> Self:
        self._sampler.start()
        self._cpu_before = cpu_seconds(self.cluster.tree())
        self._server_before = cpu_seconds(server_processes())
        self._started = time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wall_seconds = self.wall_seconds or time.perf_counter() - self._started
        tree = self.cluster.tree()
        self.cpu_seconds = cpu_seconds(tree) - self._cpu_before
        self.server_seconds = cpu_seconds(server_processes()) - self._server_before
        self._over.set()
        self._sampler.join()
        self.peak_bytes = max(self.peak_bytes, pss_bytes(tree))

    def stop_the_clock(self) -> None:
        """Take the time now; CPU is counted on until the end of the block."""
        self.wall_seconds = time.perf_counter() - self._started

    def _sample(self) -> None:
        while not self._over.wait(PSS_SECONDS):
            self.peak_bytes = max(self.peak_bytes, pss_bytes(self.cluster.tree()))
