"""The database's clock, by which leases and due times are compared, and how far this host's is from it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from django.db.backends.base.base import BaseDatabaseWrapper

from baton.engine import statements as sql

_NOW = sql.Statement("SELECT <now>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the clocks said."""

    at: datetime
    """The database's time."""
    offset: float
    """By how many seconds this host's clock is ahead of the database's; on SQLite they are one clock."""


def read_clock(connection: BaseDatabaseWrapper) -> Reading:
    """Ask the database for its time; the quicker of two answers tells the difference better."""
    connection.ensure_connection()
    _, reading = min((_read(connection) for _ in range(2)), key=lambda found: found[0])
    return reading


def _read(connection: BaseDatabaseWrapper) -> tuple[float, Reading]:
    asked = time.time()
    ((answer,),) = sql.fetch(connection, _NOW, [])
    answered = time.time()
    at = sql.as_datetime(answer)
    assert at is not None  # noqa: S101 - a clock always says something
    return answered - asked, Reading(at=at, offset=round((asked + answered) / 2 - at.timestamp(), 3))
