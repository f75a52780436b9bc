"""One sweeper at a time, over any number of hosts: a row with a lease."""

from __future__ import annotations

import time
from typing import Self
from uuid import uuid4

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.gate import worker_name

LEASE_SECONDS = 20.0

_FIRST = sql.Statement("INSERT INTO baton_sweeplease (id, holder, cursor) VALUES (1, '', 0) ON CONFLICT DO NOTHING")
_TAKE = sql.Statement("""
    UPDATE baton_sweeplease SET holder = %s, until = <later>
    WHERE id = 1 AND (holder = '' OR holder = %s OR until IS NULL OR until <= <asof>)
""")
_GIVE_BACK = sql.Statement("""
    UPDATE baton_sweeplease SET holder = '', until = NULL, swept_at = <now> WHERE id = 1 AND holder = %s
""")


class SweeperLease:
    """Held for the time of a pass; a sweeper that died gives it up after some seconds."""

    def __init__(self) -> None:
        self._holder = f"{worker_name()}:{uuid4().hex[:8]}"
        self._taken_at = 0.0
        self.is_ours = False

    def __enter__(self) -> Self:
        sql.execute(self._connection, _FIRST, [])
        self.is_ours = self._take()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        if self.is_ours:
            sql.execute(self._connection, _GIVE_BACK, [self._holder])

    def renew(self) -> bool:
        """Hold it for another while, once a good part of this one is over.

        Returns:
            Whether it is still ours.
        """
        if self.is_ours and time.monotonic() - self._taken_at > LEASE_SECONDS / 5:
            self.is_ours = self._take()
        return self.is_ours

    def _take(self) -> bool:
        self._taken_at = time.monotonic()
        return sql.execute(self._connection, _TAKE, [self._holder, LEASE_SECONDS, self._holder]) > 0

    @property
    def _connection(self) -> BaseDatabaseWrapper:
        return connections[get_settings().database]
