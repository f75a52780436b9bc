from __future__ import annotations

import json
import re
import signal
from datetime import UTC, datetime, timedelta
from io import StringIO
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from baton import Workflow
from baton.engine.gate import claim
from baton.explain.words import between
from baton.management.showing import View, changes, follow, name_width
from baton.models import WorkflowRun
from baton.queries import steps_of
from baton.sweep import sweep
from baton.telemetry import timestamp
from baton.testing import drain
from tests import steps
from tests.clock import expire_leases
from tests.factories import WorkflowRunFactory

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 6, 14, 12, tzinfo=UTC)


def printed(run: WorkflowRun, *arguments: str) -> str:
    out = StringIO()
    call_command("baton_show", str(run.pk), *arguments, stdout=out)
    return out.getvalue()


class Screen(StringIO):
    """A terminal, as far as a command looks."""

    def isatty(self) -> bool:
        return True


def graph(run: WorkflowRun) -> str:
    """What is printed below the head."""
    return printed(run).split("\n\n", 1)[1]


def drawn(run: WorkflowRun) -> list[str]:
    """The graph without states and times."""
    head, *lines = graph(run).splitlines()
    return [line[: head.index("STATE")].rstrip() for line in lines]


def at(run: WorkflowRun, **times: float) -> None:
    """Move a run's times to a day in June: each step starts so many seconds after noon and takes 8.2 seconds."""
    for name, seconds in times.items():
        started = NOON + timedelta(seconds=seconds)
        nodes = run.nodes.filter(name=name)
        nodes.update(started_at=started, queued_at=started, changed_at=started)
        nodes.filter(settled_at__isnull=False).update(settled_at=started + timedelta(seconds=8.2))
    WorkflowRun.objects.filter(pk=run.pk).update(inserted_at=NOON)
    WorkflowRun.objects.filter(pk=run.pk, finished_at__isnull=False).update(finished_at=NOON + timedelta(seconds=77))
    run.refresh_from_db()


# The graph -----------------------------------------------------------------------------------------------------------


def test_graph_of_a_run_that_ended_shows_states_attempts_times_and_errors():
    run = drain(
        Workflow("ingest", key="order-42")
        .add("fetch", steps.nothing)
        .add("parse", steps.fail, deps=["fetch"], max_attempts=2)
        .add("clean", steps.discard.bind("not a\nPDF\x1b[2J"), deps=["fetch"])
        .add("store", steps.nothing, deps=["parse", "clean"])
        .insert()
    )
    at(run, fetch=1, parse=10, clean=20)

    assert (
        printed(run)
        == f"""\
✗ ingest  {run.pk}
failed in 1 m 17 s, 4 of 4 steps settled, inserted at 2026-06-14 12:00:00, key order-42
{run.headline()}

     STEP   STATE      ATTEMPT  STARTED              TOOK
✓    fetch  completed  1/5      2026-06-14 12:00:01  8.2 s
├─✗  parse  discarded  2/2      2026-06-14 12:00:10  8.2 s  RuntimeError: it failed
✗ │  clean  discarded  1/5      2026-06-14 12:00:20  8.2 s  not a PDF\\x1b[2J
⊘─╯  store  cancelled                                       dependency 'clean' was discarded
"""
    )


@pytest.mark.parametrize(
    ("progress", "told"),
    [
        ({"current": 3, "total": None, "message": ""}, "on host:1, 3"),
        ({"current": "\x1b[31m", "total": "\x07", "message": "\x1b[2J"}, r"on host:1, \x1b[31m of \x07: \x1b[2J"),
    ],
)
def test_progress_is_told_in_what_the_body_gave_and_printable(progress, told):
    run = Workflow("ingest").add("a", steps.nothing).insert()
    claim(connection, run.steps["a"].pk, worker="host:1")
    run.nodes.update(progress=progress)

    assert printed(run).rstrip().endswith(told)


def test_graph_of_a_run_that_goes_on_shows_what_each_step_waits_for():
    later = NOON + timedelta(days=3650)
    run = (
        Workflow("ingest")
        .add("ready", steps.nothing, queue="slow")
        .add("runs", steps.nothing)
        .add("reports", steps.nothing)
        .add("later", steps.nothing, not_before=later)
        .add("again", steps.nothing)
        .add("waits for one", steps.nothing, deps=["runs"])
        .add("waits for two", steps.nothing, deps=["runs", "reports"])
        .insert()
    )
    for name in ("runs", "reports"):
        claim(connection, run.steps[name].pk, worker="host:1")
    run.nodes.filter(name="again").update(state="retryable", attempt=1, error="no", due_at=later, started_at=NOON)
    run.nodes.filter(name="reports").update(progress={"current": 37, "total": 400, "message": "reading"})
    at(run, runs=60, reports=120)
    run.nodes.filter(name="ready").update(queued_at=NOON)
    since, runs, reports = (between(NOON + timedelta(seconds=seconds), timezone.now()) for seconds in (0, 60, 120))

    assert (
        printed(run)
        == f"""\
► ingest  {run.pk}
running for {since}, 0 of 7 steps settled, inserted at 2026-06-14 12:00:00
{run.headline()}

         STEP           STATE      ATTEMPT  STARTED              TOOK
○        ready          available                                {" " * len(runs)}  ready for {since} in queue slow
  ►      runs           executing  1/5      2026-06-14 12:01:00  {runs}  on host:1
► │      reports        executing  1/5      2026-06-14 12:02:00  {reports}  on host:1, 37 of 400: reading
│ │ ◷    later          snoozed                                  {" " * len(runs)}  until 2036-06-11 12:00:00
│ │   ↻  again          retryable  1/5      2026-06-14 12:00:00  {" " * len(runs)}  again at 2036-06-11 12:00:00: no
│ ├─·    waits for one  pending
·─╯      waits for two  pending                                  {" " * len(runs)}  waits for 2 of 2
"""
    )


def test_lanes_show_what_waits_for_what():
    run = Workflow("x").add("fetch", steps.nothing)
    for name in "abc":
        run.add(f"page {name}", steps.nothing, deps=["fetch"])
    run.add("count", steps.nothing, deps=["page a"])
    run.add("merge", steps.nothing, deps=["page a", "page b", "page c"])
    run.add("publish", steps.nothing, deps=["merge", "fetch"])

    assert drawn(run.add("alone", steps.nothing).insert()) == [
        "○          fetch",
        "│ ○        alone",
        "├───·      page a",
        "├─· │      page b",
        "├─│─│─·    page c",
        "│ │ ├─│─·  count",
        "│ ·─┴─╯    merge",
        "·─╯        publish",
    ]


def test_step_never_stands_right_below_one_that_it_has_nothing_to_do_with():
    run = Workflow("x")
    for name in "abcd":
        run.add(name, steps.nothing)

    assert drawn(run.insert()) == ["○    a", "  ○  b", "○    c", "  ○  d"]


def wide_run(pages: int = 100, *, failing: int = 1) -> WorkflowRun:
    run = Workflow("ingest").add("split", steps.nothing)
    bad = {7 + 10 * number for number in range(failing)}
    for number in range(pages):
        body = steps.count_attempts.bind(3 if number in bad else 1)
        run.add(f"page[{number}]", body, deps=["split"], max_attempts=2)
        run.add(f"text {number} of {pages}", steps.nothing, deps=[f"page[{number}]"])
    return run.add("merge", steps.nothing, deps=[f"text {number} of {pages}" for number in range(pages)]).insert()


def test_many_steps_that_are_alike_are_one_line():
    run = wide_run(400)

    assert [line.split(" ready for ")[0].rstrip() for line in graph(run).splitlines()] == [
        "   STEP               STATE      ATTEMPT  STARTED  TOOK",
        "○  split              available",
        "·  page[0…399]        400 steps                          400 pending",
        "·  text 0…399 of 400  400 steps                          400 pending",
        "·  merge              pending                            waits for 400 of 400",
    ]


def test_steps_that_failed_have_lines_of_their_own_below_those_that_are_alike():
    run = drain(wide_run(100, failing=5))
    run.nodes.update(settled_at=NOON + timedelta(seconds=8.2))
    run.nodes.filter(started_at__isnull=False).update(started_at=NOON)

    assert graph(run).splitlines() == [
        "   STEP              STATE      ATTEMPT  STARTED              TOOK",
        "✓  split             completed  1/5      2026-06-14 12:00:00  8.2 s",
        "✗  page[0…99]        100 steps           2026-06-14 12:00:00  8.2 s  95 completed, 5 discarded",
        "│    ✗ page[7]       discarded  2/2      2026-06-14 12:00:00  8.2 s  ValueError",
        "│    ✗ page[17]      discarded  2/2      2026-06-14 12:00:00  8.2 s  ValueError",
        "│    ✗ page[27]      discarded  2/2      2026-06-14 12:00:00  8.2 s  ValueError",
        "│      and 2 more    discarded",
        "⊘  text 0…99 of 100  100 steps           2026-06-14 12:00:00  8.2 s  95 completed, 5 cancelled",
        "⊘  merge             cancelled                                       dependency 'text 7 of 100' was cancelled",
    ]


def test_few_steps_that_are_alike_are_not_folded():
    run = Workflow("x")
    for number in range(8):
        run.add(f"page {number}", steps.nothing)

    assert [line.split()[-1] for line in drawn(run.insert())] == list("01234567")


def test_steps_that_something_else_hangs_on_are_not_folded_with_the_others():
    run = Workflow("x").add("merge", steps.nothing, deps=[f"page[{number}]" for number in range(20)])
    for number in range(20):
        run.add(f"page[{number}]", steps.nothing)

    assert drawn(run.add("look", steps.nothing, deps=["page[7]"]).insert()) == [
        "○    page[0…19]",
        "│ ○  page[7]",
        "·─┤  merge",
        "  ·  look",
    ]


def test_steps_that_differ_in_words_in_brackets_are_folded_too():
    run = Workflow("x")
    for letter in "abcdefghij":
        run.add(f"assess[{letter}]", steps.nothing)

    assert drawn(run.insert()) == ["○  assess[…]"]


def test_graph_that_is_too_wide_for_lanes_names_dependencies_by_level():
    run = Workflow("x")
    for name in "abcdefghijklmn":
        run.add(name, steps.nothing)
    run.add("all", steps.nothing, deps=list("abcdefghijklmn"))
    run.add("two", steps.nothing, deps=["a", "b"])
    found = run.add("last", steps.nothing, deps=["all"]).insert()

    lines = [re.sub(" +ready for.*", "", line) for line in graph(found).splitlines()]

    assert lines[:3] == [
        "LEVEL  STEP    STATE      ATTEMPT  STARTED  TOOK  AFTER",
        "1      ○ a     available",
        "       ○ b     available",
    ]
    assert lines[-4:] == [
        "       ○ n     available",
        "2      · all   pending                            a, b, c and 11 more  waits for 14 of 14",
        "       · two   pending                            a and b              waits for 2 of 2",
        "3      · last  pending                            all",
    ]


def test_graph_that_is_too_wide_for_lanes_and_has_many_steps_folds_each_level():
    run = Workflow("x")
    for number in range(100):
        run.add(f"s{number}", steps.nothing, deps=[f"s{number - 20}"] if number >= 20 else [])
        run.add(f"t{number}", steps.nothing, deps=sorted({f"s{number}", f"s{number * 37 % 100}"}))

    assert drawn(run.insert()) == [
        "1      ○ s0…19",
        "2      · t0",
        "       · t3",
        "       · t11",
        "       · t14",
        "       · t19",
        "       · s20…39",
        "3      · t1…38",
        "       · s40…59",
        "4      · t4…58",
        "       · s60…79",
        "5      · t2…79",
        "       · s80…99",
        "6      · t5…99",
    ]


def test_dependency_that_is_gone_is_not_drawn():
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()
    run.nodes.filter(name="a")._raw_delete("default")

    assert drawn(run) == ["·  b"]
    assert json.loads(printed(run, "--json"))["steps"][0]["dependencies"] == []


def test_run_without_steps_is_shown():
    run = WorkflowRunFactory.create(name="empty")

    assert printed(run).splitlines()[0] == f"► empty  {run.pk}"
    assert json.loads(printed(run, "--json"))["steps"] == []


def test_graph_of_a_thousand_steps_is_as_many_queries_as_that_of_ten():
    counts = []
    for pages in (4, 500):
        run = wide_run(pages)
        with CaptureQueriesContext(connection) as captured:
            printed(run)
        counts.append(len(captured))

    assert counts[0] == counts[1]


def test_lines_are_cut_and_the_headline_broken_where_the_terminal_ends(monkeypatch):
    run = drain(Workflow("x").add("a" * 100, steps.discard.bind("no " * 40)).insert())
    monkeypatch.setenv("COLUMNS", "80")

    screen = Screen()
    call_command("baton_show", str(run.pk), stdout=screen)

    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) == 80
    assert len(lines) > 6
    assert lines[-1].startswith(f"✗  {'a' * 47}…  discarded  1/5")
    assert "".join(run.headline().split()) == "".join("".join(lines[2 : lines.index("")]).split())


# Answers -------------------------------------------------------------------------------------------------------------


def test_why_says_why_a_step_is_where_it_is():
    run = Workflow("x").add("a", steps.nothing).add("b", steps.nothing, deps=["a"]).insert()

    assert printed(run, "--why", "b") == f"{run.steps['b'].explain()}\n"
    assert json.loads(printed(run, "--why", "a", "--json")) == {
        "run": str(run.pk),
        "step": "a",
        "state": "available",
        "why": run.steps["a"].explain(),
    }


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("page[71]", " Did you mean 'page[7]', 'page[1]' and 'page[17]'?"),
        ("MERGE", " Did you mean 'merge results'?"),
        ("nothing like it", ""),
    ],
)
def test_why_of_no_step_names_those_that_are_called_alike(asked, hint):
    run = Workflow("x").add("merge results", steps.nothing)
    for number in (1, 7, 17):
        run.add(f"page[{number}]", steps.nothing)
    found = run.insert()

    with pytest.raises(CommandError) as refusal:
        printed(found, "--why", asked)

    assert str(refusal.value) == f"Run {found.pk} has no step named {asked!r}.{hint}"
    assert refusal.value.returncode == 1


def test_json_is_one_document_with_the_run_and_the_steps_of_the_query_and_more():
    run = drain(
        Workflow("ingest", key="order-42")
        .add("a", steps.value)
        .add("b", steps.discard, deps=["a"], queue="slow")
        .insert()
    )
    run.refresh_from_db()

    told = json.loads(printed(run, "--json"))

    assert told["run"] == {
        "id": str(run.pk),
        "name": "ingest",
        "key": "order-42",
        "state": "failed",
        "round": 1,
        "inserted_at": timestamp(run.inserted_at),
        "finished_at": timestamp(run.finished_at),
        "cancelled_at": None,
        "cancel_reason": "",
        "headline": run.headline(),
        "steps": {"completed": 1, "discarded": 1},
    }
    event = steps_of(run.pk)[1]
    node = run.steps["b"]
    assert told["steps"][1] == event | {
        "dependencies": ["a"],
        "queue": "slow",
        "max_attempts": 5,
        "due_at": None,
        "queued_at": timestamp(node.queued_at),
        "started_at": timestamp(node.started_at),
        "finished_at": timestamp(node.settled_at),
        "worker": node.worker,
        "progress": None,
        "attempts": node.attempts,
    }


def test_run_may_be_named_by_the_beginning_of_its_id():
    run = WorkflowRunFactory.create(id=UUID("cfd3a1b2-0000-4000-8000-000000000000"))
    out = StringIO()

    call_command("baton_show", "CFD3a", "--json", stdout=out)

    assert json.loads(out.getvalue())["run"]["id"] == str(run.pk)


def test_run_that_is_not_there_is_refused_also_in_json():
    out = StringIO()

    with pytest.raises(CommandError, match="No run has an id that begins with cfd3a"):
        call_command("baton_show", "cfd3a", stdout=out)
    with pytest.raises(SystemExit) as exit_status:
        call_command("baton_show", "cfd3a", "--json", stdout=out)

    assert exit_status.value.code == 1
    assert "No run has an id that begins with cfd3a" in json.loads(out.getvalue())["error"]


def test_following_and_asking_why_at_once_is_wrong_usage():
    with pytest.raises(CommandError, match="not allowed with argument"):
        call_command("baton_show", "cfd3a", "--follow", "--why", "a")


# Following -----------------------------------------------------------------------------------------------------------


def test_follow_of_a_run_that_has_ended_shows_it_and_exits_by_its_outcome():
    good = drain(Workflow("x").add("a", steps.nothing).insert())
    bad = drain(Workflow("x").add("a", steps.discard).insert())

    shown = printed(good, "--follow")
    with pytest.raises(SystemExit) as exit_status:
        printed(bad, "--follow", "--json")

    assert exit_status.value.code == 1
    assert shown == printed(good)
    assert json.loads(printed(good, "--follow", "--json"))["run"]["state"] == "completed"


def lines_of_changes(view: View) -> list[str]:
    seen = next(follow(view))
    lines = changes(seen, name_width=name_width(view))
    return [re.sub(r"\d\d:\d\d:\d\d|\d+(\.\d)? s\b", "<t>", "".join(cell.text for cell in line)) for line in lines]


def test_look_of_a_follower_is_three_queries_whatever_has_changed(django_assert_num_queries):
    run = wide_run(100)
    view = View.of(run)

    with django_assert_num_queries(2):
        assert lines_of_changes(view) == []
    drain(WorkflowRun.objects.get(pk=run.pk))
    with django_assert_num_queries(3):
        assert lines_of_changes(view) == [
            "<t>  ✓ split           completed  1/5  <t>",
            "<t>  ✓ page[0…99]      completed  99 steps",
            "<t>  ✗ page[7]         discarded  2/2  <t>  ValueError",
            "<t>  ⊘ text 7 of 100   cancelled  dependency 'page[7]' was discarded",
            "<t>  ⊘ merge           cancelled  dependency 'text 7 of 100' was cancelled",
            "<t>  ✓ text 0…99 of 100  completed  99 steps",
        ]


def test_follower_tells_each_execution_once_and_nothing_of_steps_that_wait():
    run = Workflow("x").add("a", steps.report_and_fail).add("b", steps.nothing, deps=["a"]).insert()
    view = View.of(run)
    claim(connection, run.steps["a"].pk, worker="host:1")

    assert lines_of_changes(view) == ["<t>  ► a  executing  1/5  <t>  on host:1"]
    run.nodes.filter(name="a").update(progress={"current": 1, "total": 2}, version=7)
    assert lines_of_changes(View.of(run)) == []
    expire_leases(run)
    sweep()
    assert lines_of_changes(view) == []


def test_run_that_is_deleted_while_it_is_followed_is_told():
    run = Workflow("x").add("a", steps.nothing).insert()
    view = View.of(run)
    WorkflowRun.objects.filter(pk=run.pk).delete()

    with pytest.raises(WorkflowRun.DoesNotExist):
        next(follow(view))


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.django_db(transaction=True)
def test_follower_of_a_live_run_prints_its_changes_until_it_has_ended(manage, real_cluster, tmp_path):
    folder = str(tmp_path)
    run = (
        Workflow("x").add("waits", steps.wait_for_file.bind(folder)).add("last", steps.nothing, deps=["waits"]).insert()
    )

    follower = manage.start("baton_show", str(run.pk), "--follow")
    as_json = manage.start("baton_show", str(run.pk), "--follow", "--json")
    shown = [next(follower.stdout) for _ in range(7)]
    real_cluster(workers=1)
    began = next(follower.stdout)
    (tmp_path / "go").touch()
    rest, errors = follower.communicate(timeout=60)
    document, _ = as_json.communicate(timeout=60)

    assert re.fullmatch(r"○  waits  available +ready for .+ in queue default\n", shown[-2])
    assert shown[-1] == "·  last   pending\n"
    assert re.fullmatch(r"[\d:]{8}  ► waits  executing  1/5  [\d.]+ s  on .+\n", began)
    lines = [line for line in rest.splitlines() if "► last" not in line]
    assert re.fullmatch(r"[\d:]{8}  ✓ waits  completed  1/5  [\d.]+ s", lines[0])
    assert re.fullmatch(r"[\d:]{8}  ✓ last   completed  1/5  [\d.]+ s", lines[1])
    assert lines[2:4] == ["", f"✓ x  {run.pk}"]
    run.refresh_from_db()
    assert lines[-1] == run.headline()
    assert (follower.returncode, errors, as_json.returncode) == (0, "", 0)
    assert json.loads(document)["run"]["state"] == "completed"


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_follower_leaves_without_a_word_on_ctrl_c_and_when_its_reader_has_gone(manage):
    run = Workflow("x").add("a", steps.nothing).insert()
    interrupted = manage.start("baton_show", str(run.pk), "--follow")
    unread = manage.start("baton_show", str(run.pk), "--follow")
    for process in (interrupted, unread):
        assert any(line.startswith("○  a") for line in process.stdout)

    interrupted.send_signal(signal.SIGINT)
    unread.stdout.close()
    run.cancel("enough")

    assert interrupted.wait(60) == 130
    assert unread.wait(60) == 0
    assert (interrupted.stderr.read(), unread.stderr.read()) == ("", "")


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_show_exits_as_documented_in_a_shell(manage):
    run = drain(Workflow("x").add("a", steps.discard).insert())

    followed = manage("baton_show", str(run.pk)[:13], "--follow", check=False)
    misused = manage("baton_show", "what", check=False)

    assert (followed.returncode, misused.returncode) == (1, 2)
    assert followed.stdout == printed(run)
