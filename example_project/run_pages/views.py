"""All runs, one run, and what changed in it; each for those who may see runs."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth.decorators import login_required, permission_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from baton.dashboard.changes import answered
from baton.models import WorkflowRun

PER_PAGE = 50


@require_GET
@login_required
@permission_required("baton.view_workflowrun", raise_exception=True)
def all_runs(request: HttpRequest) -> HttpResponse:
    """The newest runs first."""
    runs = Paginator(WorkflowRun.objects.order_by("-inserted_at", "-id").defer("meta"), PER_PAGE)
    return render(request, "run_pages/all.html", {"runs": runs.get_page(request.GET.get("page"))})


@require_GET
@login_required
@permission_required("baton.view_workflowrun", raise_exception=True)
def one_run(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """A run, live."""
    run = get_object_or_404(WorkflowRun, pk=run_id)
    return render(request, "run_pages/one.html", {"run": run, "socket": f"/runs/{run.pk}/live/"})


@require_GET
@login_required
@permission_required("baton.view_workflowrun", raise_exception=True)
def changes(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """What changed in it, for browsers that get no websocket."""
    return answered(request, run_id)
