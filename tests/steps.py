"""Steps that tests use: ``steps.add`` and the like."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as dt_time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy

from baton import Cancel, Discard, Snooze, StepContext, step
from baton.exceptions import ResultNotStorableError, StepTimeoutError
from baton.models import WorkflowNode, WorkflowRun
from baton.states import StepState
from baton.telemetry import step_transitioned
from tests.utils import wait_until

# Bodies that return, raise and steer -------------------------------------------------------------------------------


@step
def nothing(ctx: StepContext) -> None:
    """Return nothing."""


@step
def value(ctx: StepContext, value: Any = 1) -> Any:
    """Return what it is given."""
    return value


@step
def add(ctx: StepContext, left: int, right: int = 0) -> int:
    """Add two numbers."""
    return left + right


@step
def repeat(ctx: StepContext, chars: int) -> str:
    """Return a text that takes so many characters as JSON."""
    return "x" * (chars - 2)


@step
def keywords(ctx: StepContext, **values: Any) -> dict[str, Any]:
    """Return whatever it is given by name."""
    return values


@step
def total(ctx: StepContext) -> int:
    """Add up the results of the dependencies."""
    return sum(ctx.results.values())


@step
def results(ctx: StepContext) -> dict[str, Any]:
    """Return the results of the dependencies."""
    return dict(ctx.results)


@step
def read(ctx: StepContext, name: str) -> Any:
    """Return the result of one step."""
    return ctx.results[name]


@step
def made(ctx: StepContext, kind: str) -> Any:
    """Return something that is stored as text of its own kind."""
    return STORABLE[kind][0]()


@step
def change(ctx: StepContext, name: str) -> Any:
    """Change a result in place, and return it."""
    ctx.results[name].append("changed")
    return ctx.results[name]


@step
def unmade(ctx: StepContext, kind: str) -> Any:
    """Return something that no row can hold, made here since no argument can carry it either."""
    return UNSTORABLE[kind]()


@step(backoff=0, retry_on=ResultNotStorableError, max_attempts=2)
def unmade_at_first(ctx: StepContext) -> Any:
    """Return a set in the first attempt, a list in the second."""
    return {1} if ctx.attempt == 1 else [1]


class Colour(Enum):
    """An enum."""

    RED = "red"


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: list[Colour]


class Model:
    """Has what pydantic's models have."""

    def model_dump(self) -> dict[str, Any]:
        """Return the fields."""
        return {"at": date(2026, 6, 14)}


STORABLE: dict[str, tuple[Callable[[], Any], Any]] = {
    "dict": (lambda: {"a": {"b": []}}, {"a": {"b": []}}),
    "empty dict": (dict, {}),
    "list": (lambda: [1, [2, [3]]], [1, [2, [3]]]),
    "tuple": (lambda: (1, (2,)), [1, [2]]),
    "text": (lambda: "Käse 🧀", "Käse 🧀"),
    "empty text": (str, ""),
    "NUL": (lambda: "a\x00b", "a\x00b"),
    "lone surrogate": (lambda: {"\udc80": "\ud800"}, {"\udc80": "\ud800"}),
    "int": (lambda: -(2**70), -(2**70)),
    "int of 4,300 digits": (lambda: 10**4299, 10**4299),
    "zero": (int, 0),
    "float": (lambda: 0.1, 0.1),
    "smallest float": (lambda: 5e-324, 5e-324),
    "true": (lambda: True, True),
    "false": (lambda: False, False),
    "None inside": (lambda: [None], [None]),
    "datetime": (lambda: datetime(2026, 6, 14, 18, 0, 0, 123456, UTC), "2026-06-14T18:00:00.123456Z"),
    "date": (lambda: date(2026, 6, 14), "2026-06-14"),
    "time": (lambda: dt_time(18, 0, 0, 5), "18:00:00.000005"),
    "timedelta": (lambda: timedelta(days=1, seconds=2, microseconds=3), "P1DT00H00M02.000003S"),
    "Decimal": (lambda: Decimal("1.10"), "1.10"),
    "UUID": (lambda: UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "lazy text": (lambda: gettext_lazy("No"), "No"),
    "enum member": (lambda: [Colour.RED, StepState.PENDING], ["red", "pending"]),
    "dataclass": (lambda: Point(1, [Colour.RED]), {"x": 1, "y": ["red"]}),
    "model": (Model, {"at": "2026-06-14"}),
}


def _in_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


UNSTORABLE: dict[str, Callable[[], Any]] = {
    "file": lambda: Path(__file__).open(),  # noqa: SIM115 - the handle is what is returned
    "set": lambda: {1, 2},
    "bytes": lambda: b"\x00",
    "nan": lambda: [float("nan")],
    "infinity": lambda: {"a": float("-inf")},
    "object": object,
    "number as a key": lambda: {1: "one"},
    "too long": lambda: "x" * 1_000_001,
    "too deep": lambda: _nested(100_000),
    "itself": _in_itself,
}


@step
def fail(ctx: StepContext, message: str = "it failed") -> None:
    """Raise each time."""
    raise RuntimeError(message)


@step(backoff=0)
def fail_times(ctx: StepContext, times: int) -> str:
    """Raise for so many attempts, then complete."""
    if ctx.attempt <= times:
        msg = f"attempt {ctx.attempt}"
        raise RuntimeError(msg)
    return "done"


@step
def snooze(ctx: StepContext, seconds: float = 30) -> None:
    """Snooze each time."""
    raise Snooze(seconds)


@step
def snooze_once(ctx: StepContext, seconds: float = 30) -> str:
    """Snooze in the first execution, return in the second."""
    if executions_before(ctx) == 0:
        raise Snooze(seconds)
    return "awake"


@step
def snooze_times(ctx: StepContext, times: int) -> str:
    """Snooze for so many executions, then complete."""
    if executions_before(ctx) < times:
        return Snooze(0)  # type: ignore[return-value]
    return "awake"


@step
def snooze_for(ctx: StepContext, amount: float, unit: str = "seconds", way: str = "return") -> Any:
    """Snooze, by a number or a timedelta, returned or raised."""
    if executions_before(ctx):
        return "awake"
    directive = Snooze(timedelta(**{unit: amount}) if unit != "number" else amount)
    return _done(directive, way)


@step(backoff=0)
def fail_then_snooze(ctx: StepContext) -> str:
    """Fail, then snooze in the second attempt, then complete."""
    match executions_before(ctx):
        case 0:
            msg = "before the nap"
            raise RuntimeError(msg)
        case 1:
            raise Snooze(60)
    return "done"


@step
def discard(ctx: StepContext, reason: str = "no use", way: str = "raise") -> Any:
    """Give up at once."""
    return _done(Discard(reason), way)


@step
def cancel(ctx: StepContext, reason: str = "not wanted", way: str = "raise") -> Any:
    """Call itself off."""
    return _done(Cancel(reason), way)


@step
async def later(ctx: StepContext, value: Any = "async") -> Any:
    """An async body."""
    return value


@step
async def later_total(ctx: StepContext) -> int:
    """Add up the results, in a coroutine."""
    return sum(ctx.results.values())


@step
async def later_group(ctx: StepContext, name: str) -> int:
    """Write a row from a coroutine, and count what is there."""
    await Group.objects.acreate(name=name)
    return await Group.objects.filter(name=name).acount()


@step
async def later_way(ctx: StepContext, way: str) -> Any:
    """Steer from a coroutine."""
    match way:
        case "snooze" if executions_before_async(ctx) == 0:
            raise Snooze(30)
        case "discard":
            return Discard("no use")
        case "raise":
            msg = "from a coroutine"
            raise RuntimeError(msg)
    return "done"


@step
def leave(ctx: StepContext) -> None:
    """Ask the process to end."""
    raise SystemExit(3)


class WordlessError(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise LookupError


ODD: dict[str, BaseException | type[BaseException]] = {
    "StopIteration": StopIteration,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "ExceptionGroup": ExceptionGroup("many", [ValueError("a"), KeyError("b")]),
    "BaseException": BaseException("base"),
    "TimeoutError": TimeoutError("its own"),
    "MemoryError": MemoryError,
    "without words": WordlessError,
    "Discard": Discard,
}


@step
def raise_oddly(ctx: StepContext, kind: str) -> None:
    """Raise what bodies seldom raise."""
    if kind == "RecursionError":
        raise_oddly.function(ctx, kind)
    raise ODD[kind]


@step
async def raise_oddly_later(ctx: StepContext, kind: str) -> None:
    """The same in a coroutine."""
    raise_oddly.function(ctx, kind)


@step
def return_oddly(ctx: StepContext, kind: str) -> Any:
    """Return what bodies seldom return."""
    match kind:
        case "a class":
            return Snooze
        case "a generator":
            return (number for number in range(3))
    return later.function(ctx)


# Bodies that look at their context ---------------------------------------------------------------------------------


@step
def about(ctx: StepContext, word: str = "a") -> dict[str, Any]:
    """Return what the context says."""
    return {
        "workflow_id": str(ctx.workflow_id),
        "workflow_name": ctx.workflow_name,
        "step_name": ctx.step_name,
        "attempt": ctx.attempt,
        "max_attempts": ctx.max_attempts,
        "args": ctx.args,
        "model": ctx.model,
        "is_cancelled": ctx.is_cancelled,
    }


@step
def own_result(ctx: StepContext) -> Any:
    """Read the own result, before there is one."""
    return ctx.own_result


@step
def lookups(ctx: StepContext) -> dict[str, Any]:
    """Ask for results in every way there is."""
    asked: dict[str, Any] = {"keys": list(ctx.results), "length": len(ctx.results)}
    for name in ("one", "none", "other", "nowhere"):
        try:
            ctx.results[name]
        except LookupError as exc:
            asked[name] = [type(exc).__name__, str(exc)]
        asked[f"{name} by get"] = ctx.results.get(name, "default")
        asked[f"{name} in"] = name in ctx.results
    return asked


@step
def report(ctx: StepContext, upto: int = 2) -> None:
    """Tell how far it is."""
    for current in range(upto + 1):
        ctx.progress(current, upto, f"{current} of {upto}")


@step
def report_as(ctx: StepContext, given: list[Any]) -> None:
    """Tell how far it is, as told."""
    ctx.progress(*given)


@step
def report_and_look(ctx: StepContext) -> Any:
    """Tell how far it is three times, and return what is in the row in between."""
    ctx.progress(1, 4, "first")
    seen = _of(ctx).get().progress
    ctx.progress(2, 4, "second")
    ctx.progress(3, 4, "third")
    return seen


@step
async def later_curious(ctx: StepContext) -> dict[str, Any]:
    """Report, ask and read, in a coroutine."""
    ctx.progress(1, 2)
    seen: dict[str, Any] = dict(ctx.results)
    seen["is_cancelled"] = ctx.is_cancelled
    try:
        seen["own"] = ctx.own_result
    except LookupError as exc:
        seen["own"] = type(exc).__name__
    return seen


@step(backoff=0)
def report_and_fail(ctx: StepContext) -> None:
    """Tell how far it is, and fail."""
    ctx.progress(1, 3)
    ctx.progress(2, 3, "nearly")
    msg = "not quite"
    raise RuntimeError(msg)


@step(backoff=0)
def count_attempts(ctx: StepContext, until: int) -> int:
    """Fail for so many attempts, then count the executions that the row shows."""
    if ctx.attempt < until:
        raise ValueError
    return len(_of(ctx).get().attempts)


@step
def log(ctx: StepContext) -> None:
    """Write one record."""
    ctx.logger.warning("something to say")


# Bodies that write to their log --------------------------------------------------------------------------------------


@step
def log_lines(ctx: StepContext, count: int, text: str = "line") -> None:
    """Write so many lines."""
    for number in range(1, count + 1):
        ctx.logger.info("%s %s", text, number)


@step
def log_at(ctx: StepContext, levels: list[str]) -> None:
    """Write a line of each level."""
    for level in levels:
        getattr(ctx.logger, level)("by %s", level)


@step
def log_text(ctx: StepContext, text: str) -> None:
    """Write what it is given."""
    ctx.logger.info(text)


LOGGED: dict[str, Callable[[StepContext], Any]] = {
    "two arguments": lambda ctx: ctx.logger.info("%s of %d", "one", 2),
    "a dict of arguments": lambda ctx: ctx.logger.info("%(current)s of %(total)s", {"current": 1, "total": 2}),
    "no text": lambda ctx: ctx.logger.info(["a", 1]),
    "a level of its own": lambda ctx: ctx.logger.log(25, "between"),
    "arguments that do not fit": lambda ctx: ctx.logger.info("%d", "two"),
    "an argument without words": lambda ctx: ctx.logger.info("%s", WordlessError()),
    "a message without words": lambda ctx: ctx.logger.info(WordlessError()),
    "NUL and half a pair": lambda ctx: ctx.logger.info("a\x00b\ud800c"),
    "more to tell": lambda ctx: ctx.logger.info("paid", extra={"order": 7}),
    "an adapter around it": lambda ctx: logging.LoggerAdapter(ctx.logger, {}).info("from within"),
    "only where it is enabled": lambda ctx: ctx.logger.info(
        "enabled for %s", [level for level in (logging.DEBUG, logging.INFO) if ctx.logger.isEnabledFor(level)]
    ),
    "no error at hand": lambda ctx: ctx.logger.error("nothing raised", exc_info=True),  # noqa: LOG014 - it may happen
}


@step
def log_oddly(ctx: StepContext, kind: str) -> None:
    """Write a line in a way that logging allows."""
    LOGGED[kind](ctx)


@step(max_attempts=1)
def log_error(ctx: StepContext, way: str) -> None:
    """Write a line with a traceback."""
    try:
        msg = "no such page"
        raise LookupError(msg)
    except LookupError as exc:
        match way:
            case "exception":
                ctx.logger.exception("It went wrong.")
            case "exc_info":
                ctx.logger.warning("It went wrong.", exc_info=True)
            case "the error":
                ctx.logger.warning("It went wrong.", exc_info=exc)


@step(backoff=0)
def log_each_time(ctx: StepContext) -> str:
    """Write a line in each of three executions: one that fails, one that snoozes, one that returns."""
    execution = executions_before(ctx) + 1
    ctx.logger.info("execution %s", execution)
    match execution:
        case 1:
            msg = "the first"
            raise RuntimeError(msg)
        case 2:
            raise Snooze(0)
    return "done"


@step(backoff=0)
def log_many_each_time(ctx: StepContext, count: int) -> None:
    """Write so many lines in each of two attempts."""
    log_lines.function(ctx, count, f"attempt {ctx.attempt}, line")
    if ctx.attempt == 1:
        raise RuntimeError


@step
async def log_async(ctx: StepContext) -> None:
    """Write lines from a coroutine, from its tasks and from a thread."""
    ctx.logger.info("begins")

    async def task(number: int) -> None:
        ctx.logger.info("task %s", number)

    await asyncio.gather(task(1), task(2))
    await asyncio.to_thread(ctx.logger.info, "thread")
    ctx.logger.info("ends")


@step
def log_from_threads(ctx: StepContext, threads: int, lines: int) -> None:
    """Write lines from many threads at once."""

    def write(thread: int) -> None:
        for number in range(lines):
            ctx.logger.info("%s %s", thread, number)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(threads)))


@step(atomic=True, backoff=0, max_attempts=2, timeout=10)
def log_in_transaction(ctx: StepContext, name: str, then: str = "return") -> Any:
    """Write a row and a line, and go on as told."""
    ctx.logger.info("attempt %s", ctx.attempt)
    return write_group.function(ctx, f"{name} {ctx.attempt}", then)


@step(timeout=0.5, max_attempts=1)
def log_and_hang(ctx: StepContext) -> None:
    """Write lines until the time is up."""
    ctx.logger.info("begins")
    while True:
        ctx.logger.info("more")


@step(backoff=0)
def log_and_outlive_lease(ctx: StepContext) -> str:
    """Write a line, lose the first attempt, and write another when the second has come to its end."""
    from baton.engine.runner import answer_bell

    ctx.logger.info("attempt %s begins", ctx.attempt)
    if outlive_lease.function(ctx) == "of the first attempt":
        _of(ctx).filter(due_at__isnull=False).update(due_at=timezone.now() - timedelta(seconds=1))
        answer_bell(_of(ctx).get().queue)
        ctx.logger.info("attempt %s ends", ctx.attempt)
        return "of the first attempt"
    return "of the second attempt"


@step
def log_and_cancel_own_run(ctx: StepContext) -> None:
    """Write a line before and after the run is cancelled."""
    ctx.logger.info("before")
    WorkflowRun.objects.get(pk=ctx.workflow_id).cancel("by a body")
    ctx.logger.info("after")


@step
def log_and_delete_own_run(ctx: StepContext) -> None:
    """Write a line, and delete the run."""
    ctx.logger.info("never seen")
    WorkflowRun.objects.get(pk=ctx.workflow_id).delete()


@step
def log_and_wait_for_file(ctx: StepContext, folder: str) -> None:
    """Write a line, and another once a file is there."""
    ctx.logger.info("begins")
    wait_until((Path(folder) / "go").exists, what="go")
    ctx.logger.info("ends")


@step(backoff=0)
def log_and_die(ctx: StepContext, folder: str) -> None:
    """Write a line, and another, unheard of, when the worker is killed in the first attempt."""
    ctx.logger.info("attempt %s", ctx.attempt)
    if ctx.attempt == 1:
        wait_until(lambda: _of(ctx).get().logs, what="a heartbeat")
        ctx.logger.info("never written")
        die.function(ctx, folder)


@step(timeout=10)
def log_in_hook(ctx: StepContext) -> None:
    """Has a hook that writes a line."""


@log_in_hook.on_dependency_discarded
def log_fall(ctx: StepContext, reason: str) -> None:
    """Write why."""
    ctx.logger.warning("heard: %s", reason)


def _mark() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 'body mark'")


@step
def mark(ctx: StepContext, value: Any = None) -> Any:
    """Leave a mark among the statements."""
    _mark()
    return value


@step
def mark_total(ctx: StepContext) -> int:
    """Leave a mark among the statements, and add up the results."""
    _mark()
    return sum(ctx.results.values())


@step
def mark_and_snooze(ctx: StepContext) -> None:
    """Leave a mark among the statements, and snooze."""
    _mark()
    raise Snooze(30)


@step
def read_often(ctx: StepContext) -> int:
    """Read each result ten times."""
    return sum(ctx.results[name] for _ in range(10) for name in ctx.results)


# Bodies that remember that they ran, for tests in one process -------------------------------------------------------

_ran: list[tuple[UUID, str]] = []
_heard: dict[UUID, list[tuple[str, str, str]]] = defaultdict(list)


@step
def ran(ctx: StepContext, value: Any = None) -> Any:
    """Remember that it ran."""
    _ran.append((ctx.workflow_id, ctx.step_name))
    return value


@step
def ran_and_failed(ctx: StepContext) -> None:
    """Remember that it ran, and fail."""
    _ran.append((ctx.workflow_id, ctx.step_name))
    msg = "it failed"
    raise RuntimeError(msg)


def bodies_of(run: WorkflowRun) -> list[str]:
    """The steps of a run whose bodies ran in this process, in order."""
    return [name for run_id, name in _ran if run_id == run.pk]


def bodies_of_all(*runs: WorkflowRun) -> list[str]:
    """The steps of several runs whose bodies ran in this process, in order."""
    return [name for run_id, name in _ran if run_id in {run.pk for run in runs}]


@step
def hooked(ctx: StepContext, word: str = "a") -> str:
    """Has a hook for either state."""
    return word


@hooked.on_dependency_cancelled
def hear_of_cancel(ctx: StepContext, reason: str) -> None:
    """Remember the call."""
    _heard[ctx.workflow_id].append((ctx.step_name, "cancelled", reason))


@hooked.on_dependency_discarded
def hear_of_discard(ctx: StepContext, reason: str) -> None:
    """Remember the call."""
    _heard[ctx.workflow_id].append((ctx.step_name, "discarded", reason))


@step
def badly_hooked(ctx: StepContext) -> None:
    """Has a hook that raises."""


@badly_hooked.on_dependency_discarded
def raise_in_hook(ctx: StepContext, reason: str) -> None:
    """Remember the call, and fail."""
    _heard[ctx.workflow_id].append((ctx.step_name, "discarded", reason))
    msg = "the hook failed"
    raise RuntimeError(msg)


@step
def hooked_later(ctx: StepContext) -> None:
    """Has a hook that is a coroutine."""


@hooked_later.on_dependency_discarded
async def hear_later(ctx: StepContext, reason: str) -> None:
    """Remember the call."""
    _heard[ctx.workflow_id].append((ctx.step_name, "discarded", reason))


@step(timeout=0.5)
def slowly_hooked(ctx: StepContext) -> None:
    """Has a hook that never ends by itself."""


@slowly_hooked.on_dependency_discarded
def hang_in_hook(ctx: StepContext, reason: str) -> None:
    """Remember the call, and hang."""
    _heard[ctx.workflow_id].append((ctx.step_name, "discarded", reason))
    time.sleep(60)


@step
def curious(ctx: StepContext) -> None:
    """Has a hook that looks at its context."""


@curious.on_dependency_discarded
def look_around(ctx: StepContext, reason: str) -> None:
    """Remember what the context says."""
    _heard[ctx.workflow_id].append((ctx.step_name, ctx.workflow_name, json.dumps(dict(ctx.results))))


def hooks_of(run: WorkflowRun) -> list[tuple[str, str, str]]:
    """The hooks called for a run in this process: the step, the state, the reason."""
    return _heard[run.pk]


def forget_hooks_of(run: WorkflowRun) -> None:
    """Forget the calls of a run's hooks."""
    del _heard[run.pk]


# Bodies that lose what they hold -----------------------------------------------------------------------------------


@step
def outlive_lease(ctx: StepContext) -> str:
    """Lose the first attempt to the sweep while it runs, and return a result all the same."""
    from baton.sweep import sweep

    if ctx.attempt == 1:
        _of(ctx).update(lease_until=timezone.now() - timedelta(seconds=1))
        sweep()
        return "of the first attempt"
    return "of the second attempt"


@step
def cancel_own_run(ctx: StepContext) -> dict[str, Any]:
    """Cancel the run this body belongs to, and see what it is told."""
    before = ctx.is_cancelled
    WorkflowRun.objects.get(pk=ctx.workflow_id).cancel("by a body")
    time.sleep(0.11)
    told = ctx.is_cancelled
    _ran.append((ctx.workflow_id, f"before {before}, after {told}"))
    return {"dropped": True}


@step
def outlive_lease_and_fail(ctx: StepContext) -> str:
    """Lose the first attempt to the sweep while it runs, and give up all the same."""
    if outlive_lease(ctx) == "of the first attempt":
        raise Discard("too late")
    return "of the second attempt"


@step
def insert_urgent(ctx: StepContext, name: str) -> None:
    """Insert another workflow, more urgent than this one."""
    from baton import Workflow

    Workflow(name).add("urgent 1", ran, priority=-1).add("urgent 2", ran, priority=-1).insert()


@step
def ring_count(ctx: StepContext) -> int:
    """Count the bells that wait."""
    from baton import q2

    return q2.waiting_bells("default")


@step(timeout=0.1, max_attempts=1)
def hang(ctx: StepContext, way: str = "sleep") -> str:
    """Take longer than it may."""
    try:
        time.sleep(30)
    except Exception:  # noqa: BLE001 - as an SDK does
        return "swallowed"
    return "slept"


@step(timeout=0.1, max_attempts=1)
def hang_and_return(ctx: StepContext) -> str:
    """Take longer than it may, and catch whatever it is told."""
    try:
        time.sleep(30)
    except BaseException:  # noqa: BLE001 - as nobody should
        return "swallowed"
    return "slept"


@step(timeout=0.1, max_attempts=1)
async def hang_async(ctx: StepContext) -> None:
    """Take longer than it may, in a coroutine."""
    await asyncio.sleep(30)


@step(timeout=1, max_attempts=2, backoff=0, retry_on=StepTimeoutError)
def hang_at_first(ctx: StepContext) -> str:
    """Take longer than it may in the first attempt."""
    if ctx.attempt == 1:
        time.sleep(30)
    return "done"


# Bodies inside the transaction that settles them -------------------------------------------------------------------


@step(atomic=True, backoff=0, timeout=10)
def write_group(ctx: StepContext, name: str, then: str = "return") -> Any:
    """Write a row, and go on as told."""
    Group.objects.create(name=name)
    match then:
        case "raise":
            msg = "after the write"
            raise RuntimeError(msg)
        case "set":
            return {1}
        case "discard":
            raise Discard("no use")
        case "report":
            ctx.progress(1, 2, "half")
        case "hang":
            time.sleep(30)
    return Group.objects.filter(name=name).count()


@step(atomic=True, max_attempts=1, timeout=10)
def break_transaction(ctx: StepContext, name: str) -> str:
    """Let the database refuse a statement, and look away."""
    from django.db import IntegrityError

    Group.objects.create(name=name)
    try:
        Group.objects.create(name=name)
    except IntegrityError:
        return "looked away"
    return "never"


@step
def write_group_and_fail(ctx: StepContext, name: str) -> None:
    """Write a row, and fail."""
    Group.objects.create(name=name)
    msg = "after the write"
    raise RuntimeError(msg)


@step
def break_query(ctx: StepContext) -> None:
    """Let the database refuse a statement."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT no_such_column FROM baton_workflownode")


@step
def leave_transaction_open(ctx: StepContext) -> str:
    """Begin a transaction by hand and never end it."""
    connection.set_autocommit(False)
    Group.objects.create(name="left open")
    return "left"


@step
def close_connection(ctx: StepContext) -> None:
    """Close the database connection."""
    connection.close()


# Bodies of real workers ----------------------------------------------------------------------------------------------


@step
def trace(ctx: StepContext, folder: str, seconds: float = 0.0) -> str:
    """Leave a trace of the body's begin and end."""
    _leave(ctx, folder, "begins")
    time.sleep(seconds)
    _leave(ctx, folder, "ends")
    return ctx.step_name


@step
async def trace_async(ctx: StepContext, folder: str) -> str:
    """The same in a coroutine."""
    _leave(ctx, folder, "begins")
    return ctx.step_name


@step
def meet(ctx: StepContext, folder: str, other: str) -> str:
    """Wait until the other body is running too."""
    (Path(folder) / ctx.step_name).touch()
    wait_until((Path(folder) / other).exists, what=f"the body of {other}")
    return "met"


@step
def wait_for_file(ctx: StepContext, folder: str, name: str = "go") -> str:
    """Wait until a file is there."""
    _leave(ctx, folder, "begins")
    wait_until((Path(folder) / name).exists, what=name)
    return ctx.step_name


@step(backoff=0)
def die(ctx: StepContext, folder: str) -> str:
    """Kill the worker in the first attempt."""
    _leave(ctx, folder, "begins")
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@step
def die_once_settled(ctx: StepContext, folder: str) -> str:
    """Kill the worker when this step is settled, before its bell is acknowledged."""
    _leave(ctx, folder, "begins")

    def kill(*, node_id: int, state: str, step_name: str, **_: Any) -> None:
        if state == "completed" and step_name == ctx.step_name:
            os.kill(os.getpid(), signal.SIGKILL)

    step_transitioned.connect(kill, weak=False)
    return "stored"


@step(max_attempts=2, backoff=0)
def hang_for_seconds(ctx: StepContext, folder: str, seconds: float) -> str:
    """Take its time."""
    _leave(ctx, folder, "begins")
    time.sleep(seconds)
    return "never told to stop"


@step
def watch_for_cancel(ctx: StepContext, folder: str) -> str:
    """Run until it is told that the run was cancelled."""
    _leave(ctx, folder, "begins")
    wait_until(lambda: ctx.is_cancelled, what="the cancel")
    _leave(ctx, folder, "told")
    return "dropped"


def traces(folder: Path, name: str | None = None) -> list[dict[str, Any]]:
    """What the bodies left in a folder, of one step or of all, in the order of time."""
    path = folder / "traces"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return sorted((line for line in lines if name in (None, line["step"])), key=lambda line: int(line["at"]))


# Plain tasks of django-q2, no steps ----------------------------------------------------------------------------------


def plain_task() -> str:
    """Do nothing, and leave a row of django-q2's behind."""
    return "done"


# Given where steps are added -----------------------------------------------------------------------------------------


def seven_seconds(attempt: int, error: BaseException) -> float:
    """A backoff that knows the attempt and the error."""
    return 7.0 * attempt + len(str(error))


def no_backoff(attempt: int, error: BaseException) -> float:
    """A backoff that fails itself."""
    raise LookupError


def negative_backoff(attempt: int, error: BaseException) -> float:
    """A backoff that gives no time ahead."""
    return -1


def endless_backoff(attempt: int, error: BaseException) -> float:
    """A backoff that gives no time at all."""
    return float("inf")


class RefusedError(Exception):
    """An error of these tests' own."""


@step(max_attempts=3, backoff=0)
def refuse(ctx: StepContext) -> None:
    """Raise the tests' own error."""
    raise RefusedError("refused")


def executions_before(ctx: StepContext) -> int:
    """How many executions of the step have ended."""
    return sum(entry["count"] for entry in _of(ctx).get().attempt_log)


def executions_before_async(ctx: StepContext) -> int:
    """The same, asked inside an event loop."""
    from baton.results import outside_event_loop

    return outside_event_loop(lambda: executions_before(ctx))


def _of(ctx: StepContext) -> Any:
    return WorkflowNode.objects.filter(run_id=ctx.workflow_id, name=ctx.step_name)


def _done(directive: Exception, way: str) -> Any:
    if way == "raise":
        raise directive
    return directive


def _leave(ctx: StepContext, folder: str, what: str) -> None:
    line = {"step": ctx.step_name, "run": str(ctx.workflow_id), "what": what, "at": time.monotonic_ns()}
    line |= {"attempt": ctx.attempt, "pid": os.getpid()}
    # One write of a few bytes to a file opened for appending: whole, or after a kill not there at all.
    with (Path(folder) / "traces").open("ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value
