"""What a body is given: who it is, what its dependencies returned, and how to tell how far it is."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from baton.exceptions import NoResultError
from baton.telemetry import about_step

KEPT_LEVEL = logging.INFO
"""The lowest level that is kept with the step."""


def _nothing(*_args: Any) -> None:
    """Nobody listens."""


class StepLogger(logging.LoggerAdapter[logging.Logger]):
    """What a body logs by: the logger ``baton.step``, with what the step is, and a copy for the step's own log.

    The copy does not depend on how the project logs: where no handler is told, the step still keeps its lines.
    """

    def __init__(self, about: Mapping[str, Any], *, keep: Callable[[str, str], None]) -> None:
        super().__init__(logging.getLogger("baton.step"), about)
        self._keep = keep

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """True for what is kept, and for what the project's handlers get."""
        return level >= KEPT_LEVEL or super().isEnabledFor(level)

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Keep a line, and hand the record on as any logger does."""
        if level >= KEPT_LEVEL:
            self._keep(logging.getLevelName(level), _message(msg, args, kwargs.get("exc_info")))
        # Whoever logs is one frame further away than an adapter of logging's own would find.
        super().log(level, msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add what the step is to what the body gives as ``extra``."""
        return msg, {**kwargs, "extra": {**(kwargs.get("extra") or {}), **(self.extra or {})}}


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
    logger: logging.LoggerAdapter[logging.Logger] = field(init=False)
    """A logger whose records carry the run, the step and the attempt; those of level INFO and above are kept with the
    step."""
    ledger: Any = None
    """The engine's ledger, which keeps once-only effects; None outside a worker, where nothing is kept."""
    _own_result: Callable[[], Any] | None = None
    _report: Callable[[float, float | None, str], None] = _nothing
    _ask_cancelled: Callable[[], bool] | None = None
    _keep_line: Callable[[str, str], None] = _nothing
    _node_id: int | None = None
    _done: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the logger, which knows what the context knows."""
        about = about_step(
            workflow_id=self.workflow_id,
            workflow_name=self.workflow_name,
            step_name=self.step_name,
            attempt=self.attempt,
            node_id=self._node_id,
        )
        self.logger = StepLogger(about, keep=self._keep_line)

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

    def once(self, key: str, fn: Callable[[], Any], *, on_ambiguous: str | None = None) -> Any:
        """Do something once, whatever becomes of this execution: a later attempt gets what was returned the first time.

        Args:
            key: Names the effect within the step.
            fn: Does it, and returns what is kept: JSON values, bytes or a pydantic model.
            on_ambiguous: What follows where an earlier attempt had begun it and nobody knows whether it was done:
                ``repay`` does it again, ``fail`` discards the step, ``ask`` holds it until a person has spoken. By
                default what the step says.

        Returns:
            What ``fn`` returned, or had returned, as the ledger gives it back.

        Raises:
            TypeError: ``fn`` is no function.
            LedgerError: It cannot be done once.
        """
        _check_callable(key, fn)
        if self.ledger is None:
            if key not in self._done:
                self._done[key] = fn()
            return self._done[key]
        return self.ledger.once(key, fn, on_ambiguous=on_ambiguous)

    async def aonce(self, key: str, fn: Callable[[], Any], *, on_ambiguous: str | None = None) -> Any:
        """The async twin of :meth:`once`; ``fn`` returns an awaitable."""
        _check_callable(key, fn)
        if self.ledger is None:
            if key not in self._done:
                self._done[key] = await fn()
            return self._done[key]
        return await self.ledger.aonce(key, fn, on_ambiguous=on_ambiguous)

    def progress(self, current: float, total: float | None = None, message: str = "") -> None:
        """Tell how far the body is.

        Args:
            current: How much is done, in any unit.
            total: How much there is in all, in the same unit, or None where that is not known.
            message: A few words for people.
        """
        self._report(current, total, str(message))


def _check_callable(key: object, fn: object) -> None:
    """Refuse what is no function before anything is written of it."""
    if not callable(fn):
        msg = f"The effect {key!r} is given {fn!r}: give a function that does it."
        raise TypeError(msg)


def _message(msg: object, args: tuple[Any, ...], exc_info: Any) -> str:
    """A record's message as a handler would write it, with its traceback; it never raises, as no handler does."""
    record = logging.LogRecord("baton.step", logging.INFO, "", 0, msg, args, None)
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit, or that cannot say what they are
        message = f"{msg} (could not be formatted)" if isinstance(msg, str) else "(could not be formatted)"
    match exc_info:
        case BaseException():
            error: BaseException | None = exc_info
        case (_, error, _):
            pass
        case _:
            error = sys.exception() if exc_info else None
    return message if error is None else f"{message}\n{''.join(traceback.format_exception(error)).rstrip()}"
