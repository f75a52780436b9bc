"""Filters whose choices cost no look at a whole table."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from baton import q2, registry
from baton.conf import get_settings
from baton.models import QueueSighting

_MOST_NAMES = 50
_NEWEST = 1000

_NAMES = """
    WITH RECURSIVE found(name) AS (
        SELECT min(name) FROM baton_workflowrun
        UNION ALL
        SELECT (SELECT min(r.name) FROM baton_workflowrun r WHERE r.name > found.name) FROM found
        WHERE found.name IS NOT NULL)
    SELECT name FROM found WHERE name IS NOT NULL LIMIT %s
"""
"""Distinct names, one probe of the index baton_run_by_name each, where DISTINCT would read all of it."""

Choices = list[tuple[str, str]]


class ChosenFilter(admin.SimpleListFilter):
    """A filter by one column, of which a value that is asked for is always among the choices."""

    column = ""

    def found(self) -> set[str]:
        """The values to choose from."""
        return set()

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        """The choices."""
        chosen = request.GET.get(self.parameter_name or "")
        values = self.found() | ({chosen} if chosen else set())
        return [(value, value) for value in sorted(values)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows that were asked for."""
        value = self.value()
        if value and "\0" in value:
            return queryset.none()  # PostgreSQL refuses even the question
        return queryset.filter(**{self.column: value}) if value else queryset


class NameFilter(ChosenFilter):
    """Runs by name."""

    title = _("name")
    parameter_name = "name"
    column = "name"

    def found(self) -> set[str]:
        """The first fifty names that there are."""
        with connections[get_settings().database].cursor() as cursor:
            cursor.execute(_NAMES, [_MOST_NAMES])
            return {name for (name,) in cursor.fetchall()}


class QueueFilter(ChosenFilter):
    """Steps by queue."""

    title = _("queue")
    parameter_name = "queue"
    column = "queue"

    def found(self) -> set[str]:
        """The queues of the registered steps, and those that somebody was seen to serve."""
        seen = QueueSighting.objects.using(get_settings().database).values_list("queue", flat=True).distinct()
        registered = (step.options.queue for step in registry.all_steps())
        return {q2.DEFAULT_QUEUE, *registered, *seen}


class RecentFilter(ChosenFilter):
    """Rows by a column that has no index: what the newest rows have is there to choose from."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> Choices:
        """The choices."""
        rows = model_admin.model.objects.using(get_settings().database).order_by("-id")
        newest = {str(value) for value in rows.values_list(self.column, flat=True)[:_NEWEST]}
        chosen = request.GET.get(self.parameter_name or "", "")
        return [(value, value) for value in sorted(newest | {chosen}) if value]


class ModelFilter(RecentFilter):
    """Calls by language model."""

    title = _("model")
    parameter_name = "model"
    column = "model"


class ProviderFilter(RecentFilter):
    """Calls by provider."""

    title = _("provider")
    parameter_name = "provider"
    column = "provider"


class PriceFilter(admin.SimpleListFilter):
    """Calls that have a price, or none."""

    title = _("price")
    parameter_name = "price"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """The choices."""
        return [("known", _("known")), ("unpriced", _("unpriced"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows that were asked for."""
        return queryset.filter(cost__isnull=self.value() == "unpriced") if self.value() else queryset


class ErrorKeyFilter(ChosenFilter):
    """Discarded steps by what they failed with; the page of failures links here."""

    title = _("kind of error")
    parameter_name = "error_key"
    column = "error_key"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows that were asked for, in the words of the index baton_node_error."""
        return super().queryset(request, queryset.filter(error_key__gt="") if self.value() else queryset)
