"""A small process that outlives ours only to end what we started.

An exit handler does not run when a process is killed. The watchdog reads a pipe that the system closes with us,
however we end, and then stops every process group it was told of and removes its folder.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_SECONDS = 5.0
"""How long a group may take to obey its signal before it is killed."""


def watch(
    process: subprocess.Popen[bytes] | subprocess.Popen[str], *, stop_with: int, folder: Path | None = None
) -> None:
    """See to it that a process group, led by this process, ends no later than we do.

    Args:
        process: The leader, started with ``start_new_session=True``.
        stop_with: The signal that the leader gets when we are gone; what is left of the group is killed.
        folder: Removed afterwards.
    """
    _tell({"watch": process.pid, "signal": int(stop_with), "folder": str(folder) if folder else None})


def forget(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Say that a watched group has ended; its number may soon be another's."""
    _tell({"forget": process.pid})


def watch_folder(folder: Path) -> None:
    """See to it that a folder is gone when we are."""
    _tell({"watch": str(folder), "folder": str(folder)})


def forget_folder(folder: Path) -> None:
    """Say that a watched folder has been removed."""
    _tell({"forget": str(folder)})


def end_groups(stop_signals: dict[int, int], *, grace_seconds: float = GRACE_SECONDS) -> None:
    """Stop groups with a signal to each leader, and kill whatever is left of them after the grace.

    Args:
        stop_signals: The signal for each leader's process id.
        grace_seconds: How long they have, all together.
    """
    for pid, stop_with in stop_signals.items():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, stop_with)
    deadline = time.monotonic() + grace_seconds
    for pid in stop_signals:
        while _is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A dead leader whose parent is gone may lie unburied for a while.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except OSError:  # no /proc here
        return True


_watchdog: subprocess.Popen[str] | None = None
_owner: int | None = None


def _tell(message: dict[str, object]) -> None:
    pipe = _start().stdin
    assert pipe is not None
    with contextlib.suppress(BrokenPipeError):  # whoever kills the watchdog cleans up himself
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()


def _start() -> subprocess.Popen[str]:
    """Start the watchdog of this process; a fork needs its own."""
    global _watchdog, _owner  # noqa: PLW0603 - one watchdog per process is the point
    if _watchdog is None or _owner != os.getpid():
        _watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            text=True,
        )
        _owner = os.getpid()
        atexit.register(_dismiss, _watchdog, _owner)
    return _watchdog


def _dismiss(watchdog: subprocess.Popen[str], owner: int) -> None:
    if owner == os.getpid():
        assert watchdog.stdin is not None
        watchdog.stdin.close()
        watchdog.wait()


def _main() -> None:
    """Read what to watch until the pipe closes, then end it all, newest first."""
    watched: dict[int | str, dict[str, object]] = {}
    for line in sys.stdin:
        message = json.loads(line)
        if "watch" in message:
            watched[message["watch"]] = message
        else:
            watched.pop(message["forget"], None)
    end_groups({key: int(str(watched[key]["signal"])) for key in reversed(watched) if isinstance(key, int)})
    for message in watched.values():
        if message["folder"]:
            shutil.rmtree(str(message["folder"]), ignore_errors=True)


if __name__ == "__main__":
    _main()
