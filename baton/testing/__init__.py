"""For tests of projects that use Baton: run a workflow to its end in this process, or one body alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from baton.context import StepContext
from baton.engine import statements as sql
from baton.engine.finish import finish
from baton.engine.gate import claim, worker_name
from baton.engine.runner import Held, database, execute
from baton.engine.transitions import Transition, announce
from baton.exceptions import BatonError
from baton.models import WorkflowRun
from baton.results import DependencyResults, Row
from baton.returns import Directive
from baton.steps import BoundStep, Step
from baton.values import decode, encode

__all__ = ["DrainLimitError", "drain", "perform"]

_BATCH = 100
_POLL_SECONDS = 0.02

_READY_OF_RUN = sql.Statement("""
    SELECT id FROM baton_workflownode WHERE run_id = %s AND settled_at IS NULL AND state = 'available'
    ORDER BY priority, id LIMIT %s
""")
_ELAPSE = sql.Statement("""
    UPDATE baton_workflownode
    SET state = 'available', due_at = NULL, queued_at = <now>, changed_at = <now>, version = version + 1
    WHERE id <in>
        SELECT id FROM baton_workflownode WHERE run_id = %s AND settled_at IS NULL AND due_at IS NOT NULL
        ORDER BY id <skip locked></in>
""")
_IS_MOVING = sql.Statement("""
    SELECT 1 FROM baton_workflownode
    WHERE run_id = %s AND settled_at IS NULL AND (state IN ('available', 'executing') OR due_at IS NOT NULL) LIMIT 1
""")
"""Whether anything of a run may still go on by itself; what is held waits for money or a person."""


class DrainLimitError(BatonError):
    """Raised when a run does not end within the number of executions allowed to it."""

    def __init__(self, run: object, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"{run} did not end within {limit} executions: does a step snooze for ever? Give a higher limit=."
        )


def drain(run: WorkflowRun, *, limit: int = 100_000) -> WorkflowRun:
    """Run a workflow to its end in this process, with snoozes, backoffs and ``not_before`` taken as elapsed.

    It also ends where all that is left is held: steps for which there is no money, or that wait for a person's word.
    Only steps of this run are taken. Where another worker holds one, it is waited for. Works inside a ``TestCase``,
    where nothing commits. Timeouts are enforced in the main thread only.

    Args:
        run: The run, refreshed before it is returned.
        limit: How many executions it may take at most.

    Returns:
        The run.

    Raises:
        DrainLimitError: It took more executions than that.
    """
    connection = database()
    key = sql.uuid_param(connection, run.pk)
    executions = 0
    while True:
        sql.execute(connection, _ELAPSE, [key])
        ready = sql.fetch(connection, _READY_OF_RUN, [key, _BATCH])
        for (node_id,) in ready:
            if executions >= limit:
                raise DrainLimitError(run, limit)
            claimed = claim(connection, node_id, worker=worker_name())
            if claimed is None:
                continue
            executions += 1
            announce([Transition.executing(claimed)])
            execute(connection, Held(claim=claimed), until=None)
        if ready:
            continue
        if not sql.fetch(connection, _IS_MOVING, [key]):
            break
        time.sleep(_POLL_SECONDS)
    finish(connection, run.pk)
    run.refresh_from_db()
    return run


def perform(
    step: Step | BoundStep,
    *,
    results: Mapping[Any, Any] | None = None,
    attempt: int = 1,
    max_attempts: int | None = None,
    step_name: str = "step",
    model: str | None = None,
    **args: Any,
) -> Any:
    """Run one body, without a database, and return its value as a dependent would read it.

    Args:
        step: The step, with or without bound arguments.
        results: What its dependencies returned, by step name.
        attempt: Which execution it is told it is.
        max_attempts: How many it is told there are, by default what the step says.
        step_name: The name it is told it has in the workflow.
        model: The language model it is told to use.
        args: Its arguments; one that is called like an option of this function is given by ``step.bind()``.

    Returns:
        The value, or the directive that the body returned; whatever it raises is raised.

    Raises:
        TypeError: The arguments do not fit, or the value cannot be stored.
    """
    bound = step.step.bind(**{**step.args, **args}) if isinstance(step, BoundStep) else step.bind(**args)
    bound.step.check_complete(bound.args)
    context = StepContext(
        workflow_id=uuid4(),
        workflow_name="perform",
        step_name=step_name,
        attempt=attempt,
        max_attempts=max_attempts or bound.step.options.max_attempts,
        args=bound.args,
        results=_given(step_name, results or {}),
        model=model,
    )
    returned = bound.step.function(context, **bound.args)
    if bound.step.is_async:
        returned = asyncio.run(returned)
    if isinstance(returned, Directive):
        return returned
    result, _usage = bound.step.take_out(returned)
    return decode(encode(result, what="result"))


def _given(step_name: str, results: Mapping[Any, Any]) -> DependencyResults:
    """Results given to a body by its test, read as a worker's are."""
    rows: dict[str, Row] = {
        str(getattr(name, "value", name)): ("completed", value is not None, encode(value))
        for name, value in results.items()
    }
    return DependencyResults(step_name, None, lambda: rows)
