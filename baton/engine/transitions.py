"""What happened to a step, on its way from the commit to whoever listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from baton import tracing
from baton.engine.gate import Claim
from baton.states import StepState
from baton.telemetry import batch, is_heard, send, step_transitioned, timestamp


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


def announce(transitions: Sequence[Transition]) -> None:
    """Send the signals; costs nothing when nobody listens."""
    tracing.count_transitions(transitions)
    if not is_heard(step_transitioned):
        return
    with batch():
        for each in transitions:
            send(
                step_transitioned,
                workflow_id=str(each.run_id),
                workflow_name=each.workflow_name,
                step_name=each.step_name,
                step=each.step,
                state=each.state.value,
                node_id=each.node_id,
                attempt=each.attempt,
                version=each.version,
                has_result=each.has_result,
                error=each.error,
                timestamp=timestamp(),
                duration=each.duration,
                queue_wait=each.queue_wait,
            )
