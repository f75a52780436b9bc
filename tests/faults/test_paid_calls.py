"""Workers killed around calls that are paid for: what is stored is never called again, and the books agree.

Each run has a seed, which decides its calls, what goes wrong with them, and where its worker is struck. `make faults`
plays 300, the suite 20; `BATON_FAULTS_SEEDS=17,40-59` plays these.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

from tests.conftest import StartCluster
from tests.faults.conftest import Sweeper
from tests.faults.llm_places import Place
from tests.faults.llm_seeds import plan_of
from tests.faults.llm_stage import PaidStage
from tests.processes import Manage

IS_WHOLE = os.environ.get("BATON_FAULTS") == "all"
REPORT = os.environ.get("BATON_FAULTS_REPORT", "")
STOPPED_IN_SHORT = (Place.AFTER_CHARGE, Place.BEFORE_STORE, Place.IN_STORE)
IS_SQLITE = settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")

IN_SHORT = [*range(len(Place)), *(len(Place) + list(Place).index(place) for place in STOPPED_IN_SHORT)]
"""Every place once, and three where a process is stopped for longer than its lease."""
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
def stage(real_cluster: StartCluster, sweeper: Sweeper, tmp_path: Path) -> Iterator[PaidStage]:
    sweeper()
    stage = PaidStage(tmp_path, real_cluster, workers=min(WORKERS, len(seeds()) + 1))
    yield stage
    stage.close()


@pytest.mark.slow
def test_paid_answer_is_never_paid_again_wherever_a_worker_is_killed(
    stage: PaidStage, manage: Manage, capsys: pytest.CaptureFixture[str]
):
    played = seeds()
    # A writer that stands still holds the only lock there is.
    plans = [plan_of(seed, may_stop=not IS_SQLITE) for seed in played]

    figures = stage.play(plans)

    assert manage("baton_sweep", "--check").returncode == 0
    assert len(played) < len(Place) or set(figures.places) == set(Place)
    with capsys.disabled():
        sys.stdout.write(f"\nPaid calls, seeds {played[0]} to {played[-1]}: {figures}.\n")
    if REPORT:
        with Path(REPORT).open("a") as report:
            places = {place: figures.places[place] for place in Place}
            in_vain = [f"{title}: {cost}" for title, cost in figures.in_vain.items()]
            line = {"figures": str(figures), "places": places, "in_vain": in_vain}
            report.write(json.dumps(line) + "\n")
