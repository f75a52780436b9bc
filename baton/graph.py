"""The graph of a workflow as plain Python: its faults, and an order to read it in."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import chain

from baton.exceptions import (
    CycleError,
    DuplicateStepError,
    EmptyWorkflowError,
    GraphError,
    SelfDependencyError,
    UnknownDependencyError,
)

Graph = Mapping[str, Collection[str]]
"""Step names, each with the names it depends on."""


def find_problems(steps: Sequence[tuple[str, Sequence[str]]]) -> list[GraphError]:
    """List every fault of a graph: no steps, duplicates, self-dependencies, unknown names, then circles.

    Steps that wait for each other are reported once per knot: steps of which each waits, over some way, for every other
    one make one :class:`~baton.exceptions.CycleError`, which shows a shortest circle among them.

    Args:
        steps: Names and the names they depend on, in the order they were added. Names may repeat.

    Returns:
        The faults, each kind in the order of ``steps``; empty for a graph that can run.
    """
    if not steps:
        return [EmptyWorkflowError()]
    merged = _merged(steps)
    return [
        *_duplicates(steps),
        *_self_dependencies(merged),
        *_unknown(merged),
        *_cycles(merged),
    ]


def topological_order(steps: Graph) -> list[str]:
    """Put every step after what it depends on, and otherwise leave the order as it is.

    Dependencies that are not among the steps are passed over, so that a part of a graph can be ordered too.

    Raises:
        CycleError: Steps wait for each other.
        SelfDependencyError: A step waits for itself.
    """
    order = _kahn(steps)
    if len(order) < len(steps):
        raise next(chain(_self_dependencies(steps), _cycles(steps)))
    return order


def _merged(steps: Sequence[tuple[str, Sequence[str]]]) -> dict[str, dict[str, None]]:
    """Each name once, with everything it depends on, so that a duplicate hides no other fault."""
    merged: dict[str, dict[str, None]] = {}
    for name, dependencies in steps:
        merged.setdefault(name, {}).update(dict.fromkeys(dependencies))
    return merged


def _duplicates(steps: Sequence[tuple[str, Sequence[str]]]) -> Iterator[DuplicateStepError]:
    times = Counter(name for name, _ in steps)
    return (DuplicateStepError(name) for name, count in times.items() if count > 1)


def _self_dependencies(steps: Graph) -> Iterator[SelfDependencyError]:
    return (SelfDependencyError(name) for name, dependencies in steps.items() if name in dependencies)


def _unknown(steps: Graph) -> Iterator[UnknownDependencyError]:
    return (
        UnknownDependencyError(name, dependency)
        for name, dependencies in steps.items()
        for dependency in dependencies
        if dependency not in steps
    )


def _kahn(steps: Graph) -> list[str]:
    """Order what can be ordered: all but the steps in a circle and those behind one."""
    names = list(steps)
    position = {name: index for index, name in enumerate(names)}
    waits_for = [0] * len(names)
    dependents: list[list[int]] = [[] for _ in names]
    for index, dependencies in enumerate(steps.values()):
        for dependency in {position[name] for name in dependencies if name in position}:
            waits_for[index] += 1
            dependents[dependency].append(index)
    # Ascending, hence a heap already.
    ready = [index for index, count in enumerate(waits_for) if not count]
    order = []
    while ready:
        index = heappop(ready)
        order.append(names[index])
        for dependent in dependents[index]:
            waits_for[dependent] -= 1
            if not waits_for[dependent]:
                heappush(ready, dependent)
    return order


def _cycles(steps: Graph) -> Iterator[CycleError]:
    """One error for each knot of two steps or more, in the order of the first step of each."""
    others = {
        name: [dependency for dependency in dependencies if dependency != name and dependency in steps]
        for name, dependencies in steps.items()
    }
    free = set(_kahn(others))
    tangled = {
        name: [dependency for dependency in dependencies if dependency not in free]
        for name, dependencies in others.items()
        if name not in free
    }
    knot_of = _knots(tangled)
    sizes = Counter(knot_of.values())
    told = set()
    for name in tangled:
        knot = knot_of[name]
        if sizes[knot] > 1 and knot not in told:
            told.add(knot)
            yield CycleError(_circle(name, tangled, knot_of))


def _knots(graph: Graph) -> dict[str, int]:
    """Number the strongly connected components (Tarjan, with a stack of its own: chains are longer than Python's)."""
    found: dict[str, int] = {}
    lowest: dict[str, int] = {}
    knot_of: dict[str, int] = {}
    unassigned: list[str] = []
    for root in graph:
        if root in found:
            continue
        walk: list[tuple[str, Iterator[str]]] = []
        entered: str | None = root
        while entered is not None or walk:
            if entered is not None:
                found[entered] = lowest[entered] = len(found)
                unassigned.append(entered)
                walk.append((entered, iter(graph[entered])))
                entered = None
            name, dependencies = walk[-1]
            for dependency in dependencies:
                if dependency not in found:
                    entered = dependency
                    break
                if dependency not in knot_of:
                    lowest[name] = min(lowest[name], found[dependency])
            else:
                walk.pop()
                if walk:
                    above = walk[-1][0]
                    lowest[above] = min(lowest[above], lowest[name])
                if lowest[name] == found[name]:
                    _assign(name, unassigned, knot_of, number=found[name])
    return knot_of


def _assign(name: str, unassigned: list[str], knot_of: dict[str, int], *, number: int) -> None:
    member = None
    while member != name:
        member = unassigned.pop()
        knot_of[member] = number


def _circle(start: str, graph: Graph, knot_of: Mapping[str, int]) -> list[str]:
    """A shortest way from a step along its dependencies back to itself; it stays inside the knot."""
    came_from: dict[str, str] = {}
    queue = deque([start])
    while True:
        name = queue.popleft()
        for dependency in graph[name]:
            if dependency == start:
                return _way(start, name, came_from)
            if dependency not in came_from and knot_of[dependency] == knot_of[start]:
                came_from[dependency] = name
                queue.append(dependency)


def _way(start: str, end: str, came_from: Mapping[str, str]) -> list[str]:
    way = [end]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]
