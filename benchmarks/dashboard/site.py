"""A real daphne as a subprocess, and somebody who is logged in and asks it for pages."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from benchmarks.cluster import ROOT, cpu_seconds
from benchmarks.dashboard.counting import QUERIES, ROWS
from benchmarks.dashboard.settings import WEB_VARIABLE
from benchmarks.environment import LAYER_VARIABLE
from scripts import watchdog

FORGET = "forget/"
"""Where the server's cache is emptied."""
START_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 60.0, 5.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A page, and what it took."""

    seconds: float
    """From the question to the last byte."""
    queries: int
    rows: int
    """Of the query that returned most."""
    body: bytes

    @property
    def zipped(self) -> int:
        """Its bytes as a server that compresses sends them."""
        return len(gzip.compress(self.body, 6))


class Site:
    """One daphne for the length of a ``with`` block."""

    def __init__(self, log: Path, *, session: str, layer: str = "") -> None:
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.port = int(chosen.getsockname()[1])
        self.log = log
        self.session = session
        self.layer = layer
        self.environment = {**os.environ, LAYER_VARIABLE: layer, WEB_VARIABLE: "1"}
        self.process: subprocess.Popen[bytes] | None = None
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def cookie(self) -> str:
        """What tells who asks."""
        return f"sessionid={self.session}"

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "benchmarks.dashboard.asgi:application"],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        watchdog.watch(self.process, stop_with=signal.SIGKILL)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"daphne does not answer:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()
        assert self.process is not None
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        watchdog.forget(self.process)

    def get(self, path: str) -> Answer:
        """Ask for a page over a connection that is kept."""
        started = time.perf_counter()
        self._connection.request("GET", path, headers={"Cookie": self.cookie})
        response = self._connection.getresponse()
        body = response.read()
        seconds = time.perf_counter() - started
        if response.status != 200:
            raise RuntimeError(f"{response.status} for {path}:\n{self.log.read_text(errors='replace')[-4000:]}")
        queries, rows = (int(response.headers.get(name) or 0) for name in (QUERIES, ROWS))
        return Answer(seconds=seconds, queries=queries, rows=rows, body=body)

    def forget(self) -> None:
        """Have it forget every graph that was laid out."""
        self.get(f"/{FORGET}")

    def cpu_seconds(self) -> float:
        """The CPU time it has used."""
        assert self.process is not None
        return cpu_seconds([psutil.Process(self.process.pid)])

    def _answers(self) -> bool:
        try:
            self.forget()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False
        return True
