"""The graph: every fault is found, and the order is one to read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given

from baton.exceptions import (
    CycleError,
    DuplicateStepError,
    EmptyWorkflowError,
    GraphError,
    SelfDependencyError,
    UnknownDependencyError,
)
from baton.graph import find_problems, topological_order
from tests.strategies import Steps, dags, graphs

LONG = 100_000
WIDE = 20_000

NAMES = [str(index) for index in range(LONG)]
FEWER = NAMES[:WIDE]
SHAPES: dict[str, Callable[[], Steps]] = {
    "chain": lambda: [(name, NAMES[index - 1 : index]) for index, name in enumerate(NAMES)],
    "chain added backwards": lambda: [(name, FEWER[index - 1 : index]) for index, name in enumerate(FEWER)][::-1],
    "fan-out and fan-in": lambda: [("first", []), *((name, ["first"]) for name in FEWER), ("last", FEWER)],
    "independent": lambda: [(name, []) for name in FEWER],
}


def told(problems: list[GraphError]) -> list[object]:
    """What faults say, as comparable data."""
    return [
        (type(problem).__name__, {k: v for k, v in vars(problem).items() if k != "problems"}) for problem in problems
    ]


def reachable(steps: dict[str, set[str]], start: str) -> set[str]:
    """Whatever a step waits for, by naive search; itself only when it is in a circle."""
    seen: set[str] = set()
    while fresh := {dep for name in [*seen, start] for dep in steps.get(name, ())} - seen:
        seen |= fresh
    return seen


def merged(steps: Steps) -> dict[str, set[str]]:
    by_name: dict[str, set[str]] = {}
    for name, deps in steps:
        by_name.setdefault(name, set()).update(deps)
    return by_name


@given(dags())
def test_graph_without_a_circle_has_no_problem(steps: Steps) -> None:
    assert find_problems(steps) == []


@given(graphs())
def test_every_fault_is_found_and_none_is_invented(steps: Steps) -> None:
    by_name = merged(steps)
    names = [name for name, _ in steps]
    circular = {name: {dep for dep in deps if dep != name and dep in by_name} for name, deps in by_name.items()}
    knots = {
        frozenset({other for other in reachable(circular, name) if name in reachable(circular, other)})
        for name in circular
        if name in reachable(circular, name)
    }

    problems = find_problems(steps)

    found: dict[type, list[GraphError]] = {}
    for problem in problems:
        found.setdefault(type(problem), []).append(problem)
    assert {p.step for p in found.pop(DuplicateStepError, []) if isinstance(p, DuplicateStepError)} == {
        name for name in names if names.count(name) > 1
    }
    assert {p.step for p in found.pop(SelfDependencyError, []) if isinstance(p, SelfDependencyError)} == {
        name for name, deps in by_name.items() if name in deps
    }
    assert {
        (p.step, p.dependency) for p in found.pop(UnknownDependencyError, []) if isinstance(p, UnknownDependencyError)
    } == {(name, dep) for name, deps in by_name.items() for dep in deps if dep not in by_name}
    cycles = [p.cycle for p in found.pop(CycleError, []) if isinstance(p, CycleError)]
    assert len(cycles) == len(knots)
    assert {knot for knot in knots if any(knot.issuperset(cycle) for cycle in cycles)} == knots
    assert list(found) == ([] if steps else [EmptyWorkflowError])
    assert len({str(told([problem])) for problem in problems}) == len(problems)


@given(graphs())
def test_named_circle_is_one(steps: Steps) -> None:
    by_name = merged(steps)

    cycles = [problem.cycle for problem in find_problems(steps) if isinstance(problem, CycleError)]

    for cycle in cycles:
        assert len(cycle) == len(set(cycle)) > 1
        for name, awaited in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            assert awaited in by_name[name]


@given(graphs())
def test_problems_come_by_kind_and_then_in_the_order_of_the_steps(steps: Steps) -> None:
    kinds: list[type] = [
        EmptyWorkflowError,
        DuplicateStepError,
        SelfDependencyError,
        UnknownDependencyError,
        CycleError,
    ]
    first = {name: index for index, (name, _) in reversed(list(enumerate(steps)))}

    problems = find_problems(steps)

    order = [
        (kinds.index(type(p)), first.get(p.cycle[0] if isinstance(p, CycleError) else getattr(p, "step", ""), 0))
        for p in problems
    ]
    assert order == sorted(order)
    assert told(find_problems(steps)) == told(problems)


@pytest.mark.parametrize(
    ("steps", "problems"),
    [
        pytest.param([], [("EmptyWorkflowError", {})], id="empty"),
        pytest.param([("a", ["a"])], [("SelfDependencyError", {"step": "a"})], id="self, and not as a circle too"),
        pytest.param([("a", []), ("a", []), ("a", [])], [("DuplicateStepError", {"step": "a"})], id="thrice told once"),
        pytest.param(
            [("a", ["b", "b"])], [("UnknownDependencyError", {"step": "a", "dependency": "b"})], id="unknown, told once"
        ),
        pytest.param(
            [("a", ["c"]), ("b", ["a"]), ("c", ["b"]), ("d", ["c"])],
            [("CycleError", {"cycle": ["a", "c", "b"]})],
            id="along the dependencies, without what hangs on it",
        ),
        pytest.param(
            [("a", ["b", "c"]), ("b", ["c"]), ("c", ["a"])],
            [("CycleError", {"cycle": ["a", "c"]})],
            id="the shortest of a knot",
        ),
        pytest.param(
            [("a", ["b", "c"]), ("b", ["a"]), ("c", ["d"]), ("d", ["a"])],
            [("CycleError", {"cycle": ["a", "b"]})],
            id="the shortest of a knot, named first",
        ),
        pytest.param(
            [("a", ["b"]), ("b", ["a"]), ("c", ["d", "a"]), ("d", ["c"])],
            [("CycleError", {"cycle": ["a", "b"]}), ("CycleError", {"cycle": ["c", "d"]})],
            id="two knots, one hanging on the other",
        ),
        pytest.param(
            [("a", []), ("b", ["a"]), ("a", ["b"])],
            [("DuplicateStepError", {"step": "a"}), ("CycleError", {"cycle": ["a", "b"]})],
            id="a duplicate hides no circle",
        ),
    ],
)
def test_problem(steps: Steps, problems: list[object]) -> None:
    assert told(find_problems(steps)) == problems


def test_circle_is_written_as_one() -> None:
    (problem,) = find_problems([("a", ["b"]), ("b", ["c"]), ("c", ["a"])])

    assert str(problem) == "Steps wait for each other in a circle: a -> b -> c -> a. Remove one of these dependencies."


@given(dags())
def test_order_puts_every_step_after_its_dependencies(steps: Steps) -> None:
    order = topological_order(dict(steps))

    place = {name: index for index, name in enumerate(order)}
    assert sorted(order) == sorted(name for name, _ in steps)
    assert all(place[dep] < place[name] for name, deps in steps for dep in deps)


@given(dags())
def test_order_that_is_right_already_stays(steps: Steps) -> None:
    right = topological_order(dict(steps))

    assert topological_order({name: dict(steps)[name] for name in right}) == right


def test_order_moves_no_more_than_it_must() -> None:
    assert topological_order({"late": ["early"], "other": [], "early": [], "last": []}) == [
        "other",
        "early",
        "late",
        "last",
    ]


def test_order_of_a_part_passes_over_what_is_outside() -> None:
    assert topological_order({"c": ["b", "elsewhere"], "b": ["a"]}) == ["b", "c"]


@pytest.mark.parametrize(
    ("steps", "error"),
    [({"a": ["b"], "b": ["a"], "c": []}, CycleError), ({"a": ["a"]}, SelfDependencyError)],
)
def test_order_of_a_circle_is_refused(steps: dict[str, list[str]], error: type[GraphError]) -> None:
    with pytest.raises(error):
        topological_order(steps)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_long_and_wide_graphs_are_ordered(shape: Callable[[], Steps]) -> None:
    steps = shape()

    assert find_problems(steps) == []
    assert len(topological_order(dict(steps))) == len(steps)


def test_a_long_circle_is_found() -> None:
    steps = [(name, [FEWER[index - 1]]) for index, name in enumerate(FEWER)]

    (problem,) = find_problems(steps)

    assert isinstance(problem, CycleError)
    assert len(problem.cycle) == WIDE


def test_many_knots_are_found() -> None:
    pairs = [(f"{side}{index}", [f"{'b' if side == 'a' else 'a'}{index}"]) for index in range(20_000) for side in "ab"]

    assert len(find_problems(pairs)) == 20_000
