"""What ``baton/admin/panel.html`` shows, so that it can be included in any page."""

from __future__ import annotations

from typing import Any

from django import template
from django.urls import reverse

from baton.dashboard.shown import Bar
from baton.dashboard.strip import strip_of

register = template.Library()


@register.inclusion_tag("baton/admin/panel_content.html", takes_context=True)
def baton_panel(context: template.Context) -> dict[str, Any]:
    """A bar and five links: is all well? Nothing for people who may not see runs.

    Put ``{% include "baton/admin/panel.html" %}`` into the index page of the admin, or into a page of staff's own.
    """
    request = context.get("request")
    user = getattr(request, "user", None) or context.get("user")
    if user is None or not user.is_active or not user.is_staff or not user.has_perm("baton.view_workflowrun"):
        return {"strip": None}
    strip = strip_of()
    return {"strip": strip, "bar": Bar.of(strip.states), "runs": reverse("admin:baton_workflowrun_changelist")}
