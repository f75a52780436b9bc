"""Read-only pages for what Baton keeps; runs can be cancelled and retried by who may."""

from __future__ import annotations

from baton.admin.logs import DebugLogAdmin
from baton.admin.money import LedgerEntryAdmin, StepStatAdmin
from baton.admin.records import CompletionAdmin, QueueSightingAdmin
from baton.admin.runs import WorkflowRunAdmin
from baton.admin.steps import WorkflowNodeAdmin

__all__ = [
    "CompletionAdmin", "DebugLogAdmin", "LedgerEntryAdmin", "QueueSightingAdmin", "StepStatAdmin", "WorkflowNodeAdmin",
    "WorkflowRunAdmin",
]  # fmt: skip
