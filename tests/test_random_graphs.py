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
from baton.models import WorkflowNode, WorkflowRun
from baton.sweep import check
from baton.telemetry import step_transitioned, workflow_finished
from baton.testing import drain
from tests.behaviours import all_notes, behave, behave_async
from tests.conftest import StartCluster
from tests.faults import recorder
from tests.interpreter import Act, DescribedStep, Description, Fate, interpret
from tests.processes import Manage
from tests.utils import wait_until

Notes = dict[str, list[dict[str, Any]]]

IN_PROCESS = 200
ON_A_CLUSTER = 30
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


def assert_ran_as_ruled(run: WorkflowRun, sample: Sample, folder: Path, events: Iterable[dict[str, Any]]) -> None:
    """Compare all that can be seen of a run with what the rules say.

    Args:
        run: The run, settled.
        sample: What it was made of.
        folder: Where its bodies noted what they did.
        events: The payloads of the step events of the run.
    """
    ending = interpret(sample.description)
    nodes = {node.name: node for node in WorkflowNode.objects.of_workflow(run.pk)}
    described = {step.name: step for step in sample.description.steps}

    assert {name: str(node.state) for name, node in nodes.items()} == {
        name: fate.state for name, fate in ending.fates.items()
    }
    assert run.state == ending.outcome
    completion = run.completions.get()
    assert (completion.outcome, completion.total_count) == (ending.outcome, len(nodes))
    assert sorted(completion.failed_steps) == sorted(ending.failed_steps)
    assert completion.failed_count == len(ending.failed_steps)

    noted = all_notes(folder)
    events_of = defaultdict(list)
    for event in events:
        events_of[event["step_name"]].append(event)
    for name, fate in ending.fates.items():
        node = nodes[name]
        _assert_row(node, fate)
        _assert_bodies(node, fate, noted)
        _assert_events(node, fate, events_of[name])
        _assert_order(node, [nodes[dependency] for dependency in described[name].dependencies], noted)


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


def _assert_order(node: WorkflowNode, dependencies: list[WorkflowNode], noted: Notes) -> None:
    """No body starts before all its dependencies are settled."""
    if node.attempts:
        began = datetime.fromisoformat(node.attempts[0]["started_at"])
        assert all(dependency.settled_at and dependency.settled_at <= began for dependency in dependencies), node.name
    started = [note["started"] for note in noted[node.name] if "started" in note]
    ended = [note["ended"] for each in dependencies for note in noted[each.name] if "ended" in note]
    if started and ended:
        assert max(ended) <= min(started), node.name


def _assert_announced_in_order(sample: Sample, events: list[dict[str, Any]]) -> None:
    """In one process, a step is announced as executing only after all its dependencies were announced as settled."""
    settled: set[str] = set()
    needs = {step.name: step.dependencies for step in sample.description.steps}
    for event in events:
        if event["state"] == "executing":
            assert settled.issuperset(needs[event["step_name"]]), event
        elif event["state"] in ("completed", "discarded", "cancelled"):
            settled.add(event["step_name"])


# The claims -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_200_random_graphs_come_to_what_the_rules_say(tmp_path):
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

        assert_ran_as_ruled(run, sample, folder, events)
        _assert_announced_in_order(sample, events)
        ending = interpret(sample.description)
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


@pytest.mark.broker
def test_30_random_graphs_at_once_on_a_real_cluster_come_to_what_the_rules_say(
    real_cluster: StartCluster, manage: Manage, settings, tmp_path, tmp_path_factory
):
    recorded = tmp_path_factory.mktemp("events")
    listening = {"DJANGO_SETTINGS_MODULE": "tests.faults.settings", recorder.ENVIRONMENT: str(recorded)}
    if "redis" in settings.Q_CLUSTER:
        # It cannot deliver a bell later: retries and snoozes are the resident sweep's.
        manage.start("baton_sweep", "--watch", "--interval", "0.2", env=listening)
    real_cluster(workers=2, env=listening)
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
        lambda: len(recorder.recorded(recorded, "finished")) >= ON_A_CLUSTER, what="the last signal of an ending"
    )
    expected = sum(len(fate.events) for sample in samples for fate in interpret(sample.description).fates.values())
    wait_until(lambda: len(recorder.recorded(recorded, "step")) >= expected, what="the last signal of a step")

    events = defaultdict(list)
    for event in recorder.recorded(recorded, "step"):
        events[UUID(event["workflow_id"])].append(event)
    for run, sample, folder in inserted:
        assert_ran_as_ruled(run, sample, folder, events[run.pk])
    finished = sorted(event["workflow_id"] for event in recorder.recorded(recorded, "finished"))
    assert finished == sorted(str(run.pk) for run, _, _ in inserted)
    assert check() == []
