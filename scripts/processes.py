"""Programs that run to their end, or are ended with us."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Program:
    """What is run, and what its environment has beside ours."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def run(program: Program) -> int:
    """Run a program and return its exit status."""
    return run_together([program])[0]


def run_together(programs: Sequence[Program]) -> list[int]:
    """Run programs at the same time and return their exit statuses.

    The first one prints at once; what the others print follows when it has ended.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        outputs = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in programs[1:])]
        processes = [
            stack.enter_context(_ending(program, output)) for program, output in zip(programs, outputs, strict=True)
        ]
        statuses = []
        for process, output in zip(processes, outputs, strict=True):
            statuses.append(process.wait())
            if output is not None:
                output.seek(0)
                shutil.copyfileobj(output, sys.stdout.buffer)
            say(f"exit status {statuses[-1]} after {time.monotonic() - started:.0f} s")
    return statuses


def leave(signum: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal by an exception, so that every block closes what it opened."""
    sys.exit(128 + signum)


def say(text: str) -> None:
    """Print a line of our own, apart from what programs print."""
    print(f"==> {text}", flush=True)


@contextlib.contextmanager
def _ending(program: Program, output: IO[bytes] | None) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, and end it when the block is left before it has ended by itself."""
    process = subprocess.Popen(
        program.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        env=os.environ | program.environment,
    )
    try:
        yield process
    finally:
        # After a Ctrl-C the program tidies up too; a signal that was for us alone is passed on.
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
        process.kill()
        process.wait()
