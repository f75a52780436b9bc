"""Random workflows, run for real and compared with what the rules say they must come to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from baton import Workflow, result_of
from baton.exceptions import NothingToRetryError
from baton.models import WorkflowNode, WorkflowRun
from baton.sweep import check
from baton.telemetry import step_transitioned, workflow_finished
from baton.testing import drain
from tests.behaviours import begin_round, behave, behave_async, notes_of_round
from tests.conftest import StartCluster
from tests.faults import recorder
from tests.interpreter import Act, DescribedStep, Description, Ending, Fate, interpret, interpret_retry
from tests.processes import Manage
from tests.utils import wait_until

Notes = dict[str, list[dict[str, Any]]]

IN_PROCESS = 100
ON_A_CLUSTER = 30
RETRIED_IN_PROCESS = 30
RETRIED_ON_A_CLUSTER = 15
MAX_STEPS = 60
TIMEOUT = 0.5
"""Much longer than a body needs that is not told to time out."""

_SIZES = [*range(1, 31), *range(1, MAX_STEPS + 1)]
_LAST_ACTS = [Act.VALUE] * 12 + [Act.NOTHING] * 2 + [Act.RAISE, Act.DISCARD, Act.CANCEL]
_CALM_ACTS = [Act.VALUE] * 6 + [Act.NOTHING]
_EARLIER_ACTS = [()] * 12 + [(Act.RAISE,), (Act.SNOOZE,), (Act.SNOOZE, Act.SNOOZE), (Act.SNOOZE, Act.RAISE, Act.SNOOZE)]
_FLAGS = [None, None, None, None, True, False]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A described workflow, with what the rules do not depend on."""

    description: Description
    options: dict[str, dict[str, Any]]
    """Options given where the step is added."""
    is_async: frozenset[str]
    is_reversed: bool
    """Whether the steps are added last first."""


def samples() -> st.SearchStrategy[Sample]:
    """Workflows of up to 60 steps: every shape, every act, flags at both levels.

    Of one seed, a smaller workflow is the beginning of a larger one: so a failing example shrinks to its shortest
    failing beginning.
    """
    return st.builds(sample_of, size=st.sampled_from(_SIZES), seed=st.integers(0, 2**32 - 1))


def sample_of(size: int, seed: int) -> Sample:
    """The sample of a seed."""
    random = Random(seed)
    # A small width makes deep graphs, a large one makes wide ones.
    width = random.choice([2, 5, 15, MAX_STEPS])
    last_acts = random.choice([_CALM_ACTS, _LAST_ACTS, _LAST_ACTS])
    ignore_cancelled, ignore_discarded = random.random() < 0.5, random.random() < 0.5
    time_out_at = random.choice([None, None, None, random.randrange(MAX_STEPS)])
    is_reversed = random.random() < 0.5
    of_retries = Random(f"{seed} again")
    steps: list[DescribedStep] = []
    options: dict[str, dict[str, Any]] = {}
    is_async: set[str] = set()
    for index in range(size):
        name = f"s{index}"
        near = [step.name for step in steps[max(0, index - width) :]]
        deps = random.sample(near, min(len(near), random.choice([0, 1, 1, 2, 3, 4])))
        whole, parts, plain = _dealt(random.randrange(9), deps)
        script = (*random.choice(_EARLIER_ACTS), random.choice(last_acts))
        if index == time_out_at:
            script = (Act.TIME_OUT, *script)
        described = DescribedStep(
            name=name,
            deps=plain,
            whole=whole,
            parts=parts,
            script=script,
            again=of_retries.choice([(), (), (*of_retries.choice(_EARLIER_ACTS), of_retries.choice(_LAST_ACTS))]),
            number=index * 7 + 1,
            max_attempts=random.choice([1, 2, 3]),
            ignore_cancelled=random.choice(_FLAGS),
            ignore_discarded=random.choice(_FLAGS),
        )
        steps.append(described)
        options[name] = {"max_attempts": described.max_attempts, "priority": random.randrange(-1, 2)}
        if index == time_out_at:
            options[name]["timeout"] = TIMEOUT
        elif random.random() < 0.2:
            options[name]["timeout"] = 60
        if random.random() < 0.2:
            is_async.add(name)
        elif random.random() < 0.1:
            options[name]["atomic"] = True
    return Sample(
        description=Description(
            steps=tuple(steps), ignore_cancelled=ignore_cancelled, ignore_discarded=ignore_discarded
        ),
        options=options,
        is_async=frozenset(is_async),
        is_reversed=is_reversed,
    )


def _dealt(kind: int, deps: list[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Make the first dependency a reference to a whole result, or to a part, or both; now and then."""
    first, rest = tuple(deps[:1]), tuple(deps[1:])
    return {0: (first, (), rest), 1: ((), first, rest), 2: (first, first, tuple(deps))}.get(kind, ((), (), tuple(deps)))


def workflow_of(sample: Sample, folder: Path, *, backoff: float, pause: float) -> Workflow:
    """The described workflow, made by the API that users have."""
    description = sample.description
    workflow = Workflow(
        "random", ignore_cancelled=description.ignore_cancelled, ignore_discarded=description.ignore_discarded
    )
    for described in reversed(description.steps) if sample.is_reversed else description.steps:
        body = behave_async if described.name in sample.is_async else behave
        bound = body.bind(
            folder=str(folder),
            script=[act.value for act in described.script],
            again=[act.value for act in described.again],
            number=described.number,
            pause=pause,
            whole={name: result_of(name) for name in described.whole},
            parts={name: result_of(name)["sum"] for name in described.parts},
        )
        workflow.add(
            described.name,
            bound,
            deps=described.deps,
            ignore_cancelled=described.ignore_cancelled,
            ignore_discarded=described.ignore_discarded,
            backoff=backoff,
            **sample.options[described.name],
        )
    return workflow


def collected(count: int) -> list[Sample]:
    """So many samples, the same ones each time."""
    found: list[Sample] = []

    @hypothesis_settings(max_examples=count, derandomize=True, database=None, phases=[Phase.generate])
    @given(samples())
    def collect(sample: Sample) -> None:
        found.append(sample)

    collect()
    return found


# What is compared -----------------------------------------------------------------------------------------------


def assert_ran_as_ruled(
    run: WorkflowRun, sample: Sample, ending: Ending, folder: Path, events: Iterable[dict[str, Any]]
) -> None:
    """Compare all that can be seen of a round of a run with what the rules say.

    Args:
        run: The run, settled.
        sample: What it was made of.
        ending: What the rules say of this round.
        folder: Where its bodies noted what they did.
        events: The payloads of the step events of this round.
    """
    nodes = {node.name: node for node in WorkflowNode.objects.of_workflow(run.pk)}
    described = {step.name: step for step in sample.description.steps}

    assert {name: str(node.state) for name, node in nodes.items()} == {
        name: fate.state for name, fate in ending.fates.items()
    }
    assert run.state == ending.outcome
    completion = run.completions.get(round=run.round)
    assert (completion.outcome, completion.total_count) == (ending.outcome, len(nodes))
    assert sorted(completion.failed_steps) == sorted(ending.failed_steps)
    assert completion.failed_count == len(ending.failed_steps)

    noted = notes_of_round(folder)
    events_of = defaultdict(list)
    for event in events:
        events_of[event["step_name"]].append(event)
    for name, fate in ending.fates.items():
        node = nodes[name]
        _assert_row(node, fate)
        if name in ending.ran:
            _assert_bodies(node, fate, noted)
            _assert_events(node, fate, events_of[name])
        else:
            # What was paid for in a round before is kept, and not done again.
            assert (noted[name], noted[f"{name}.hooks"], events_of[name]) == ([], [], []), name
        _assert_order(node, fate, [nodes[dependency] for dependency in described[name].dependencies], noted)


def _assert_row(node: WorkflowNode, fate: Fate) -> None:
    assert node.has_result == (fate.result is not None)
    if fate.result is not None:
        assert node.result == fate.result
    assert node.attempt == fate.attempt, node.name
    assert [(entry["number"], entry["outcome"], entry["count"]) for entry in node.attempts] == fate.log, node.name
    assert (node.error is None) == (fate.state == "completed"), node.error
    if fate.blamed:
        reason = node.error or ""
        assert any(repr(name) in reason and state in reason for name, state in fate.blamed.items()), reason
        assert node.started_at is None


def _assert_bodies(node: WorkflowNode, fate: Fate, noted: Notes) -> None:
    started = [note for note in noted[node.name] if "started" in note]

    assert [note["attempt"] for note in started] == fate.bodies, node.name
    hooks = noted[f"{node.name}.hooks"]
    assert len(hooks) == bool(fate.blamed), hooks
    for hook in hooks:
        assert hook["state"] in fate.blamed.values()
        assert any(repr(name) in hook["reason"] for name in fate.blamed)


def _assert_events(node: WorkflowNode, fate: Fate, events: list[dict[str, Any]]) -> None:
    events = sorted(events, key=lambda event: event["version"])

    assert [(event["state"], event["attempt"]) for event in events] == list(fate.events), node.name
    versions = [event["version"] for event in events]
    assert len(set(versions)) == len(versions)
    last = events[-1]
    assert last["version"] == node.version
    assert last["error"] == node.error
    assert {event["node_id"] for event in events} == {node.pk}
    assert {event["step"] for event in events} == {node.step}
    assert [event["has_result"] for event in events] == [False] * (len(events) - 1) + [fate.result is not None]


def _assert_order(node: WorkflowNode, fate: Fate, dependencies: list[WorkflowNode], noted: Notes) -> None:
    """No body starts before all its dependencies are settled."""
    of_this_round = node.attempts[len(fate.earlier_log) :]
    if of_this_round:
        began = datetime.fromisoformat(of_this_round[0]["started_at"])
        assert all(dependency.settled_at and dependency.settled_at <= began for dependency in dependencies), node.name
    started = [note["started"] for note in noted[node.name] if "started" in note]
    ended = [note["ended"] for each in dependencies for note in noted[each.name] if "ended" in note]
    if started and ended:
        assert max(ended) <= min(started), node.name


def _assert_announced_in_order(
    sample: Sample, events: list[dict[str, Any]], *, kept: frozenset[str] = frozenset()
) -> None:
    """In one process, a step is announced as executing only after all its dependencies were announced as settled."""
    settled = set(kept)
    needs = {step.name: step.dependencies for step in sample.description.steps}
    for event in events:
        if event["state"] == "executing":
            assert settled.issuperset(needs[event["step_name"]]), event
        elif event["state"] in ("completed", "discarded", "cancelled"):
            settled.add(event["step_name"])


# The claims -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_100_random_graphs_come_to_what_the_rules_say(tmp_path):
    seen: list[Description] = []
    events: list[dict[str, Any]] = []
    endings: list[dict[str, Any]] = []

    def record_event(**payload: Any) -> None:
        events.append(payload)

    def record_ending(**payload: Any) -> None:
        endings.append({**payload, "after": len(events)})

    @hypothesis_settings(max_examples=IN_PROCESS, derandomize=True, database=None)
    @given(samples())
    def compare(sample: Sample) -> None:
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        seen.append(sample.description)
        events.clear()
        endings.clear()
        run = workflow_of(sample, folder, backoff=30.0, pause=30.0).insert()

        drain(run)

        ending = interpret(sample.description)
        assert_ran_as_ruled(run, sample, ending, folder, events)
        _assert_announced_in_order(sample, events)
        assert [(each["outcome"], each["failed_count"], each["after"]) for each in endings] == [
            (ending.outcome, len(ending.failed_steps), len(events))
        ]
        assert sorted(endings[0]["failed_steps"]) == sorted(ending.failed_steps)

    step_transitioned.connect(record_event)
    workflow_finished.connect(record_ending)
    try:
        compare()
    finally:
        step_transitioned.disconnect(record_event)
        workflow_finished.disconnect(record_ending)

    assert len(seen) >= IN_PROCESS
    assert max(len(description.steps) for description in seen) > MAX_STEPS * 0.8
    assert check() == []


@pytest.mark.django_db(transaction=True)
def test_30_random_graphs_retried_twice_come_to_what_the_rules_say(tmp_path):
    seen: list[tuple[str | None, Ending | None]] = []
    events: list[dict[str, Any]] = []
    endings: list[str] = []

    def record_event(**payload: Any) -> None:
        events.append(payload)

    def record_ending(outcome: str, **payload: Any) -> None:
        endings.append(outcome)

    @hypothesis_settings(max_examples=RETRIED_IN_PROCESS, derandomize=True, database=None)
    @given(samples(), st.lists(st.none() | st.integers(0, MAX_STEPS - 1), min_size=2, max_size=2))
    def compare(sample: Sample, choices: list[int | None]) -> None:
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        names = [step.name for step in sample.description.steps]
        run = drain(workflow_of(sample, folder, backoff=30.0, pause=30.0).insert())
        ending = interpret(sample.description)
        for choice in choices:
            from_step = None if choice is None else names[choice % len(names)]
            expected = interpret_retry(sample.description, ending, from_step)
            seen.append((from_step, expected))
            events.clear()
            endings.clear()
            rows = {row["name"]: row for row in run.nodes.values()}
            if expected is None:
                with pytest.raises(NothingToRetryError):
                    run.retry(from_step)
                assert {row["name"]: row for row in run.nodes.values()} == rows
                continue
            begin_round(folder)

            plan = run.retry(from_step, dry_run=True)
            drain(run.retry(from_step))

            in_order = [node.name for node in run.nodes.order_by("id")]
            assert plan.reruns == [name for name in in_order if name in expected.ran]
            assert plan.keeps == [name for name in in_order if name not in expected.ran]
            kept = frozenset(plan.keeps)
            assert list(run.nodes.filter(name__in=kept).order_by("id").values()) == [rows[name] for name in plan.keeps]
            assert_ran_as_ruled(run, sample, expected, folder, events)
            _assert_announced_in_order(sample, events, kept=kept)
            assert endings == [expected.outcome]
            ending = expected

    step_transitioned.connect(record_event)
    workflow_finished.connect(record_ending)
    try:
        compare()
    finally:
        step_transitioned.disconnect(record_event)
        workflow_finished.disconnect(record_ending)

    assert len(seen) >= 2 * RETRIED_IN_PROCESS
    ran = [expected for _, expected in seen if expected is not None]
    assert {each.outcome for each in ran} == {"completed", "failed"}
    assert any(expected is None and from_step is not None for from_step, expected in seen)
    assert any(0 < len(each.ran) < len(each.fates) for each in ran)
    assert check() == []


@pytest.fixture
def recorded_workers(
    real_cluster: StartCluster, manage: Manage, settings: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two workers, and the folder in which they record their signals."""
    recorded = tmp_path_factory.mktemp("events")
    listening = {"DJANGO_SETTINGS_MODULE": "tests.faults.settings", recorder.ENVIRONMENT: str(recorded)}
    if "redis" in settings.Q_CLUSTER:
        # It cannot deliver a bell later: retries and snoozes are the resident sweep's.
        manage.start("baton_sweep", "--watch", "--interval", "0.2", env=listening)
    real_cluster(workers=2, env=listening)
    return recorded


@pytest.mark.broker
def test_30_random_graphs_at_once_on_a_real_cluster_come_to_what_the_rules_say(recorded_workers, tmp_path):
    samples = collected(ON_A_CLUSTER)
    assert len(samples) == ON_A_CLUSTER
    runs = []
    for index, sample in enumerate(samples):
        folder = tmp_path / str(index)
        folder.mkdir()
        runs.append((workflow_of(sample, folder, backoff=0.05, pause=0.05), sample, folder))

    inserted = [(workflow.insert(), sample, folder) for workflow, sample, folder in runs]
    for run, _, _ in inserted:
        run.wait(timeout=60)
    # Signals follow the commit that ended the run.
    wait_until(
        lambda: len(recorder.recorded(recorded_workers, "finished")) >= ON_A_CLUSTER,
        what="the last signal of an ending",
    )
    expected = sum(len(fate.events) for sample in samples for fate in interpret(sample.description).fates.values())
    wait_until(lambda: len(recorder.recorded(recorded_workers, "step")) >= expected, what="the last signal of a step")

    events = defaultdict(list)
    for event in recorder.recorded(recorded_workers, "step"):
        events[UUID(event["workflow_id"])].append(event)
    for run, sample, folder in inserted:
        assert_ran_as_ruled(run, sample, interpret(sample.description), folder, events[run.pk])
    finished = sorted(event["workflow_id"] for event in recorder.recorded(recorded_workers, "finished"))
    assert finished == sorted(str(run.pk) for run, _, _ in inserted)
    assert check() == []


@pytest.mark.broker
def test_15_random_graphs_retried_at_once_on_a_real_cluster_come_to_what_the_rules_say(recorded_workers, tmp_path):
    rounds = []
    for index, sample in enumerate(collected(ON_A_CLUSTER)):
        before = interpret(sample.description)
        # Where all went well, from the second of its steps or the first.
        step = None if before.failed_steps else sample.description.steps[:2][-1].name
        expected = interpret_retry(sample.description, before, step)
        assert expected is not None
        folder = tmp_path / str(index)
        folder.mkdir()
        rounds.append((workflow_of(sample, folder, backoff=0.05, pause=0.05).insert(), sample, step, expected, folder))
        if len(rounds) == RETRIED_ON_A_CLUSTER:
            break
    for run, *_ in rounds:
        run.wait(timeout=60)
    first = sum(len(fate.events) for _, sample, *_ in rounds for fate in interpret(sample.description).fates.values())
    wait_until(lambda: len(recorder.recorded(recorded_workers, "step")) >= first, what="the last signal of a step")
    heard = len(recorder.recorded(recorded_workers, "step"))
    assert heard == first

    for run, _, step, _, folder in rounds:
        begin_round(folder)
        run.retry(step)
    for run, *_ in rounds:
        run.wait(timeout=60)
    second = sum(len(expected.fates[name].events) for *_, expected, _ in rounds for name in expected.ran)
    wait_until(
        lambda: len(recorder.recorded(recorded_workers, "step")) >= first + second, what="the last signal of a step"
    )
    wait_until(
        lambda: len(recorder.recorded(recorded_workers, "finished")) >= 2 * RETRIED_ON_A_CLUSTER,
        what="the last signal of an ending",
    )

    events = defaultdict(list)
    for event in recorder.recorded(recorded_workers, "step")[heard:]:
        events[UUID(event["workflow_id"])].append(event)
    for run, sample, _, expected, folder in rounds:
        assert_ran_as_ruled(run, sample, expected, folder, events[run.pk])
    finished = sorted(event["workflow_id"] for event in recorder.recorded(recorded_workers, "finished"))
    assert finished == sorted([str(run.pk) for run, *_ in rounds] * 2)
    assert check() == []
