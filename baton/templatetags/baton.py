"""A run's live view in pages of one's own: ``{% load baton %}{% baton_run run %}``."""

from __future__ import annotations

from typing import Any

from django import template

from baton.dashboard import changes as live
from baton.dashboard.graph_tab import taste_of
from baton.dashboard.page import run_page
from baton.dashboard.shown import admin_address
from baton.models import WorkflowRun

register = template.Library()


@register.inclusion_tag("baton/embed/run.html", takes_context=True)
def baton_run(context: template.Context, run: WorkflowRun, *, changes: str = "", socket: str = "") -> dict[str, Any]:
    """A run as its page in the admin shows it, to look at; nothing for people who may not see runs.

    One run to a page. The tabs and what they show are words of the page's own address.

    Args:
        context: With the request.
        run: The run.
        changes: The address that answers with what changed. Without it staff ask the admin, and others' pages stay as
            they are until they are loaded again.
        socket: The path of the websocket. Without it staff use the dashboard's own, and others ask every five seconds.
    """
    request = context.get("request")
    user = getattr(request, "user", None)
    if request is None or user is None or not user.is_active or not user.has_perm("baton.view_workflowrun"):
        return {"page": None}
    page = run_page(
        run,
        request.GET.dict(),
        taste_of(request),
        may_see_prompts=user.has_perm("baton.view_debuglog"),
        may_see_values=user.has_perm("baton.view_workflownode"),
        may_see_calls=user.has_perm("baton.view_stepstat"),
    )
    return {
        "page": page,
        "is_embedded": True,
        "changes_url": changes or (admin_address("workflowrun_changes", run.pk) if user.is_staff else ""),
        "socket_path": socket or (live.run_socket(run.pk) if user.is_staff else ""),
    }
