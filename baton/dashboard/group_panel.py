"""The panel of a group: how many of its steps are where, how long they take, what they failed with, and a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Case, Count, F, IntegerField, Min, Q, QuerySet, Value, When
from django.db.models.functions import Substr
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton.dashboard.faces_of_run import RAN, Coded, parts_of
from baton.dashboard.graph import labels
from baton.dashboard.graph.faces import GroupFace
from baton.dashboard.graph.folding import Fold
from baton.dashboard.graph_plans import KnownPlan
from baton.dashboard.look import Look
from baton.dashboard.shown import ORDER, WORST_FIRST, whole
from baton.dashboard.steps_tab import of_error
from baton.explain.words import LINE_LENGTH, duration, first_line, number
from baton.models import WorkflowNode
from baton.states import StepState

MOST_CHILDREN = 12
_MOST_OF_A_CELL = 50
_MOST_ERRORS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Something with an address."""

    name: str
    address: str
    state: str = ""
    label: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPanel:
    """What the panel of a group shows."""

    key: str
    name: str
    function: str
    state: str
    state_label: str
    why: str
    facts: list[tuple[str, str]]
    needs: list[Link]
    then: list[Link]
    counts: list[Link]
    errors: list[Link]
    """What steps failed with, each with how many; the most frequent first."""
    children: list[Link]
    children_title: str
    more: str
    """How many steps are not listed, in words."""
    all_address: str
    search: str
    hidden: list[tuple[str, str]]
    """What the form for searching keeps of the address."""
    toggle: Link | None
    """Opens the group in the picture, or folds it."""
    close: str


def group_panel(look: Look, known: KnownPlan, index: int, face: GroupFace) -> GroupPanel:
    """Read what the panel of a group shows, in at most five queries.

    Args:
        look: Who looks at which run.
        known: The plan.
        index: The group's place in it.
        face: How the group looks.
    """
    plan = known.plan
    one, share = plan.folded.folds[index], plan.shares[index]
    code = Coded("id", tuple(parts_of(one, 0, share)))
    nodes = WorkflowNode.objects.using(look.using).of_workflow(look.run.pk).order_by()
    nodes = nodes.annotate(code=code).filter(code__isnull=False)
    cell, search = whole(look.params.get("cell")), look.params.get("child", "").replace("\0", "").strip()
    found = _children(look, nodes, cell, search)
    most = MOST_CHILDREN if cell is None else _MOST_OF_A_CELL
    rows = list(found.values_list("name", "state", Substr("error", 1, LINE_LENGTH))[: most + 1])
    rest = max(0, one.count - most) if cell is None and not search else max(0, len(rows) - most)
    edges = plan.folded.edges
    return GroupPanel(
        key=one.key,
        name=labels.group_name(one),
        function=known.functions.get(one.key, ""),
        state=face.state,
        state_label=_kind(one, face),
        why=_why(one, share, face),
        facts=_facts(nodes, face),
        needs=[_neighbour(look, plan.folded.folds[source]) for source, target in edges if target == index],
        then=[_neighbour(look, plan.folded.folds[target]) for source, target in edges if source == index],
        counts=[_count(look, one, state, face.counts[state]) for state in ORDER if face.counts.get(state)],
        errors=_errors(look, nodes) if face.counts.get("discarded") else [],
        children=[_child(look, *row) for row in rows[:most]],
        children_title=_title(one, cell, share, search),
        more=ngettext("and {count} more", "and {count} more", rest).format(count=number(rest)) if rest else "",
        all_address=look.address(view="steps", group="", child="", cell="", open="", q=one.name),
        search=search,
        hidden=[*_hidden(look), ("group", one.key)],
        toggle=_toggle(look, one),
        close=look.without_panel,
    )


def _children(look: Look, nodes: QuerySet[Any], cell: int | None, search: str) -> QuerySet[Any]:
    if cell is not None:
        return nodes.filter(code=cell).order_by("fan_index", "id")
    whens = [When(state=state, then=Value(place)) for place, state in enumerate(WORST_FIRST)]
    worst = Case(*whens, output_field=IntegerField())
    if search:
        matches = Q(name__icontains=search) | of_error(look, search)
        index = whole(search)
        exact = Q(name=search)
        if index is not None:
            exact |= Q(fan_index=index) | Q(name__endswith=f"[{index}]")
        is_meant = Case(When(exact, then=Value(0)), default=Value(1), output_field=IntegerField())
        return nodes.filter(matches | exact).order_by(is_meant, worst, "id")
    return nodes.order_by(worst, "id")


def _facts(nodes: QuerySet[WorkflowNode], face: GroupFace) -> list[tuple[str, str]]:
    total, completed = sum(face.counts.values()), face.counts.get("completed", 0)
    words = _("{done} of {total}")
    facts = [(_("Completed"), words.format(done=number(completed), total=number(total)))]
    if completed:
        ran = nodes.filter(state="completed", started_at__isnull=False).annotate(ran=RAN).order_by("ran")
        median, high = (ran.values_list("ran", flat=True)[at : at + 1] for at in _places(completed))
        times = [duration(found[0].total_seconds()) for found in (list(median), list(high)) if found]
        if len(times) == 2:
            text = _("{median} (p95 {high})").format(median=times[0], high=times[1])
            facts.append((_("Median run"), text))
    if face.cost:
        facts.append((_("Cost"), face.cost))
    return facts


def _places(count: int) -> tuple[int, int]:
    return (count - 1) // 2, min(count - 1, count * 95 // 100)


def _errors(look: Look, nodes: QuerySet[WorkflowNode]) -> list[Link]:
    rows = (
        nodes.filter(state="discarded")
        .values_list("error_key")
        .annotate(count=Count("id"), first=Min("error"), name=Min("name"))
        .order_by(F("count").desc(), "error_key")[:_MOST_ERRORS]
    )
    return [
        Link(
            name=error or first_line(first) or _("unknown"),
            address=look.address(step=name, group="", child="", cell=""),
            text=labels.counted_steps(count),
        )
        for error, count, first, name in rows
    ]


def _kind(one: Fold, face: GroupFace) -> str:
    state = StepState(face.state).label
    return (_("fan-out, {state}") if one.kind == "fan_out" else _("group, {state}")).format(state=state)


def _why(one: Fold, share: int, face: GroupFace) -> str:
    words = {
        "fan_out": _("A fan-out of {count}."),
        "twins": _("{count} steps with the same dependencies and dependents."),
    }.get(one.kind, _("{count} steps of one function that stand side by side."))
    sentences = [words.format(count=number(one.count))]
    if share > 1:
        sentences.append(
            _("Each cell stands for {count} steps in order and shows the one that needs you most.").format(count=share)
        )
    if face.counts.get("available") and not face.counts.get("executing"):
        sentences.append(_("Those that are available wait for a worker."))
    return " ".join(sentences)


def _title(one: Fold, cell: int | None, share: int, search: str) -> str:
    if cell is not None:
        first, last = cell * max(1, share) + 1, min(one.count, (cell + 1) * max(1, share))
        words = _("Step {first} of {count}") if first == last else _("Steps {first} to {last} of {count}")
        return words.format(first=number(first), last=number(last), count=number(one.count))
    return _("Found") if search else _("Steps, what needs you first")


def _count(look: Look, one: Fold, state: str, count: int) -> Link:
    return Link(
        name=number(count),
        label=str(StepState(state).label),
        state=state,
        address=look.address(view="steps", states=state, q=one.name, group="", child="", cell="", open=""),
    )


def _child(look: Look, name: str, state: str, error: str | None) -> Link:
    text = first_line(error) if state in {"discarded", "retryable"} else ""
    address = look.address(step=name, group="", child="", cell="")
    return Link(name=name, state=str(state), label=str(StepState(state).label), address=address, text=text)


def _neighbour(look: Look, one: Fold) -> Link:
    changes = {"group": one.key, "step": ""} if one.is_group else {"step": one.name, "group": ""}
    return Link(name=labels.group_name(one), address=look.address(**changes, child="", cell=""))


def _toggle(look: Look, one: Fold) -> Link | None:
    if not one.can_open:
        return None
    others = [key for key in opened_in(look) if key != one.key]
    keys: Sequence[str] = others if one.opened else [*others, one.key]
    name = _("Fold it again") if one.opened else _("Open it in the graph")
    return Link(name=name, address=look.address(open="\n".join(keys), child="", cell=""))


def opened_in(look: Look) -> list[str]:
    """The keys of the groups that the reader opened."""
    return [key for key in look.params.get("open", "").split("\n") if key]


def _hidden(look: Look) -> list[tuple[str, str]]:
    kept = ("open", "around")
    return [("view", look.view), *((word, look.params[word]) for word in kept if look.params.get(word))]
