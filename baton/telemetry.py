"""The signals Baton sends, after the commit of what they tell.

Receivers are called by ``send_robust``: one that raises is logged and harms nobody. The sender is the string
``"baton"``. Workflow ids are strings, times are ISO 8601 in UTC, durations are seconds.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

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
    for receiver, response in signal.send_robust(SENDER, **payload):
        if isinstance(response, Exception):
            logger.error("Receiver %r of a Baton signal raised.", receiver, exc_info=response)


def is_heard(*signals: Signal) -> bool:
    """True when at least one of the signals has a receiver in this process."""
    return any(signal.has_listeners(SENDER) for signal in signals)
