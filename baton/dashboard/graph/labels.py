"""The words of the graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from baton.dashboard.graph.folding import Fold, Folded
from baton.dashboard.graph.mosaic import WORST_FIRST
from baton.explain.words import listed, number
from baton.states import StepState

_MOST_NAMES = 3


def caption(folded: Folded) -> str:
    """What part of the run is to be seen: ``405 steps, 6 drawn: page is folded``."""
    if folded.around:
        return _("showing {shown} of {total} steps around {step}").format(
            shown=number(folded.shown), total=number(folded.total), step=folded.around
        )
    steps = counted_steps(folded.total)
    groups = [one for one in folded.folds if one.is_group and not one.opened]
    if folded.is_thinned:
        note = _("only dependencies that no others imply are drawn")
        return _("{steps}, {dependencies}: {note}").format(
            steps=steps, dependencies=_dependencies(folded.total_edges), note=note
        )
    if not groups:
        return _("{steps}, {dependencies}").format(steps=steps, dependencies=_dependencies(folded.total_edges))
    return _("{steps}, {drawn} drawn: {folded}").format(
        steps=steps, drawn=number(_drawn(folded)), folded=_are_folded([group_name(one) for one in groups])
    )


def group_name(one: Fold) -> str:
    """What a node is called."""
    return one.name or counted_steps(one.count)


def counted_steps(count: int) -> str:
    """So many steps."""
    return ngettext("{count} step", "{count} steps", count).format(count=number(count))


def step_label(name: str, state: str, facts: Iterable[str]) -> str:
    """A step for those who do not see it: ``assess: executing. gpt-5, 41 s, $0.0610``."""
    told = ", ".join(fact for fact in facts if fact)
    words = _("{name}: {state}.").format(name=name, state=StepState(state).label)
    return f"{words} {told}" if told else words


def group_label(one: Fold, state: str, counts: Mapping[str, int], cost: str) -> str:
    """A group for those who do not see it."""
    kind = _("fan-out of {count}") if one.kind == "fan_out" else _("group of {count}")
    words = _("{name}: {kind}, {state}.").format(
        name=group_name(one), kind=kind.format(count=number(one.count)), state=StepState(state).label
    )
    # Where all are in one state, it has been said.
    told = counted_states(counts) if sum(map(bool, counts.values())) > 1 else ""
    facts = ", ".join(fact for fact in (told, cost) if fact)
    return f"{words} {facts}" if facts else words


def graph_label(counts: Mapping[str, int]) -> str:
    """The whole picture for those who do not see it."""
    return _("{steps}: {states}").format(steps=counted_steps(sum(counts.values())), states=counted_states(counts))


def counted_states(counts: Mapping[str, int]) -> str:
    """How many steps are in each state, the worst first."""
    return ", ".join(_count(counts, state) for state in WORST_FIRST if counts.get(state))


def done(counts: Mapping[str, int], *, is_short: bool) -> str:
    """How many of a group are completed."""
    words = _("{done} of {total}") if is_short else _("{done} of {total} done")
    return words.format(done=number(counts.get("completed", 0)), total=number(sum(counts.values())))


def feet(one: Fold, counts: Mapping[str, int], share: int) -> list[str]:
    """The line under a mosaic, and what is left of it where there is less room.

    It says for how many steps a cell stands, and the two worst counts.
    """
    worst = [_count(counts, state) for state in WORST_FIRST if state != "completed" and counts.get(state)]
    if share > 1:
        cells = ngettext("1 cell = {count} step", "1 cell = {count} steps", share).format(count=number(share))
        return [" · ".join([cells, *worst[:1]]), (worst or [cells])[0]]
    if worst:
        return [" · ".join(worst[:2]), worst[0]]
    if one.kind == "fan_out":
        return [_("fan-out of {count}").format(count=number(one.count))]
    return [counted_steps(one.count)]


def detail(
    state: str,
    *,
    model: str = "",
    attempt: int = 0,
    max_attempts: int = 0,
    queue: str = "",
    waits_for: Sequence[str] = (),
    dependencies: int = 0,
) -> str:
    """The second line of a step: what it waits for, its attempt, its model or its queue.

    Args:
        state: Where it stands.
        model: The language model that it calls.
        attempt: The attempt that it is in, or was settled in.
        max_attempts: How many it has.
        queue: Where it runs.
        waits_for: What it still waits for, where it is one step; of more the number is enough.
        dependencies: How many dependencies it has.
    """
    if state == "pending" and waits_for:
        if len(waits_for) == 1 and dependencies == 1:
            return _("waits for {step}").format(step=waits_for[0])
        return _("waits for {left} of {count}").format(left=number(len(waits_for)), count=number(dependencies))
    attempts = _("attempt {attempt} of {count}").format(attempt=attempt, count=max_attempts) if attempt > 1 else ""
    if state in {"retryable", "discarded"} and attempts:
        return attempts
    return model or attempts or queue


def _count(counts: Mapping[str, int], state: str) -> str:
    return _("{count} {state}").format(count=number(counts[state]), state=StepState(state).label)


def _dependencies(count: int) -> str:
    return ngettext("{count} dependency", "{count} dependencies", count).format(count=number(count))


def _drawn(folded: Folded) -> int:
    return sum(len(one.opened) or 1 for one in folded.folds)


def _are_folded(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    if len(names) > _MOST_NAMES:
        others = len(names) - _MOST_NAMES + 1
        names = [*names[: _MOST_NAMES - 1], ngettext("{count} other", "{count} others", others).format(count=others)]
    return ngettext("{names} is folded", "{names} are folded", len(names)).format(names=listed(names))
