"""Where the sockets are found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.conf import settings
from django.urls import path, re_path

from baton.dashboard.consumers import RunConsumer, RunsConsumer

_list: Any = RunsConsumer.as_asgi()
_run: Any = RunConsumer.as_asgi()


async def _refuse(_scope: Any, _receive: Any, send: Any) -> None:
    """Refuse a socket at an address that there is not, which would be an error of the server otherwise."""
    await send({"type": "websocket.close"})


_nothing: Any = _refuse

websocket_urlpatterns = [
    path("baton/runs/live/", _list),
    path("baton/runs/<uuid:run_id>/live/", _run),
]


def application(django_asgi: Any, more: Sequence[Any] = ()) -> Any:
    """Put the dashboard's sockets beside a project's pages: for projects that have no sockets of their own.

    Sessions tell who asks, and only pages of ``ALLOWED_HOSTS`` may.

    Args:
        django_asgi: What ``get_asgi_application()`` gave.
        more: Addresses of further sockets of the project.

    Returns:
        The ASGI application of the project.
    """
    sockets = AllowedHostsOriginValidator(
        AuthMiddlewareStack(URLRouter([*more, *websocket_urlpatterns, re_path("", _nothing)]))
    )

    async def below_script_name(scope: Any, receive: Any, send: Any) -> Any:
        # Django's pages take FORCE_SCRIPT_NAME off a path that a server in front has left whole; so do these.
        name = (settings.FORCE_SCRIPT_NAME or "").rstrip("/")
        if name and scope["path"].startswith(f"{name}/"):
            scope = {**scope, "root_path": name}
        return await sockets(scope, receive, send)

    return ProtocolTypeRouter({"http": django_asgi, "websocket": below_script_name})
