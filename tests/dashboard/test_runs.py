"""The list of runs: the strip above it, who serves the queues, and what the rows tell."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.template import engines
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from baton import Workflow
from baton.dashboard.strip import MINUTES, Strip, Tile, strip_of, throughput
from baton.models import Hold, StepStat, WorkflowNode, WorkflowRun
from baton.states import HoldKind
from tests import steps
from tests.factories import (
    QueueSightingFactory,
    StepStatFactory,
    SweepLeaseFactory,
    WorkflowNodeFactory,
    WorkflowRunFactory,
)
from tests.people import client_with

pytestmark = pytest.mark.django_db

EVIL = "<script>alert(1)</script>"


def list_page(client: Client) -> str:
    answer = client.get(reverse("admin:baton_workflowrun_changelist"))
    assert answer.status_code == 200
    return answer.content.decode()


def tile(strip: Strip, name: str) -> Tile:
    return next(each for each in strip.tiles if each.name == name)


def held_step(run: WorkflowRun, name: str, kind: str = HoldKind.QUESTION) -> WorkflowNode:
    node = WorkflowNodeFactory.create(run=run, name=name, state="snoozed", remaining=0)
    Hold.objects.create(node=node, run=run, kind=kind, since=timezone.now() - timedelta(minutes=72))
    return node


def text(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup))


def test_halves_of_surrogate_pairs_in_what_the_caller_said_keep_nobody_from_the_pages() -> None:
    run = Workflow("x", meta={"by": "maria \ud800"}).add("a", steps.nothing).insert()
    viewer = client_with("view_workflowrun")

    assert "maria \\ud800" in list_page(viewer)
    for view in ("graph", "activity"):
        answer = viewer.get(reverse("admin:baton_workflowrun_change", args=[run.pk]), {"view": view})
        assert "maria \\ud800" in answer.content.decode()


class TestStrip:
    def test_where_nothing_is_every_tile_says_nought(self) -> None:
        strip = strip_of()

        assert [each.value for each in strip.tiles] == ["0", "0", "0", "0"]
        assert strip.throughput == "0"
        assert strip.spending.total == "$0"
        assert strip.sweep_words == "never seen"

    def test_it_counts_what_executes_and_what_waits_and_where_longest(self) -> None:
        run = WorkflowRunFactory.create()
        WorkflowNodeFactory.create(run=run, name="a", executing=True, queue="llm")
        for name, minutes, queue in (("b", 5, "ocr"), ("c", 2, "llm")):
            since = timezone.now() - timedelta(minutes=minutes, seconds=1)
            WorkflowNodeFactory.create(run=run, name=name, available=True, queue=queue, queued_at=since)

        strip = strip_of()

        assert tile(strip, "executing").value == "1"
        assert tile(strip, "executing").below == "1 run goes on"
        assert tile(strip, "waiting").value == "2"
        assert re.fullmatch(r"oldest \d+ m \d+ s, in ocr", tile(strip, "waiting").below)

    def test_it_counts_what_failed_in_a_day(self) -> None:
        WorkflowRunFactory.create(failed=True)
        WorkflowRunFactory.create(failed=True, finished_at=timezone.now() - timedelta(hours=30))
        WorkflowRunFactory.create(completed=True)

        assert tile(strip_of(), "failed").value == "1"

    def test_the_oldest_that_needs_a_person_is_named_and_linked(self) -> None:
        run = WorkflowRunFactory.create()
        held_step(run, "approve")

        strip = strip_of()

        assert tile(strip, "person").value == "1"
        assert tile(strip, "person").below == "approve, 1 h 12 m"
        assert tile(strip, "person").address.endswith(f"{run.pk}/change/?step=approve")

    def test_throughput_has_a_bar_for_each_minute(self) -> None:
        run = WorkflowRunFactory.create()
        now = timezone.now().replace(second=30)
        for index in range(4):
            at = now - timedelta(minutes=1)
            fields = {"state": "completed", "remaining": 0, "started_at": at, "settled_at": at}
            WorkflowNodeFactory.create(run=run, name=f"s{index}", **fields)

        rates = throughput("default", now)

        assert len(rates) == MINUTES
        assert rates[-2] == 4
        assert sum(rates) == 4

    def test_what_began_this_minute_is_no_throughput_of_zero(self) -> None:
        now = timezone.now()
        WorkflowNodeFactory.create(completed=True, started_at=now, settled_at=now)

        assert strip_of().throughput == "1"

    def test_spend_is_of_the_day_and_says_what_has_no_price(self, settings) -> None:
        settings.BATON = {**settings.BATON, "DAY_BUDGET": Decimal(1)}
        node = WorkflowNodeFactory.create()
        at = timezone.now() + timedelta(minutes=5)  # no midnight is between these calls and the look at them
        for cost, more in ((Decimal("0.90"), {}), (None, {"currency": ""}), (Decimal(5), {"from_ledger": True})):
            StepStatFactory.create(run=node.run, node=node, cost=cost, at=at, **more)
        StepStat.objects.filter(cost__isnull=False).update(currency="USD")

        spending = strip_of().spending

        assert spending.total == "$0.9000"
        assert spending.of == "of $1"
        assert spending.unpriced == "+ 1 unpriced"
        assert (spending.percent, spending.tone) == ("90.0%", "amber")

    def test_it_takes_eight_queries_however_much_there_is(self) -> None:
        for _turn in range(3):
            run = WorkflowRunFactory.create()
            held_step(run, "approve")
            WorkflowNodeFactory.create(run=run, name="a", executing=True)
        SweepLeaseFactory.create(swept_at=timezone.now())

        with CaptureQueriesContext(connection) as queries:
            strip_of()

        assert len(queries) <= 9


class TestHealth:
    def test_a_queue_that_nobody_serves_is_red_and_says_for_how_long(self, monkeypatch) -> None:
        monkeypatch.setattr("baton.q2.waiting_bells", lambda queue: 2)
        since = timezone.now() - timedelta(seconds=200)
        WorkflowNodeFactory.create(available=True, queue="mail", queued_at=since)

        queue = next(each for each in strip_of().queues if each.name == "mail")

        assert queue.icon == "discarded"
        assert queue.is_unserved
        assert queue.words == "no worker for 3 m 20 s, 1 step waits"

    def test_a_queue_with_idle_workers_is_fine(self) -> None:
        QueueSightingFactory.create(queue="default")

        queue = next(each for each in strip_of().queues if each.name == "default")

        assert queue.icon == "completed"
        assert "0 busy" in queue.words

    def test_a_queue_of_which_all_workers_are_busy_has_a_triangle(self, monkeypatch) -> None:
        monkeypatch.setattr("baton.q2.workers_on_a_host", lambda queue: 1)
        lease = timezone.now() + timedelta(minutes=1)
        WorkflowNodeFactory.create(executing=True, queue="ocr", worker="host:1", lease_until=lease)

        queue = next(each for each in strip_of().queues if each.name == "ocr")

        assert (queue.icon, queue.words) == ("warning", "its 1 worker is busy")

    def test_workers_of_several_clusters_of_a_host_are_known_once_they_were_busy(self, monkeypatch) -> None:
        monkeypatch.setattr("baton.q2.workers_on_a_host", lambda queue: 1)
        lease = {"executing": True, "queue": "a queue", "lease_until": timezone.now() + timedelta(minutes=1)}
        nodes = [WorkflowNodeFactory.create(worker=f"host:{turn}", **lease) for turn in range(2)]

        def words() -> str:
            return next(each for each in strip_of().queues if each.name == "a queue").words

        assert words() == "all 2 workers busy"
        WorkflowNode.objects.filter(pk=nodes[0].pk).update(lease_until=None, state="available")
        assert words() == "2 workers, 1 busy"

    def test_the_sweep_tells_when_it_was_seen(self) -> None:
        SweepLeaseFactory.create(swept_at=timezone.now() - timedelta(seconds=12))

        strip = strip_of()

        assert (strip.sweep_icon, strip.sweep_words) == ("completed", "12 s ago")


class TestList:
    def test_the_strip_stands_above_the_list_with_no_inline_style(self, viewer: Client) -> None:
        WorkflowRunFactory.create()

        page = list_page(viewer)

        assert page.index("data-strip") < page.index('id="changelist"')
        assert ' style="' not in page[page.index("data-strip") : page.index('id="changelist"')]
        assert reverse("admin:baton_workflowrun_now") in page

    def test_a_row_tells_what_it_cost_of_what_and_what_has_no_price(self, viewer: Client) -> None:
        run = WorkflowRunFactory.create(budget=Decimal("0.50"), meta={"by": "maria"})
        node = WorkflowNodeFactory.create(run=run)
        StepStatFactory.create(run=run, node=node, cost=Decimal("0.1605"), currency="USD")
        StepStatFactory.create(run=run, node=node, unpriced=True)

        row = text(list_page(viewer).partition('id="result_list"')[2])

        assert "$0.1605 of $0.50 + 1 unpriced" in row
        assert "maria" in row

    def test_a_run_without_models_has_no_cost(self, viewer: Client) -> None:
        WorkflowRunFactory.create()

        assert '<span class="baton b-cost">—</span>' in list_page(viewer)

    def test_a_run_that_needs_a_person_says_so_and_leads_there(self, viewer: Client) -> None:
        run = WorkflowRunFactory.create()
        held_step(run, "approve & go")

        page = list_page(viewer)

        assert "needs you" in page
        assert f"{run.pk}/change/?step=approve+%26+go" in page

    @pytest.mark.parametrize(("query", "count"), [("", 2), ("?state__exact=failed", 1), ("?q=other", 0)])
    def test_new_runs_that_match_the_filter_are_announced(self, viewer: Client, query: str, count: int) -> None:
        now = timezone.now()
        WorkflowRunFactory.create(inserted_at=now - timedelta(minutes=1), failed=True)
        as_of = now.isoformat()
        WorkflowRunFactory.create(inserted_at=now + timedelta(seconds=1), failed=True)
        WorkflowRunFactory.create(inserted_at=now + timedelta(seconds=2))
        address = reverse("admin:baton_workflowrun_changelist") + query

        shown = viewer.get(address, headers={"Baton-As-Of": as_of}).content.decode()

        assert f'data-new-runs="{count}"' in shown
        assert (f"{count} new runs, show" if count > 1 else f"{count} new run") in shown
        for headers in ({}, {"Baton-As-Of": "soon"}):
            assert 'data-new-runs="0" href="" hidden' in viewer.get(address, headers=headers).content.decode()

    def test_names_errors_and_people_are_escaped(self, viewer: Client) -> None:
        run = Workflow(EVIL, meta={"by": EVIL}).add("a", steps.nothing).insert()
        run.cancel(EVIL)

        assert EVIL not in list_page(viewer)

    def test_who_may_not_see_runs_sees_nothing(self) -> None:
        client = client_with("view_completion")

        assert client.get(reverse("admin:baton_workflowrun_changelist")).status_code == 403
        assert Client().get(reverse("admin:baton_workflowrun_changelist")).status_code == 302


class TestPanel:
    def rendered(self, user: User) -> str:
        request = RequestFactory().get("/")
        request.user = user
        return engines["django"].from_string('{% include "baton/admin/panel.html" %}').render({}, request)

    def test_it_has_five_links(self) -> None:
        WorkflowRunFactory.create()
        WorkflowRunFactory.create(failed=True)
        SweepLeaseFactory.create(swept_at=timezone.now())

        panel = self.rendered(User.objects.create(username="boss", is_staff=True, is_superuser=True))

        assert panel[panel.index("b-index-links") :].count("<a ") == 5
        assert "1 running" in panel
        assert "1 failed in 24 h" in panel
        assert "every queue with work is served" in panel

    def test_who_may_not_see_runs_sees_nothing(self) -> None:
        assert self.rendered(User.objects.create(username="staff", is_staff=True)).strip() == ""


@pytest.mark.parametrize(
    ("days", "why"), [(None, "Somebody may have removed it."), (30, "Retention removes runs 30 days after")]
)
def test_who_follows_a_link_to_a_run_that_is_gone_is_told(settings: Any, days: int | None, why: str) -> None:
    settings.BATON = {**settings.BATON, "RETENTION_DAYS": days}
    gone = uuid4()

    answer = client_with("view_workflowrun").get(reverse("admin:baton_workflowrun_change", args=[gone]), follow=True)

    assert f"There is no run {gone}. {why}" in answer.content.decode()
    assert answer.redirect_chain[-1][0] == reverse("admin:baton_workflowrun_changelist")
