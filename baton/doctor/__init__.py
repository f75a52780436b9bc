"""The doctor: looks at the real installation, and says what is wrong with it and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from baton.doctor.channel_layer import look_at_channel_layer
from baton.doctor.databases import look_at_database, look_at_migrations, look_at_sizes
from baton.doctor.findings import Finding, Severity, error
from baton.doctor.live_runs import look_at_held_steps, look_at_left_overs, look_at_ready_steps, look_at_steps
from baton.doctor.project import look_at_project
from baton.doctor.queues import look_at_broker, look_at_clocks, look_at_queues
from baton.doctor.sweeping import look_at_sweep
from baton.doctor.visit import Visit

__all__ = ["Finding", "Severity", "examine"]

logger = logging.getLogger("baton.doctor")

WAIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that is looked at."""

    what: str
    look: Callable[[Visit], Iterator[Finding]]
    needs: frozenset[str] = frozenset()
    """What must work for this to make sense; what does not is a finding already."""


_TABLES = frozenset({"settings", "tables"})
_PARTS = (
    Part(what="the settings", look=look_at_project),
    Part(what="the databases", look=look_at_database, needs=frozenset({"settings"})),
    Part(what="the migrations", look=look_at_migrations, needs=frozenset({"settings", "database"})),
    Part(what="the broker", look=look_at_broker, needs=frozenset({"settings"})),
    Part(what="the queues", look=look_at_queues, needs=_TABLES | {"broker"}),
    Part(what="the clocks", look=look_at_clocks, needs=_TABLES),
    Part(what="the sweep", look=look_at_sweep, needs=_TABLES),
    Part(what="the steps of live runs", look=look_at_steps, needs=_TABLES),
    Part(what="the steps that are ready", look=look_at_ready_steps, needs=_TABLES),
    Part(what="what should have been swept", look=look_at_left_overs, needs=_TABLES),
    Part(what="held steps", look=look_at_held_steps, needs=_TABLES),
    Part(what="the sizes of the tables", look=look_at_sizes, needs=_TABLES),
    Part(what="the channel layer", look=look_at_channel_layer, needs=frozenset({"settings"})),
)


def examine(*, wait: float = WAIT_SECONDS, tell: Callable[[str], None] | None = None) -> list[Finding]:
    """Look at the installation: settings, databases, broker, workers, sweep, live runs, tables, channel layer.

    It changes nothing. It asks the workers of each queue to sign, which puts at most one message into each.

    Args:
        wait: Seconds for which workers may take their time to answer.
        tell: Called with a line when something takes a while.

    Returns:
        What was found, the gravest first; a part that could not be looked at is a finding too.
    """
    visit = Visit(wait=wait, tell=tell or _silent)
    findings = [finding for part in _PARTS if part.needs <= visit.works for finding in _looked_at(part, visit)]
    return sorted(findings, key=lambda finding: list(Severity).index(finding.severity))


def _looked_at(part: Part, visit: Visit) -> Iterator[Finding]:
    try:
        yield from part.look(visit)
    except Exception as exc:
        logger.debug("The doctor could not look at %s.", part.what, exc_info=True)
        yield error(
            "look-failed",
            f"Could not look at {part.what}: {type(exc).__name__}: {exc}",
            fix="See to what it says, then ask again. The logger baton.doctor has the traceback at level DEBUG.",
        )


def _silent(line: str) -> None:
    """Say nothing."""
