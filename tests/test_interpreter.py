"""The interpreter of the rules against cases worked out by hand: what judges the engine is judged first."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise

from tests import interpreter
from tests.interpreter import Act, DescribedStep, Description, Ending, interpret, interpret_retry


def ending(*steps: DescribedStep, ignore_cancelled: bool = False, ignore_discarded: bool = False) -> Ending:
    return interpret(Description(steps=steps, ignore_cancelled=ignore_cancelled, ignore_discarded=ignore_discarded))


def states(ending: Ending) -> dict[str, str]:
    return {name: fate.state for name, fate in ending.fates.items()}


def test_interpreter_imports_nothing_of_baton():
    modules = [
        name
        for node in ast.walk(ast.parse(inspect.getsource(interpreter)))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
    ]

    assert not [name for name in modules if name and name.split(".")[0] in {"baton", "django"}]


def test_diamond_completes_and_passes_results_along():
    found = ending(
        DescribedStep(name="a", number=1),
        DescribedStep(name="b", deps=("a",), number=10),
        DescribedStep(name="c", deps=("a",), number=100),
        DescribedStep(name="d", deps=("b", "c"), number=1000),
    )

    # b = 10 + 1, c = 100 + 1, d = 1000 + 1 * 11 + 2 * 101
    assert [fate.result for fate in found.fates.values()] == [{"sum": 1}, {"sum": 11}, {"sum": 101}, {"sum": 1213}]
    assert found.fates["d"].events == (("executing", 1), ("completed", 1))
    assert (found.outcome, found.failed_steps) == ("completed", ())


def test_references_are_dependencies_and_arguments():
    found = ending(
        DescribedStep(name="a", number=5),
        DescribedStep(name="b", script=(Act.NOTHING,)),
        DescribedStep(name="c", whole=("a", "b"), parts=("a",), number=1),
    )

    # Results: a 5. Whole: a 5, b None, which counts -1. Parts: a 5.
    assert found.fates["c"].result == {"sum": 1 + 1 * 5 + 2 * 5 + 3 * -1 + 4 * 5}


def test_missing_part_discards_at_once_without_a_body():
    found = ending(
        DescribedStep(name="a", script=(Act.NOTHING,)),
        DescribedStep(name="b", parts=("a",), max_attempts=5),
    )

    assert found.fates["b"].state == "discarded"
    assert found.fates["b"].bodies == []
    assert found.fates["b"].events == (("executing", 1), ("discarded", 1))


def test_third_attempt_completes_after_two_failures():
    found = ending(DescribedStep(name="a", script=(Act.RAISE, Act.RAISE, Act.VALUE), max_attempts=3))

    assert [state for state, _ in found.fates["a"].events] == [
        "executing", "retryable", "executing", "retryable", "executing", "completed",
    ]  # fmt: skip
    assert found.fates["a"].log == [(1, "failed", 1), (2, "failed", 1), (3, "completed", 1)]


def test_exhausted_attempts_discard():
    found = ending(DescribedStep(name="a", script=(Act.RAISE,), max_attempts=2))

    assert found.fates["a"].events == (("executing", 1), ("retryable", 1), ("executing", 2), ("discarded", 2))
    assert (found.outcome, found.failed_steps) == ("failed", ("a",))


def test_time_out_counts_as_a_failed_attempt():
    found = ending(DescribedStep(name="a", script=(Act.TIME_OUT, Act.VALUE), max_attempts=2))

    assert found.fates["a"].log == [(1, "timed_out", 1), (2, "completed", 1)]


def test_snooze_consumes_no_attempt_and_shares_an_entry():
    script = (Act.SNOOZE, Act.SNOOZE, Act.RAISE, Act.SNOOZE, Act.VALUE)
    found = ending(DescribedStep(name="a", script=script, max_attempts=2))

    assert found.fates["a"].bodies == [1, 1, 1, 2, 2]
    assert found.fates["a"].log == [(1, "snoozed", 2), (1, "failed", 1), (2, "snoozed", 1), (2, "completed", 1)]
    assert found.fates["a"].attempt == 2


def test_discard_and_cancel_end_at_once_whatever_attempts_remain():
    found = ending(
        DescribedStep(name="a", script=(Act.DISCARD,)),
        DescribedStep(name="b", script=(Act.CANCEL,)),
    )

    assert states(found) == {"a": "discarded", "b": "cancelled"}
    assert [fate.bodies for fate in found.fates.values()] == [[1], [1]]


def test_chain_of_ten_falls_with_its_root():
    names = [f"s{index}" for index in range(10)]
    steps = [DescribedStep(name="s0", script=(Act.DISCARD,))]
    steps += [DescribedStep(name=name, deps=(before,)) for before, name in pairwise(names)]
    found = ending(*steps)

    assert list(states(found).values()) == ["discarded"] + ["cancelled"] * 9
    assert found.fates["s1"].blamed == {"s0": "discarded"}
    assert found.fates["s2"].blamed == {"s1": "cancelled"}
    assert found.failed_steps == tuple(names)


def test_ignore_flags_do_not_mix():
    discarded, cancelled = (Act.DISCARD,), (Act.CANCEL,)
    found = ending(
        DescribedStep(name="a", script=discarded),
        DescribedStep(name="b", script=cancelled),
        DescribedStep(name="a ignored", deps=("a",), ignore_discarded=True),
        DescribedStep(name="a not ignored", deps=("a",), ignore_cancelled=True),
        DescribedStep(name="b ignored", deps=("b",), ignore_cancelled=True),
        DescribedStep(name="b not ignored", deps=("b",), ignore_discarded=True),
    )

    assert [name for name, state in states(found).items() if state == "completed"] == ["a ignored", "b ignored"]


def test_step_flag_beats_the_workflow_flag():
    found = ending(
        DescribedStep(name="a", script=(Act.DISCARD,)),
        DescribedStep(name="inherits", deps=("a",)),
        DescribedStep(name="refuses", deps=("a",), ignore_discarded=False),
        ignore_discarded=True,
    )

    assert states(found) == {"a": "discarded", "inherits": "completed", "refuses": "cancelled"}


def test_ignored_failure_leaves_no_result_and_does_not_fail_the_run():
    found = ending(
        DescribedStep(name="a", script=(Act.DISCARD,), number=7),
        DescribedStep(name="b", deps=("a",), number=1, ignore_discarded=True),
    )

    assert found.fates["b"].result == {"sum": 1}
    assert (found.outcome, found.failed_steps) == ("completed", ("a",))


def test_failed_step_without_dependents_fails_the_run():
    found = ending(
        DescribedStep(name="a", script=(Act.DISCARD,)),
        DescribedStep(name="b"),
        ignore_discarded=True,
    )

    assert (found.outcome, found.failed_steps) == ("failed", ("a",))


def test_one_refused_dependency_is_enough_to_fall():
    found = ending(
        DescribedStep(name="a", script=(Act.CANCEL,)),
        DescribedStep(name="b", script=(Act.DISCARD,)),
        DescribedStep(name="c"),
        DescribedStep(name="d", deps=("a", "b", "c"), ignore_cancelled=True),
    )

    assert found.fates["d"].state == "cancelled"
    assert found.fates["d"].blamed == {"b": "discarded"}


# Retries ------------------------------------------------------------------------------------------------------------


def retried(*steps: DescribedStep, from_step: str | None = None, ignore_discarded: bool = False) -> Ending | None:
    description = Description(steps=steps, ignore_discarded=ignore_discarded)
    return interpret_retry(description, interpret(description), from_step)


def test_retry_runs_what_failed_and_what_hangs_on_it_with_the_script_of_the_next_round():
    found = retried(
        DescribedStep(name="a", number=1),
        DescribedStep(name="b", deps=("a",), script=(Act.RAISE,), again=(Act.RAISE, Act.VALUE), max_attempts=2),
        DescribedStep(name="c", deps=("b",)),
        DescribedStep(name="d", deps=("a",)),
    )

    assert found is not None
    assert found.ran == {"b", "c"}
    assert (found.outcome, found.failed_steps) == ("completed", ())
    assert found.fates["b"].log == [(1, "failed", 1), (2, "failed", 1), (1, "failed", 1), (2, "completed", 1)]
    assert found.fates["b"].bodies == [1, 2]
    assert [state for state, _ in found.fates["b"].events] == ["executing", "retryable", "executing", "completed"]
    assert found.fates["a"].log == [(1, "completed", 1)]


def test_retry_of_a_workflow_of_which_nothing_failed_is_none():
    assert retried(DescribedStep(name="a")) is None


def test_retry_runs_a_step_that_ignored_the_failure_again():
    steps = DescribedStep(name="a", script=(Act.DISCARD,)), DescribedStep(name="b", deps=("a",))

    found = retried(*steps, ignore_discarded=True)

    assert found is not None
    assert found.ran == {"a", "b"}


def test_retry_from_a_step_leaves_what_waits_for_another_failure():
    steps = (
        DescribedStep(name="a"),
        DescribedStep(name="b", script=(Act.DISCARD,)),
        DescribedStep(name="c", deps=("a", "b")),
        DescribedStep(name="d", deps=("a", "b"), ignore_discarded=True),
        DescribedStep(name="e", deps=("c",), ignore_cancelled=True),
    )

    found = retried(*steps, from_step="a")

    assert found is not None
    assert found.ran == {"a", "d"}
    assert found.failed_steps == ("b", "c")
    assert retried(*steps, from_step="c") is None
