from __future__ import annotations

from enum import StrEnum

import pytest

from baton import Workflow, exceptions, results
from baton.exceptions import NoResultError, NotADependencyError, ResultError, StepNotFoundError
from baton.models import WorkflowRun
from baton.testing import drain
from tests import steps

pytestmark = pytest.mark.django_db


class Name(StrEnum):
    ONE = "one"


@pytest.fixture
def run() -> WorkflowRun:
    """Three dependencies, one of them without a result, and one step that is none."""
    return drain(
        Workflow("x")
        .add("one", steps.value.bind({"n": 1}))
        .add("two", steps.value.bind([2]))
        .add("none", steps.nothing)
        .add("other", steps.value)
        .add("asks", steps.lookups, deps=["one", "two", "none"])
        .add("all", steps.results, deps=["one", "two", "none"])
        .insert()
    )


def test_all_results_of_three_dependencies_of_which_one_has_none_are_two(run):
    assert run.steps["all"].result == {"one": {"n": 1}, "two": [2]}
    assert results.get_all_results(run.steps["all"]) == {"one": {"n": 1}, "two": [2]}


def test_body_asks_for_results_as_of_any_mapping(run):
    asked = run.steps["asks"].result

    assert asked["keys"] == ["one", "two"]
    assert asked["length"] == 2
    assert (asked["one by get"], asked["one in"]) == ({"n": 1}, True)
    assert (asked["none by get"], asked["none in"]) == ("default", False)
    assert (asked["other by get"], asked["other in"]) == ("default", False)
    assert (asked["nowhere by get"], asked["nowhere in"]) == ("default", False)


def test_each_way_of_having_no_result_is_an_error_of_its_own_under_one_base(run):
    asked = run.steps["asks"].result

    assert "one" not in asked
    assert asked["none"] == ["NoResultError", "Step 'none' has no result: it returned nothing."]
    assert asked["other"] == [
        "NotADependencyError",
        "Step 'asks' does not depend on 'other'. Add deps=['other'] to read its result.",
    ]
    assert asked["nowhere"] == ["StepNotFoundError", f"Run {run.pk} has no step named 'nowhere'."]
    for error in (NoResultError, NotADependencyError, StepNotFoundError):
        assert issubclass(error, ResultError)
        assert issubclass(error, LookupError)
        assert getattr(exceptions, error.__name__) is error


def test_results_of_a_node_are_had_outside_of_a_body(run):
    node = run.steps["all"]

    assert results.get_result(node, "one") == {"n": 1}
    assert results.get_result(node, Name.ONE) == {"n": 1}
    with pytest.raises(NoResultError):
        results.get_result(node, "none")
    with pytest.raises(NotADependencyError):
        results.get_result(node, "other")
    with pytest.raises(StepNotFoundError):
        results.get_result(node, "nowhere")


def test_own_result_is_had_once_the_step_has_completed():
    run = Workflow("x").add("a", steps.value.bind(5)).insert()
    with pytest.raises(NoResultError, match=r"^Step 'a' has no result: it is available\.$"):
        results.get_own_result(run.steps["a"])

    drain(run)

    assert results.get_own_result(run.steps["a"]) == 5


def test_own_result_is_read_afresh():
    run = Workflow("x").add("a", steps.value.bind(5)).insert()
    before = run.steps["a"]

    drain(run)

    assert results.get_own_result(before) == 5


def test_what_a_body_does_to_a_result_stays_its_own():
    run = drain(
        Workflow("x")
        .add("a", steps.value.bind([1]))
        .add("changes", steps.change.bind("a"), deps=["a"])
        .add("reads", steps.read.bind("a"), deps=["a", "changes"])
        .insert()
    )

    assert run.steps["changes"].result == [1, "changed"]
    assert run.steps["reads"].result == [1]
    assert run.steps["a"].result == [1]
