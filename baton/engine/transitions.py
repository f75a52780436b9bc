"""What happened to a step, on its way from the commit to whoever listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.dispatch import Signal

from baton import tracing
from baton.engine.gate import Claim
from baton.states import StepState
from baton.telemetry import is_heard, send, step_transitioned, timestamp

steps_announced = Signal()
"""What one announcement tells, all at once: ``steps``, a list of what ``step_transitioned`` carries, and ``may_end``.
Not public: it is for who passes many changes on together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of a step's state that is announced."""

    run_id: UUID
    workflow_name: str
    node_id: int
    step_name: str
    step: str
    state: StepState
    attempt: int
    version: int
    has_result: bool = False
    error: str | None = None
    duration: float | None = None
    queue_wait: float | None = None

    @classmethod
    def executing(cls, claim: Claim) -> Transition:
        """A claim, announced."""
        return cls(
            run_id=claim.run_id,
            workflow_name=claim.workflow_name,
            node_id=claim.node_id,
            step_name=claim.name,
            step=claim.step,
            state=StepState.EXECUTING,
            attempt=claim.attempt,
            version=claim.version,
            queue_wait=claim.queue_wait,
        )

    def payload(self, timestamp: str) -> dict[str, Any]:
        """What ``step_transitioned`` carries."""
        return {
            "workflow_id": str(self.run_id),
            "workflow_name": self.workflow_name,
            "step_name": self.step_name,
            "step": self.step,
            "state": self.state.value,
            "node_id": self.node_id,
            "attempt": self.attempt,
            "version": self.version,
            "has_result": self.has_result,
            "error": self.error,
            "timestamp": timestamp,
            "duration": self.duration,
            "queue_wait": self.queue_wait,
        }


def announce(transitions: Sequence[Transition], *, may_end: bool = False) -> None:
    """Send the signals; costs nothing when nobody listens.

    Args:
        transitions: In order.
        may_end: Whether the end of the run may follow at once.
    """
    tracing.count_transitions(transitions)
    is_heard_singly = is_heard(step_transitioned)
    if not is_heard_singly and not is_heard(steps_announced):
        return
    now = timestamp()
    payloads = [each.payload(now) for each in transitions]
    send(steps_announced, steps=payloads, may_end=may_end)
    if is_heard_singly:
        for payload in payloads:
            send(step_transitioned, **payload)
