"""Plans of runs, kept in Django's cache: the structure is read once, however often its graph is looked at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b

from django.core.cache import cache

from baton.dashboard.graph.layout import Direction
from baton.dashboard.graph.plan import Plan, make_plan
from baton.dashboard.graph.shape import Shape, Step
from baton.dashboard.known import Known
from baton.models import WorkflowEdge, WorkflowNode, WorkflowRun

_EDITION = 2
"""To be raised when plans of old are no longer good."""
_KEPT_SECONDS = 86_400
_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>0|[1-9][0-9]{0,8})(?P<after>[^0-9]*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPlan:
    """A plan with what else of the structure the page needs."""

    plan: Plan
    patterns: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    """How the steps of a group are called, by its key: what stands before the number, the first number, the rest."""
    functions: dict[str, str] = field(default_factory=dict)
    """The function of a group's first step, by its key."""


class Plans:
    """The plans of one run, as it is now."""

    def __init__(self, run: WorkflowRun, using: str, known: Known) -> None:
        """Note how much there is of the run: it only ever grows."""
        self._run_id, self._using = run.pk, using
        self._extent = (known.steps, known.last, known.edges)
        self._shape: Shape | None = None

    def get(self, *, opened: Sequence[str], around: int | None, direction: Direction) -> KnownPlan:
        """From the cache, or made and put there."""
        words = (_EDITION, str(self._run_id), self._using, self._extent, sorted(opened), around, direction)
        key = "baton-graph-" + blake2b(repr(words).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
        found = None
        # A cache that is down, or that holds what another version wrote, is no reason to show nothing.
        with suppress(Exception):
            found = cache.get(key)
        if isinstance(found, KnownPlan):
            return found
        made = self._make(opened, around, direction)
        with suppress(Exception):
            cache.set(key, made, _KEPT_SECONDS)
        return made

    def _make(self, opened: Sequence[str], around: int | None, direction: Direction) -> KnownPlan:
        if self._shape is None:
            self._shape = self._read()
        plan = make_plan(self._shape, opened=opened, around=around, direction=direction)
        names = {step.id: step for step in self._shape.steps}
        patterns, functions = {}, {}
        for one in plan.folded.folds:
            if one.is_group:
                members = [names[step_id] for step_id in one.members]
                functions[one.key] = members[0].function
                pattern = _pattern([step.name for step in members])
                if pattern is not None:
                    patterns[one.key] = pattern
        return KnownPlan(plan=plan, patterns=patterns, functions=functions)

    def _read(self) -> Shape:
        nodes = WorkflowNode.objects.using(self._using).of_workflow(self._run_id).order_by("id")
        columns = ("id", "name", "step", "fan_group", "fan_index", "ignore_discarded", "ignore_cancelled")
        steps = [
            Step(step_id, name, function, group, index, ignores_failures=discarded or cancelled)
            for step_id, name, function, group, index, discarded, cancelled in nodes.values_list(*columns)
        ]
        edges = WorkflowEdge.objects.using(self._using).filter(node__run_id=self._run_id).order_by("id")
        return Shape.of(steps, edges.values_list("dependency_id", "node_id"))


def _pattern(names: Sequence[str]) -> tuple[str, int, str] | None:
    """How the steps are called where their numbers follow each other."""
    found = _NUMBERED.fullmatch(names[0])
    if found is None:
        return None
    before, first, after = found["before"], int(found["number"]), found["after"]
    follows = all(name == f"{before}{first + place}{after}" for place, name in enumerate(names))
    return (before, first, after) if follows else None
