"""Hooks of steps that a failed dependency cancelled: taken by a conditional UPDATE, so that each is called once."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Iterable
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from baton import tracing
from baton.context import StepContext
from baton.engine import statements as sql
from baton.engine.cascade import Fall
from baton.engine.event_loop import run_async
from baton.engine.holds import write_besides
from baton.engine.ledger import Ledger
from baton.engine.step_log import LineBuffer
from baton.engine.timer import TimeIsUp, Timer
from baton.engine.transactions import mend_connections, open_transactions
from baton.exceptions import UnknownStepError
from baton.models import WorkflowNode
from baton.registry import find_step
from baton.results import DependencyResults
from baton.states import StepState
from baton.telemetry import about_step

logger = logging.getLogger("baton.engine")


def call_hooks(connection: BaseDatabaseWrapper, falls: Iterable[Fall]) -> None:
    """Call the hooks that are due; an error in one is logged and changes nothing."""
    for fall in falls:
        if fall.hook and sql.execute(connection, sql.TAKE_HOOK, [fall.node_id, fall.hook]):
            _call(connection, fall)


def _call(connection: BaseDatabaseWrapper, fall: Fall) -> None:
    node = WorkflowNode.objects.using(connection.alias).select_related("run").filter(pk=fall.node_id).first()
    if node is None:
        return
    about = about_step(
        workflow_id=node.run_id,
        workflow_name=node.run.name,
        step_name=node.name,
        attempt=node.attempt,
        node_id=node.pk,
    )
    try:
        step = find_step(node.step, module=node.options.get("module", ""))
        hook = step.hooks[fall.hook]
    except (KeyError, UnknownStepError) as exc:
        logger.error(  # noqa: TRY400 - the sentence says it
            "The hook of step %r for a %s dependency is gone: %s", node.name, fall.hook, exc, extra=about
        )
        return
    lines = LineBuffer(about, fence=node.fence)
    ledger = Ledger(
        alias=connection.alias,
        run_id=node.run_id,
        node_id=node.pk,
        workflow_name=node.run.name,
        step_name=node.name,
        step=node.step,
        fence=node.fence,
        attempt=node.attempt,
        state=StepState(node.state),
        own=connection,
        depth=len(connection.atomic_blocks),
    )
    timer, around, was_torn = Timer(node.timeout), open_transactions(), False
    try:
        with tracing.calling_hook(node, fall.hook), timer:
            model = node.options.get("model", step.options.model)
            returned = hook(_context(node, lines, ledger, model=model), fall.reason)
            if inspect.isawaitable(returned):
                run_async(connection, lambda: _awaited(returned, ledger), seconds=node.timeout)
    except TimeIsUp:
        was_torn = True
        logger.error(  # noqa: TRY400 - where it was torn is no help
            "The hook of step %r for a %s dependency took longer than %s s.",
            node.name,
            fall.hook,
            node.timeout,
            extra=about,
        )
    except (Exception, SystemExit):
        logger.exception("The hook of step %r for a %s dependency raised.", node.name, fall.hook, extra=about)
    finally:
        timer.disarm()
        ledger.leave(is_torn=was_torn)
        mend_connections(around, was_torn=was_torn)
        write_besides(connection, ledger.besides, about=about)
        lines.write(connection)


async def _awaited(returned: Any, ledger: Ledger) -> None:
    try:
        await returned
    finally:
        await ledger.aleave(is_torn=isinstance(sys.exception(), asyncio.CancelledError))


def _context(node: WorkflowNode, lines: LineBuffer, ledger: Ledger, *, model: str | None) -> StepContext:
    return StepContext(
        workflow_id=node.run_id,
        workflow_name=node.run.name,
        step_name=node.name,
        attempt=node.attempt,
        max_attempts=node.max_attempts,
        args=node.args,
        results=DependencyResults.of(node),
        model=model,
        _keep_line=lines.add,
        _node_id=node.pk,
        ledger=ledger,
    )
