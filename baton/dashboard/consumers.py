"""Sockets: the live view of a run, and of the list of runs.

What is said, in JSON. The page begins, says its time of reading, and asks again every quarter of a minute::

    {"type": "since", "as_of": "2026-11-21T14:32:23.118205Z"}

Anything else closes the socket. It is answered by ``changes`` with the same keys that the JSON view gives::

    {"type": "changes", "is_answer": true, "as_of": "…", "run": {…}, "steps": [{"id": 7, "version": 4, "state": …}, …]}

or by ``{"type": "reload"}``, where more changed than a page applies. From the first answer on ``changes`` come without
being asked for, at most five a second. Then ``run`` may be absent, and instead of ``steps`` there may be ``brief``:
``[id, name, version, number of the state]`` for each of very many steps. A step whose version is not newer than the one
that is shown is to be dropped, for what is said may overlap.

The last message is ``{"type": "finished"}`` or ``{"type": "gone"}``, for a run that was removed. A list of runs hears
``{"type": "runs", "counts": {…}}`` whenever these have changed, and reads itself again. Codes of closing: 1000 nothing
more to come, 4400 an unknown message, 4403 not permitted (any more), 4429 asked too often, 4500 the question could not
be answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID
from weakref import WeakKeyDictionary

from channels.auth import get_user
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings as django_settings
from django.db.models import Model
from django.utils import translation

from baton.conf import get_settings
from baton.dashboard.changes import changes_since, counts_of_all, read_as_of
from baton.dashboard.following import Follower, follower_of
from baton.models import WorkflowRun

logger = logging.getLogger("baton.dashboard")

CHECK_SECONDS = 60.0
"""How often it is checked again that the reader may look."""
LIST_SECONDS = 3.0
"""How often the list of runs looks."""
_LONGEST_MESSAGE = 200
_MOST_QUESTIONS, _QUESTIONS_SECONDS = 10, 30.0
_BAD_MESSAGE, _DENIED, _TOO_OFTEN, _IN_TROUBLE = 4400, 4403, 4429, 4500


class _LiveConsumer(AsyncWebsocketConsumer):
    """Lets in who may look, as long as they may, and hears one kind of message."""

    channel_layer_alias = "(none)"
    """What followers hear is enough: a socket of its own on the layer would end when that is away."""

    _watch: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Let in whoever may look."""
        self._asked_at: deque[float] = deque(maxlen=_MOST_QUESTIONS)
        if not await self._may_look():
            await self.close(code=_DENIED)
            return
        await self.accept()
        self._watch = asyncio.create_task(self._check_again())

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Answer the one question there is."""
        try:
            as_of = _question(text_data)
        except ValueError:
            await self.close(code=_BAD_MESSAGE)
            return
        now = time.monotonic()
        if len(self._asked_at) == _MOST_QUESTIONS and now - self._asked_at[0] < _QUESTIONS_SECONDS:
            await self.close(code=_TOO_OFTEN)
            return
        self._asked_at.append(now)
        try:
            await self.answer(as_of)
        except Exception:
            # Most likely the database is away. The page comes again, and asks over HTTP after some times in vain.
            logger.warning("A page could not be told what changed.", exc_info=True)
            await self.close(code=_IN_TROUBLE)

    async def answer(self, as_of: datetime) -> None:
        """Say what changed since then."""

    async def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run until the socket is closed; the server may cancel this, which is not the same as a disconnect."""
        try:
            await super().__call__(*args, **kwargs)
        finally:
            self.end()

    def end(self) -> None:
        """End what was begun."""
        if self._watch is not None:
            self._watch.cancel()

    async def say(self, **message: Any) -> None:
        """Send a message."""
        await self.send(text_data=json.dumps(message, separators=(",", ":")))

    @property
    def language(self) -> str:
        """The language of the page, which says it in the address."""
        asked = parse_qs(self.scope.get("query_string", b"").decode("ascii", "replace")).get("lang", [""])[0]
        try:
            return translation.get_supported_language_variant(asked)
        except LookupError:
            return str(django_settings.LANGUAGE_CODE)

    def may_look(self, user: Any) -> bool:
        """Whether somebody may look, as the admin asks for its pages: staff who may see runs.

        Override it to let in others; it is called in a thread, so it may ask the database. Nobody is ``None``.
        """
        if user is None or not (user.is_active and user.is_staff):
            return False
        return bool(user.has_perm("baton.view_workflowrun") or user.has_perm("baton.change_workflowrun"))

    async def _may_look(self) -> bool:
        return await database_sync_to_async(self.may_look)(self.scope.get("user"))

    async def _check_again(self) -> None:
        """Ask from time to time whether the session still is one and its user still may look."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            with contextlib.suppress(Exception):  # a database that is away for a moment puts nobody out
                if not await self._still_may_look():
                    await self.close(code=_DENIED)
                    return

    async def _still_may_look(self) -> bool:
        session = self.scope.get("session")
        if session is None:  # somebody's own middleware, which knows users and no sessions
            return await database_sync_to_async(lambda: self.may_look(_as_stored(self.scope.get("user"))))()
        fresh = await database_sync_to_async(lambda: session.__class__(session.session_key))()
        user: Any = await get_user({"session": fresh})  # type: ignore[typeddict-item]
        return await database_sync_to_async(self.may_look)(user)


class RunConsumer(_LiveConsumer):
    """The live view of a run; its address names the run as ``run_id``, a UUID."""

    _follower: Follower | None = None
    _held_back: list[tuple[str, bool]] | None = None

    @property
    def run_id(self) -> UUID:
        """The run that the address names."""
        found: UUID = self.scope["url_route"]["kwargs"]["run_id"]
        return found

    async def answer(self, as_of: datetime) -> None:
        """Say what changed since then, and from then on what changes."""
        is_new = self._follower is None
        if self._follower is None:
            # What is heard before the answer is told after it.
            self._held_back = []
            self._follower = follower_of(self.run_id, self.language)
            await self._follower.join(self.hear)

        async def read(head: dict[str, Any] | None) -> dict[str, Any] | None:
            return await database_sync_to_async(_changes)(self.run_id, as_of, self.language, head)

        found = await self._follower.answer(as_of, read, is_new=is_new)
        if found is None:
            await self.say(type="gone")
            await self.close()
            return
        await self.say(**({"type": "reload"} if "reload" in found else {"type": "changes", "is_answer": True, **found}))
        held_back, self._held_back = self._held_back or [], None
        for text, is_last in held_back:
            await self.hear(text, is_last)

    async def hear(self, text: str, is_last: bool) -> None:
        """Pass on what the follower tells."""
        if self._held_back is not None:
            self._held_back.append((text, is_last))
            return
        await self.send(text_data=text)
        if is_last:
            await self.close()

    def end(self) -> None:
        """Follow no more."""
        if self._follower is not None:
            self._follower.leave(self.hear)
        super().end()

    async def _may_look(self) -> bool:
        return await super()._may_look() and await database_sync_to_async(_exists)(self.run_id)


class RunsConsumer(_LiveConsumer):
    """The live view of the list of runs: when it is worth while to read it again."""

    _telling: asyncio.Task[None] | None = None

    async def answer(self, as_of: datetime) -> None:
        """Say how many runs and steps are at work, and again whenever that changes."""
        if self._telling is not None:
            self._telling.cancel()
        self._telling = asyncio.create_task(self._tell())

    def end(self) -> None:
        """Count no more."""
        if self._telling is not None:
            self._telling.cancel()
        super().end()

    async def _tell(self) -> None:
        last: Mapping[str, Any] | None = None
        while True:
            with contextlib.suppress(Exception):  # a database that is away for a moment
                counts = await _counts_of_loops.setdefault(asyncio.get_running_loop(), _Counts()).read()
                if counts != last:
                    await self.say(type="runs", counts=counts)
                last = counts
            await asyncio.sleep(LIST_SECONDS)


class _Counts:
    """What the sockets of a process say of all runs, read once for all of them."""

    def __init__(self) -> None:
        self._reading = asyncio.Lock()
        self._read_at = -math.inf
        self._counts: Mapping[str, Any] = {}

    async def read(self) -> Mapping[str, Any]:
        async with self._reading:
            if time.monotonic() - self._read_at >= LIST_SECONDS / 2:
                self._counts, self._read_at = await database_sync_to_async(counts_of_all)(), time.monotonic()
            return self._counts


_counts_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Counts] = WeakKeyDictionary()


def _as_stored(user: Any) -> Any:
    """The user as the database has them now: an object remembers its permissions."""
    if not isinstance(user, Model) or user.pk is None:
        return user
    return user.__class__._default_manager.filter(pk=user.pk).first()  # noqa: SLF001 - Django's own name


def _question(text: str | None) -> datetime:
    if text is None or len(text) > _LONGEST_MESSAGE:
        raise ValueError("That is no question.")
    message = json.loads(text)
    if not isinstance(message, dict) or message.keys() != {"type", "as_of"} or message["type"] != "since":
        raise ValueError("That is another question.")
    return read_as_of(message["as_of"])


def _exists(run_id: UUID) -> bool:
    return WorkflowRun.objects.using(get_settings().database).filter(pk=run_id).exists()


def _changes(run_id: UUID, as_of: datetime, language: str, head: dict[str, Any] | None) -> dict[str, Any] | None:
    run = WorkflowRun.objects.using(get_settings().database).filter(pk=run_id).first()
    if run is None:
        return None
    with translation.override(language):
        return changes_since(run, as_of, None if run.is_settled else head)
