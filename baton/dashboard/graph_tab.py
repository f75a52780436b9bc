"""The tab of the graph: the picture, its tools, and beside it a group's panel or a summary of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import DateTimeField, DurationField, ExpressionWrapper, F, Value
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton.dashboard.faces_of_run import RUN_STATES, Faces, faces_of
from baton.dashboard.graph.drawing import Drawing, DrawnNode, draw
from baton.dashboard.graph.faces import GroupFace
from baton.dashboard.graph.layout import Direction
from baton.dashboard.graph.svg import to_svg
from baton.dashboard.graph_plans import KnownPlan, Plans
from baton.dashboard.group_panel import GroupPanel, Link, group_panel, opened_in
from baton.dashboard.look import Look, Taste
from baton.dashboard.shown import ORDER
from baton.explain.words import duration, listed, number
from baton.models import WorkflowNode
from baton.states import StepState

_REMEMBERED = "baton_graph_direction"
_WIDE = "baton_wide"
"""The cookie in which the script says whether the page has room for a long chain from left to right."""
_DIRECTIONS: Mapping[str, Direction] = {"down": "down", "right": "right"}
_MOST_NAMES = 6
_SLOWEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What stands beside the graph where nothing is chosen."""

    counts: list[Link]
    path: list[str]
    """The critical path, in sentences."""
    slowest: list[Link]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTab:
    """What the tab shows."""

    svg: str
    caption: str
    centre: Link | None
    """Draws the neighbourhood of the chosen step, where another one's is drawn."""
    direction: str
    is_by_width: bool
    """Whether the direction is nobody's choice, but goes by how wide the page is."""
    down: str
    right: str
    names: str
    """How the steps of groups are called, as JSON for the script."""
    aside: str
    """The template of what stands beside the graph; empty where a step's panel does."""
    summary: Summary | None
    group: GroupPanel | None
    unknown_group: bool


def shown(look: Look) -> GraphTab:
    """Draw the graph of a run."""
    now = timezone.now()
    known, centre = _plan(look)
    plan = known.plan
    faces = faces_of(look.run, look.using, plan, now=now, has_calls=look.known.called)
    asked = "" if look.step is not None else look.params.get("group", "")
    index = next((at for at, one in enumerate(plan.folded.folds) if asked and one.is_group and one.key == asked), None)
    selected = look.step.pk if look.step is not None else asked or None
    drawing = draw(plan, faces.steps, faces.groups, selected=selected)
    group = None
    if index is not None:
        group = group_panel(look, known, index, faces.groups.get(asked) or _opened_face(drawing, asked))
    summary = None
    if group is None and look.step is None:
        summary = _summary(look, faces, drawing, now, is_part=bool(plan.folded.around))
    return GraphTab(
        svg=to_svg(drawing, address=lambda node: _address(look, node)),
        caption=drawing.caption,
        centre=centre,
        direction=plan.layout.direction,
        is_by_width=look.taste.direction is None and plan.is_long_chain,
        down=look.address(direction="down"),
        right=look.address(direction="right"),
        names=json.dumps(_names(known)),
        aside=_aside(look, group),
        summary=summary,
        group=group,
        unknown_group=bool(asked) and group is None,
    )


def taste_of(request: HttpRequest) -> Taste:
    """The direction that the user chose last, and how wide the browser said the page is; a choice is kept."""
    asked, kept = request.GET.get("direction"), request.session.get(_REMEMBERED)
    if asked in _DIRECTIONS and asked != kept:
        request.session[_REMEMBERED] = kept = asked
    return Taste(direction=_DIRECTIONS.get(kept or ""), is_wide=request.COOKIES.get(_WIDE) == "1")


def _plan(look: Look) -> tuple[KnownPlan, Link | None]:
    """The plan: of the whole run, or around the step that the reader looks at where that is too big."""
    plans = Plans(look.run, look.using, look.known)
    opened = opened_in(look)
    direction: Direction = look.taste.direction or "down"
    known = plans.get(opened=opened, around=None, direction=direction)
    if not known.plan.folded.around:
        if look.taste.direction is None and look.taste.is_wide and known.plan.is_long_chain:
            known = plans.get(opened=opened, around=None, direction="right")
        return known, None
    centre = look.params.get("around", "").replace("\0", "")
    if centre:
        nodes = WorkflowNode.objects.using(look.using).of_workflow(look.run.pk)
        found = nodes.filter(name=centre).values_list("id", flat=True).first()
        if found is not None:
            known = plans.get(opened=opened, around=found, direction=direction)
    if look.step is None:
        return known, None
    if known.plan.find(look.step.pk) is None:
        known = plans.get(opened=opened, around=look.step.pk, direction=direction)
    if known.plan.folded.around == look.step.name:
        return known, None
    name = _("Show what is around {step}").format(step=look.step.name)
    return known, Link(name=name, address=look.address(around=look.step.name))


def _names(known: KnownPlan) -> dict[str, tuple[str, int, str]]:
    """How the steps of groups are called of which each has a cell of its own."""
    plan = known.plan
    alone = {one.key for one, share in zip(plan.folded.folds, plan.shares, strict=True) if share == 1}
    return {key: pattern for key, pattern in known.patterns.items() if key in alone}


def _address(look: Look, node: DrawnNode) -> str:
    # The graph is what a page shows anyhow.
    changes = {"view": "", "child": "", "cell": ""}
    if node.is_group:
        return look.address(group=node.key, step="", **changes)
    return look.address(step=node.key, group="", **changes)


def _aside(look: Look, group: GroupPanel | None) -> str:
    if look.step is not None:
        return ""
    return "baton/dashboard/graph_group.html" if group is not None else "baton/dashboard/graph_summary.html"


def _opened_face(drawing: Drawing, key: str) -> GroupFace:
    """How a group looks whose steps are drawn by themselves."""
    head = next(node for node in drawing.nodes if node.is_group and node.key == key)
    return GroupFace.of_states([node.state for node in drawing.nodes if node.parent == head.id], 0)


# The summary ----------------------------------------------------------------------------------------------------------


def _summary(look: Look, faces: Faces, drawing: Drawing, now: datetime, *, is_part: bool) -> Summary:
    counts = look.known.states if is_part else drawing.counts
    return Summary(
        counts=[_count(look, state, counts[state]) for state in ORDER if counts.get(state)],
        path=_path(look, _critical(faces, drawing), now),
        slowest=[
            Link(
                name=name,
                address=look.address(step=name),
                state=state,
                label=str(StepState(state).label),
                text=duration(seconds),
            )
            for name, state, seconds in _slowest(look, faces, drawing, now, is_part=is_part)
        ],
    )


def _slowest(
    look: Look, faces: Faces, drawing: Drawing, now: datetime, *, is_part: bool
) -> list[tuple[str, str, float]]:
    """The steps that run or ran longest: name, state, seconds. Where all are drawn, nothing needs to be read."""
    if not faces.groups and not is_part:
        names = {node.id: node.name for node in drawing.nodes}
        ran = [(names[f"n-{step_id}"], face.state, face.seconds or 0.0) for step_id, face in faces.steps.items()]
        return sorted((each for each in ran if each[2]), key=lambda each: -each[2])[:_SLOWEST]
    seconds = ExpressionWrapper(
        Coalesce(F("settled_at"), Value(now, output_field=DateTimeField())) - F("started_at"),
        output_field=DurationField(),
    )
    nodes = WorkflowNode.objects.using(look.using).of_workflow(look.run.pk).filter(started_at__isnull=False)
    rows = nodes.filter(state__in=RUN_STATES).annotate(ran=seconds).order_by("-ran", "id")
    found = rows.values_list("name", "state", "ran")[:_SLOWEST]
    return [(name, str(state), took.total_seconds()) for name, state, took in found]


def _count(look: Look, state: str, count: int) -> Link:
    address = look.address(view="steps", states=state, open="", around="")
    return Link(name=number(count), label=str(StepState(state).label), state=state, address=address)


def _path(look: Look, path: Sequence[tuple[DrawnNode, float]], now: datetime) -> list[str]:
    """The chain that took longest so far, and what it still has before it."""
    ahead = [node.name for node, _seconds in path if node.state in {"pending", "available"}]
    # A step that was cancelled before its turn took nothing, and nothing is to come of it.
    ran = [
        node.name
        for node, seconds in path
        if node.state not in {"pending", "available"} and (seconds or node.state != "cancelled")
    ]
    if not ran:
        return []
    if look.run.is_settled:
        words = _("{steps} took {time} one after the other, of {whole} in all.")
        one = _("{step} took {time}, of {whole} in all.")
    else:
        words = _("{steps} have taken {time} one after the other so far, of {whole} in all.")
        one = _("{step} has taken {time} so far, of {whole} in all.")
    if len(ran) == 1:
        words = one
    whole = ((look.run.finished_at or now) - look.run.inserted_at).total_seconds()
    # Of a group the longest step is taken, and two of those may have run at once.
    time = duration(min(sum(seconds for _node, seconds in path), whole))
    sentences = [words.format(steps=_named(ran), step=ran[0], time=time, whole=duration(whole))]
    if ahead:
        sentences.append(_("Still to come on this path: {steps}.").format(steps=_named(ahead)))
    return sentences


def _critical(faces: Faces, drawing: Drawing) -> list[tuple[DrawnNode, float]]:
    """What is on the critical path, and for how many seconds it ran."""
    steps = {f"n-{step_id}": face.seconds for step_id, face in faces.steps.items()}
    groups = {key: face.seconds for key, face in faces.groups.items()}
    path = [node for node in drawing.nodes if node.is_critical]
    return [(node, (groups.get(node.key) if node.is_group else steps.get(node.id)) or 0.0) for node in path]


def _named(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES:
        return listed(names)
    others = len(names) - _MOST_NAMES + 1
    more = ngettext("{count} other", "{count} others", others).format(count=number(others))
    return listed([*names[: _MOST_NAMES - 1], more])
