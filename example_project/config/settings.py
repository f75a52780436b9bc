"""Settings of the example project.

The environment chooses: ``EXAMPLE_DATABASE_URL`` a PostgreSQL instead of the SQLite file ``EXAMPLE_SQLITE_PATH``,
``EXAMPLE_REDIS_URL`` a Redis or Valkey as django-q2's broker instead of the database. ``EXAMPLE_LEASE_SECONDS`` is how
long the step of a worker that was killed stays with it.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from config.database import postgresql, sqlite

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("EXAMPLE_SECRET_KEY", "only-for-a-machine-that-nobody-else-can-reach")
DEBUG = os.environ.get("EXAMPLE_DEBUG", "1") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    # First, so that `runserver` serves websockets too. Workers do without its weight.
    *(["daphne"] if "runserver" in sys.argv and find_spec("daphne") else []),
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_q",
    "baton",
    "research",
    "run_pages",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
LOGIN_URL = "login"
ASGI_APPLICATION = "config.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        # The admin's index is in there, with Baton's panel on it.
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASE_URL = os.environ.get("EXAMPLE_DATABASE_URL")
SQLITE_PATH = os.environ.get("EXAMPLE_SQLITE_PATH", BASE_DIR / "db.sqlite3")
DATABASES = {"default": postgresql(DATABASE_URL) if DATABASE_URL else sqlite(SQLITE_PATH)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [{"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"}]

USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"

# django-q2 lends the workers. The prefetch is small, so that work goes to whoever is idle; its own retries are off,
# because Baton does them; a task is done when it was run, whatever came of it.
Q_CLUSTER: dict[str, Any] = {
    "name": "example",
    "workers": 2,
    "queue_limit": 2,
    "bulk": 2,
    "timeout": 60,
    "retry": 240,
    "max_attempts": 1,
    "ack_failures": True,
    "save_limit": -1,
    "guard_cycle": 0.5,
    "catch_up": False,
    "log_level": "WARNING",
    # Steps that wait for language models have workers of their own: `Q_CLUSTER_NAME=llm python manage.py qcluster`.
    "ALT_CLUSTERS": {"llm": {"workers": 3, "queue_limit": 3, "timeout": 660, "retry": 2640}},
}
REDIS_URL = os.environ.get("EXAMPLE_REDIS_URL")
if REDIS_URL:
    Q_CLUSTER |= {"redis": REDIS_URL}
    # Redis cannot ring a bell later: `manage.py baton_sweep --watch --interval 1` does, beside the cluster.
    BATON: dict[str, Any] = {"SWEEP_RESIDENT": True}
    # And it carries the events that pages of runs follow.
    LAYER = {"hosts": [{"address": REDIS_URL, "socket_timeout": None}], "prefix": "example-events", "capacity": 1000}
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": LAYER}}
else:
    Q_CLUSTER |= {"orm": "default", "poll": 0.05}
    # What a crash leaves behind is mended by a sweep that the cluster itself runs every minute.
    BATON = {"SWEEP_SCHEDULE": True}

# How long a worker without a sign of life keeps its step.
BATON["LEASE_SECONDS"] = float(os.environ.get("EXAMPLE_LEASE_SECONDS", "15"))

# US dollars per million tokens. They change: your provider's page has those of today.
BATON["PRICES"] = {
    "gpt-4o-mini": {"input": "0.15", "cached_input": "0.075", "output": "0.60"},
    "gpt-5-mini": {"input": "0.25", "cached_input": "0.025", "output": "2"},
    "claude-haiku-4-5": {"input": "1", "cached_input": "0.10", "cache_write": "1.25", "output": "5"},
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"baton": {"handlers": ["console"], "level": "INFO"}},
}
