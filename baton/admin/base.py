"""What every page shares: read-only, on Baton's database, never counting a large table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import DataError
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from baton.admin.display import NOTHING
from baton.conf import get_settings

MOST_LISTED = 10_000
FEWEST_DIGITS = 4
_SURE_DIGITS = 8
_DIGITS_OF_A_UUID = 32


class BoundedPaginator(Paginator):
    """Counts no further than people page: what lies beyond is found by a filter or the search."""

    @cached_property
    def _found(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment] # of a changelist
        return rows.order_by()[: MOST_LISTED + 1].count()

    @cached_property
    def count(self) -> int:
        """How many rows can be paged through."""
        return min(self._found, MOST_LISTED)

    @property
    def is_cut(self) -> bool:
        """True when there are more than can be paged through."""
        return self._found > MOST_LISTED


class BatonChangeList(ChangeList):
    """A list that leaves large columns unread, and lets its admin read for a page at once what its rows show."""

    model_admin: ReadOnlyAdmin

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        """The rows of the list."""
        return super().get_queryset(*args, **kwargs).defer(*self.model_admin.list_defer)

    def get_results(self, request: HttpRequest) -> None:
        """Read a page. Filters of the address are tried here, for some only the database refuses, or the year 0."""
        try:
            super().get_results(request)
            rows = list(self.result_list)
        except (DataError, ValueError, OverflowError) as exc:
            raise IncorrectLookupParameters(exc) from exc
        self.model_admin.complete_page(rows)


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows that only the engine writes."""

    list_per_page = 50
    list_max_show_all = 200
    show_full_result_count = False
    paginator = BoundedPaginator
    actions: Any = ()
    empty_value_display = NOTHING
    list_defer: Sequence[str] = ()
    """Columns that the list does not show."""
    run_lookup = ""
    """How a row's run is looked up by its id, where the search finds rows by that."""

    class Media:
        css = {"all": ["baton/css/admin.css"]}

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Nobody adds rows by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes rows by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows by hand."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Rows of Baton's database, with or without a router."""
        return super().get_queryset(request).using(get_settings().database)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """A list that reads no more than it shows."""
        return BatonChangeList

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        """Nobody looks by a regular expression, of which one can hold a process for hours."""
        return not lookup.endswith("regex") and super().lookup_allowed(lookup, value, request)

    def complete_page(self, rows: Sequence[Any]) -> None:
        """Give the rows of a page what they show beside their columns."""

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find rows by words, and by the beginning of their run's id."""
        if "\0" in search_term:
            return queryset.none(), False  # PostgreSQL refuses even the question
        by_id = self._by_id(search_term)
        if by_id is None:
            return super().get_search_results(request, queryset, search_term)
        found = queryset.filter(by_id)
        digits = _digits_of(search_term)
        if len(digits) >= _SURE_DIGITS and found.exists():
            return found, False
        by_words, has_doubles = super().get_search_results(request, queryset, search_term)
        return by_words | found, has_doubles

    def _by_id(self, term: str) -> Q | None:
        digits = _digits_of(term)
        if not self.run_lookup or not FEWEST_DIGITS <= len(digits) <= _DIGITS_OF_A_UUID:
            return None
        # A range of the key, which every database reads from its index.
        first, last = UUID(digits.ljust(_DIGITS_OF_A_UUID, "0")), UUID(digits.ljust(_DIGITS_OF_A_UUID, "f"))
        return Q(**{f"{self.run_lookup}__gte": first, f"{self.run_lookup}__lte": last})


def _digits_of(term: str) -> str:
    """The term as the beginning of an id, or nothing where it cannot be one."""
    digits = term.strip().replace("-", "").lower()
    return digits if digits and set(digits) <= set("0123456789abcdef") else ""
