"""The tables: a run, its steps and what hangs between them, its endings and its logs."""

from __future__ import annotations

from baton.models.budget import BudgetAccount
from baton.models.completion import Completion
from baton.models.debug_log import DebugLog
from baton.models.ledger import Hold, LedgerEntry
from baton.models.node import WorkflowEdge, WorkflowNode
from baton.models.queue import QueueSighting, SweepLease
from baton.models.run import WorkflowRun
from baton.models.step_log import StepLog
from baton.models.step_stat import StepStat

__all__ = [
    "BudgetAccount",
    "Completion",
    "DebugLog",
    "Hold",
    "LedgerEntry",
    "QueueSighting",
    "StepLog",
    "StepStat",
    "SweepLease",
    "WorkflowEdge",
    "WorkflowNode",
    "WorkflowRun",
]
