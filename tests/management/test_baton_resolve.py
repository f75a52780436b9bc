from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from baton import Workflow
from baton.models import LedgerEntry, WorkflowRun
from baton.testing import drain
from tests.factories import LedgerEntryFactory
from tests.llm import scripted

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("invariants", "prices")]


def printed(*arguments: Any) -> str:
    out = StringIO()
    call_command("baton_resolve", *arguments, stdout=out)
    return out.getvalue()


def asked() -> WorkflowRun:
    scripted.SCRIPT[:] = [TimeoutError("no answer")]
    return drain(Workflow("w").add("a", scripted.asks.bind(on_ambiguous="ask")).insert())


def test_pay_lets_the_step_call_again():
    run = asked()

    assert printed(run.pk, "a", "--pay") == "The call 'k' of step a is made again.\n"

    scripted.SCRIPT[:] = [1]
    assert drain(run).state == "completed"
    assert LedgerEntry.objects.get(number=1).resolved_by


def test_fail_discards_the_step():
    run = asked()

    assert printed(str(run.pk)[:8], "a", "--fail", "--key", "k") == "The call 'k' of step a fails the step.\n"

    assert drain(run).state == "failed"


def test_json_is_one_document_with_the_keys():
    run = asked()
    LedgerEntryFactory.create(node=run.steps["a"], key="other", ambiguous=True)

    assert json.loads(printed(run.pk, "a", "--fail", "--json")) == {
        "ok": True,
        "id": str(run.pk),
        "name": "w",
        "step": "a",
        "keys": ["k", "other"],
        "decision": "fail",
    }


def test_where_nothing_is_unknown_it_is_refused_in_words():
    run = asked()

    with pytest.raises(CommandError, match="has no call with the key 'other' of unknown outcome"):
        printed(run.pk, "a", "--pay", "--key", "other")
    with pytest.raises(CommandError, match="has no step named 'b'"):
        printed(run.pk, "b", "--pay")
    with pytest.raises(SystemExit) as raised:
        printed(run.pk, "b", "--pay", "--json")
    assert raised.value.code == 1
    assert run.steps["a"].state == "snoozed"


@pytest.mark.parametrize("decision", [[], ["--pay", "--fail"]])
def test_one_decision_must_be_given(decision):
    run = asked()

    with pytest.raises(CommandError, match="--pay"):
        printed(run.pk, "a", *decision)
