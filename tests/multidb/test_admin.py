"""The admin where Baton's tables are not in the database of Django's users."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from baton import Workflow
from baton.models import Completion, WorkflowNode, WorkflowRun
from baton.testing import drain
from tests import steps

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def page_of(row: Any) -> str:
    return reverse(f"admin:baton_{row._meta.model_name}_change", args=[row.pk])


def test_admin_reads_and_acts_in_the_database_of_baton_without_a_router(settings):
    settings.BATON = {"DATABASE": "other"}
    client = Client()
    client.force_login(User.objects.create_superuser("anna"))
    failed = drain(
        Workflow("failed").add("a", steps.discard).add("b", steps.nothing, deps=["a"]).insert(standalone=True)
    )
    running = Workflow("running").add("a", steps.nothing).insert(standalone=True)

    for model in (WorkflowRun, WorkflowNode, Completion):
        page = client.get(reverse(f"admin:baton_{model._meta.model_name}_changelist")).content.decode()
        assert "failed" in page
    rows = [failed, running, *failed.steps.values(), failed.completions.get()]
    assert [client.get(page_of(row)).status_code for row in rows] == [200] * 5
    cancel, retry = (
        client.post(reverse(f"admin:baton_workflowrun_{act}", args=[run.pk]), {"confirmed": "yes"})
        for act, run in (("cancel", running), ("retry", failed))
    )

    assert (cancel.status_code, retry.status_code) == (302, 302)
    assert [WorkflowRun.objects.using("other").get(pk=run.pk).state for run in (running, failed)] == [
        "cancelled",
        "running",
    ]
    assert LogEntry.objects.using("default").count() == 2
