"""The graph's tab, through the admin's client."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connection
from django.db.models import F
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from baton import Workflow
from baton.models import StepStat, WorkflowNode, WorkflowRun
from tests import steps
from tests.factories import WorkflowRunFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_plans() -> None:
    cache.clear()


@pytest.fixture
def client() -> Client:
    """Somebody who may do everything."""
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    return client


def page(client: Client, run: WorkflowRun, words: str = "") -> str:
    address = reverse("admin:baton_workflowrun_change", args=[run.pk])
    answer = client.get(f"{address}?{words}")
    assert answer.status_code == 200
    return answer.content.decode()


def queries(client: Client, run: WorkflowRun, words: str = "") -> Sequence[str]:
    with CaptureQueriesContext(connection) as found:
        page(client, run, words)
    return [query["sql"] for query in found.captured_queries]


def fan(count: int, **options: Any) -> WorkflowRun:
    """A run with so many steps side by side."""
    flow = Workflow("fan").add("list", steps.nothing)
    for index in range(count):
        flow.add(f"page[{index}]", steps.nothing, deps=["list"])
    flow.add("merge", steps.nothing, deps=[f"page[{index}]" for index in range(count)], **options)
    return flow.insert()


def turn(run: WorkflowRun, state: str, *names: str, **values: Any) -> None:
    """Say that steps are in a state."""
    now = timezone.now()
    settled = {"settled_at": now} if state in {"completed", "discarded", "cancelled"} else {}
    started = {"started_at": now - timedelta(seconds=8)} if state not in {"pending", "available", "cancelled"} else {}
    run.nodes.filter(name__in=names).update(state=state, version=F("version") + 1, **settled | started | values)


def node(html: str, name: str) -> str:
    """The markup of a step or group in the picture."""
    who = rf'(?:data-step="{re.escape(name)}"|href="[^"]*group={re.escape(quote(name))}")'
    found = re.search(rf'<a class="b-node[^>]*{who}.*?</a>', html, re.DOTALL)
    assert found, name
    return found[0]


def cells(group: str) -> list[str]:
    """The states of a mosaic's cells."""
    runs = re.findall(r'href="#b-c-([a-z]+)(?:-(\d+))?"', group)
    return [state for state, length in runs for _ in range(int(length or 1))]


def drawn(html: str) -> str:
    return html[html.index('<svg class="b-graph') : html.index("</svg>", html.index('<svg class="b-graph'))]


def test_a_step_shows_its_state_its_time_and_what_it_waits_for(client: Client) -> None:
    run = (
        Workflow("brief")
        .add("plan", steps.nothing)
        .add("ask", steps.nothing, deps=["plan"], model="gpt-5")
        .add("look", steps.nothing, deps=["plan"])
        .add("end", steps.nothing, deps=["ask", "look"])
        .add("after", steps.nothing, deps=["end"])
        .insert()
    )
    turn(run, "completed", "plan")
    turn(run, "executing", "ask", progress={"current": 9, "total": 14, "message": "source"}, attempt=1)
    turn(run, "retryable", "look", attempt=2, due_at=timezone.now())
    run.nodes.filter(name="end").update(remaining=2)
    html = page(client, run)
    assert "5 steps, 5 dependencies" in html
    assert "b-node b-completed" in node(html, "plan")
    assert ">8.0 s</text>" in node(html, "plan")
    assert "data-since=" in node(html, "ask")
    assert ">gpt-5</text>" in node(html, "ask")
    assert re.search(r'<rect class="b-bar"[^>]*width="126"', node(html, "ask"))
    assert ">attempt 2 of 5</text>" in node(html, "look")
    assert ">waits for 2 of 2</text>" in node(html, "end")
    assert ">waits for end</text>" in node(html, "after")
    assert 'aria-label="after: pending. waits for end"' in node(html, "after")


def test_a_held_step_has_the_icon_of_a_person(client: Client) -> None:
    run = Workflow("held").add("a", steps.nothing).add("b", steps.nothing).insert()
    turn(run, "snoozed", "a", due_at=None)
    turn(run, "snoozed", "b", due_at=timezone.now() + timedelta(hours=1))
    html = page(client, run)
    assert "#b-i-person" in node(html, "a")
    assert ">held</text>" in node(html, "a")
    assert "#b-i-snoozed" in node(html, "b")
    assert ">until " in node(html, "b")


def test_a_fan_out_is_a_mosaic_whose_cells_show_states(client: Client) -> None:
    run = fan(40)
    turn(run, "completed", "list", *(f"page[{index}]" for index in range(10)))
    turn(run, "discarded", "page[3]", error="no PDF", error_key="no PDF", attempt=5)
    turn(run, "executing", "page[10]")
    html = page(client, run)
    group = node(html, "twins:page[0]")
    assert ">9 of 40</text>" in group
    assert ">1 discarded · 1 executing</text>" in group
    assert cells(group)[:4] == ["completed"] * 3 + ["discarded"]
    assert cells(group)[10] == "executing"
    assert len(cells(group)) == 40
    assert "b-executing" in group[:60]
    assert "42 steps, 3 drawn: page is folded" in html


def test_a_cell_stands_for_many_steps_and_shows_the_worst(client: Client) -> None:
    run = fan(801)
    turn(run, "completed", *(f"page[{index}]" for index in range(30)))
    turn(run, "discarded", "page[4]")
    html = page(client, run)
    found = cells(node(html, "twins:page[0]"))
    assert len(found) == 267
    assert found[:3] == ["completed", "discarded", "completed"]
    assert "1 cell = 3 steps" in html


def test_groups_whose_ids_stand_between_each_other_are_counted_apart(client: Client) -> None:
    flow = Workflow("interleaved").add("list", steps.nothing)
    for index in range(12):
        flow.add(f"read[{index}]", steps.nothing, deps=["list"])
        flow.add(f"look[{index}]", steps.nothing, deps=["list"])
    flow.add("a", steps.nothing, deps=[f"read[{index}]" for index in range(12)])
    flow.add("b", steps.nothing, deps=[f"look[{index}]" for index in range(12)])
    run = flow.insert()
    turn(run, "completed", *(f"read[{index}]" for index in range(12)))
    turn(run, "executing", "look[5]")
    html = page(client, run)
    assert ">12 of 12</text>" in node(html, "twins:read[0]")
    found = cells(node(html, "twins:look[0]"))
    assert [index for index, state in enumerate(found) if state == "executing"] == [5]


def test_scattered_ids_are_counted_without_the_database(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fan(30)
    turn(run, "completed", "page[7]")
    before = drawn(page(client, run))
    monkeypatch.setattr("baton.dashboard.faces_of_run._MOST_SERIES", 0)
    assert drawn(page(client, run)) == before


def test_money_is_on_what_cost_it(client: Client) -> None:
    run = fan(12)
    ids = dict(run.nodes.values_list("name", "id"))
    now = timezone.now()

    def spend(name: str, cost: str | None, **more: Any) -> None:
        StepStat.objects.create(
            run=run, node_id=ids[name], workflow_name="fan", step_name=name, step="s", model="gpt-5",
            cost=None if cost is None else Decimal(cost), currency="USD", at=now, **more,
        )  # fmt: skip

    spend("list", "0.5")
    spend("list", "0.25")
    spend("page[2]", "1")
    spend("page[3]", "2")
    spend("page[4]", None)
    spend("page[5]", "9", from_ledger=True)
    spend("merge", None)
    html = page(client, run)
    assert ">$0.7500</text>" in node(html, "list")
    assert ">$3.00 + 1 unpriced</text>" in node(html, "twins:page[0]")
    assert ">unpriced</text>" in node(html, "merge")


def test_the_group_panel_counts_lists_and_finds(client: Client) -> None:
    run = fan(40)
    turn(run, "completed", *(f"page[{index}]" for index in range(10)))
    turn(run, "discarded", "page[3]", error="BadPDF: no PDF\n  at 1", error_key="BadPDF: no PDF")
    key = quote("twins:page[0]")
    html = page(client, run, f"group={key}")
    assert "group, pending" in html
    assert "9 of 40" in html
    assert "BadPDF: no PDF" in html
    assert "page[3]</a>" in html
    assert "and 28 more" in html
    assert "b-selected" in node(html, "twins:page[0]")[:80]
    html = page(client, run, f"group={key}&child=17")
    listed = html[html.index("data-group-panel") :]
    assert "page[17]</a>" in listed
    assert "page[18]</a>" not in listed
    assert "No steps match." in page(client, run, f"group={key}&child=zebra")
    listed = page(client, run, f"group={key}&cell=4").partition("data-group-panel")[2]
    assert "Step 5 of 40" in listed
    assert "page[4]</a>" in listed
    assert "page[5]</a>" not in listed


def test_a_group_opens_in_place_and_folds_again(client: Client) -> None:
    run = fan(12)
    turn(run, "discarded", "page[3]")
    key = quote("twins:page[0]")
    html = page(client, run, f"group={key}")
    assert "Open it in the graph" in html
    html = page(client, run, f"group={key}&open={key}")
    assert "Fold it again" in html
    assert "b-discarded" in node(html, "page[3]")
    assert drawn(html).count("data-in=") == 12
    assert "Open it in the graph" not in page(client, fan(61), f"group={key}")


def test_a_step_in_a_group_is_marked_and_has_its_panel(client: Client) -> None:
    html = page(client, fan(12), "step=page%5B4%5D")
    assert 'data-panel data-step="page[4]"' in html
    assert "b-selected" in node(html, "twins:page[0]")[:80]
    assert re.search(r'<rect class="b-chosen" x="46" y="-2"', node(html, "twins:page[0]"))
    assert "b-summary" not in html


def test_an_unknown_group_is_said(client: Client) -> None:
    html = page(client, fan(12), "group=nothing%00")
    assert "There is no such group in this picture." in html
    assert "b-summary" in html


def test_the_summary_counts_and_names_the_critical_path_and_the_slowest(client: Client) -> None:
    run = (
        Workflow("chain")
        .add("a", steps.nothing)
        .add("b", steps.nothing, deps=["a"])
        .add("c", steps.nothing, deps=["b"])
        .add("d", steps.nothing, deps=["a"])
        .insert()
    )
    now = timezone.now()
    WorkflowRun.objects.filter(pk=run.pk).update(inserted_at=now - timedelta(seconds=60))
    turn(run, "completed", "a", started_at=now - timedelta(seconds=50), settled_at=now - timedelta(seconds=30))
    turn(run, "completed", "d", started_at=now - timedelta(seconds=30), settled_at=now - timedelta(seconds=29))
    turn(run, "executing", "b", started_at=now - timedelta(seconds=25))
    html = page(client, run)
    summary = html[html.index("b-summary") :]
    assert re.search(r"a and b have taken 4[56] s one after the other so far, of 1 m", summary)
    assert "Still to come on this path: c." in summary
    slowest = summary[summary.index("Slowest") :]
    assert [slowest.index(f">{name}</a>") for name in "bad"] == sorted(slowest.index(f">{name}</a>") for name in "bad")
    assert "view=steps&amp;states=executing" in summary or "states=executing" in summary
    ends = re.search(r'<g class="b-waiting b-critical" data-ends="([^"]*)"', html)
    assert ends
    things = re.findall(r'<a class="b-node[^>]*data-step="(\w)"', html)
    assert [tuple(things[int(place)] for place in pair.split("-")) for pair in ends[1].split()] == [("b", "c")]


def test_the_critical_path_names_no_step_that_was_cancelled_before_its_turn(client: Client) -> None:
    run = Workflow("stopped").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()
    now = timezone.now()
    turn(run, "completed", "a", started_at=now - timedelta(seconds=50), settled_at=now - timedelta(seconds=40))
    turn(run, "cancelled", "b", settled_at=now)
    WorkflowRun.objects.filter(pk=run.pk).update(
        state="cancelled", inserted_at=now - timedelta(seconds=60), finished_at=now
    )

    assert "a took 10 s, of 1 m 0 s in all." in page(client, run)


def test_a_cancelled_step_has_a_red_edge_from_what_failed(client: Client) -> None:
    run = Workflow("failed").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()
    turn(run, "discarded", "a")
    turn(run, "cancelled", "b", error="dependency 'a' was discarded")
    assert '<g class="b-cause' in page(client, run)
    run.nodes.filter(name="b").update(error="by maria")
    assert '<g class="b-cause' not in page(client, run)


def test_the_direction_is_remembered(client: Client) -> None:
    run = fan(3)
    assert "b-graph b-down" in page(client, run)
    assert "b-graph b-right" in page(client, run, "direction=right")
    assert "b-graph b-right" in page(client, run)
    assert "b-graph b-down" in page(client, run, "direction=down")
    assert "b-graph b-down" in page(client, run)


def test_only_a_choice_is_kept_and_links_do_not_carry_it(client: Client) -> None:
    run = fan(3)
    page(client, run)
    page(client, run, "direction=sideways")
    assert "baton_graph_direction" not in client.session
    html = page(client, run, "direction=right")
    assert client.session["baton_graph_direction"] == "right"
    assert html.count("direction=") == len(["down", "right"])


def test_a_long_chain_leads_to_the_right_where_there_is_room_and_nobody_chose(client: Client) -> None:
    flow = Workflow("chain")
    for index in range(26):
        flow.add(flow_name(index), steps.nothing, deps=[flow_name(index - 1)] if index else [])
    run = flow.insert()
    html = page(client, run)
    assert "b-graph b-down" in html
    assert "js/width.js" in html
    client.cookies["baton_wide"] = "1"
    assert "b-graph b-right" in page(client, run)
    assert "b-graph b-down" in page(client, fan(3))
    html = page(client, run, "direction=down")
    assert "b-graph b-down" in html
    assert "js/width.js" not in html


def test_names_are_escaped(client: Client) -> None:
    odd = "<script>alert(1)</script>"
    flow = Workflow(odd).add(odd, steps.nothing)
    for index in range(10):
        flow.add(f"{odd}\"'{index}", steps.nothing, deps=[odd])
    run = flow.insert()
    turn(run, "discarded", f"{odd}\"'3", error=odd, error_key=odd)
    key = quote(f"twins:{odd}\"'0")
    group = f"group={key}"
    for words in ("", f"step={quote(odd)}", group, f"{group}&open={key}", f"{group}&child={quote(odd)}"):
        html = page(client, run, words)
        assert odd not in html
        assert "style=" not in drawn(html)


def test_a_run_without_steps_has_a_graph(client: Client) -> None:
    run = WorkflowRunFactory.create(name="empty")
    assert "b-graph" in page(client, run)


def test_what_is_too_big_is_drawn_around_the_chosen_step(client: Client) -> None:
    flow = Workflow("chain")
    for index in range(310):
        deps = [flow_name(index - 1)] if index else []
        flow.add(flow_name(index), (steps.nothing, steps.total)[index % 2], deps=deps)
    run = flow.insert()
    turn(run, "completed", flow_name(0))
    html = page(client, run)
    assert "showing 3 of 310 steps around x0" in html
    assert 'data-count="pending">309<' in html
    html = page(client, run, f"step={flow_name(20)}")
    assert f"showing 5 of 310 steps around {flow_name(20)}" in html
    html = page(client, run, f"step={flow_name(22)}&around={flow_name(20)}")
    assert f"around {flow_name(20)}" in html
    assert f"Show what is around {flow_name(22)}" in html
    assert f"around {flow_name(30)}" in page(client, run, f"step={flow_name(30)}&around={flow_name(20)}")


def flow_name(index: int) -> str:
    return f"{'xyz'[index % 3]}{index}"


def test_later_views_read_little_however_big_the_run_is(client: Client) -> None:
    small, big = fan(12), fan(300)
    first = [queries(client, run) for run in (small, big)]
    later = [queries(client, run) for run in (small, big)]
    assert len(later[0]) == len(later[1])
    assert len(first[1]) - len(later[1]) == 2
    assert any("baton_workflowedge" in sql for sql in first[1])
    assert not any("baton_workflowedge" in sql for sql in later[1])


def test_the_tab_of_a_run_of_thirty_steps_takes_two_queries(client: Client) -> None:
    flow = Workflow("thirty")
    for index in range(30):
        flow.add(f"step_{index}", steps.nothing, deps=[f"step_{index - 1}"] if index else [])
    run = flow.insert()
    page(client, run)
    assert len(queries(client, run)) - len(queries(client, run, "view=timeline&step=none")) <= 2


def test_a_plan_is_made_anew_when_steps_are_added(client: Client) -> None:
    run = fan(3)
    page(client, run)
    WorkflowNode.objects.create(run=run, name="late", step="s")
    assert "late" in node(page(client, run), "late")


def test_a_cache_that_is_down_is_no_reason_to_show_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr("baton.dashboard.graph_plans.cache.get", fail)
    monkeypatch.setattr("baton.dashboard.graph_plans.cache.set", fail)
    assert "page[2]" in page(client, fan(3))


def test_a_declared_fan_out_is_called_so_and_found_by_index(client: Client) -> None:
    run = fan(40)
    for index, each in enumerate(run.nodes.filter(name__startswith="page").order_by("id")):
        WorkflowNode.objects.filter(pk=each.pk).update(name=f"leaf {index}x", fan_group="page", fan_index=index)
    key = quote("fan_out:page")
    html = page(client, run, f"group={key}&child=31")
    assert "fan-out, available" in html or "fan-out, pending" in html
    assert "A fan-out of 40." in html
    assert "leaf 31x</a>" in html.partition("data-group-panel")[2]


def test_the_panel_of_a_failed_run_can_be_closed(client: Client) -> None:
    run = fan(12)
    turn(run, "discarded", "page[3]")
    WorkflowRun.objects.filter(pk=run.pk).update(state="failed", finished_at=timezone.now())
    html = page(client, run)
    assert 'data-panel data-step="page[3]"' in html
    close = re.search(r'class="b-close" href="\?([^"]*)"', html)
    assert close
    assert "b-summary" in page(client, run, close[1].replace("&amp;", "&"))
    html = page(client, run, f"group={quote('twins:page[0]')}")
    assert "data-group-panel" in html
