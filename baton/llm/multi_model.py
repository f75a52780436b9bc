"""Which step uses which language model, and the same step with several of them side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from baton.context import StepContext
from baton.registry import StepOptions
from baton.steps import BoundStep, Step, override
from baton.workflow import Name, Workflow

Model = str | Enum


def configure(workflow: Workflow, models: Mapping[Any, Model | None]) -> Workflow:
    """Say which step uses which language model; the body finds it as ``ctx.model``.

    It may come before the steps are added or after. What was said last wins, here or by ``add(model=...)``, and both
    beat the decorator. Steps that are not named stay as they are.

    Args:
        workflow: The workflow.
        models: Models by step name, ``None`` for no model. A name that no step has is a fault of the graph.

    Returns:
        The workflow.

    Raises:
        TypeError: ``models`` is no mapping, or a model is no text.
        ValueError: A model is empty or longer than 255 characters.
    """
    workflow.models |= {
        _text(name): _model(model, f"configure({_text(name)!r})") for name, model in _mapping(models).items()
    }
    return workflow


def model_for(ctx: StepContext, default: Model | None = None) -> str | None:
    """The language model chosen for the step that is running, else the default."""
    return ctx.model if ctx.model is not None or default is None else _text(default)


def fan_out_models(
    workflow: Workflow,
    base: Name,
    step: Step | BoundStep,
    *,
    models: Iterable[Model],
    deps: Iterable[Name] = (),
    synthesize_with: Step | BoundStep | None = None,
    synthesize_model: Model | None = None,
) -> Workflow:
    """Add one step for each of several language models, and one that reads all their results.

    Args:
        workflow: The workflow.
        base: The steps are named ``base[model]`` with the full name of the model, the last one ``base_synthesis``.
        step: What each of them runs.
        models: The language models, each once.
        deps: What each of them waits for.
        synthesize_with: What the last one runs; without it there is none.
        synthesize_model: The model of the last one.

    Returns:
        The workflow.

    Raises:
        TypeError: Something is of the wrong type, or a required argument is unbound.
        ValueError: There are no models or one is named twice, a name is too long, or ``base`` has a bracket.
    """
    prefix = _base(base)
    chosen = _distinct(models, f"fan_out_models({prefix!r})")
    if synthesize_model is not None and synthesize_with is None:
        raise ValueError(f"fan_out_models({prefix!r}): synthesize_model needs synthesize_with, the step that uses it.")
    awaited = list(deps) if isinstance(deps, Iterator) else deps
    names = {model: f"{prefix}[{model}]" for model in chosen}
    for model, name in names.items():
        workflow.add(name, step, deps=awaited, model=model)
    if synthesize_with is not None:
        options: dict[str, Any] = {} if synthesize_model is None else {"model": synthesize_model}
        workflow.add(f"{prefix}_synthesis", synthesize_with, deps=list(names.values()), **options)
    return workflow


def results_by_model(ctx: StepContext, base: Name | None = None) -> dict[str, Any]:
    """The results of the direct dependencies that :func:`fan_out_models` added, by the full name of the model.

    Those without a result are left out: they failed, and the step goes on all the same.

    Args:
        ctx: The context of the step that is running.
        base: The name given to ``fan_out_models``; needed where the step depends on several that share a model.

    Raises:
        ValueError: Two dependencies with a result have the same model, and ``base`` is not given.
    """
    wanted = None if base is None else _text(base)
    found: dict[str, Any] = {}
    bases: dict[str, str] = {}
    for name in ctx.results:
        prefix, bracket, rest = name.partition("[")
        if not bracket or not rest.endswith("]") or wanted not in (None, prefix):
            continue
        model = rest[:-1]
        if model in found:
            raise ValueError(
                f"results_by_model: {bases[model]!r} and {prefix!r} both have a result of {model!r}. "
                f"Say which one is meant, as in results_by_model(ctx, base={prefix!r})."
            )
        found[model], bases[model] = ctx.results[name], prefix
    return found


def _mapping(models: Any) -> Mapping[Any, Any]:
    if not isinstance(models, Mapping):
        msg = f"configure: models is {models!r}. Give a dict of models by step name."
        raise TypeError(msg)
    return models


def _base(value: Any) -> str:
    base = _text(value)
    if not isinstance(value, (str, Enum)):
        msg = f"fan_out_models: base is {value!r}. Give a str or an enum member whose value is one."
        raise TypeError(msg)
    if "[" in base:
        raise ValueError(f"fan_out_models: base is {base!r}. A bracket begins the name of the model: leave it out.")
    return base


def _distinct(models: Any, where: str) -> list[str]:
    """The models as text, in their order."""
    if isinstance(models, (str, Enum)) or not isinstance(models, Iterable):
        msg = f"{where}: models is {models!r}. Give a list of models, as in models=[{_text(models)!r}]."
        raise TypeError(msg)
    chosen = []
    for each in models:
        model = _model(each, where)
        if model is None:
            msg = f"{where}: one of the models is None. Give names of models as str."
            raise TypeError(msg)
        if model in chosen:
            raise ValueError(f"{where}: {model!r} is there more than once. Each model makes one step.")
        chosen.append(model)
    if not chosen:
        raise ValueError(f"{where}: there are no models. Give at least one.")
    return chosen


def _model(model: Any, where: str) -> str | None:
    return override(StepOptions(), {"model": model}, where=where).model


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)
