"""Layout: from sizes and edges to places and paths, the same for the same graph in every process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from baton.dashboard.graph.crossings import reduce_crossings
from baton.dashboard.graph.junctions import with_junctions
from baton.dashboard.graph.levels import Levels, levelled
from baton.dashboard.graph.placing import centres
from baton.dashboard.graph.shape import Edge

Direction = Literal["down", "right"]
Size = tuple[int, int]
"""Width and height."""
Point = tuple[int, int]
Piece = tuple[Point, Point]

NODE = (200, 52)
MARGIN = 24
ARROW = 5
"""How far before its target an edge ends, to leave room for its head."""
_RANK_GAP = {"down": 52, "right": 60}
_DOT = 8


@dataclass(frozen=True, slots=True)
class Box:
    """Where a node stands."""

    x: int
    y: int
    width: int
    height: int
    row: int
    """Which row it is in, counted along the edges."""
    place: int
    """Which one of its row it is."""


@dataclass(frozen=True, slots=True)
class Route:
    """A drawn edge. Positions from the number of nodes on are junctions."""

    source: int
    target: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A graph with places: what is left to do is to paint it."""

    width: int
    height: int
    direction: Direction
    boxes: tuple[Box, ...]
    routes: tuple[Route, ...]
    dots: tuple[Point, ...]
    """The middles of junctions."""


def lay_out(sizes: Sequence[Size], edges: Sequence[Edge], *, direction: Direction = "down") -> Layout:
    """Place nodes of these sizes so that every edge leads down, or to the right."""
    is_down = direction == "down"
    plain, junctions = with_junctions(edges)
    levels = levelled(len(sizes), plain, junctions)
    reduce_crossings(levels)
    # Seen along the edges: breadth is across them, depth along them.
    grid = _Grid(levels, [size if is_down else size[::-1] for size in sizes], gap=_RANK_GAP[direction])
    boxes, dots = grid.boxes(), grid.dots()
    return Layout(
        width=grid.breadth if is_down else grid.depth,
        height=grid.depth if is_down else grid.breadth,
        direction=direction,
        boxes=tuple(boxes if is_down else map(_turned, boxes)),
        routes=tuple(
            Route(source, target, _path(grid.pieces(source, target, way), is_down=is_down))
            for (source, target), way in sorted(levels.ways.items())
        ),
        dots=tuple(dots if is_down else [(y, x) for x, y in dots]),
    )


class _Grid:
    """Levels with measures: the middle of each vertex across the edges, and where each level begins and ends."""

    def __init__(self, levels: Levels, spans: Sequence[Size], *, gap: int) -> None:
        self.levels, self.spans = levels, spans
        vertices = range(len(levels.level_of))
        breadths = [breadth for breadth, _depth in spans]
        breadths += [_DOT] * (levels.first_waypoint - levels.nodes) + [0] * (len(vertices) - levels.first_waypoint)
        across = centres(levels, breadths)
        left = min((across[vertex] - breadths[vertex] / 2 for vertex in vertices), default=0)
        right = max((across[vertex] + breadths[vertex] / 2 for vertex in vertices), default=0)
        self.middles = [round(value - left) + MARGIN for value in across]
        self.bands = self._bands(gap)
        self.breadth = round(right - left) + 2 * MARGIN
        self.depth = max((end for _start, end in self.bands), default=MARGIN) + MARGIN

    def _bands(self, gap: int) -> list[Point]:
        bands: list[Point] = []
        end = MARGIN - gap
        for level, is_row in zip(self.levels.levels, self.levels.is_row, strict=True):
            if is_row:
                start = end + gap
                end = start + max(self.spans[vertex][1] for vertex in level if vertex < self.levels.nodes)
                bands.append((start, end))
            else:
                # A dot lies in the middle of the gap and takes no room of its own.
                bands.append((end + gap // 2, end + gap // 2))
        return bands

    def boxes(self) -> list[Box]:
        """Where each node stands."""
        boxes: dict[int, Box] = {}
        rows = [level for level, is_row in zip(self.levels.levels, self.levels.is_row, strict=True) if is_row]
        for row, level in enumerate(rows):
            for place, node in enumerate(vertex for vertex in level if vertex < self.levels.nodes):
                breadth, depth = self.spans[node]
                boxes[node] = Box(self.middles[node] - breadth // 2, self._top(node), breadth, depth, row, place)
        return [boxes[node] for node in range(self.levels.nodes)]

    def dots(self) -> list[Point]:
        """The middle of each junction."""
        return [
            (self.middles[vertex], self.bands[self.levels.level_of[vertex]][0])
            for vertex in range(self.levels.nodes, self.levels.first_waypoint)
        ]

    def pieces(self, source: int, target: int, way: Iterable[int]) -> list[Piece]:
        """The straight pieces of an edge: out of its source, through each row that it passes, into its target."""
        pieces = [self._out_of(source)]
        for vertex in way:
            level = self.levels.level_of[vertex]
            if self.levels.is_row[level]:
                start, end = self.bands[level]
                pieces.append(((self.middles[vertex], start), (self.middles[vertex], end)))
        pieces.append(self._into(target))
        return pieces

    def _out_of(self, vertex: int) -> Piece:
        """From the side of a node to the end of its row; a dot has no sides."""
        x, (start, end) = self.middles[vertex], self.bands[self.levels.level_of[vertex]]
        if vertex >= self.levels.nodes:
            return (x, start), (x, start)
        return (x, self._top(vertex) + self.spans[vertex][1]), (x, end)

    def _into(self, vertex: int) -> Piece:
        x, (start, _end) = self.middles[vertex], self.bands[self.levels.level_of[vertex]]
        if vertex >= self.levels.nodes:
            return (x, start), (x, start)
        return (x, start - ARROW), (x, self._top(vertex) - ARROW)

    def _top(self, node: int) -> int:
        start, end = self.bands[self.levels.level_of[node]]
        return start + (end - start - self.spans[node][1]) // 2


def _turned(box: Box) -> Box:
    return Box(box.y, box.x, box.height, box.width, box.row, box.place)


def _path(pieces: Sequence[Piece], *, is_down: bool) -> str:
    """Straight pieces, joined by curves that leave and arrive along the edges; told in steps, which are short."""

    def by(across: int, along: int) -> str:
        return f"{across} {along}" if is_down else f"{along} {across}"

    along = "v" if is_down else "h"
    first, here = pieces[0]
    path = f"M{by(*first)}"
    ahead = here[1] - first[1]
    for start, end in pieces[1:]:
        aside, gap = start[0] - here[0], start[1] - here[1]
        if not aside:
            ahead += end[1] - here[1]
        else:
            path += f"{along}{ahead}" if ahead else ""
            path += f"c{by(0, gap // 2)} {by(aside, gap // 2)} {by(aside, gap)}"
            ahead = end[1] - start[1]
        here = end
    return path + (f"{along}{ahead}" if ahead else "")
