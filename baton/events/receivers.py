"""From the signals to the channel layer: connected only while one is configured, so that else they cost nothing."""

from __future__ import annotations

import contextlib
import importlib
import threading
from importlib.util import find_spec
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from baton.conf import get_settings
from baton.engine.transitions import steps_announced
from baton.events import publisher
from baton.events.messages import Event, finished_event, step_event
from baton.states import SETTLED, StepState
from baton.telemetry import workflow_finished

COUNTED_RUNS = 1_000

_UID = "baton.events"


def connect() -> None:
    """Connect to the signals if a channel layer is configured, and again whenever the settings change."""
    setting_changed.connect(_follow_settings, dispatch_uid=_UID)
    _connect_or_not()


def configured_layer() -> str | None:
    """The alias of the channel layer that events are sent to; None where there is none or Channels is missing."""
    try:
        alias = get_settings().channel_layer
    except ImproperlyConfigured:
        # Every fault of the settings has a check that tells it.
        return None
    layers = getattr(django_settings, "CHANNEL_LAYERS", None)
    is_there = alias is not None and isinstance(layers, dict) and alias in layers and find_spec("channels") is not None
    return alias if is_there else None


def _follow_settings(*, setting: str, **kwargs: Any) -> None:
    if setting in ("BATON", "CHANNEL_LAYERS"):
        publisher.close()
        _connect_or_not()


def _connect_or_not() -> None:
    alias = configured_layer()
    if alias is None:
        steps_announced.disconnect(dispatch_uid=_UID)
        workflow_finished.disconnect(dispatch_uid=_UID)
        return
    _import_backend(alias)
    steps_announced.connect(hear_steps, dispatch_uid=_UID)
    workflow_finished.connect(hear_finished, dispatch_uid=_UID)


def _import_backend(alias: str) -> None:
    """Import the layer's code before a cluster forks, so that its workers share the memory; the layer is theirs."""
    with contextlib.suppress(Exception):
        importlib.import_module("channels.layers")
        import_string(django_settings.CHANNEL_LAYERS[alias]["BACKEND"])


class _Heard(threading.local):
    """What this thread has heard."""

    last_state = ""
    """The state of the last step that was announced."""


_heard = _Heard()
_settled_here: dict[str, int] = {}
"""How many steps this process has seen settled, for the newest of the runs that have not ended here."""


def hear_steps(*, steps: list[dict[str, Any]], may_end: bool, **kwargs: Any) -> None:
    """Receive ``steps_announced``."""
    events = [step_event(payload) for payload in steps]
    if not events:
        return
    _heard.last_state = events[-1]["state"]
    for event in events:
        if event["state"] in SETTLED:
            _count_settled(event["workflow_id"])
    publisher.publish(events, within=_patience(events, may_end=may_end))


def hear_finished(**payload: Any) -> None:
    """Receive ``workflow_finished``. What returns has sent it: the engine notes that it was announced."""
    settled_here = _settled_here.pop(payload["workflow_id"], 0)
    # Other workers may be about to tell what they did for this run. One that has nothing to do next can let them, so
    # that the finished message comes last.
    is_idle = _heard.last_state != StepState.EXECUTING
    can_follow = is_idle and 0 < settled_here < payload["total_count"]
    publisher.publish([finished_event(payload)], within=0.0, is_ending=True, after_others=can_follow)


def _count_settled(workflow_id: str) -> None:
    _settled_here[workflow_id] = _settled_here.pop(workflow_id, 0) + 1
    if len(_settled_here) > COUNTED_RUNS:
        with contextlib.suppress(KeyError, StopIteration, RuntimeError):
            del _settled_here[next(iter(_settled_here))]


def _patience(events: list[Event], *, may_end: bool) -> float:
    """How long these events can wait for others, in seconds.

    A worker that goes on with the run has more to say soon. One that leaves it sends what it has at once: another may
    end the run, and its finished message comes last. If this is the end, the finished message follows in a moment.
    """
    first, last = events[0], events[-1]
    if last["state"] == StepState.EXECUTING and first["workflow_id"] == last["workflow_id"]:
        return publisher.PAUSE_SECONDS
    return publisher.ENDING_SECONDS if may_end else 0.0
