"""The admin: what people see there, what they may do, and what it costs."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.messages import get_messages
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape

from baton import Workflow, result_of
from baton.engine.gate import claim
from baton.explain.words import clock
from baton.models import (
    Completion,
    DebugLog,
    QueueSighting,
    StepLog,
    WorkflowEdge,
    WorkflowNode,
    WorkflowRun,
)
from baton.states import StepState
from baton.testing import drain
from tests import steps
from tests.factories import QueueSightingFactory, WorkflowNodeFactory, WorkflowRunFactory
from tests.people import client_with

pytestmark = pytest.mark.django_db

MODELS = (WorkflowRun, WorkflowNode, Completion, QueueSighting, DebugLog)
VIEWS = ("view_workflowrun", "view_workflownode", "view_completion", "view_queuesighting")
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def boss() -> Client:
    return client_with(is_superuser=True)


@pytest.fixture
def viewer() -> Client:
    return client_with(*VIEWS)


@pytest.fixture
def operator() -> Client:
    return client_with(*VIEWS, "control_workflowrun")


def list_of(model: Any, **lookups: Any) -> str:
    return reverse(f"admin:baton_{model._meta.model_name}_changelist", query=lookups)


def page_of(row: Any) -> str:
    return reverse(f"admin:baton_{row._meta.model_name}_change", args=[row.pk])


def text_of(client: Client, url: str, **posted: Any) -> str:
    answer = client.post(url, posted, follow=True) if posted else client.get(url)
    assert answer.status_code == 200
    return answer.content.decode()


def told(answer: Any) -> list[str]:
    """The messages of an answer."""
    return [str(message) for message in get_messages(answer.wsgi_request)]


def choose(client: Client, action: str, *runs: WorkflowRun, **more: Any) -> Any:
    """Choose runs in the list, and an action for them."""
    return client.post(list_of(WorkflowRun), {"action": action, "_selected_action": [run.pk for run in runs], **more})


def failed_run() -> WorkflowRun:
    return drain(
        Workflow("ingest", key="monday")
        .add("fetch", steps.value.bind(7))
        .add("parse", steps.fail.bind("row 17 of 'a.csv' is bad"), deps=["fetch"], max_attempts=2)
        .add("store", steps.value.bind(result_of("fetch")), deps=["parse"])
        .insert()
    )


def running_run(**more: Any) -> WorkflowRun:
    return Workflow("ingest", **more).add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()


def debug_log(run: WorkflowRun) -> DebugLog:
    captured: dict[str, Any] = {
        "request": {"prompt": "a secret prompt"},
        "response": {"text": f"a secret answer {EVIL}"},
    }
    return DebugLog.objects.create(
        run=run, node=run.steps["fetch"], model="some-model", duration=1.5, created_at=timezone.now(), **captured
    )


# What is seen ---------------------------------------------------------------------------------------------------------


def test_pages_of_every_table_open_and_nothing_can_be_written_there(boss):
    run = failed_run()
    QueueSightingFactory.create()
    debug_log(run)

    for model in MODELS:
        row = model._default_manager.first()
        page = text_of(boss, page_of(row))

        assert boss.get(list_of(model)).status_code == 200
        assert 'name="_save"' not in page
        assert "deletelink" not in page
        assert boss.get(reverse(f"admin:baton_{model._meta.model_name}_add")).status_code == 403
        assert boss.post(page_of(row), {"name": "changed"}).status_code == 403
        assert boss.post(reverse(f"admin:baton_{model._meta.model_name}_delete", args=[row.pk])).status_code == 403


def test_list_of_runs_shows_state_progress_and_what_went_wrong(viewer):
    failed_run()
    cancelled = running_run()
    cancelled.cancel("wrong bucket")
    running_run(key="tuesday")

    page = text_of(viewer, list_of(WorkflowRun))

    assert '<use href="#b-discarded"></use></svg>failed</span>' in page
    assert '<use href="#b-executing"></use></svg>running</span>' in page
    assert "parse: RuntimeError: row 17 of &#x27;a.csv&#x27; is bad" in page
    assert "wrong bucket" in page
    assert "monday</span>" in page
    assert 'aria-label="1 completed, 1 cancelled, 1 discarded"' in page
    assert 'aria-label="1 available, 1 pending"' in page
    assert "0 of 2 · 1 available · 1 pending</span>" in page


def test_list_of_runs_counts_what_is_there_also_of_runs_whose_ending_nobody_noted(viewer):
    run = WorkflowRunFactory.create(failed=True)
    for trait in ("discarded", "cancelled", "cancelled"):
        WorkflowNodeFactory.create(run=run, **{trait: True})
    lenient = Workflow("lenient").add("bad", steps.discard)
    run = lenient.add("b", steps.nothing, deps=["bad"], ignore_discarded=True).insert()
    drain(run)

    page = text_of(viewer, list_of(WorkflowRun))

    assert 'aria-label="2 cancelled, 1 discarded"' in page
    assert 'aria-label="1 completed, 1 discarded"' in page


def test_page_of_a_run_begins_with_its_headline_and_leads_to_its_steps_by_state(viewer):
    run = failed_run()

    page = text_of(viewer, page_of(run))

    begins = re.search('<p class="b-headline b-discarded"[^>]*><svg.*?</svg>(.*?)</p>', page)
    assert begins is not None
    assert begins[1].startswith("<strong>parse</strong> was discarded after 2 attempts")
    assert re.sub("</?(strong|code)>", "", begins[1]) == escape(run.headline())
    assert 'href="?everything=1"' in page
    everything = text_of(viewer, f"{page_of(run)}?everything=1")
    steps_by_state = list_of(WorkflowNode, run__id__exact=run.pk, state__exact="discarded")
    assert f'href="{escape(steps_by_state)}"' in everything
    assert f'href="{page_of(run)}">Back to the run</a>' in everything
    assert text_of(viewer, steps_by_state).count('class="field-name"') == 1
    assert page_of(run.completions.get()) in everything


def test_page_of_a_step_says_why_and_leads_to_its_run_and_its_neighbours(viewer):
    run = failed_run()
    parse = run.steps["parse"]

    page = text_of(viewer, page_of(parse))

    assert f'<p class="baton b-headline b-discarded">{escape(parse.explain())}</p>' in page
    assert f'href="{page_of(run)}"' in page
    assert f'<a href="{page_of(run.steps["fetch"])}">fetch</a>' in page
    assert f'<a href="{page_of(run.steps["store"])}">store</a>' in page
    assert "RuntimeError: row 17 of &#x27;a.csv&#x27; is bad" in page
    assert page.count("<td>failed</td>") == 2


def test_many_neighbours_of_a_step_are_counted_and_not_all_linked(viewer):
    workflow = Workflow("wide").add("root", steps.nothing)
    for number in range(60):
        workflow.add(f"leaf{number}", steps.nothing, deps=["root"])
    run = workflow.insert()

    page = text_of(viewer, page_of(run.steps["root"]))

    assert page.count(">leaf") == 50
    assert "and 10 more" in page


def test_arguments_result_and_log_of_a_step_are_shown_readably(viewer):
    run = drain(Workflow("x").add("a", steps.value.bind({"b": [1, {"c": "Käse"}]})).insert())
    node = run.steps["a"]
    line: Any = {"at": "2026-06-14T18:00:00.5Z", "level": "WARNING", "attempt": 1, "message": f"careful {EVIL}"}
    StepLog.objects.update_or_create(node=node, defaults=dict[str, Any](lines=[line], changed_at=timezone.now()))

    page = text_of(viewer, page_of(node))

    shown = escape('{\n  "b": [\n    1,\n    {\n      "c": "Käse"\n    }\n  ]\n}')
    assert f'<pre class="baton b-code">{shown}</pre>' in page
    assert "<td>18:00:00.500000</td>" in page
    assert f'<td class="b-message">careful {escape(EVIL)}</td>' in page


def test_text_that_no_page_can_hold_is_shown_and_a_huge_one_is_cut(viewer):
    run = drain(
        Workflow("x")
        .add("odd", steps.value.bind("a\x00b\ud800"))
        .add("long", steps.repeat.bind(50_000))
        .add("huge", steps.repeat.bind(500_000))
        .insert()
    )

    assert escape('"a\\u0000b\\ud800"') in text_of(viewer, page_of(run.steps["odd"]))
    long, huge = (text_of(viewer, page_of(run.steps[name])) for name in ("long", "huge"))

    assert "These are the first 20,000 of 50,000 characters." in long
    assert "These are the first 20,000 of 500,000 characters." in huge
    assert len(huge) < 100_000


def test_names_and_errors_of_people_are_escaped_everywhere(boss):
    run = drain(
        Workflow(EVIL, key=EVIL, meta={EVIL: EVIL})
        .add(EVIL, steps.fail.bind(EVIL), max_attempts=1, queue="default")
        .add("behind", steps.nothing, deps=[EVIL])
        .insert()
    )
    node = run.steps[EVIL]
    cancelled = running_run()
    cancelled.cancel(EVIL)
    QueueSightingFactory.create(queue=EVIL, host=EVIL)
    retry = reverse("admin:baton_workflowrun_retry", args=[run.pk])

    for url in (
        *(list_of(model) for model in MODELS),
        *map(page_of, (run, node, run.steps["behind"], run.completions.get(), cancelled, QueueSighting.objects.get())),
        reverse("admin:baton_workflownode_failures"),
        list_of(WorkflowNode, error_key=node.error_key),
        list_of(WorkflowRun, q=EVIL),
        list_of(WorkflowRun, name=EVIL),
        list_of(WorkflowNode, queue=EVIL),
        retry,
        f"{retry}?{urlencode({'from_step': EVIL})}",
    ):
        page = text_of(boss, url)

        assert EVIL not in page, url


def test_pages_need_no_inline_style_or_script(boss):
    run = failed_run()
    debug_log(run)
    QueueSightingFactory.create()
    rows = [model._default_manager.first() for model in MODELS]

    for url in (
        *(list_of(model) for model in MODELS),
        *map(page_of, rows),
        reverse("admin:baton_workflownode_failures"),
        reverse("admin:baton_workflowrun_retry", args=[run.pk]),
        reverse("admin:baton_workflowrun_cancel", args=[running_run().pk]),
    ):
        page = text_of(boss, url)

        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page), url
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page)), url
        assert "baton/css/admin.css" in page, url


# Finding --------------------------------------------------------------------------------------------------------------


def names_in(page: str) -> list[str]:
    return re.findall(r'class="field-name(?:_shown)?"><a[^>]*>(?:<span[^>]*>)?([^<]+)', page)


@pytest.mark.parametrize("term", ["{id}", "{id:.4}", "{id:.13}", "monday", "Inge"])
def test_run_is_found_by_the_beginning_of_its_id_by_name_and_by_key(viewer, term):
    run = failed_run()
    WorkflowRunFactory.create(id="00000000-0000-4000-8000-000000000000", name="other")
    WorkflowRun.objects.exclude(pk=run.pk).update(name="other")
    WorkflowRun.objects.filter(pk=run.pk).update(inserted_at=timezone.now())

    page = text_of(viewer, list_of(WorkflowRun, q=term.replace("{id", "{0").format(str(run.pk))))

    assert names_in(page) == ["ingest"]


@pytest.mark.parametrize(
    ("term", "found"), [("{id:.8}", ["fetch", "parse", "store"]), ("row 17", ["parse"]), ("fetc", ["fetch"])]
)
def test_step_is_found_by_its_run_its_error_and_its_name(viewer, term, found):
    run = failed_run()
    WorkflowNodeFactory.create(run__id="00000000-0000-4000-8000-000000000000", name="other")

    page = text_of(viewer, list_of(WorkflowNode, q=term.replace("{id", "{0").format(str(run.pk))))

    assert sorted(names_in(page)) == found


def test_word_that_looks_like_an_id_still_finds_names(viewer):
    WorkflowRunFactory.create(name="deadbeef-import")

    assert names_in(text_of(viewer, list_of(WorkflowRun, q="deadbeef"))) == ["deadbeef-import"]


def test_name_that_no_database_takes_is_found_nowhere(viewer):
    running_run()

    assert "0 workflow runs" in text_of(viewer, f"{list_of(WorkflowRun)}?name=%00")


def test_lists_are_filtered_by_state_name_queue_and_time(viewer):
    run = failed_run()
    WorkflowRunFactory.create(name="other", inserted_at=timezone.now() - timedelta(days=30))
    WorkflowNodeFactory.create(run=run, name="posted", queue="mail", available=True)
    yesterday = timezone.now() - timedelta(days=1)

    def found(model: Any, **lookups: Any) -> list[str]:
        return sorted(names_in(text_of(viewer, list_of(model, **lookups))))

    assert found(WorkflowRun, state__exact="failed") == ["ingest"]
    assert found(WorkflowRun, name="other") == ["other"]
    assert found(WorkflowRun, inserted_at__gte=yesterday) == ["ingest"]
    assert found(WorkflowNode, state__exact="cancelled") == ["store"]
    assert found(WorkflowNode, queue="mail") == ["posted"]
    choices = text_of(viewer, list_of(WorkflowRun))
    assert "?name=ingest" in choices
    assert "?name=other" in choices
    assert "?queue=mail" in text_of(viewer, list_of(WorkflowNode, queue="mail"))


def test_steps_of_one_run_stand_in_topological_order(viewer):
    run = failed_run()

    page = text_of(viewer, list_of(WorkflowNode, run__id__exact=run.pk))

    assert names_in(page) == ["fetch", "parse", "store"]


def test_failures_are_grouped_by_kind_and_lead_to_their_steps(viewer):
    for number in range(3):
        drain(Workflow("x").add("a", steps.fail.bind(f"row {number} is bad"), max_attempts=1).insert())
    drain(Workflow("x").add("b", steps.discard.bind("no use")).insert())
    WorkflowNodeFactory.create(
        discarded=True, error_key="old", error="old", settled_at=timezone.now() - timedelta(days=9)
    )

    page = text_of(viewer, reverse("admin:baton_workflownode_failures"))

    rows = re.findall(r'<a href="([^"]+)">([^<]+)</a></th>\s*<td class="b-number">(\d+)</td>', page)
    assert [(key, count) for _, key, count in rows] == [("RuntimeError: row # is bad", "3"), ("no use", "1")]
    assert names_in(text_of(viewer, rows[0][0].replace("&amp;", "&"))) == ["a", "a", "a"]
    assert ">old</a>" in text_of(viewer, reverse("admin:baton_workflownode_failures", query={"days": "30"}))
    assert ">old</a>" not in text_of(viewer, reverse("admin:baton_workflownode_failures", query={"days": "x"}))


# Who may --------------------------------------------------------------------------------------------------------------


def test_staff_without_permissions_see_nothing():
    run = failed_run()
    nobody = client_with()

    urls = [*map(list_of, MODELS), page_of(run), page_of(run.steps["parse"])]
    urls += [reverse("admin:baton_workflownode_failures")]

    assert {nobody.get(url).status_code for url in urls} == {403}
    assert "Workflow runs" not in nobody.get(reverse("admin:index")).content.decode()


def test_captured_prompts_are_for_those_who_may_see_them_and_on_no_other_page(boss, operator):
    run = failed_run()
    log = debug_log(run)
    reader = client_with("view_debuglog")

    assert "a secret prompt" in text_of(reader, page_of(log))
    assert EVIL not in text_of(reader, page_of(log))
    assert operator.get(list_of(DebugLog)).status_code == 403
    assert operator.get(page_of(log)).status_code == 403
    for client in (boss, operator):
        for url in (page_of(run), page_of(log.node), list_of(WorkflowRun), list_of(WorkflowNode)):
            assert "secret" not in text_of(client, url)
    assert "Captured calls" in text_of(boss, page_of(log.node))
    assert "Captured calls" not in text_of(operator, page_of(log.node))
    for model in (WorkflowRun, WorkflowNode):
        assert operator.get(list_of(model, debug_logs__request__contains="a secret")).status_code in {302, 400}
    assert "a secret" not in text_of(reader, list_of(DebugLog))


def test_captured_text_is_shown_with_its_lines_and_the_rest_as_json_that_can_be_read(boss):
    log = debug_log(failed_run())
    log.request, log.upstream = 'first line\nand "second" line', {"fetch": [1]}
    log.save()

    page = html.unescape(text_of(boss, page_of(log)))

    assert 'first line\nand "second" line' in page
    assert '{\n  "fetch": [\n    1\n  ]\n}' in page


def test_who_may_only_look_sees_no_actions_and_is_refused_when_he_acts(viewer):
    run, ended = running_run(), failed_run()

    cancel = reverse("admin:baton_workflowrun_cancel", args=[run.pk])
    retry = reverse("admin:baton_workflowrun_retry", args=[ended.pk])

    assert "cancel_runs" not in text_of(viewer, list_of(WorkflowRun))
    for row in (run, ended, ended.steps["parse"]):
        page = text_of(viewer, page_of(row))
        assert "/cancel/" not in page
        assert "/retry/" not in page
    for url in (cancel, retry):
        assert viewer.post(url, {"confirmed": "yes"}).status_code == 403
        answer = viewer.get(url)
        assert answer.status_code == 403
        assert "You need the permission “Can control runs” for this." in answer.content.decode()
    for action in ("cancel_runs", "retry_runs"):
        answer = choose(viewer, action, run, confirmed="yes")
        assert answer.status_code == 403
        assert "You need the permission “Can control runs” for this." in answer.content.decode()
    run.refresh_from_db()
    assert run.state == "running"


def test_who_may_control_but_not_look_is_refused():
    run = running_run()
    client = client_with("control_workflowrun")

    assert client.post(reverse("admin:baton_workflowrun_cancel", args=[run.pk]), {"confirmed": "y"}).status_code == 403
    run.refresh_from_db()
    assert run.state == "running"


def test_acting_needs_the_token_against_forged_requests():
    run = running_run()
    operator = client_with(*VIEWS, "control_workflowrun")
    guarded = Client(enforce_csrf_checks=True)
    guarded.force_login(User.objects.get(pk=operator.session["_auth_user_id"]))

    answer = guarded.post(reverse("admin:baton_workflowrun_cancel", args=[run.pk]), {"confirmed": "yes"})

    assert answer.status_code == 403
    run.refresh_from_db()
    assert run.state == "running"


# Acting ---------------------------------------------------------------------------------------------------------------


def test_cancel_of_a_run_asks_first_and_then_says_who_and_why(operator):
    run = running_run()
    url = reverse("admin:baton_workflowrun_cancel", args=[run.pk])
    assert f'href="{url}"' in text_of(operator, page_of(run))

    asked = text_of(operator, url)
    run.refresh_from_db()
    assert run.state == "running"
    answer = operator.post(url, {"confirmed": "yes", "reason": "wrong bucket"})

    assert "2 steps are cancelled." in asked
    assert ">Cancel run</button>" in asked
    assert answer.status_code == 302
    assert answer.url == page_of(run)
    assert told(answer) == ["1 run was cancelled."]
    run.refresh_from_db()
    user = User.objects.get(pk=operator.session["_auth_user_id"])
    assert run.state == "cancelled"
    assert run.cancel_reason == f"by {user.username}: wrong bucket"
    assert run.steps["b"].explain() == f"Cancelled by {user.username} at {clock(run.cancelled_at)}: wrong bucket."
    (entry,) = LogEntry.objects.all()
    assert (entry.user_id, entry.object_id, entry.action_flag) == (user.pk, str(run.pk), CHANGE)
    assert entry.get_change_message() == "Cancelled: wrong bucket."
    assert "Cancelled: wrong bucket." in text_of(operator, reverse("admin:baton_workflowrun_history", args=[run.pk]))


def test_cancel_without_a_reason_says_who(operator):
    run = running_run()

    operator.post(reverse("admin:baton_workflowrun_cancel", args=[run.pk]), {"confirmed": "yes"})

    run.refresh_from_db()
    assert run.cancel_reason == f"by {User.objects.get().username}"
    assert LogEntry.objects.get().get_change_message() == "Cancelled."


def test_cancel_with_a_reason_that_no_database_takes_is_noted_all_the_same(operator):
    run = running_run()

    answer = operator.post(
        reverse("admin:baton_workflowrun_cancel", args=[run.pk]), {"confirmed": "yes", "reason": "a\0b"}
    )

    assert told(answer) == ["1 run was cancelled."]
    run.refresh_from_db()
    assert run.cancel_reason.endswith(": a\ufffdb")
    assert LogEntry.objects.get().get_change_message() == "Cancelled: a\ufffdb."


@pytest.mark.parametrize("chosen", ["", "7", "a\0", "x" * 36])
@pytest.mark.parametrize("action", ["cancel_runs", "retry_runs"])
def test_action_on_what_is_no_id_is_a_bad_request(operator, chosen, action):
    answer = operator.post(list_of(WorkflowRun), {"action": action, ACTION_CHECKBOX_NAME: chosen, "confirmed": "yes"})

    assert answer.status_code == 400


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("model", "lookup", "value"),
    [
        (WorkflowRun, "inserted_at__year", "0"),
        (WorkflowRun, "inserted_at__year", "9" * 20),
        (WorkflowRun, "state__exact", "\0"),
        (WorkflowRun, "key", "\0"),
        (WorkflowNode, "name__in", "a,\0"),
        (DebugLog, "provider", "\0"),
    ],
)
def test_filter_that_nothing_can_pass_is_taken_off_or_finds_nothing(boss, model, lookup, value):
    WorkflowNodeFactory.create()

    answer = boss.get(list_of(model, **{lookup: value}))

    if answer.status_code == 302:
        assert answer.url == f"{list_of(model)}?e=1"
        assert boss.get(answer.url).status_code == 200
    else:
        assert not answer.context["cl"].result_count


@pytest.mark.parametrize("lookup", ["name__regex", "name__iregex", "key__regex"])
def test_nobody_looks_by_a_regular_expression(boss, lookup):
    assert boss.get(list_of(WorkflowRun, **{lookup: "(a+)+$"})).status_code == 400


def test_words_that_no_database_takes_find_nothing_where_a_field_completes_them(boss):
    words = {"app_label": "baton", "model_name": "debuglog", "field_name": "run", "term": "a\0"}

    assert boss.get(reverse("admin:autocomplete"), words).json()["results"] == []


def test_cancel_of_a_settled_run_is_refused_with_the_time(operator):
    run = failed_run()
    url = reverse("admin:baton_workflowrun_cancel", args=[run.pk])
    refusal = f"You can&#x27;t cancel this run: it finished at {clock(run.finished_at)}."

    asked = operator.get(url)
    done = operator.post(url, {"confirmed": "yes"}, follow=True)

    assert asked.url == page_of(run)
    assert refusal in done.content.decode()
    assert not LogEntry.objects.exists()


def test_cancel_of_chosen_runs_asks_once_and_tells_what_was_refused(operator):
    runs = [running_run(), running_run()]
    ended = failed_run()

    asked = choose(operator, "cancel_runs", *runs, ended, index=0)
    done = choose(operator, "cancel_runs", *runs, ended, confirmed="yes", reason="")

    page = asked.content.decode()
    assert "Cancel 2 runs" in page
    assert ">Cancel 4 steps</button>" in page
    assert all(f'value="{run.pk}"' in page for run in runs)
    refusal = f"You can't cancel the run {ended}: it finished at {clock(ended.finished_at)}."
    assert escape(refusal) in page
    assert told(done) == ["2 runs were cancelled.", refusal]
    assert set(WorkflowRun.objects.filter(pk__in=[run.pk for run in runs]).values_list("state", flat=True)) == {
        "cancelled"
    }
    assert LogEntry.objects.count() == 2


def test_retry_of_a_run_shows_the_plan_and_then_runs_what_failed_again(operator):
    run = failed_run()
    url = reverse("admin:baton_workflowrun_retry", args=[run.pk])
    assert f'href="{url}"' in text_of(operator, page_of(run))

    asked = text_of(operator, url)
    run.refresh_from_db()
    assert run.state == "failed"
    answer = operator.post(url, {"confirmed": "yes"})

    assert "2 steps run again. 1 step stays as it is." in asked
    assert ">Re-run 2 steps</button>" in asked
    assert told(answer) == ["1 run was retried."]
    run.refresh_from_db()
    assert (run.state, run.round) == ("running", 2)
    assert run.steps["parse"].state == StepState.AVAILABLE
    assert LogEntry.objects.get().get_change_message() == "Retried what failed, round 2."


def test_retry_from_a_step_is_offered_on_its_page(operator):
    run = drain(Workflow("x").add("a", steps.value).add("b & c", steps.value, deps=["a"]).insert())
    url = f"{reverse('admin:baton_workflowrun_retry', args=[run.pk])}?from_step=b%20%26%20c"
    assert f'href="{url}"' in text_of(operator, page_of(run.steps["b & c"]))

    asked = text_of(operator, url)
    operator.post(url, {"confirmed": "yes"})

    assert "1 step runs again. 1 step stays as it is." in asked
    run.refresh_from_db()
    assert [run.steps[name].state for name in ("a", "b & c")] == ["completed", "available"]
    assert LogEntry.objects.get().get_change_message() == "Retried from step b & c, round 2."


def test_retry_from_a_step_that_is_not_named_asks_for_it_once_the_run_is_settled(operator):
    run, running = failed_run(), running_run()
    asks, refuses = (
        f"{reverse('admin:baton_workflowrun_retry', args=[each.pk])}?from_step=" for each in (run, running)
    )
    assert f'href="{asks}"' in text_of(operator, f"{page_of(run)}?step=")
    assert "from_step=" not in text_of(operator, page_of(running))

    page = text_of(operator, asks)
    refused = operator.get(refuses)

    assert all(f'<option value="{name}">' in page for name in run.steps)
    assert told(refused) == [f"Run {running.pk} (ingest) is still running. Wait for its end, or cancel it first."]


@pytest.mark.parametrize("name", [" b ", "b\nc", "b\r\nc"])
def test_retry_from_a_step_finds_it_by_its_whole_name(operator, name):
    run = drain(Workflow("x").add("a", steps.value).add(name, steps.value, deps=["a"]).insert())
    url = f"{reverse('admin:baton_workflowrun_retry', args=[run.pk])}?{urlencode({'from_step': name}, quote_via=quote)}"
    assert f'href="{url}"' in text_of(operator, page_of(run.steps[name]))

    operator.post(url, {"confirmed": "yes"})

    assert [node.state for node in run.steps.values()] == ["completed", "available"]


def test_retry_that_is_not_possible_is_refused_in_words(operator):
    running, well = running_run(), drain(Workflow("well").add("a", steps.nothing).insert())

    asked = choose(operator, "retry_runs", running, well, index=0)
    from_nowhere = operator.get(f"{reverse('admin:baton_workflowrun_retry', args=[well.pk])}?from_step=nowhere")
    done = choose(operator, "retry_runs", running, confirmed="yes")

    nothing_to_retry = (
        f"Nothing failed in run {well.pk} (well), so there is nothing to retry. Name a step to run it again from there."
    )
    # Both may have been inserted in the same millisecond.
    assert set(told(asked)) == {
        nothing_to_retry,
        f"Run {running.pk} (ingest) is still running. Wait for its end, or cancel it first.",
    }
    assert "nowhere" in told(from_nowhere)[-1]
    assert told(done)[-1] == f"Run {running.pk} (ingest) is still running. Wait for its end, or cancel it first."
    assert not LogEntry.objects.exists()


def test_too_many_runs_are_not_acted_on_at_once(operator):
    WorkflowRunFactory.create_batch(101)

    answer = choose(operator, "cancel_runs", *WorkflowRun.objects.all(), index=0)

    assert told(answer) == ["Choose no more than 100 runs at once; nothing was done."]


def test_run_that_is_gone_is_not_found(operator):
    gone = WorkflowRunFactory.create()
    url = reverse("admin:baton_workflowrun_cancel", args=[gone.pk])
    gone.delete()

    assert operator.get(url).status_code == 404
    assert operator.post(url, {"confirmed": "yes"}).status_code == 404


# What it costs --------------------------------------------------------------------------------------------------------


def queries_of(client: Client, url: str) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == 200
    return [query["sql"] for query in captured]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_list_takes_as_many_queries_for_fifty_rows_as_for_four(boss, model):
    def fill(count: int) -> None:
        for number in range(count):
            run = (failed_run, running_run)[number % 2]()
            QueueSightingFactory.create(queue=f"q{run.pk}")
            if run.is_settled:
                debug_log(run)
        # Of what has waited for ten seconds more is asked; on a slow machine some has by now.
        an_hour_ago = timezone.now() - timedelta(hours=1)
        WorkflowNode.objects.filter(queued_at__isnull=False).update(queued_at=an_hour_ago)

    fill(4)
    text_of(boss, list_of(model))
    cache.clear()
    few = queries_of(boss, list_of(model))
    fill(40)
    cache.clear()

    many = queries_of(boss, list_of(model))

    assert len(many) == len(few)
    # Above the list of runs stands the strip, and its rows tell what they cost and who waits.
    assert len(many) <= (20 if model is WorkflowRun else 10)


@pytest.mark.parametrize("model", [WorkflowRun, WorkflowNode], ids=lambda model: model.__name__)
def test_list_counts_no_further_than_people_page(viewer, model):
    run = running_run()
    rows = [WorkflowNode(run=run, name=f"n{number}", step="x") for number in range(10_050)]
    if model is WorkflowRun:
        WorkflowRun.objects.bulk_create(WorkflowRun(name="many", inserted_at=timezone.now()) for _ in rows)
    else:
        WorkflowNode.objects.bulk_create(rows, batch_size=2000)

    queries = queries_of(viewer, list_of(model))
    page = text_of(viewer, list_of(model))

    counts = [sql for sql in queries if "COUNT(" in sql and model._meta.db_table in sql and "GROUP BY" not in sql]
    # The strip tells how many runs go on, from an index.
    counts = [sql for sql in counts if 'AS "running"' not in sql and "OVER" not in sql]
    assert counts
    assert all("LIMIT 10001" in sql for sql in counts)
    assert "There are more than can be paged through." in page
    assert viewer.get(list_of(model, p=200)).status_code == 200


def test_lists_leave_large_columns_unread(viewer):
    failed_run()

    queries = queries_of(viewer, list_of(WorkflowNode))

    assert not any(column in sql for sql in queries for column in ("result_json", '"args"', "attempt_log"))


def test_pages_of_a_wide_run_take_as_many_queries_as_those_of_a_small_one(viewer):
    def wide(width: int) -> WorkflowRun:
        workflow = Workflow("wide").add("root", steps.nothing)
        for number in range(width):
            workflow.add(f"middle{number}", steps.nothing, deps=["root"])
        run = workflow.add("last", steps.nothing, deps=[f"middle{number}" for number in range(width)]).insert()
        claim(connection, run.steps["root"].pk, worker="host:1")
        return run

    def costs(run: WorkflowRun) -> list[int]:
        return [len(queries_of(viewer, page_of(row))) for row in (run, run.steps["root"], run.steps["last"])]

    small, large = wide(10), wide(1000)
    # The first look at a run lays its graph out.
    costs(small)
    costs(large)

    assert costs(large) == costs(small)
    assert WorkflowEdge.objects.filter(node__run=large).count() == 2000


def test_list_tells_of_a_run_of_another_year_on_which_day_it_began(viewer):
    began = timezone.localtime().replace(year=2023, month=3, day=7)
    WorkflowRunFactory.create(inserted_at=began)

    page = text_of(viewer, list_of(WorkflowRun))

    assert f'title="2023-03-07 {began:%H:%M:%S}">7 Mar 2023</time>' in page
