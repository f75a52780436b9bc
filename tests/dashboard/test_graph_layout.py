"""Where everything stands."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import subprocess
import sys
from itertools import combinations, pairwise
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.dashboard.graph.critical import critical_path
from baton.dashboard.graph.layout import NODE, lay_out
from baton.dashboard.graph.shape import Shape
from tests.dashboard.graphs import fan, layers, plan_of, rows

_PART = re.compile(r"([Mvhc])([-\d ]+)")
_PROGRAM = """
import hashlib, sys
from tests.dashboard.graphs import layers, plan_of
plans = [plan_of(layers(12, 12, functions=500, dependencies=3), direction=to) for to in ("down", "right")]
print(hashlib.sha256(repr(plans).encode()).hexdigest())
"""


def points_of(path):
    """Where the pieces of a path begin and end."""
    points, (x, y) = [], (0, 0)
    for letter, numbers in _PART.findall(path):
        steps = [int(number) for number in numbers.split()]
        x += {"v": 0, "h": steps[0]}.get(letter, steps[-2] if len(steps) > 1 else 0)
        y += {"v": steps[0], "h": 0}.get(letter, steps[-1])
        points.append((x, y))
    return points


def course_of(path):
    """Points all along a path."""
    starts = points_of(path)
    for (letter, numbers), (x, y), end in zip(_PART.findall(path)[1:], starts, starts[1:], strict=False):
        steps = [int(number) for number in numbers.split()]
        knees = [(steps[0], steps[1]), (steps[2], steps[3])] if letter == "c" else [(0, 0), (end[0] - x, end[1] - y)]
        (one, two), (dx, dy) = knees, (end[0] - x, end[1] - y)
        for t in (part / 16 for part in range(17)):
            weights = 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
            yield tuple(
                start + sum(w * k for w, k in zip(weights, ks, strict=True))
                for start, ks in ((x, (one[0], two[0], dx)), (y, (one[1], two[1], dy)))
            )


both_directions = pytest.mark.parametrize("direction", ["down", "right"])


@given(rows(), st.sampled_from(["down", "right"]))
def test_nodes_do_not_touch(graph, direction):
    layout = plan_of(graph, direction=direction).layout

    for one, other in combinations(layout.boxes, 2):
        is_apart = (
            one.x + one.width + 10 <= other.x
            or other.x + other.width + 10 <= one.x
            or one.y + one.height + 10 <= other.y
            or other.y + other.height + 10 <= one.y
        )
        assert is_apart, (one, other)
    for box in layout.boxes:
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= layout.width
        assert box.y + box.height <= layout.height


@given(rows())
def test_every_edge_leads_down(graph):
    plan = plan_of(graph)

    boxes = plan.layout.boxes
    for source, target in plan.folded.edges:
        assert boxes[source].row < boxes[target].row
        assert boxes[source].y + boxes[source].height < boxes[target].y


@given(rows())
def test_every_edge_leads_to_the_right_if_wanted(graph):
    plan = plan_of(graph, direction="right")

    boxes = plan.layout.boxes
    for source, target in plan.folded.edges:
        assert boxes[source].x + boxes[source].width < boxes[target].x


@given(rows(), st.sampled_from(["down", "right"]))
def test_paths_begin_and_end_at_their_nodes(graph, direction):
    layout = plan_of(graph, direction=direction).layout

    for route in layout.routes:
        points = points_of(route.path)
        for index, (x, y) in ((route.source, points[0]), (route.target, points[-1])):
            if index >= len(layout.boxes):
                assert (x, y) == layout.dots[index - len(layout.boxes)]
                continue
            box = layout.boxes[index]
            assert box.x - 5 <= x <= box.x + box.width + 5
            assert box.y - 5 <= y <= box.y + box.height + 5


@settings(max_examples=40)
@given(rows(), st.sampled_from(["down", "right"]))
def test_edges_go_round_the_nodes_that_they_do_not_join(graph, direction):
    layout = plan_of(graph, direction=direction).layout

    for route in layout.routes:
        others = [box for index, box in enumerate(layout.boxes) if index not in (route.source, route.target)]
        for x, y in course_of(route.path):
            assert not [b for b in others if b.x < x < b.x + b.width and b.y < y < b.y + b.height]


@given(rows())
def test_every_dependency_is_drawn_once(graph):
    plan = plan_of(graph)

    nodes = len(plan.folded.folds)
    direct = [(route.source, route.target) for route in plan.layout.routes]
    through = [
        (source, target)
        for dot in range(nodes, nodes + len(plan.layout.dots))
        for source in (one for one, other in direct if other == dot)
        for target in (other for one, other in direct if one == dot)
    ]
    drawn = [edge for edge in direct if max(edge) < nodes] + through
    assert sorted(drawn) == sorted(plan.folded.edges)


def test_a_chain_stands_in_one_line_at_the_pitch_of_the_design():
    layout = lay_out([NODE] * 4, [(0, 1), (1, 2), (2, 3)])

    assert [box.x for box in layout.boxes] == [24] * 4
    assert [box.y for box in layout.boxes] == [24, 128, 232, 336]
    assert layout.routes[0].path == "M124 76v47"


def test_siblings_stand_at_the_pitch_of_the_design_under_the_middle_of_their_source():
    layout = lay_out([NODE] * 4, [(0, 1), (0, 2), (0, 3)])

    assert [box.x for box in layout.boxes] == [244, 24, 244, 464]


def test_a_long_edge_goes_straight_beside_the_chain():
    layout = lay_out([NODE] * 5, [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)])

    path = next(route.path for route in layout.routes if (route.source, route.target) == (0, 4))
    assert re.fullmatch(r"M\d+ \d+c[-\d ]+v\d+c[-\d ]+", path)
    assert [box.x for box in layout.boxes] == [layout.boxes[0].x] * 5


def test_a_junction_stands_in_the_middle_of_the_gap():
    edges = [(source, target) for source in range(3) for target in range(3, 6)]

    layout = lay_out([NODE] * 6, edges)

    assert layout.dots == ((24 + 320, 24 + 52 + 26),)
    assert len(layout.routes) == 6


def test_a_source_stands_just_above_its_first_dependent():
    layout = lay_out([NODE] * 4, [(0, 1), (1, 2), (3, 2)])

    assert [box.row for box in layout.boxes] == [0, 1, 2, 1]


def test_twenty_by_twenty_without_folding_is_drawn_through_a_junction():
    edges = [(source, target) for source in range(20) for target in range(20, 40)]

    layout = lay_out([NODE] * 40, edges)

    assert (len(layout.routes), len(layout.dots)) == (40, 1)


@both_directions
def test_no_step_at_all_is_an_empty_picture(direction):
    layout = plan_of(([], []), direction=direction).layout

    assert (layout.boxes, layout.routes, layout.width, layout.height) == ((), (), 48, 48)


def test_a_plan_is_the_same_in_every_process_and_needs_no_django():
    def digest(seed: str) -> str:
        program = _PROGRAM + "assert 'django' not in sys.modules\n"
        found = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.strip()

    here = [plan_of(layers(12, 12, functions=500, dependencies=3), direction=to) for to in ("down", "right")]
    expected = hashlib.sha256(repr(here).encode()).hexdigest()
    assert [digest("1"), digest("2")] == [expected, expected]


def test_the_plan_of_10000_steps_is_small_enough_to_cache():
    assert len(pickle.dumps(plan_of(fan(9998)))) < 5_000
    assert len(pickle.dumps(plan_of(layers(100, 100)))) < 50_000


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(fan(9998), id="fan-out"),
        pytest.param(fan(9998, is_declared=False), id="twins"),
        pytest.param(layers(100, 100), id="layers"),
        pytest.param(layers(100, 100, functions=10_007), id="layers of different functions"),
        pytest.param(layers(25, 12, functions=307), id="300 nodes"),
        pytest.param(layers(150, 2, functions=307), id="long"),
    ],
)
def test_a_big_run_is_laid_out_at_once(graph):
    start = process_time()

    plan_of(graph)

    # A tenth of it on a machine with nothing else to do; this only catches what grows with the square.
    assert process_time() - start < 2


def test_a_long_chain_wants_to_lead_to_the_right():
    names = [(step, step + 1) for step in range(1, 40)]

    assert plan_of((layers(40, 1)[0], names)).is_long_chain
    assert not plan_of(layers(10, 1)).is_long_chain
    assert not plan_of(layers(30, 5, functions=307)).is_long_chain


# The critical path ----------------------------------------------------------------------------------------------------


def test_the_critical_path_is_the_chain_that_took_longest():
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)]

    assert critical_path([1, 5, 9, 2, 0], edges) == [0, 2, 3, 4]


def test_the_critical_path_goes_on_over_what_waits():
    assert critical_path([3, 0, 0], [(0, 1), (1, 2)]) == [0, 1, 2]


def test_there_is_no_critical_path_before_anything_ran():
    assert critical_path([0, 0], [(0, 1)]) == []
    assert critical_path([], []) == []


@given(rows(), st.data())
def test_the_critical_path_follows_edges_and_no_other_chain_takes_longer(graph, data):
    shape = Shape.of(*graph)
    edges = [(source, target) for source, targets in enumerate(shape.dependents) for target in targets]
    seconds = data.draw(st.lists(st.integers(0, 9), min_size=len(shape.steps), max_size=len(shape.steps)))

    path = critical_path(seconds, edges)

    longest = [0] * len(seconds)
    for node, others in enumerate(shape.dependencies):
        longest[node] = seconds[node] + max((longest[other] for other in others), default=0)
    assert sum(seconds[node] for node in path) == max(longest)
    assert all(pair in edges for pair in pairwise(path))
