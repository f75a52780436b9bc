"""Plants what the environment asks for in every process of a cluster."""

from __future__ import annotations

import os
from pathlib import Path

from django.apps import AppConfig


class FaultsConfig(AppConfig):
    """The app `tests.faults`."""

    name = "tests.faults"
    label = "tests_faults"

    def ready(self) -> None:
        if folder := os.environ.get("BATON_TEST_EVENTS_FOLDER"):
            from tests.faults.recorder import connect

            connect(Path(folder))
        if folder := os.environ.get("BATON_TEST_FAULTS_FOLDER"):
            from tests.faults.places import plant

            plant(Path(folder), os.environ["BATON_TEST_FAULTS_ROLE"])
        if folder := os.environ.get("BATON_TEST_LLM_FOLDER"):
            from tests.faults import llm_places

            llm_places.plant(Path(folder))
