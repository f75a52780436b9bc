"""The driver behind `make test`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.services import DATABASE_URL, REDIS_URL

# Nothing here depends on the database of the run; once is enough.
pytestmark = pytest.mark.sqlite


def drive(tests: str, folder: Path, repository: Path) -> subprocess.CompletedProcess[str]:
    """Run the driver on a file of tests, with no server at hand."""
    file = folder / "test_driven.py"
    file.write_text(f"import os, pytest\n{tests}")
    ours = {DATABASE_URL, REDIS_URL, "BATON_TEST_FOLDER"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [sys.executable, "-m", "scripts.run_tests", "--suites-at-hand", "-c", "pyproject.toml", str(file)],
        cwd=repository,
        env=environment | {"BATON_CLOSING_LINE": str(folder / "closing_line")},
        check=False,
        capture_output=True,
        text=True,
    )


def test_last_line_sums_up_and_failure_is_the_exit_status(tmp_path: Path, repository: Path) -> None:
    tests = """
def test_passes(): pass
def test_fails(): assert False
def test_errs(missing_fixture): pass
@pytest.mark.skip
def test_skipped(): pass
@pytest.mark.once
def test_takes_its_time(): pass
"""

    done = drive(tests, tmp_path, repository)

    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == ["==> Failed: SQLite", "2 passed, 2 failed, 1 skipped"]
    assert (tmp_path / "closing_line").read_text() == "2 passed, 2 failed, 1 skipped\n"


def test_success_is_the_exit_status_too(tmp_path: Path, repository: Path) -> None:
    done = drive("def test_passes(): pass", tmp_path, repository)

    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-2:] == ["==> All is well", "1 passed, 0 failed, 0 skipped"]


def test_suite_that_is_cut_off_counts_as_a_failure(tmp_path: Path, repository: Path) -> None:
    done = drive("def test_dies(): os._exit(0)", tmp_path, repository)

    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"


def test_machine_without_a_usable_python_is_told_what_it_needs(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "scripts").mkdir()
    bootstrap = tmp_path / "scripts" / "bootstrap"
    bootstrap.write_text((repository / "scripts" / "bootstrap").read_text())
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "dirname").symlink_to("/usr/bin/dirname")
    too_old = programs / "python3"
    too_old.write_text("#!/bin/sh\nexit 1\n")
    too_old.chmod(0o755)

    done = subprocess.run(
        ["/bin/sh", str(bootstrap), "dev"], env={"PATH": str(programs)}, check=False, capture_output=True, text=True
    )

    assert done.returncode == 1
    assert done.stderr == (
        "Baton needs Python >= 3.11, and none was found on PATH. "
        "Install it (or uv, which can fetch one), or name it: make test PYTHON=/path/to/python3\n"
    )
