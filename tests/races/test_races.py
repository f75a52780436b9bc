"""What two workers may do at the same instant, with the invariants asserted after each race."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone
from django_q.brokers import get_broker
from django_q.models import OrmQ

from baton import Workflow
from baton.engine import statements
from baton.engine.gate import claim, claim_next, is_ready
from baton.engine.runner import answer_bell, database
from baton.models import Completion, WorkflowNode, WorkflowRun
from baton.q2 import ring
from baton.sweep import check, sweep
from baton.sweep.rescue import rescue_lost
from baton.telemetry import step_transitioned
from tests.behaviours import follow, meet, meeting_point
from tests.interpreter import Act
from tests.races.pairs import REPEATS, claims, copies, nodes_by_run, perform, race

pytestmark = [pytest.mark.postgres, pytest.mark.django_db(transaction=True)]

LAYER = 20


@pytest.fixture
def transitions() -> Iterator[Counter[tuple[int, str]]]:
    """How often each node was announced in each state."""
    counted: Counter[tuple[int, str]] = Counter()

    def record(node_id: int, state: str, **payload: Any) -> None:
        counted[node_id, state] += 1

    step_transitioned.connect(record)
    yield counted
    step_transitioned.disconnect(record)


def states(name: str) -> Counter[str]:
    """How many steps of that name are in each state."""
    return Counter(map(str, WorkflowNode.objects.filter(name=name).values_list("state", flat=True)))


def test_join_of_two_siblings_that_settle_at_once_is_promoted_once():
    runs = copies(Workflow("join").add("b", meet).add("c", meet).add("d", follow, deps=["b", "c"]))
    # In every other run the join belongs to a queue of its own: nobody here goes on with it, so a bell must be rung.
    elsewhere = {f"join {run['d']}" for run in runs[::2]}
    for run in runs[::2]:
        WorkflowNode.objects.filter(pk=run["d"]).update(queue=f"join {run['d']}")
    held_by_us = claims(runs, "b", "c")
    taken: list[int] = []

    def settle(name: str, repeat: int) -> None:
        held = perform(held_by_us[runs[repeat][name]], take_next=True)
        if held is not None:
            taken.append(held.claim.node_id)

    race(lambda repeat: settle("b", repeat), lambda repeat: settle("c", repeat))

    assert sorted(taken) == sorted(run["d"] for run in runs[1::2])
    joins = WorkflowNode.objects.filter(name="d")
    assert Counter(joins.values_list("state", "remaining", "fence", "attempt", "version")) == {
        ("executing", 0, 1, 1, 2): len(taken),
        ("available", 0, 0, 0, 1): len(elsewhere),
    }
    assert Counter(OrmQ.objects.filter(key__startswith="join").values_list("key", flat=True)) == dict.fromkeys(
        elsewhere, 1
    )
    assert check() == []


def test_sibling_that_fails_while_another_completes_takes_only_what_hangs_on_it(transitions):
    workflow = (
        Workflow("failing sibling")
        .add("b", meet.bind(act=Act.RAISE))
        .add("c", meet)
        .add("both", follow, deps=["b", "c"])
        .add("behind both", follow, deps=["both"])
        .add("only c", follow, deps=["c"])
        .add("both, forgiving", follow, deps=["b", "c"], ignore_discarded=True)
        .add("behind all", follow, deps=["behind both", "only c", "c"])
    )
    runs = copies(workflow)
    held = claims(runs, "b", "c")

    race(lambda repeat: perform(held[runs[repeat]["b"]]), lambda repeat: perform(held[runs[repeat]["c"]]))

    assert {name: states(name) for name in runs[0]} == {
        "b": {"discarded": REPEATS},
        "c": {"completed": REPEATS},
        "both": {"cancelled": REPEATS},
        "behind both": {"cancelled": REPEATS},
        "only c": {"available": REPEATS},
        "both, forgiving": {"available": REPEATS},
        "behind all": {"cancelled": REPEATS},
    }
    assert not WorkflowNode.objects.filter(state="available").exclude(remaining=0).exists()
    cancelled = [run[name] for run in runs for name in ("both", "behind both", "behind all")]
    assert [transitions[node_id, "cancelled"] for node_id in cancelled] == [1] * len(cancelled)
    assert check() == []


def test_two_layers_of_twenty_joined_all_to_all_settle_in_pairs_without_a_deadlock():
    upper = [f"upper {index:02}" for index in range(LAYER)]
    workflow = Workflow("layers", ignore_discarded=True)
    for index, name in enumerate(upper):
        # Every fourth step fails: a cascade that its dependents ignore locks the same rows.
        workflow.add(name, meet.bind(act=Act.DISCARD if index % 4 == 3 else Act.VALUE))
    for index in range(LAYER):
        workflow.add(f"lower {index:02}", follow, deps=upper[index:] + upper[:index])
    pairs = LAYER // 2
    runs = copies(workflow, max(1, REPEATS // pairs))
    held = claims(runs, *upper)

    def settle(side: int, repeat: int) -> None:
        run, pair = divmod(repeat, pairs)
        perform(held[runs[run][upper[2 * pair + side]]])

    race(lambda repeat: settle(0, repeat), lambda repeat: settle(1, repeat), repeats=len(runs) * pairs)

    lower = WorkflowNode.objects.filter(name__startswith="lower")
    assert Counter(lower.values_list("state", "remaining")) == {("available", 0): LAYER * len(runs)}
    assert check() == []


def test_cancel_and_settle_at_once_leave_one_ending(endings, transitions):
    alone = copies(Workflow("cancelled").add("a", meet), REPEATS // 2)
    # Many rows that both lock, so that any other order than the same one would deadlock.
    wide = Workflow("cancelled with more").add("a", meet)
    waiting = [f"b{index}" for index in range(LAYER)]
    for name in waiting:
        wide.add(name, follow, deps=["a"])
    followed = copies(wide, REPEATS // 2)
    names = ("cancelled", "cancelled with more")
    run_ids = {nodes["a"]: run_id for name in names for run_id, nodes in nodes_by_run(name).items()}
    runs = [run for pair in zip(alone, followed, strict=True) for run in pair]
    held = claims(runs, "a")

    def cancel(repeat: int) -> None:
        run = WorkflowRun.objects.get(pk=run_ids[runs[repeat]["a"]])
        meeting_point.wait()
        run.cancel("enough")

    race(
        cancel,
        lambda repeat: perform(held[runs[repeat]["a"]]),
        repeats=len(runs),
        was_left_first=lambda repeat: transitions[runs[repeat]["a"], "cancelled"] == 1,
    )

    assert sorted(endings) == sorted(map(str, run_ids.values()))
    assert Completion.objects.count() == len(runs)
    assert set(WorkflowRun.objects.filter(name="cancelled with more").values_list("state", flat=True)) == {"cancelled"}
    assert set(states("a")) == {"completed", "cancelled"}, "the two never met"
    # Only where the cancel settled something is the run cancelled.
    assert not WorkflowRun.objects.filter(name="cancelled").exclude(state=F("nodes__state")).exists()
    assert {name: states(name) for name in waiting} == {name: {"cancelled": len(followed)} for name in waiting}
    for run in runs:
        assert transitions[run["a"], "completed"] + transitions[run["a"], "cancelled"] == 1
    assert check() == []


def test_two_claims_of_one_step_at_once_give_it_to_one():
    runs = copies(Workflow("claimed").add("a", follow))
    for repeat, run in enumerate(runs):
        WorkflowNode.objects.filter(pk=run["a"]).update(queue=f"queue {repeat}")
    claims: list[int] = []

    def take(repeat: int) -> None:
        meeting_point.wait()
        if repeat % 2:
            taken = claim(database(), runs[repeat]["a"], worker="by id")
        else:
            taken = claim_next(database(), f"queue {repeat}", worker="by queue")
        if taken is not None:
            claims.append(taken.node_id)

    race(take, take)

    assert sorted(claims) == sorted(run["a"] for run in runs)
    nodes = WorkflowNode.objects.values_list("state", "fence", "attempt", "version")
    assert Counter(nodes) == {("executing", 1, 1, 1): REPEATS}
    assert check() == []


def test_sweep_and_settle_at_once_end_the_execution_once(transitions, settings):
    settings.BATON = {"LEASE_SECONDS": 600.0}  # only what this test says has run out
    runs = copies(Workflow("swept").add("a", meet, max_attempts=2).add("b", follow, deps=["a"]))

    held = claims(runs, "a")

    def lose_and_sweep(repeat: int) -> None:
        meeting_point.wait()
        WorkflowNode.objects.filter(pk=runs[repeat]["a"], state="executing").update(lease_until=F("started_at"))
        if repeat % 10:
            list(rescue_lost(database()))
        else:
            assert sweep().errors == {}

    race(
        lose_and_sweep,
        lambda repeat: perform(held[runs[repeat]["a"]]),
        was_left_first=lambda repeat: transitions[runs[repeat]["a"], "retryable"] == 1,
    )

    ended: Counter[str] = Counter()
    for node in WorkflowNode.objects.filter(name="a"):
        (execution,) = node.attempts
        ended[execution["outcome"]] += 1
        announced = {state: transitions[node.pk, state] for state in ("completed", "retryable")}
        if execution["outcome"] == "completed":
            assert (node.state, announced) == ("completed", {"completed": 1, "retryable": 0})
        else:
            assert node.state in ("retryable", "available")
            assert (node.attempt, announced) == (1, {"completed": 0, "retryable": 1})
    assert set(ended) == {"completed", "worker_lost"}, "the two never met"
    assert states("b") == {"available": ended["completed"], "pending": ended["worker_lost"]}
    assert check() == []


def test_lease_renewed_while_the_sweep_takes_it_is_kept_or_lost_but_not_both(settings):
    settings.BATON = {"LEASE_SECONDS": 600.0}
    runs = copies(Workflow("renewed").add("a", follow))
    held = claims(runs, "a")
    ids = [run["a"] for run in runs]
    renewed: set[int] = set()
    # Expired one by one: the sweep must find no more than the lease in question.
    expire = WorkflowNode.objects.filter(state="executing")

    def lose_and_rescue(repeat: int) -> None:
        expire.filter(pk=ids[repeat]).update(lease_until=F("started_at"))
        meeting_point.wait()
        list(rescue_lost(database()))

    def renew(repeat: int) -> None:
        meeting_point.wait()
        claimed = held[ids[repeat]]
        if statements.execute(database(), statements.RENEW, [600.0, claimed.node_id, claimed.fence]):
            renewed.add(claimed.node_id)

    race(lose_and_rescue, renew, was_left_first=lambda repeat: ids[repeat] not in renewed)

    assert set(WorkflowNode.objects.filter(state="executing").values_list("pk", flat=True)) == renewed
    assert 0 < len(renewed) < REPEATS, "the two never met"
    assert check() == []


def test_bell_rung_while_the_last_worker_looks_and_leaves_is_not_lost():
    """Work that comes at that instant is taken by that worker, or a bell waits for the next one."""
    queues = [f"queue {repeat}" for repeat in range(REPEATS)]
    last = copies(Workflow("last work").add("a", meet))
    others = copies(Workflow("other work").add("a", follow, queue="other").add("b", follow, deps=["a"]))
    for queue, run, other in zip(queues, last, others, strict=True):
        WorkflowNode.objects.filter(pk__in=[run["a"], other["b"]]).update(queue=queue)
    held = claims(others, "a")
    OrmQ.objects.all().delete()

    def make_ready(repeat: int) -> None:
        meeting_point.wait()
        if repeat % 2:
            Workflow("new work").add("a", follow, queue=queues[repeat]).insert()
        else:
            perform(held[others[repeat]["a"]])

    def has_left(repeat: int) -> bool:
        return OrmQ.objects.filter(key=queues[repeat]).exists() and is_ready(database(), queues[repeat])

    race(lambda repeat: answer_bell(queues[repeat]), make_ready, was_left_first=has_left)

    ready = set(WorkflowNode.objects.filter(state="available", queue__in=queues).values_list("queue", flat=True))
    rung = set(OrmQ.objects.values_list("key", flat=True))
    assert ready <= rung
    assert 0 < len(ready) < REPEATS, "the two never met"
    for queue in rung:
        answer_bell(queue)
    assert not WorkflowNode.objects.filter(queue__in=queues).exclude(state__in=["completed", "pending"]).exists()
    assert check() == []


def test_bell_that_waits_and_stands_for_more_work_is_answered_after_that_work_is_there():
    """A waiting bell saves ringing another one, but not if it is being taken just now."""
    queues = [f"queue {repeat}" for repeat in range(REPEATS)]
    ready = copies(Workflow("waits for nothing").add("a", follow))
    for queue, run in zip(queues, ready, strict=True):
        WorkflowNode.objects.filter(pk=run["a"]).update(queue=queue)
    for queue in queues:
        ring({queue: 1}, using="default")
    claims(ready, "a")

    def fetch_and_answer(repeat: int) -> None:
        broker = get_broker(queues[repeat])
        meeting_point.wait()
        # What django-q2's pusher and its worker do.
        for message, _ in broker.dequeue() or []:
            answer_bell(queues[repeat])
            broker.acknowledge(message)

    def make_ready(repeat: int) -> None:
        workflow = Workflow("new work").add("a", follow, queue=queues[repeat])
        meeting_point.wait()
        workflow.insert()

    def was_left_ready(repeat: int) -> bool:
        return is_ready(database(), queues[repeat])

    race(fetch_and_answer, make_ready, was_left_first=was_left_ready)

    new = WorkflowNode.objects.filter(run__name="new work")
    left = set(new.filter(state="available").values_list("queue", flat=True))
    waiting = set(OrmQ.objects.filter(lock__lte=timezone.now()).values_list("key", flat=True))
    assert left <= waiting
    assert 0 < len(left) < REPEATS, "the two never met"
    assert new.filter(state="completed").count() + len(left) == REPEATS
    assert check() == []
