from __future__ import annotations

import os
import subprocess
import sys


def test_project_with_two_databases_is_served_as_promised(repository):
    """The cases are in ``tests/multidb``: they need settings of their own, hence a process of their own."""
    command = [sys.executable, "-m", "pytest", "tests/multidb", "--ds=tests.multidb.settings", "-q", "--no-header"]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.multidb.settings"}

    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
