"""What is true of the picture of any run: chains, diamonds, layers, stars, twins, and what names people give."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.dashboard.graph.plan import Plan, make_plan
from baton.dashboard.graph.shape import Edge, Shape, Step
from baton.dashboard.graph.svg import to_svg
from tests.dashboard.graphs import Rows
from tests.dashboard.pictures import drawn
from tests.dashboard.test_graph_layout import points_of

STATES = ["pending", "available", "executing", "snoozed", "retryable", "completed", "discarded", "cancelled"]
NAMES = [
    "s{}",
    "page[{}]",
    "<script>{}</script>",
    "\"{}' & co",
    "x" * 195 + "{}",
    "שלב {}",
    "🦊{}",
    "é́ {}",
    "{} 第一步",
]
SHAPES = ["chain", "diamonds", "layers", "star", "twins", "any"]


@st.composite
def runs(draw: st.DrawFn) -> Rows:
    """A run of up to 600 steps of one of the shapes, with some fan-outs and some functions in it."""
    count, shape = draw(st.integers(1, 600)), draw(st.sampled_from(SHAPES))
    dice = random.Random(draw(st.integers(0, 2**16)))
    width, functions = dice.randint(1, 40), dice.choice([1, 3, count])
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))
    groups = dice.choice([[""], ["", "", "page", 'chunk "&<']])
    steps = []
    for index in range(count):
        name = names[index % len(names)].format(index)
        group = dice.choice(groups)
        step = Step(index + 1, name, f"f{index % functions}", group, index if group else None, dice.random() < 0.1)
        steps.append(step)
    edges = [(other + 1, index + 1) for index in range(count) for other in _needs(shape, index, count, width, dice)]
    return steps, edges


def _needs(shape: str, index: int, count: int, width: int, dice: random.Random) -> list[int]:
    """What a step waits for."""
    layer, before = index // width, range(max(0, index - width), index)
    found = {
        "chain": before[-1:],
        # A step, three that wait for it, a step that waits for the three.
        "diamonds": before[-3:] if index % 4 == 0 else range(index - index % 4, index - index % 4 + 1),
        "layers": range((layer - 1) * width, layer * width) if layer else (),
        "star": range(min(1, index)),
        "twins": range(min(1, index)) if index < count - 1 else range(1, index),
        "any": before,
    }[shape]
    if (shape == "layers" and dice.random() < 0.5) or shape == "any":
        return dice.sample(found, min(len(found), dice.randint(0, 4)))
    return list(found)


def folded_edges(plan: Plan, graph: Rows) -> set[Edge]:
    """What of the dependencies is between different nodes of the picture."""
    at = {step: index for index, one in enumerate(plan.folded.folds) for step in one.members}
    pairs = {(at[source], at[target]) for source, target in graph[1] if source in at and target in at}
    return {(source, target) for source, target in pairs if source != target}


def drawn_edges(svg: ET.Element) -> set[tuple[str, str]]:
    """What the edges of a picture join, by the ids of nodes; through junctions, too."""
    parts = svg.findall("g")
    ids = [each.get("id", "") for each in (*parts[1].findall("a"), *parts[0].findall("circle"))]
    ends = [pair.split("-") for bunch in parts[0].findall("g") for pair in bunch.get("data-ends", "").split()]
    joined = [(ids[int(source)], ids[int(target)]) for source, target in ends]
    into, out = [pair for pair in joined if "-j-" in pair[1]], [pair for pair in joined if "-j-" in pair[0]]
    through = {(source, target) for source, dot in into for other, target in out if other == dot}
    return {pair for pair in joined if "-j-" not in "".join(pair)} | through


def implied(edges: set[Edge]) -> set[Edge]:
    """All pairs between which a way leads."""
    after: dict[int, list[int]] = {}
    for source, target in edges:
        after.setdefault(source, []).append(target)
    pairs = set()
    for source in after:
        seen, ahead = set(), [source]
        while ahead:
            found = [target for target in after.get(ahead.pop(), ()) if target not in seen]
            seen.update(found)
            ahead += found
        pairs |= {(source, target) for target in seen}
    return pairs


def points(svg: ET.Element) -> Iterator[tuple[float, float]]:
    """All corners of nodes, cells and edges."""
    edges, nodes = svg.findall("g")
    for path in edges.iter("path"):
        yield from points_of(path.get("d"))
    for node in nodes.findall("a"):
        x, y = (int(number) for number in node.get("transform", "")[len("translate(") : -1].split())
        box = node.find("rect")
        assert box is not None
        yield x, y
        yield x + int(box.get("width", 200)), y + int(box.get("height", 52))
        for use in node.findall("g/use"):
            yield x + 16 + int(use.get("x", 0)) + 10, y + 40 + int(use.get("y", 0)) + 10


@settings(max_examples=25)
@given(runs(), st.sampled_from(["down", "right"]), st.integers(0, 2**16))
def test_any_run_has_a_picture_that_is_true(graph, direction, seed):
    steps, edges = graph
    dice = random.Random(seed)
    plan = make_plan(Shape.of(*graph), direction=direction)
    states = {step.id: dice.choice(STATES) for step in steps}
    markup = to_svg(drawn(plan, states))
    svg = ET.fromstring(markup)

    # Every step is a node or behind a cell, once; of a part of a run the caption says so.
    inside = Counter(step for one in plan.folded.folds for step in one.members)
    assert set(inside.values()) == {1}
    assert plan.folded.around or inside.keys() == states.keys()
    assert sum(one.count for one in plan.folded.folds) == len(inside)
    # It stays small.
    nodes = svg.findall("g")[1].findall("a")
    assert len(nodes) <= 300
    cells = [len(node.cells) for node in drawn(plan, states).nodes]
    assert sum(cells) <= 2000
    assert max(cells) <= 400
    # All of it can be seen.
    _x, _y, width, height = (int(number) for number in svg.get("viewBox", "").split())
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points(svg))
    # Names are what they were.
    names = {step.id: step.name for step in steps}
    told = {int(node.get("id", "").rpartition("-")[2]): node for node in nodes if node.get("data-step")}
    assert {step: node.get("data-step") for step, node in told.items()} == {step: names[step] for step in told}
    assert all(node.get("aria-label", "").startswith(f"{names[step]}: ") for step, node in told.items())
    # Edges join what depends on each other, and nothing else.
    ids = {
        f"b-{'g' if one.is_group else 'n'}-{next(iter(one.members))}": at for at, one in enumerate(plan.folded.folds)
    }
    lines = {(ids[source], ids[target]) for source, target in drawn_edges(svg)}
    wanted = folded_edges(plan, graph)
    assert lines <= wanted
    assert lines == wanted or (plan.folded.is_thinned and wanted <= implied(lines))
    # The same run looks the same, in whatever order its rows come.
    mixed = dice.sample(edges, len(edges))
    again = make_plan(Shape.of(steps, mixed), direction=direction)
    assert to_svg(drawn(again, states)) == markup
