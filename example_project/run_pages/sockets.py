"""The websocket of the page of a run."""

from __future__ import annotations

from typing import Any

from django.urls import path

from baton.dashboard.consumers import RunConsumer


class RunPageConsumer(RunConsumer):
    """As the dashboard's, also for people who are not staff."""

    def may_look(self, user: Any) -> bool:
        """As the page asks."""
        return bool(user is not None and user.is_active and user.has_perm("baton.view_workflowrun"))


_consumer: Any = RunPageConsumer.as_asgi()

websocket_urlpatterns = [path("runs/<uuid:run_id>/live/", _consumer)]
