from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from datetime import timezone as fixed_zone
from enum import Enum, StrEnum

import pytest
from asgiref.sync import async_to_sync
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from baton import GraphError, Workflow, q2, result_of, step
from baton.exceptions import (
    AtomicStepError,
    CycleError,
    DuplicateStepError,
    EmptyWorkflowError,
    SelfDependencyError,
    UnimportableStepError,
    UnknownDependencyError,
    WaitInTransactionError,
    WorkflowExistsError,
)
from baton.models import WorkflowEdge, WorkflowNode, WorkflowRun
from baton.testing import drain
from tests import steps
from tests.recording import recorded

pytestmark = pytest.mark.django_db


class Name(StrEnum):
    FETCH = "fetch"
    PARSE = "parse"


class PlainName(Enum):
    STORE = "store"


def diamond() -> Workflow:
    return (
        Workflow("diamond")
        .add("a", steps.nothing)
        .add("b", steps.nothing, deps=["a"])
        .add("c", steps.nothing, deps=["a"])
        .add("d", steps.nothing, deps=["b", "c"])
    )


def edges_of(run: WorkflowRun) -> set[tuple[str, str]]:
    return set(WorkflowEdge.objects.filter(node__run=run).values_list("dependency__name", "node__name"))


def assert_nothing_written() -> None:
    assert not WorkflowRun.objects.exists()
    assert not WorkflowNode.objects.exists()
    assert not WorkflowEdge.objects.exists()
    assert q2.waiting_bells("default") == 0


def refusal_of(workflow: Workflow) -> GraphError:
    with pytest.raises(GraphError) as refusal:
        workflow.insert()
    assert_nothing_written()
    return refusal.value


# Building --------------------------------------------------------------------------------------------------------


def test_diamond_by_chained_add_builds_and_insert_writes_four_steps():
    run = diamond().insert()

    assert list(run.steps) == ["a", "b", "c", "d"]
    assert edges_of(run) == {("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")}
    assert [(node.remaining, node.n_deps, node.n_out) for node in run.steps.values()] == [
        (0, 0, 2),
        (1, 1, 1),
        (1, 1, 1),
        (2, 2, 0),
    ]


def test_run_without_an_id_is_given_a_uuid4():
    run = diamond().insert()

    assert isinstance(run.id, uuid.UUID)
    assert run.id.version == 4
    assert diamond().insert().id != run.id


@pytest.mark.parametrize("given", [uuid.UUID(int=7), str(uuid.UUID(int=7))])
def test_given_id_is_kept(given):
    run = Workflow("x", id=given).add("a", steps.nothing).insert()

    assert run.id == uuid.UUID(int=7)
    assert WorkflowRun.objects.get() == run


def test_id_that_a_run_has_is_refused_and_nothing_is_written():
    first = Workflow("x", id=uuid.UUID(int=7)).add("a", steps.nothing).insert()

    with pytest.raises(WorkflowExistsError) as refusal:
        Workflow("y", id=uuid.UUID(int=7)).add("b", steps.nothing).insert()

    assert refusal.value.workflow_id == first.id
    assert WorkflowNode.objects.get().name == "a"


def test_id_of_a_settled_run_is_refused_too():
    workflow = Workflow("x", key="k").add("a", steps.nothing)
    drain(workflow.insert())

    with pytest.raises(WorkflowExistsError):
        workflow.insert()


@pytest.mark.parametrize("given", ["no-uuid", ""])
def test_id_that_is_no_uuid_is_refused(given):
    with pytest.raises(ValueError, match="UUID"):
        Workflow("x", id=given)


def test_id_of_another_type_is_refused():
    with pytest.raises((TypeError, ValueError)):
        Workflow("x", id=5)  # type: ignore[arg-type]


@pytest.mark.django_db(transaction=True)
def test_label_is_in_every_event_of_the_run():
    with recorded() as events:
        drain(Workflow("the label").add("a", steps.nothing).add("b", steps.fail, deps=["a"], max_attempts=2).insert())

    every = [*events.inserted, *events.steps, *events.finished, *events.failed]
    assert len(every) == 1 + 2 + 4 + 1 + 1
    assert {event["workflow_name"] for event in every} == {"the label"}


def test_dependencies_by_str_and_by_enum_member_are_the_same_step():
    run = (
        Workflow("x")
        .add(Name.FETCH, steps.value.bind(1))
        .add("parse", steps.total, deps=[Name.FETCH])
        .add(PlainName.STORE, steps.total, deps=["fetch", Name.PARSE, "parse"])
        .insert()
    )

    assert list(run.steps) == ["fetch", "parse", "store"]
    assert edges_of(run) == {("fetch", "parse"), ("fetch", "store"), ("parse", "store")}
    assert drain(run).steps[PlainName.STORE].result == 2


def test_enum_member_refers_to_a_result_as_its_value_does():
    run = Workflow("x").add("fetch", steps.value.bind(3)).add("b", steps.value.bind(result_of(Name.FETCH))).insert()

    assert drain(run).steps["b"].result == 3


def test_dependency_named_twice_counts_once():
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a", "a"]).insert()

    assert run.steps["b"].remaining == 1
    assert drain(run).state == "completed"


def test_dependencies_may_be_added_after_their_dependents():
    run = (
        Workflow("x")
        .add("c", steps.nothing, deps=["b"])
        .add("b", steps.nothing, deps=["a"])
        .add("a", steps.nothing)
        .insert()
    )

    assert list(run.steps) == ["a", "b", "c"]
    assert drain(run).state == "completed"


def test_reference_is_a_dependency_too():
    run = (
        Workflow("x")
        .add("store", steps.add.bind(left=result_of("parse")["sizes"][0], right=result_of("count")))
        .add("parse", steps.value.bind({"sizes": [40, 50]}))
        .add("count", steps.value.bind(2))
        .insert()
    )

    assert edges_of(run) == {("parse", "store"), ("count", "store")}
    assert drain(run).steps["store"].result == 42


def test_add_refuses_no_graph():
    workflow = diamond().add("a", steps.nothing, deps=["a", "nope"])

    assert workflow.step_names == ["a", "b", "c", "d", "a"]
    assert len(workflow) == 5


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("x", steps.add), {}, TypeError, "Step 'tests.steps.add' needs 'left': give it with bind(left=...)."),
        (("x", len), {}, TypeError, "is not a step. Decorate the function with @step."),
        (("x", steps.nothing), {"deps": "a"}, TypeError, "Give a list of names, as in deps=['a']."),
        (("x", steps.nothing), {"deps": Name.FETCH}, TypeError, "Give a list of names, as in deps=['fetch']."),
        (("x", steps.nothing), {"deps": [3]}, TypeError, "add('x'): a dependency is 3."),
        ((3, steps.nothing), {}, TypeError, "add: name is 3."),
        (("", steps.nothing), {}, ValueError, "Give 1 to 255 characters without NUL."),
        (("n" * 256, steps.nothing), {}, ValueError, "Give 1 to 255 characters without NUL."),
        (("a\x00", steps.nothing), {}, ValueError, "Give 1 to 255 characters without NUL."),
        (("a\ud800", steps.nothing), {}, ValueError, "Give 1 to 255 characters without NUL."),
        (("x", steps.nothing), {"not_before": datetime(2026, 6, 14)}, ValueError, "which has no time zone."),  # noqa: DTZ001
        (("x", steps.nothing), {"not_before": 30}, TypeError, "Give an aware datetime."),
        (("x", steps.nothing), {"retries": 3}, TypeError, "unknown option 'retries'."),
        (("x", steps.nothing), {"max_attempts": 0}, ValueError, "at least one attempt is needed."),
        (("x", steps.nothing), {"max_attempts": "3"}, TypeError, "give a whole number."),
        (("x", steps.nothing), {"timeout": 0}, ValueError, "give seconds above 0"),
        (("x", steps.nothing), {"timeout": "1"}, TypeError, "give seconds"),
        (("x", steps.nothing), {"priority": 1.5}, TypeError, "give a whole number."),
        (("x", steps.nothing), {"backoff": -1}, ValueError, "backoff is -1"),
        (("x", steps.nothing), {"backoff": []}, TypeError, "give seconds, a list of seconds, or a callable"),
        (("x", steps.nothing), {"retry_on": "ValueError"}, TypeError, "give exception classes."),
        (("x", steps.nothing), {"retry_on": lambda: None}, TypeError, "give exception classes."),
        (("x", steps.nothing), {"atomic": 1}, TypeError, "give True or False."),
        (("x", steps.nothing), {"queue": 1}, TypeError, "give the name of a cluster as a str."),
        (("x", steps.nothing), {"queue": "q" * 101}, ValueError, "give 1 to 100 characters."),
    ],
)
def test_add_refuses_arguments_at_once(arguments, options, error, message):
    with pytest.raises(error) as refusal:
        Workflow("x").add(*arguments, **options)

    assert message in str(refusal.value)


@pytest.mark.parametrize("flag", ["ignore_cancelled", "ignore_discarded"])
@pytest.mark.parametrize("given", [1, "no"])
def test_flag_that_is_neither_true_nor_false_is_refused_where_it_is_given(flag, given):
    with pytest.raises(TypeError):
        Workflow("x").add("a", steps.nothing, **{flag: given})
    with pytest.raises(TypeError):
        Workflow("x", **{flag: given})


@pytest.mark.parametrize(
    ("moment", "state"),
    [(datetime.min, "available"), (datetime.max, "snoozed")],  # noqa: DTZ901 - the zone comes below
)
def test_any_aware_time_may_be_given(moment, state):
    for hours in (-14, 0, 14):
        given = moment.replace(tzinfo=fixed_zone(timedelta(hours=hours)))
        run = Workflow("x").add("a", steps.nothing, not_before=given).insert()
        assert run.steps["a"].state == state


@pytest.mark.parametrize(
    "deps", [("b", "c"), ["b", "c"], {"b", "c"}, iter(["b", "c"]), {"b": 1, "c": 2}, (name for name in "bc")]
)
def test_dependencies_may_be_any_iterable_of_names(deps):
    run = Workflow("x").add("a", steps.nothing, deps=deps).add("b", steps.nothing).add("c", steps.nothing).insert()

    assert edges_of(run) == {("b", "a"), ("c", "a")}


def test_names_may_hold_any_characters():
    names = ["100 %s %", 'it\'s "quoted"', "{0}\n", "käse 🧀", "result_of('a')", "a" * 255, " "]
    workflow = Workflow("odd names").add("last", steps.results, deps=names)
    for name in names:
        workflow.add(name, steps.value)

    run = drain(workflow.insert())

    assert run.state == "completed"
    assert set(run.steps["last"].result) == set(names)


def test_bound_step_may_be_added_more_than_once():
    bound = steps.add.bind(1, 2)

    run = drain(Workflow("x").add("a", bound).add("b", bound, priority=1).insert())

    assert (run.steps["a"].result, run.steps["b"].result) == (3, 3)


def test_step_with_every_required_argument_bound_is_added():
    assert drain(Workflow("x").add("a", steps.add.bind(1)).insert()).steps["a"].result == 1


def test_meta_is_kept_with_the_run():
    run = Workflow("x", meta={"who": ["me"], "n": 1}, debug=True).add("a", steps.nothing).insert()

    assert run.meta == {"who": ["me"], "n": 1}
    kept = WorkflowRun.objects.get()
    assert kept.meta == {"who": ["me"], "n": 1}
    assert kept.debug


def test_meta_that_cannot_be_stored_is_refused_where_it_is_given():
    with pytest.raises(TypeError, match=r'^meta\["a"\] is of type set'):
        Workflow("x", meta={"a": {1}})


# Faults of the graph -----------------------------------------------------------------------------------------------


def test_circle_is_refused_naming_both_steps_and_writes_nothing():
    refusal = refusal_of(Workflow("x").add("a", steps.nothing, deps=["b"]).add("b", steps.nothing, deps=["a"]))

    (problem,) = refusal.problems
    assert isinstance(problem, CycleError)
    assert sorted(problem.cycle) == ["a", "b"]
    assert "a -> b -> a" in str(refusal)


def test_unknown_dependency_is_refused_naming_step_and_dependency_and_writes_nothing():
    refusal = refusal_of(Workflow("x").add("a", steps.nothing, deps=["nope"]))

    (problem,) = refusal.problems
    assert isinstance(problem, UnknownDependencyError)
    assert (problem.step, problem.dependency) == ("a", "nope")
    assert "Step 'a' depends on 'nope'" in str(refusal)


def test_reference_to_an_unknown_step_is_refused_as_a_dependency_is():
    refusal = refusal_of(Workflow("x").add("a", steps.value.bind(result_of("nope")["part"])))

    assert [(type(each), vars(each)["dependency"]) for each in refusal.problems] == [(UnknownDependencyError, "nope")]


def test_duplicate_name_is_refused_with_an_error_of_its_own():
    refusal = refusal_of(Workflow("x").add(Name.FETCH, steps.nothing).add("fetch", steps.value))

    (problem,) = refusal.problems
    assert isinstance(problem, DuplicateStepError)
    assert problem.step == "fetch"


def test_self_dependency_is_refused_with_an_error_of_its_own():
    refusal = refusal_of(Workflow("x").add("a", steps.nothing, deps=["a"]))

    (problem,) = refusal.problems
    assert isinstance(problem, SelfDependencyError)
    assert problem.step == "a"


def test_empty_workflow_is_refused_with_an_error_of_its_own():
    refusal = refusal_of(Workflow("x"))

    assert [type(problem) for problem in refusal.problems] == [EmptyWorkflowError]


FAULTY = {
    "circle": lambda: Workflow("x").add("a", steps.nothing, deps=["b"]).add("b", steps.nothing, deps=["a"]),
    "unknown": lambda: diamond().add("e", steps.nothing, deps=["nope"]),
    "twice": lambda: diamond().add("a", steps.nothing),
    "itself": lambda: diamond().add("e", steps.nothing, deps=["e"]),
    "empty": lambda: Workflow("x"),
}


@pytest.mark.parametrize("make", FAULTY.values(), ids=FAULTY)
def test_validate_gives_the_verdict_of_insert_without_a_query(make, django_assert_num_queries):
    with django_assert_num_queries(0), pytest.raises(GraphError) as of_validate:
        make().validate()

    with pytest.raises(GraphError) as of_insert:
        make().insert()
    assert str(of_validate.value) == str(of_insert.value)
    assert [repr(each) for each in of_validate.value.problems] == [repr(each) for each in of_insert.value.problems]


def test_validate_passes_a_good_graph_without_a_query(django_assert_num_queries):
    workflow = diamond()

    with django_assert_num_queries(0):
        assert workflow.validate() is workflow
        assert workflow.problems() == []

    assert_nothing_written()


def test_insert_raises_one_error_that_lists_every_problem_and_problems_lists_them_without_raising():
    workflow = (
        Workflow("wrong")
        .add("a", steps.nothing, deps=["c"])
        .add("b", steps.nothing, deps=["a", "nope"])
        .add("c", steps.nothing, deps=["b", "c"])
        .add("a", steps.nothing)
    )

    listed = workflow.problems()
    refusal = refusal_of(workflow)

    assert {type(problem) for problem in listed} == {
        CycleError,
        UnknownDependencyError,
        SelfDependencyError,
        DuplicateStepError,
    }
    assert all(isinstance(problem, GraphError) for problem in listed)
    assert [str(problem) for problem in refusal.problems] == [str(problem) for problem in listed]
    assert all(str(problem) in str(refusal) for problem in listed)
    assert "'wrong'" in str(refusal)


def test_step_that_no_worker_could_import_is_refused():
    @step(name="of-a-function")
    def inner(ctx):
        pass

    refusal = refusal_of(Workflow("x").add("a", inner).add("b", steps.nothing, deps=["nope"]))

    assert [type(problem) for problem in refusal.problems] == [UnknownDependencyError, UnimportableStepError]
    assert vars(refusal.problems[1])["path"].endswith("test_step_that_no_worker_could_import_is_refused.<locals>.inner")


def test_atomic_async_step_is_refused():
    refusal = refusal_of(Workflow("x").add("a", steps.later, atomic=True))

    (problem,) = refusal.problems
    assert isinstance(problem, AtomicStepError)
    assert "its body is async" in str(problem)


# Options at both levels --------------------------------------------------------------------------------------------


@step(
    queue="slow",
    max_attempts=2,
    timeout=30,
    priority=4,
    backoff=[1, 2],
    retry_on=ValueError,
    no_retry_on=(UnicodeError,),
)
def decorated(ctx):
    raise ValueError


def test_options_of_the_decorator_hold_where_none_is_given_at_add():
    node = Workflow("x").add("a", decorated).insert().steps["a"]

    assert (node.queue, node.max_attempts, node.timeout, node.priority) == ("slow", 2, 30.0, 4)


def test_defaults_hold_where_no_option_is_given():
    node = Workflow("x").add("a", steps.nothing).insert().steps["a"]

    assert (node.queue, node.max_attempts, node.timeout, node.priority) == ("default", 5, None, 0)


def test_queue_priority_and_max_attempts_given_at_add_beat_the_decorator():
    node = Workflow("x").add("a", decorated, queue="llm", max_attempts=7, timeout=None, priority=-1).insert().steps["a"]

    assert (node.queue, node.max_attempts, node.timeout, node.priority) == ("llm", 7, None, -1)


@pytest.mark.parametrize(
    ("options", "executions"),
    [
        ({}, 3),
        ({"max_attempts": 1}, 1),
        ({"retry_on": (ValueError, OSError)}, 1),
        ({"retry_on": steps.RefusedError}, 3),
        ({"no_retry_on": steps.RefusedError}, 1),
        ({"no_retry_on": [OSError, Exception]}, 1),
        ({"retry_on": Exception, "no_retry_on": steps.RefusedError}, 1),
    ],
)
def test_what_is_retried_may_be_said_where_the_step_is_added(options, executions):
    node = drain(Workflow("x").add("a", steps.refuse, **options).insert()).steps["a"]

    assert node.state == "discarded"
    assert len(node.attempts) == executions


def test_option_that_no_worker_could_import_is_refused_at_add_or_insert():
    class Local(Exception):  # noqa: N818
        pass

    with pytest.raises(TypeError, match="a worker could not import"):
        Workflow("x").add("a", steps.nothing, retry_on=Local).insert()

    assert_nothing_written()


# Insert --------------------------------------------------------------------------------------------------------------


def test_error_while_writing_the_last_row_leaves_nothing():
    # The bells are written last: their table is out of reach.
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_q_ormq RENAME TO elsewhere")

    with pytest.raises(DatabaseError), transaction.atomic():
        diamond().insert()

    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE elsewhere RENAME TO django_q_ormq")
    assert_nothing_written()


@pytest.mark.broker
@pytest.mark.django_db(transaction=True)
def test_insert_in_an_outer_transaction_that_rolls_back_enqueues_nothing():
    with recorded() as events, transaction.atomic():
        run = diamond().insert()
        assert list(run.steps) == ["a", "b", "c", "d"]
        transaction.set_rollback(True)

    assert_nothing_written()
    assert events.order == []


@pytest.mark.broker
@pytest.mark.django_db(transaction=True)
def test_insert_in_an_outer_transaction_enqueues_when_that_commits():
    with recorded() as events, transaction.atomic():
        run = diamond().insert()
        assert events.order == []

    assert q2.waiting_bells("default") == 1
    assert events.order == ["inserted"]
    assert WorkflowRun.objects.get() == run


def test_only_steps_without_dependencies_are_ready_and_rung_for_at_insert():
    run = diamond().add("root", steps.nothing, queue="slow").insert()

    assert {name: node.state for name, node in run.steps.items()} == {
        "a": "available",
        "root": "available",
        "b": "pending",
        "c": "pending",
        "d": "pending",
    }
    assert (q2.waiting_bells("default"), q2.waiting_bells("slow")) == (1, 1)


def test_no_more_bells_are_rung_than_the_queue_has_workers():
    workflow = Workflow("wide")
    for number in range(20):
        workflow.add(f"s{number}", steps.nothing)

    workflow.insert()

    assert q2.waiting_bells("default") == 2


def test_inserted_run_is_a_workflow_run_that_is_running():
    run = diamond().insert()

    assert isinstance(run, WorkflowRun)
    assert run.state == "running"
    assert not run.is_settled
    assert timezone.now() - run.inserted_at < timedelta(seconds=10)
    assert WorkflowRun.objects.running().get() == run


@pytest.mark.django_db(transaction=True)
def test_ainsert_is_the_twin_of_insert():
    run = async_to_sync(diamond().ainsert)()

    assert list(run.steps) == ["a", "b", "c", "d"]
    assert drain(run).state == "completed"


@pytest.mark.django_db(transaction=True)
def test_ainsert_raises_what_insert_raises():
    with pytest.raises(GraphError):
        async_to_sync(Workflow("x").ainsert)()


def test_workflow_of_10000_steps_in_100_layers_is_inserted_in_order():
    workflow = Workflow("layers")
    for layer in range(100):
        for place in range(100):
            deps = [f"{layer - 1}.{place}", f"{layer - 1}.{(place + 1) % 100}"] if layer else []
            workflow.add(f"{layer}.{place}", steps.nothing, deps=deps)

    run = workflow.insert()

    assert run.nodes.count() == 10_000
    edges = WorkflowEdge.objects.filter(node__run=run).values_list("dependency_id", "node_id")
    assert len(edges) == 19_800
    assert all(dependency < node for dependency, node in edges)


# Keys ----------------------------------------------------------------------------------------------------------------


def test_second_insert_of_a_name_and_key_returns_the_first_run_while_that_is_unsettled():
    first = Workflow("x", key="monday").add("a", steps.nothing).insert()

    second = Workflow("x", key="monday").add("b", steps.nothing).insert()

    assert second == first
    assert list(second.steps) == ["a"]
    assert WorkflowRun.objects.count() == 1


def test_key_is_free_again_once_the_run_is_settled():
    first = drain(Workflow("x", key="monday").add("a", steps.nothing).insert())

    second = Workflow("x", key="monday").add("a", steps.nothing).insert()

    assert second != first
    assert second.key == "monday"


def test_key_of_another_name_is_another_key():
    first = Workflow("x", key="monday").add("a", steps.nothing).insert()

    assert Workflow("y", key="monday").add("a", steps.nothing).insert() != first
    assert Workflow("x", key="tuesday").add("a", steps.nothing).insert() != first


def test_runs_without_a_key_do_not_meet():
    assert diamond().insert() != diamond().insert()


def test_run_returned_for_a_key_announces_no_second_insert(django_capture_on_commit_callbacks):
    Workflow("x", key="monday").add("a", steps.nothing).insert()

    with recorded() as events, django_capture_on_commit_callbacks(execute=True):
        Workflow("x", key="monday").add("a", steps.nothing).insert()

    assert events.inserted == []


# Not before ---------------------------------------------------------------------------------------------------------


def test_root_with_a_time_ahead_waits_for_it_and_has_a_bell_for_then():
    moment = timezone.now() + timedelta(hours=1)

    run = Workflow("x").add("a", steps.ran, not_before=moment).insert()

    node = run.steps["a"]
    assert (node.state, node.due_at, node.attempt) == ("snoozed", moment, 0)
    assert q2.waiting_bells("default") == 0


def test_root_with_a_time_that_has_passed_is_ready():
    run = Workflow("x").add("a", steps.nothing, not_before=datetime(2020, 1, 1, tzinfo=UTC)).insert()

    assert run.steps["a"].state == "available"
    assert q2.waiting_bells("default") == 1


def test_time_may_be_given_in_any_zone():
    zone = fixed_zone(timedelta(hours=5, minutes=30))
    moment = (timezone.now() + timedelta(hours=1)).astimezone(zone)

    assert Workflow("x").add("a", steps.nothing, not_before=moment).insert().steps["a"].due_at == moment


# Waiting ------------------------------------------------------------------------------------------------------------


def test_wait_inside_the_transaction_that_inserted_raises_at_once():
    run = diamond().insert()

    with pytest.raises(WaitInTransactionError):
        run.wait()


def test_wait_for_a_settled_run_returns_its_outcome_also_in_a_transaction():
    run = diamond().insert()
    drain(WorkflowRun.objects.get(pk=run.pk))

    assert run.state == "running"
    assert run.wait() == "completed"
    assert run.state == "completed"


@pytest.mark.django_db(transaction=True)
def test_wait_raises_timeout_error_and_says_how_far_the_run_is():
    run = diamond().insert()

    with pytest.raises(TimeoutError) as refusal:
        run.wait(timeout=0.05)

    assert "0 of 4 steps are settled" in str(refusal.value)
    assert run.state == "running"
