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
from baton.events import publisher
from baton.events.messages import Event, finished_event, step_event
from baton.states import SETTLED, StepState
from baton.telemetry import after_batch, step_transitioned, workflow_finished

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
        step_transitioned.disconnect(dispatch_uid=_UID)
        workflow_finished.disconnect(dispatch_uid=_UID)
        return
    _import_backend(alias)
    step_transitioned.connect(hear_step, dispatch_uid=_UID)
    workflow_finished.connect(hear_finished, dispatch_uid=_UID)


def _import_backend(alias: str) -> None:
    """Import the layer's code before a cluster forks, so that its workers share the memory; the layer is theirs."""
    with contextlib.suppress(Exception):
        importlib.import_module("channels.layers")
        import_string(django_settings.CHANNEL_LAYERS[alias]["BACKEND"])


class _Heard(threading.local):
    """What this thread has heard of the announcement that goes on."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.last_state = ""


_heard = _Heard()
_settled_here: dict[str, int] = {}
"""How many steps this process has seen settled, for the newest of the runs that have not ended here."""


def hear_step(**payload: Any) -> None:
    """Receive ``step_transitioned``."""
    event = step_event(payload)
    _heard.events.append(event)
    _heard.last_state = event["state"]
    if event["state"] in SETTLED:
        _count_settled(event["workflow_id"])
    after_batch(_publish_heard)


def hear_finished(**payload: Any) -> None:
    """Receive ``workflow_finished``. What returns has sent it: the engine notes that it was announced."""
    settled_here = _settled_here.pop(payload["workflow_id"], 0)
    # Other workers may be about to tell what they did for this run. One that has nothing to do next can let them, so
    # that the finished message comes last.
    is_idle = _heard.last_state != StepState.EXECUTING
    can_follow = is_idle and 0 < settled_here < payload["total_count"]
    publisher.publish([finished_event(payload)], is_ending=True, after_others=can_follow)


def _count_settled(workflow_id: str) -> None:
    _settled_here[workflow_id] = _settled_here.pop(workflow_id, 0) + 1
    if len(_settled_here) > COUNTED_RUNS:
        with contextlib.suppress(KeyError, StopIteration, RuntimeError):
            del _settled_here[next(iter(_settled_here))]


def _publish_heard() -> None:
    events, _heard.events = _heard.events, []
    publisher.publish(events, can_wait=_goes_on(events))


def _goes_on(events: list[Event]) -> bool:
    """Whether this worker has more to say soon about the run of these events.

    Otherwise they are sent at once: another worker may end the run, and its finished message comes last.
    """
    is_one_run = len({event["workflow_id"] for event in events}) == 1
    return is_one_run and events[-1]["state"] == StepState.EXECUTING.value
