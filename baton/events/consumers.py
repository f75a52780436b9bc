"""For consumers of Channels: join the groups, and be called for each event."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured

from baton.conf import get_settings
from baton.events.messages import FINISHED, STEP_UPDATED, Event, Message, all_group, workflow_group

logger = logging.getLogger("baton.events")

_HANDLERS = {STEP_UPDATED: "workflow_step_updated", FINISHED: "workflow_finished"}


class WorkflowEventsMixin:
    """Lets an async consumer follow runs. It comes first among the bases.

    Override ``workflow_step_updated`` and ``workflow_finished``. What is on its way when a consumer leaves a group no
    longer arrives, and a consumer that ends leaves its groups.
    """

    channel_layer: Any
    channel_layer_alias: str
    channel_name: str

    _joined: set[str] | None = None
    """The groups that were joined by the methods below; None while they were never used."""

    async def subscribe_all(self) -> None:
        """Follow every run. Single runs that were followed before are part of that."""
        joined = self._joined or set()
        if all_group() in joined:
            return
        layer = self._layer()
        # Left first, then joined: an event in between may be missed, and none comes twice.
        for group in sorted(joined):
            await layer.group_discard(group, self.channel_name)
        self._joined = set()
        await layer.group_add(all_group(), self.channel_name)
        self._joined = {all_group()}

    async def subscribe_workflow(self, id: UUID | str) -> None:  # noqa: A002 - the contract's name for it
        """Follow one run, also several one after the other; does nothing where every run is followed.

        Args:
            id: The id of the run.

        Raises:
            ValueError: The text is not that of a UUID.
        """
        group, joined = workflow_group(id), self._joined or set()
        if all_group() in joined or group in joined:
            return
        await self._layer().group_add(group, self.channel_name)
        self._joined = {*joined, group}

    async def unsubscribe(self) -> None:
        """Follow nothing any more."""
        joined, self._joined = self._joined or set(), set()
        for group in sorted(joined):
            await self._layer().group_discard(group, self.channel_name)

    async def workflow_step_updated(self, event: Event) -> None:
        """Do something about a step that changed. Does nothing by default."""

    async def workflow_finished(self, event: Event) -> None:
        """Do something about a run that ended. Does nothing by default."""

    async def workflow_events(self, message: Message) -> None:
        """Take a message of many events apart."""
        for event in message["events"]:
            handler = getattr(self, _HANDLERS.get(event["type"], ""), None)
            if handler is not None and self._wants(event):
                await handler(event)

    async def dispatch(self, message: Message) -> None:
        """Pass on what Channels brings, but no event of a group that was left meanwhile."""
        if message["type"] in _HANDLERS and not self._wants(message):
            return
        await super().dispatch(message)  # type: ignore[misc]

    async def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run the consumer on the layer that events are sent to, and leave the groups when it ends."""
        if self.channel_layer_alias == "default":
            self.channel_layer_alias = get_settings().channel_layer or "default"
        try:
            await super().__call__(*args, **kwargs)  # type: ignore[misc]
        finally:
            await self._leave()

    def _wants(self, event: Event) -> bool:
        joined = self._joined
        return joined is None or all_group() in joined or workflow_group(event["workflow_id"]) in joined

    def _layer(self) -> Any:
        if self.channel_layer is None:
            raise ImproperlyConfigured(
                f"CHANNEL_LAYERS has no {self.channel_layer_alias!r}, so no event of Baton can arrive. "
                "Configure that channel layer."
            )
        return self.channel_layer

    async def _leave(self) -> None:
        try:
            await self.unsubscribe()
        except Exception:
            logger.exception("A consumer ended, but its groups could not be left.")
