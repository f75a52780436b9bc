"""The project: its settings and steps, as the system checks judge them."""

from __future__ import annotations

from collections.abc import Iterator

from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from baton.conf import get_settings
from baton.doctor.findings import Finding, Severity
from baton.doctor.visit import Visit

_TAG = "baton"


def look_at_project(visit: Visit) -> Iterator[Finding]:
    """Report what Baton's system checks say, those of the database included; silenced ones stay silent."""
    try:
        aliases = [get_settings().database]
    except ImproperlyConfigured:
        aliases = []
    else:
        visit.works.add("settings")
    for message in checks.run_checks(tags=[_TAG], databases=aliases):
        if message.is_silenced():
            continue
        severity = Severity.ERROR if message.level >= checks.ERROR else Severity.WARNING
        if message.level < checks.WARNING:
            severity = Severity.INFO
        yield Finding(severity=severity, id=message.id or "", sentence=message.msg, fix=message.hint or "")
