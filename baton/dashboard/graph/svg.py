"""A drawing as SVG: classes and attributes only, every text escaped, nothing that a strict CSP refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import escape
from urllib.parse import urlencode

from django.utils.safestring import SafeString, mark_safe

from baton.dashboard.graph.drawing import INSET, NAME_AT, Drawing, DrawnEdge, DrawnNode
from baton.dashboard.graph.mosaic import CELL_PITCH, CELLS_AT

ID = "b-"
_ICON_AT = (10, 9)
_ICON = 16
_BAR = 3
_DOT_RADIUS = 4
_CELLS_INSET = 16
# Among them those that turn the direction of writing round.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Address = Callable[[DrawnNode], str]

_HEADS = """<defs>\
<marker id="b-head" class="b-head" viewBox="0 0 5 8" refX="0" refY="4" markerWidth="5" markerHeight="8" \
markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L5 4L0 8z"/></marker>\
<marker id="b-head-cause" class="b-head b-cause" viewBox="0 0 5 8" refX="0" refY="4" markerWidth="5" markerHeight="8" \
markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L5 4L0 8z"/></marker>\
<marker id="b-head-critical" class="b-head b-critical" viewBox="0 0 7 10" refX="2" refY="5" markerWidth="7" \
markerHeight="10" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L7 5L0 10z"/></marker>\
<marker id="b-ring" class="b-ring" viewBox="0 0 10 10" refX="4" refY="5" markerWidth="10" markerHeight="10" \
markerUnits="userSpaceOnUse" orient="auto"><circle cx="5" cy="5" r="3.25"/></marker>\
<marker id="b-ring-critical" class="b-ring b-critical" viewBox="0 0 10 10" refX="4" refY="5" markerWidth="10" \
markerHeight="10" markerUnits="userSpaceOnUse" orient="auto"><circle cx="5" cy="5" r="3.25"/></marker>\
</defs>"""


def address_of(node: DrawnNode) -> str:
    """Where a node leads: to the panel of its step or group."""
    chosen = {"view": "graph", "group" if node.is_group else "step": node.key}
    return "?" + urlencode(chosen, errors="backslashreplace")


def to_svg(drawing: Drawing, *, address: Address = address_of) -> SafeString:
    """Write the markup.

    The page must hold the icons ``b-i-STATE`` and ``b-i-stack`` (symbols of 16 by 16) and the cells ``b-c-STATE`` (10
    by 10, with a colour of their own).

    Args:
        drawing: What to write.
        address: Where a node leads.
    """
    parts = [
        _opening(drawing),
        _HEADS,
        '<g class="b-edges" aria-hidden="true">',
        *map(_edge, drawing.edges),
        *(
            f'<circle class="b-junction{" b-critical" if dot.is_critical else ""}" id="{ID}{dot.id}"'
            f' cx="{dot.x}" cy="{dot.y}" r="{_DOT_RADIUS}"/>'
            for dot in drawing.junctions
        ),
        '</g><g class="b-nodes">',
    ]
    for node in drawing.nodes:
        parts += _node(node, address)
    parts.append("</g></svg>")
    return mark_safe("".join(parts))  # noqa: S308 - every text went through _text


def _opening(drawing: Drawing) -> str:
    look = f' data-look="{ID}{drawing.look}"' if drawing.look else ""
    return (
        f'<svg class="b-graph b-{drawing.direction}" id="b-graph" role="group" aria-label="{_text(drawing.label)}"'
        f' viewBox="0 0 {drawing.width} {drawing.height}" width="{drawing.width}" height="{drawing.height}"{look}>'
    )


def _edge(edge: DrawnEdge) -> str:
    critical = " b-critical" if edge.is_critical else ""
    end = f' marker-end="url(#{_head(edge)})"' if edge.has_head else ""
    return (
        f'<path class="b-edge b-{edge.kind}{critical}" d="{edge.path}" data-from="{ID}{edge.source}"'
        f' data-to="{ID}{edge.target}"{end}/>'
    )


def _head(edge: DrawnEdge) -> str:
    if edge.is_ignoring:
        return "b-ring-critical" if edge.is_critical else "b-ring"
    if edge.kind == "cause":
        return "b-head-cause"
    return "b-head-critical" if edge.is_critical else "b-head"


def _node(node: DrawnNode, address: Address) -> Iterator[str]:
    yield (
        f'<a class="{_classes(node)}" id="{ID}{node.id}" href="{_text(address(node))}"'
        f' aria-label="{_text(node.label)}"{_data(node)} transform="translate({node.x} {node.y})">'
        f'<rect class="b-box" width="{node.width}" height="{node.height}" rx="6"/>'
        f'<use class="b-icon" href="#b-i-{_text(node.icon)}" x="{_ICON_AT[0]}" y="{_ICON_AT[1]}"'
        f' width="{_ICON}" height="{_ICON}"/>'
        f'<text class="b-name" x="{NAME_AT}" y="22">{_text(node.title)}</text>'
    )
    end, foot = node.width - INSET, node.height - 12
    inset = _CELLS_INSET if node.is_group else INSET
    if node.time:
        since = f' data-since="{_text(node.since)}"' if node.since else ""
        yield f'<text class="b-time" x="{end}" y="22"{since}>{_text(node.time)}</text>'
    if node.line:
        yield f'<text class="b-line" x="{inset}" y="{foot}">{_text(node.line)}</text>'
    if node.cost:
        yield f'<text class="b-cost" x="{node.width - inset}" y="{foot}">{_text(node.cost)}</text>'
    if node.cells:
        yield from _cells(node)
    if node.state == "executing":
        yield _bar(node)
    yield "</a>"


def _cells(node: DrawnNode) -> Iterator[str]:
    yield f'<g class="b-cells" transform="translate({CELLS_AT[0]} {CELLS_AT[1]})">'
    for index, state in enumerate(node.cells):
        x, y = _cell_at(node, index)
        at = (f' x="{x}"' if x else "") + (f' y="{y}"' if y else "")
        yield f'<use href="#b-c-{state}"{at}/>'
    if node.chosen_cell is not None:
        x, y = _cell_at(node, node.chosen_cell)
        yield f'<rect class="b-chosen" x="{x - 2}" y="{y - 2}" width="14" height="14" rx="3"/>'
    yield "</g>"


def _cell_at(node: DrawnNode, index: int) -> tuple[int, int]:
    row, column = divmod(index, node.columns)
    return column * CELL_PITCH, row * CELL_PITCH


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
        "b-critical": node.is_critical,
        "b-selected": node.is_selected,
    }
    return " ".join(["b-node", f"b-{node.state}", *(name for name, is_set in flags.items() if is_set)])


def _data(node: DrawnNode) -> str:
    """What scripts need: who it is, and its neighbours of the row for the arrow keys."""
    values: dict[str, str | int] = {"row": node.row, "place": node.place}
    if node.parent:
        values |= {"in": f"{ID}{node.parent}"}
    if not node.is_group:
        values |= {"step": node.key}
    else:
        values |= {"group": node.key, "members": node.members, "share": node.share, "columns": node.columns}
        if node.can_open:
            values |= {"opens": int(node.is_open)}
    return "".join(f' data-{name}="{_text(str(value))}"' for name, value in values.items())


def _text(text: str) -> str:
    return escape(_plain(text))


def _plain(text: str) -> str:
    """Rows may hold what no page can: halves of surrogate pairs and control characters."""
    return text if text.isprintable() else _UNPRINTABLE.sub(_as_escape, text)


def _as_escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
