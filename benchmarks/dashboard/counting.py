"""A middleware that says with every page what it asked the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection
from django.http import HttpRequest, HttpResponse

QUERIES, ROWS = "X-Bench-Queries", "X-Bench-Rows"


class Count:
    """Counts queries, and the rows of the longest answer."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        rows: list[int] = []

        def watch(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
            result = execute(sql, params, many, context)
            rows.append(max(0, context["cursor"].rowcount))
            return result

        with connection.execute_wrapper(watch):
            response = self.get_response(request)
        response[QUERIES], response[ROWS] = str(len(rows)), str(max(rows, default=0))
        return response
