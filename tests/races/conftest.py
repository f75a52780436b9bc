"""Fixtures of the races."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from baton.telemetry import workflow_finished


@pytest.fixture
def endings() -> Iterator[list[str]]:
    """The runs that were announced as finished, each as often as it was."""
    announced: list[str] = []

    def record(workflow_id: str, **payload: Any) -> None:
        announced.append(workflow_id)

    workflow_finished.connect(record)
    yield announced
    workflow_finished.disconnect(record)
