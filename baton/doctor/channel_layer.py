"""The channel layer: whether events reach other processes."""

from __future__ import annotations

from collections.abc import Iterator

from baton.doctor.findings import Finding, warning
from baton.doctor.visit import Visit
from baton.events.probe import probe_layer


def look_at_channel_layer(visit: Visit) -> Iterator[Finding]:
    """Send a message through the layer, from this process and from another one."""
    fault = probe_layer()
    if fault is None:
        return
    if fault.is_local:
        yield warning(
            "channel-layer-local",
            f"The channel layer {fault.alias!r} ({fault.backend}) does not carry messages from one process to another "
            f"({fault.detail}): the events of the workers reach nobody.",
            fix="Use a layer that all processes share, such as channels_redis.core.RedisChannelLayer, or set "
            "BATON['CHANNEL_LAYER'] = None.",
        )
        return
    yield warning(
        "channel-layer-broken",
        f"The channel layer {fault.alias!r} ({fault.backend}) does not work: {fault.detail}",
        fix=f"Start its server, or correct CHANNEL_LAYERS[{fault.alias!r}]. Runs go on all the same, unheard.",
    )
