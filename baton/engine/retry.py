"""Retry: a settled run begins another round with its failed part, or with a step, and with all that hangs on it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from django.db import IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F
from django.utils import timezone

from baton import q2
from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.cascade import Fall
from baton.engine.finish import announce_noted, finish, finish_within, is_announcing
from baton.engine.hooks import call_hooks
from baton.exceptions import KeyInUseError, NothingToRetryError, RunNotSettledError, StepNotFoundError
from baton.graph import topological_order
from baton.models import Completion, WorkflowEdge, WorkflowNode, WorkflowRun
from baton.states import FAILED, RunState, StepState
from baton.telemetry import is_heard, workflow_failed, workflow_finished

_PATIENCE_SECONDS = 2.0
"""How long whoever has noted the ending is given to announce it."""
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class RetryPlan:
    """What a retry runs again, and what it leaves as it is."""

    reruns: list[str]
    """The names of the steps that run again, in topological order."""
    keeps: list[str]
    """The names of all others, in topological order."""
    new_answers: bool = field(default=False, repr=False)
    """Whether language models are asked anew, and the answers that are stored are not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A step as the plan looks at it."""

    id: int
    name: str
    state: str
    is_settled: bool
    ignores: frozenset[str]
    dependencies: list[str]
    """Names of those whose rows are there."""
    is_whole: bool
    """Whether the rows of all dependencies are there."""


def retry_run(
    run_id: UUID, *, from_step: str | None = None, dry_run: bool = False, new_answers: bool = False
) -> RetryPlan:
    """Begin another round of a settled run, in one transaction that rings for what is ready.

    Args:
        run_id: The run.
        from_step: The step to begin from; None for all that failed.
        dry_run: Change nothing.
        new_answers: Ask language models anew instead of taking the answers that are stored.

    Returns:
        What runs again and what does not.

    Raises:
        RunNotSettledError: The run has not ended.
        StepNotFoundError: It has no step of that name.
        NothingToRetryError: Nothing failed and no step is named, or nothing of it could run.
        KeyInUseError: Another unsettled run of that name has its key.
    """
    connection = connections[get_settings().database]
    if not dry_run:
        _end_round(connection, run_id)
    with nullcontext() if dry_run else transaction.atomic(using=connection.alias):
        runs = WorkflowRun.objects.using(connection.alias)
        # Whoever retries holds the run; of a settled run nobody else writes anything.
        run = (runs if dry_run else runs.select_for_update()).get(pk=run_id)
        nodes = _read(connection, run)
        # Where nothing is unsettled, only a dry run finds that the ending is not noted yet.
        if not run.is_settled and not (dry_run and all(node.is_settled for node in nodes)):
            raise RunNotSettledError(run.pk, run.name)
        reruns = _choose(run, nodes, from_step)
        _refuse_used_key(connection, run)
        if not dry_run:
            _begin_round(connection, run, sorted(node.id for node in reruns.values()), new_answers=new_answers)
    keeps = [node.name for node in nodes if node.name not in reruns]
    return RetryPlan(reruns=list(reruns), keeps=keeps, new_answers=new_answers)


# What the round before has left ---------------------------------------------------------------------------------------


def _end_round(connection: BaseDatabaseWrapper, run_id: UUID) -> None:
    """Do what a worker that died has left undone of a run at its end: hooks, the ending, the announcement of it."""
    nodes = WorkflowNode.objects.using(connection.alias).filter(run_id=run_id)
    if nodes.unsettled().exists():
        return
    left = nodes.filter(hook_due__gt="").order_by("id").values_list("id", "error", "hook_due")
    call_hooks(connection, [Fall(node_id=node_id, reason=error or "", hook=hook) for node_id, error, hook in left])
    if connection.in_atomic_block:
        # What this transaction notes may be rolled back, so nothing is announced before it commits.
        finish_within(connection, run_id)
        transaction.on_commit(lambda: _announce_left_over(connection, run_id), using=connection.alias, robust=True)
    else:
        finish(connection, run_id)
        _announce_left_over(connection, run_id)


def _announce_left_over(connection: BaseDatabaseWrapper, run_id: UUID) -> None:
    if not is_heard(workflow_finished, workflow_failed):
        return
    noted = Completion.objects.using(connection.alias).order_by("round")
    patient_until = time.monotonic() + _PATIENCE_SECONDS
    while (ending := noted.filter(run=run_id, announced_at__isnull=True).first()) is not None:
        if is_announcing(ending.pk):
            # A receiver of that very announcement may be who retries.
            return
        is_old = ending.finished_at < timezone.now() - timedelta(seconds=get_settings().lease_seconds)
        if not is_old and time.monotonic() < patient_until:
            # Whoever noted it is most likely alive, and about to.
            time.sleep(_POLL_SECONDS)
            continue
        announce_noted(connection, ending.pk)


# The plan -------------------------------------------------------------------------------------------------------------


def _read(connection: BaseDatabaseWrapper, run: WorkflowRun) -> list[_Node]:
    """The steps of a run in topological order."""
    edges = WorkflowEdge.objects.using(connection.alias).filter(node__run=run.pk)
    needs: defaultdict[int, list[int]] = defaultdict(list)
    for node_id, dependency_id in edges.values_list("node_id", "dependency_id"):
        needs[node_id].append(dependency_id)
    rows = WorkflowNode.objects.using(connection.alias).of_workflow(run.pk).order_by("id")
    found = list(rows.values_list("id", "name", "state", "settled_at", "ignore_cancelled", "ignore_discarded"))
    names = {id_: name for id_, name, *_ in found}
    nodes = {}
    for id_, name, state, settled_at, cancelled, discarded in found:
        ignores = {flag for flag, is_set in (("cancelled", cancelled), ("discarded", discarded)) if is_set}
        nodes[name] = _Node(
            id=id_,
            name=name,
            state=state,
            is_settled=settled_at is not None,
            ignores=frozenset(ignores),
            dependencies=[names[each] for each in needs[id_] if each in names],
            is_whole=all(each in names for each in needs[id_]),
        )
    return [nodes[name] for name in topological_order({node.name: node.dependencies for node in nodes.values()})]


def _choose(run: WorkflowRun, nodes: list[_Node], from_step: str | None) -> dict[str, _Node]:
    """What runs again: where to begin and what hangs on it, as far as it can run."""
    if from_step is not None and from_step not in {node.name for node in nodes}:
        raise StepNotFoundError(from_step, run=run.pk)
    by_name = {node.name: node for node in nodes}
    reruns: dict[str, _Node] = {}
    blocked = ""
    for node in nodes:
        is_asked_for = node.state in FAILED if from_step is None else node.name == from_step
        if not is_asked_for and not any(name in reruns for name in node.dependencies):
            continue
        kept = [by_name[name] for name in node.dependencies if name not in reruns]
        if why := _why_blocked(node, kept):
            # It stays as it is, and what only it leads to stays with it.
            blocked = blocked or why
            continue
        reruns[node.name] = node
    if not reruns:
        raise NothingToRetryError(run.pk, run.name, why=blocked)
    return reruns


def _why_blocked(node: _Node, kept: list[_Node]) -> str:
    """Why a step could not run, given its dependencies that do not run again."""
    if not node.is_whole and node.state in FAILED:
        return f"step {node.name!r} cannot run again, for the row of a dependency is gone. Insert the workflow anew"
    for each in kept:
        if each.state in FAILED and each.state not in node.ignores:
            return (
                f"step {node.name!r} cannot run again, for its dependency {each.name!r} was {each.state} and would "
                f"not run again with it. Retry from {each.name!r}, or all that failed"
            )
    return ""


def _refuse_used_key(connection: BaseDatabaseWrapper, run: WorkflowRun) -> None:
    if run.key is None:
        return
    others = WorkflowRun.objects.using(connection.alias).running().exclude(pk=run.pk)
    if others.filter(name=run.name, key=run.key).exists():
        raise KeyInUseError(run.name, run.key)


# The next round -------------------------------------------------------------------------------------------------------


def _begin_round(connection: BaseDatabaseWrapper, run: WorkflowRun, node_ids: list[int], *, new_answers: bool) -> None:
    _reopen(connection, run)
    ids = sql.ids_param(connection, node_ids)
    sql.fetch(connection, sql.LOCK_NODES, [ids])
    if new_answers:
        sql.execute(connection, sql.RETIRE_ANSWERS, [ids])
        sql.execute(connection, sql.COUNT_USAGES_ANEW, [ids])
    sql.execute(connection, sql.RESET_NODES, [ids])
    sql.execute(connection, sql.COUNT_UNSETTLED, [ids])
    readied = sql.fetch(connection, sql.READY_RESET, [ids])
    q2.ring(Counter(queue for queue, state, _ in readied if state == StepState.AVAILABLE), using=connection.alias)
    due = {(queue, round(float(seconds), 1)) for queue, state, seconds in readied if state == StepState.SNOOZED}
    for queue, seconds in sorted(due):
        q2.ring_at(queue, seconds + 0.1, using=connection.alias)


def _reopen(connection: BaseDatabaseWrapper, run: WorkflowRun) -> None:
    try:
        with transaction.atomic(using=connection.alias):
            WorkflowRun.objects.using(connection.alias).filter(pk=run.pk).update(
                state=RunState.RUNNING,
                round=F("round") + 1,
                finished_at=None,
                cancelled_at=None,
                cancel_reason="",
            )
    except IntegrityError as exc:
        # Somebody has taken the key since we looked, by an insert or a retry of another run.
        raise KeyInUseError(run.name, run.key or "") from exc
