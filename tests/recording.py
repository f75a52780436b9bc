"""What Baton's signals say, written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from baton.telemetry import (
    rows_pruned,
    step_transitioned,
    steps_rescued,
    sweep_failed,
    sweep_finished,
    sweep_started,
    workflow_failed,
    workflow_finished,
    workflow_inserted,
)


@dataclass
class Recording:
    """The keyword arguments of each signal, in order."""

    inserted: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    finished: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    sweeps: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """What the sweep said, with the signal's name."""
    order: list[str] = field(default_factory=list)
    """Which of them came when."""

    def states(self, name: str | None = None) -> list[str]:
        """The announced states, of one step or of all."""
        return [each["state"] for each in self.steps if name in (None, each["step_name"])]

    def of_sweeps(self, name: str) -> list[dict[str, Any]]:
        """What the sweep said with one of its signals."""
        return [payload for said, payload in self.sweeps if said == name]


_OF_SWEEPS = {
    "sweep_started": sweep_started,
    "sweep_finished": sweep_finished,
    "sweep_failed": sweep_failed,
    "steps_rescued": steps_rescued,
    "rows_pruned": rows_pruned,
}


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
    for name, signal in _OF_SWEEPS.items():

        def note(*, _name: str = name, **payload: Any) -> None:
            del payload["signal"]
            assert payload.pop("sender") == "baton"
            recording.sweeps.append((_name, payload))

        signal.connect(note)
        receivers.append((signal, note))
    try:
        yield recording
    finally:
        for signal, receive in receivers:
            signal.disconnect(receive)
