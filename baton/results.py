"""A dependency's stored result: of the step that is running, or of any node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from asgiref.sync import AsyncToSync
from django.db import connections

from baton.conf import get_settings
from baton.exceptions import NoResultError, NotADependencyError, StepNotFoundError
from baton.models import WorkflowNode
from baton.values import decode

T = TypeVar("T")

_OF_DEPENDENCIES = """
    SELECT d.name, d.state, d.has_result, d.result_json
    FROM baton_workflowedge e JOIN baton_workflownode d ON d.id = e.dependency_id
    WHERE e.node_id = %s ORDER BY d.id
"""

Row = tuple[str, bool, str | None]
"""State, whether there is a result, and its JSON text."""


def get_result(node: WorkflowNode, name: str) -> Any:
    """The result of a direct dependency of a node.

    Raises:
        NotADependencyError: The node does not depend on that step.
        StepNotFoundError: The run has no such step.
        NoResultError: The step is not completed, or returned nothing.
    """
    return DependencyResults.of(node)[name]


def get_all_results(node: WorkflowNode) -> dict[str, Any]:
    """The results of a node's direct dependencies that have one, by name."""
    return dict(DependencyResults.of(node))


def get_own_result(node: WorkflowNode) -> Any:
    """The node's own stored result.

    Raises:
        NoResultError: There is none.
    """
    return WorkflowNode.objects.using(node._state.db).get(pk=node.pk).result  # noqa: SLF001 - its own alias


class DependencyResults(Mapping[str, Any]):
    """The results of the direct dependencies, by step name; read in one query when first asked for.

    Iteration and length cover the dependencies that have a result.
    """

    def __init__(self, step: str, run_id: Any, load: Callable[[], dict[str, Row]]) -> None:
        self._step, self._run_id, self._load = step, run_id, load
        self._rows: dict[str, Row] | None = None
        self._decoded: dict[str, Any] = {}

    @classmethod
    def of(cls, node: WorkflowNode) -> DependencyResults:
        """The results that a node's body would read."""
        return cls(node.name, node.run_id, lambda: load_rows(node.pk))

    def load(self) -> dict[str, Row]:
        """Read the rows, once."""
        if self._rows is None:
            self._rows = outside_event_loop(self._load)
        return self._rows

    def __getitem__(self, name: str) -> Any:
        name = str(getattr(name, "value", name))
        row = self.load().get(name)
        if row is None:
            raise self._unknown(name)
        state, has_result, text = row
        if not has_result or text is None:
            raise NoResultError(name, state)
        if name not in self._decoded:
            self._decoded[name] = decode(text)
        return self._decoded[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The result of that dependency, or the default where there is none."""
        try:
            return self[name]
        except LookupError:
            return default

    def whole(self, name: str) -> Any:
        """What a reference to the whole result reads: None where none was stored."""
        row = self.load().get(name)
        if row is None:
            raise self._unknown(name)
        return self[name] if row[1] else None

    def __contains__(self, name: object) -> bool:
        row = self.load().get(str(getattr(name, "value", name)))
        return row is not None and row[1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, (_, has_result, _text) in self.load().items() if has_result)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<results for {self._step!r}: {', '.join(self)}>"

    def _unknown(self, name: str) -> LookupError:
        if self._run_id is None:
            return NotADependencyError(self._step, name)
        exists = outside_event_loop(
            lambda: WorkflowNode.objects.using(get_settings().database).filter(run_id=self._run_id, name=name).exists()
        )
        return NotADependencyError(self._step, name) if exists else StepNotFoundError(name, run=self._run_id)


def load_rows(node_id: int) -> dict[str, Row]:
    """Read what the direct dependencies of a node stored, in one query."""
    with connections[get_settings().database].cursor() as cursor:
        cursor.execute(_OF_DEPENDENCIES, [node_id])
        return {name: (state, bool(has), text) for name, state, has, text in cursor.fetchall()}


def outside_event_loop(work: Callable[[], T]) -> T:
    """Do something with the database, also where an event loop runs in this thread and Django would refuse."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()

    executor = getattr(AsyncToSync.executors, "current", None)
    if executor is not None:
        # A sync caller waits for this loop, and serves what must run in its thread, on its connection.
        served: T = executor.submit(work).result()
        return served

    def with_own_connection() -> T:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(with_own_connection).result()
