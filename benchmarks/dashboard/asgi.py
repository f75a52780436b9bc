"""What daphne serves: pages, static files, and the dashboard's sockets."""

from __future__ import annotations

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

pages = ASGIStaticFilesHandler(get_asgi_application())

from baton.dashboard import routing  # noqa: E402 - models are loaded now

application = routing.application(pages)
