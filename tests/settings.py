"""A project with Baton in it, on the database and the broker that the environment asks for.

`BATON_TEST_DB` is `sqlite` or `postgres`, `BATON_TEST_BROKER` is `orm` or `redis`. Processes that tests start beside
pytest use these settings too: `BATON_TEST_DB_NAME` leads them to the test database, two `..._SETTING` variables hold
JSON that is laid over `Q_CLUSTER` and `BATON`, and a third is `CHANNEL_LAYERS`. With `BATON_TEST_UNFOLD` the admin is
django-unfold's.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DB = os.environ.get("BATON_TEST_DB", "sqlite")
BROKER = os.environ.get("BATON_TEST_BROKER", "orm")
DB_NAME = os.environ.get("BATON_TEST_DB_NAME", "")


def _sqlite() -> dict[str, Any]:
    # The tests' is a file, never memory: a cluster in a process of its own opens it too.
    folder = Path(os.environ.get("BATON_TEST_FOLDER", tempfile.gettempdir()))
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DB_NAME or ":memory:",
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
        },
        "TEST": {"NAME": str(folder / "test.sqlite3")},
    }


def _postgres() -> dict[str, Any]:
    # Without a URL the type checker and `--help` get by; pytest brings a server and its URL (tests/plugin.py).
    url = urlsplit(os.environ.get("BATON_TEST_DATABASE_URL", "postgresql://baton@127.0.0.1/postgres"))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": DB_NAME or url.path.lstrip("/"),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname or "",
        "PORT": url.port or "",
        "CONN_MAX_AGE": None,
        "TEST": {"NAME": f"test_baton_{os.getpid()}"},  # suites share a server
    }


DATABASES = {"default": {"sqlite": _sqlite, "postgres": _postgres}[DB]()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

Q_CLUSTER: dict[str, Any] = {
    "name": "baton-tests",
    "workers": 2,
    "timeout": 60,
    "retry": 300,
    "poll": 0.05,
    "bulk": 2,
    "queue_limit": 2,
    "save_limit": -1,
    "ack_failures": True,
    "max_attempts": 1,
    "guard_cycle": 0.5,
    "catch_up": False,
    "log_level": "WARNING",
    "ALT_CLUSTERS": {"slow": {"workers": 2}, "llm": {"workers": 2}},
    **json.loads(os.environ.get("BATON_TEST_Q_CLUSTER_SETTING", "{}")),
}
match BROKER:
    case "orm":
        Q_CLUSTER["orm"] = "default"
    case "redis":
        Q_CLUSTER["redis"] = os.environ.get("BATON_TEST_REDIS_URL", "redis://127.0.0.1:6379/0")
    case _:
        msg = f"BATON_TEST_BROKER is {BROKER!r}; it can be 'orm' or 'redis'."
        raise ValueError(msg)

BATON: dict[str, Any] = {
    # What a test has this process do at one bell is done at that bell, however slow the machine.
    **({} if DB_NAME else {"BELL_SECONDS": 60}),
    # Redis delivers nothing at a due time; tests that need a sweep run one.
    **({"SWEEP_RESIDENT": True} if BROKER == "redis" else {}),
    **json.loads(os.environ.get("BATON_TEST_BATON_SETTING", "{}")),
}

# None by default; tests of events configure one, in their own process and in those that they start.
CHANNEL_LAYERS: dict[str, Any] = json.loads(os.environ.get("BATON_TEST_CHANNEL_LAYERS_SETTING", "{}"))

HAS_UNFOLD = bool(os.environ.get("BATON_TEST_UNFOLD"))

INSTALLED_APPS = [
    *(["unfold"] if HAS_UNFOLD else []),
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_q",
    "baton",
    "tests",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
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
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"
ALLOWED_HOSTS = ["*"]
SECRET_KEY = "not a secret: the suite's own"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
USE_TZ = True
TIME_ZONE = "UTC"
