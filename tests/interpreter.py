"""The rules of Baton in one file: what a described workflow must come to, worked out without any of Baton's code.

It walks the steps in topological order and asks of each one what its dependencies came to. Nothing in the rules depends
on the order in which workers take steps, so this is enough: the same description has one ending only. A retry is
another walk, in which some steps keep what they came to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

MODULUS = 1_000_003


class Act(StrEnum):
    """What a body does in one execution."""

    VALUE = "value"
    NOTHING = "nothing"
    RAISE = "raise"
    SNOOZE = "snooze"
    DISCARD = "discard"
    CANCEL = "cancel"
    TIME_OUT = "time out"


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedStep:
    """A step, with what its body does each time it runs."""

    name: str
    deps: tuple[str, ...] = ()
    """What it waits for, by name."""
    whole: tuple[str, ...] = ()
    """Steps whose whole result is an argument of it: dependencies too."""
    parts: tuple[str, ...] = ()
    """Steps whose result's ``"sum"`` is an argument of it: dependencies too."""
    script: tuple[Act, ...] = (Act.VALUE,)
    """One act for each execution; the last one repeats."""
    again: tuple[Act, ...] = ()
    """The same for each round that follows a retry; empty where it does what it did."""
    number: int = 0
    """What it adds to what its dependencies returned."""
    max_attempts: int = 5
    ignore_cancelled: bool | None = None
    ignore_discarded: bool | None = None

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Everything it waits for, each once, sorted by name."""
        return tuple(sorted({*self.deps, *self.whole, *self.parts}))

    def act(self, execution: int, *, is_again: bool) -> Act:
        """What the body does in its execution of this index, from 0, of a round."""
        script = self.again if is_again and self.again else self.script
        return script[min(execution, len(script) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A workflow of described steps, in an order in which dependencies come first."""

    steps: tuple[DescribedStep, ...]
    ignore_cancelled: bool = False
    ignore_discarded: bool = False

    @property
    def sinks(self) -> list[str]:
        """The steps without dependents."""
        needed = {name for step in self.steps for name in step.dependencies}
        return [step.name for step in self.steps if step.name not in needed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One execution: its number among those that count, how it ended, and whether the body was reached."""

    number: int
    outcome: str
    has_body: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What a step comes to."""

    state: str
    executions: tuple[Execution, ...] = ()
    """Those of the round in which it came to this."""
    earlier: tuple[Execution, ...] = ()
    """Those of the rounds before."""
    events: tuple[tuple[str, int], ...] = ()
    """Each announced state with the number of the execution it belongs to."""
    result: dict[str, int] | None = None
    blamed: Mapping[str, str] = field(default_factory=dict)
    """For a step that fell with a dependency: those that may be named as the reason, with the state of each.

    Which of several is named depends on which failed first.
    """

    @property
    def attempt(self) -> int:
        """The number that stays in the row."""
        return self.executions[-1].number if self.executions else 0

    @property
    def bodies(self) -> list[int]:
        """The number that each run of the body is told."""
        return [execution.number for execution in self.executions if execution.has_body]

    @property
    def log(self) -> list[tuple[int, str, int]]:
        """Number, outcome and count of each entry of the log, that of all rounds."""
        return _entries((*self.earlier, *self.executions))

    @property
    def earlier_log(self) -> list[tuple[int, str, int]]:
        """The entries of the rounds before."""
        return _entries(self.earlier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What a workflow comes to."""

    fates: Mapping[str, Fate]
    outcome: str
    failed_steps: tuple[str, ...]
    """In the order of the description."""
    ran: frozenset[str]
    """The steps that this round was about: all, or those that a retry runs again."""


def interpret(description: Description) -> Ending:
    """Work out what a workflow comes to."""
    fates: dict[str, Fate] = {}
    for step in description.steps:
        fates[step.name] = _fate(step, description, {name: fates[name] for name in step.dependencies})
    return _ending(description, fates, ran=frozenset(fates))


def interpret_retry(description: Description, before: Ending, from_step: str | None = None) -> Ending | None:
    """Work out what a retry of a workflow that has ended comes to; None where nothing would run.

    Args:
        description: The workflow.
        before: What it has come to.
        from_step: The step to run again with everything after it; None for all that failed.
    """
    ran = reruns(description, before, from_step)
    fates: dict[str, Fate] = {}
    for step in description.steps:
        was = before.fates[step.name]
        if step.name not in ran:
            fates[step.name] = was
            continue
        dependencies = {name: fates[name] for name in step.dependencies}
        found = _fate(step, description, dependencies, is_again=True)
        fates[step.name] = replace(found, earlier=(*was.earlier, *was.executions))
    return _ending(description, fates, ran=ran) if ran else None


def reruns(description: Description, before: Ending, from_step: str | None) -> frozenset[str]:
    """The steps that a retry runs again: those asked for and what hangs on them, if each dependency lets them."""
    ran: set[str] = set()
    for step in description.steps:
        has_failed = before.fates[step.name].state != "completed"
        is_asked_for = has_failed if from_step is None else step.name == from_step
        kept = [before.fates[name].state for name in step.dependencies if name not in ran]
        can_run = set(kept) <= _accepted_states(step, description)
        if can_run and (is_asked_for or not ran.isdisjoint(step.dependencies)):
            ran.add(step.name)
    return frozenset(ran)


def _ending(description: Description, fates: Mapping[str, Fate], *, ran: frozenset[str]) -> Ending:
    has_succeeded = all(fates[name].state == "completed" for name in description.sinks)
    return Ending(
        fates=fates,
        outcome="completed" if has_succeeded else "failed",
        failed_steps=tuple(name for name, fate in fates.items() if fate.state != "completed"),
        ran=ran,
    )


def combined(number: int, results: Iterable[int], whole: Iterable[int | None], parts: Iterable[int]) -> dict[str, int]:
    """What a body returns: a number that depends on every value it was given, and on its place.

    Args:
        number: The step's own.
        results: What the dependencies that have a result returned, in the order of their names.
        whole: What references to whole results gave, None where there was none, in the order of the names.
        parts: What references to parts gave, in the order of the names.
    """
    given = [*results, *(-1 if value is None else value for value in whole), *parts]
    return {"sum": (number + sum(place * value for place, value in enumerate(given, start=1))) % MODULUS}


def _entries(executions: Iterable[Execution]) -> list[tuple[int, str, int]]:
    """Number, outcome and count of each entry of a log: snoozes in a row share one."""
    entries: list[tuple[int, str, int]] = []
    for execution in executions:
        number, outcome, count = entries[-1] if entries else (0, "", 0)
        if execution.outcome == outcome == "snoozed" and number == execution.number:
            entries[-1] = (number, outcome, count + 1)
        else:
            entries.append((execution.number, execution.outcome, 1))
    return entries


def _fate(
    step: DescribedStep, description: Description, dependencies: Mapping[str, Fate], *, is_again: bool = False
) -> Fate:
    accepted = _accepted_states(step, description)
    blamed = {name: fate.state for name, fate in dependencies.items() if fate.state not in accepted}
    if blamed:
        return Fate(state="cancelled", events=(("cancelled", 0),), blamed=blamed)
    if any(dependencies[name].result is None for name in step.parts):
        # A part that is not there discards the step before its body, whatever attempts remain.
        missing = Execution(number=1, outcome="failed", has_body=False)
        return Fate(state="discarded", executions=(missing,), events=(("executing", 1), ("discarded", 1)))
    executions, state, last_act = _executions(step, is_again=is_again)
    return Fate(
        state=state,
        executions=executions,
        events=tuple(_events(executions, state)),
        result=_result(step, dependencies) if last_act == Act.VALUE else None,
    )


def _accepted_states(step: DescribedStep, description: Description) -> set[str]:
    cancelled = description.ignore_cancelled if step.ignore_cancelled is None else step.ignore_cancelled
    discarded = description.ignore_discarded if step.ignore_discarded is None else step.ignore_discarded
    return {"completed", *(["cancelled"] if cancelled else []), *(["discarded"] if discarded else [])}


def _executions(step: DescribedStep, *, is_again: bool) -> tuple[tuple[Execution, ...], str, Act]:
    """Run the script until it settles the step: the executions, the state it comes to, and the last act."""
    executions: list[Execution] = []
    attempt = 1
    while True:
        act = step.act(len(executions), is_again=is_again)
        match act:
            case Act.VALUE | Act.NOTHING:
                outcome = state = "completed"
            case Act.DISCARD:
                outcome = state = "discarded"
            case Act.CANCEL:
                outcome = state = "cancelled"
            case Act.SNOOZE:
                outcome, state = "snoozed", ""
            case Act.RAISE:
                outcome, state = "failed", "discarded" if attempt == step.max_attempts else ""
            case Act.TIME_OUT:
                outcome, state = "timed_out", "discarded" if attempt == step.max_attempts else ""
        executions.append(Execution(number=attempt, outcome=outcome))
        if state:
            return tuple(executions), state, act
        if outcome != "snoozed":
            attempt += 1


def _events(executions: tuple[Execution, ...], state: str) -> Iterator[tuple[str, int]]:
    for execution in executions:
        yield "executing", execution.number
        if execution is executions[-1]:
            yield state, execution.number
        else:
            yield "snoozed" if execution.outcome == "snoozed" else "retryable", execution.number


def _result(step: DescribedStep, dependencies: Mapping[str, Fate]) -> dict[str, int]:
    def returned(name: str) -> Any:
        result = dependencies[name].result
        return None if result is None else result["sum"]

    return combined(
        step.number,
        [returned(name) for name in step.dependencies if returned(name) is not None],
        [returned(name) for name in sorted(step.whole)],
        [returned(name) for name in sorted(step.parts)],
    )
