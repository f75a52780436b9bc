from __future__ import annotations

import inspect
from enum import Enum

import pytest

from baton import Discard, Snooze, StepContext, registry, result_of, step
from baton.exceptions import NotStorableError
from baton.registry import StepOptions
from baton.returns import MAX_DELAY_SECONDS, Cancel
from baton.steps import BoundStep, Step
from baton.testing import perform
from tests import steps


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """Steps of these tests are known to these tests only."""
    for name in ("_steps", "_duplicates", "_failures"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


# The decorator -------------------------------------------------------------------------------------------------------


def test_decorator_works_with_and_without_parentheses():
    @step
    def bare(ctx):
        """Do it."""

    @step()
    def called(ctx):
        pass

    @step(max_attempts=3)
    def with_options(ctx):
        pass

    assert [type(each) for each in (bare, called, with_options)] == [Step, Step, Step]
    assert (vars(bare)["__name__"], bare.__doc__, bare.__module__) == ("bare", "Do it.", __name__)
    assert with_options.options.max_attempts == 3


def test_step_is_registered_by_its_module_and_qualified_name():
    assert steps.nothing.name == "tests.steps.nothing"
    assert registry.find_step("tests.steps.nothing") is steps.nothing


def test_step_is_registered_by_the_name_it_is_given():
    @step(name="invoices.send")
    def send(ctx):
        pass

    assert send.name == "invoices.send"
    assert registry.find_step("invoices.send") is send


def test_defaults_are_those_of_the_contract():
    assert StepOptions() == StepOptions(
        queue="default",
        max_attempts=5,
        timeout=None,
        priority=0,
        backoff=None,
        retry_on=None,
        no_retry_on=(),
        atomic=False,
    )
    assert steps.nothing.options == StepOptions()


def test_options_are_taken_in_every_documented_form():
    @step(
        queue="ocr",
        max_attempts=1,
        timeout=60,
        priority=-3,
        backoff=[1, 2.5],
        retry_on=[ValueError, OSError],
        no_retry_on=KeyError,
        atomic=True,
    )
    def every(ctx):
        pass

    assert every.options == StepOptions(
        queue="ocr",
        max_attempts=1,
        timeout=60.0,
        priority=-3,
        backoff=[1.0, 2.5],
        retry_on=(ValueError, OSError),
        no_retry_on=(KeyError,),
        atomic=True,
    )


class Queue(Enum):
    OCR = "ocr"


def test_queue_may_be_an_enum_member():
    assert step(queue=Queue.OCR)(lambda ctx: None).options.queue == "ocr"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retries": 3}, TypeError, "unknown option 'retries'. The options are queue, max_attempts, timeout"),
        ({"name": 3}, TypeError, "@step: name is 3: give a str."),
        ({"name": ""}, ValueError, "give 1 to 255 characters without NUL."),
        ({"name": "n" * 256}, ValueError, "give 1 to 255 characters without NUL."),
        ({"name": "a\x00"}, ValueError, "give 1 to 255 characters without NUL."),
        ({"name": "x", "max_attempts": 0}, ValueError, "@step 'x': max_attempts is 0: at least one attempt is needed."),
        ({"max_attempts": True}, TypeError, "give a whole number."),
        ({"max_attempts": 2**31}, ValueError, "give a number of at most 31 bits."),
        ({"timeout": -1}, ValueError, "give seconds above 0, or None for no limit."),
        ({"timeout": float("nan")}, ValueError, "give seconds above 0, or None for no limit."),
        ({"timeout": True}, TypeError, "give seconds, or None for no limit."),
        ({"priority": None}, TypeError, "give a whole number."),
        ({"backoff": "soon"}, TypeError, "give seconds, a list of seconds, or a callable (attempt, error)."),
        ({"backoff": [1, -1]}, ValueError, "backoff is "),
        ({"backoff": float("inf")}, ValueError, "backoff is "),
        ({"retry_on": ValueError()}, TypeError, "give exception classes."),
        ({"no_retry_on": [int]}, TypeError, "give exception classes."),
        ({"atomic": None}, TypeError, "give True or False."),
        ({"queue": None}, TypeError, "give the name of a cluster as a str."),
        ({"queue": ""}, ValueError, "give 1 to 100 characters."),
    ],
)
def test_option_that_is_wrong_is_refused_where_it_stands(options, error, message):
    with pytest.raises(error) as refusal:
        step(**options)(lambda ctx: None)

    assert message in str(refusal.value)


def test_body_without_a_context_is_refused():
    with pytest.raises(TypeError, match="takes no context: its first parameter is the StepContext"):
        step(lambda: None)
    with pytest.raises(TypeError, match="takes no context"):
        step(lambda *, ctx: None)


def test_body_with_positional_only_arguments_is_refused():
    with pytest.raises(TypeError, match="positional-only parameters after the context"):

        @step
        def body(ctx, url, /):
            pass


def test_calling_a_step_calls_the_bare_body():
    assert steps.add(None, 1, right=2) == 3
    assert steps.add("anything", left=1) == 1
    assert inspect.iscoroutinefunction(steps.later.function)
    with pytest.raises(Snooze):
        steps.snooze(None)


def test_async_body_is_called_as_a_coroutine():
    import asyncio

    assert asyncio.run(steps.later(None, value=3)) == 3


# Binding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "args"),
    [
        (lambda: steps.add.bind(left=1, right=2), {"left": 1, "right": 2}),
        (lambda: steps.add.bind(1, 2), {"left": 1, "right": 2}),
        (lambda: steps.add.bind(1), {"left": 1}),
        (steps.nothing.bind, {}),
        (lambda: steps.keywords.bind(a=1, ctx_like=2), {"a": 1, "ctx_like": 2}),
        (lambda: steps.value.bind((1, 2)), {"value": [1, 2]}),
    ],
)
def test_bind_fixes_arguments_by_name_as_json_gives_them_back(bound, args):
    made = bound()

    assert isinstance(made, BoundStep)
    assert made.args == args


def test_bind_does_not_follow_later_changes_of_what_it_was_given():
    pages = [1]
    bound = steps.value.bind(pages)

    pages.append(2)

    assert bound.args == {"value": [1]}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "Step 'tests.steps.add' needs 'left': give it with bind(left=...)."),
        ((), {"right": 1}, "Step 'tests.steps.add' needs 'left'"),
        ((1,), {"wrong": 1}, "got an unexpected keyword argument 'wrong'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"left": 1}, "multiple values for argument 'left'"),
        ((1,), {"ctx": None}, "multiple values for argument 'ctx'"),
    ],
)
def test_bind_refuses_what_does_not_fit_the_signature(arguments, options, message):
    with pytest.raises(TypeError) as refusal:
        steps.add.bind(*arguments, **options)

    assert message in str(refusal.value)


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), float("nan"), {1: 2}, [lambda: None]])
def test_bind_refuses_what_cannot_be_stored(value):
    with pytest.raises(TypeError) as refusal:
        steps.value.bind({"deep": [value]})

    assert isinstance(refusal.value, NotStorableError)
    assert refusal.value.path.startswith('tests.steps.value: arguments["value"]["deep"][0]')


def test_bind_refuses_more_than_may_be_stored(settings):
    settings.BATON = {"MAX_RESULT_CHARS": 100}

    with pytest.raises(TypeError, match="at most 100 characters are stored"):
        steps.value.bind("x" * 100)


def test_bind_refuses_values_for_star_args():
    @step
    def many(ctx, *pages):
        pass

    with pytest.raises(TypeError, match=r"values for \*pages cannot be stored by name"):
        many.bind(1, 2)


def test_references_may_be_bound_at_any_depth():
    bound = steps.value.bind({"a": [result_of("x")["y"][0], (result_of("z"),)]})

    assert bound.args == {"value": {"a": ["result_of('x')['y'][0]", ["result_of('z')"]]}}
    assert [(each["step"], each["path"]) for each in bound.references] == [("x", ["y", 0]), ("z", [])]


def test_step_says_its_name():
    assert repr(steps.nothing) == "<step tests.steps.nothing>"


# What a body may return or raise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), MAX_DELAY_SECONDS + 1])
def test_snooze_without_an_end_is_refused(seconds):
    with pytest.raises(ValueError, match="give seconds from 0 to a hundred years"):
        Snooze(seconds)


def test_directives_keep_what_they_are_given():
    assert Snooze().seconds == 0
    assert Snooze(1.5).seconds == 1.5
    assert Discard("why").reason == "why"
    assert Cancel(ValueError("why")).reason == "why"


def test_hooks_are_registered_and_stay_plain_functions():
    @step
    def watched(ctx):
        pass

    @watched.on_dependency_cancelled
    def told(ctx, reason):
        return reason

    assert told(None, "x") == "x"
    assert watched.hooks == {"cancelled": told}


def test_context_is_the_first_parameter_under_any_name():
    @step
    def named_otherwise(context: StepContext, ctx: int) -> int:
        return ctx

    assert perform(named_otherwise, ctx=3) == 3
