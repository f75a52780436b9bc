from __future__ import annotations

import itertools
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F, TextField
from django.db.models.functions import Cast
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from baton import Workflow
from baton.engine.runner import answer_bell
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps

pytestmark = pytest.mark.django_db(transaction=True)


class Statements:
    """The statements that were run, each by its first words and its table."""

    def __init__(self, captured: CaptureQueriesContext) -> None:
        self.texts = [" ".join(query["sql"].split()) for query in captured.captured_queries]

    def __len__(self) -> int:
        return len(self.texts)

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, text)) for text in self.texts)

    @property
    def transactions(self) -> int:
        assert self.count("^SAVEPOINT") == 0
        assert self.count("^BEGIN") == self.count("^COMMIT")
        return self.count("^BEGIN")

    def between_bodies(self) -> list[Statements]:
        """The statements from one body's mark to the next, without the marks."""
        parts: list[Statements] = []
        for text in self.texts:
            if "body mark" in text:
                part = Statements.__new__(Statements)
                part.texts = []
                parts.append(part)
            elif parts:
                parts[-1].texts.append(text)
        return parts

    def __repr__(self) -> str:
        return "\n" + "\n".join(self.texts)


@pytest.fixture
def statements():
    def run(work) -> Statements:
        with CaptureQueriesContext(connection) as captured:
            work()
        return Statements(captured)

    return run


def test_hop_in_place_takes_six_statements_in_one_transaction_at_most(statements, settings):
    settings.BATON = {"BELL_SECONDS": 60}
    workflow = Workflow("chain").add("0", steps.mark)
    for number in range(1, 11):
        workflow.add(str(number), steps.mark, deps=[str(number - 1)])
    run = workflow.insert()

    hops = statements(lambda: answer_bell("default")).between_bodies()

    assert run.wait() == "completed"
    assert len(hops) == 11
    for hop in hops[:-1]:
        assert hop.transactions == 1
        assert len(hop) <= 6, hop


def test_hop_that_reads_the_result_of_its_only_dependency_asks_no_more(statements, settings):
    settings.BATON = {"BELL_SECONDS": 60}
    workflow = Workflow("chain").add("0", steps.mark.bind(1))
    for number in range(1, 6):
        workflow.add(str(number), steps.mark_total, deps=[str(number - 1)])
    run = workflow.insert()

    hops = statements(lambda: answer_bell("default")).between_bodies()

    assert run.wait() == "completed"
    assert run.steps["5"].result == 1
    assert all(len(hop) <= 6 for hop in hops[:-1]), hops


def test_step_taken_from_the_head_of_the_queue_takes_four_statements(statements, settings):
    settings.BATON = {"BELL_SECONDS": 60}
    workflow = Workflow("wide").add("last", steps.nothing, deps=[str(number) for number in range(5)], queue="slow")
    for number in range(5):
        workflow.add(str(number), steps.mark)
    workflow.insert()

    hops = statements(lambda: answer_bell("default")).between_bodies()

    assert len(hops) == 5
    for hop in hops[:-1]:
        assert hop.transactions == 1
        assert len(hop) <= 6, hop


def test_step_reached_through_a_bell_and_its_run_s_ending_take_fifteen_statements_in_two_transactions(statements):
    run = Workflow("x").add("a", steps.nothing).insert()

    done = statements(lambda: answer_bell("default"))

    assert run.wait() == "completed"
    assert done.transactions == 2, done
    assert len(done) <= 15, done


def test_bell_that_finds_nothing_takes_one_claim(statements):
    done = statements(lambda: answer_bell("default"))

    assert done.transactions == 0
    assert len(done) <= 3, done


def test_snooze_takes_one_transaction(statements):
    Workflow("x").add("a", steps.mark_and_snooze).insert()

    (part,) = statements(lambda: answer_bell("default")).between_bodies()

    assert part.transactions == 1
    assert part.count("UPDATE baton_workflownode") == 2, part  # put off, and the claim of another
    assert len(part) <= 8, part


def promoting(dependents: int) -> WorkflowRun:
    workflow = Workflow("wide").add("a", steps.mark)
    for number in range(dependents):
        workflow.add(f"b{number}", steps.nothing, deps=["a"], queue="slow")
    return workflow.insert()


@pytest.mark.parametrize("dependents", [10, 1000])
def test_settle_that_promotes_many_takes_no_more_statements_than_one_that_promotes_few(dependents, statements):
    run = promoting(dependents)

    (part,) = statements(lambda: answer_bell("default")).between_bodies()

    assert run.progress["states"] == {"completed": 1, "available": dependents}
    settle = part.texts[: part.texts.index("COMMIT") + 1]
    assert len(settle) <= 7, part
    assert sum("django_q_ormq" in text for text in settle) == 1


@pytest.mark.parametrize("settled", [10, 300])
def test_settle_costs_the_same_in_a_run_of_any_size(settled, statements, settings):
    settings.BATON = {"BELL_SECONDS": 60}
    workflow = Workflow("x").add("a", steps.mark).add("b", steps.nothing, deps=["a"], queue="slow")
    for number in range(settled):
        workflow.add(f"s{number}", steps.nothing, priority=-1)
    workflow.insert()

    parts = statements(lambda: answer_bell("default")).between_bodies()

    assert len(parts[0]) <= 9, parts[0]


def inserted(shape: int) -> WorkflowRun:
    workflow = Workflow("x")
    for layer, place in itertools.product(range(shape), range(shape)):
        deps = [f"{layer - 1}.{place}", f"{layer - 1}.{(place + 1) % shape}"] if layer else []
        workflow.add(f"{layer}.{place}", steps.nothing, deps=deps)
    return workflow.insert()


@pytest.mark.parametrize("shape", [2, 5, 9, 30])
def test_insert_takes_the_same_number_of_statements_for_any_number_of_steps(shape, statements):
    done = statements(lambda: inserted(shape))

    assert WorkflowRun.objects.get().nodes.count() == shape**2
    assert done.transactions == 1
    assert len(done) <= 7, done
    assert sum("django_q_ormq" in text for text in done.texts) == 1


def test_fan_in_reads_a_thousand_results_in_one_query(statements):
    workflow = Workflow("x").add("join", steps.mark_total, deps=[str(number) for number in range(1000)])
    for number in range(1000):
        workflow.add(str(number), steps.value.bind(number), queue="slow")
    run = workflow.insert()
    settle_all_but(run, "join")

    done = statements(lambda: answer_bell("default"))

    assert run.steps["join"].result == sum(range(1000))
    assert done.count("SELECT .*result_json.* FROM baton_workflowedge") == 1
    assert len(done) <= 18, done


def settle_all_but(run: WorkflowRun, name: str) -> None:
    """Let a thousand steps have returned their numbers, without running them one by one."""
    now = timezone.now()
    run.nodes.exclude(name=name).update(
        state="completed",
        has_result=True,
        settled_at=now,
        started_at=now,
        attempt=1,
        result_json=Cast(F("name"), TextField()),
    )
    run.nodes.filter(name=name).update(state="available", remaining=0, queued_at=now)


def test_result_of_each_dependency_is_asked_for_once_however_often_it_is_read(statements):
    run = (
        Workflow("x")
        .add("a", steps.value.bind(1))
        .add("b", steps.value.bind(2))
        .add("c", steps.read_often, deps=["a", "b"])
        .insert()
    )

    done = statements(lambda: drain(run))

    assert run.steps["c"].result == 30
    assert done.count("SELECT .*result_json.* FROM baton_workflowedge") == 1


def test_step_that_reads_no_result_asks_for_none(statements):
    run = Workflow("x").add("a", steps.value).add("b", steps.value).add("c", steps.nothing, deps=["a", "b"]).insert()

    done = statements(lambda: drain(run))

    assert done.count("SELECT .*result_json.* FROM baton_workflowedge") == 0


def test_steps_of_a_run_are_read_in_one_query(statements):
    run = drain(inserted(5))

    done = statements(lambda: [node.state for node in run.steps.values()])

    assert len(done) == 1


@pytest.mark.postgres
def test_statements_that_are_prepared_do_what_those_of_django_s_cursor_do(settings):
    settings.BATON = {"PREPARED_STATEMENTS": True}
    prepared = drain(inserted(4)).progress
    settings.BATON = {"PREPARED_STATEMENTS": False}

    assert drain(inserted(4)).progress == prepared == {"total": 16, "settled": 16, "states": {"completed": 16}}


def test_due_steps_are_made_ready_a_thousand_at_a_time():
    workflow = Workflow("x")
    for number in range(1010):
        workflow.add(str(number), steps.nothing, not_before=timezone.now() + timedelta(hours=1))
    run = workflow.insert()
    run.nodes.update(due_at=timezone.now() - timedelta(seconds=1), queue="slow")

    from baton.engine.gate import ready_due

    assert [ready_due(connection, "slow") for _ in range(3)] == [1000, 10, 0]


def test_words_that_databases_spell_differently_are_all_replaced():
    from tests.engine.test_plans import named_statements

    for name, statement in named_statements().items():
        assert not re.search(r"<[a-z /]+>", statement.sql(connection.vendor)), name
