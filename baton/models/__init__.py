"""The tables: a run, its steps and what hangs between them, its endings."""

from __future__ import annotations

from baton.models.completion import Completion
from baton.models.node import WorkflowEdge, WorkflowNode
from baton.models.queue import QueueSighting, SweepLease
from baton.models.run import WorkflowRun

__all__ = ["Completion", "QueueSighting", "SweepLease", "WorkflowEdge", "WorkflowNode", "WorkflowRun"]
