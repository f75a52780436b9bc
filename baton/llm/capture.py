"""Debug logs: what went to a provider and what came back, where that is asked for. Nothing here fails a step."""

from __future__ import annotations

import inspect
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from django.db import connections, transaction
from django.db.models.functions import Now

from baton.conf import get_settings
from baton.context import StepContext
from baton.engine.errors import storable_text
from baton.engine.ledger import Ledger
from baton.llm.redaction import redacted, redacted_line
from baton.models import DebugLog, WorkflowRun
from baton.results import outside_event_loop

__all__ = ["entries", "is_on", "keep", "log_request", "log_response", "log_upstream"]

logger = logging.getLogger("baton.llm")

_MAX_OPEN = 1_000
"""How many requests of an execution may wait for their responses."""
_MAX_OURS = 50
"""How many of one task."""


def is_on(ctx: StepContext) -> bool:
    """Whether calls of this execution are kept: what the step says, else the run, else the setting ``CAPTURE``."""
    found = False
    ledger = _ledger(ctx)
    if ledger is not None:
        with _harmless(ctx):
            found = (get_settings().capture or ledger.is_debug) if ledger.capture is None else ledger.capture
    return found


def log_request(ctx: StepContext, request: Any) -> None:
    """Keep what is about to be sent, where capture is on.

    Args:
        ctx: The body's context.
        request: Anything; what JSON cannot hold is kept as what it says of itself. Its ``model`` names the row's.
    """
    ledger = _ledger(ctx)
    if ledger is None or not is_on(ctx):
        return
    with _harmless(ctx):
        columns = {"model": ctx.model or "", **_model_of(request), "request": redacted("request", request)}
        exchange = _newest(ledger, lambda each: each.is_ours and each.is_open and not each.has_request)
        if exchange is None:
            exchange = _open(ledger, columns)
        else:
            _change(ledger, exchange, columns)
        exchange.has_request, exchange.began = True, time.monotonic()


def log_response(ctx: StepContext, response: Any) -> None:
    """Keep what came back, where capture is on, in the row of the newest request of this execution without a response.

    Where there is none, it gets a row of its own.

    Args:
        ctx: The body's context.
        response: As the request of :func:`log_request`.
    """
    ledger = _ledger(ctx)
    if ledger is None or not is_on(ctx):
        return
    ended = time.monotonic()
    with _harmless(ctx):
        columns = {"response": redacted("response", response)}
        exchange = _newest(ledger, lambda each: each.is_ours and each.is_open) or _newest(
            ledger, lambda each: each.is_open
        )
        if exchange is None:
            exchange = _open(ledger, {"model": ctx.model or "", **_model_of(response), **columns})
        else:
            took = {"duration": ended - exchange.began} if exchange.has_request else {}
            _change(ledger, exchange, {**columns, **took})
        exchange.is_open = False


def log_upstream(ctx: StepContext) -> None:
    """Keep the results of the direct dependencies, where capture is on.

    They go into the row of the newest request without a response, else into one that the next request shares.

    Args:
        ctx: The body's context.
    """
    ledger = _ledger(ctx)
    if ledger is None or not is_on(ctx):
        return
    with _harmless(ctx):
        columns = {"upstream": redacted("upstream", ctx.results)}
        exchange = _newest(ledger, lambda each: each.is_ours and each.is_open)
        if exchange is None:
            _open(ledger, {"model": ctx.model or "", **columns})
        else:
            _change(ledger, exchange, columns)


def keep(
    ctx: StepContext,
    *,
    key: str,
    provider: str,
    model: str,
    request: Any,
    response: Any,
    duration: float | None,
    error: BaseException | None = None,
    began: float | None = None,
    fn: Callable[..., Any] | None = None,
) -> None:
    """Keep a call that is over, where capture is on, with the results of the step's dependencies.

    What was logged by hand since it began is the same call: it gets no second row, and its words stay.

    Args:
        ctx: The body's context.
        key: The call's key in the ledger.
        provider: Who was asked.
        model: What was asked.
        request: The request, or None where nobody knows it.
        response: What came back, or None.
        duration: How long it took, in seconds.
        error: What was raised instead, or in the middle of it.
        began: When it began, by the monotonic clock; None is ``duration`` ago.
        fn: What made the call. Where there is no request, the values that it has from around it are kept in its place.
    """
    ledger = _ledger(ctx)
    if ledger is None or not is_on(ctx):
        return
    began = time.monotonic() - (duration or 0) if began is None else began
    with _harmless(ctx):
        exchange = _newest(ledger, lambda each: each.is_ours and not each.is_called and each.began >= began)
        columns = {"key": key, "provider": provider, "duration": duration}
        if model or exchange is None:
            columns["model"] = model or {"model": ctx.model or "", **_model_of(response), **_model_of(request)}["model"]
        columns["upstream"] = redacted("upstream", ctx.results)
        if exchange is None or not exchange.has_request:
            known = _made_from(fn) if request is None and fn is not None else request
            columns["request"] = redacted("request", known)
        if exchange is None or exchange.is_open:
            columns["response"] = redacted("response", _answer(response, error))
        if exchange is None:
            exchange = _open(ledger, columns)
        else:
            _change(ledger, exchange, columns)
        exchange.is_open, exchange.is_called = False, True


def entries(run_or_id: WorkflowRun | UUID | str, step: str | Enum | None = None) -> list[dict[str, Any]]:
    """What was kept of a run's calls.

    Args:
        run_or_id: The run or its id.
        step: Only those of the step of this name.

    Returns:
        The oldest first, a dict for each call: ``id``, ``step_name``, ``attempt``, ``key``, ``provider``, ``model``,
        ``request``, ``response``, ``upstream``, ``duration`` (seconds or None) and ``created_at``. Empty where nothing
        was kept, or where there is no such run or step.

    Raises:
        ValueError: The text is no id.
    """
    run_id = run_or_id.pk if isinstance(run_or_id, WorkflowRun) else run_or_id
    try:
        wanted_id = UUID(str(run_id))
    except ValueError:
        raise ValueError(f"run_or_id is {run_id!r}, which is no id: give a run, its id or the text of that.") from None
    logs = DebugLog.objects.using(get_settings().database).filter(run_id=wanted_id).order_by("id")
    if step is not None:
        wanted = str(getattr(step, "value", step))
        # Text that no database stores names no step; asked for it, a database raises.
        is_text = "\0" not in wanted and not any("\ud800" <= letter <= "\udfff" for letter in wanted)
        logs = logs.filter(node__name=wanted) if is_text else logs.none()
    return [{"step_name": row.pop("node__name"), **row} for row in logs.values("node__name", *_COLUMNS)]


_COLUMNS = (
    "id", "attempt", "key", "provider", "model", "request", "response", "upstream", "duration", "created_at",
)  # fmt: skip

_LENGTHS = {"key": 255, "provider": 100, "model": 255}
"""How long the short texts of a row may be."""


@dataclass(kw_only=True, eq=False)
class _Exchange:
    """A row of this execution, to which more may come."""

    id: int
    began: float = field(default_factory=time.monotonic)
    has_request: bool = False
    is_open: bool = True
    """Its response is not there yet."""
    is_called: bool = False
    """It is the row of a call that is over."""

    @property
    def is_ours(self) -> bool:
        """Whether it was opened by the code that asks: calls may run side by side in one body."""
        return any(each is self for each in _ours.get())


_DATA = (str, int, float, Mapping, list, tuple, set, frozenset)

_exchanges: WeakKeyDictionary[Ledger, deque[_Exchange]] = WeakKeyDictionary()
"""By the ledger of the execution."""
_ours: ContextVar[tuple[_Exchange, ...]] = ContextVar("baton_exchanges", default=())
"""Those that this task opened, or whoever started it, the oldest first. A thread that asgiref lends a task has them
too."""


def _newest(ledger: Ledger, suits: Callable[[_Exchange], bool]) -> _Exchange | None:
    return next((each for each in reversed([*_exchanges.get(ledger, ())]) if suits(each)), None)


def _open(ledger: Ledger, columns: dict[str, Any]) -> _Exchange:
    """Write a row, which others may complete."""
    row = DebugLog(run_id=ledger.run_id, node_id=ledger.node_id, attempt=ledger.attempt, **_fitting(columns))
    row.created_at = Now()  # the database's clock, by which retention goes
    _write(ledger, lambda: row.save(using=ledger.alias, force_insert=True))
    exchange = _Exchange(id=row.pk)
    _exchanges.setdefault(ledger, deque(maxlen=_MAX_OPEN)).append(exchange)
    _ours.set((*_ours.get()[-_MAX_OURS:], exchange))
    return exchange


def _change(ledger: Ledger, exchange: _Exchange, columns: dict[str, Any]) -> None:
    rows = DebugLog.objects.using(ledger.alias).filter(pk=exchange.id)
    _write(ledger, lambda: rows.update(**_fitting(columns)))


def _write(ledger: Ledger, work: Callable[[], object]) -> None:
    """Write in one try; a transaction that is open around us stays whole, and so does the connection."""

    def in_transaction() -> None:
        connection = connections[ledger.alias]
        # In a thread of the body's own, nobody would close it behind us.
        is_new = connection.connection is None
        try:
            with transaction.atomic(using=ledger.alias):
                work()
        finally:
            is_broken = connection.errors_occurred and not connection.in_atomic_block and not connection.is_usable()
            if is_new or is_broken:
                connection.close()

    outside_event_loop(in_transaction)


def _fitting(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns as they are stored: short texts as long as theirs, of letters that every database takes."""
    return {
        name: storable_text(redacted_line(value))[: _LENGTHS[name]] if name in _LENGTHS else value
        for name, value in columns.items()
    }


def _model_of(value: Any) -> dict[str, str]:
    """The model that a request or a response names, or the first chunk of one."""
    if isinstance(value, list) and value:
        value = value[0]
    try:
        model = value.get("model") if isinstance(value, Mapping) else getattr(value, "model", None)
    except Exception:  # noqa: BLE001 - the value's own code; its error may quote anything
        model = None
    return {"model": model} if isinstance(model, str) else {}


def _made_from(fn: Callable[..., Any]) -> dict[str, Any]:
    """What a function without parameters can have made a request from: a lambda's prompt, say, but not its client."""
    name = f"{getattr(fn, '__module__', '')}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
    around = inspect.getclosurevars(fn).nonlocals if inspect.isfunction(fn) else {}
    values = {each: value for each, value in around.items() if isinstance(value, _DATA)}
    return {"function": name, "values": values}


def _answer(response: Any, error: BaseException | None) -> Any:
    if error is None:
        return response
    return {"error": error, **({} if response is None else {"response": response})}


def _ledger(ctx: StepContext) -> Ledger | None:
    """Where this execution keeps its calls; None in a context that was made by hand."""
    return ctx.ledger if isinstance(ctx.ledger, Ledger) else None


@contextmanager
def _harmless(ctx: StepContext) -> Iterator[None]:
    """The one seam: what fails in here is told, and costs the step nothing."""
    try:
        yield
    except (Exception, SystemExit):
        logger.exception("A call of step %r could not be kept as a debug log.", ctx.step_name)
