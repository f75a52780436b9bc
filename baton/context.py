"""What a body is given: who it is, what its dependencies returned, and how to tell how far it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from baton.exceptions import NoResultError


def _nothing(*_args: Any) -> None:
    """Nobody listens."""


@dataclass(slots=True, kw_only=True, eq=False)
class StepContext:
    """The first parameter of every body."""

    workflow_id: UUID
    """The id of the run."""
    workflow_name: str
    """The label given to the workflow."""
    step_name: str
    """The step's name within the workflow."""
    attempt: int = 1
    """Which execution this is, from 1; snoozes are not counted."""
    max_attempts: int = 1
    """How many executions count at most."""
    args: dict[str, Any] = field(default_factory=dict)
    """The arguments the body is called with."""
    results: Mapping[str, Any] = field(default_factory=dict)
    """The results of the direct dependencies, by step name."""
    model: str | None = None
    """The language model chosen for the step, or None."""
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger] = field(
        default_factory=lambda: logging.getLogger("baton.step")
    )
    """A logger whose records carry the run, the step and the attempt."""
    _own_result: Callable[[], Any] | None = None
    _report: Callable[[float, float | None, str], None] = _nothing
    _ask_cancelled: Callable[[], bool] | None = None

    @property
    def own_result(self) -> Any:
        """The step's own stored result.

        Raises:
            NoResultError: There is none yet.
        """
        if self._own_result is None:
            raise NoResultError(self.step_name, "executing")
        return self._own_result()

    @property
    def is_cancelled(self) -> bool:
        """True once the step was taken from this worker; what the body returns is then dropped."""
        return self._ask_cancelled is not None and self._ask_cancelled()

    def progress(self, current: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the body is.

        Args:
            current: How much is done, in any unit.
            total: How much there is in all, in the same unit, or None where that is not known.
            message: A few words for people.
        """
        self._report(current, total, str(message))
