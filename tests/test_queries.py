"""What people ask across tables."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from baton import Workflow, queries
from baton.engine.gate import claim
from baton.models import WorkflowRun
from baton.queries import runs, steps_of
from baton.testing import drain
from tests import steps
from tests.factories import WorkflowEdgeFactory, WorkflowNodeFactory, WorkflowRunFactory
from tests.recording import recorded

pytestmark = pytest.mark.django_db

STEP_KEYS = [
    "workflow_id", "workflow_name", "step_name", "step", "state", "node_id", "attempt", "version", "has_result",
    "error", "timestamp",
]  # fmt: skip
NOON = datetime(2026, 6, 14, 12, tzinfo=UTC)


def ids(page: queries.RunPage) -> list[str]:
    return [run["id"] for run in page.runs]


def inserted(minutes: float = 0, **values: Any) -> str:
    """A run that was inserted so long after noon."""
    return str(WorkflowRunFactory.create(inserted_at=NOON + timedelta(minutes=minutes), **values).pk)


# steps_of ------------------------------------------------------------------------------------------------------------


def test_steps_of_a_run_have_the_keys_of_the_step_event_in_topological_order():
    workflow = Workflow("ingest").add("store", steps.nothing, deps=["parse"]).add("fetch", steps.value.bind(7))
    run = workflow.add("parse", steps.discard.bind("not a PDF"), deps=["fetch"]).insert()
    with recorded() as heard:
        drain(run)

    found = steps_of(run.pk)

    assert [list(step) for step in found] == [STEP_KEYS] * 3
    assert [step["step_name"] for step in found] == ["fetch", "parse", "store"]
    last = {event["step_name"]: event for event in heard.steps}
    for step in found:
        event = last[step["step_name"]]
        assert {**step, "timestamp": None} == {key: event[key] for key in STEP_KEYS} | {"timestamp": None}
    json.dumps(found)


def test_steps_that_never_ran_are_among_the_steps_of_a_run():
    run = Workflow("ingest").add("fetch", steps.nothing).add("parse", steps.nothing, deps=["fetch"]).insert()

    fetch, parse = steps_of(str(run.pk))

    assert fetch == {
        "workflow_id": str(run.pk),
        "workflow_name": "ingest",
        "step_name": "fetch",
        "step": "tests.steps.nothing",
        "state": "available",
        "node_id": run.steps["fetch"].pk,
        "attempt": 0,
        "version": 0,
        "has_result": False,
        "error": None,
        "timestamp": fetch["timestamp"],
    }
    assert (parse["step_name"], parse["state"]) == ("parse", "pending")
    changed_at = datetime.fromisoformat(fetch["timestamp"])
    assert (changed_at, fetch["timestamp"][-1]) == (run.steps["fetch"].changed_at, "Z")


def test_step_that_runs_again_does_not_tell_the_error_of_its_last_attempt():
    node = WorkflowNodeFactory.create(executing=True, attempt=2, error="RuntimeError: it failed")

    (step,) = steps_of(node.run_id)

    assert (step["state"], step["attempt"], step["error"]) == ("executing", 2, None)


def test_steps_of_no_run_are_none_and_of_no_id_an_error():
    assert steps_of(uuid4()) == []
    with pytest.raises(ValueError, match="badly formed"):
        steps_of("ingest")


def test_steps_of_a_run_are_one_query(django_assert_num_queries):
    run = Workflow("x")
    for number in range(50):
        run.add(str(number), steps.nothing)
    found = run.insert()

    with django_assert_num_queries(1):
        assert len(steps_of(found.pk)) == 50


def test_edges_of_a_run_name_the_dependencies_of_each_step(django_assert_num_queries):
    run = (
        Workflow("x").add("a", steps.nothing).add("b", steps.nothing).add("c", steps.nothing, deps=["b", "a"]).insert()
    )
    ids = {name: node.pk for name, node in run.steps.items()}

    with django_assert_num_queries(1):
        found = queries.edges_of(run.pk)

    assert found == {ids["c"]: [ids["a"], ids["b"]]}


def test_step_without_edges_in_spite_of_its_counter_has_no_dependencies():
    node = WorkflowNodeFactory.create(n_deps=1)
    WorkflowEdgeFactory.create()

    assert queries.edges_of(node.run_id) == {}


# runs ----------------------------------------------------------------------------------------------------------------


def test_list_of_runs_counts_their_steps_and_filters_by_state_in_constant_queries(django_assert_num_queries):
    running, failed = [], []
    for number in range(3):
        run = Workflow(f"running {number}").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()
        claim(connection, run.steps["a"].pk, worker="host:1")
        running.append(str(run.pk))
    for number in range(2):
        run = Workflow(f"failed {number}", key=f"key {number}").add("a", steps.discard).add("b", steps.nothing).insert()
        failed.append(str(drain(run).pk))

    for state, expected in {"running": running, "failed": failed, "completed": [], None: running + failed}.items():
        with django_assert_num_queries(3 if expected else 2):
            page = runs(state=state)
        assert ids(page) == expected[::-1]
        assert page.counts == {"running": 3, "completed": 0, "failed": 2, "cancelled": 0}
        assert page.next is None

    first, *_, last = runs().runs
    ended = WorkflowRun.objects.get(pk=failed[1])
    assert first == {
        "id": failed[1],
        "name": "failed 1",
        "key": "key 1",
        "state": "failed",
        "inserted_at": ended.inserted_at,
        "finished_at": ended.finished_at,
        "steps": {"completed": 1, "discarded": 1},
    }
    assert (last["key"], last["finished_at"], last["steps"]) == (None, None, {"executing": 1, "pending": 1})


@pytest.mark.parametrize("size", [1, 40])
def test_number_of_queries_does_not_depend_on_the_page(size, django_assert_num_queries):
    for _ in range(size):
        WorkflowNodeFactory.create()

    with django_assert_num_queries(3):
        assert len(runs(state=["running", "failed"], name="factory", search="fact", limit=size).runs) == size


def test_several_states_may_be_asked_for_at_once():
    a, b, c, d = (
        inserted(1, failed=True),
        inserted(2, cancelled=True),
        inserted(3, failed=True),
        inserted(4, completed=True),
    )

    page = runs(state=["failed", "cancelled"], limit=2)

    assert ids(page) == [c, b]
    assert ids(runs(state=["failed", "cancelled"], limit=2, after=page.next)) == [a]
    assert ids(runs(state=("completed", "failed", "cancelled", "running"))) == [d, c, b, a]


def test_counts_are_those_under_the_other_filters():
    inserted(1, name="ingest", failed=True)
    inserted(2, name="ingest")
    inserted(3, name="other", failed=True)

    page = runs(name="ingest", state="completed")

    assert (page.runs, page.counts) == ([], {"running": 1, "completed": 0, "failed": 1, "cancelled": 0})


def test_name_is_matched_whole():
    ingest = inserted(name="ingest")
    inserted(name="ingest more")

    assert ids(runs(name="ingest")) == [ingest]


@pytest.mark.parametrize("text", ["ORDER", "order", "rder-4", "cfd3", "CFD3A", "cfd3a1b2-0", "cfd3a1b20000"])
def test_search_finds_text_in_the_name_or_the_key_in_either_case_or_the_beginning_of_the_id(text):
    found = {
        inserted(name="Orders, order-45"),
        inserted(key="order-42"),
        inserted(id=UUID("cfd3a1b2-0000-4000-8000-000000000000"), name="x"),
    }
    by_id = "cfd3a1b2-0000-4000-8000-000000000000"
    inserted(name="another")

    expected = {by_id} if text.lower().startswith("cfd3") else found - {by_id}

    assert set(ids(runs(search=text))) == expected


def test_search_for_what_a_pattern_would_mean_finds_the_characters():
    inserted(name="100")
    percent = inserted(name="100 %")

    assert ids(runs(search="%")) == [percent]
    assert ids(runs(search="_")) == []


def test_few_digits_are_no_beginning_of_an_id():
    inserted(id=UUID("cfd3a1b2-0000-4000-8000-000000000000"), name="x")

    assert ids(runs(search="cfd")) == []


# Three digits of a second, as SQLite's own clock writes them, and six, as Django does.
@pytest.mark.parametrize("moment", [NOON, NOON + timedelta(milliseconds=120), NOON + timedelta(microseconds=120_001)])
def test_window_holds_its_beginning_and_not_its_end(moment):
    before, at, behind = (
        str(WorkflowRunFactory.create(inserted_at=moment + timedelta(milliseconds=number)).pk) for number in (-1, 0, 1)
    )

    assert ids(runs(since=moment)) == [behind, at]
    assert ids(runs(until=moment)) == [before]
    assert ids(runs(since=moment, until=moment + timedelta(milliseconds=1))) == [at]
    assert runs(since=moment, until=moment).counts["running"] == 0


def test_window_may_be_given_in_any_time_zone():
    at = inserted()
    tokyo = timezone.get_fixed_timezone(540)

    assert ids(runs(since=NOON.astimezone(tokyo), until=(NOON + timedelta(seconds=1)).astimezone(tokyo))) == [at]


def test_window_that_begins_with_a_run_of_the_engine_holds_it():
    run = Workflow("x").add("a", steps.nothing).insert()

    assert ids(runs(since=run.inserted_at)) == [str(run.pk)]
    assert ids(runs(until=run.inserted_at)) == []


# Paging --------------------------------------------------------------------------------------------------------------


def all_pages(**filters: Any) -> list[list[str]]:
    pages = [runs(**filters)]
    while pages[-1].next:
        pages.append(runs(**filters, after=pages[-1].next))
    return [ids(page) for page in pages]


@pytest.mark.parametrize("filters", [{}, {"state": "running"}, {"state": ["running", "failed"]}, {"name": "factory"}])
def test_pages_hold_every_run_once_newest_first(filters):
    expected = [inserted(number) for number in range(7)][::-1]

    pages = all_pages(limit=3, **filters)

    assert pages == [expected[:3], expected[3:6], expected[6:]]


def test_pages_of_runs_of_the_same_time_hold_every_run_once():
    expected = sorted((inserted() for _ in range(7)), reverse=True)

    assert all_pages(limit=2) == [expected[:2], expected[2:4], expected[4:6], expected[6:]]


def test_pages_of_runs_of_the_engine_hold_every_run_once():
    expected = [str(Workflow("x").add("a", steps.nothing).insert().pk) for _ in range(7)]

    pages = all_pages(limit=1)

    assert sorted(run_id for page in pages for run_id in page) == sorted(expected)


def test_runs_that_are_inserted_or_deleted_meanwhile_move_no_page():
    a, b, c, d = (inserted(number) for number in range(4))
    first = runs(limit=2)

    inserted(9)
    WorkflowRun.objects.filter(pk=c).delete()

    assert ids(first) == [d, c]
    assert ids(runs(limit=2, after=first.next)) == [b, a]


def test_page_that_is_just_full_has_no_next():
    inserted(1)
    inserted(2)

    assert runs(limit=2).next is None


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_limit_out_of_bounds_is_refused(limit):
    with pytest.raises(ValueError) as refusal:
        runs(limit=limit)

    assert str(refusal.value) == f"limit is {limit}; it can be 1 to 1000."


def test_state_that_runs_do_not_have_is_refused():
    with pytest.raises(ValueError) as refusal:
        runs(state=["failed", "discarded", "executing"])

    assert str(refusal.value) == (
        "Runs are never discarded or executing; their states are running, completed, failed, cancelled."
    )
    with pytest.raises(ValueError, match="state names no state; leave it out for runs in every state"):
        runs(state=[])


CURSORS = ["", "next", "AAAA", "=", "ä", "A" * 31, "A" * 33, "f" * 32, "-" * 32]


@pytest.mark.parametrize("cursor", CURSORS)
def test_cursor_that_no_page_gave_is_refused(cursor):
    with pytest.raises(ValueError) as refusal:
        runs(after=cursor)

    assert str(refusal.value) == f"after is {cursor!r}, which no page of runs gave as its next."


@pytest.mark.parametrize("word", ["since", "until"])
def test_time_without_a_zone_is_refused(word):
    window: dict[str, Any] = {word: NOON.replace(tzinfo=None)}

    with pytest.raises(ValueError, match=f"{word} has no time zone: datetime.datetime"):
        runs(**window)


@pytest.mark.parametrize("word", ["since", "until"])
@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=timezone.get_fixed_timezone(-60)),
        datetime.min.replace(tzinfo=timezone.get_fixed_timezone(60)),
    ],
)
def test_time_that_is_none_in_utc_is_refused(word, moment):
    window: dict[str, Any] = {word: moment}

    with pytest.raises(ValueError, match=f"{word} is before or after all time that UTC can write: datetime.datetime"):
        runs(**window)


@pytest.mark.parametrize("word", ["name", "search"])
@pytest.mark.parametrize("text", ["a\0", "\ud800"])
def test_text_that_no_database_stores_is_refused(word, text):
    with pytest.raises(ValueError, match=f"{word} has characters that no database stores: "):
        runs(**{word: text})


def test_text_in_any_script_is_searched_for():
    found = inserted(name="Änderung 山 🂡")

    assert ids(runs(search="nderung 山 🂡", name="Änderung 山 🂡")) == [found]


# Short ids -----------------------------------------------------------------------------------------------------------


def test_id_is_as_short_as_tells_it_from_all_others(django_assert_num_queries):
    given = [
        "11111111-2222-4000-8000-000000000000",
        "11111111-2222-4000-8000-000000000001",
        "11111111-3333-4000-8000-000000000000",
        "99999999-3333-4000-8000-000000000000",
    ]
    for text in given:
        inserted(id=UUID(text))

    with django_assert_num_queries(1):
        short = queries.short_ids([UUID(text) for text in given])

    assert list(map(short.get, map(UUID, given))) == [given[0], given[1], "11111111-3", "99999999"]
