"""A daphne on the test database, in a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from scripts import watchdog
from tests.processes import ROOT, child_environment, end_group
from tests.utils import wait_until


class Daphne:
    """Serves the suite's project; may be stopped and started again at the same address."""

    def __init__(self, log: Path, *, env: Mapping[str, str] | None = None) -> None:
        """Choose a port, start nothing yet.

        Args:
            log: What it prints goes there.
            env: More variables of its environment.
        """
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.port = int(chosen.getsockname()[1])
        self.log = log
        self._env = {"DJANGO_SETTINGS_MODULE": "tests.browser.settings", **(env or {})}
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; it does not answer at once."""
        command = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(self.port)]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, "tests.browser.asgi:application"],
                cwd=ROOT,
                env=child_environment(env=self._env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        watchdog.watch(self._process, stop_with=signal.SIGKILL)

    def wait_until_ready(self) -> None:
        """Wait until it answers."""
        wait_until(self._answers, timeout=60, what=f"an answer of daphne at {self.url}")

    def stop(self) -> None:
        """Stop it, as a process manager would, and forget it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        end_group(process)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"daphne ended by itself with {self._process.returncode}:\n{self.log.read_text()}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/admin/login/")
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()
