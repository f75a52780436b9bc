"""The cascade: what hangs on a failed step is cancelled at once, to any depth, or goes on where it ignores that."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper

from baton import q2
from baton.engine import statements as sql
from baton.engine.options import module_in
from baton.engine.transitions import Transition
from baton.exceptions import UnknownStepError
from baton.registry import find_step
from baton.states import StepState


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """A step that was cancelled because of a dependency."""

    node_id: int
    reason: str
    hook: str
    """Which hook its step has for this: ``cancelled``, ``discarded``, or none."""


@dataclass(slots=True, kw_only=True)
class Cascade:
    """What a cascade did."""

    version: int
    falls: list[Fall] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Node:
    id: int
    name: str
    step: str
    options: str
    state: str
    fence: int
    version: int
    attempt: int
    remaining: int
    queue: str
    ignores: frozenset[str]
    is_early: bool
    not_before: Any
    lowered: int = 0
    reason: str = ""
    cause: str = ""


def cascade(
    connection: BaseDatabaseWrapper,
    node_id: int,
    *,
    state: StepState,
    is_ours: Callable[[str, int], bool],
    workflow: tuple[UUID, str],
    write: Callable[[], int | None],
) -> Cascade | None:
    """Settle a failed step and everything that falls with it, inside the caller's transaction.

    Args:
        connection: To Baton's database, in a transaction.
        node_id: The step that fails.
        state: ``discarded`` or ``cancelled``.
        is_ours: Whether the step, locked, still is what the caller takes it for, by its state and fence.
        workflow: The run's id and name.
        write: Writes the step's own row and returns its version, or None when it is not ours after all.

    Returns:
        What fell, or None when the step was not ours: nothing is written then.
    """
    nodes = _lock(connection, node_id)
    root = nodes.get(node_id)
    if root is None or not is_ours(root.state, root.fence):
        return None
    fallen, lowered = _decide(connection, root, state, nodes)
    version = write()
    if version is None:
        return None
    _write(connection, fallen, lowered)
    falls = [Fall(node_id=each.id, reason=each.reason, hook=each.cause) for each in fallen]
    return Cascade(version=version, falls=falls, transitions=[_transition(each, workflow) for each in fallen])


def _lock(connection: BaseDatabaseWrapper, node_id: int) -> dict[int, _Node]:
    nodes = {}
    for row in sql.fetch(connection, sql.LOCK_DESCENDANTS, [node_id]):
        (
            id_, name, step, options, state, fence, version, attempt, remaining, queue, cancelled, discarded, early,
            not_before,
        ) = row  # fmt: skip
        ignores = {flag for flag, is_set in (("cancelled", cancelled), ("discarded", discarded)) if is_set}
        nodes[id_] = _Node(
            id=id_,
            name=name,
            step=step,
            options=options,
            state=state,
            fence=fence,
            version=version,
            attempt=attempt,
            remaining=remaining,
            queue=queue,
            ignores=frozenset(ignores),
            is_early=bool(early),
            not_before=not_before,
        )
    return nodes


def _decide(
    connection: BaseDatabaseWrapper, root: _Node, state: StepState, nodes: dict[int, _Node]
) -> tuple[list[_Node], list[_Node]]:
    """Follow the failure down: who is cancelled, and whose counter is lowered because it ignores this."""
    dependents = defaultdict(list)
    for dependency, node in sql.fetch(connection, sql.EDGES_AMONG_DESCENDANTS, [root.id]):
        dependents[dependency].append(node)
    fallen: list[_Node] = []
    lowered: dict[int, _Node] = {}
    failed = deque([(root, state)])
    while failed:
        cause, cause_state = failed.popleft()
        for each in (nodes[node_id] for node_id in dependents[cause.id] if node_id in nodes):
            if each.state != StepState.PENDING:
                continue
            if cause_state.value in each.ignores:
                each.lowered += 1
                lowered[each.id] = each
                continue
            each.state = StepState.CANCELLED
            each.reason = f"dependency {cause.name!r} was {cause_state.value}"
            each.cause = cause_state.value if has_hook(each.step, cause_state.value, options=each.options) else ""
            lowered.pop(each.id, None)
            fallen.append(each)
            failed.append((each, StepState.CANCELLED))
    fallen.sort(key=lambda each: each.id)
    return fallen, list(lowered.values())


def _write(connection: BaseDatabaseWrapper, fallen: list[_Node], lowered: list[_Node]) -> None:
    sql.execute_many(connection, sql.CANCEL, [(each.reason, each.cause, each.id) for each in fallen])
    sql.execute_many(connection, sql.LOWER, [(each.lowered,) * 4 + (each.id,) for each in lowered])
    ready = [each for each in lowered if each.remaining == each.lowered]
    q2.ring(Counter(each.queue for each in ready if not each.is_early), using=connection.alias)
    for each in ready:
        if each.is_early:
            moment = sql.as_datetime(each.not_before) or datetime.now(UTC)
            q2.ring_at(each.queue, (moment - datetime.now(UTC)).total_seconds(), using=connection.alias)


def _transition(node: _Node, workflow: tuple[UUID, str]) -> Transition:
    return Transition(
        run_id=workflow[0],
        workflow_name=workflow[1],
        node_id=node.id,
        step_name=node.name,
        step=node.step,
        state=StepState.CANCELLED,
        attempt=node.attempt,
        version=node.version + 1,
        error=node.reason,
    )


def has_hook(step: str, state: str, *, options: str) -> bool:
    """Whether a step has something to call when a dependency in that state cancels it."""
    try:
        return state in find_step(step, module=module_in(options)).hooks
    except UnknownStepError:
        return False
