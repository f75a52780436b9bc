"""The timeline: what each row shows, how the axis folds and ticks, what groups show, and what it costs to read."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from baton import Workflow
from baton.dashboard.known import known_of
from baton.dashboard.look import Look
from baton.dashboard.timeline.axis import MOST_TICKS, make_axis
from baton.dashboard.timeline.marks import life_of
from baton.dashboard.timeline.structure import MOST_ROWS
from baton.dashboard.timeline_tab import Row, TimelineTab, shown
from baton.models import StepStat, WorkflowEdge, WorkflowNode, WorkflowRun
from tests import steps
from tests.factories import StepStatFactory, WorkflowNodeFactory, WorkflowRunFactory

pytestmark = pytest.mark.django_db

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def boss() -> Client:
    client = Client()
    client.force_login(User.objects.create(username="boss", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def start() -> datetime:
    return timezone.now() - timedelta(seconds=100)


def tab_of(run: WorkflowRun, **params: str) -> TimelineTab:
    return shown(Look(run=run, using="default", view="timeline", step=None, params=params, known=known_of(run)))


def page_of(client: Client, run: WorkflowRun, **params: str) -> str:
    url = reverse("admin:baton_workflowrun_change", args=[run.pk])
    return client.get(url, {"view": "timeline", **params}).content.decode()


def row_of(tab: TimelineTab, name: str) -> Row:
    return next(row for row in tab.rows if row.name == name)


def entry(start: datetime, number: int, *seconds: float, outcome: str) -> dict[str, Any]:
    """An execution: when it was ready, began and ended, in seconds from the start."""
    times = [(start + timedelta(seconds=each)).isoformat() for each in seconds]
    return {
        "number": number, "worker": "w", "queued_at": times[0], "started_at": times[1], "ended_at": times[2],
        "outcome": outcome, "error": None, "count": 1,
    }  # fmt: skip


def step(run: WorkflowRun, name: str, *needs: WorkflowNode, **fields: Any) -> WorkflowNode:
    node = WorkflowNodeFactory.create(run=run, name=name, n_deps=len(needs), **fields)
    WorkflowEdge.objects.bulk_create(WorkflowEdge(node=node, dependency=each) for each in needs)
    return node


def ran(
    run: WorkflowRun, name: str, *needs: WorkflowNode, at: float, took: float = 10.0, **fields: Any
) -> WorkflowNode:
    """A step that was ready two seconds before it began, and completed."""
    begin = run.inserted_at
    times = {
        "queued_at": begin + timedelta(seconds=at - 2),
        "started_at": begin + timedelta(seconds=at),
        "settled_at": begin + timedelta(seconds=at + took),
    }
    log = [entry(begin, 1, at - 2, at, at + took, outcome="completed")]
    values = {"state": "completed", "attempt": 1, "remaining": 0, "attempt_log": log, **times, **fields}
    return step(run, name, *needs, **values)


def fan_out(run: WorkflowRun, count: int, *, per_second: float = 1.0, took: float = 10.0) -> list[WorkflowNode]:
    """So many children that began one after the other; one in a hundred was discarded."""
    first = WorkflowNodeFactory.create(
        run=run, name="split", state="completed", settled_at=run.inserted_at, remaining=0
    )
    begin = run.inserted_at
    nodes = [
        WorkflowNode(
            run=run, name=f"page[{index}]", step="tests.page", n_deps=1, remaining=0, fan_group="page",
            fan_index=index, attempt=1, state="discarded" if index % 100 == 50 else "completed",
            queued_at=begin, started_at=begin + timedelta(seconds=index / per_second),
            settled_at=begin + timedelta(seconds=index / per_second + took),
        )
        for index in range(count)
    ]  # fmt: skip
    nodes = WorkflowNode.objects.bulk_create(nodes, batch_size=500)
    edges = [WorkflowEdge(node=node, dependency=first) for node in nodes]
    WorkflowEdge.objects.bulk_create(edges, batch_size=500)
    return nodes


class TestAxis:
    def test_ticks_are_round_and_at_most_nine(self) -> None:
        for span in (0.004, 0.5, 7, 77, 338, 3000, 9000, 86_400, 4_000_000):
            axis = make_axis(1000.0, 1000.0 + span, [(1000.0, 1000.0 + span)], is_open=False)

            assert 2 <= len(axis.ticks) <= MOST_TICKS, span
            assert axis.ticks[0].label == "0"

    def test_seconds_are_told_below_two_minutes_and_minutes_above(self) -> None:
        assert [tick.label for tick in make_axis(0, 77, [(0, 77)], is_open=False).ticks][:3] == ["0", "10 s", "20 s"]
        assert [tick.label for tick in make_axis(0, 338, [(0, 338)], is_open=False).ticks][:3] == ["0", "1:00", "2:00"]

    def test_now_beats_the_tick_next_to_it(self) -> None:
        axis = make_axis(0, 61, [(0, 61)], is_open=True)

        labels = [tick.label for tick in axis.ticks]
        assert axis.now
        assert labels[-1] == ""
        assert "50 s" in labels

    def test_a_long_gap_in_which_nothing_ran_is_folded_with_its_length(self) -> None:
        axis = make_axis(0, 5000, [(0, 30), (4350, 5000)], is_open=False)

        assert [gap.label for gap in axis.gaps] == ["1 h 12 m"]
        assert axis.x(4350) - axis.x(30) == pytest.approx(3.0)
        assert axis.x(0) == 0
        assert axis.x(5000) == pytest.approx(100)

    def test_a_short_gap_is_not(self) -> None:
        assert make_axis(0, 100, [(0, 40), (70, 100)], is_open=False).gaps == []

    def test_a_wait_that_still_lasts_is_folded_too(self) -> None:
        axis = make_axis(0, 5000, [(0, 30)], is_open=True)

        assert [gap.label for gap in axis.gaps] == ["1 h 22 m"]

    def test_length_of_a_gap_stands_beside_now_and_not_on_it(self) -> None:
        axis = make_axis(0, 5000, [(0, 30)], is_open=True)

        (gap,) = axis.gaps
        assert (gap.anchor, gap.is_minor) == ("end", True)
        assert float(gap.label_x[:-1]) < float(gap.x[:-1]) < float(axis.now[:-1])

    def test_of_two_gaps_side_by_side_the_longer_one_is_labelled(self) -> None:
        axis = make_axis(0, 5001, [(0, 30), (3030, 3031), (5000, 5001)], is_open=False)

        assert sorted((gap.length, gap.label) for gap in axis.gaps) == [("32 m 49 s", ""), ("50 m 0 s", "50 m 0 s")]

    def test_ticks_between_long_gaps_are_seconds_where_they_are_told_apart_by_less(self) -> None:
        axis = make_axis(0, 500, [(0.6, 0.7)], is_open=True)

        assert {tick.label for tick in axis.ticks} >= {"0.62 s", "0.64 s"}

    def test_a_run_that_took_no_time_has_an_axis(self) -> None:
        assert make_axis(5.0, 5.0, [], is_open=False).x(5.0) == 0


class TestWindow:
    def test_marks_and_ticks_are_those_of_the_window(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(
            inserted_at=start, state="completed", finished_at=start + timedelta(seconds=100)
        )
        before = ran(run, "before", at=2, took=8)
        across = ran(run, "across", before, at=20, took=20)
        ran(run, "after", across, at=80, took=20)

        tab = tab_of(run, **{"from": "30", "to": "46"})

        assert row_of(tab, "before").marks == []
        assert row_of(tab, "after").marks == []
        (mark,) = row_of(tab, "across").marks
        assert (mark.x, mark.width) == ("0.00%", "62.50%")
        assert [tick.label for tick in tab.ticks][:2] == ["30 s", "32 s"]
        assert tab.scale == "0.0000,100.0000,30.0000,46.0000"
        assert row_of(tab, "across").time == "20 s"

    def test_groups_count_what_began_before_it_and_leave_out_what_failed_elsewhere(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(
            inserted_at=start, state="completed", finished_at=start + timedelta(seconds=120)
        )
        fan_out(run, 100)

        tab = tab_of(run, **{"from": "30", "to": "50"})

        assert row_of(tab, "page").note == "\u00d7 100, peak 10"
        assert {column.height for column in row_of(tab, "page").columns} == {48}
        assert row_of(tab, "page").failures == []
        assert len(row_of(tab_of(run, **{"from": "55", "to": "65"}), "page").failures) == 1

    def test_what_was_spent_before_it_is_where_the_line_begins(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(
            inserted_at=start, state="completed", finished_at=start + timedelta(seconds=100)
        )
        node = ran(run, "one", at=2, took=90)
        for second, cost in ((10, 1), (40, 2), (80, 4)):
            made = StepStatFactory.create(node=node, cost=Decimal(cost))
            StepStat.objects.filter(pk=made.pk).update(at=start + timedelta(seconds=second))

        spend = tab_of(run, **{"from": "30", "to": "50"}).spend

        assert spend is not None
        assert [tread.y for tread in spend.treads] == [46, 33]
        assert spend.treads[0].before == 46
        assert "7" in spend.total

    def test_a_window_up_to_now_goes_on_with_it(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)

        assert tab_of(run, **{"from": "90"}).now
        assert not tab_of(run, **{"from": "10", "to": "20"}).now

    @pytest.mark.parametrize("words", [{"from": "x"}, {"from": "nan"}, {"from": "9", "to": "3"}, {"from": "1e999"}])
    def test_what_is_no_window_is_all_of_it(self, start: datetime, words: dict[str, str]) -> None:
        run = WorkflowRunFactory.create(
            inserted_at=start, state="completed", finished_at=start + timedelta(seconds=100)
        )

        assert tab_of(run, **words).scale == "0.0000,100.0000,0.0000,100.0000"

    def test_its_links_lead_closer_and_back(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(
            inserted_at=start, state="completed", finished_at=start + timedelta(seconds=100)
        )

        tab = tab_of(run, **{"from": "30", "to": "50"})

        assert (tab.closer, tab.wider) == ("?from=35&to=45&view=timeline", "?from=20&to=60&view=timeline")
        assert tab.whole == "?view=timeline"
        assert tab_of(run).wider == "?view=timeline"
        assert tab_of(run).closer == "?view=timeline&from=50"


class TestLife:
    def test_attempts_take_the_colour_of_their_end(self, start: datetime) -> None:
        log = [
            entry(start, 1, 0, 2, 5, outcome="failed"),
            entry(start, 2, 10, 11, 15, outcome="worker_lost"),
            entry(start, 3, 20, 20, 25, outcome="snoozed"),
            entry(start, 3, 30, 31, 40, outcome="completed"),
        ]
        node = WorkflowNodeFactory.build(state="completed", attempt=3, attempt_log=log)

        life = life_of(node, now=timezone.now().timestamp(), most=24)

        bars = [(span.state, span.ending) for span in life.spans if span.kind == "bar"]
        assert bars == [("discarded", "fail"), ("discarded", "lost"), ("snoozed", ""), ("completed", "")]
        pauses = [span.kind for span in life.spans if span.kind in ("retry", "snooze")]
        assert pauses == ["retry", "retry", "snooze"]
        assert sum(span.kind == "wait" for span in life.spans) == 3
        assert life.own_time == "38 s"

    def test_what_waits_for_dependencies_has_no_mark(self) -> None:
        life = life_of(WorkflowNodeFactory.build(state="pending", attempt_log=[]), now=0.0, most=24)

        assert life.spans == ()
        assert life.words == "has not run"

    def test_what_waits_for_a_worker_is_hollow_up_to_now(self, start: datetime) -> None:
        node = WorkflowNodeFactory.build(state="available", queued_at=start, attempt_log=[])

        life = life_of(node, now=start.timestamp() + 8.2, most=24)

        assert [span.kind for span in life.spans] == ["wait"]
        assert life.words == "queued 8.2 s"

    def test_what_executes_reaches_to_now(self, start: datetime) -> None:
        node = WorkflowNodeFactory.build(
            state="executing", attempt=1, queued_at=start, started_at=start + timedelta(seconds=8.2), attempt_log=[]
        )

        life = life_of(node, now=start.timestamp() + 49.2, most=24)

        assert life.words == "queued 8.2 s; running for 41 s"

    def test_what_is_held_is_outlined(self, start: datetime) -> None:
        node = WorkflowNodeFactory.build(state="snoozed", due_at=None, changed_at=start, attempt_log=[])

        assert [span.kind for span in life_of(node, now=start.timestamp() + 5, most=24).spans] == ["hold"]

    def test_what_waits_to_be_tried_again_is_dashed_up_to_now(self, start: datetime) -> None:
        log = [entry(start, 1, 0, 0, 5, outcome="failed")]
        node = WorkflowNodeFactory.build(state="retryable", attempt=1, due_at=timezone.now(), attempt_log=log)

        life = life_of(node, now=start.timestamp() + 50, most=24)

        assert life.spans[-1].kind == "retry"
        assert life.words == "1 attempt failed; waited 45 s to be tried again"

    def test_only_the_newest_executions_are_drawn(self, start: datetime) -> None:
        log = [entry(start, each, each * 2, each * 2, each * 2 + 1, outcome="failed") for each in range(40)]
        node = WorkflowNodeFactory.build(state="discarded", attempt=40, attempt_log=log)

        assert len(life_of(node, now=0.0, most=10).busy) == 10


class TestRows:
    def test_rows_stand_in_topological_order_and_then_by_start(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        plan = ran(run, "plan", at=2, took=4)
        late, early = ran(run, "late", plan, at=20), ran(run, "early", plan, at=10)
        step(run, "end", late, early, remaining=1)

        assert [row.name for row in tab_of(run).rows] == ["plan", "early", "late", "end"]

    def test_the_critical_path_is_the_chain_that_took_longest(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        plan = ran(run, "plan", at=2, took=4)
        slow, quick = ran(run, "slow", plan, at=10, took=60), ran(run, "quick", plan, at=10, took=5)
        step(run, "end", slow, quick, remaining=1)

        tab = tab_of(run)

        assert [row.name for row in tab.rows if row.is_critical] == ["plan", "slow", "end"]
        assert row_of(tab, "end").path_x == ""
        assert "path" in tab.kinds

    def test_what_was_cancelled_without_having_run_is_not_on_it(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start, state="failed", finished_at=start + timedelta(seconds=50))
        bad = ran(run, "bad", at=2, state="discarded")
        step(run, "never", bad, state="cancelled", settled_at=timezone.now(), remaining=0)

        assert [row.name for row in tab_of(run).rows if row.is_critical] == ["bad"]

    def test_a_fan_out_is_one_row_with_the_worst_of_its_steps_below(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        fan_out(run, 80, per_second=2)

        tab = tab_of(run)

        group = row_of(tab, "page")
        assert group.is_group
        assert re.fullmatch(r". 80, peak (19|20)", group.note)
        assert len(group.failures) == 1
        assert 1 < len(group.columns) <= 60
        children = [row for row in tab.rows if row.is_child]
        assert children[0].name == "page[50]"
        assert len(children) == 5
        assert children[-1].more_label == "75 more"
        assert "view=steps" in children[-1].more

    def test_twins_fold_from_nine(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        for index in range(9):
            ran(run, f"twin_{index}", at=2.0 + index)

        assert [row.name for row in tab_of(run).rows if not row.is_child] == ["twin"]

    def test_the_area_tells_how_many_executed_at_once(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(
            inserted_at=start, state="completed", finished_at=start + timedelta(seconds=100)
        )
        fan_out(run, 10, per_second=1000, took=70)

        columns = row_of(tab_of(run), "page").columns

        assert columns[0].x == "0.00%"
        assert sum(float(each.width.rstrip("%")) for each in columns if each.height > 40) == pytest.approx(70, abs=2)

    def test_one_who_waits_for_an_hour_folds_the_gap_of_groups_too(self) -> None:
        start = timezone.now() - timedelta(hours=2)
        run = WorkflowRunFactory.create(inserted_at=start)
        fan_out(run, 20, per_second=1, took=10)
        ran(run, "after", at=7000, took=100)

        tab = tab_of(run)

        assert [gap.label for gap in tab.gaps] == ["1 h 54 m"]
        assert len(row_of(tab, "page").columns) > 2

    def test_never_more_rows_than_can_be_read(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        nodes = [
            WorkflowNode(run=run, name=f"s{index}", step=f"tests.f{index}", n_deps=1, queued_at=start, started_at=start)
            for index in range(450)
        ]
        nodes = WorkflowNode.objects.bulk_create(nodes)
        WorkflowEdge.objects.bulk_create(
            WorkflowEdge(node=after, dependency=before) for before, after in pairwise(nodes)
        )

        tab = tab_of(run)

        assert len(tab.rows) == MOST_ROWS
        assert tab.left_out == "250 steps without a row"

    def test_layers_share_rows(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        above: list[WorkflowNode] = []
        for layer in range(30):
            nodes = [WorkflowNode(run=run, name=f"s{layer}_{i}", step="tests.f", n_deps=2) for i in range(20)]
            nodes = WorkflowNode.objects.bulk_create(nodes)
            WorkflowEdge.objects.bulk_create(
                WorkflowEdge(node=node, dependency=above[(i + turn) % 20])
                for i, node in enumerate(nodes if above else [])
                for turn in (0, 3)
            )
            above = nodes

        tab = tab_of(run)

        assert len(tab.rows) == 30
        assert {row.height for row in tab.rows} == {28}


class TestSpend:
    def test_the_line_rises_to_what_was_spent_and_shows_what_has_no_price(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start, budget=Decimal("0.50"))
        node = ran(run, "ask", at=2)
        for seconds, cost in ((10, "0.10"), (40, "0.15"), (60, None)):
            at = start + timedelta(seconds=seconds)
            price = None if cost is None else Decimal(cost)
            StepStatFactory.create(run=run, node=node, at=at, cost=price, currency="USD" if price else "")

        spend = tab_of(run).spend

        assert spend is not None
        assert spend.total == "$0.2500"
        assert spend.is_unpriced
        assert spend.budget == "budget $0.50"
        assert spend.label == "spent $0.2500 + 1 unpriced of $0.50"
        assert [tread.y for tread in spend.treads] == sorted((tread.y for tread in spend.treads), reverse=True)
        assert len(spend.unpriced) == 1
        assert spend.treads[-1].y == 30

    def test_what_came_from_the_ledger_was_not_paid(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        node = ran(run, "ask", at=2)
        StepStatFactory.create(run=run, node=node, at=start, cost=Decimal(1), currency="USD", from_ledger=True)

        assert tab_of(run).spend is None

    def test_a_run_without_models_has_no_such_row(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        ran(run, "plain", at=2)

        assert StepStat.objects.count() == 0
        assert tab_of(run).spend is None


class TestPage:
    def test_it_is_drawn_with_no_inline_style_and_no_script(self, boss: Client, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        ran(run, "plan", at=2)
        fan_out(run, 20)

        html = page_of(boss, run)

        assert "data-timeline" in html
        assert ' style="' not in html
        assert "<style" not in html
        assert 'aria-label="queued 2.0 s; ran 10 s"' in html
        assert "critical path" in html

    def test_a_step_with_an_evil_name_is_harmless(self, boss: Client) -> None:
        run = Workflow("evil").add(EVIL, steps.add.bind(left=1, right=2)).insert()

        assert EVIL not in page_of(boss, run)

    def test_the_chosen_step_is_marked(self, boss: Client, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        ran(run, "plan", at=2)

        html = page_of(boss, run, step="plan")

        assert re.search(r'class="b-tl-row[^"]*" href="[^"]*" aria-current="true"', html)

    def test_a_run_without_steps_has_a_page(self, boss: Client) -> None:
        assert "data-timeline" in page_of(boss, WorkflowRunFactory.create())

    @pytest.mark.parametrize("count", [8, 400, 2000])
    def test_reading_it_takes_as_few_queries_however_many_steps(self, start: datetime, count: int) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        fan_out(run, count, per_second=count / 80)
        tab_of(run)

        with CaptureQueriesContext(connection) as queries:
            tab = tab_of(run)

        assert len(queries) <= 6
        assert len(tab.rows) <= 12

    def test_what_is_kept_of_a_run_is_read_anew_when_it_grows(self, start: datetime) -> None:
        run = WorkflowRunFactory.create(inserted_at=start)
        ran(run, "plan", at=2)
        assert len(tab_of(run).rows) == 1

        ran(run, "grafted", at=20)

        assert len(tab_of(run).rows) == 2
