"""Hypothesis strategies for random graphs."""

from __future__ import annotations

from hypothesis import strategies as st

Steps = list[tuple[str, list[str]]]
"""Names with the names they depend on, in the order they are added."""


@st.composite
def dags(draw: st.DrawFn, *, max_steps: int = 12, min_steps: int = 1) -> Steps:
    """Graphs without a circle; steps also stand before what they depend on."""
    size = draw(st.integers(min_steps, max_steps))
    names = [f"s{index}" for index in range(size)]
    steps = [
        (name, draw(st.lists(st.sampled_from(names[:index]), unique=True, max_size=4)) if index else [])
        for index, name in enumerate(names)
    ]
    return draw(st.permutations(steps))


@st.composite
def graphs(draw: st.DrawFn, *, max_steps: int = 8) -> Steps:
    """Graphs with any fault or none: no step, names used twice, names nobody has, circles."""
    names = [f"s{index}" for index in range(max_steps)]
    chosen = draw(st.lists(st.sampled_from(names), max_size=max_steps))
    return [(name, draw(st.lists(st.sampled_from(names), max_size=3))) for name in chosen]
