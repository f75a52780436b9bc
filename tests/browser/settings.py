"""The suite's project as daphne serves it to a browser: with websockets, and under a strict policy."""

from __future__ import annotations

from pathlib import Path

from tests.settings import *  # noqa: F403 - the same project
from tests.settings import DATABASES, HAS_UNFOLD, INSTALLED_APPS, MIDDLEWARE, TEMPLATES

INSTALLED_APPS = ["daphne", "channels", *INSTALLED_APPS]
# django-unfold's own pages do not get by with the policy.
MIDDLEWARE = [*([] if HAS_UNFOLD else ["tests.browser.policy.StrictPolicy"]), *MIDDLEWARE]
ASGI_APPLICATION = "tests.browser.asgi.application"
# The admin's first page has the panel.
TEMPLATES[0]["DIRS"] = [Path(__file__).parent / "templates"]
# A test that kills its cluster ends every session of the database; the next request must not meet a dead one.
DATABASES["default"]["CONN_MAX_AGE"] = 0
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django.request": {"handlers": ["console"], "level": "ERROR", "propagate": False}},
}
