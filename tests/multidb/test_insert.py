from __future__ import annotations

import pytest
from django.db import connections, transaction

from baton import GraphError, Workflow, q2
from baton.exceptions import AtomicStepError, ForeignTransactionError
from baton.models import Completion, WorkflowNode, WorkflowRun
from baton.sweep import check, sweep
from baton.testing import drain
from tests import steps

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def chain() -> Workflow:
    return Workflow("x").add("a", steps.value.bind(2)).add("b", steps.total, deps=["a"])


def assert_nothing_written(using: str = "default") -> None:
    assert not WorkflowRun.objects.using(using).exists()
    assert not WorkflowNode.objects.using(using).exists()
    assert q2.waiting_bells("default") == 0


def test_insert_in_a_transaction_of_another_database_is_refused():
    with pytest.raises(ForeignTransactionError) as refusal, transaction.atomic(using="other"):
        chain().insert()

    assert (refusal.value.alias, refusal.value.using) == ("other", "default")
    assert_nothing_written()


def test_insert_in_a_transaction_of_another_database_is_possible_when_asked_for():
    with transaction.atomic(using="other"):
        run = chain().insert(standalone=True)
        transaction.set_rollback(True, using="other")

    assert drain(run).state == "completed"


def test_insert_in_transactions_of_both_databases_joins_batons_own():
    with transaction.atomic(using="other"), transaction.atomic():
        chain().insert()
        transaction.set_rollback(True)

    assert_nothing_written()


def test_connection_to_another_database_without_a_transaction_is_no_hindrance():
    connections["other"].ensure_connection()

    assert drain(chain().insert()).state == "completed"


def test_run_lives_in_the_database_that_the_setting_names(settings):
    settings.BATON = {"DATABASE": "other"}

    run = drain(chain().insert())

    assert run.state == "completed"
    assert run.steps["b"].result == 2
    assert list(run.steps) == ["a", "b"]
    assert run.progress == {"total": 2, "settled": 2, "states": {"completed": 2}}
    assert run.wait(timeout=60) == "completed"
    assert Completion.objects.using("other").get().outcome == "completed"
    assert not WorkflowRun.objects.using("default").exists()
    assert sweep().errors == {}
    assert check() == []


def test_bells_in_another_database_than_the_run_are_rung_when_the_run_commits(settings):
    settings.BATON = {"DATABASE": "other"}

    with transaction.atomic(using="other"):
        chain().insert()
        assert q2.waiting_bells("default") == 0

    assert q2.waiting_bells("default") == 1


def test_run_in_the_named_database_that_rolls_back_rings_no_bell(settings):
    settings.BATON = {"DATABASE": "other"}

    with transaction.atomic(using="other"):
        chain().insert()
        transaction.set_rollback(True, using="other")

    assert_nothing_written("other")


def test_run_in_the_named_database_is_cancelled_there(settings):
    settings.BATON = {"DATABASE": "other"}
    run = chain().insert()

    run.cancel("enough")

    assert WorkflowRun.objects.using("other").get().state == "cancelled"


def test_atomic_step_is_refused_where_the_models_are_in_another_database_than_batons(settings):
    settings.BATON = {"DATABASE": "other"}

    with pytest.raises(GraphError) as refusal:
        Workflow("x").add("a", steps.write_group.bind("g")).insert()

    assert [type(problem) for problem in refusal.value.problems] == [AtomicStepError]
