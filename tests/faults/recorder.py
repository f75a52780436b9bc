"""Writes the signals that the processes of a cluster send to files, and reads them back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from baton.telemetry import step_transitioned, workflow_finished

ENVIRONMENT = "BATON_TEST_EVENTS_FOLDER"


def connect(folder: Path) -> None:
    """Record in this process and in what is forked from it."""

    def record(kind: str, payload: dict[str, Any]) -> None:
        payload.pop("signal")
        payload.pop("sender")
        with (folder / f"{os.getpid()}").open("ab", buffering=0) as file:
            file.write(json.dumps({"kind": kind, **payload}).encode() + b"\n")

    def record_step(**payload: Any) -> None:
        record("step", payload)

    def record_ending(**payload: Any) -> None:
        record("finished", payload)

    step_transitioned.connect(record_step, weak=False)
    workflow_finished.connect(record_ending, weak=False)


def recorded(folder: Path, kind: str) -> list[dict[str, Any]]:
    """What all processes recorded of a kind, in the order of their time."""
    lines = [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]
    return sorted((line for line in lines if line["kind"] == kind), key=lambda line: str(line["timestamp"]))
