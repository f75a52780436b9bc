"""Make `.venv` and install the project into it, with uv where it can be had and with pip where not.

Runs under any Python >= 3.11 with nothing installed. Does nothing when the environment is up to date.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"


def main(groups: Sequence[str]) -> None:
    """Bring the environment up to date with some dependency groups."""
    if os.name == "nt":
        sys.exit("Baton's workers need a POSIX system: run this on Linux, macOS or in WSL.")
    if is_up_to_date(groups):
        return
    if not runs(PYTHON):
        make_environment()
    install(groups)
    for group in groups:
        stamp(group).write_text(fingerprint())


def is_up_to_date(groups: Sequence[str]) -> bool:
    """Tell whether every group was installed from these very files; `dev` holds all of them."""
    return runs(PYTHON) and all(
        any(is_current(stamp(known)) for known in dict.fromkeys((group, "dev"))) for group in groups
    )


def is_current(path: Path) -> bool:
    """Tell whether a stamp names the files as they are now."""
    return path.exists() and path.read_text() == fingerprint()


def stamp(group: str) -> Path:
    """Where it is noted that a group was installed."""
    return VENV / f".baton-{group}"


def fingerprint() -> str:
    """What an installation depends on, as one short text."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS):
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()


def runs(python: Path) -> bool:
    """Tell whether an interpreter is there and works."""
    try:
        return subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def make_environment() -> None:
    """Make an empty `.venv` with the interpreter that runs this."""
    say(f"Making .venv with Python {sys.version.split()[0]}")
    if uv := shutil.which("uv"):
        command = [uv, "venv", "--quiet", "--clear", "--python", base_python(), str(VENV)]
        if subprocess.run(command, check=False).returncode == 0 and runs(PYTHON):
            return
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(
            f"This Python ({sys.executable}) has no venv module. "
            f"On Debian and Ubuntu: apt install python{version}-venv. Or install uv."
        )
    done = subprocess.run([base_python(), "-m", "venv", "--clear", str(VENV)], check=False)
    if done.returncode != 0:
        sys.exit(f"{base_python()} -m venv {VENV} failed, see above. Installing uv avoids this step.")


def base_python() -> str:
    """The interpreter itself, also where a virtual environment's runs this."""
    return getattr(sys, "_base_executable", sys.executable)


def install(groups: Sequence[str]) -> None:
    """Install the project, editable, with its groups, by the first way that works."""
    say(f"Installing Baton and what {', '.join(groups)} needs")
    for command, environment in ways_to_install(groups):
        if subprocess.run(command, cwd=ROOT, check=False, env=os.environ | environment).returncode == 0:
            return
        say(f"{Path(command[0]).name} could not install it, see above; trying another way")
    sys.exit(
        "The packages could not be installed, see above. "
        "Is the package index reachable? uv and pip read their own settings (UV_INDEX_URL, PIP_INDEX_URL) and proxies."
    )


def ways_to_install(groups: Sequence[str]) -> Iterator[tuple[list[str], Mapping[str, str]]]:
    """Yield commands with what their environment needs, the fastest first."""
    arguments = ["--editable", str(ROOT)]
    arguments += [word for group in groups for word in ("--group", group)]
    if CONSTRAINTS.exists():
        arguments += ["--constraint", str(CONSTRAINTS)]
    if uv := find_uv():
        command = [uv, "pip", "install", "--quiet", "--python", str(PYTHON), *arguments]
        # The system's certificates first, as pip and everything else here uses them; uv's own where there are none.
        yield command, {"UV_SYSTEM_CERTS": "1"}
        yield command, {}
    if runs_pip():
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=False)  # older ones know no groups
        yield [*pip, *arguments], {}


def find_uv() -> str | None:
    """Find uv, or bring it into the environment; None where neither works."""
    inside = VENV / "bin" / "uv"
    if not runs_uv(inside) and (outside := shutil.which("uv")) and runs_uv(Path(outside)):
        return outside
    if not inside.exists() and runs_pip():
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"]
        subprocess.run(pip, check=False)
    return str(inside) if runs_uv(inside) else None


def runs_uv(uv: Path) -> bool:
    """Tell whether this uv works; a shim of a version manager may not."""
    try:
        return subprocess.run([uv, "--version"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def runs_pip() -> bool:
    """Tell whether the environment has pip."""
    return subprocess.run([PYTHON, "-m", "pip", "--version"], check=False, capture_output=True).returncode == 0


def say(text: str) -> None:
    """Tell what is going on."""
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["dev"])
