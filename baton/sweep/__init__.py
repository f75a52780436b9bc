"""The sweep: mend what a crash or a lost message left, in bounded batches, one sweeper at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from baton.sweep.backstop import finish_settled_runs, reannounce, ring_for_ready
from baton.sweep.invariants import check
from baton.sweep.lease import SweeperLease
from baton.sweep.rescue import call_left_over_hooks, ready_all_due, rescue_lost
from baton.sweep.waiters import mend_waiters

__all__ = ["SweepReport", "check", "sweep"]

logger = logging.getLogger("baton.sweep")


@dataclass(slots=True, kw_only=True)
class SweepReport:
    """What one pass did, as counts of rows."""

    busy: bool = False
    """True when another sweeper was at work: nothing was done."""
    rescued: int = 0
    """Steps taken from workers that vanished."""
    readied: int = 0
    """Steps whose time had come."""
    mended: int = 0
    """Waiters that were cancelled or readied because nothing would have done it."""
    hooks: int = 0
    """Hooks that were left over."""
    finished: int = 0
    """Runs whose ending nobody had noted."""
    announced: int = 0
    """Endings that nobody had announced."""
    rung: int = 0
    """Bells."""
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
        return self.rescued + self.readied + self.mended + self.hooks + self.finished + self.announced


_PARTS: dict[str, Callable[[], int]] = {
    "rescued": rescue_lost,
    "readied": ready_all_due,
    "mended": mend_waiters,
    "hooks": call_left_over_hooks,
    "finished": finish_settled_runs,
    "announced": reannounce,
    "rung": ring_for_ready,
}


def sweep() -> SweepReport:
    """Make one pass.

    Returns:
        What was done. A part that fails does not stop the others, and is named in ``errors``.
    """
    report = SweepReport()
    started = time.monotonic()
    with SweeperLease() as lease:
        if not lease.is_ours:
            report.busy = True
            return report
        for name, part in _PARTS.items():
            try:
                setattr(report, name, part())
            except Exception as exc:
                logger.exception("The part %r of the sweep failed.", name)
                report.errors[name] = f"{type(exc).__name__}: {exc}"
            lease.renew()
    report.seconds = round(time.monotonic() - started, 4)
    return report


def scheduled_sweep() -> None:
    """One pass, as the django-q2 schedule calls it."""
    sweep()
