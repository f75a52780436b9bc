"""Graphs to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from baton.dashboard.graph.plan import Plan, make_plan
from baton.dashboard.graph.shape import Edge, Shape, Step

Rows = tuple[list[Step], list[Edge]]


def rows_of(dependencies: Mapping[str, Sequence[str]], **functions: str) -> Rows:
    """Rows of named steps; each has a function of its own where none is given."""
    ids = {name: index for index, name in enumerate(dependencies, start=1)}
    steps = [Step(ids[name], name, functions.get(name, f"steps.{name}")) for name in dependencies]
    return steps, [(ids[other], ids[name]) for name, others in dependencies.items() for other in others]


def fan(count: int, *, is_declared: bool = True) -> Rows:
    """One step, so many that wait for it, one that waits for them."""
    last = count + 2
    children = [
        Step(index + 2, f"page[{index}]", "steps.page", *(("page", index) if is_declared else ()))
        for index in range(count)
    ]
    edges = [(1, child.id) for child in children] + [(child.id, last) for child in children]
    return [Step(1, "split", "steps.split"), *children, Step(last, "merge", "steps.merge")], edges


def layers(count: int, width: int, *, functions: int = 1, dependencies: int = 2) -> Rows:
    """Layers in which each step waits for some of the layer above."""
    steps, edges = [], []
    for layer in range(count):
        for place in range(width):
            step = layer * width + place + 1
            steps.append(Step(step, f"s{layer}_{place}", f"steps.f{step % functions}"))
            if layer:
                above = dict.fromkeys((place * (1 + 6 * turn) + 3 * turn) % width for turn in range(dependencies))
                edges += [((layer - 1) * width + other + 1, step) for other in above]
    return steps, edges


@st.composite
def rows(draw: st.DrawFn, *, max_steps: int = 40) -> Rows:
    """Any graph: chains, twins, fan-outs, steps that skip layers, steps alone."""
    count = draw(st.integers(1, max_steps))
    reach = draw(st.integers(1, max_steps))
    most = draw(st.integers(0, 4))
    steps: list[Step] = []
    edges: list[Edge] = []
    for index in range(count):
        group = draw(st.sampled_from(["", "", "", "page", "chunk"]))
        step = Step(index + 1, f"s{index}", f"f{draw(st.integers(0, 3))}", group, index if group else None)
        steps.append(step)
        if index:
            others = st.integers(max(0, index - reach), index - 1)
            edges += [(other + 1, index + 1) for other in draw(st.lists(others, max_size=most, unique=True))]
    return steps, edges


def plan_of(graph: Rows, **options: Any) -> Plan:
    """The plan of a graph."""
    return make_plan(Shape.of(*graph), **options)
