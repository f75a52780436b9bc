"""What was given at add beats what stands on the decorator: how the row carries what has no column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.utils.module_loading import import_string

from baton.exceptions import UnknownStepError
from baton.registry import RegisteredStep, StepOptions
from baton.values import decode

_IN_ROW = ("backoff", "retry_on", "no_retry_on", "atomic", "model", "on_ambiguous", "capture")


def stored_options(given: dict[str, Any], *, module: str = "") -> dict[str, Any]:
    """What of the options given at add goes into the row's JSON; the rest has columns.

    Args:
        given: Options that were given, already checked.
        module: Where the step was defined, when its name does not tell.

    Raises:
        TypeError: A class or callable has no name under which a worker could import it.
    """
    stored: dict[str, Any] = {"module": module} if module else {}
    for key in _IN_ROW:
        if key in given:
            stored[key] = _stored(given[key], key)
    return stored


def module_in(text: str) -> str:
    """Where the step of a row was defined, when its name does not tell."""
    return "" if text == "{}" else str(decode(text).get("module", ""))


def options_of(step: RegisteredStep, text: str) -> StepOptions:
    """The options under which a row is run.

    Raises:
        UnknownStepError: What the row names cannot be imported any more.
    """
    if text == "{}":
        return step.options
    stored = decode(text)
    try:
        return replace(step.options, **{key: _restored(stored[key]) for key in _IN_ROW if key in stored})
    except (Exception, SystemExit) as exc:
        raise UnknownStepError(step.name, f"an option given at add is gone: {exc}") from exc


def _stored(value: Any, key: str) -> Any:
    if isinstance(value, tuple):
        return {"classes": [_path(each, key) for each in value]}
    if callable(value):
        return {"callable": _path(value, key)}
    return value


def _restored(value: Any) -> Any:
    match value:
        case {"classes": paths}:
            return tuple(import_string(path) for path in paths)
        case {"callable": path}:
            return import_string(path)
    return value


def _path(value: Callable[..., Any] | type, key: str) -> str:
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    path = f"{module}.{name}"
    try:
        if import_string(path) is value:
            return path
    except (ImportError, AttributeError):
        pass
    msg = (
        f"{key}={value!r} cannot be given at add: a worker could not import {path!r}. "
        "Define it at the top level of a module, or put the option on the decorator."
    )
    raise TypeError(msg)
