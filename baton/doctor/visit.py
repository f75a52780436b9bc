"""What the parts of one examination share: what was asked for, and what the parts before have found to work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from baton.conf import Settings, get_settings
from baton.engine.clock import read_clock
from baton.models import WorkflowNode


@dataclass(kw_only=True)
class Visit:
    """One examination."""

    wait: float
    """Seconds for which workers may take their time to answer."""
    tell: Callable[[str], None]
    """Called with a line when something takes a while."""
    works: set[str] = field(default_factory=set)
    """What other parts rest on and was found to work: ``settings``, ``database``, ``tables``, ``broker``."""
    answered: set[str] = field(default_factory=set)
    """Queues of which a worker answered the roll, so that it had nothing else to do."""
    busy: set[str] = field(default_factory=set)
    """Queues in which a worker is at a step."""

    @property
    def settings(self) -> Settings:
        return get_settings()

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """To Baton's database."""
        return connections[self.settings.database]

    @property
    def alias(self) -> str:
        """Of Baton's database."""
        return self.settings.database

    @cached_property
    def now(self) -> datetime:
        """The database's time at the beginning."""
        return read_clock(self.connection).at

    def at_work(self) -> set[str]:
        """Queues in which somebody has renewed a lease lately; a dead worker's is older, or soon will be."""
        fresh = max(0.0, self.settings.lease_seconds - 1.5 * self.settings.heartbeat_interval)
        until = read_clock(self.connection).at + timedelta(seconds=fresh)
        nodes = WorkflowNode.objects.using(self.alias).filter(lease_until__isnull=False, lease_until__gt=until)
        return set(nodes.order_by().values_list("queue", flat=True).distinct())

    @property
    def sweep_is_late_after(self) -> float:
        """Seconds after which somebody should have swept; a crontab, whose interval nobody knows, has longer."""
        if self.settings.sweep_resident:
            return 120.0
        if self.settings.sweep_schedule:
            # The schedule counts whole minutes, and django-q2 looks at it every half minute.
            return 2 * max(60.0, self.settings.sweep_seconds) + 60.0
        return 600.0
