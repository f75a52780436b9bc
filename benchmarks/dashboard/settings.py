"""The measured project with Django's admin, served by daphne."""

from __future__ import annotations

import os

from benchmarks.settings import *  # noqa: F403 - the same project
from benchmarks.settings import DATABASES, INSTALLED_APPS

WEB_VARIABLE = "BATON_BENCH_WEB"
"""Not empty in the process that serves pages."""

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "channels",
    *INSTALLED_APPS,
]
MIDDLEWARE = [
    "benchmarks.dashboard.counting.Count",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
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
ROOT_URLCONF = "benchmarks.dashboard.urls"
ASGI_APPLICATION = "benchmarks.dashboard.asgi.application"
STATIC_URL = "static/"
ALLOWED_HOSTS = ["127.0.0.1"]
DEBUG = False

# Under ASGI each request has a thread of its own, in which no connection of an earlier one is found.
if os.environ.get(WEB_VARIABLE):
    DATABASES["default"]["CONN_MAX_AGE"] = 0
