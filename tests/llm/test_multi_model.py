from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from baton import StepContext, Workflow, registry, result_of, step
from baton.exceptions import GraphError, ModelForUnknownStepError
from baton.llm.multi_model import configure, fan_out_models, model_for, results_by_model
from baton.llm.step import llm_step
from baton.models import WorkflowEdge, WorkflowNode
from baton.testing import drain, perform
from tests import steps

MODELS = ["gpt-4o", "claude-sonnet-4-6", "gemini-2.5-flash", "openai/gpt-5-mini"]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """Steps of these tests are known to these tests only."""
    for name in ("_steps", "_duplicates", "_failures"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


class Model(Enum):
    LARGE = "gpt-4o"
    SMALL = "gpt-4o-mini"


class Name(Enum):
    DRAFT = "draft"


@step
def tell(ctx: StepContext, **given: Any) -> dict[str, Any]:
    """Tell the model and the arguments."""
    return {"model": ctx.model, "args": ctx.args, "given": given}


@llm_step(model="decorated")
def decorated(ctx: StepContext) -> str | None:
    """Tell the model."""
    return ctx.model


@step
def or_default(ctx: StepContext) -> str | None:
    return model_for(ctx, "gpt-4o-mini")


@step
def summary(ctx: StepContext, **given: Any) -> dict[str, Any]:
    """Tell what it is given by its dependencies, and its own model."""
    return {"results": results_by_model(ctx), "model": ctx.model, "given": given}


@step
def summary_of_draft(ctx: StepContext) -> dict[str, Any]:
    return results_by_model(ctx, Name.DRAFT)


@step
def summary_of(ctx: StepContext, base: str | None = None) -> dict[str, Any]:
    return results_by_model(ctx, base)


@step
def fail_as_small(ctx: StepContext) -> str | None:
    """Fail with one model only."""
    if ctx.model == "gpt-4o-mini":
        raise RuntimeError(ctx.model)
    return ctx.model


TOLD: list[str | None] = []


@step
def hooked(ctx: StepContext) -> None:
    """Never run."""


@hooked.on_dependency_discarded
def note_model(ctx: StepContext, reason: str) -> None:
    TOLD.append(ctx.model)


@step
async def summary_async(ctx: StepContext) -> dict[str, Any]:
    return results_by_model(ctx)


def dependencies(node: WorkflowNode) -> set[str]:
    return set(WorkflowEdge.objects.filter(node=node).values_list("dependency__name", flat=True))


# The map -------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_listed_step_gets_its_model_and_an_unlisted_one_is_as_it_was():
    workflow = Workflow("x").add("listed", tell.bind(tone="dry")).add("unlisted", tell.bind(tone="dry"))

    assert configure(workflow, {"listed": "gpt-4o"}) is workflow

    run = drain(workflow.insert())
    assert run.steps["listed"].result == {"model": "gpt-4o", "args": {"tone": "dry"}, "given": {"tone": "dry"}}
    assert run.steps["unlisted"].result == {"model": None, "args": {"tone": "dry"}, "given": {"tone": "dry"}}
    assert run.steps["unlisted"].args == {"tone": "dry"}


@pytest.mark.django_db
def test_map_may_come_before_the_steps_and_its_names_and_models_may_be_enum_members():
    workflow = configure(Workflow("x"), {Name.DRAFT: Model.LARGE, "last": Model.SMALL})

    run = drain(workflow.add("draft", tell).add("last", tell).insert())

    assert [run.steps[name].result["model"] for name in ("draft", "last")] == ["gpt-4o", "gpt-4o-mini"]


@pytest.mark.django_db
def test_model_of_the_map_beats_the_decorator_s_and_what_was_said_last_wins():
    def model_of(workflow: Workflow) -> Any:
        return drain(workflow.insert()).steps["a"].result

    assert model_of(Workflow("x").add("a", decorated)) == "decorated"
    assert model_of(configure(Workflow("x").add("a", decorated), {"a": "map"})) == "map"
    assert model_of(Workflow("x").add("a", decorated, model="added")) == "added"
    assert model_of(configure(Workflow("x").add("a", decorated, model="added"), {"a": "map"})) == "map"
    assert model_of(configure(Workflow("x"), {"a": "map"}).add("a", decorated, model=Model.LARGE)) == "gpt-4o"
    assert model_of(configure(configure(Workflow("x"), {"a": "map"}), {"a": "later"}).add("a", decorated)) == "later"
    with pytest.raises(LookupError):
        model_of(configure(Workflow("x").add("a", decorated), {"a": None}))


@pytest.mark.django_db
def test_model_for_an_unknown_step_is_a_fault_of_the_graph_beside_all_others():
    workflow = configure(Workflow("x").add("a", tell, deps=["b"]), {"a": "gpt-4o", "drat": "gpt-4o", "": "gpt-4o"})

    with pytest.raises(GraphError) as refusal:
        workflow.insert()

    assert [type(problem).__name__ for problem in workflow.problems()] == [
        "UnknownDependencyError",
        "ModelForUnknownStepError",
        "ModelForUnknownStepError",
    ]
    problem = refusal.value.problems[1]
    assert isinstance(problem, ModelForUnknownStepError)
    assert (problem.step, problem.model) == ("drat", "gpt-4o")
    assert str(problem) == (
        "The model 'gpt-4o' is configured for 'drat', which is not in the workflow. Add it or correct the name."
    )


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ("gpt-4o", TypeError, "configure: models is 'gpt-4o'. Give a dict of models by step name."),
        (["a"], TypeError, "configure: models is ['a']. Give a dict of models by step name."),
        ({"a": 3}, TypeError, "configure('a'): model is 3: give the name of a model as a str."),
        ({"a": ""}, ValueError, "configure('a'): model is '': give 1 to 255 characters."),
        ({"a": "m" * 256}, ValueError, "give 1 to 255 characters."),
        ({"a": "m\x00"}, ValueError, "give 1 to 255 characters."),
    ],
)
def test_map_that_is_wrong_is_refused_at_once_and_changes_nothing(models, error, message):
    workflow = Workflow("x").add("a", tell).add("b", tell)

    with pytest.raises(error) as refusal:
        configure(workflow, {"b": "gpt-4o", **models} if isinstance(models, dict) else models)

    assert message in str(refusal.value)
    assert workflow.models == {}


@pytest.mark.django_db
def test_model_for_is_what_was_chosen_else_the_default():
    workflow = configure(Workflow("x").add("a", or_default).add("b", or_default), {"a": "gpt-4o"})

    run = drain(workflow.insert())

    assert (run.steps["a"].result, run.steps["b"].result) == ("gpt-4o", "gpt-4o-mini")
    assert perform(or_default) == "gpt-4o-mini"
    assert perform(or_default, model="gpt-4o") == "gpt-4o"
    assert perform(step(name="enum")(lambda ctx: model_for(ctx, Model.SMALL))) == "gpt-4o-mini"
    assert perform(step(name="none")(lambda ctx: [model_for(ctx)])) == [None]


@pytest.mark.django_db
def test_model_stays_with_the_step_over_retries_and_reaches_its_hooks():
    TOLD.clear()
    workflow = Workflow("x").add("a", fail_as_small, model="gpt-4o-mini", max_attempts=2, backoff=0)
    run = drain(workflow.add("b", hooked, deps=["a"], model="gpt-4o").insert())

    assert run.steps["a"].error == "RuntimeError: gpt-4o-mini"
    assert run.steps["a"].attempt == 2
    assert TOLD == ["gpt-4o"]

    assert drain(run.retry()).steps["a"].error == "RuntimeError: gpt-4o-mini"


# Several side by side ------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_four_models_make_five_steps_and_the_synthesis_gets_four_results_by_their_full_names():
    workflow = Workflow("x").add("fetch", steps.value.bind("page"))

    returned = fan_out_models(
        workflow,
        "draft",
        tell.bind(page=result_of("fetch")),
        models=MODELS,
        deps=["fetch"],
        synthesize_with=summary,
        synthesize_model="gpt-5-mini",
    )

    assert returned is workflow
    assert workflow.step_names == ["fetch", *(f"draft[{model}]" for model in MODELS), "draft_synthesis"]
    run = drain(workflow.insert())
    synthesis = run.steps["draft_synthesis"]
    assert dependencies(synthesis) == {f"draft[{model}]" for model in MODELS}
    assert synthesis.result["model"] == "gpt-5-mini"
    assert list(synthesis.result["results"]) == MODELS
    for model in MODELS:
        told = synthesis.result["results"][model]
        assert (told["model"], told["given"]) == (model, {"page": "page"})


@pytest.mark.django_db
def test_two_dated_versions_of_a_model_are_two_steps_with_a_result_each():
    dated = ["gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "gpt-4o"]

    run = drain(fan_out_models(Workflow("x"), "a", tell, models=dated, synthesize_with=summary).insert())

    assert list(run.steps) == [*(f"a[{model}]" for model in dated), "a_synthesis"]
    results = run.steps["a_synthesis"].result["results"]
    assert {model: told["model"] for model, told in results.items()} == {model: model for model in dated}


@pytest.mark.django_db
def test_base_models_and_dependencies_may_be_enum_members_and_iterators():
    workflow = Workflow("x").add("one", steps.ran).add("two", steps.ran)
    fan_out_models(workflow, Name.DRAFT, tell, models=iter(Model), deps=iter(["one", "two"]), synthesize_with=decorated)

    run = drain(workflow.insert())

    assert workflow.step_names[2:] == ["draft[gpt-4o]", "draft[gpt-4o-mini]", "draft_synthesis"]
    for name in workflow.step_names[2:4]:
        assert dependencies(run.steps[name]) == {"one", "two"}
    # Without a model of its own it is the decorator's.
    assert run.steps["draft_synthesis"].result == "decorated"


def test_without_a_synthesis_there_are_only_the_models_steps():
    assert fan_out_models(Workflow("x"), "a", tell, models=["m", "n"]).step_names == ["a[m]", "a[n]"]


@pytest.mark.django_db
def test_map_may_still_change_the_model_of_the_synthesis():
    workflow = fan_out_models(Workflow("x"), "a", tell, models=["m"], synthesize_with=summary.bind(tone="dry"))

    run = drain(configure(workflow, {"a_synthesis": "late"}).insert())

    told = run.steps["a_synthesis"].result
    assert (told["model"], told["given"]) == ("late", {"tone": "dry"})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"models": []}, ValueError, "fan_out_models('a'): there are no models. Give at least one."),
        (
            {"models": ["gpt-4o", "m", Model.LARGE]},
            ValueError,
            "fan_out_models('a'): 'gpt-4o' is there more than once. Each model makes one step.",
        ),
        (
            {"models": "gpt-4o"},
            TypeError,
            "fan_out_models('a'): models is 'gpt-4o'. Give a list of models, as in models=['gpt-4o'].",
        ),
        ({"models": None}, TypeError, "fan_out_models('a'): models is None. Give a list of models"),
        ({"models": ["m", None]}, TypeError, "fan_out_models('a'): one of the models is None."),
        ({"models": ["m", 3]}, TypeError, "fan_out_models('a'): model is 3: give the name of a model as a str."),
        ({"base": "a[b]"}, ValueError, "fan_out_models: base is 'a[b]'. A bracket begins the name of the model"),
        ({"base": 3}, TypeError, "fan_out_models: base is 3. Give a str or an enum member whose value is one."),
        (
            {"synthesize_model": "m"},
            ValueError,
            "fan_out_models('a'): synthesize_model needs synthesize_with, the step that uses it.",
        ),
        ({"deps": "fetch"}, TypeError, "add('a[m]'): deps is 'fetch'. Give a list of names, as in deps=['fetch']."),
        ({"models": ["m" * 253]}, ValueError, "Give 1 to 255 characters without NUL."),
        ({"step": print}, TypeError, "is not a step. Decorate the function with @step."),
    ],
)
def test_fan_out_that_is_wrong_is_refused_and_adds_nothing(options, error, message):
    workflow = Workflow("x")
    given = {"base": "a", "step": tell, "models": ["m"], **options}

    with pytest.raises(error) as refusal:
        fan_out_models(workflow, given.pop("base"), given.pop("step"), **given)

    assert message in str(refusal.value)
    assert workflow.step_names == []


# Results -------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_model_that_failed_and_is_ignored_is_left_out():
    workflow = Workflow("x", ignore_discarded=True)
    fan_out_models(workflow, "a", fail_as_small, models=Model, synthesize_with=summary)

    run = drain(workflow.insert())

    assert run.steps["a[gpt-4o-mini]"].state == "discarded"
    assert run.steps["a_synthesis"].result["results"] == {"gpt-4o": "gpt-4o"}


@pytest.mark.parametrize("model", ["ft:gpt-4o:org[1]", "a]b[c", "[x]", "name with spaces/and:more"])
def test_model_s_name_may_have_any_characters(model):
    workflow = fan_out_models(Workflow("x"), "a", tell, models=[model])

    assert perform(summary_of, results={workflow.step_names[0]: 1}) == {model: 1}


def test_other_dependencies_are_not_among_the_results():
    results = {"fetch": 0, "a[m]": 1, "odd]": 2, "a[m": 3}

    assert perform(summary_of, results=results) == {"m": 1}


def test_several_bases_are_told_apart_by_their_name():
    apart = {"a[m]": 1, "b[n]": 2}
    both = {"a[m]": 1, "b[m]": 2, "ab[m]": 3}

    assert perform(summary_of, results=apart) == {"m": 1, "n": 2}
    assert perform(summary_of, results=both, base="b") == {"m": 2}
    assert perform(summary_of, results=both, base="draft") == {}
    assert perform(summary_of_draft, results={**both, "draft[m]": 4}) == {"m": 4}
    with pytest.raises(ValueError) as refusal:
        perform(summary_of, results=both)

    assert str(refusal.value) == (
        "results_by_model: 'a' and 'b' both have a result of 'm'. Say which one is meant, as in "
        "results_by_model(ctx, base='b')."
    )


@pytest.mark.django_db(transaction=True)
def test_async_body_reads_them_too():
    run = drain(fan_out_models(Workflow("x"), "a", tell, models=["m"], synthesize_with=summary_async).insert())

    assert list(run.steps["a_synthesis"].result) == ["m"]
