"""What a painted plan says, and its markup."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from django.utils.html import escape
from hypothesis import given, settings
from hypothesis import strategies as st

import baton
from baton.dashboard.graph.cells import definition
from baton.dashboard.graph.drawing import draw
from baton.dashboard.graph.faces import GroupFace, StepFace
from baton.dashboard.graph.labels import detail
from baton.dashboard.graph.plan import make_plan
from baton.dashboard.graph.shape import Shape, Step
from baton.dashboard.graph.svg import to_svg
from tests.dashboard.graphs import fan, layers, plan_of, rows, rows_of
from tests.dashboard.pictures import drawn

BRIEF = {
    "plan": [],
    "search": ["plan"],
    "assess": ["search"],
    "synthesis": ["assess", "plan"],
    "publish": ["synthesis"],
}
STATES = ["pending", "available", "executing", "snoozed", "retryable", "completed", "discarded", "cancelled"]
ELEMENTS = {"svg", "defs", "marker", "g", "path", "circle", "a", "rect", "use", "text"}


def parsed(markup):
    return ET.fromstring(markup)


def bunches(svg):
    """The edges that look alike."""
    return svg.find("g[@class='b-edges']").findall("g")


def cells_of(svg, link):
    """The state, the column and the row of each cell of a mosaic."""
    known = {group.get("id"): group for group in svg.find("defs").findall("g")}

    def inside(group):
        for use in group.findall("use"):
            at = (int(use.get("x", 0)), int(use.get("y", 0)))
            found = known.get(use.get("href")[1:])
            if found is not None and found.find("use") is not None:
                yield from ((state, at[0] + x, at[1] + y) for state, x, y in inside(found))
            else:
                state, _, length = use.get("href").removeprefix("#b-c-").partition("-")
                yield from ((state, at[0] + 12 * place, at[1]) for place in range(int(length or 1)))

    return [(state, x // 12, y // 12) for state, x, y in inside(link.find("g"))]


def by_step(drawing):
    return {node.key: node for node in drawing.nodes}


def edge_between(drawing, source, target):
    ids = {node.key: node.id for node in drawing.nodes}
    return next(edge for edge in drawing.edges if (edge.source, edge.target) == (ids[source], ids[target]))


def test_edges_are_settled_or_waited_for():
    drawing = drawn(plan_of(rows_of(BRIEF)), {3: "executing", 4: "pending", 5: "pending"})

    assert edge_between(drawing, "plan", "search").kind == "settled"
    assert edge_between(drawing, "search", "assess").kind == "settled"
    assert edge_between(drawing, "assess", "synthesis").kind == "waiting"


def test_the_edges_that_cancelled_are_told_from_those_that_did_not():
    plan = plan_of(rows_of({"a": [], "b": [], "c": ["a", "b"], "d": ["a"]}))
    steps = {
        1: StepFace(state="discarded"),
        2: StepFace(state="completed"),
        3: StepFace(state="cancelled", by_dependency=True),
        4: StepFace(state="cancelled"),
    }

    drawing = draw(plan, steps, {})

    kinds = {key: edge_between(drawing, *key).kind for key in (("a", "c"), ("b", "c"), ("a", "d"))}
    assert kinds == {("a", "c"): "cause", ("b", "c"): "settled", ("a", "d"): "settled"}
    assert '<g class="b-cause" data-ends=' in to_svg(drawing)
    assert "url(#b-head-cause)" in to_svg(drawing)


def test_a_dependent_that_ignores_failures_has_a_ring_at_its_edges():
    steps = [Step(1, "a", "f"), Step(2, "b", "g", ignores_failures=True)]

    drawing = drawn(make_plan(Shape.of(steps, [(1, 2)])), {1: "discarded"})

    (edge,) = drawing.edges
    assert (edge.kind, edge.is_ignoring) == ("settled", True)
    assert "url(#b-ring" in to_svg(drawing)


def test_the_critical_path_goes_through_a_junction():
    names = {"a": [], "b": [], "c": [], "x": ["a", "b", "c"], "y": ["a", "b", "c"]}
    steps = {step: StepFace(state="completed", seconds=seconds) for step, seconds in enumerate([1, 9, 2, 3, 8], 1)}

    drawing = draw(plan_of(rows_of(names)), steps, {})

    nodes = {node.id: node.name for node in drawing.nodes}
    ends = [(nodes.get(edge.source, "."), nodes.get(edge.target, ".")) for edge in drawing.edges if edge.is_critical]
    assert sorted(ends) == [(".", "y"), ("b", ".")]
    assert [dot.is_critical for dot in drawing.junctions] == [True]
    assert [node.name for node in drawing.nodes if node.is_critical] == ["b", "y"]


def test_a_step_says_what_it_is_and_how_long_it_took():
    face = StepFace(state="executing", seconds=41, since="2026-11-21T14:00:00Z", detail="gpt-5", cost="$0.0610")

    (node,) = draw(plan_of(rows_of({"assess[gpt-5]": []})), {1: face}, {}).nodes

    assert node.label == "assess[gpt-5]: executing. gpt-5, 41 s, $0.0610"
    assert (node.title, node.time, node.line, node.cost) == ("assess[gpt-5]", "41 s", "gpt-5", "$0.0610")


def test_a_name_that_does_not_fit_is_shortened_and_told_in_full():
    name = "reconcile_all_the_ledgers_of_the_year"

    (node,) = draw(plan_of(rows_of({name: []})), {1: StepFace(state="completed", seconds=3)}, {}).nodes

    assert node.title == "reconcil…he_year"
    assert node.label.startswith(f"{name}: completed.")


def test_a_group_that_is_all_alike_says_so_once():
    assert drawn(plan_of(fan(400))).nodes[1].label == "page: fan-out of 400, completed."


def test_a_group_says_how_far_it_is():
    states = dict.fromkeys(range(2, 402), "completed") | {2: "discarded", 3: "executing", 4: "executing"}

    drawing = drawn(plan_of(fan(400)), states)

    node = drawing.nodes[1]
    assert (node.title, node.time, node.line) == ("page", "397 of 400 done", "1 discarded · 2 executing")
    assert (node.state, node.icon) == ("executing", "stack")
    assert node.label == "page: fan-out of 400, executing. 1 discarded, 2 executing, 397 completed"
    assert drawing.caption == "402 steps, 3 drawn: page is folded"
    assert drawing.label == "402 steps: 1 discarded, 2 executing, 399 completed"


def test_a_big_group_says_what_a_cell_stands_for():
    assert drawn(plan_of(fan(9985))).nodes[1].line == "1 cell = 25 steps"
    assert drawn(plan_of(fan(9985)), {7: "discarded"}).nodes[1].line == "1 cell = 25 steps · 1 discarded"


def test_a_line_without_room_keeps_what_matters_most():
    plan = plan_of(layers(100, 100))
    first, second = (one.key for one in plan.folded.folds[:2])
    face = GroupFace(counts={"discarded": 5, "completed": 95}, cells=["completed"] * 10)

    drawing = draw(plan, {}, {first: face, second: replace(face, cost="$0.3217")})

    assert [node.line for node in drawing.nodes[:2]] == ["1 cell = 10 steps · 5 discarded", "5 discarded"]


def test_a_group_is_painted_from_what_a_query_counted():
    plan = plan_of(fan(1000))
    (_, page, _), (_, share, _) = plan.folded.folds, plan.shares

    face = GroupFace.of_rows([(0, "completed", 2), (0, "executing", 1), (1, "discarded", 3)], page, share)

    assert share == 3
    assert face.cells[:3] == ["executing", "discarded", "pending"]
    assert (len(face.cells), face.state) == (334, "executing")
    assert face.counts == {"completed": 2, "executing": 1, "discarded": 3}


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({"completed": 3, "discarded": 1}, "discarded"),
        ({"completed": 3, "discarded": 1, "pending": 1}, "pending"),
        ({"completed": 3}, "completed"),
        ({"available": 3, "snoozed": 1}, "available"),
        ({}, "pending"),
    ],
)
def test_the_state_of_a_group(counts, state):
    assert GroupFace(counts=counts).state == state


def test_what_is_not_known_is_pending():
    drawing = draw(plan_of(fan(20)), {}, {})

    assert [node.state for node in drawing.nodes] == ["pending"] * 3
    assert drawing.counts == {"pending": 22}


def test_the_chosen_step_is_marked_in_its_mosaic():
    drawing = drawn(plan_of(fan(9985)), selected=2 + 77)

    node = drawing.nodes[1]
    assert (node.is_selected, node.chosen_cell) == (True, 3)
    assert to_svg(drawing).count('class="b-chosen"') == 1


@pytest.mark.parametrize(
    ("states", "selected", "look"),
    [
        ({}, None, ""),
        ({3: "executing"}, None, "n-3"),
        ({3: "executing", 2: "discarded"}, None, "n-2"),
        ({3: "executing"}, 5, "n-5"),
    ],
)
def test_the_first_look_is_at_what_is_chosen_executes_or_failed(states, selected, look):
    drawing = drawn(plan_of(rows_of(BRIEF)), states, selected=selected)

    assert drawing.look == look
    assert ('data-look="b-n-' in to_svg(drawing)) is bool(look)


def test_nodes_are_read_row_by_row():
    drawing = drawn(plan_of(layers(5, 6, functions=31)))

    places = [(node.row, node.place) for node in drawing.nodes]
    assert places == sorted(places)


def test_an_open_group_shows_its_steps_inside():
    graph = fan(10)

    drawing = drawn(plan_of(graph, opened=["fan_out:page"]), {5: "executing"}, selected=5)

    group = drawing.nodes[1]
    inside = [node for node in drawing.nodes if node.parent == group.id]
    assert [node.name for node in inside] == [f"page[{index}]" for index in range(10)]
    assert [node.name for node in drawing.nodes if node.is_selected] == ["page[3]"]
    assert group.state == "executing"
    assert all(
        group.x < node.x
        and group.y < node.y
        and node.x + node.width < group.x + group.width
        and node.y + node.height < group.y + group.height
        for node in inside
    )


@pytest.mark.parametrize(
    ("plan", "caption"),
    [
        (plan_of(rows_of(BRIEF)), "5 steps, 5 dependencies"),
        (plan_of(rows_of({"a": [], "b": ["a"]})), "2 steps, 1 dependency"),
        (plan_of(layers(100, 100)), "10,000 steps, 100 drawn: s0, s1 and 98 others are folded"),
        (
            plan_of(layers(30, 20, functions=607), around=301),
            "showing 11 of 600 steps around s15_0",
        ),
    ],
)
def test_the_caption_says_what_is_to_be_seen(plan, caption):
    assert drawn(plan).caption == caption


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"state": "pending", "waits_for": ["a"], "dependencies": 1}, "waits for a"),
        ({"state": "pending", "waits_for": ["a"], "dependencies": 3}, "waits for 1 of 3"),
        ({"state": "completed", "queue": "ocr", "attempt": 1, "max_attempts": 5}, "ocr"),
        ({"state": "completed", "queue": "ocr", "attempt": 2, "max_attempts": 5}, "attempt 2 of 5"),
        ({"state": "completed", "queue": "ocr", "model": "gpt-5", "attempt": 2, "max_attempts": 5}, "gpt-5"),
        ({"state": "retryable", "queue": "ocr", "model": "gpt-5", "attempt": 2, "max_attempts": 5}, "attempt 2 of 5"),
    ],
)
def test_the_second_line_of_a_step(options, line):
    assert detail(**options) == line


# Markup ---------------------------------------------------------------------------------------------------------------


def test_a_node_is_a_link_with_its_words():
    face = StepFace(state="executing", seconds=41, since="2026-11-21T14:00:00Z", detail="gpt-5", progress=0.5)

    svg = parsed(to_svg(draw(plan_of(rows_of({"assess[gpt-5]": []})), {1: face}, {}, selected=1)))

    (link,) = svg.iter("a")
    assert link.attrib == {
        "class": "b-node b-executing b-selected",
        "id": "b-n-1",
        "href": "?step=assess%5Bgpt-5%5D",
        "aria-label": "assess[gpt-5]: executing. gpt-5, 41 s",
        "data-step": "assess[gpt-5]",
        "transform": "translate(24 24)",
    }
    assert [text.text for text in link.iter("text")] == ["assess[gpt-5]", "41 s", "gpt-5"]
    assert link.find("use").get("href") == "#b-i-executing"
    bar = link.findall("rect")[-1]
    assert (bar.get("class"), bar.get("width"), bar.get("height")) == ("b-bar", "98", "3")


def test_a_bar_moves_where_nobody_knows_how_far_a_step_is():
    drawing = draw(plan_of(rows_of({"a": []})), {1: StepFace(state="executing")}, {})

    assert 'class="b-bar b-moving"' in to_svg(drawing)


def test_a_group_is_a_link_to_its_panel_and_tells_its_members():
    svg = parsed(to_svg(drawn(plan_of(fan(50)), {3: "executing"})))

    link = list(svg.iter("a"))[1]
    assert link.get("href") == "?group=fan_out%3Apage"
    assert (link.get("data-members"), svg.find("g[@class='b-nodes']").get("data-share")) == ("2-51", "1")
    rows = [("completed", column, row) for row in range(4) for column in range(15)][:50]
    assert cells_of(svg, link) == [rows[0], ("executing", 1, 0), *rows[2:]]


def test_cells_side_by_side_in_one_state_are_written_as_one():
    svg = parsed(to_svg(drawn(plan_of(fan(400)), {60: "discarded"})))

    link = list(svg.iter("a"))[1]
    runs = [int((use.get("href").split("-")[3:] or [1])[0]) for use in link.find("g").findall("use")]
    assert runs == [25, 25, *[5, 2, 1], 1, *[10, 5, 1], *[25] * 13]
    cells = cells_of(svg, link)
    assert cells[58] == ("discarded", 8, 2)
    assert [cell[1:] for cell in cells] == [(index % 25, index // 25) for index in range(400)]


def test_rows_and_what_edges_join_are_told_by_places():
    names = {"a": [], "b": [], "c": [], "x": ["a", "b", "c"], "y": ["a", "b", "c"], "z": ["x"]}

    svg = parsed(to_svg(drawn(plan_of(rows_of(names)))))

    assert svg.find("g[@class='b-nodes']").get("data-rows") == "3 2 1"
    things = [link.get("data-step") for link in svg.iter("a")] + ["dot"]
    ends = [pair.split("-") for bunch in bunches(svg) for pair in bunch.get("data-ends").split()]
    joined = sorted((things[int(source)], things[int(target)]) for source, target in ends)
    assert joined == [("a", "dot"), ("b", "dot"), ("c", "dot"), ("dot", "x"), ("dot", "y"), ("x", "z")]


def test_the_addresses_are_the_callers():
    svg = parsed(to_svg(drawn(plan_of(rows_of({"a": []}))), address=lambda node: f"/runs/?x=1&y={node.key}"))

    assert next(svg.iter("a")).get("href") == "/runs/?x=1&y=a"


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onload='alert(1)",
        "a\u202eb\x00\n",
        "\ud800 half",
        "&amp;",
    ],
)
@pytest.mark.parametrize("where", ["name", "detail", "cost", "fan"])
def test_every_text_is_escaped(name, where):
    steps = [Step(1, name if where == "name" else "a", "f"), Step(2, "b", "f")]
    if where == "fan":
        steps = [Step(1, f"{name}1", "f", name, 0), Step(2, f"{name}2", "f", name, 1)]
    face = StepFace(state="completed", **({where: name} if where in {"detail", "cost"} else {}))

    markup = to_svg(draw(make_plan(Shape.of(steps, [])), {1: face}, {}))

    svg = parsed(markup)
    assert {element.tag for element in svg.iter()} <= ELEMENTS
    assert "<script" not in markup
    assert escape(markup) is not markup
    assert str(markup).encode()


@settings(max_examples=30)
@given(rows(), st.lists(st.sampled_from(STATES), min_size=40, max_size=40), st.sampled_from(["down", "right"]))
def test_markup_has_no_styles_no_scripts_and_only_ids_of_ours(graph, states, direction):
    plan = plan_of(graph, direction=direction)

    svg = parsed(to_svg(drawn(plan, dict(enumerate(states, start=1)))))

    ids = [element.get("id") for element in svg.iter() if element.get("id")]
    assert len(ids) == len(dict.fromkeys(ids))
    known = dict.fromkeys(ids)
    for element in svg.iter():
        assert element.tag in ELEMENTS
        assert not [name for name in element.attrib if name == "style" or name.startswith("on")]
        assert all(name.startswith("b-") for name in element.get("class", "b-").split())
    for use in svg.iter("use"):
        href = use.get("href")[1:]
        assert href in known or re.fullmatch(rf"b-(c-({'|'.join(STATES)})|i-({'|'.join(STATES)}|stack))", href)
    things = len(list(svg.iter("a"))) + len(plan.layout.dots)
    for bunch in bunches(svg):
        ends = bunch.get("data-ends").split()
        assert len(ends) == len(bunch)
        assert all(int(place) < things for pair in ends for place in pair.split("-"))
        assert bunch.get("marker-end", "url(#b-graph)")[5:-1] in known
        for edge in bunch:
            assert re.fullmatch(r"M\d+ \d+([vh]\d+|c[-\d ]+)+", edge.get("d"))
    assert all(identity.startswith("b-") for identity in ids)


@pytest.mark.parametrize("state", STATES)
def test_short_runs_are_made_of_the_shapes_that_single_cells_have(state):
    single, run = (ET.fromstring(definition(state, length)) for length in (1, 5))

    assert definition(state, 1) in (Path(baton.__file__).parent / "templates/admin/baton/icons.html").read_text()
    assert {**single.attrib, "id": ""} == {**run.attrib, "id": ""}
    assert [shape.tag for shape in run] == [shape.tag for shape in single for _cell in range(5)]
    starts = [float(shape.get("x") or shape.get("d")[1:].split()[0]) for shape in run]
    assert starts == [starts[first] + 12 * cell for first in range(0, len(starts), 5) for cell in range(5)]


@pytest.mark.parametrize(
    ("graph", "most_bytes", "most_zipped"),
    [
        pytest.param(fan(9998), 7_000, 1_500, id="fan-out"),
        pytest.param(layers(100, 100), 49_000, 4_500, id="layers"),
        pytest.param(layers(25, 12, functions=307), 125_000, 12_000, id="300 nodes"),
    ],
)
def test_a_picture_keeps_its_weight(graph, most_bytes, most_zipped):
    markup = to_svg(drawn(plan_of(graph), dict.fromkeys(range(5_000, 10_000), "pending") | {4_999: "executing"}))

    assert len(markup.encode()) <= most_bytes
    assert len(gzip.compress(markup.encode())) <= most_zipped


@pytest.mark.parametrize("graph", [fan(9998), layers(100, 100)], ids=["fan-out", "layers"])
def test_10000_steps_keep_the_budget_of_elements(graph):
    svg = parsed(to_svg(drawn(plan_of(graph))))

    apart = sum(len(cells_of(svg, link)) for link in svg.iter("a") if link.find("g") is not None)
    assert len(list(svg.iter())) <= 1200
    # The script may take every mosaic apart.
    assert len(list(svg.iter())) + apart <= 2400
