"""Checks of the project as a whole: Baton's own settings, the installed apps, time zones."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, register

from baton.checks.configured import TAG
from baton.conf import find_faults


@register(TAG)
def check_settings(**kwargs: Any) -> Iterator[CheckMessage]:
    for fault in find_faults(getattr(django_settings, "BATON", {})):
        yield Error(fault.problem, hint=fault.fix, id="baton.E001")


@register(TAG)
def check_django_q_is_installed(**kwargs: Any) -> Iterator[CheckMessage]:
    if not apps.is_installed("django_q"):
        yield Error(
            "INSTALLED_APPS lacks 'django_q', whose workers run Baton's steps.",
            hint="Add 'django_q' to INSTALLED_APPS and run migrate.",
            id="baton.E002",
        )


@register(TAG)
def check_time_zones(**kwargs: Any) -> Iterator[CheckMessage]:
    if not django_settings.USE_TZ:
        yield Error(
            "USE_TZ is not True, and Baton compares due times and leases across processes.",
            hint="Set USE_TZ = True.",
            id="baton.E003",
        )


@register(TAG)
def check_name_clash(**kwargs: Any) -> Iterator[CheckMessage]:
    try:
        distribution("django-baton")
    except PackageNotFoundError:
        return
    yield Error(
        "The distribution 'django-baton', an admin theme, is installed and has the same import name 'baton'.",
        hint="Uninstall django-baton, then reinstall baton-workflows: they overwrite each other's files.",
        id="baton.E004",
    )
