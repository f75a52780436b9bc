"""What a page says of a run by its like: how long it goes on and what it costs, never without saying by how many."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.cache import cache
from django.utils import timezone

from baton.dashboard.header import Header
from baton.dashboard.page import run_page
from baton.models import WorkflowRun
from tests.factories import StepStatFactory, WorkflowNodeFactory, WorkflowRunFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def head(run: WorkflowRun) -> Header:
    return run_page(run, {}).header


def earlier(seconds: int, *, cost: str | None = "0.5", **more: object) -> WorkflowRun:
    """A run that completed in so many seconds, with a call of that cost."""
    ended = timezone.now() - timedelta(hours=1)
    took = {"inserted_at": ended - timedelta(seconds=seconds), "finished_at": ended}
    run = WorkflowRunFactory.create(**{"name": "brief", "state": "completed", **took, **more})
    node = WorkflowNodeFactory.create(run=run, completed=True)
    priced = {"cost": Decimal(cost)} if cost else {"unpriced": True}
    StepStatFactory.create(node=node, **priced)
    return run


def running(seconds: int = 40, **more: object) -> WorkflowRun:
    began = timezone.now() - timedelta(seconds=seconds)
    return WorkflowRunFactory.create(name="brief", inserted_at=began, **more)


def test_about_how_long_is_left_is_said_by_five_runs_and_not_by_four() -> None:
    for seconds in (100, 110, 120, 130):
        earlier(seconds)
    earlier(9_000, round=2)
    earlier(9_000, state="failed")
    earlier(9_000, name="other")
    run = running(40)

    assert head(run).time_note == ""
    cache.clear()
    earlier(140)
    header = head(run)

    assert header.time_note in {"about 1 m 20 s left", "about 1 m 19 s left"}
    assert header.time_basis == "median of 5 earlier runs"
    assert header.ends_at == run.inserted_at + timedelta(seconds=120)


def of_five(run: WorkflowRun, *, cost: str | None = "0.5") -> Header:
    for _ in range(5):
        earlier(120, cost=cost)
    return head(run)


def test_run_that_takes_longer_than_usual_or_is_over_says_what_is_usual() -> None:
    late, over = running(600), earlier(60)
    again = running(40, round=2)

    header = of_five(late)

    assert (header.time_note, header.ends_at) == ("usually 2 m 0 s", None)
    assert head(over).time_note == "usually 2 m 0 s"
    # Its time counts from its first insertion, so that nobody knows when it ends.
    assert head(again).time_note == "usually 2 m 0 s"


def test_what_it_costs_at_the_end_is_said_while_it_goes_on() -> None:
    run = running()

    header = of_five(run)

    assert header.at_end == "about $0.5000 at the end"
    assert header.cost_basis == "median of 5 earlier runs"
    assert head(earlier(60)).at_end == ""


def test_what_it_costs_at_the_end_is_not_said_where_something_has_no_price() -> None:
    assert of_five(running(), cost=None).at_end == ""


def test_what_it_costs_at_the_end_is_not_said_of_who_has_spent_more_or_nobody_knows_what() -> None:
    run, unpriced = running(), running()
    StepStatFactory.create(node=WorkflowNodeFactory.create(run=run), cost=Decimal(2))
    StepStatFactory.create(node=WorkflowNodeFactory.create(run=unpriced), unpriced=True)

    assert of_five(run).at_end == ""
    assert head(unpriced).at_end == ""


def test_other_runs_are_not_asked_again_for_a_while() -> None:
    run = running()
    of_five(run)
    earlier(60)

    assert head(run).time_basis == "median of 5 earlier runs"
