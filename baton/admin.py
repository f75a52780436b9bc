"""Read-only pages for runs, steps and completions."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from baton.models import Completion, WorkflowNode, WorkflowRun


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows that only the engine writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds rows by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes rows by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows by hand."""
        return False


@admin.register(WorkflowRun)
class WorkflowRunAdmin(ReadOnlyAdmin):
    """Runs."""

    list_display = ("name", "id", "state", "inserted_at", "finished_at")
    list_filter = ("state", "name")
    search_fields = ("=id", "name", "key")


@admin.register(WorkflowNode)
class WorkflowNodeAdmin(ReadOnlyAdmin):
    """Steps."""

    list_display = ("name", "run", "state", "attempt", "queue", "started_at", "settled_at")
    list_filter = ("state", "queue")
    list_select_related = ("run",)
    search_fields = ("name", "step", "=run__id")


@admin.register(Completion)
class CompletionAdmin(ReadOnlyAdmin):
    """Endings."""

    list_display = ("run", "outcome", "failed_count", "total_count", "finished_at")
    list_filter = ("outcome",)
    list_select_related = ("run",)
