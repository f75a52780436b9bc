"""Money and questions, by people: another budget for a run, a word on a call of unknown outcome."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton import money
from baton.admin import display
from baton.conf import amount, get_settings
from baton.dashboard.shown import permission_needed
from baton.engine.accounts import Balance
from baton.engine.questions import open_questions, resolve
from baton.exceptions import NothingToResolveError, StepNotFoundError
from baton.explain.words import listed, number
from baton.models import LedgerEntry, WorkflowNode, WorkflowRun
from baton.states import Resolution

_DIGITS_OF_AN_ID = 19


def change_budget(model_admin: Any, request: HttpRequest, run_id: UUID) -> HttpResponse:
    """Ask for another budget of a run, and give it."""
    run = _run(model_admin, request, run_id)
    error = ""
    if request.method == "POST":
        try:
            budget = _amount(request.POST.get("budget", ""))
        except ValueError as exc:
            error = _("The budget was not changed: {error}.").format(error=exc)
        else:
            _do_change(model_admin, request, run, budget)
            return HttpResponseRedirect(display.page_of(WorkflowRun, run.pk))
    balance = run.balance()
    context = {
        "title": _("Change the budget of a run"),
        "rows": _rows(balance),
        "held": _held(balance.held) if balance.held else "",
        "value": request.POST.get("budget", "" if run.budget is None else f"{run.budget:f}"),
        "currency": balance.currency,
        "error": error,
        "back": display.page_of(WorkflowRun, run.pk),
    }
    return _page(model_admin, request, run, "budget.html", context)


def decide(model_admin: Any, request: HttpRequest, run_id: UUID) -> HttpResponse:
    """Ask what is to follow the calls of a step whose outcome is unknown, and note it."""
    run = _run(model_admin, request, run_id)
    # Of the address alone, also when the form is sent: a form's field would not keep the line breaks of a name.
    step, key = request.GET.get("step", ""), request.GET.get("key")
    try:
        node = run.steps[step]
    except StepNotFoundError as exc:
        raise Http404(str(exc)) from exc
    back = display.page_of(WorkflowNode, node.pk)
    if request.method == "POST":
        # Whatever else a form may send calls nothing.
        decision: Literal["pay", "fail"] = "pay" if request.POST.get("decision") == "pay" else "fail"
        try:
            keys = resolve(run, node.name, key, decision=decision, by=request.user.get_username())
        except NothingToResolveError as exc:
            model_admin.message_user(request, str(exc), messages.WARNING)
        else:
            note = _decided(node, keys, decision)
            model_admin.log_change(request, run, note)
            model_admin.message_user(request, note, messages.SUCCESS)
        return HttpResponseRedirect(back)
    calls = [entry for entry in open_questions(run, step) if key is None or entry.key == key]
    if not calls:
        model_admin.message_user(request, str(NothingToResolveError(run.pk, step, key=key)), messages.WARNING)
        return HttpResponseRedirect(back)
    context = {
        "title": _("Decide on calls of unknown outcome"),
        "node": node,
        "calls": [_call(entry) for entry in calls],
        "is_settled": node.settled_at is not None,
        "back": back,
    }
    return _page(model_admin, request, run, "decide.html", context)


def has_questions(node_id: str) -> bool:
    """Whether a person may decide on a call of a step."""
    nodes = WorkflowNode.objects.using(get_settings().database).select_related("run")
    node = nodes.filter(pk=node_id).first() if node_id.isdecimal() and len(node_id) < _DIGITS_OF_AN_ID else None
    return node is not None and bool(open_questions(node.run, node.name))


def _do_change(model_admin: Any, request: HttpRequest, run: WorkflowRun, budget: Decimal | None) -> None:
    before, held = run.budget, run.balance().held
    run.budget = budget
    run.save(update_fields=["budget"])
    woken = held - run.balance().held
    note = _("Changed the budget from {before} to {after}.").format(before=_shown(before), after=_shown(budget))
    model_admin.log_change(request, run, note)
    told = [_("The budget is {budget} now.").format(budget=_shown(budget))]
    if woken > 0:
        told.append(ngettext("{count} step can go on.", "{count} steps can go on.", woken).format(count=number(woken)))
    model_admin.message_user(request, " ".join(told), messages.SUCCESS)


def _decided(node: WorkflowNode, keys: Sequence[str], decision: str) -> str:
    if decision == "pay":
        text = _("Decided that these calls of step {step} are made again: {keys}.")
    else:
        text = _("Decided that these calls fail step {step}: {keys}.")
    return text.format(step=node.name, keys=listed(keys))


def _run(model_admin: Any, request: HttpRequest, run_id: UUID) -> WorkflowRun:
    if not model_admin.has_control_permission(request):
        raise PermissionDenied(permission_needed("control_workflowrun"))
    run: WorkflowRun | None = model_admin.get_queryset(request).filter(pk=run_id).first()
    if run is None:
        raise Http404
    return run


def _page(
    model_admin: Any, request: HttpRequest, run: WorkflowRun, template: str, context: dict[str, Any]
) -> HttpResponse:
    whole = {
        **model_admin.admin_site.each_context(request),
        "opts": model_admin.opts,
        "media": model_admin.media,
        "has_list_breadcrumbs": display.HAS_LIST_BREADCRUMBS,
        "run": run,
        **context,
    }
    return TemplateResponse(request, f"admin/baton/workflowrun/{template}", whole)


def _amount(text: str) -> Decimal | None:
    return amount(text.strip()) if text.strip() else None


def _shown(budget: Decimal | None) -> str:
    return _("none") if budget is None else money.amount(budget, get_settings().currency)


def _held(count: int) -> str:
    text = ngettext("{count} step is held for want of money.", "{count} steps are held for want of money.", count)
    return text.format(count=number(count))


def _rows(balance: Balance) -> Sequence[tuple[str, str]]:
    currency = balance.currency
    rows = [
        (_("budget"), _shown(balance.budget)),
        (_("spent"), money.amount(balance.spent, currency)),
        (_("reserved"), money.amount(balance.reserved, currency)),
    ]
    if balance.estimated:
        rows.append((_("of it an estimate: may cost more"), money.amount(balance.estimated, currency)))
    if balance.unknown:
        rows.append((_("of it for calls of unknown outcome"), money.amount(balance.unknown, currency)))
    if balance.left is not None:
        rows.append((_("left"), money.amount(balance.left, currency)))
    return rows


def _call(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "model": entry.model or display.NOTHING,
        "at": display.moment(entry.started_at),
        "error": entry.error or _("its worker vanished"),
        "reserved": "" if entry.reserved is None else money.amount(entry.reserved, get_settings().currency),
        "decided": Resolution(entry.resolution).label if entry.resolution else "",
    }
