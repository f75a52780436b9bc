"""What daphne serves: pages, static files, and the dashboard's sockets."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.asgi import get_asgi_application

pages = get_asgi_application()

from django.contrib.contenttypes.models import ContentType  # noqa: E402 - models are loaded now
from django.core.signals import request_started  # noqa: E402

from baton.dashboard import routing  # noqa: E402

# Tests empty the database between them, and content types come back under other ids.
request_started.connect(lambda **_: ContentType.objects.clear_cache(), weak=False)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class StaticFilesInFront:
    """Serves static files from memory, as a web server in front would, and says that browsers may keep them.

    There are thirty to a page: through Django's own view they take longer than everything else.
    """

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        if path == "/favicon.ico":
            await answer(send, 204, b"", "image/x-icon")
        elif path.startswith(settings.STATIC_URL):
            body = content(path.removeprefix(settings.STATIC_URL))
            kind, _ = mimetypes.guess_type(path)
            await answer(send, 404 if body is None else 200, body or b"", kind or "application/octet-stream")
        else:
            await self.application(scope, receive, send)


@cache
def content(name: str) -> bytes | None:
    """What a static file holds."""
    found = finders.find(name)
    return Path(str(found)).read_bytes() if found else None


async def answer(send: Send, status: int, body: bytes, kind: str) -> None:
    """Answer a request."""
    headers = [(b"content-type", kind.encode()), (b"cache-control", b"max-age=3600")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


application = routing.application(StaticFilesInFront(pages))
