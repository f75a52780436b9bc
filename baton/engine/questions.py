"""Questions: a person says what is to follow a call of which nobody knows whether it was answered and paid."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from django.db import connections, transaction
from django.db.models import QuerySet

from baton.conf import get_settings
from baton.engine.errors import storable_text
from baton.engine.holds import wake_nodes
from baton.exceptions import NothingToResolveError, StepNotFoundError
from baton.models import Hold, LedgerEntry, WorkflowNode, WorkflowRun
from baton.states import EntryState, HoldKind, Resolution

_VANISHED = "its worker vanished"
_DECISIONS = {"pay": Resolution.REPAY, "fail": Resolution.FAIL}


def resolve(
    run: WorkflowRun,
    step_name: str | Enum,
    key: str | None = None,
    *,
    decision: Literal["pay", "fail"],
    by: str = "",
) -> list[str]:
    """Say what is to follow the calls of a step whose outcome is unknown, and let the step go on.

    Args:
        run: The run.
        step_name: The step.
        key: The key of the call; None is every call of the step that nobody has decided on, or, where all are decided
            on, each of them anew.
        decision: ``pay`` calls again, ``fail`` discards the step.
        by: Who says so.

    Returns:
        The keys of the calls that were decided on.

    Raises:
        StepNotFoundError: The run has no step of that name.
        NothingToResolveError: No call of the step, or none of that key, is of unknown outcome.
        ValueError: The decision is neither.
    """
    if decision not in _DECISIONS:
        msg = f"decision is {decision!r}: give 'pay' or 'fail'."
        raise ValueError(msg)
    connection = connections[get_settings().database]
    with transaction.atomic(using=connection.alias):
        # The step before the call, as where a step is put off: of the two, one sees what the other has written.
        nodes = WorkflowNode.objects.using(connection.alias).select_for_update()
        node = nodes.only("id", "name", "state", "fence").filter(pk=run.steps[step_name].pk).first()
        if node is None:
            raise StepNotFoundError(str(step_name), run=run.pk)
        calls = _calls(node).select_for_update()
        chosen = [entry for entry in _unknown(node, calls) if key is None or entry.key == key]
        if not chosen:
            raise NothingToResolveError(run.pk, node.name, key=key)
        if key is None:
            chosen = [entry for entry in chosen if not entry.resolution] or chosen
        for entry in chosen:
            LedgerEntry.objects.using(connection.alias).filter(pk=entry.pk).update(
                state=EntryState.AMBIGUOUS,
                resolution=_DECISIONS[decision],
                resolved_by=storable_text(by)[:255],
                error=entry.error or _VANISHED,
            )
        asked = Hold.objects.using(connection.alias).filter(node=node.pk, kind=HoldKind.QUESTION)
        wake_nodes(connection, list(asked.values_list("node_id", flat=True)))
    return [entry.key for entry in chosen]


def open_questions(run: WorkflowRun, step_name: str | Enum) -> list[LedgerEntry]:
    """The calls of a step that a person may decide on, the oldest first."""
    node = run.steps[step_name]
    return _unknown(node, _calls(node))


def _calls(node: WorkflowNode) -> QuerySet[LedgerEntry]:
    entries = LedgerEntry.objects.using(get_settings().database).filter(node=node.pk, is_retired=False)
    return entries.order_by("number").defer("answer")


def _unknown(node: WorkflowNode, calls: QuerySet[LedgerEntry]) -> list[LedgerEntry]:
    """The last call of each key of a step, where its outcome is unknown and no earlier one was answered."""
    last: dict[str, LedgerEntry] = {}
    answered: set[str] = set()
    for entry in calls:
        last[entry.key] = entry
        if entry.state == EntryState.ANSWERED:
            answered.add(entry.key)
    unknown = [entry for key, entry in last.items() if key not in answered and entry.is_unknown(node.state, node.fence)]
    return sorted(unknown, key=lambda entry: entry.pk)
