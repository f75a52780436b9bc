"""Run tox on the interpreters that this machine has: what `make tox` does.

Arguments are tox's, with what follows `--` going to pytest.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.processes import Program, leave, run, say
from scripts.services import DATABASE_URL, REDIS_URL, UNCOUNTED, postgres, valkey


def main(arguments: Sequence[str]) -> int:
    """Find interpreters, say which environments must be left out, run the others."""
    signal.signal(signal.SIGTERM, leave)
    put_interpreters_on_path()
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    chosen = [] if any(word in {"-e", "-l", "list"} for word in arguments) else environments_at_hand()
    with contextlib.ExitStack() as servers:
        environment = {
            DATABASE_URL: servers.enter_context(postgres(settings=UNCOUNTED)).url,
            REDIS_URL: servers.enter_context(valkey()).url,
        }
        return run(Program([sys.executable, "-m", "tox", *chosen, *arguments], environment))


def put_interpreters_on_path() -> None:
    """Let tox see the versions that pyenv has, not only the one it has selected."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    folders = sorted(
        str(path) for path in versions.glob("3.*/bin") if re.fullmatch(r"3\.1[1-9]\.\d+", path.parent.name)
    )
    os.environ["PATH"] = os.pathsep.join([*folders, os.environ["PATH"]])


def environments_at_hand() -> list[str]:
    """Return tox's arguments that choose the environments whose interpreter is here."""
    listed = subprocess.run(
        [sys.executable, "-m", "tox", "list", "-q", "--no-desc"], check=True, capture_output=True, text=True
    )
    names = listed.stdout.split()
    missing = [name for name in names if not has_interpreter(name)]
    if missing:
        say(f"Left out, for want of their Python: {', '.join(missing)}")
    return ["-e", ",".join(name for name in names if name not in missing)]


def has_interpreter(environment: str) -> bool:
    """Tell whether the Python that an environment's name asks for runs here."""
    wanted = re.match(r"py3(\d+)", environment)
    if wanted is None:
        return True
    python = shutil.which(f"python3.{wanted[1]}")
    return python is not None and subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
