"""Which steps are drawn as one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.dashboard.graph.folding import fold
from baton.dashboard.graph.junctions import with_junctions
from baton.dashboard.graph.members import Members
from baton.dashboard.graph.mosaic import cell_count, columns_of, size_of
from baton.dashboard.graph.names import common_name, shortened
from baton.dashboard.graph.shape import Shape, Step, revision
from tests.dashboard.graphs import fan, layers, plan_of, rows, rows_of
from tests.dashboard.pictures import drawn


@given(rows(max_steps=60))
def test_every_step_is_in_exactly_one_node(graph):
    folded = fold(Shape.of(*graph))

    inside = Counter(step for one in folded.folds for step in one.members)
    assert inside == Counter(step.id for step in graph[0])
    assert len(dict.fromkeys(one.key for one in folded.folds)) == len(folded.folds)


@given(rows(max_steps=60))
def test_every_step_is_found_in_its_node_and_cell(graph):
    plan = plan_of(graph)

    found = [plan.find(step.id) for step in graph[0]]
    assert len(dict.fromkeys(found)) == len(graph[0])
    assert plan.find(0) is None


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_fan_out_of_400_is_one_node_of_400_cells(is_declared):
    plan = plan_of(fan(400, is_declared=is_declared))

    (_split, page, _merge), (_, share, _) = plan.folded.folds, plan.shares
    assert (page.kind, page.name, page.count) == ("fan_out" if is_declared else "twins", "page", 400)
    assert share == 1
    assert (plan.layout.boxes[1].width, plan.layout.boxes[1].height) == (12 * 25 + 30, 12 * 16 + 68)
    assert len(drawn(plan).nodes[1].cells) == 400


def test_a_fan_out_of_9985_is_400_cells_of_25():
    plan = plan_of(fan(9985))

    assert plan.shares == (0, 25, 0)
    assert len(drawn(plan).nodes[1].cells) == 400


def test_a_cell_shows_the_worst_of_its_steps():
    plan = plan_of(fan(9985))

    cells = drawn(plan, {2 + 30: "executing", 2 + 31: "discarded", 2 + 9984: "pending"}).nodes[1].cells
    assert (cells[0], cells[1], cells[399]) == ("completed", "discarded", "pending")


def test_twins_fold_from_nine_on():
    assert [one.kind for one in fold(Shape.of(*fan(8, is_declared=False))).folds].count("step") == 10
    assert [one.kind for one in fold(Shape.of(*fan(9, is_declared=False))).folds] == ["step", "twins", "step"]


def test_a_fan_out_folds_from_two_on():
    assert [one.kind for one in fold(Shape.of(*fan(2))).folds] == ["step", "fan_out", "step"]
    assert [one.kind for one in fold(Shape.of(*fan(1))).folds] == ["step", "step", "step"]


def test_children_of_a_fan_out_stand_in_the_order_of_their_index():
    steps = [Step(7, "b", "f", "page", 1), Step(8, "a", "f", "page", 0), Step(9, "c", "f", "page", 2)]

    (page,) = fold(Shape.of(steps, [])).folds

    assert list(page.members) == [8, 7, 9]


def test_a_step_between_two_children_of_a_fan_out_parts_them():
    steps = [Step(1, "a", "f", "page", 0), Step(2, "between", "g"), Step(3, "b", "f", "page", 1)]
    steps.append(Step(4, "c", "f", "page", 2))

    folded = fold(Shape.of(steps, [(1, 2), (2, 3)]))

    assert [list(one.members) for one in folded.folds] == [[1, 4], [2], [3]]


def test_parallel_chains_fold_by_rank_and_function():
    names: dict[str, list[str]] = {"fetch": []}
    functions: dict[str, str] = {}
    for index in range(20):
        names |= {f"page[{index}]": ["fetch"], f"sum[{index}]": [f"page[{index}]"]}
        functions |= {f"page[{index}]": "steps.page", f"sum[{index}]": "steps.sum"}
    names["merge"] = [f"sum[{index}]" for index in range(20)]

    folded = fold(Shape.of(*rows_of(names, **functions)))

    assert [(one.kind, one.name, one.count) for one in folded.folds] == [
        ("step", "fetch", 1),
        ("alike", "page", 20),
        ("alike", "sum", 20),
        ("step", "merge", 1),
    ]
    assert folded.edges == ((0, 1), (1, 2), (2, 3))


@pytest.mark.parametrize(("count", "kind"), [(50, "step"), (51, "alike")])
def test_what_is_too_wide_to_be_read_folds_whatever_its_functions_are(count, kind):
    names: dict[str, list[str]] = {"first": []}
    for index in range(count):
        names |= {f"a{index}": ["first"], f"b{index}": [f"a{index}"]}

    folded = fold(Shape.of(*rows_of(names)))

    assert [one.kind for one in folded.folds][1] == kind
    assert sum(one.count for one in folded.folds) == 2 * count + 1


def test_layers_of_10000_steps_fold_into_100_nodes():
    plan = plan_of(layers(100, 100))

    assert [one.count for one in plan.folded.folds] == [100] * 100
    assert sum(len(node.cells) for node in drawn(plan).nodes) <= 2000


def test_what_does_not_fold_is_shown_around_a_step():
    graph = layers(100, 100, functions=10_007)
    chosen = 50 * 100 + 49 + 1

    folded = fold(Shape.of(*graph), around=chosen)

    assert (folded.around, folded.total, folded.shown) == ("s50_49", 10_000, len(folded.folds))
    by_id = {step.id: step.name for step in graph[0]}
    shown = [by_id[step] for one in folded.folds for step in one.members]
    assert [name.partition("_")[0] for name in shown] == sorted(name.partition("_")[0] for name in shown)
    assert "s50_49" in shown
    assert {name.partition("_")[0] for name in shown} == {"s48", "s49", "s50", "s51", "s52"}


def test_the_neighbourhood_of_a_hub_is_not_wider_than_can_be_read():
    names: dict[str, list[str]] = {"hub": []}
    for index in range(400):
        names |= {f"a{index}": ["hub"], f"b{index}": [f"a{index}"]}

    folded = fold(Shape.of(*rows_of(names)))

    assert (folded.around, folded.shown) == ("hub", 1 + 24 + 24)


def test_a_group_opens_in_place():
    graph = fan(60)
    key = fold(Shape.of(*graph)).folds[1].key

    plan = plan_of(graph, opened=[key])

    assert len(plan.folded.folds[1].opened) == 60
    assert len(drawn(plan).nodes) == 63


def test_a_group_of_more_than_60_does_not_open():
    graph = fan(61)
    key = fold(Shape.of(*graph)).folds[1].key

    assert not fold(Shape.of(*graph), opened=[key]).folds[1].opened


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 12), st.booleans())
def test_no_picture_has_more_than_300_nodes_and_2000_cells(depth, width, functions, is_open):
    graph = layers(depth, width, functions=functions or 10_007, dependencies=3)
    opened = [one.key for one in fold(Shape.of(*graph)).folds] if is_open else []

    drawing = drawn(plan_of(graph, opened=opened))

    assert len(drawing.nodes) <= 300
    assert sum(len(node.cells) for node in drawing.nodes) <= 2000


def test_edges_that_others_imply_are_left_out_where_there_are_too_many():
    names = {f"s{index}": [f"s{other}" for other in range(index)] for index in range(100)}

    folded = fold(Shape.of(*rows_of(names)))

    assert folded.is_thinned
    assert folded.edges == tuple((index, index + 1) for index in range(99))


def test_edges_of_a_small_run_are_all_drawn():
    names = {f"s{index}": [f"s{other}" for other in range(index)] for index in range(20)}

    assert len(fold(Shape.of(*rows_of(names))).edges) == 190


# Junctions ------------------------------------------------------------------------------------------------------------


def test_twenty_by_twenty_meet_in_one_dot():
    edges = [(source, target) for source in range(20) for target in range(20, 40)]

    left, (junction,) = with_junctions(edges)

    assert left == []
    assert (junction.sources, junction.targets) == (tuple(range(20)), tuple(range(20, 40)))


@pytest.mark.parametrize(("sources", "targets", "dots"), [(2, 2, 0), (2, 3, 1), (3, 2, 1), (1, 9, 0), (9, 1, 0)])
def test_few_pairs_need_no_dot(sources, targets, dots):
    edges = [(source, target) for source in range(sources) for target in range(sources, sources + targets)]

    assert len(with_junctions(edges)[1]) == dots


def test_a_layer_is_found_beside_other_dependencies():
    edges = [(source, target) for source in range(3) for target in range(3, 6)] + [(9, 3), (0, 12)]

    left, junctions = with_junctions(edges)

    assert [(sorted(one.sources), sorted(one.targets)) for one in junctions] == [([0, 1, 2], [4, 5])]
    assert (9, 3) in left


@given(rows())
def test_junctions_stand_for_exactly_the_edges_that_they_replace(graph):
    edges = list(fold(Shape.of(*graph)).edges)

    left, junctions = with_junctions(edges)

    pairs = [(source, target) for one in junctions for source in one.sources for target in one.targets]
    assert sorted(left + pairs) == sorted(edges)


# Members, names, keys -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 60), unique=True))
def test_members_are_the_ids_in_their_order(ids):
    members = Members.of(ids)

    assert (list(members), members.count) == (ids, len(ids))
    assert [members.place_of(step) for step in ids] == list(range(len(ids)))


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (range(101, 501), "101-500"),
        (range(101, 500, 3), "101-497/3"),
        ([7, 9, 30, 31, 32], "7,9,30-32"),
        ([5, 4, 3], "5,4,3"),
        ([], ""),
    ],
)
def test_members_are_told_by_their_ends(ids, text):
    assert str(Members.of(list(ids))) == text


@pytest.mark.parametrize(
    ("names", "functions", "name"),
    [
        (["page[0]", "page[1]", "page[10]"], ["f"], "page"),
        (["page_1", "page_10", "page_19"], ["f"], "page"),
        (["search_web", "search_papers"], ["f", "g"], "search"),
        (["x", "y"], ["steps.assess", "steps.assess"], "assess"),
        (["x", "y"], ["steps.a", "steps.b"], ""),
        (["v2", "v2_draft"], ["f", "g"], "v2"),
    ],
)
def test_a_group_is_called_what_its_members_have_in_common(names, functions, name):
    assert common_name(names, functions) == name


@pytest.mark.parametrize(
    ("text", "most", "fitted"),
    [("reconcile", 9, "reconcile"), ("reconcile", 7, "rec…ile"), ("reconcile", 1, "…"), ("請求書処理", 7, "請…理")],
)
def test_a_name_is_shortened_in_the_middle(text, most, fitted):
    assert shortened(text, most) == fitted


@pytest.mark.parametrize(("count", "columns"), [(8, 8), (15, 15), (99, 15), (100, 25), (9985, 25)])
def test_columns_of_a_mosaic(count, columns):
    assert columns_of(count, min(400, count)) == columns


def test_a_mosaic_is_wide_enough_for_its_name():
    assert size_of(10, 10) == (236, 12 + 68)
    assert cell_count(9985, 25) == 400


def test_the_revision_changes_with_the_structure_alone():
    steps, edges = fan(10)

    first = revision(steps, edges)

    assert revision(steps, edges[::-1]) == first
    assert revision(steps, edges[1:]) != first
    assert revision(steps[:-1], edges) != first
    assert len(first) == 32
