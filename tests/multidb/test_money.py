"""Totals, prices and their pages where Baton's tables are not in the default database."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from baton import Workflow
from baton.llm.stats import cost_by_model, steps_for_workflow, unknown_outcomes, workflow_totals
from baton.models import StepStat
from baton.testing import drain
from tests.llm import scripted

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def test_money_is_read_priced_and_shown_in_the_database_of_baton_without_a_router(settings):
    settings.BATON = {"DATABASE": "other"}
    usage = {"model": "acme-1", "input_tokens": 1000, "output_tokens": 100}
    run = drain(Workflow("w").add("a", scripted.records.bind(**usage)).insert(standalone=True))
    before = workflow_totals(run)["cost"]

    settings.BATON = {"DATABASE": "other", "PRICES": {"acme-1": {"input": "2", "output": "10"}}}
    call_command("baton_reprice", stdout=StringIO())
    shown = StringIO()
    call_command("baton_show", str(run.pk), "--money", "--json", stdout=shown)

    assert before is None
    assert str(workflow_totals(run)["cost"]) == "0.003"
    assert [row["calls"] for row in cost_by_model()] == [1]
    assert len(steps_for_workflow(run)) == 1
    assert unknown_outcomes(run) == []
    assert json.loads(shown.getvalue())["money"]["totals"]["cost"] == "0.003"
    client = Client()
    client.force_login(User.objects.create_superuser("anna"))
    stat = StepStat.objects.using("other").get()
    for url in (
        reverse("admin:baton_workflowrun_change", args=[run.pk]),
        reverse("admin:baton_workflownode_change", args=[stat.node_id]),
        reverse("admin:baton_stepstat_changelist"),
        reverse("admin:baton_stepstat_change", args=[stat.pk]),
    ):
        assert "$0.0030" in client.get(url).content.decode(), url
    assert client.get(reverse("admin:baton_ledgerentry_changelist")).status_code == 200
