"""The sweep: mend what a crash or a lost message left, in bounded batches, one sweeper at a time; then retention."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.conf import get_settings
from baton.sweep.backstop import (
    count_missing_bells,
    count_unannounced,
    count_unfinished,
    finish_settled_runs,
    reannounce,
    ring_for_ready,
)
from baton.sweep.held import count_vanished, count_waiting, mark_vanished, wake_waiting
from baton.sweep.invariants import check
from baton.sweep.lease import SweeperLease
from baton.sweep.rescue import (
    call_left_over_hooks,
    count_due,
    count_left_over_hooks,
    count_lost,
    ready_all_due,
    rescue_lost,
)
from baton.sweep.retention import Retention
from baton.sweep.waiters import count_stuck, mend_waiters
from baton.telemetry import rows_pruned, send, sweep_failed, sweep_finished, sweep_started, timestamp

__all__ = ["SweepReport", "check", "sweep"]

logger = logging.getLogger("baton.sweep")

PASS_SECONDS = 60.0
"""After so long no part begins another batch; each has made one."""
SCHEDULED_PASS_SECONDS = 20.0
"""The same as a task of django-q2, which may have a timeout."""

Progress = Callable[[str, int], None]


@dataclass(slots=True, kw_only=True)
class SweepReport:
    """What one pass did, as counts of rows."""

    busy: bool = False
    """True when another sweeper was at work: nothing was done, or no more once it had taken over."""
    dry_run: bool = False
    """True when nothing was changed: the counts say what a pass would have begun with."""
    rescued: int = 0
    """Steps taken from workers that vanished."""
    readied: int = 0
    """Steps whose time had come."""
    mended: int = 0
    """Waiters that were cancelled or readied because nothing would have done it."""
    marked: int = 0
    """Calls whose worker vanished: nobody knows whether they were answered and paid."""
    held: int = 0
    """Held steps that can go on, for there is money or a word, and holds of steps that are not held any more."""
    hooks: int = 0
    """Hooks that were left over."""
    finished: int = 0
    """Runs whose ending nobody had noted."""
    announced: int = 0
    """Endings that nobody had announced."""
    rung: int = 0
    """Bells."""
    pruned: int = 0
    """Rows deleted by retention."""
    tables: dict[str, int] = field(default_factory=dict)
    """The same for each table, by the name of its model."""
    seconds: float = 0.0
    """How long the pass took."""
    errors: dict[str, str] = field(default_factory=dict)
    """Parts that raised, with what they raised; the others ran all the same."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return asdict(self)

    @property
    def work(self) -> int:
        """How many rows were mended."""
        mended = (self.rescued, self.readied, self.mended, self.marked, self.held)
        return sum(mended) + self.hooks + self.finished + self.announced


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One thing that a pass looks after."""

    work: Callable[[BaseDatabaseWrapper], Iterator[int]]
    """Works in batches and yields the rows of each."""
    count: Callable[[BaseDatabaseWrapper], int]
    """Counts what there is to do."""


_PARTS = {
    "rescued": _Part(work=rescue_lost, count=count_lost),
    "readied": _Part(work=ready_all_due, count=count_due),
    "mended": _Part(work=mend_waiters, count=count_stuck),
    "marked": _Part(work=mark_vanished, count=count_vanished),
    "held": _Part(work=wake_waiting, count=count_waiting),
    "hooks": _Part(work=call_left_over_hooks, count=count_left_over_hooks),
    "finished": _Part(work=finish_settled_runs, count=count_unfinished),
    "announced": _Part(work=reannounce, count=count_unannounced),
    "rung": _Part(work=ring_for_ready, count=count_missing_bells),
}


class _OvertakenError(Exception):
    """Another sweeper has the lease now."""


def sweep(
    *, prune: bool = False, dry_run: bool = False, progress: Progress | None = None, seconds: float = PASS_SECONDS
) -> SweepReport:
    """Make one pass.

    Args:
        prune: Delete old runs this time, by 30 days where ``RETENTION_DAYS`` is None.
        dry_run: Change nothing, and count what there is to do.
        progress: Called with the name of the part and a number of rows after each batch that had any.
        seconds: After so long no part begins another batch.

    Returns:
        What was done. A part that fails does not stop the others, and is named in ``errors``.
    """
    connection = connections[get_settings().database]
    made = _Pass(
        connection=connection,
        retention=Retention.of_settings(connection, asked=prune, is_dry=dry_run),
        report=SweepReport(dry_run=dry_run),
        progress=progress or (lambda _name, _count: None),
        started=time.monotonic(),
        seconds=seconds,
    )
    try:
        if dry_run:
            made.count()
        else:
            made.work()
    except Exception as exc:
        made.tell_failure("sweep", exc, started=made.started)
        raise
    return made.report


def scheduled_sweep() -> None:
    """One pass, as the django-q2 schedule calls it."""
    sweep(seconds=SCHEDULED_PASS_SECONDS)


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One pass while it is made."""

    connection: BaseDatabaseWrapper
    retention: Retention
    report: SweepReport
    progress: Progress
    started: float
    seconds: float

    def work(self) -> None:
        """Run the parts one after the other, under the lease."""
        with SweeperLease() as lease:
            if not lease.is_ours:
                self.report.busy = True
                return
            send(sweep_started, timestamp=timestamp())
            try:
                for name, part in _PARTS.items():
                    self._run(name, part.work(self.connection), lease)
                self._prune(lease)
            except _OvertakenError:
                self.report.busy = True
                logger.warning("This sweep stood still for so long that another has taken over.")
        self._end()
        send(
            sweep_finished,
            timestamp=timestamp(),
            duration=self.report.seconds,
            count=self.report.work,
            report=self.report.as_dict(),
        )

    def count(self) -> None:
        """Count what there is to do, part by part."""
        for name, part in _PARTS.items():
            self._run(name, _counted(part, self.connection))
        self._run("pruned", self.retention.batches())
        self.report.tables = dict(self.retention.deleted)
        self._end()

    def tell_failure(self, part: str, exc: Exception, *, started: float) -> str:
        """Tell whoever listens that a part failed; return what it raised, in a line."""
        error = f"{type(exc).__name__}: {exc}"
        duration = round(time.monotonic() - started, 4)
        if not self.report.dry_run:
            send(sweep_failed, timestamp=timestamp(), duration=duration, part=part, error=error)
        return error

    def _prune(self, lease: SweeperLease) -> None:
        try:
            self._run("pruned", self.retention.batches(), lease)
        finally:
            self.report.tables = dict(self.retention.deleted)
            if self.report.pruned:
                logger.info(
                    "Retention deleted %s rows: %s",
                    self.report.pruned,
                    self.report.tables,
                    extra={"count": self.report.pruned, "tables": self.report.tables},
                )
                send(rows_pruned, timestamp=timestamp(), count=self.report.pruned, tables=self.report.tables)

    def _run(self, name: str, batches: Iterator[int], lease: SweeperLease | None = None) -> None:
        started = time.monotonic()
        try:
            with closing(batches):  # type: ignore[type-var] # they are generators
                for count in batches:
                    self._note(name, count, lease)
                    if time.monotonic() - self.started > self.seconds:
                        break
        except _OvertakenError:
            raise
        except Exception as exc:
            logger.exception("The part %r of the sweep failed.", name, extra={"part": name})
            self.report.errors[name] = self.tell_failure(name, exc, started=started)
            if not self.connection.in_atomic_block:
                # The parts that follow get another connection where this one is broken.
                self.connection.close_if_unusable_or_obsolete()
        # A part that found nothing has taken its time, too.
        if lease is not None and not lease.renew():
            raise _OvertakenError

    def _note(self, name: str, count: int, lease: SweeperLease | None) -> None:
        setattr(self.report, name, getattr(self.report, name) + count)
        if count:
            self.progress(name, count)
        if lease is not None and not lease.renew():
            raise _OvertakenError

    def _end(self) -> None:
        self.report.seconds = round(time.monotonic() - self.started, 4)


def _counted(part: _Part, connection: BaseDatabaseWrapper) -> Iterator[int]:
    yield part.count(connection)
