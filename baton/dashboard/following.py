"""Following runs, once for all the sockets of a process that show the same one.

Events of a channel layer wake the reader; what is told is read from the database. So an event that was dropped costs
some seconds and nothing else, and without a layer that crosses processes the page is live all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from channels.db import database_sync_to_async
from channels.layers import InMemoryChannelLayer, channel_layers
from django.utils import translation

from baton.conf import get_settings
from baton.dashboard.changes import (
    LONG_MARGIN,
    MOST_DETAILED,
    Pulse,
    briefly,
    changed_steps,
    head_of,
    pulse_of,
    steps_named,
    told,
)
from baton.events import workflow_group
from baton.events.messages import STEP_UPDATED
from baton.events.receivers import configured_layer
from baton.models import WorkflowRun
from baton.telemetry import timestamp

logger = logging.getLogger("baton.dashboard")

Listener = Callable[[str, bool], Awaitable[None]]
"""Is given a message as JSON, and whether it is the last."""

DATABASE_SECONDS = 1.0
"""How often the database is asked where no other process is heard."""
LAYER_SECONDS = 3.0
"""The same where events tell of most changes."""
MESSAGE_SECONDS = 0.2
"""How far two messages are apart at least."""
TOGETHER_SECONDS = 0.02
"""How long an event waits for those that come with it."""
HEAD_SECONDS = 1.0
"""How far two readings of the head are apart at least."""
HEAD_AGAIN_SECONDS = 5.0
"""When the head is read again where nothing changed: what it says of time grows old."""
HEAD_SHARE = 10
"""Reading the head takes at most one part in so many of the time."""
ANSWER_SECONDS = 1.0
"""How long an answer is good for others, too."""
MOST_BRIEFLY = 5_000
LAYER_AGAIN_SECONDS = 10.0
SILENCE_SECONDS = 1.0
"""A layer that fails after so long a silence is asked again at once."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look at the database found."""

    pulse: Pulse
    message: dict[str, Any] | None
    seen: dict[int, int]


class Follower:
    """Reads what changes in one run, and tells all who listen."""

    def __init__(self, run_id: UUID, language: str) -> None:
        self.run_id = run_id
        self.language = language
        self._listeners: list[Listener] = []
        self._task: asyncio.Task[None] | None = None
        self._began = asyncio.Event()
        self._trouble: Exception | None = None
        self._woken = asyncio.Event()
        self._pulse: Pulse | None = None
        self._seen: dict[int, int] = {}
        self._interval = DATABASE_SECONDS
        self._looked_at = self._told_at = 0.0
        self._named: set[int] = set()
        self._is_whole_due = True
        self._has_heard = False
        self._head: dict[str, Any] | None = None
        self._head_at = self._head_took = 0.0
        self._is_head_old = False
        self._is_head_untold = False
        self._answering = asyncio.Lock()
        self._answer: tuple[datetime, float, dict[str, Any] | None] = (datetime.min.replace(tzinfo=UTC), 0.0, None)

    async def join(self, listener: Listener) -> None:
        """Tell somebody of everything that changes from now on.

        Raises:
            Exception: The database cannot be read.
        """
        self._listeners.append(listener)
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
        await self._began.wait()
        if self._trouble is not None and self._pulse is None:
            raise self._trouble

    def leave(self, listener: Listener) -> None:
        """Tell somebody no more."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)
        if not self._listeners:
            self._end()
            if self._task is not None:
                self._task.cancel()

    async def answer(
        self,
        as_of: datetime,
        read: Callable[[dict[str, Any] | None], Awaitable[dict[str, Any] | None]],
        *,
        is_new: bool,
    ) -> dict[str, Any] | None:
        """Answer one who asks with what another was just answered, if it covers that, so that many cost little.

        Args:
            as_of: What is asked for.
            read: Reads an answer, given the head where that is known.
            is_new: Whether who asks has been told nothing yet, so that an answer must not be older than the question.
        """
        from_when = time.monotonic() - (0 if is_new else ANSWER_SECONDS)
        async with self._answering:
            asked, made_at, found = self._answer
            if found is not None and made_at >= from_when and asked <= as_of:
                return found
            began = time.monotonic()
            found = await read(self._head if began - self._head_at < HEAD_AGAIN_SECONDS else None)
            if found is not None and "run" in found:
                self._answer = (as_of, began, found)
                self._head = self._head or found["run"]
            return found

    async def _follow(self) -> None:
        listening = asyncio.create_task(self._listen())
        try:
            while not await self._look_once():
                await self._wait()
        finally:
            listening.cancel()
            self._end()
            self._began.set()

    async def _look_once(self) -> bool:
        """Look, and tell what was found; true when there is nothing more to come."""
        try:
            is_over = await self._look()
        except Exception as exc:
            # The database is away, or busy: the page asks by itself and is told when it cannot be answered.
            if self._trouble is None:
                logger.warning("A run could not be read for the pages that show it.", exc_info=True)
            self._trouble, self._is_whole_due = exc, True
            return self._pulse is None
        self._trouble = None
        return is_over

    async def _look(self) -> bool:
        began = time.monotonic()
        message = await self._find(began)
        if self._pulse is None:
            await self._tell_last("gone")
            return True
        if self._pulse.is_over and self._head_at < began:
            await self._read_head()
        if self._is_head_untold and (message is None or message["type"] == "changes"):
            message, self._is_head_untold = {"type": "changes"} | (message or {}) | {"run": self._head}, False
        if message is not None:
            self._told_at = began
            await self._tell(json.dumps(message, separators=(",", ":")))
        if self._pulse.is_over:
            await self._tell_last("finished")
        elif time.monotonic() >= self._head_due_at:
            # After the steps, which need not wait for it; it goes with the next message.
            await self._read_head()
        return self._pulse.is_over

    async def _find(self, began: float) -> dict[str, Any] | None:
        """Feel the pulse, if it is time for that, or read what events named; what is to be told of it."""
        is_whole = self._is_whole_due or began - self._looked_at >= self._interval
        named, self._named, self._is_whole_due = self._named, set(), False
        if not (is_whole or named):
            return None
        self._looked_at = began if is_whole else self._looked_at
        found = await database_sync_to_async(self._read)(() if is_whole else named)
        last, self._pulse = self._pulse, None if found is None else found.pulse
        if found is None:
            return None
        self._seen = found.seen
        if last is None:
            # What pages show when they are opened is the first head.
            self._head_at = began
        elif found.message is not None or found.pulse.differs_from(last):
            self._is_head_old = True
        if is_whole:
            # A layer that tells of nothing does not reach who changes the run.
            self._interval = DATABASE_SECONDS if found.message and not self._has_heard else self._interval
            self._has_heard = False
        self._began.set()
        return found.message

    def _read(self, named: Collection[int]) -> _Found | None:
        """Read in a thread: the steps that events named, or else whatever changed; one query where nothing did."""
        last = self._pulse
        pulse = last if named else pulse_of(self.run_id)
        if pulse is None:
            return None
        if last is None:
            return _Found(pulse, None, dict(self._versions(pulse)))
        if not named and not pulse.differs_from(last):
            return _Found(pulse, None, self._seen)
        seen = dict(self._seen) if named else dict(self._versions(last))
        changed = named or [pk for pk, version in seen.items() if self._seen.get(pk) != version]
        message: dict[str, Any] = {"type": "changes"} if named else {"type": "changes", "as_of": timestamp(pulse.now)}
        if len(changed) > MOST_BRIEFLY:
            return _Found(pulse, {"type": "reload"}, seen)
        with translation.override(self.language):
            news = [node for node in steps_named(self.run_id, changed) if self._seen.get(node.pk) != node.version]
            if len(news) > MOST_DETAILED:
                message["brief"] = briefly(news)
            else:
                message["steps"] = [told(node) for node in news]
        return _Found(pulse, message if news else None, seen | {node.pk: node.version for node in news})

    def _versions(self, pulse: Pulse) -> Iterable[tuple[int, int]]:
        """The versions of the steps that changed since then, or before; the newest, if they are too many."""
        newest = changed_steps(self.run_id, pulse.now, LONG_MARGIN).order_by("-changed_at")
        return newest.values_list("pk", "version")[: 2 * MOST_BRIEFLY]

    @property
    def _head_due_at(self) -> float:
        """When the head is to be read again: soon where something changed, as far as that is cheap."""
        pause = HEAD_SECONDS if self._is_head_old else HEAD_AGAIN_SECONDS
        return self._head_at + max(pause, HEAD_SHARE * self._head_took)

    async def _read_head(self) -> None:
        self._head_at, self._is_head_old = time.monotonic(), False
        head = await database_sync_to_async(_head_of)(self.run_id, self.language)
        self._head_took = time.monotonic() - self._head_at
        if head is not None:
            self._is_head_untold = self._is_head_untold or head != self._head
            self._head = head

    async def _tell_last(self, what: str) -> None:
        """Tell that nothing more will come; who comes from now on gets a follower of his own."""
        self._end()
        await self._tell(json.dumps({"type": what}), is_last=True)

    async def _tell(self, text: str, *, is_last: bool = False) -> None:
        for listener in tuple(self._listeners):
            try:
                await listener(text, is_last)
            except Exception:  # noqa: BLE001 - it has gone, which is its own affair
                self.leave(listener)

    async def _wait(self) -> None:
        """Wait for an event, or until it is time to look without one."""
        now = time.monotonic()
        until = self._told_at if self._is_head_untold else min(self._looked_at + self._interval, self._head_due_at)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(until - now, 0.0)):
                await self._woken.wait()
        rest = self._told_at + MESSAGE_SECONDS - time.monotonic()
        await asyncio.sleep(max(TOGETHER_SECONDS, rest))
        self._woken.clear()

    # Events -----------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Be woken by events, as long as there is a layer; again after one that failed."""
        alias = configured_layer()
        has_warned = False
        while alias is not None:
            try:
                await self._hear_from(channel_layers[alias])
            except Exception as exc:  # noqa: BLE001 - whatever a layer raises
                if not has_warned:
                    logger.warning("The channel layer failed, so runs are followed in the database: %s", exc)
                has_warned, self._interval = True, DATABASE_SECONDS
            await asyncio.sleep(LAYER_AGAIN_SECONDS)

    async def _hear_from(self, layer: Any) -> None:
        channel, group = await layer.new_channel(), workflow_group(self.run_id)
        # What a layer of this process alone is not told, the database must be asked for.
        interval = DATABASE_SECONDS if isinstance(layer, InMemoryChannelLayer) else LAYER_SECONDS
        try:
            while True:
                await layer.group_add(group, channel)
                self._interval = interval
                began = time.monotonic()
                try:
                    while True:
                        self._hear(await layer.receive(channel))
                        self._interval, began = interval, time.monotonic()
                except Exception:
                    # A client of Redis may give a silence of some seconds out as an error; one that is away says so at
                    # once when the group is joined again.
                    if time.monotonic() - began < SILENCE_SECONDS:
                        raise
        finally:
            with contextlib.suppress(Exception):
                await layer.group_discard(group, channel)

    def _hear(self, message: dict[str, Any]) -> None:
        self._has_heard = True
        for event in message.get("events", [message]):
            node = event.get("node_id") if event["type"] == STEP_UPDATED else None
            if node is None:
                self._is_whole_due = True
            else:
                self._named.add(node)
        self._woken.set()

    def _end(self) -> None:
        followers = _followers()
        if followers.get((self.run_id, self.language)) is self:
            del followers[self.run_id, self.language]


def follower_of(run_id: UUID, language: str) -> Follower:
    """The one of this process that follows a run in a language."""
    followers = _followers()
    return followers.get((run_id, language)) or followers.setdefault((run_id, language), Follower(run_id, language))


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[UUID, str], Follower]] = WeakKeyDictionary()


def _followers() -> dict[tuple[UUID, str], Follower]:
    return _of_loops.setdefault(asyncio.get_running_loop(), {})


def _head_of(run_id: UUID, language: str) -> dict[str, Any] | None:
    run = WorkflowRun.objects.using(get_settings().database).filter(pk=run_id).first()
    with translation.override(language):
        return None if run is None else head_of(run)
