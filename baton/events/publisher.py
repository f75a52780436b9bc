"""Sending events, in the calling thread where the layer is of this process, else in a thread of its own.

A channel layer may be slow, away or broken. Whatever it does, it costs the worker that has something to tell no more
than a moment, and it is told in the log once.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import math
import multiprocessing.util
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

from asgiref.sync import async_to_sync

from baton.conf import get_settings
from baton.events.messages import BATCHED_EVENTS, Event, addressed, chunks

logger = logging.getLogger("baton.events")

SEND_SECONDS = 1.0
"""How long the layer may take for one round of messages; then it counts as away."""
SLOW_SECONDS = 0.2
"""A worker that waited so long until its events were sent does not wait again for ten times as long."""
PLAIN_EVENTS = 8
"""More events than these go in one message for each group."""
PLAIN_EVENTS_AFAR = 4
"""The same where a message takes its time: every one costs the listener as much as a full one."""
PLAIN_EVENTS_A_SECOND = 32
"""Above these a second even few share a message."""
PAUSE_SECONDS = 0.05
"""How long events wait for others, while there are many."""
ENDING_SECONDS = 0.003
"""How long what may be the last step of a run waits for the finished message."""
FOLLOWING_SECONDS = 0.05
"""How long the end of a run waits for what other workers have to tell about it, at most half of the time."""
OUTAGE_SECONDS = (1.0, 2.0, 4.0)
"""How long a layer that failed is left alone, the first time, the second and from then on."""
QUEUED_EVENTS = 10_000
"""How many events wait at most; the oldest go first."""
IDLE_SECONDS = 30.0
"""After how long the thread of an idle process ends and gives its connections back."""


def publish(events: Sequence[Event], *, within: float, is_ending: bool = False, after_others: bool = False) -> None:
    """Send events to their groups. Nothing is raised.

    Args:
        events: In order.
        within: How many seconds they may wait for others, so that more go in one message. Nothing waits after a pause.
        is_ending: Return only when they were sent, or cannot be.
        after_others: Whether to let other processes send first what they have.
    """
    try:
        layer = _layer()
        if layer is None:
            return
        if _is_in_process(layer):
            _send_here(layer, events)
            return
        if after_others:
            background.let_others_send()
        background.put(events, within=within)
        if is_ending:
            background.flush()
    except Exception as exc:  # noqa: BLE001 - whatever a layer raises must not fail a step
        outage.begin(exc, lost=len(events), seconds=0.0)


def close() -> None:
    """Send what waits, a moment at most, and end the thread; the next event begins anew."""
    global background
    closing, background = background, Background()
    closing.close()
    outage.forget()


def _layer() -> Any:
    from channels.layers import get_channel_layer  # noqa: PLC0415 - only where a layer is configured

    alias = get_settings().channel_layer
    return None if alias is None else get_channel_layer(alias)


def _is_in_process(layer: Any) -> bool:
    from channels.layers import InMemoryChannelLayer  # noqa: PLC0415 - only where a layer is configured

    return isinstance(layer, InMemoryChannelLayer)


def _is_deserted(layer: Any) -> bool:
    """Whether a layer of this process surely has no listener, as in the workers of a project without Redis."""
    from channels.layers import InMemoryChannelLayer  # noqa: PLC0415 - only where a layer is configured

    return type(layer) is InMemoryChannelLayer and not layer.groups


def _send_here(layer: Any, events: Sequence[Event]) -> None:
    if _is_deserted(layer):
        return
    if outage.is_on():
        outage.drop(len(events))
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        async_to_sync(_send_in_process)(layer, events)
    else:
        # Only with DJANGO_ALLOW_ASYNC_UNSAFE; whoever waits in this loop can be woken from within it alone.
        task = loop.create_task(_send_in_process(layer, events))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


_tasks: set[asyncio.Task[None]] = set()
"""Kept, for a loop holds its tasks only weakly."""


async def _send_in_process(layer: Any, events: Sequence[Event]) -> None:
    try:
        for chunk in chunks(events):
            await _send(layer, chunk, is_bundled=len(events) > PLAIN_EVENTS)
    except TimeoutError as exc:
        outage.begin(exc, lost=len(events))
    except Exception as exc:  # noqa: BLE001 - whatever a layer raises must not fail a step
        outage.begin(exc, lost=len(events), seconds=0.0)
    else:
        outage.end()


async def _send(layer: Any, events: Sequence[Event], *, is_bundled: bool) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        for group, message in addressed(events, is_bundled=is_bundled):
            await layer.group_send(group, message)


class Outage:
    """A layer that does not take messages: told once when it begins and once when it is over."""

    def __init__(self) -> None:
        self._failures = 0
        self._lost = 0
        self._until = -math.inf

    def is_on(self) -> bool:
        """True while the layer is left alone."""
        return time.monotonic() < self._until

    def drop(self, count: int) -> None:
        """Count events that nobody will get."""
        self._lost += count

    def begin(self, error: BaseException, *, lost: int, seconds: float | None = None) -> None:
        """Leave the layer alone for a while."""
        if seconds is None:
            seconds = OUTAGE_SECONDS[min(self._failures, len(OUTAGE_SECONDS) - 1)]
        self._until = time.monotonic() + seconds
        self._failures += 1
        self._lost += lost
        if self._failures == 1:
            logger.warning(
                "The channel layer takes no events (%s); they are dropped until it does.",
                f"nothing came back within {SEND_SECONDS:g} s" if isinstance(error, TimeoutError) else repr(error),
            )

    def end(self) -> None:
        """The layer took messages."""
        if self._failures:
            failures, lost = self._failures, self._lost
            self.forget()
            logger.warning("The channel layer takes events again; %d were dropped (%d failures).", lost, failures)

    def forget(self) -> None:
        """Start anew, as with another layer."""
        self.__init__()  # type: ignore[misc]


outage = Outage()


class Allowance:
    """So much of something, and then only so much a second."""

    def __init__(self, *, most: float, a_second: float) -> None:
        self._most = most
        self._a_second = a_second
        self._left = most
        self._asked_at = time.monotonic()

    def grants(self, amount: float) -> bool:
        """Take an amount, if it is there."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._asked_at) * self._a_second)
        self._asked_at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Background:
    """A thread that sends the events of this process, at once when there are few and bundled when there are many.

    It starts with an event, after the worker was forked, and ends when it finds the process idle.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._put = 0
        self._handled = 0
        self._overflown = 0
        self._sent_at = -math.inf
        self._due_at = math.inf
        """When the events that wait are to be sent, by the monotonic clock."""
        self._is_closing = False
        self._plain = Allowance(most=PLAIN_EVENTS_A_SECOND, a_second=PLAIN_EVENTS_A_SECOND)
        self._following = Allowance(most=1.0, a_second=0.5)
        self._impatient_until = -math.inf
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._sleeps_until = -math.inf
        """Until when the thread sleeps, if nothing is due before; long past while it is awake."""

    def put(self, events: Sequence[Event], *, within: float) -> None:
        """Have events sent."""
        if self._pid != os.getpid():
            # A fork copies neither threads nor who holds a lock; what waits is sent by the parent.
            Background.__init__(self)
        with self._changed:
            if outage.is_on():
                outage.drop(len(events))
                return
            self._events.extend(events)
            self._put += len(events)
            while len(self._events) > QUEUED_EVENTS:
                self._events.popleft()
                self._handled += 1
                self._overflown += 1
            self._due_at = min(self._due_at, time.monotonic() + within, self._sent_at + PAUSE_SECONDS)
            if self._thread is None or not self._thread.is_alive():
                self._start()
            elif self._due_at < self._sleeps_until:
                self._rouse()

    def let_others_send(self) -> None:
        """Wait a moment, unless the layer is away or there was such a moment just now."""
        if not outage.is_on() and self._following.grants(FOLLOWING_SECONDS):
            time.sleep(FOLLOWING_SECONDS)

    def flush(self, timeout: float = SEND_SECONDS) -> None:
        """Wait until everything put so far was sent or dropped, or the time is up; a slow layer is not waited for."""
        asked_at = time.monotonic()
        if asked_at < self._impatient_until:
            return
        with self._changed:
            target = self._put
            self._changed.wait_for(lambda: self._handled >= target, timeout)
        waited = time.monotonic() - asked_at
        if waited > SLOW_SECONDS:
            self._impatient_until = asked_at + 10 * waited

    def close(self, timeout: float = SEND_SECONDS) -> None:
        """Send what waits, end the thread and wait for it, until the time is up. Nothing can be put any more."""
        thread = self._thread
        if self._pid != os.getpid() or thread is None:
            return
        with self._changed:
            self._is_closing = True
            if self._sleeps_until > -math.inf:
                self._rouse()
        thread.join(timeout)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="baton-events", daemon=True)
        self._thread.start()
        _close_at_exit()

    def _rouse(self) -> None:
        assert self._loop is not None  # noqa: S101 - it sleeps, so it has begun
        self._sleeps_until = -math.inf
        self._loop.call_soon_threadsafe(self._wake.set)

    def _run(self) -> None:
        try:
            asyncio.run(self._send_all())
        except Exception:
            logger.exception("The thread that sends events ended early; the next event starts it anew.")

    async def _send_all(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        while events := await self._next():
            await self._send_or_drop(events)

    async def _next(self) -> list[Event]:
        """Wait for the next round of events, none at the end."""
        idle_until = time.monotonic() + IDLE_SECONDS
        while True:
            with self._changed:
                now = time.monotonic()
                if self._events and (self._is_closing or self._due_at <= now):
                    return self._taken()
                if not self._events and (self._is_closing or idle_until <= now):
                    self._thread = None
                    return []
                until = self._due_at if self._events else idle_until
                self._sleeps_until = until
                self._wake.clear()
            await self._sleep(until - now)
            self._sleeps_until = -math.inf

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _taken(self) -> list[Event]:
        events = list(islice(self._events, BATCHED_EVENTS))
        for _ in events:
            self._events.popleft()
        self._sent_at = time.monotonic()
        if not self._events:
            self._due_at = math.inf
        return events

    async def _send_or_drop(self, events: list[Event]) -> None:
        try:
            is_plain = len(events) <= PLAIN_EVENTS_AFAR and self._plain.grants(len(events))
            layer = _layer()
            if layer is not None:
                await _send(layer, events, is_bundled=not is_plain)
        # Nobody cancels us: where that comes up, a layer has been cancelled in what it does.
        except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001 - the next events get their chance
            with self._changed:
                outage.begin(exc, lost=len(events) + len(self._events))
                self._handled += len(events) + len(self._events)
                self._events.clear()
                self._due_at = math.inf
                self._changed.notify_all()
            return
        outage.end()
        with self._changed:
            self._handled += len(events)
            overflown = self._overflown if not self._events else 0
            self._overflown -= overflown
            self._changed.notify_all()
        if overflown:
            logger.warning("%d events were dropped: more than %d waited to be sent.", overflown, QUEUED_EVENTS)


background = Background()
_closes_at_exit_of = 0


def _close_at_exit() -> None:
    """Have the last events sent. The processes of a cluster leave without calling what ``atexit`` knows."""
    global _closes_at_exit_of  # noqa: PLW0603 - once a process, and a fork makes another
    if _closes_at_exit_of != os.getpid():
        _closes_at_exit_of = os.getpid()
        atexit.register(close)
        multiprocessing.util.Finalize(None, close, exitpriority=0)
