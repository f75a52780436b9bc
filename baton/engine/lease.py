"""The heartbeat: one sleeping thread per process renews the leases of steps that run for long."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.conf import get_settings
from baton.engine import statements as sql
from baton.engine.gate import Claim
from baton.engine.step_log import LineBuffer

logger = logging.getLogger("baton.engine")


@dataclass(slots=True, eq=False)
class Holding:
    """A step that this process is running."""

    claim: Claim
    ends_at: float | None
    """When renewing stops, by the monotonic clock: a hung step must not live for ever."""
    renewed_at: float = field(default_factory=time.monotonic)
    lost: bool = False
    """True once the row is no longer ours."""
    lines: LineBuffer = field(init=False)
    """What the body wrote to its log."""

    def __post_init__(self) -> None:
        """Begin an empty log."""
        self.lines = LineBuffer(self.claim.about, fence=self.claim.fence)


class Heartbeat:
    """Keeps the leases of what this process runs, and none beyond the step's timeout and a grace.

    The thread starts with a step, after the worker was forked, and ends when it finds the process idle.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._held: dict[int, Holding] = {}
        self._thread: threading.Thread | None = None

    def hold(self, claim: Claim, *, timeout: float | None) -> Holding:
        """Begin to keep a step's lease."""
        if connections[get_settings().database].in_atomic_block:
            # In a transaction, as in a test, no other connection sees the claim, to renew it or to take it.
            return Holding(claim, None)
        if self._pid != os.getpid():
            # A fork copies neither threads nor who holds a lock.
            Heartbeat.__init__(self)
        ends_at = None if timeout is None else time.monotonic() + timeout + get_settings().timeout_grace_seconds
        holding = Holding(claim, ends_at)
        with self._lock:
            self._held[id(holding)] = holding
            if self._thread is None or not self._thread.is_alive():
                settings = get_settings()
                self._thread = threading.Thread(
                    target=self._run,
                    args=(settings.database, settings.heartbeat_interval),
                    name="baton-heartbeat",
                    daemon=True,
                )
                self._thread.start()
        return holding

    def release(self, holding: Holding) -> None:
        """Stop keeping it."""
        with self._lock:
            self._held.pop(id(holding), None)

    def _run(self, alias: str, interval: float) -> None:
        try:
            while True:
                time.sleep(min(interval, 1.0))
                now = time.monotonic()
                with self._lock:
                    if not self._held:
                        # An idle process gives thread and connection back; the next step starts them anew.
                        self._thread = None
                        return
                    aged = [each for each in self._held.values() if now - each.renewed_at >= interval and not each.lost]
                for holding in aged:
                    if holding.ends_at is None or now < holding.ends_at:
                        self._renew(connections[alias], holding)
        finally:
            connections[alias].close()

    def _renew(self, connection: BaseDatabaseWrapper, holding: Holding) -> None:
        claim = holding.claim
        try:
            renewed = renew(connection, claim)
        except Exception:
            logger.exception(
                "The lease of step %r (node %s) could not be renewed.", claim.name, claim.node_id, extra=claim.about
            )
            connection.close()
            return
        holding.renewed_at = time.monotonic()
        holding.lost = not renewed
        if renewed:
            holding.lines.write(connection, patiently=False)


def renew(connection: BaseDatabaseWrapper, claim: Claim) -> bool:
    """Renew a lease, unless the step has been taken from this worker."""
    return sql.execute(connection, sql.RENEW, [get_settings().lease_seconds, claim.node_id, claim.fence]) > 0


heartbeat = Heartbeat()
