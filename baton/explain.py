"""Why a step is where it is, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils import timezone

from baton.models import WorkflowNode
from baton.states import AttemptOutcome, StepState

_SHOWN_DEPENDENCIES = 5
_SECONDS_IN_WORDS = 60
_SECONDS_OF_AN_HOUR = 3600


def explain_step(node: WorkflowNode) -> str:
    """Say in a sentence why a step waits, runs, or ended as it did.

    Args:
        node: The step, as it was read.

    Returns:
        One or two sentences; times are in the current time zone.
    """
    return _SENTENCES[StepState(node.state)](node)


def _pending(node: WorkflowNode) -> str:
    unsettled = WorkflowNode.objects.using(node._state.db).filter(  # noqa: SLF001 - its own alias
        edges_out__node_id=node.pk, settled_at__isnull=True
    )
    waited_for = [f"{each.name} ({_where(each)})" for each in unsettled.order_by("id")[:_SHOWN_DEPENDENCIES]]
    if not waited_for:
        return "Waits for dependencies that are settled or gone: the next sweep decides."
    if node.remaining > len(waited_for):
        waited_for.append(f"{node.remaining - len(waited_for)} more")
    return f"Waits for {_listed(waited_for)}."


def _available(node: WorkflowNode) -> str:
    return f"Ready since {_clock(node.queued_at)}, for the next free worker of queue {node.queue}."


def _executing(node: WorkflowNode) -> str:
    running = f"Running for {_since(node.started_at)} on {node.worker}, {_attempt(node)}."
    if node.lease_until is not None and node.lease_until < timezone.now():
        return f"{running} Its lease ran out at {_clock(node.lease_until)}: the next sweep takes it from that worker."
    return running


def _snoozed(node: WorkflowNode) -> str:
    last = node.attempt_log[-1]["outcome"] if node.attempt_log else None
    if last == AttemptOutcome.SNOOZED:
        return f"The step asked to run again at {_clock(node.due_at)}; no attempt was used."
    return f"Not before {_clock(node.due_at)}, as inserted."


def _retryable(node: WorkflowNode) -> str:
    return f"{_attempt(node).capitalize()} failed: {node.error}. Again at {_clock(node.due_at)}."


def _completed(node: WorkflowNode) -> str:
    return f"Completed in {_attempt(node)}, {_between(node.started_at, node.settled_at)}."


def _discarded(node: WorkflowNode) -> str:
    last = node.attempt_log[-1]["outcome"] if node.attempt_log else None
    if last == AttemptOutcome.DISCARDED:
        return f"Discarded by the step: {node.error}"
    return f"Discarded after {node.attempt} of {node.max_attempts} attempts: {node.error}"


def _cancelled(node: WorkflowNode) -> str:
    return f"Cancelled: {node.error}"


_SENTENCES = {
    StepState.PENDING: _pending,
    StepState.AVAILABLE: _available,
    StepState.EXECUTING: _executing,
    StepState.SNOOZED: _snoozed,
    StepState.RETRYABLE: _retryable,
    StepState.COMPLETED: _completed,
    StepState.DISCARDED: _discarded,
    StepState.CANCELLED: _cancelled,
}


def _where(node: WorkflowNode) -> str:
    """A dependency's state in a few words."""
    match node.state:
        case StepState.EXECUTING:
            return f"executing for {_since(node.started_at)}"
        case StepState.SNOOZED | StepState.RETRYABLE:
            return f"{node.state}, again at {_clock(node.due_at)}"
    return str(node.state)


def _attempt(node: WorkflowNode) -> str:
    return f"attempt {node.attempt} of {node.max_attempts}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _clock(moment: datetime | None) -> str:
    if moment is None:
        return "an unknown time"
    local = timezone.localtime(moment)
    return f"{local:%H:%M:%S}" if local.date() == timezone.localdate() else f"{local:%Y-%m-%d %H:%M:%S}"


def _since(moment: datetime | None) -> str:
    return _between(moment, timezone.now())


def _between(start: datetime | None, end: datetime | None) -> str:
    seconds = max(0.0, (end - start).total_seconds()) if start and end else 0.0
    if seconds < _SECONDS_IN_WORDS:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < _SECONDS_OF_AN_HOUR:
        return f"{seconds // 60:.0f} m {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} m"
