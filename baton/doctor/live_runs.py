"""The runs that are under way: steps that nobody can run, and what stands still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db.models import Count, Exists, Min, OuterRef

from baton.doctor.findings import Finding, counted, error, few, info, warning
from baton.doctor.visit import Visit
from baton.engine.options import options_of
from baton.exceptions import UnknownStepError
from baton.explain.words import duration
from baton.models import Completion, Hold, WorkflowNode, WorkflowRun
from baton.registry import find_step
from baton.states import HoldKind
from baton.values import encode

STUCK_SECONDS = 60.0
_LOOK_AT_MOST = 1000
_LOOKS, _PAUSE = 20, 0.1
_SWEEP_NOW = "A sweep mends it; then see why none did: python manage.py baton_sweep"


def look_at_steps(visit: Visit) -> Iterator[Finding]:
    """Find unsettled steps whose function a worker will not find."""
    nodes = WorkflowNode.objects.using(visit.alias).unsettled().order_by()
    for name, options, count, first in nodes.values_list("step", "options").annotate(Count("id"), Min("id")):
        try:
            step = find_step(name, module=str(options.get("module", "")))
            options_of(step, encode(options))
        except UnknownStepError as exc:
            run = WorkflowNode.objects.using(visit.alias).filter(pk=first).values_list("run_id", flat=True).first()
            yield error(
                "step-unknown",
                f"{counted(count, 'unsettled step')} cannot be run, the first in run {run}. {exc}",
                fix="Bring the code back before a worker gets there: it discards such a step.",
            )


def look_at_ready_steps(visit: Visit) -> Iterator[Finding]:
    """Find steps that are ready although a worker of their queue has nothing to do."""
    before = visit.now - timedelta(seconds=STUCK_SECONDS)
    ready = WorkflowNode.objects.using(visit.alias).ready().filter(queued_at__lt=before).order_by()
    for queue, count, since in ready.values_list("queue").annotate(Count("id"), Min("queued_at")):
        waited = duration((visit.now - since).total_seconds())
        if queue in visit.busy:
            yield info(
                "steps-backlog",
                f"{counted(count, 'step')} of queue {queue!r} {_wait(count)} for a free worker, up to {waited}.",
                fix="More workers shorten the wait.",
            )
        elif queue in visit.answered and _stays_ready(visit, queue, since):
            yield error(
                "steps-stuck",
                f"{counted(count, 'step')} of queue {queue!r} {_has(count)} been ready for up to {waited}, "
                "and a worker of that queue has nothing to do: their message is lost.",
                fix=_SWEEP_NOW,
            )


def look_at_left_overs(visit: Visit) -> Iterator[Finding]:
    """Find what a sweep should have mended long ago."""
    before = visit.now - timedelta(seconds=visit.sweep_is_late_after)
    nodes = WorkflowNode.objects.using(visit.alias).order_by()
    lost = nodes.filter(lease_until__isnull=False, lease_until__lt=before)
    if count := lost.count():
        names = [f"{name} on {worker}" for name, worker in lost.values_list("name", "worker")[:_LOOK_AT_MOST]]
        yield error(
            "steps-lost",
            f"{counted(count, 'step')} {_is(count)} executing on workers that vanished long ago: {few(names)}.",
            fix=_SWEEP_NOW,
        )
    if count := nodes.filter(due_at__isnull=False, due_at__lt=before).count():
        yield error("steps-overdue", f"{counted(count, 'step')} {_is(count)} long due and not ready.", fix=_SWEEP_NOW)
    if runs := _unfinished(visit, before):
        yield error(
            "runs-unfinished",
            f"Nobody has noted the ending of {counted(len(runs), 'run')} of which every step is settled: {few(runs)}.",
            fix=_SWEEP_NOW,
        )
    endings = Completion.objects.using(visit.alias).filter(announced_at__isnull=True, finished_at__lt=before)
    if count := endings.count():
        yield warning(
            "endings-unannounced",
            f"{counted(count, 'ending')} {_is(count)} noted and not announced: whoever waits for the event waits.",
            fix=_SWEEP_NOW,
        )


def look_at_held_steps(visit: Visit) -> Iterator[Finding]:
    """Find steps that wait for money or for a person's word: nobody else lets them go on."""
    holds = Hold.objects.using(visit.alias).order_by().values_list("kind").annotate(Count("node"), Min("since"))
    for kind, count, since in sorted(holds):
        waited = duration((visit.now - since).total_seconds())
        is_asked = kind == HoldKind.QUESTION
        what = "for a person's word on a call of unknown outcome" if is_asked else "for money, their budget being spent"
        yield info(
            "steps-held",
            f"{counted(count, 'step')} {_wait(count)} {what}, up to {waited}.",
            fix=(
                "baton_resolve says what is to follow, and baton_show what is asked."
                if is_asked
                else "baton_budget gives a run another budget, and baton_show says which one is spent."
            ),
        )


def _stays_ready(visit: Visit, queue: str, since: datetime) -> bool:
    """Whether nobody takes it for a moment: a cluster that has just started may be on its way to it."""
    for _ in range(_LOOKS):
        if queue in visit.at_work():
            return False
        if not WorkflowNode.objects.using(visit.alias).ready().filter(queue=queue, queued_at__lte=since).exists():
            return False
        time.sleep(_PAUSE)
    return True


def _unfinished(visit: Visit, before: datetime) -> list[str]:
    """Running runs that have had nothing unsettled since then, told by name and id."""
    nodes = WorkflowNode.objects.using(visit.alias).filter(run=OuterRef("pk"))
    runs = (
        WorkflowRun.objects.using(visit.alias)
        .running()
        .filter(~Exists(nodes.filter(settled_at__isnull=True)), ~Exists(nodes.filter(settled_at__gte=before)))
        .filter(inserted_at__lt=before)
    )
    return [f"{name} {run}" for name, run in runs.order_by().values_list("name", "id")[:_LOOK_AT_MOST]]


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def _wait(count: int) -> str:
    return "waits" if count == 1 else "wait"
