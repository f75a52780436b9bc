"""Plans, painted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baton.dashboard.graph.drawing import Drawing, draw
from baton.dashboard.graph.faces import GroupFace, StepFace
from baton.dashboard.graph.plan import Plan


def drawn(plan: Plan, states: Mapping[int, str] | None = None, **options: Any) -> Drawing:
    """A plan with these states painted; what is not said has completed."""
    states = states or {}
    steps: dict[int, StepFace] = {}
    groups: dict[str, GroupFace] = {}
    for one, share in zip(plan.folded.folds, plan.shares, strict=True):
        inside = [states.get(step, "completed") for step in one.members]
        if one.is_group and not one.opened:
            groups[one.key] = GroupFace.of_states(inside, share)
        else:
            steps |= {step: StepFace(state=state) for step, state in zip(one.members, inside, strict=True)}
    return draw(plan, steps, groups, **options)
