"""Captured calls: prompts and answers, for those who may see them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from baton.admin import display
from baton.admin.base import ReadOnlyAdmin
from baton.explain.words import duration
from baton.models import DebugLog


@admin.register(DebugLog)
class DebugLogAdmin(ReadOnlyAdmin):
    """Captured calls. They need ``baton.view_debuglog``; no other page shows any of them."""

    list_display = ("created", "model", "provider", "node_link", "run_link", "attempt", "took")
    list_filter = ("created_at",)
    list_defer = ("request", "response", "upstream", "run__meta", *(f"node__{name}" for name in (
        "args", "refs", "options", "result_json", "error", "attempt_log", "progress",
    )))  # fmt: skip
    list_select_related = ("run", "node")
    search_fields = ("model", "provider", "key")
    search_help_text = _("The beginning of a run's id, or a part of the model, the provider or the key")
    run_lookup = "run_id"
    ordering = ("-created_at",)
    fields = (
        "run_link", "node_link", "attempt", "key", "provider", "model", "took", "created",
        "request_shown", "response_shown", "upstream_shown",
    )  # fmt: skip

    created = staticmethod(display.time(DebugLog, "created_at"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With run and step, whose names both pages show."""
        return super().get_queryset(request).select_related("run", "node")

    @admin.display(description=_("run"))
    def run_link(self, log: DebugLog) -> Any:
        """The run."""
        return display.link_to(log.run, log.run)

    @admin.display(description=_("step"))
    def node_link(self, log: DebugLog) -> Any:
        """The step."""
        return display.link_to(log.node, log.node.name)

    @admin.display(description=_("took"), ordering="duration")
    def took(self, log: DebugLog) -> str:
        """How long the call took."""
        return display.NOTHING if log.duration is None else duration(log.duration)

    @admin.display(description=_("request"))
    def request_shown(self, log: DebugLog) -> Any:
        """What was sent."""
        return _shown(log.request)

    @admin.display(description=_("response"))
    def response_shown(self, log: DebugLog) -> Any:
        """What came back."""
        return _shown(log.response)

    @admin.display(description=_("results of dependencies"))
    def upstream_shown(self, log: DebugLog) -> Any:
        """What the step was given."""
        return _shown(log.upstream)


def _shown(value: Any) -> Any:
    if value is None:
        return display.NOTHING
    # Text, such as the beginning of what was too long, reads better without the escapes of JSON.
    return display.code(value) if isinstance(value, str) else display.as_json(value)
