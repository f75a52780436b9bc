"""Groups, and the messages that are sent to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

Event = dict[str, Any]
Message = dict[str, Any]

STEP_UPDATED = "workflow.step.updated"
FINISHED = "workflow.finished"
BATCH = "workflow.events"

BATCHED_EVENTS = 500
"""How many events a message holds at most."""
ERROR_CHARS = 1_000
"""How much of an error a message carries; the row has all of it."""

_ALL = "baton.all"
_WORKFLOW = "baton.workflow."


def all_group() -> str:
    """The group that gets the events of every run."""
    return _ALL


def workflow_group(id: UUID | str) -> str:  # noqa: A002 - the contract's name for it
    """The group that gets the events of one run.

    Args:
        id: The id of the run, a UUID or its text in any form.

    Raises:
        ValueError: The text is not that of a UUID.
    """
    return f"{_WORKFLOW}{id if isinstance(id, UUID) else UUID(id)}"


def step_event(payload: dict[str, Any]) -> Event:
    """The event of a step, from what its signal carries."""
    error = payload["error"]
    return {
        "type": STEP_UPDATED,
        "workflow_id": payload["workflow_id"],
        "workflow_name": payload["workflow_name"],
        "step_name": payload["step_name"],
        "step": payload["step"],
        "state": payload["state"],
        "node_id": payload["node_id"],
        "attempt": payload["attempt"],
        "version": payload["version"],
        "has_result": payload["has_result"],
        "error": error if error is None else shortened(error),
        "timestamp": payload["timestamp"],
    }


def finished_event(payload: dict[str, Any]) -> Event:
    """The event of a run's end, from what its signal carries."""
    return {
        "type": FINISHED,
        "workflow_id": payload["workflow_id"],
        "workflow_name": payload["workflow_name"],
        "outcome": payload["outcome"],
        "failed_steps": payload["failed_steps"],
        "timestamp": payload["timestamp"],
    }


def shortened(error: str) -> str:
    """An error as messages carry it."""
    return error if len(error) <= ERROR_CHARS else f"{error[: ERROR_CHARS - 1]}…"


def addressed(events: Sequence[Event], *, is_bundled: bool) -> Iterator[tuple[str, Message]]:
    """Each group with its messages, in order: the group of all first, so that whoever changes over hears nothing twice.

    Args:
        events: At most ``BATCHED_EVENTS``.
        is_bundled: Whether the events of a group share a message, else each is one.
    """
    groups: dict[str, list[Event]] = {_ALL: list(events)}
    for event in events:
        groups.setdefault(f"{_WORKFLOW}{event['workflow_id']}", []).append(event)
    for group, its_events in groups.items():
        if is_bundled and len(its_events) > 1:
            yield group, {"type": BATCH, "events": its_events}
        else:
            yield from ((group, event) for event in its_events)


def chunks(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """The events in parts that a message can hold."""
    return (events[start : start + BATCHED_EVENTS] for start in range(0, len(events), BATCHED_EVENTS))
