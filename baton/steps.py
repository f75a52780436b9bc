"""``@step``: a function that runs as a step, its options and its bound arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import update_wrapper
from typing import Any, overload

from baton import registry
from baton.conf import get_settings
from baton.references import extract
from baton.registry import POLICIES, StepOptions
from baton.returns import MAX_DELAY_SECONDS
from baton.values import decode, encode

Hook = Callable[..., Any]

_FAN_OUT_PARAMETERS = frozenset({"item", "index"})
_MAX_INTEGER = 2**31 - 1
_MAX_QUEUE_LENGTH = 100
_MAX_NAME_LENGTH = 255


class Step:
    """A function registered under a name; calling it calls the bare function."""

    def __init__(self, function: Callable[..., Any], *, name: str | None, options: StepOptions) -> None:
        # First, so that attributes of the function cannot replace the step's own.
        update_wrapper(self, function)
        self.function = function
        self.module = function.__module__
        self.path = f"{function.__module__}.{function.__qualname__}"
        self.name = _checked_name(name) if name is not None else self.path
        self.options = options
        self.is_async = inspect.iscoroutinefunction(function)
        self.hooks: dict[str, Hook] = {}
        self.signature = _signature(function, self.path)
        registry.register(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function as it was written."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<step {self.name}>"

    def bind(self, *args: Any, **kwargs: Any) -> BoundStep:
        """Fix the arguments of the body.

        Args:
            args: Values for the parameters after the context.
            kwargs: Values by name; a ``result_of()`` stands for what a step returns.

        Raises:
            TypeError: They do not fit the signature, or cannot be stored as JSON.
        """
        bound = BoundStep(step=self, args=self._named(args, kwargs))
        self.check_complete(bound.args, besides=_FAN_OUT_PARAMETERS)
        return bound

    def check_complete(self, args: Mapping[str, Any], *, besides: frozenset[str] = frozenset()) -> None:
        """See that no required argument is missing.

        Raises:
            TypeError: One is, and it is not among those that are given later.
        """
        missing = [
            parameter.name
            for parameter in list(self.signature.parameters.values())[1:]
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            and parameter.name not in args
            and parameter.name not in besides
        ]
        if missing:
            msg = f"Step {self.name!r} needs {_listed(missing)}: give it with bind({missing[0]}=...)."
            raise TypeError(msg)

    def on_dependency_cancelled(self, hook: Hook) -> Hook:
        """Register what is called, as ``hook(ctx, reason)``, when a cancelled dependency cancels the step."""
        self.hooks["cancelled"] = hook
        return hook

    def on_dependency_discarded(self, hook: Hook) -> Hook:
        """Register what is called, as ``hook(ctx, reason)``, when a discarded dependency cancels the step."""
        self.hooks["discarded"] = hook
        return hook

    def overridden(self, options: Mapping[str, Any], *, where: str) -> StepOptions:
        """Lay options given at add over those on the decorator, as :func:`override` does."""
        return override(self.options, options, where=where)

    def is_transient(self, error: BaseException) -> bool | None:
        """Leave it to the engine whether another attempt may help."""
        return None

    def prepare(self, context: Any) -> None:
        """Need nothing before the body runs."""

    def record(self, context: Any, usage: Any) -> None:
        """Record nothing: nothing is taken out."""

    def take_out(self, value: Any) -> tuple[Any, Any]:
        """Take all of what a body returned for its result."""
        return value, None

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self.signature.bind_partial(None, *args, **kwargs)
        except TypeError as exc:
            msg = f"Step {self.name!r} cannot be called so: {exc}. Its signature is {self.signature}."
            raise TypeError(msg) from exc
        _context, *parameters = self.signature.parameters.values()
        named: dict[str, Any] = {}
        for parameter in parameters:
            if parameter.name not in bound.arguments:
                continue
            value = bound.arguments[parameter.name]
            if parameter.kind is parameter.VAR_KEYWORD:
                named.update(value)
            elif parameter.kind is parameter.VAR_POSITIONAL and value:
                msg = (
                    f"Step {self.name!r}: values for *{parameter.name} cannot be stored by name; give them as one list."
                )
                raise TypeError(msg)
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                named[parameter.name] = value
        return named


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundStep:
    """A step with its arguments, as JSON gives them back."""

    step: Step
    """The step."""
    args: dict[str, Any] = field(default_factory=dict)
    """The arguments; where one is a reference, its text stands in its place."""
    references: list[dict[str, Any]] = field(default_factory=list)
    """Which places of the arguments are filled from which results."""
    text: str = "{}"
    """The arguments as they are stored."""

    def __post_init__(self) -> None:
        plain, references = extract(self.args)
        text = encode(plain, limit=get_settings().max_result_chars, what=f"{self.step.name}: arguments")
        for name, value in {"args": decode(text), "references": references, "text": text}.items():
            object.__setattr__(self, name, value)


@overload
def step(function: Callable[..., Any], /) -> Step: ...
@overload
def step(*, name: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], Step]: ...
def step(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any
) -> Step | Callable[[Callable[..., Any]], Step]:
    """Make a function a step. Its first parameter is the :class:`~baton.context.StepContext`.

    Args:
        function: The body, when used without parentheses.
        name: The registered name, by default ``module.qualname``.
        options: The fields of :class:`~baton.registry.StepOptions`.

    Raises:
        TypeError: An option is unknown or of the wrong type, or the function takes no context.
        ValueError: An option is out of range.

    Example:
        ``@step(queue="ocr", max_attempts=3, timeout=60)``
    """
    checked = override(StepOptions(), options, where=f"@step{f' {name!r}' if name else ''}")
    if function is not None:
        return Step(function, name=name, options=checked)
    return lambda body: Step(body, name=name, options=checked)


def override(base: StepOptions, options: Mapping[str, Any], *, where: str) -> StepOptions:
    """Lay given options over others, after looking at each.

    Raises:
        TypeError: An option is unknown or of the wrong type.
        ValueError: An option is out of range.
    """
    unknown = set(options) - _CHECKS.keys()
    if unknown:
        msg = f"{where}: unknown option {_listed(sorted(unknown))}. The options are {', '.join(_CHECKS)}."
        raise TypeError(msg)
    return replace(base, **{key: _CHECKS[key](value, f"{where}: {key}") for key, value in options.items()})


def _queue(value: Any, where: str) -> str:
    value = getattr(value, "value", value)
    if not isinstance(value, str):
        raise TypeError(f"{where} is {value!r}: give the name of a cluster as a str.")
    if not value or len(value) > _MAX_QUEUE_LENGTH or not _is_storable(value):
        raise ValueError(f"{where} is {value!r}: give 1 to {_MAX_QUEUE_LENGTH} characters.")
    return value


def _max_attempts(value: Any, where: str) -> int:
    if _integer(value, where) < 1:
        raise ValueError(f"{where} is {value!r}: at least one attempt is needed.")
    return int(value)


def _priority(value: Any, where: str) -> int:
    return _integer(value, where)


def _timeout(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{where} is {value!r}: give seconds, or None for no limit.")
    if not math.isfinite(value) or not 0 < value <= _MAX_INTEGER:
        raise ValueError(f"{where} is {value!r}: give seconds above 0, or None for no limit.")
    return float(value)


def _backoff(value: Any, where: str) -> Any:
    if value is None or callable(value):
        return value
    seconds = list(value) if isinstance(value, (list, tuple)) else [value]
    if not seconds or any(isinstance(each, bool) or not isinstance(each, (int, float)) for each in seconds):
        raise TypeError(f"{where} is {value!r}: give seconds, a list of seconds, or a callable (attempt, error).")
    if any(not math.isfinite(each) or not 0 <= each <= MAX_DELAY_SECONDS for each in seconds):
        raise ValueError(f"{where} is {value!r}: give seconds from 0 to a hundred years.")
    return [float(each) for each in seconds] if isinstance(value, (list, tuple)) else float(value)


def _classes(value: Any, where: str) -> Any:
    if value is None:
        return None
    classes = value if isinstance(value, (list, tuple, set, frozenset)) else (value,)
    if any(not isinstance(each, type) or not issubclass(each, BaseException) for each in classes):
        raise TypeError(f"{where} is {value!r}: give exception classes.")
    return tuple(classes)


def _no_retry_on(value: Any, where: str) -> Any:
    return _classes(value, where) or ()


def _atomic(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{where} is {value!r}: give True or False.")
    return value


def _model(value: Any, where: str) -> str | None:
    value = getattr(value, "value", value)
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{where} is {value!r}: give the name of a model as a str.")
    if not value or len(value) > _MAX_NAME_LENGTH or not _is_storable(value):
        raise ValueError(f"{where} is {value!r}: give 1 to {_MAX_NAME_LENGTH} characters.")
    return value


def _on_ambiguous(value: Any, where: str) -> str:
    if value not in POLICIES:
        raise ValueError(f"{where} is {value!r}: give {', '.join(map(repr, POLICIES[:-1]))} or {POLICIES[-1]!r}.")
    return str(value)


def _capture(value: Any, where: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{where} is {value!r}: give True, False, or None for what the run and the settings say.")
    return value


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "queue": _queue,
    "max_attempts": _max_attempts,
    "timeout": _timeout,
    "priority": _priority,
    "backoff": _backoff,
    "retry_on": _classes,
    "no_retry_on": _no_retry_on,
    "atomic": _atomic,
    "model": _model,
    "on_ambiguous": _on_ambiguous,
    "capture": _capture,
}


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{where} is {value!r}: give a whole number.")
    if not -_MAX_INTEGER <= value <= _MAX_INTEGER:
        raise ValueError(f"{where} is {value!r}: give a number of at most 31 bits.")
    return int(value)


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"@step: name is {name!r}: give a str.")
    if not name or len(name) > _MAX_NAME_LENGTH or not _is_storable(name):
        raise ValueError(f"@step: name is {name!r}: give 1 to {_MAX_NAME_LENGTH} characters without NUL.")
    return name


def _is_storable(text: str) -> bool:
    """PostgreSQL's text takes neither NUL nor half of a surrogate pair."""
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _signature(function: Callable[..., Any], path: str) -> inspect.Signature:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    first = parameters[0] if parameters else None
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise TypeError(
            f"Step {path!r} takes no context: its first parameter is the StepContext, as in "
            f"def {function.__name__}(ctx)."
        )
    if any(parameter.kind is parameter.POSITIONAL_ONLY for parameter in parameters[1:]):
        raise TypeError(
            f"Step {path!r} has positional-only parameters after the context; arguments are passed by name."
        )
    return signature


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))
