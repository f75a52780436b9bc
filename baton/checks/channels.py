"""Checks of the channel layer that events are sent to."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Warning, register  # noqa: A004 - Django's name for it

from baton.checks.configured import TAG, listed, usable_settings


@register(TAG)
def check_channel_layer(**kwargs: Any) -> Iterator[CheckMessage]:
    baton = getattr(django_settings, "BATON", {})
    alias = usable_settings().channel_layer
    if alias is None or not isinstance(baton, dict) or baton.get("CHANNEL_LAYER") != alias:
        # Left to its default, the setting takes what is there; what it cannot be is another check's to say.
        return
    layers = getattr(django_settings, "CHANNEL_LAYERS", {})
    aliases = [name for name in layers if isinstance(name, str)] if isinstance(layers, dict) else []
    if alias not in aliases:
        yield Warning(
            f"BATON['CHANNEL_LAYER'] is {alias!r}, which is not in CHANNEL_LAYERS: no events are sent.",
            hint=f"Use one of: {listed(aliases) or 'none is configured'}; or None, to send none.",
            id="baton.W011",
        )
    elif find_spec("channels") is None:
        yield Warning(
            f"BATON['CHANNEL_LAYER'] is {alias!r}, and Channels is not installed: no events are sent.",
            hint="Install 'baton-workflows[dashboard]', or set it to None.",
            id="baton.W012",
        )
