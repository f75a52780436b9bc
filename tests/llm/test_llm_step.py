from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from fake_llm import Failure, FakeProvider

from baton import StepContext, Workflow, registry, step
from baton.engine.runner import answer_bell
from baton.llm.step import LlmStep, llm_step
from baton.llm.transience import llm_backoff
from baton.models import WorkflowNode, WorkflowRun
from baton.registry import StepOptions
from baton.testing import drain, perform
from tests.clock import elapse
from tests.llm import bodies
from tests.steps import ran


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """Steps of these tests are known to these tests only."""
    for name in ("_steps", "_duplicates", "_failures"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


@pytest.fixture(scope="module")
def _server() -> Iterator[FakeProvider]:
    with FakeProvider() as server:
        yield server


@pytest.fixture
def provider(_server: FakeProvider) -> FakeProvider:
    _server.reset()
    return _server


ASK = pytest.mark.parametrize("ask", [bodies.ask_openai, bodies.ask_anthropic], ids=lambda ask: ask.name)


@pytest.fixture
def set_clusters(settings):
    """Configure these clusters beside the default one."""

    def configure(*names: str) -> None:
        q_cluster = deepcopy(settings.Q_CLUSTER)
        settings.Q_CLUSTER = {**q_cluster, "ALT_CLUSTERS": {name: {"workers": 1} for name in names}}

    return configure


# Defaults and options ------------------------------------------------------------------------------------------------


@llm_step
def plain(ctx: StepContext) -> str:
    """Ask nobody."""
    return "x"


@llm_step(queue="slow")
def elsewhere(ctx: StepContext) -> str:
    return "x"


@llm_step(queue="default")
def in_default(ctx: StepContext) -> str:
    return "x"


def test_decorator_works_with_and_without_parentheses_and_makes_a_step():
    @llm_step
    def bare(ctx):
        """Do it."""

    @llm_step(name="named", model="gpt-5", timeout=30)
    def called(ctx):
        pass

    assert [type(bare), type(called)] == [LlmStep, LlmStep]
    assert bare.__doc__ == "Do it."
    assert (called.name, called.options.model, called.options.timeout) == ("named", "gpt-5", 30.0)
    assert registry.find_step("named") is called


def test_defaults_are_eight_attempts_a_backoff_with_jitter_that_knows_retry_after_and_no_timeout(set_clusters):
    set_clusters("llm")

    assert plain.options == StepOptions(queue="llm", max_attempts=8, backoff=llm_backoff, timeout=None)


@pytest.mark.django_db
def test_queue_is_the_setting_s_where_such_a_cluster_is_configured_else_default(set_clusters, settings):
    def queues() -> list[str]:
        workflow = Workflow("x").add("a", plain).add("b", elsewhere).add("c", in_default)
        return [node.queue for node in workflow.insert().steps.values()]

    set_clusters("llm", "slow", "models")
    assert queues() == ["llm", "slow", "default"]

    settings.BATON = {**settings.BATON, "LLM_QUEUE": "models"}
    assert queues() == ["models", "slow", "default"]

    set_clusters("slow")
    assert queues() == ["default", "slow", "default"]


@pytest.mark.django_db
def test_what_is_given_where_it_is_added_beats_the_defaults():
    run = Workflow("x").add("a", plain, queue="slow", max_attempts=2, timeout=9).insert()

    node = run.steps["a"]
    assert (node.queue, node.max_attempts, node.timeout) == ("slow", 2, 9.0)


def test_atomic_is_refused_by_the_decorator_and_where_it_is_added():
    with pytest.raises(TypeError) as at_decoration:
        llm_step(atomic=True)
    with pytest.raises(TypeError) as at_add:
        Workflow("x").add("a", plain, atomic=True)

    assert str(at_decoration.value) == (
        "@llm_step: atomic is True. What a provider charges for cannot be rolled back, and a transaction would stay "
        "open while it answers. Write to the database in a step of its own."
    )
    assert str(at_add.value).startswith("add('a'): atomic is True.")
    assert llm_step(atomic=False)(lambda ctx: None).options.atomic is False


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retries": 3}, TypeError, "@llm_step: unknown option 'retries'."),
        ({"name": "x", "max_attempts": 0}, ValueError, "@llm_step 'x': max_attempts is 0"),
        ({"model": 3}, TypeError, "@llm_step: model is 3: give the name of a model as a str."),
        ({"model": ""}, ValueError, "@llm_step: model is '': give 1 to 255 characters."),
        ({"on_ambiguous": "guess"}, ValueError, "@llm_step: on_ambiguous is 'guess': give 'repay', 'fail' or 'ask'."),
        ({"capture": "yes"}, TypeError, "@llm_step: capture is 'yes': give True, False, or None"),
    ],
)
def test_option_that_is_wrong_is_refused_where_it_stands(options, error, message):
    with pytest.raises(error) as refusal:
        llm_step(**options)(lambda ctx: None)

    assert str(refusal.value).startswith(message)


# Another attempt -----------------------------------------------------------------------------------------------------


def insert(ask: LlmStep, provider: FakeProvider, *, patience: float = 20, **options: Any) -> WorkflowRun:
    return Workflow("x").add("a", ask.bind(provider.url, timeout=patience), queue="default", **options).insert()


def wait_asked_for(run: WorkflowRun) -> float:
    """Execute once, and return the seconds from its end to the due time of the next attempt."""
    answer_bell("default")
    node = run.steps["a"]
    assert node.state == "retryable", node.error
    assert node.due_at is not None
    return (node.due_at - datetime.fromisoformat(node.attempts[-1]["ended_at"])).total_seconds()


@ASK
@pytest.mark.parametrize("form", ["seconds", "date", "ms"])
@pytest.mark.django_db
def test_next_attempt_is_due_when_the_server_said(provider, ask, form):
    provider.fail(Failure("refuse", status=429, retry_after=600, retry_after_form=form))
    run = insert(ask, provider)

    assert 570 <= wait_asked_for(run) <= 720

    elapse(run)
    answer_bell("default")
    assert run.wait(timeout=0) == "completed"
    assert run.steps["a"].attempt == 2
    assert len(provider.invoice.charges) == 1


@pytest.mark.django_db
def test_no_worker_is_held_until_the_server_s_time_has_come(provider):
    provider.fail(Failure("refuse", status=429, retry_after=3000))
    run = insert(bodies.ask_openai, provider)
    other = Workflow("other").add("b", ran).insert()

    # One bell, answered by one worker: it comes to the other step at once.
    answer_bell("default")

    assert other.wait(timeout=0) == "completed"
    due_at = run.steps["a"].due_at
    assert due_at is not None
    assert due_at > timezone.now() + timedelta(seconds=2900)


@pytest.mark.django_db
def test_200_steps_that_were_refused_together_do_not_come_back_together(provider):
    provider.fail(Failure("refuse", status=429, retry_after=3000, times=None))
    workflow = Workflow("x")
    for number in range(200):
        workflow.add(f"s{number}", refused_at_once, queue="default")
    workflow.insert()
    while WorkflowNode.objects.filter(state="available").exists():
        answer_bell("default")

    due = list(WorkflowNode.objects.values_list("due_at", flat=True))

    assert len(set(due)) > 150
    assert timedelta(seconds=60) < max(due) - min(due) < timedelta(seconds=400)


@llm_step
def refused_at_once(ctx: StepContext) -> None:
    """Fail as the clients do, without a connection each."""
    raise RefusedError


class RefusedError(Exception):
    status_code = 429

    @property
    def response(self):
        return self

    headers = {"retry-after": "3000"}


@ASK
@pytest.mark.parametrize(
    "failure",
    [
        Failure("refuse", status=429),
        Failure("refuse", status=500),
        Failure("refuse", status=529),
        Failure("drop", charged=True),
        Failure("drop", charged=False),
        Failure("delay", seconds=60),
        Failure("garble", body='{"id": "cut o'),
    ],
    ids=["429", "500", "529", "dropped-paid", "dropped-unpaid", "time-out", "malformed"],
)
@pytest.mark.django_db
def test_what_may_pass_is_tried_again_within_a_span_that_doubles(provider, ask, failure):
    provider.fail(failure)
    run = insert(ask, provider, patience=1.5 if failure.kind == "delay" else 20)

    assert wait_asked_for(run) <= 2 + 1

    assert drain(run).state == "completed"
    assert run.steps["a"].attempt == 2


@ASK
@pytest.mark.parametrize("status", [400, 401, 404])
@pytest.mark.django_db
def test_what_the_provider_refuses_for_good_is_not_tried_again(provider, ask, status):
    provider.fail(Failure("refuse", status=status, times=None))

    run = drain(insert(ask, provider))

    assert (run.steps["a"].state, run.steps["a"].attempt) == ("discarded", 1)
    assert len(provider.requests) == 1
    assert f"{status}" in (run.steps["a"].error or "")


@pytest.mark.django_db
def test_retry_on_and_no_retry_on_have_the_last_word(provider):
    import openai

    provider.fail(Failure("refuse", status=400, times=2), Failure("refuse", status=500, times=None))

    run = drain(insert(bodies.ask_openai, provider, retry_on=openai.BadRequestError))

    assert (run.steps["a"].state, run.steps["a"].attempt) == ("discarded", 3)

    run = drain(insert(bodies.ask_openai, provider, no_retry_on=openai.InternalServerError))

    assert (run.steps["a"].state, run.steps["a"].attempt) == ("discarded", 1)


@pytest.mark.django_db
def test_attempts_end_at_the_eighth(provider):
    provider.fail(Failure("refuse", status=529, times=None))

    run = drain(insert(bodies.ask_anthropic, provider))

    assert (run.steps["a"].state, run.steps["a"].attempt) == ("discarded", 8)
    assert len(provider.requests) == 8


@step(max_attempts=2, backoff=0)
def ordinary(ctx: StepContext, url: str) -> None:
    bodies.ask_openai_once(url)


@pytest.mark.django_db
def test_ordinary_step_retries_whatever_it_raises(provider):
    provider.fail(Failure("refuse", status=400, times=None))

    run = drain(Workflow("x").add("a", ordinary.bind(provider.url)).insert())

    assert run.steps["a"].attempt == 2


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("invariants")
def test_on_a_real_worker_the_next_attempt_starts_after_the_server_s_time(provider, real_cluster):
    provider.fail(Failure("refuse", status=429, retry_after=2))
    real_cluster(workers=1)

    run = insert(bodies.ask_openai, provider)

    assert run.wait(timeout=60) == "completed"
    first, second = run.steps["a"].attempts
    between = datetime.fromisoformat(second["started_at"]) - datetime.fromisoformat(first["ended_at"])
    assert between > timedelta(seconds=1.9)
    assert second["outcome"] == "completed"


# What was used -------------------------------------------------------------------------------------------------------


@step
def read(ctx: StepContext) -> object:
    """Return what the dependency returned, as it is read."""
    return ctx.results["a"]


@llm_step
def tell(ctx: StepContext, value: object) -> object:
    """Return what it is given."""
    return value


@ASK
@pytest.mark.django_db
def test_dependent_does_not_see_what_was_used(provider, ask):
    run = drain(Workflow("x").add("a", ask.bind(provider.url)).add("b", read, deps=["a"]).insert())

    assert list(run.steps["b"].result) == ["text"]
    assert list(perform(ask, url=provider.url)) == ["text"]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"llm_usage": {"input_tokens": 3}, "text": "x"}, {"text": "x"}),
        ({"llm_usage": None, "text": "x"}, {"text": "x"}),
        ({"text": {"llm_usage": 3}}, {"text": {"llm_usage": 3}}),
        (["llm_usage"], ["llm_usage"]),
        ("llm_usage", "llm_usage"),
        ({"llm_usage": {"input_tokens": 3}}, {}),
    ],
)
def test_only_a_dict_loses_the_key_and_nothing_else(value, kept):
    assert perform(tell, value=value) == kept


def test_ordinary_step_keeps_the_key():
    assert perform(step(name="ordinary tell")(lambda ctx: {"llm_usage": 3})) == {"llm_usage": 3}


def test_perform_runs_the_body_with_the_model_it_is_given(provider):
    perform(bodies.ask_openai, url=provider.url, model="gpt-4o")

    assert [request.model for request in provider.requests] == ["gpt-4o"]
