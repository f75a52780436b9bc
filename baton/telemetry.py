"""The signals Baton sends, after the commit of what they tell.

Receivers are called by ``send_robust``: one that raises is logged and harms nobody. The sender is the string
``"baton"``. Workflow ids are strings, times are ISO 8601 in UTC, durations are seconds.
"""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from uuid import UUID

from django.dispatch import Signal

SENDER = "baton"

logger = logging.getLogger("baton.telemetry")

workflow_inserted = Signal()
"""A run was inserted: ``workflow_id``, ``workflow_name``, ``count`` (its steps), ``timestamp``."""

step_transitioned = Signal()
"""A step changed: the keys of the step event but ``type``, and ``duration`` and ``queue_wait`` (seconds or None)."""

workflow_finished = Signal()
"""A run ended: ``workflow_id``, ``workflow_name``, ``outcome``, ``failed_steps``, ``timestamp``, ``failed_count``,
``total_count``."""

workflow_failed = Signal()
"""The same, sent for runs whose outcome is ``failed`` only."""

sweep_started = Signal()
"""A pass of the sweep began: ``timestamp``."""

sweep_finished = Signal()
"""A pass of the sweep ended: ``timestamp``, ``duration``, ``count`` (rows mended) and ``report`` (the counts of each
part, as ``baton_sweep --json`` prints them)."""

sweep_failed = Signal()
"""A part of the sweep raised: ``timestamp``, ``duration`` (of the part), ``part``, ``error``. The other parts ran."""

steps_rescued = Signal()
"""Steps were taken from workers that vanished: ``timestamp``, ``count``, ``node_ids``."""

rows_pruned = Signal()
"""Retention deleted rows: ``timestamp``, ``count``, ``tables`` (a count for each model's name)."""

ANNOUNCED_FAILURES = 100
"""How many names ``failed_steps`` of a message holds at most; the ``Completion`` has them all."""


def timestamp(moment: datetime | None = None) -> str:
    """A moment, or now, as messages carry it."""
    moment = moment or datetime.now(UTC)
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def send(signal: Signal, **payload: Any) -> None:
    """Send to every receiver; log those that raise."""
    if not signal.has_listeners(SENDER):
        return
    about = {key: payload[key] for key in _ATTRIBUTES if key in payload}
    try:
        responses = signal.send_robust(SENDER, **payload)
    except (Exception, SystemExit, CancelledError):
        # What robust sending lets through: receivers that want to end the process or a task, and coroutines in a thread
        # that has an event loop. It must not cost the worker the step that it has claimed.
        logger.exception("Receivers of a Baton signal were not all called.", extra=about)
        return
    for receiver, response in responses:
        if isinstance(response, Exception):
            logger.error("Receiver %r of a Baton signal raised.", receiver, exc_info=response, extra=about)


_ATTRIBUTES = ("workflow_id", "workflow_name", "step_name", "attempt", "node_id")


def about_step(
    *, workflow_id: UUID, workflow_name: str, step_name: str, attempt: int, node_id: int | None
) -> dict[str, Any]:
    """What every log record about a step carries as attributes: for the argument ``extra`` of a logger."""
    return {
        "workflow_id": str(workflow_id),
        "workflow_name": workflow_name,
        "step_name": step_name,
        "attempt": attempt,
        "node_id": node_id,
    }


def is_heard(*signals: Signal) -> bool:
    """True when at least one of the signals has a receiver in this process."""
    return any(signal.has_listeners(SENDER) for signal in signals)


# The default logger ---------------------------------------------------------------------------------------------------

_NAMED = 10
"""How many steps a line names at most."""

_level = logging.WARNING


def attach_default_logger(level: int | str = logging.WARNING) -> None:
    """Log what somebody should look at to ``baton.telemetry``: a line for each run that failed and for each rescue.

    What the line says in words, its record carries as attributes too. Attached again, only the level changes.

    Args:
        level: The level of the lines, as :mod:`logging` numbers or names it.

    Raises:
        ValueError: There is no level of that name.
    """
    global _level  # noqa: PLW0603 - one logger in a process, like logging's own
    _level = _number(level)
    workflow_failed.connect(_log_failure, dispatch_uid="baton.default_logger")
    steps_rescued.connect(_log_rescue, dispatch_uid="baton.default_logger")


def detach_default_logger() -> None:
    """Log no more of it."""
    workflow_failed.disconnect(dispatch_uid="baton.default_logger")
    steps_rescued.disconnect(dispatch_uid="baton.default_logger")


def _log_failure(
    *,
    workflow_id: str,
    workflow_name: str,
    failed_steps: list[str],
    failed_count: int,
    total_count: int,
    **payload: Any,
) -> None:
    logger.log(
        _level,
        "Workflow %r failed: %s of its %s steps were discarded or cancelled: %s (run %s).",
        workflow_name,
        failed_count,
        total_count,
        _listed(map(repr, failed_steps), failed_count),
        workflow_id,
        extra={
            "workflow_id": workflow_id,
            "workflow_name": workflow_name,
            "outcome": payload["outcome"],
            "failed_steps": failed_steps,
            "failed_count": failed_count,
            "total_count": total_count,
        },
    )


def _log_rescue(*, count: int, node_ids: list[int], **payload: Any) -> None:
    logger.log(
        _level,
        "Taken from workers that vanished: %s (%s %s).",
        "1 step" if count == 1 else f"{count} steps",
        "node" if count == 1 else "nodes",
        _listed(map(str, node_ids), count),
        extra={"count": count, "node_ids": node_ids},
    )


def _listed(names: Iterable[str], count: int) -> str:
    listed = ", ".join(islice(names, _NAMED))
    return f"{listed} and {count - _NAMED} more" if count > _NAMED else listed


def _number(level: int | str) -> int:
    if isinstance(level, int):
        return level
    levels = logging.getLevelNamesMapping()
    if str(level).upper() not in levels:
        msg = f"attach_default_logger: level is {level!r}. Give a number, or one of {', '.join(levels)}."
        raise ValueError(msg)
    return levels[level.upper()]
