"""A drawing: a plan with its states painted, as plain data for a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from baton.dashboard.graph import labels
from baton.dashboard.graph.critical import critical_path
from baton.dashboard.graph.faces import Face, GroupFace, StepFace, count_states
from baton.dashboard.graph.folding import Fold
from baton.dashboard.graph.layout import NODE, Box, Direction
from baton.dashboard.graph.mosaic import CELLS_AT, columns_of
from baton.dashboard.graph.names import columns, shortened
from baton.dashboard.graph.opening import opened_places
from baton.dashboard.graph.plan import Plan
from baton.explain.words import duration

EdgeKind = Literal["settled", "waiting", "cause"]

NAME_AT = 33
INSET = 11
_NAME_WIDTH = 7.1
_LINE_WIDTH = 6.5
_TEXT_GAP = 8
_NEWS = ("executing", "discarded")
_UNKNOWN = StepFace(state="pending")


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnNode:
    """A step or a group, with its place and its words."""

    id: str
    """In the page, behind the prefix."""
    kind: str
    """``step``, ``fan_out``, ``twins`` or ``alike``."""
    key: str
    """A step's name, or the key of a group."""
    x: int
    y: int
    width: int
    height: int
    row: int
    place: int
    state: str
    icon: str
    name: str
    title: str
    """The name as it fits."""
    time: str
    since: str
    line: str
    """The second line of a step, the last of a group."""
    cost: str
    label: str
    progress: float | None
    """From 0 to 1; None where nobody knows."""
    is_critical: bool = False
    is_selected: bool = False
    is_open: bool = False
    can_open: bool = False
    cells: Sequence[str] = ()
    columns: int = 0
    share: int = 0
    chosen_cell: int | None = None
    members: str = ""
    """The ids of a group's steps in the order of its cells: ``101-500``, ``101-497/3``."""
    parent: str = ""
    """The id of the open group that a step stands in."""

    @property
    def is_group(self) -> bool:
        """Whether it stands for several steps."""
        return self.kind != "step"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnEdge:
    """A dependency, or one half of those that go through a junction."""

    source: str
    target: str
    path: str
    kind: EdgeKind
    is_critical: bool
    has_head: bool
    """Whether it ends at a node."""
    is_ignoring: bool
    """Whether that node runs even if what it waits for fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnJunction:
    """A dot in which edges meet."""

    id: str
    x: int
    y: int
    is_critical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """All there is to see."""

    width: int
    height: int
    direction: Direction
    nodes: tuple[DrawnNode, ...]
    edges: tuple[DrawnEdge, ...]
    junctions: tuple[DrawnJunction, ...]
    counts: Mapping[str, int]
    """How many of the steps in the picture are in each state."""
    caption: str
    label: str
    look: str
    """The id of the node to look at first: the selected one, else the first that executes or failed."""


def draw(
    plan: Plan, steps: Mapping[int, StepFace], groups: Mapping[str, GroupFace], *, selected: int | str | None = None
) -> Drawing:
    """Paint a plan.

    Args:
        plan: What is where.
        steps: The face of each step that is drawn by itself, by id; also of those in groups that are open.
        groups: The face of each group that is folded, by key.
        selected: The id of the chosen step, or the key of the chosen group.
    """
    painter = _Painter(plan, steps, groups, selected)
    counts = count_states(pair for face in painter.faces for pair in _counts(face).items())
    nodes = painter.nodes()
    return Drawing(
        width=plan.layout.width,
        height=plan.layout.height,
        direction=plan.layout.direction,
        nodes=tuple(nodes),
        edges=tuple(painter.edges()),
        junctions=tuple(painter.junctions()),
        counts=counts,
        caption=labels.caption(plan.folded),
        label=labels.graph_label(counts),
        look=_look(nodes),
    )


class _Painter:
    """What painting one picture needs at hand."""

    def __init__(
        self,
        plan: Plan,
        steps: Mapping[int, StepFace],
        groups: Mapping[str, GroupFace],
        selected: int | str | None,
    ) -> None:
        self.plan, self.steps, self.selected = plan, steps, selected
        self.folds = plan.folded.folds
        self.faces: list[Face] = [_face(one, steps, groups) for one in self.folds]
        self.found = plan.find(selected) if isinstance(selected, int) else None
        path = critical_path([face.seconds or 0.0 for face in self.faces], plan.folded.edges)
        self.critical = dict.fromkeys(path)
        self.critical_pairs = dict.fromkeys(pairwise(path))
        self.ids = [_id(one) for one in self.folds]
        self.ids += [f"j-{index}" for index in range(len(plan.layout.dots))]
        self.into, self.out = self._junction_ends()

    def _junction_ends(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """What leads into each junction, and out of it."""
        into: dict[int, list[int]] = {}
        out: dict[int, list[int]] = {}
        for route in self.plan.layout.routes:
            if route.target >= len(self.folds):
                into.setdefault(route.target, []).append(route.source)
            if route.source >= len(self.folds):
                out.setdefault(route.source, []).append(route.target)
        return into, out

    def nodes(self) -> list[DrawnNode]:
        """Row by row, the steps of an open group behind it."""
        boxes, drawn = self.plan.layout.boxes, []
        for index in sorted(range(len(boxes)), key=lambda index: (boxes[index].row, boxes[index].place)):
            one, box, face, is_critical = self.folds[index], boxes[index], self.faces[index], index in self.critical
            if isinstance(face, StepFace):
                step_id = next(iter(one.members))
                drawn.append(self._step(step_id, one.name, face, box, is_critical=is_critical))
                continue
            drawn.append(self._group(index, one, face, box, is_critical=is_critical))
            places = opened_places(len(one.opened), NODE)
            for place, ((step_id, name), (x, y)) in enumerate(zip(one.opened, places, strict=True)):
                inner = Box(box.x + x, box.y + y, *NODE, box.row, place)
                child = self.steps.get(step_id, _UNKNOWN)
                drawn.append(self._step(step_id, name, child, inner, is_critical=False, parent=self.ids[index]))
        return drawn

    def _step(
        self, step_id: int, name: str, face: StepFace, box: Box, *, is_critical: bool, parent: str = ""
    ) -> DrawnNode:
        time = "" if face.seconds is None else duration(face.seconds)
        return DrawnNode(
            id=f"n-{step_id}",
            kind="step",
            key=name,
            x=box.x,
            y=box.y,
            width=box.width,
            height=box.height,
            row=box.row,
            place=box.place,
            state=face.state,
            icon=face.icon or face.state,
            name=name,
            title=_fitted(name, NAME_AT, box.width, time, _NAME_WIDTH),
            time=time,
            since=face.since,
            line=_fitted(face.detail, INSET, box.width, face.cost, _LINE_WIDTH),
            cost=face.cost,
            label=labels.step_label(name, face.state, (face.detail, time, face.cost)),
            progress=face.progress,
            is_critical=is_critical,
            is_selected=step_id == self.selected,
            parent=parent,
        )

    def _group(self, index: int, one: Fold, face: GroupFace, box: Box, *, is_critical: bool) -> DrawnNode:
        name, share = labels.group_name(one), self.plan.shares[index]
        total = sum(face.counts.values())
        # The longest that fits beside at least half of the name.
        time = labels.done(face.counts, is_short=box.width < 300 and not one.opened)
        chosen = self.found if self.found is not None and self.found[0] == index else None
        return DrawnNode(
            id=self.ids[index],
            kind=one.kind,
            key=one.key,
            x=box.x,
            y=box.y,
            width=box.width,
            height=box.height,
            row=box.row,
            place=box.place,
            state=face.state,
            icon="stack",
            name=name,
            title=_fitted(name, NAME_AT, box.width, time, _NAME_WIDTH),
            time=time,
            since="",
            line="" if one.opened else _first_fitting(labels.feet(one, face.counts, share), box.width, face.cost),
            cost="" if one.opened else face.cost,
            label=labels.group_label(one, face.state, face.counts, face.cost),
            progress=face.counts.get("completed", 0) / total if total else 0.0,
            is_critical=is_critical,
            is_selected=one.key == self.selected or (chosen is not None and not one.opened),
            is_open=bool(one.opened),
            can_open=one.can_open,
            cells=() if one.opened else tuple(face.cells),
            columns=columns_of(one.count, len(face.cells)),
            share=share,
            chosen_cell=chosen[1] // share if chosen is not None and share and not one.opened else None,
            members=str(one.members),
        )

    def edges(self) -> list[DrawnEdge]:
        """Those on the critical path last, so that they lie on top."""
        drawn = []
        for route in self.plan.layout.routes:
            pairs = [
                (source, target)
                for source in self.into.get(route.source, [route.source])
                for target in self.out.get(route.target, [route.target])
            ]
            is_to_node = route.target < len(self.folds)
            drawn.append(
                DrawnEdge(
                    source=self.ids[route.source],
                    target=self.ids[route.target],
                    path=route.path,
                    kind=self._kind(pairs),
                    is_critical=any(pair in self.critical_pairs for pair in pairs),
                    has_head=is_to_node,
                    is_ignoring=is_to_node and self.folds[route.target].ignores_failures,
                )
            )
        return sorted(drawn, key=lambda edge: edge.is_critical)

    def _kind(self, pairs: Sequence[tuple[int, int]]) -> EdgeKind:
        if any(
            self.faces[source].has_failed
            and self.faces[target].was_cancelled
            and not self.folds[target].ignores_failures
            for source, target in pairs
        ):
            return "cause"
        return "settled" if all(self.faces[source].is_settled for source, _target in pairs) else "waiting"

    def junctions(self) -> list[DrawnJunction]:
        first = len(self.folds)
        return [
            DrawnJunction(
                id=self.ids[index],
                x=x,
                y=y,
                is_critical=any(
                    (source, target) in self.critical_pairs for source in self.into[index] for target in self.out[index]
                ),
            )
            for index, (x, y) in enumerate(self.plan.layout.dots, start=first)
        ]


def _look(nodes: Sequence[DrawnNode]) -> str:
    """The id of what the first view is to show; empty where nothing matters more than the rest."""
    wanted = [node for node in nodes if node.is_selected] or [node for node in nodes if node.state in _NEWS]
    wanted = wanted or [node for node in nodes if node.state == "retryable"]
    return wanted[0].id if wanted else ""


def _face(one: Fold, steps: Mapping[int, StepFace], groups: Mapping[str, GroupFace]) -> Face:
    if not one.is_group:
        return steps.get(next(iter(one.members)), _UNKNOWN)
    if not one.opened:
        return groups.get(one.key) or GroupFace(counts={"pending": one.count})
    inside = [steps.get(step_id, _UNKNOWN) for step_id, _name in one.opened]
    return GroupFace(
        counts=count_states((face.state, 1) for face in inside),
        seconds=max(face.seconds or 0.0 for face in inside),
        by_dependency=any(face.by_dependency for face in inside),
    )


def _counts(face: Face) -> Mapping[str, int]:
    return {face.state: 1} if isinstance(face, StepFace) else face.counts


def _id(one: Fold) -> str:
    return f"{'g' if one.is_group else 'n'}-{next(iter(one.members))}"


def _first_fitting(texts: Sequence[str], width: int, beside: str) -> str:
    """The first of the texts that fits into the last line of a group; the last of them as it fits."""
    fitted = [_fitted(text, CELLS_AT[0], width, beside, _LINE_WIDTH) for text in texts]
    return next((text for text, whole in zip(fitted, texts, strict=True) if text == whole), fitted[-1])


def _fitted(text: str, start: int, width: int, beside: str, character: float) -> str:
    """The text as it fits before what stands at the right of its line."""
    room: float = width - start - INSET
    if beside:
        room -= columns(beside) * _LINE_WIDTH + _TEXT_GAP
    return shortened(text, int(room / character))
