"""The Chromium of the browser tests and of the screenshots: found on this machine, or brought there.

    python -m scripts.chromium [COMMAND...]

says where it is, and then runs the command. In CI it installs one first where there is none: Debian's as root, else
Playwright's own. Anywhere else it says what to do. ``BATON_CHROMIUM`` names another one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.processes import say

FLAGS = (
    "--no-sandbox",  # root and containers have none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REMEDY = (
    "There is no Chromium here, so the pages cannot be tried in a browser. "
    "On Debian: apt install chromium. Elsewhere: .venv/bin/playwright install chromium, "
    "or BATON_CHROMIUM=/path/to/chromium."
)
INSTALL_SECONDS = 300


def main(command: Sequence[str]) -> int:
    """Say which Chromium there is; in CI, bring one where there is none. Then become the command."""
    if found() is None and os.environ.get("BATON_CLOSING_LINE"):
        install()
    binary = found()
    say(REMEDY if binary is None else f"Chromium: {binary}")
    if command:
        os.execvp(command[0], [*command])  # noqa: S606 - no shell is wanted
    return 1 if binary is None else 0


def found() -> Path | None:
    """Where Chromium is: the one that the environment names, the system's, or Playwright's own."""
    if named := os.environ.get("BATON_CHROMIUM"):
        return Path(named) if shutil.which(named) else None
    for name in NAMES:
        if path := shutil.which(name):
            return Path(path)
    return next(iter(sorted(_browsers_of_playwright(), reverse=True)), None)


def install() -> None:
    """Install Debian's, where we may, or else Playwright's own; say how it goes."""
    say("Installing Chromium; this takes about a minute")
    apt_get = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        say("Debian's takes root and apt-get.")
    elif _succeeds([*apt_get, "update"]) and _succeeds(
        [*apt_get, "install", "-y", "--no-install-recommends", "chromium"]
    ):
        return
    _succeeds([sys.executable, "-m", "playwright", "install", "chromium"])


def _succeeds(command: Sequence[str]) -> bool:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        say(f"{' '.join(command)} took more than {INSTALL_SECONDS} s and was given up.")
        return False
    if done.returncode != 0:
        say(f"{' '.join(command)} failed, see above.")
    return done.returncode == 0


def _browsers_of_playwright() -> list[Path]:
    folder = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    patterns = ("chromium-*/chrome-linux*/chrome", "chromium_headless_shell-*/chrome-*/*headless*shell")
    return [path for pattern in patterns for path in folder.glob(pattern) if os.access(path, os.X_OK)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
