"""Cancel and retry, by people: asked first, allowed to some, noted in the admin's log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import Count, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton.admin import display
from baton.conf import get_settings
from baton.dashboard.preview import cancel_of, rerun_of
from baton.dashboard.shown import permission_needed
from baton.engine.errors import storable_text
from baton.engine.retry import RetryPlan
from baton.exceptions import BatonError, KeyInUseError, RunNotSettledError
from baton.explain.cancels import reason_of
from baton.explain.words import clock, closed, number
from baton.models import LedgerEntry, WorkflowNode, WorkflowRun

MOST_RUNS = 100
"""How many runs can be acted on at once."""
LONGEST_REASON = 500
_NAMED = 50
_OFFERED = 500
"""How many steps a re-run is offered to begin with; the names of others are to be typed."""

Act = Callable[[Any, HttpRequest, "QuerySet[WorkflowRun]"], HttpResponse | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cancel:
    """A run that will be cancelled."""

    run: WorkflowRun
    steps: int

    @property
    def effect(self) -> str:
        """What will happen, in a sentence."""
        text = ngettext("{count} step is cancelled.", "{count} steps are cancelled.", self.steps)
        return text.format(count=number(self.steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Retry:
    """A run that will be retried."""

    run: WorkflowRun
    plan: RetryPlan

    @property
    def effect(self) -> str:
        """What will happen, in a sentence."""
        reruns = ngettext("{count} step runs again.", "{count} steps run again.", len(self.plan.reruns))
        keeps = ngettext("{count} step stays as it is.", "{count} steps stay as they are.", len(self.plan.keeps))
        told = [reruns.format(count=number(len(self.plan.reruns)))]
        if self.plan.keeps:
            told.append(keeps.format(count=number(len(self.plan.keeps))))
        return " ".join(told)

    @property
    def reruns(self) -> str:
        """The names of what runs again."""
        return _named(self.plan.reruns)

    @property
    def keeps(self) -> str:
        """The names of what does not."""
        return _named(self.plan.keeps)


def of_one(model_admin: Any, request: HttpRequest, run_id: UUID, act: Act) -> HttpResponse:
    """Act on one run, from its page."""
    if not model_admin.has_control_permission(request):
        raise PermissionDenied(permission_needed("control_workflowrun"))
    runs = model_admin.get_queryset(request).filter(pk=run_id)
    if not runs.exists():
        raise Http404
    return act(model_admin, request, runs) or HttpResponseRedirect(display.page_of(WorkflowRun, run_id))


def cancel(model_admin: Any, request: HttpRequest, runs: QuerySet[WorkflowRun]) -> HttpResponse | None:
    """Ask whether to cancel, and cancel.

    Returns:
        The page that asks, or None once it is done or refused.
    """
    chosen = _chosen(model_admin, request, runs)
    if "confirmed" in request.POST:
        _do_cancel(model_admin, request, chosen)
        return None
    counts = _unsettled(chosen)
    running = [_Cancel(run=run, steps=counts.get(run.pk, 0)) for run in chosen if not run.is_settled]
    refused = [_refusal(run, is_alone=len(chosen) == 1) for run in chosen if run.is_settled]
    if not running:
        _tell(model_admin, request, refused)
        return None
    total = sum(each.steps for each in running)
    title = ngettext("Cancel {count} run", "Cancel {count} runs", len(running)).format(count=number(len(running)))
    button = ngettext("Cancel {count} step", "Cancel {count} steps", total).format(count=number(total))
    context: dict[str, Any] = {
        "title": title,
        "button": button,
        "action": "cancel_runs",
        "effects": running,
        "refused": refused,
    }
    if len(running) == 1:
        context["preview"] = cancel_of(running[0].run)
    return _ask(model_admin, request, context, asks_reason=True)


def retry(model_admin: Any, request: HttpRequest, runs: QuerySet[WorkflowRun]) -> HttpResponse | None:
    """Ask whether to retry, and retry.

    Returns:
        The page that asks, or None once it is done or refused.
    """
    chosen = _chosen(model_admin, request, runs)
    # Of the address alone, also when the form is sent: a form's field would not keep the line breaks of a name.
    from_step = request.GET.get("from_step", "")
    if "confirmed" in request.POST:
        _do_retry(model_admin, request, chosen, from_step)
        return None
    if "from_step" in request.GET and not from_step and chosen and chosen[0].is_settled:
        return _ask_from_where(model_admin, request, chosen[0])
    planned: list[_Retry] = []
    refused: list[str] = []
    for run in chosen:
        try:
            planned.append(_Retry(run=run, plan=run.retry(from_step or None, dry_run=True)))
        except BatonError as exc:
            refused.append(_retry_refusal(run, exc))
        except WorkflowRun.DoesNotExist:
            refused.append(_gone(run))
    if not planned:
        _tell(model_admin, request, refused)
        return None
    total = sum(len(each.plan.reruns) for each in planned)
    title = ngettext("Retry {count} run", "Retry {count} runs", len(planned)).format(count=number(len(planned)))
    button = ngettext("Re-run {count} step", "Re-run {count} steps", total).format(count=number(total))
    context: dict[str, Any] = {
        "title": title,
        "button": button,
        "action": "retry_runs",
        "effects": planned,
        "refused": refused,
        "has_answers": _have_answers([each.run for each in planned]),
    }
    if len(planned) == 1:
        only, has_answers = planned[0], bool(context["has_answers"])
        context["preview"] = rerun_of(
            only.run, only.plan, sentence=only.effect, from_step=from_step, has_answers=has_answers
        )
    return _ask(model_admin, request, context, asks_reason=False)


def _ask_from_where(model_admin: Any, request: HttpRequest, run: WorkflowRun) -> HttpResponse:
    """The page that asks which step a re-run begins with; what follows from the choice is asked next."""
    nodes = WorkflowNode.objects.using(get_settings().database).of_workflow(run.pk)
    context = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "media": model_admin.media,
        "has_list_breadcrumbs": display.HAS_LIST_BREADCRUMBS,
        "title": _("Re-run from a step"),
        "run": run,
        "names": nodes.order_by("id").values_list("name", flat=True)[:_OFFERED],
        "back": display.page_of(WorkflowRun, run.pk),
    }
    return TemplateResponse(request, "admin/baton/workflowrun/from_step.html", context)


def _chosen(model_admin: Any, request: HttpRequest, runs: QuerySet[WorkflowRun]) -> list[WorkflowRun]:
    chosen = list(runs.order_by("-inserted_at")[: MOST_RUNS + 1])
    if len(chosen) > MOST_RUNS:
        text = _("Choose no more than {most} runs at once; nothing was done.")
        model_admin.message_user(request, text.format(most=number(MOST_RUNS)), messages.ERROR)
        return []
    return chosen


def _ask(model_admin: Any, request: HttpRequest, context: dict[str, Any], *, asks_reason: bool) -> HttpResponse:
    is_of_list = request.method == "POST"
    if preview := context.get("preview"):
        context |= {"title": preview.title, "button": preview.button, "keep": preview.keep}
    back = display.list_of(WorkflowRun) if is_of_list else display.page_of(WorkflowRun, context["effects"][0].run.pk)
    whole = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "media": model_admin.media,
        "asks_reason": asks_reason,
        "longest_reason": LONGEST_REASON,
        "has_list_breadcrumbs": display.HAS_LIST_BREADCRUMBS,
        "checkbox": ACTION_CHECKBOX_NAME,
        "back": back,
        **context,
    }
    return TemplateResponse(request, "admin/baton/workflowrun/confirm.html", whole)


def _do_cancel(model_admin: Any, request: HttpRequest, runs: Sequence[WorkflowRun]) -> None:
    why = storable_text(request.POST.get("reason", "").strip()[:LONGEST_REASON])
    reason = reason_of(request.user.get_username(), why)
    refused: list[str] = []
    done = 0
    for run in runs:
        try:
            was_cancelled = run.cancel(reason)
        except WorkflowRun.DoesNotExist:
            refused.append(_gone(run))
            continue
        if not was_cancelled:
            refused.append(_refusal(run, is_alone=len(runs) == 1))
            continue
        done += 1
        note = _("Cancelled: {reason}").format(reason=why) if why else _("Cancelled.")
        model_admin.log_change(request, run, closed(note))
    if done:
        text = ngettext("{count} run was cancelled.", "{count} runs were cancelled.", done)
        model_admin.message_user(request, text.format(count=number(done)), messages.SUCCESS)
    _tell(model_admin, request, refused)


def _do_retry(model_admin: Any, request: HttpRequest, runs: Sequence[WorkflowRun], from_step: str) -> None:
    refused: list[str] = []
    done = 0
    for run in runs:
        try:
            run.retry(from_step or None, new_answers="new_answers" in request.POST)
        except BatonError as exc:
            refused.append(_retry_refusal(run, exc))
            continue
        except WorkflowRun.DoesNotExist:
            refused.append(_gone(run))
            continue
        done += 1
        if from_step:
            note = _("Retried from step {step}, round {round}.").format(step=from_step, round=run.round)
        else:
            note = _("Retried what failed, round {round}.").format(round=run.round)
        model_admin.log_change(request, run, note)
    if done:
        text = ngettext("{count} run was retried.", "{count} runs were retried.", done)
        model_admin.message_user(request, text.format(count=number(done)), messages.SUCCESS)
    _tell(model_admin, request, refused)


def _tell(model_admin: Any, request: HttpRequest, refused: Sequence[str]) -> None:
    for text in refused:
        model_admin.message_user(request, text, messages.WARNING)


def _unsettled(runs: Sequence[WorkflowRun]) -> dict[UUID, int]:
    """How many steps a cancel would settle, by run."""
    rows = WorkflowNode.objects.using(get_settings().database).filter(run__in=[run.pk for run in runs])
    return dict(rows.unsettled().order_by().values_list("run_id").annotate(Count("id")))


def _have_answers(runs: Sequence[WorkflowRun]) -> bool:
    """Whether language models have answered in any of the runs."""
    calls = LedgerEntry.objects.using(get_settings().database).filter(run__in=[run.pk for run in runs], is_call=True)
    return calls.exists()


def _refusal(run: WorkflowRun, *, is_alone: bool) -> str:
    time = clock(run.finished_at)
    if run.finished_at is None:
        return _("You can't cancel the run {run}: every step of it is settled.").format(run=run)
    if is_alone:
        return _("You can't cancel this run: it finished at {time}.").format(time=time)
    return _("You can't cancel the run {run}: it finished at {time}.").format(run=run, time=time)


def _retry_refusal(run: WorkflowRun, why: BatonError) -> str:
    """Why a run is not run again, with a link to the run that is in the way."""
    runs = WorkflowRun.objects.using(get_settings().database).running()
    if isinstance(why, RunNotSettledError):
        other = runs.filter(pk=run.pk, round__gt=1).first()
        text = _("Somebody else has started this re-run.")
    elif isinstance(why, KeyInUseError):
        other = runs.filter(name=run.name, key=run.key).first()
        text = str(why)
    else:
        return str(why)
    return str(why) if other is None else format_html("{} {}", text, display.link_to(other, _("Here it is.")))


def _gone(run: WorkflowRun) -> str:
    return _("The run {run} was removed meanwhile.").format(run=run)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    if len(names) <= _NAMED:
        return shown
    more = len(names) - _NAMED
    return ngettext("{names} and {count} more", "{names} and {count} more", more).format(
        names=shown, count=number(more)
    )
