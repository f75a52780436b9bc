"""The structure of a run, without its states: steps and what depends on what."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

Edge = tuple[int, int]
"""A dependency and its dependent."""


class Step(NamedTuple):
    """What of a step never changes and matters to its place in the picture."""

    id: int
    name: str
    function: str
    fan_group: str = ""
    fan_index: int | None = None
    ignores_failures: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """Steps by their position, each with the positions around it."""

    steps: Sequence[Step]
    dependencies: Sequence[Sequence[int]]
    dependents: Sequence[Sequence[int]]

    @classmethod
    def of(cls, steps: Iterable[Step], edges: Iterable[Edge]) -> Shape:
        """Read a graph from rows.

        Args:
            steps: In the order in which they shall be read.
            edges: Pairs of ids, the dependency first. Those that name a step that is not there are passed over.
        """
        known = list(steps)
        position = {step.id: index for index, step in enumerate(known)}
        dependencies: list[list[int]] = [[] for _ in known]
        dependents: list[list[int]] = [[] for _ in known]
        for dependency, dependent in dict.fromkeys(edges):
            source, target = position.get(dependency), position.get(dependent)
            if source is not None and target is not None and source != target:
                dependencies[target].append(source)
                dependents[source].append(target)
        return cls(known, dependencies, dependents)


def revision(steps: Iterable[Step], edges: Iterable[Edge]) -> str:
    """A key for the structure: it changes when a step or an edge is added, and never with a state.

    Edges may come in any order. Where reading all of them is too much, the numbers of a run's nodes and edges with its
    highest node id do the same, for a run only grows.
    """
    digest = blake2b(digest_size=16)
    for step in steps:
        digest.update(repr(tuple(step)).encode("utf-8", "backslashreplace"))
    digest.update(repr(sorted(edges)).encode())
    return digest.hexdigest()


def ranks_of(count: int, edges: Iterable[Edge]) -> list[int] | None:
    """The rank of each node, one more than that of its lowest dependency; None where there is a circle."""
    waits_for = [0] * count
    dependents: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        waits_for[target] += 1
        dependents[source].append(target)
    ranks = [0] * count
    ready = deque(node for node in range(count) if not waits_for[node])
    seen = 0
    while ready:
        node = ready.popleft()
        seen += 1
        for dependent in dependents[node]:
            ranks[dependent] = max(ranks[dependent], ranks[node] + 1)
            waits_for[dependent] -= 1
            if not waits_for[dependent]:
                ready.append(dependent)
    return ranks if seen == count else None
