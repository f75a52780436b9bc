"""The tables: a run, its steps and what hangs between them, its endings and its logs."""

from __future__ import annotations

from baton.models.completion import Completion
from baton.models.debug_log import DebugLog
from baton.models.node import WorkflowEdge, WorkflowNode
from baton.models.queue import QueueSighting, SweepLease
from baton.models.run import WorkflowRun
from baton.models.step_log import StepLog

__all__ = [
    "Completion",
    "DebugLog",
    "QueueSighting",
    "StepLog",
    "SweepLease",
    "WorkflowEdge",
    "WorkflowNode",
    "WorkflowRun",
]
