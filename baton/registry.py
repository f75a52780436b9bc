"""Steps by name: how a worker finds the function behind a row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from baton.exceptions import UnknownStepError

logger = logging.getLogger("baton.registry")

Backoff = float | list[float] | Callable[[int, BaseException], float] | None
Classes = tuple[type[BaseException], ...]
POLICIES = ("repay", "fail", "ask")
"""What can follow a once-only effect of unknown outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """How a step is run; every one can be overridden where the step is added."""

    queue: str = "default"
    """The django-q2 cluster that runs it."""
    max_attempts: int = 5
    """Executions that count at most, snoozes not included."""
    timeout: float | None = None
    """Seconds a body may run, None for no limit."""
    priority: int = 0
    """Smaller runs first, across all runs of a queue."""
    backoff: Backoff = None
    """Seconds before the next attempt, a list of them, or a callable; None is exponential with jitter."""
    retry_on: Classes | None = None
    """Only these exceptions are retried; None is every one."""
    no_retry_on: Classes = ()
    """These exceptions are never retried."""
    atomic: bool = False
    """Whether the body runs inside the transaction that settles it."""
    model: str | None = None
    """The language model, which the body finds as ``ctx.model``."""
    on_ambiguous: str = "repay"
    """What follows a once-only effect of unknown outcome: ``repay`` does it again, ``fail`` discards the step, ``ask``
    holds it for a person's word."""
    capture: bool | None = None
    """Whether its calls of language models are kept as debug logs; None is what the run and the settings say."""


class RegisteredStep(Protocol):
    """What the engine needs to know of a step."""

    name: str
    path: str
    module: str
    function: Callable[..., Any]
    options: StepOptions
    is_async: bool
    hooks: dict[str, Callable[..., Any]]

    def is_transient(self, error: BaseException) -> bool | None:
        """Whether another attempt may help where the options do not say; None leaves that to the engine."""

    def prepare(self, context: Any) -> None:
        """Called before the body; what it raises stands for what the body raises."""

    def record(self, context: Any, usage: Any) -> None:
        """Record a usage that was taken out, so that it is written with the settle."""

    def take_out(self, value: Any) -> tuple[Any, Any]:
        """Part what a body returned into its result and a usage of any shape to be recorded beside it, or None."""


_steps: dict[str, RegisteredStep] = {}
_duplicates: dict[str, list[str]] = {}
_failures: dict[str, str] = {}


def register(step: RegisteredStep) -> None:
    """Make a step known by its name. A module that is imported again replaces its own steps."""
    known = _steps.get(step.name)
    if known is not None and known.path != step.path:
        paths = _duplicates.setdefault(step.name, [known.path])
        if step.path not in paths:
            paths.append(step.path)
    _steps[step.name] = step


def all_steps() -> Iterable[RegisteredStep]:
    """Every step that is known in this process."""
    return list(_steps.values())


def duplicates() -> dict[str, list[str]]:
    """Names that more than one function claims, with where the functions are."""
    return {name: list(paths) for name, paths in _duplicates.items()}


def import_failures() -> dict[str, str]:
    """The ``steps`` modules that could not be imported, with the error."""
    return dict(_failures)


def autodiscover() -> None:
    """Import ``steps.py`` of every installed app; one that fails is reported by a check and harms nobody else."""
    for config in apps.get_app_configs():
        name = f"{config.name}.steps"
        if config.name == "baton" or not module_has_submodule(config.module, "steps"):
            continue
        try:
            import_module(name)
        except (Exception, SystemExit) as exc:
            _failures[name] = f"{type(exc).__name__}: {exc}"
            logger.exception("%s could not be imported: its steps are unknown.", name)


def find_step(name: str, *, module: str = "") -> RegisteredStep:
    """Find a step, importing its module when it is not known yet.

    Args:
        name: The registered name, by default ``module.qualname``.
        module: Where the step was defined, if its name does not tell.

    Raises:
        UnknownStepError: Nothing is registered under the name, or its module cannot be imported.
    """
    step = _steps.get(name)
    if step is not None:
        return step
    detail = ""
    for candidate in filter(None, [module, *_parents(name)]):
        try:
            import_module(candidate)
        except ModuleNotFoundError as exc:
            if exc.name is not None and candidate.startswith(exc.name):
                continue
            detail = f"importing {candidate} raised {type(exc).__name__}: {exc}"
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a module raises, this step has no code
            detail = f"importing {candidate} raised {type(exc).__name__}: {exc}"
        if name in _steps:
            return _steps[name]
        if detail:
            break
    raise UnknownStepError(name, detail)


def _parents(name: str) -> list[str]:
    """``a.b.C.d`` may live in ``a.b.C`` or in ``a.b``."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
