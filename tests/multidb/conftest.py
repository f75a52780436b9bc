"""Leaves these tests to the run that has their settings."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("DJANGO_SETTINGS_MODULE") == "tests.multidb.settings" else ["test_*.py"]
