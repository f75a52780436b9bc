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
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
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


@dataclass(frozen=True, slots=True)
class _Found:
    """What one look at the database found."""

    pulse: Pulse
    message: dict[str, Any] | None
    seen: dict[int, int]
    has_head: bool


class Follower:
    """Reads what changes in one run, and tells all who listen."""

    def __init__(self, run_id: UUID, language: str) -> None:
        self.run_id = run_id
        self.language = language
        self._listeners: list[Listener] = []
        self._task: asyncio.Task[None] | None = None
        self._began = asyncio.Event()
        self._woken = asyncio.Event()
        self._pulse: Pulse | None = None
        self._seen: dict[int, int] = {}
        self._interval = DATABASE_SECONDS
        self._sent_at = self._head_at = 0.0
        self._head_took = 0.0
        self._owes_head = False
        self._head: dict[str, Any] | None = None
        self._looked_at = 0.0
        self._named: set[int] = set()
        self._hears_all = False
        self._answering = asyncio.Lock()
        self._answer: tuple[datetime, float, dict[str, Any] | None] = (datetime.min.replace(tzinfo=UTC), 0.0, None)

    async def join(self, listener: Listener) -> None:
        """Tell somebody of everything that changes from now on."""
        self._listeners.append(listener)
        if self._task is None:
            self._task = asyncio.create_task(self._follow())
        await self._began.wait()

    def leave(self, listener: Listener) -> None:
        """Tell somebody no more."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)
        if not self._listeners:
            self._end()
            if self._task is not None:
                self._task.cancel()

    @property
    def head(self) -> dict[str, Any] | None:
        """The head of the page, where it was read a moment ago."""
        return self._head if time.monotonic() - self._head_at < HEAD_AGAIN_SECONDS else None

    def keep_head(self, head: dict[str, Any]) -> None:
        """Remember the head that somebody has read."""
        self._head, self._head_at = head, time.monotonic()

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
        async with self._answering:
            asked, made_at, found = self._answer
            is_fresh = time.monotonic() - made_at < ANSWER_SECONDS
            if found is not None and not is_new and is_fresh and asked <= as_of:
                return found
            began, head = time.monotonic(), self.head
            found = await read(head)
            if found is not None and "run" in found:
                self._answer = (as_of, began, found)
                if head is None:
                    self.keep_head(found["run"])
            return found

    async def _follow(self) -> None:
        listening = asyncio.create_task(self._listen())
        try:
            while not await self._look_once():
                await self._wait()
        finally:
            listening.cancel()
            self._began.set()
            self._end()

    async def _look_once(self) -> bool:
        """Look, and tell what was found; true when there is nothing more to come."""
        try:
            return await self._look()
        except Exception:
            # The database is away, or busy: the page asks by itself and is told when it cannot be answered.
            logger.warning("A run could not be read for the pages that show it.", exc_info=True)
            return False

    async def _look(self) -> bool:
        began = time.monotonic()
        age = (began - self._head_at) if self._pulse is not None else 0.0
        wants_head = age >= max(HEAD_SECONDS, HEAD_SHARE * self._head_took)
        is_stale = wants_head and age >= HEAD_AGAIN_SECONDS
        is_whole = self._hears_all or began - self._looked_at >= self._interval
        named, self._named, self._hears_all = self._named, set(), False
        if is_whole:
            named, self._looked_at = set(), began
        found = await database_sync_to_async(self._read)(named, wants_head=wants_head, is_stale=is_stale)
        if found is None:
            await self._tell({"type": "gone"}, is_last=True)
            return True
        is_first = self._pulse is None
        self._pulse, self._seen = found.pulse, found.seen
        if found.has_head:
            self._head_at, self._head_took, self._owes_head = time.monotonic(), time.monotonic() - began, False
        elif found.message is not None:
            self._owes_head = True
        if is_first:
            self._head_at = began
            self._began.set()
        elif found.message is not None:
            self._sent_at = time.monotonic()
            await self._tell(found.message)
        if found.pulse.is_over:
            await self._tell({"type": "finished"}, is_last=True)
        return found.pulse.is_over

    def _read(self, named: Collection[int], *, wants_head: bool = False, is_stale: bool = False) -> _Found | None:
        """Read in a thread: the steps that events named, or else whatever changed; one query where nothing did."""
        pulse = last = self._pulse
        if not named or last is None:
            pulse, named = pulse_of(self.run_id), ()
        if pulse is None:
            return None
        if last is None:
            return _Found(pulse, None, dict(self._versions(pulse)), has_head=False)
        if not named and not pulse.differs_from(last) and not self._owes_head and not is_stale:
            return _Found(pulse, None, self._seen, has_head=False)
        seen = dict(self._seen) if named else dict(self._versions(last))
        changed = named or [pk for pk, version in seen.items() if self._seen.get(pk) != version]
        with translation.override(self.language):
            nodes = steps_named(self.run_id, changed) if len(changed) <= MOST_BRIEFLY else []
            news = [node for node in nodes if self._seen.get(node.pk) != node.version]
            seen |= {node.pk: node.version for node in news}
            message: dict[str, Any] = {"type": "changes"}
            if not named:
                message["as_of"] = timestamp(pulse.now)
            if len(changed) > MOST_BRIEFLY:
                message["type"] = "reload"
            elif len(news) > MOST_DETAILED:
                message["brief"] = briefly(news)
            else:
                message["steps"] = [told(node) for node in news]
            wants_head = wants_head or pulse.is_over or not (news or named)
            if wants_head and (run := _run(self.run_id)) is not None:
                message["run"] = head_of(run)
        head, self._head = self._head, message.get("run", self._head)
        has_news = bool(changed and (news or message["type"] == "reload")) or head != self._head
        return _Found(pulse, message if has_news else None, seen, has_head=wants_head)

    def _versions(self, pulse: Pulse) -> Iterable[tuple[int, int]]:
        """The versions of the steps that changed since then, or a little before."""
        return changed_steps(self.run_id, pulse.now).values_list("pk", "version")[: 2 * MOST_BRIEFLY]

    async def _tell(self, message: dict[str, Any], *, is_last: bool = False) -> None:
        text = json.dumps(message, separators=(",", ":"))
        for listener in tuple(self._listeners):
            try:
                await listener(text, is_last)
            except Exception:  # noqa: BLE001 - it has gone, which is its own affair
                self.leave(listener)

    async def _wait(self) -> None:
        """Wait for an event, or until it is time to look without one."""
        pause = self._interval - (time.monotonic() - self._looked_at)
        if self._owes_head:
            pause = min(pause, max(HEAD_SECONDS, HEAD_SHARE * self._head_took) - (time.monotonic() - self._head_at))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(pause, TOGETHER_SECONDS)):
                await self._woken.wait()
        rest = MESSAGE_SECONDS - (time.monotonic() - self._sent_at)
        await asyncio.sleep(max(TOGETHER_SECONDS, rest))
        self._woken.clear()

    # Events -----------------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        """Be woken by events, as long as there is a layer; again after one that failed."""
        is_told = False
        while True:
            try:
                async with self._group() as receive:
                    if receive is None:
                        return
                    while True:
                        self._hear(await receive())
            except Exception as exc:  # noqa: BLE001 - whatever a layer raises
                if not is_told:
                    logger.warning("The channel layer failed, so runs are followed in the database: %s", exc)
                is_told, self._interval = True, DATABASE_SECONDS
                await asyncio.sleep(LAYER_AGAIN_SECONDS)

    def _hear(self, message: dict[str, Any]) -> None:
        for event in message.get("events", [message]):
            if event["type"] == STEP_UPDATED and event["node_id"] is not None:
                self._named.add(event["node_id"])
            else:
                self._hears_all = True
        self._woken.set()

    @contextlib.asynccontextmanager
    async def _group(self) -> AsyncIterator[Callable[[], Awaitable[dict[str, Any]]] | None]:
        alias = configured_layer()
        if alias is None:
            yield None
            return
        layer = channel_layers[alias]
        channel, group = await layer.new_channel(), workflow_group(self.run_id)
        await layer.group_add(group, channel)
        if not isinstance(layer, InMemoryChannelLayer):
            self._interval = LAYER_SECONDS

        async def receive() -> dict[str, Any]:
            message: dict[str, Any] = await layer.receive(channel)
            return message

        try:
            yield receive
        finally:
            with contextlib.suppress(Exception):
                await layer.group_discard(group, channel)

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


def _run(run_id: UUID) -> WorkflowRun | None:
    return WorkflowRun.objects.using(get_settings().database).filter(pk=run_id).first()
