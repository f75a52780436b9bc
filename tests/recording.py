"""What Baton's signals say, written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from baton.telemetry import step_transitioned, workflow_failed, workflow_finished, workflow_inserted


@dataclass
class Recording:
    """The keyword arguments of each signal, in order."""

    inserted: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    finished: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    """Which of them came when."""

    def states(self, name: str | None = None) -> list[str]:
        """The announced states, of one step or of all."""
        return [each["state"] for each in self.steps if name in (None, each["step_name"])]


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record every signal that this process sends."""
    recording = Recording()
    receivers = []
    for kind, signal in (
        ("inserted", workflow_inserted),
        ("steps", step_transitioned),
        ("finished", workflow_finished),
        ("failed", workflow_failed),
    ):

        def receive(*, _kind: str = kind, **payload: Any) -> None:
            del payload["signal"]
            assert payload.pop("sender") == "baton"
            getattr(recording, _kind).append(payload)
            recording.order.append(_kind)

        signal.connect(receive)
        receivers.append((signal, receive))
    try:
        yield recording
    finally:
        for signal, receive in receivers:
            signal.disconnect(receive)
