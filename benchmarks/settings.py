"""The project that is measured; what differs between two clusters comes through the environment."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import unquote, urlsplit

from benchmarks.environment import DATABASE_VARIABLE, LAYER_VARIABLE, Q_CLUSTER_VARIABLE, RAW_VARIABLE


def database_from(url: str) -> dict[str, Any]:
    """Translate ``postgresql://…`` or ``sqlite:///path`` into an entry of ``DATABASES``."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": parts.path,
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "timeout": 20,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.lstrip("/"),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": None,
    }


SECRET_KEY = "a benchmark keeps no secrets"  # noqa: S105 - it signs the messages of a throw-away database
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": database_from(os.environ[DATABASE_VARIABLE])}

# Raw django-q2 is measured in a project without Baton, so that its memory is its own.
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_q"]
if not os.environ.get(RAW_VARIABLE):
    INSTALLED_APPS += ["baton", "benchmarks"]

Q_CLUSTER: dict[str, Any] = json.loads(os.environ[Q_CLUSTER_VARIABLE])

CHANNEL_LAYERS: dict[str, Any] = {}
if url := os.environ.get(LAYER_VARIABLE):
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # By default redis-py 8 gives up after as many seconds as a listener waits for its next message, and the layer
        # drops what is more than a hundred messages ahead of the listener.
        "CONFIG": {"hosts": [{"address": url, "socket_timeout": None}], "capacity": 10_000},
    }

BATON = {"PRICES": {"bench": {"input": "1.25", "output": "10", "cached_input": "0.125"}}}
