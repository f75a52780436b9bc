"""Does the channel layer do what events need: carry a message of another process to a group here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from asgiref.sync import async_to_sync
from django.conf import settings as django_settings

from baton.events.receivers import configured_layer

PROBE_SECONDS = 5.0
"""How long a message may take, and how long another process may take to send one."""

_PROGRAM = """
import sys, django
django.setup()
from baton.events.probe import send
send(*sys.argv[1:])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFault:
    """What is wrong with a channel layer."""

    alias: str
    backend: str
    is_local: bool
    """It works, but only within a process."""
    detail: str
    """What was seen, in a few words."""


def probe_layer() -> LayerFault | None:
    """Send a message through the configured channel layer from this process and from another one.

    Returns:
        What is wrong; None where events reach other processes, or where none are sent.
    """
    alias = configured_layer()
    if alias is None:
        return None
    backend = str(getattr(django_settings, "CHANNEL_LAYERS", {})[alias].get("BACKEND"))
    try:
        detail = async_to_sync(_probe)(alias)
    except Exception as exc:  # noqa: BLE001 - whatever a layer raises is what is reported
        detail = " ".join(str(exc).split()) or type(exc).__name__
        return LayerFault(alias=alias, backend=backend, is_local=False, detail=detail)
    return LayerFault(alias=alias, backend=backend, is_local=True, detail=detail) if detail else None


def send(alias: str, group: str) -> None:
    """Send the message that the other process waits for."""
    async_to_sync(_send)(alias, group, os.getpid())


async def _probe(alias: str) -> str:
    """What kept another process from being heard, or an empty text; raises where not even this one is."""
    layer, group = _new_layer(alias), f"baton.probe.{uuid4().hex}"
    channel = await _in_time(layer.new_channel())
    try:
        await _in_time(layer.group_add(group, channel))
        await _in_time(layer.group_send(group, {"type": "baton.probe", "pid": os.getpid()}))
        await _in_time(layer.receive(channel))
        if _is_in_memory(layer):
            return "it is a part of each process"
        return await _hear_another(layer, channel, alias, group)
    finally:
        with contextlib.suppress(Exception):
            await _in_time(layer.group_discard(group, channel))
        await _close(layer)


async def _hear_another(layer: Any, channel: str, alias: str, group: str) -> str:
    if not django_settings.SETTINGS_MODULE:
        # Configured by hand, which another process would not know how to repeat.
        return ""
    sent = await asyncio.to_thread(_send_from_another, alias, group)
    if sent.returncode:
        lines = (sent.stderr or "").strip().splitlines()
        return f"the other process failed: {lines[-1] if lines else f'exit status {sent.returncode}'}"
    try:
        message = await _in_time(layer.receive(channel))
    except TimeoutError:
        return "what another process sent did not arrive"
    return "" if message["pid"] != os.getpid() else "a message arrived twice"


def _send_from_another(alias: str, group: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": str(django_settings.SETTINGS_MODULE),
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
    }
    return subprocess.run(  # noqa: S603 - this very Python
        [sys.executable, "-c", _PROGRAM, alias, group],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def _send(alias: str, group: str, pid: int) -> None:
    layer = _new_layer(alias)
    try:
        await _in_time(layer.group_send(group, {"type": "baton.probe", "pid": pid}))
    finally:
        await _close(layer)


async def _in_time(answer: Any) -> Any:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await answer
    except TimeoutError:
        msg = f"nothing came back within {PROBE_SECONDS:g} s"
        raise TimeoutError(msg) from None


def _new_layer(alias: str) -> Any:
    """A layer of our own, so that the one that the process sends events through keeps its connections."""
    from channels.layers import channel_layers  # noqa: PLC0415 - only where a layer is configured

    return channel_layers.make_backend(alias)


def _is_in_memory(layer: Any) -> bool:
    from channels.layers import InMemoryChannelLayer  # noqa: PLC0415 - only where a layer is configured

    return isinstance(layer, InMemoryChannelLayer)


async def _close(layer: Any) -> None:
    close = getattr(layer, "close_pools", None)
    if close is not None:
        await close()
