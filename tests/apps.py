"""The suite as an installed app; in a cluster's process it reports the workers that are ready."""

from __future__ import annotations

import os
from pathlib import Path

from django.apps import AppConfig


class TestsConfig(AppConfig):
    """The app `tests`."""

    name = "tests"

    def ready(self) -> None:
        if folder := os.environ.get("BATON_TEST_READY_FOLDER"):
            from django_q.signals import post_spawn

            def note_worker(**kwargs: object) -> None:
                (Path(folder) / str(os.getpid())).touch()

            post_spawn.connect(note_worker, weak=False)
