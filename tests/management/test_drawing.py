"""The lanes of a drawing, read as a person reads them."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from baton.management.drawing import Row, draw
from baton.models import WorkflowNode

Edges = set[tuple[str, str]]


@st.composite
def graphs(draw_from: st.DrawFn) -> dict[int, list[int]]:
    """Dependencies by number, each on smaller numbers."""
    size = draw_from(st.integers(1, 14))
    return {
        number: draw_from(st.lists(st.integers(0, number - 1), unique=True, max_size=4)) if number else []
        for number in range(size)
    }


def read(rows: list[Row]) -> Edges:
    """The dependencies that the lines show: down a lane, and from each lane that joins the row of a step."""
    found: Edges = set()
    owners: dict[int, str] = {}
    for row in rows:
        name, own = row.group.name, len(row.before)
        line = f"{row.before}*{row.behind}"
        if own in owners:
            found.add((owners[own], name))
        for step, joints, ends in ((-1, "├┼┴╰", "├╰"), (1, "┤┼┴╯", "┤╯")):
            place = own + step
            while 0 <= place < len(line) and line[place] in "─│" + joints:
                if line[place] in joints:
                    found.add((owners[place], name))
                if line[place] in ends:
                    break
                place += step
        owners = {place: owner for place, owner in owners.items() if line[place] in "│├┤┼"} | {own: name}
    return found


@given(graphs())
def test_lanes_show_every_dependency_and_no_other(graph):
    names = string.ascii_lowercase
    nodes = [WorkflowNode(pk=number, name=names[number], step="x") for number in graph]

    rows = draw(nodes, graph)

    if rows is not None:
        assert len(rows) == len(graph)
        assert read(rows) == {(names[each], names[number]) for number, deps in graph.items() for each in deps}


@given(graphs())
def test_lanes_take_the_same_room_in_every_line(graph):
    nodes = [WorkflowNode(pk=number, name=string.ascii_lowercase[number], step="x") for number in graph]

    rows = draw(nodes, graph) or []

    assert len({len(row.before) + 1 + len(row.behind) for row in rows} | {len(row.below) for row in rows}) <= 1
