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
POLL_SECONDS = 0.05


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
    return [statuses[0] for statuses in run_lanes([[program] for program in programs])]


def run_lanes(lanes: Sequence[Sequence[Program]]) -> list[list[int]]:
    """Run lanes of programs at the same time, the programs of a lane one after the other; return the exit statuses.

    The first lane prints at once; what the others print follows, lane by lane, when those before have ended.
    """
    started = time.monotonic()
    statuses: list[list[int]] = [[] for _ in lanes]
    with contextlib.ExitStack() as stack:
        outputs = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in lanes[1:])]
        running = [stack.enter_context(_ending(lane[0], outputs[at])) for at, lane in enumerate(lanes)]
        printed = 0
        while printed < len(lanes):
            for at, lane in enumerate(lanes):
                if len(statuses[at]) == len(lane) or (status := running[at].poll()) is None:
                    continue
                statuses[at].append(status)
                _tell(f"exit status {status} after {time.monotonic() - started:.0f} s", outputs[at])
                if len(statuses[at]) < len(lane):
                    running[at] = stack.enter_context(_ending(lane[len(statuses[at])], outputs[at]))
            while printed < len(lanes) and len(statuses[printed]) == len(lanes[printed]):
                _print(outputs[printed])
                printed += 1
            time.sleep(POLL_SECONDS)
    return statuses


def leave(signum: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal by an exception, so that every block closes what it opened."""
    sys.exit(128 + signum)


def say(text: str) -> None:
    """Print a line of our own, apart from what programs print."""
    print(f"==> {text}", flush=True)


def _tell(text: str, output: IO[bytes] | None) -> None:
    """Print a line of our own below what a lane prints."""
    if output is None:
        say(text)
    else:
        output.seek(0, os.SEEK_END)
        output.write(f"==> {text}\n".encode())
        output.flush()


def _print(output: IO[bytes] | None) -> None:
    if output is not None:
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout.buffer)
        sys.stdout.flush()


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
