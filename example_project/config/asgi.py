"""The entrance for ASGI servers: the pages, and the sockets of the dashboard beside them."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# Django is set up by this, and what follows needs that.
pages = get_asgi_application()

from django.conf import settings  # noqa: E402
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler  # noqa: E402
from run_pages.sockets import websocket_urlpatterns  # noqa: E402

from baton.dashboard.routing import application as with_sockets  # noqa: E402

# Where there is no nginx to do it, `daphne config.asgi:application` serves the static files too.
application = with_sockets(ASGIStaticFilesHandler(pages) if settings.DEBUG else pages, websocket_urlpatterns)
