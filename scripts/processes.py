"""Programs that run to their end, or are ended with us."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program with more in its environment, and return its exit status."""
    started = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, env=os.environ | environment) as process:
        try:
            status = process.wait()
        except BaseException:
            # After a Ctrl-C the program tidies up too; a signal that was for us alone is passed on.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            raise
    say(f"exit status {status} after {time.monotonic() - started:.0f} s")
    return status


def leave(signum: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal by an exception, so that every block closes what it opened."""
    sys.exit(128 + signum)


def say(text: str) -> None:
    """Print a line of our own, apart from what programs print."""
    print(f"==> {text}", flush=True)
