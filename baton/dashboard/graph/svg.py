"""A drawing as SVG: classes and attributes only, every text escaped, nothing that a strict CSP refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from html import escape
from itertools import groupby
from urllib.parse import urlencode

from django.utils.safestring import SafeString, mark_safe

from baton.dashboard.graph.cells import definitions, in_runs, name_of
from baton.dashboard.graph.drawing import Drawing, DrawnEdge, DrawnNode
from baton.dashboard.graph.mosaic import CELL_PITCH, size_of

ID = "b-"
_BAR = 3
_DOT_RADIUS = 4
_USUAL = size_of(10, 10)
"""How big the groups are that ``graph.css`` has the size of, and places for the texts: those of one row of cells."""
# Among them those that turn the direction of writing round.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Address = Callable[[DrawnNode], str]

_ARROW, _RING = '<path d="M0 0L{0} {1}L0 {2}z"/>', '<circle cx="5" cy="5" r="3.25"/>'
_HEADS = {
    "b-head": ("b-head", "0 0 5 8", 0, _ARROW.format(5, 4, 8)),
    "b-head-cause": ("b-head b-cause", "0 0 5 8", 0, _ARROW.format(5, 4, 8)),
    "b-head-critical": ("b-head b-critical", "0 0 7 10", 2, _ARROW.format(7, 5, 10)),
    "b-ring": ("b-ring", "0 0 10 10", 4, _RING),
    "b-ring-critical": ("b-ring b-critical", "0 0 10 10", 4, _RING),
}
"""What edges end with: class, box, how much of it lies on the edge, and the shape."""


def address_of(node: DrawnNode) -> str:
    """Where a node leads: to the panel of its step or group."""
    return "?" + urlencode({"group" if node.is_group else "step": node.key}, errors="backslashreplace")


def to_svg(drawing: Drawing, *, address: Address = address_of) -> SafeString:
    """Write the markup.

    A picture has thousands of things, so each says only what is its own. Where the texts of nodes stand and how big
    steps are says ``graph.css``. What an edge joins is told for a bunch of edges at once, by the places of nodes and
    then junctions in the document; how many nodes each row has is told once. Cells of one state side by side are one
    use of a definition, which the script takes apart when one of them changes.

    The page must hold the icons ``b-i-STATE`` and ``b-i-stack`` (at their place in a node) and the cells ``b-c-STATE``
    (10 by 10, with a colour of their own).

    Args:
        drawing: What to write.
        address: Where a node leads.
    """
    runs: dict[tuple[str, int], None] = {}
    share = max((node.share for node in drawing.nodes if node.cells), default=1)
    nodes = [part for node in drawing.nodes for part in _node(node, address, runs, share)]
    parts = [
        _opening(drawing),
        "<defs>",
        *_heads(drawing.edges),
        *definitions(runs),
        '</defs><g class="b-edges" aria-hidden="true">',
        *_edges(drawing),
        *(
            f'<circle class="b-junction{" b-critical" if dot.is_critical else ""}" id="{ID}{dot.id}"'
            f' cx="{dot.x}" cy="{dot.y}" r="{_DOT_RADIUS}"/>'
            for dot in drawing.junctions
        ),
        f'</g><g class="b-nodes" data-rows="{_rows(drawing.nodes)}" data-share="{share}">',
        *nodes,
        "</g></svg>",
    ]
    return mark_safe("".join(parts))  # noqa: S308 - every text went through _text


def _opening(drawing: Drawing) -> str:
    look = f' data-look="{ID}{drawing.look}"' if drawing.look else ""
    return (
        f'<svg class="b-graph b-{drawing.direction}" id="b-graph" role="group" aria-label="{_text(drawing.label)}"'
        f' viewBox="0 0 {drawing.width} {drawing.height}" width="{drawing.width}" height="{drawing.height}"{look}>'
    )


def _rows(nodes: Iterable[DrawnNode]) -> str:
    """How many nodes stand side by side, row by row; those inside an open group are not counted."""
    outer = (node.row for node in nodes if not node.parent)
    return " ".join(str(len(list(found))) for _row, found in groupby(outer))


# Edges ----------------------------------------------------------------------------------------------------------------


def _edges(drawing: Drawing) -> Iterator[str]:
    """In bunches that look alike; the critical path comes last, so that it lies on top."""
    ids = [*(node.id for node in drawing.nodes), *(dot.id for dot in drawing.junctions)]
    places = {each: place for place, each in enumerate(ids)}
    for (is_critical, kind, head), found in groupby(sorted(drawing.edges, key=_look), key=_look):
        edges = list(found)
        classes = f"b-{kind} b-critical" if is_critical else f"b-{kind}"
        ends = " ".join(f"{places[edge.source]}-{places[edge.target]}" for edge in edges)
        marker = f' marker-end="url(#{head})"' if head else ""
        yield f'<g class="{classes}" data-ends="{ends}"{marker}>'
        yield from (f'<path d="{edge.path}"/>' for edge in edges)
        yield "</g>"


def _look(edge: DrawnEdge) -> tuple[bool, str, str]:
    return edge.is_critical, edge.kind, _head(edge) if edge.has_head else ""


def _head(edge: DrawnEdge) -> str:
    if edge.is_ignoring:
        return "b-ring-critical" if edge.is_critical else "b-ring"
    if edge.kind == "cause":
        return "b-head-cause"
    return "b-head-critical" if edge.is_critical else "b-head"


def _heads(edges: Iterable[DrawnEdge]) -> Iterator[str]:
    """Those that the edges have."""
    for name in sorted({_head(edge) for edge in edges if edge.has_head}):
        classes, box, begin, shape = _HEADS[name]
        _x, _y, width, height = box.split()
        yield (
            f'<marker id="{name}" class="{classes}" viewBox="{box}" refX="{begin}" refY="{int(height) // 2}"'
            f' markerWidth="{width}" markerHeight="{height}" markerUnits="userSpaceOnUse" orient="auto">'
            f"{shape}</marker>"
        )


# Nodes ----------------------------------------------------------------------------------------------------------------


def _node(node: DrawnNode, address: Address, runs: dict[tuple[str, int], None], share: int) -> Iterator[str]:
    is_usual = not node.is_group or (node.width, node.height) == _USUAL
    size = "" if is_usual else f' width="{node.width}" height="{node.height}"'
    yield (
        f'<a class="{_classes(node)}" id="{ID}{node.id}" href="{_text(address(node))}"'
        f' aria-label="{_text(node.label)}"{_data(node, share)} transform="translate({node.x} {node.y})">'
        f'<rect class="b-box"{size}/>'
        f'<use class="b-icon" href="#b-i-{_text(node.icon)}"/>'
        f'<text class="b-name">{_text(node.title)}</text>'
    )
    wider, taller = (node.width - _USUAL[0], node.height - _USUAL[1]) if node.is_group else (0, 0)
    end, foot = f' x="{wider}"' if wider else "", f' y="{taller}"' if taller else ""
    if node.time:
        since = f' data-since="{_text(node.since)}"' if node.since else ""
        yield f'<text class="b-time"{end}{since}>{_text(node.time)}</text>'
    if node.line:
        yield f'<text class="b-line"{foot}>{_text(node.line)}</text>'
    if node.cost:
        yield f'<text class="b-cost"{end}{foot}>{_text(node.cost)}</text>'
    if node.cells:
        yield from _cells(node, runs)
    if node.state == "executing":
        yield _bar(node)
    yield "</a>"


def _cells(node: DrawnNode, runs: dict[tuple[str, int], None]) -> Iterator[str]:
    """Row by row; which runs are used is noted."""
    yield '<g class="b-cells">'
    for row, begin in enumerate(range(0, len(node.cells), node.columns)):
        y = f' y="{row * CELL_PITCH}"' if row else ""
        column = 0
        for state, length in in_runs(node.cells[begin : begin + node.columns]):
            x = f' x="{column * CELL_PITCH}"' if column else ""
            yield f'<use href="#{name_of(state, length)}"{x}{y}/>'
            runs[state, length] = None
            column += length
    if node.chosen_cell is not None:
        row, column = divmod(node.chosen_cell, node.columns)
        at = f'x="{column * CELL_PITCH - 2}" y="{row * CELL_PITCH - 2}"'
        yield f'<rect class="b-chosen" {at} width="14" height="14" rx="3"/>'
    yield "</g>"


def _bar(node: DrawnNode) -> str:
    """At the foot: how far it is, or that it moves where nobody knows."""
    at = f'x="2" y="{node.height - _BAR - 2}" height="{_BAR}" rx="1.5"'
    room = node.width - 4
    if node.progress is None:
        return f'<rect class="b-bar b-moving" {at} width="{room * 2 // 5}"/>'
    done = round(room * min(1.0, max(0.0, node.progress)))
    return f'<rect class="b-bar" {at} width="{done}"/>'


def _classes(node: DrawnNode) -> str:
    flags = {
        "b-group": node.is_group,
        "b-open": node.is_open,
        "b-selected": node.is_selected,
    }
    return " ".join(["b-node", f"b-{node.state}", *(name for name, is_set in flags.items() if is_set)])


def _data(node: DrawnNode, share: int) -> str:
    """What scripts need: who it is, and of a group which steps stand behind each cell."""
    values: dict[str, str | int] = {"in": f"{ID}{node.parent}"} if node.parent else {}
    if not node.is_group:
        values |= {"step": node.key}
    else:
        values |= {"members": node.members}
        if node.cells and node.share != share:
            values |= {"share": node.share}
    return "".join(f' data-{name}="{_text(str(value))}"' for name, value in values.items())


def _text(text: str) -> str:
    return escape(_plain(text))


def _plain(text: str) -> str:
    """Rows may hold what no page can: halves of surrogate pairs and control characters."""
    return text if text.isprintable() else _UNPRINTABLE.sub(_as_escape, text)


def _as_escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
