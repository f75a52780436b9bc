"""What changed in a run, as pages without a socket ask for it."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from baton import Workflow
from baton.dashboard import changes
from baton.dashboard.changes import changes_since, pulse_of, read_as_of
from baton.models import WorkflowNode, WorkflowRun
from baton.testing import drain
from tests import steps
from tests.factories import WorkflowNodeFactory, WorkflowRunFactory
from tests.people import client_with

pytestmark = pytest.mark.django_db

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def run() -> WorkflowRun:
    return Workflow("ingest").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()


def address(run: WorkflowRun | Any, since: str | None = "2020-01-01T00:00:00Z") -> str:
    url = reverse("admin:baton_workflowrun_changes", args=[getattr(run, "pk", run)])
    return url if since is None else f"{url}?since={since}"


def of_step(told: dict[str, Any], name: str) -> dict[str, Any]:
    return next(step for step in told["steps"] if step["name"] == name)


def aged(run: WorkflowRun) -> None:
    """Make what happened to the run an hour old."""
    run.nodes.update(changed_at=timezone.now() - timedelta(hours=1))


# What is told ---------------------------------------------------------------------------------------------------------


def test_steps_that_changed_since_are_told_with_all_that_their_row_shows(run):
    drain(run)
    run.refresh_from_db()
    node = run.steps["a"]

    told = changes_since(run, LONG_AGO)

    assert {step["name"] for step in told["steps"]} == {"a", "b"}
    step = of_step(told, "a")
    assert step.pop("queued").endswith(" s")
    assert step.pop("ran").endswith(" s")
    assert step == {
        "id": node.pk,
        "name": "a",
        "state": "completed",
        "label": "completed",
        "version": node.version,
        "attempt": 1,
        "max_attempts": node.max_attempts,
        "tried": f"{node.attempt} of {node.max_attempts}",
        "now": "",
        "started_at": None,
        "progress": None,
        "group": "",
        "index": None,
    }
    assert told["run"]["state"] == "completed"
    assert told["run"]["is_over"]
    assert told["run"]["bar"]["done"] == "2 of 2"
    assert told["run"]["attempts"] == 2


def test_head_is_told_as_pieces_of_the_page_with_every_text_escaped():
    run = drain(Workflow("ingest").add("<b>x", steps.discard).insert())
    page = client_with("view_workflowrun").get(reverse("admin:baton_workflowrun_change", args=[run.pk]))

    html = changes_since(run, LONG_AGO)["run"]["html"]

    pieces = re.findall(r'<(?:span|p|dd|strong)[^>]* id="b-[a-z]+".*', html)
    assert len(pieces) == len(re.findall(' id="', html)) == 5
    assert [piece for piece in pieces if piece not in page.content.decode()] == []
    assert "<strong>&lt;b&gt;x</strong>" in html


def test_steps_that_did_not_change_since_are_left_out(run):
    aged(run)
    WorkflowNode.objects.filter(run=run, name="b").update(changed_at=timezone.now())

    told = changes_since(run, timezone.now())

    assert [step["name"] for step in told["steps"]] == ["b"]


def test_what_committed_late_is_told_again_for_some_seconds(run):
    run.nodes.update(changed_at=timezone.now() - changes.MARGIN / 2)

    assert len(changes_since(run, timezone.now())["steps"]) == 2


def test_what_is_told_with_one_answer_is_asked_for_with_the_next(run):
    aged(run)
    as_of = read_as_of(changes_since(run, timezone.now())["as_of"])

    drain(run)

    assert len(changes_since(run, as_of)["steps"]) == 2


def test_more_than_a_thousand_changes_are_a_reload(monkeypatch, run):
    monkeypatch.setattr(changes, "MOST_CHANGES", 1)

    assert changes_since(run, LONG_AGO) == {"reload": True}


def test_executing_step_tells_since_when_and_how_far_it_is():
    run = WorkflowRunFactory.create()
    now = timezone.now()
    progress = {"current": 3, "total": 4, "message": ""}
    WorkflowNodeFactory(
        run=run, name="a", state="executing", worker="w:1", started_at=now, changed_at=now, progress=progress
    )

    step = of_step(changes_since(run, now), "a")

    assert step["started_at"] == now.isoformat().replace("+00:00", "Z")
    assert step["progress"] == {"current": 3, "total": 4}
    assert step["now"] == "on w:1, 3 of 4"


def test_step_that_never_ran_is_told_no_time(run):
    step = of_step(changes_since(run, LONG_AGO), "b")

    # The picture of the graph shows what stands here, too.
    assert (step["queued"], step["ran"]) == ("", "")


def test_number_of_queries_does_not_depend_on_the_number_of_changes():
    def counted(many: int) -> int:
        run = WorkflowRunFactory.create()
        now = timezone.now()
        for number in range(many):
            WorkflowNodeFactory(run=run, name=f"s{number}", state="available", queued_at=now, changed_at=now)
        with CaptureQueriesContext(connection) as queries:
            assert len(changes_since(run, now)["steps"]) == many
        return len(queries)

    assert counted(2) == counted(60) <= 15


@pytest.mark.parametrize("change", ["step", "state", "budget", "new step"])
def test_pulse_is_one_query_and_tells_of_every_change(run, django_assert_num_queries, change):
    with django_assert_num_queries(1):
        before = pulse_of(run.pk)
    assert not before.differs_from(pulse_of(run.pk))

    match change:
        case "step":
            WorkflowNode.objects.filter(run=run, name="a").update(version=7)
        case "state":
            WorkflowRun.objects.filter(pk=run.pk).update(state="cancelled")
        case "budget":
            WorkflowRun.objects.filter(pk=run.pk).update(budget=2)
        case "new step":
            WorkflowNodeFactory(run=run, name="c")

    assert before.differs_from(pulse_of(run.pk))


def test_run_that_is_gone_has_no_pulse():
    assert pulse_of(WorkflowRunFactory.build().pk) is None


@pytest.mark.parametrize("text", [None, 7, "", "yesterday", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "9" * 41])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError):
        read_as_of(text)


def test_earliest_time_there_is_can_be_asked_for(run):
    assert len(changes_since(run, read_as_of("0001-01-01T00:00:00Z"))["steps"]) == 2


# Over HTTP ------------------------------------------------------------------------------------------------------------


def test_page_names_where_changes_are_asked_for(viewer, run):
    page = viewer.get(reverse("admin:baton_workflowrun_change", args=[run.pk])).content.decode()

    assert f'data-changes="{address(run, None)}"' in page
    assert 'src="/static/baton/js/page.js"' in page


def test_changes_come_as_json_that_nobody_stores(viewer, run):
    answer = viewer.get(address(run))

    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    assert {step["name"] for step in answer.json()["steps"]} == {"a", "b"}


def test_nothing_new_is_no_content_and_one_query_of_ours(viewer, run):
    etag = viewer.get(address(run))["ETag"]

    with CaptureQueriesContext(connection) as queries:
        answer = viewer.get(address(run), headers={"If-None-Match": etag})

    assert (answer.status_code, answer.content, answer["ETag"]) == (304, b"", etag)
    assert sum("baton_workflow" in query["sql"] for query in queries) == 1


def test_a_change_makes_another_validator(viewer, run):
    etag = viewer.get(address(run))["ETag"]
    WorkflowNode.objects.filter(run=run, name="a").update(version=7)

    answer = viewer.get(address(run), headers={"If-None-Match": etag})

    assert answer.status_code == 200
    assert answer["ETag"] != etag


@pytest.mark.parametrize("since", [None, "", "soon", "2020-01-01T00:00:00"])
def test_question_without_a_time_is_refused(viewer, run, since):
    assert viewer.get(address(run, since)).status_code == 400


def test_run_that_is_not_there_is_not_found(viewer):
    answer = viewer.get(address(WorkflowRunFactory.build()))

    assert (answer.status_code, answer.json()) == (404, {"gone": True})


def test_anonymous_are_led_to_the_log_in(run):
    answer = Client().get(address(run))

    assert answer.status_code == 302
    assert answer["Location"].startswith("/admin/login/")


def test_who_is_no_staff_is_led_to_the_log_in(run):
    assert client_with("view_workflowrun", is_staff=False).get(address(run)).status_code == 302


@pytest.mark.parametrize("permissions", [(), ("view_workflownode", "view_completion", "control_workflowrun")])
def test_staff_without_the_permission_is_refused(run, permissions):
    answer = client_with(*permissions).get(address(run))

    assert answer.status_code == 403
    assert b"ingest" not in answer.content


def test_text_of_a_step_is_data_and_no_markup(viewer):
    run = WorkflowRunFactory.create()
    evil = "</script><script>alert(1)</script>"
    now = timezone.now()
    WorkflowNodeFactory(run=run, name=evil, state="discarded", settled_at=now, error=evil, changed_at=now)

    answer = viewer.get(address(run))

    assert answer["Content-Type"] == "application/json"
    assert of_step(answer.json(), evil)["now"] == evil


def test_page_is_imported_without_channels():
    program = (
        "import sys; sys.modules['channels'] = None\n"
        "import django; django.setup()\n"
        "import baton.dashboard.page, baton.admin\n"
        "from baton.dashboard.changes import run_socket\n"
        "import uuid, importlib.util\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=_environment())


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}


def test_project_without_asgi_is_offered_no_socket(settings, run):
    settings.ASGI_APPLICATION = None
    assert changes.run_socket(run.pk) == ""
    assert changes.runs_socket() == ""

    settings.ASGI_APPLICATION = "config.asgi.application"
    assert changes.run_socket(run.pk) == f"/baton/runs/{run.pk}/live/"
    assert changes.runs_socket() == "/baton/runs/live/"
