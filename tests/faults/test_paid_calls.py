"""Workers killed around calls that are paid for: what is stored is never called again, and the books agree.

Each run has a seed, which decides its calls, what goes wrong with them, and where its worker is struck. `make faults`
plays 300, the suite 20; `BATON_FAULTS_SEEDS=17,40-59` plays these.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests.conftest import StartCluster
from tests.faults.conftest import Sweeper
from tests.faults.llm_places import Place
from tests.faults.llm_seeds import plan_of
from tests.faults.llm_stage import PaidStage
from tests.faults.llm_steps import OwnPricing
from tests.processes import Manage

IS_WHOLE = os.environ.get("BATON_FAULTS") == "all"
REPORT = os.environ.get("BATON_FAULTS_REPORT", "")
STOPPED_IN_SHORT = (Place.AFTER_CHARGE, Place.IN_STORE)
IS_SQLITE = settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")

IN_SHORT = [*range(len(Place)), *(len(Place) + list(Place).index(place) for place in STOPPED_IN_SHORT)]
"""Every place once, and two where a process is stopped for longer than its lease."""
WORKERS = 3 if IS_SQLITE else 12 if IS_WHOLE else 6


def seeds() -> list[int]:
    """The seeds to play."""
    if not (asked := os.environ.get("BATON_FAULTS_SEEDS", "")):
        return list(range(60 if IS_SQLITE else 300)) if IS_WHOLE else IN_SHORT
    found: list[int] = []
    for part in asked.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@pytest.fixture
def start_stage(real_cluster: StartCluster, sweeper: Sweeper, tmp_path: Path) -> Iterator[Callable[..., PaidStage]]:
    """Start a provider, to play seeds against."""
    stages: list[PaidStage] = []

    def start(**options: Any) -> PaidStage:
        sweeper()
        stages.append(PaidStage(tmp_path, real_cluster, workers=min(WORKERS, len(seeds()) + 1), **options))
        return stages[-1]

    yield start
    for stage in stages:
        stage.close()


@pytest.mark.slow
def test_paid_answer_is_never_paid_again_wherever_a_worker_is_killed(
    start_stage: Callable[..., PaidStage], manage: Manage, capsys: pytest.CaptureFixture[str]
):
    played = seeds()

    # A writer that stands still holds the only lock there is.
    figures = start_stage().play([plan_of(seed, may_stop=not IS_SQLITE) for seed in played])

    assert manage("baton_sweep", "--check").returncode == 0
    assert figures.unpriced == 0
    assert {list(Place)[seed % len(Place)] for seed in played} <= set(figures.places)
    with capsys.disabled():
        sys.stdout.write(f"\nPaid calls, seeds {played[0]} to {played[-1]}: {figures}.\n")
    if REPORT:
        with Path(REPORT).open("a") as report:
            places = {place: figures.places[place] for place in Place}
            in_vain = [f"{title}: {cost}" for title, cost in figures.in_vain.items()]
            line = {"figures": str(figures), "places": places, "in_vain": in_vain}
            report.write(json.dumps(line) + "\n")


@pytest.mark.slow
def test_answer_whose_worker_is_killed_before_a_pricing_class_is_asked_is_priced_afterwards(
    start_stage: Callable[..., PaidStage], settings: Any
):
    stage = start_stage(pricing=OwnPricing)
    settings.BATON = {**settings.BATON, **stage.baton}
    first = list(Place).index(Place.AFTER_STORE)

    figures = stage.play([plan_of(first + len(Place) * each, may_stop=False) for each in range(20 if IS_WHOLE else 3)])

    assert figures.unpriced
