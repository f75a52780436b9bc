"""Run a coroutine from a worker: an event loop of its own, closed connections behind it, a limit on its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.engine.timer import TimeIsUp

closes_connections: ContextVar[bool] = ContextVar("baton_closes_connections", default=False)
"""Whether the event loop closes what its threads leave of connections; one that a body runs by itself does not."""


def run_async(connection: BaseDatabaseWrapper, work: Callable[[], Awaitable[Any]], *, seconds: float | None) -> Any:
    """Await something in an event loop of its own.

    Args:
        connection: To Baton's database. In an open transaction, as in a test, the coroutine's queries come back to this
            thread and its connection; else they have connections of their own, which are closed behind them.
        work: Gives what is awaited.
        seconds: Its limit, or None.

    Raises:
        TimeIsUp: It took longer, whatever it made of being cancelled for that.
    """
    if connection.in_atomic_block:
        return async_to_sync(_limited)(work, seconds)
    return asyncio.run(_limited(lambda: _with_own_connections(work), seconds))


async def _with_own_connections(work: Callable[[], Awaitable[Any]]) -> Any:
    # A caller's own context, as of an ASGI view that drains, names a thread that is waiting for us.
    SyncToAsync.thread_sensitive_context.set(ThreadSensitiveContext())
    closes_connections.set(True)
    try:
        return await work()
    finally:
        await sync_to_async(connections.close_all)()


async def _limited(work: Callable[[], Awaitable[Any]], seconds: float | None) -> Any:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            returned = await work()
    except BaseException:
        if limit.expired():
            raise TimeIsUp from None
        raise
    if limit.expired():
        raise TimeIsUp
    return returned
