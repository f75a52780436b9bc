"""Endings of runs, and who was seen serving which queue."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from baton.admin import display
from baton.admin.base import ReadOnlyAdmin
from baton.explain.words import between, number
from baton.models import Completion, QueueSighting


@admin.register(Completion)
class CompletionAdmin(ReadOnlyAdmin):
    """Endings."""

    list_display = ("run_link", "round", "outcome_shown", "steps_shown", "finished", "announced")
    list_display_links = ("round",)
    list_filter = ("outcome", "finished_at")
    list_defer = ("failed_steps", "run__meta")
    list_select_related = ("run",)
    search_fields = ("run__name", "run__key")
    search_help_text = _("The beginning of a run's id, or a part of its name or key")
    run_lookup = "run_id"
    ordering = ("-id",)
    fields = (
        "run_link", "round", "outcome_shown", "steps_shown", "failed_shown", "finished", "announced",
    )  # fmt: skip

    finished = staticmethod(display.time(Completion, "finished_at"))
    announced = staticmethod(display.time(Completion, "announced_at"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With the runs, whose names both pages show."""
        return super().get_queryset(request).select_related("run")

    @admin.display(description=_("run"), ordering="run")
    def run_link(self, ending: Completion) -> Any:
        """The run."""
        return display.link_to(ending.run, ending.run)

    @admin.display(description=_("outcome"), ordering="outcome")
    def outcome_shown(self, ending: Completion) -> Any:
        """How it ended."""
        return display.state(ending.outcome, ending.get_outcome_display())

    @admin.display(description=_("did not complete"), ordering="failed_count")
    def steps_shown(self, ending: Completion) -> str:
        """How many steps failed of how many."""
        text = _("{failed} of {total}")
        return str(text).format(failed=number(ending.failed_count), total=number(ending.total_count))

    @admin.display(description=_("failed steps"))
    def failed_shown(self, ending: Completion) -> Any:
        """Their names."""
        return display.as_json(ending.failed_steps) if ending.failed_steps else display.NOTHING


@admin.register(QueueSighting)
class QueueSightingAdmin(ReadOnlyAdmin):
    """Who serves a queue."""

    list_display = ("queue", "host", "worker", "seen", "age", "clock_offset")
    list_filter = ("queue", "seen_at")
    search_fields = ("queue", "host")
    ordering = ("queue", "host")
    fields = ("queue", "host", "worker", "seen", "age", "clock_offset")
    seen = staticmethod(display.time(QueueSighting, "seen_at"))

    @admin.display(description=_("age"))
    def age(self, sighting: QueueSighting) -> str:
        """How long ago that was."""
        return str(_("{time} ago")).format(time=between(sighting.seen_at, timezone.now()))
