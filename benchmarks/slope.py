"""What one settle costs in a run of a given size, in this process: the loop of a bell, without a cluster."""

from __future__ import annotations

import itertools
import statistics

from django.db import connection

from baton import Workflow
from baton.engine.runner import answer_bell
from benchmarks import steps
from benchmarks.workloads import check_equal

SHAPES = ("deep", "wide")
"""Layers of ten, each step waiting for two; and one step, many that wait for it, one that waits for them."""

QUEUE = "slope"
SAMPLES = 60
WIDTH = 10


def settle_milliseconds(shape: str, size: int) -> float:
    """Return the median time from one body's start to the next one's: settle, ready dependents, take the next."""
    (_deep if shape == "deep" else _wide)(size).insert()
    steps.ticks.clear()
    while len(steps.ticks) < SAMPLES:
        before = len(steps.ticks)
        answer_bell(QUEUE)
        check_equal("a bell ran steps", len(steps.ticks) > before, True)
    pauses = [after - before for before, after in itertools.pairwise(steps.ticks[2:SAMPLES])]
    return statistics.median(pauses) * 1000


def forget_the_disk() -> None:
    """Let this process's commits return before they are on disk: waiting for it would hide what grows."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = off")


def _deep(size: int) -> Workflow:
    workflow = Workflow("slope")
    for number in range(size):
        layer, place = divmod(number, WIDTH)
        before = [f"{layer - 1}/{place}", f"{layer - 1}/{(place + 1) % WIDTH}"] if layer else []
        workflow.add(f"{layer}/{place}", steps.tick, deps=before, queue=QUEUE)
    return workflow


def _wide(size: int) -> Workflow:
    workflow = Workflow("slope").add("first", steps.tick, queue=QUEUE)
    names = [f"item {number}" for number in range(size - 2)]
    for name in names:
        workflow.add(name, steps.tick, deps=["first"], queue=QUEUE)
    return workflow.add("last", steps.tick, deps=names, queue=QUEUE)
