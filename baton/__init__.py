"""DAG workflows of background steps on django-q2."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baton.context import StepContext
    from baton.exceptions import BatonError, GraphError
    from baton.references import result_of
    from baton.returns import Cancel, Discard, Snooze
    from baton.steps import step
    from baton.workflow import Workflow

__version__ = "0.1.0"

__all__ = ["BatonError", "Cancel", "Discard", "GraphError", "Snooze", "StepContext", "Workflow", "result_of", "step"]

# Django imports this package before its models can load, so the names resolve on first use.
_HOMES = {
    "BatonError": "baton.exceptions",
    "Cancel": "baton.returns",
    "Discard": "baton.returns",
    "GraphError": "baton.exceptions",
    "Snooze": "baton.returns",
    "StepContext": "baton.context",
    "Workflow": "baton.workflow",
    "result_of": "baton.references",
    "step": "baton.steps",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
