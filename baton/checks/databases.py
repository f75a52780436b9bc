"""Checks of the databases that hold Baton's tables and the broker's messages."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004 - Django's name for it

from baton.checks.configured import (
    TAG,
    databases,
    databases_in_use,
    joined,
    listed,
    options_of,
    usable_settings,
    vendor_of,
)
from baton.conf import is_number

OLDEST_SQLITE = (3, 35)
BUSY_SQLITE_SECONDS = 5
READ_COMMITTED = 2


@register(TAG)
def check_database_is_configured(**kwargs: Any) -> Iterator[CheckMessage]:
    alias = usable_settings().database
    if alias not in databases():
        yield Error(
            f"BATON['DATABASE'] is {alias!r}, which is not in DATABASES.",
            hint=f"Use one of: {listed(databases()) or 'none is configured'}.",
            id="baton.E005",
        )


@register(TAG)
def check_database_engine(**kwargs: Any) -> Iterator[CheckMessage]:
    alias = usable_settings().database
    vendor = vendor_of(databases().get(alias, {}))
    if vendor not in (None, "sqlite", "postgresql"):
        yield Error(
            f"The database {alias!r} of Baton's tables is of the kind {vendor!r}, whose SQL Baton does not speak.",
            hint="Point BATON['DATABASE'] at PostgreSQL or SQLite.",
            id="baton.E006",
        )


@register(TAG)
def check_sqlite_version(**kwargs: Any) -> Iterator[CheckMessage]:
    found = sqlite3.sqlite_version_info
    if vendor_of(databases().get(usable_settings().database, {})) == "sqlite" and found < OLDEST_SQLITE:
        yield Error(
            f"SQLite is version {'.'.join(map(str, found))}, and Baton's statements need 3.35 (RETURNING).",
            hint="Use a Python that is linked to SQLite 3.35 or newer, or PostgreSQL.",
            id="baton.E007",
        )


@register(TAG)
def check_connection_pools(**kwargs: Any) -> Iterator[CheckMessage]:
    for alias, database in databases_in_use().items():
        if options_of(database).get("pool"):
            yield Error(
                f"DATABASES[{alias!r}]['OPTIONS']['pool'] is set, and the processes of a cluster share its sockets.",
                hint="Remove 'pool' and set CONN_MAX_AGE instead.",
                id="baton.E008",
            )


@register(TAG)
def check_isolation_level(**kwargs: Any) -> Iterator[CheckMessage]:
    alias = usable_settings().database
    level = options_of(databases().get(alias, {})).get("isolation_level")
    if is_number(level) and level > READ_COMMITTED:
        yield Error(
            f"DATABASES[{alias!r}]['OPTIONS']['isolation_level'] is stricter than READ COMMITTED: "
            "two workers that settle neighbours would fail each other.",
            hint="Remove 'isolation_level', or give Baton an alias of its own without it (BATON['DATABASE']).",
            id="baton.E009",
        )


@register(TAG)
def check_connections_are_kept(**kwargs: Any) -> Iterator[CheckMessage]:
    for alias, database in databases_in_use().items():
        age = database.get("CONN_MAX_AGE", 0)
        if age is not None and not age and vendor_of(database) in ("postgresql", "mysql"):
            yield Warning(
                f"DATABASES[{alias!r}]['CONN_MAX_AGE'] is 0: workers connect anew for every message.",
                hint="Set CONN_MAX_AGE to 600 or None, and CONN_HEALTH_CHECKS to True.",
                id="baton.W001",
            )


@register(TAG)
def check_sqlite_options(**kwargs: Any) -> Iterator[CheckMessage]:
    for alias, database in databases_in_use().items():
        lacking = list(_lacking_sqlite_options(options_of(database))) if vendor_of(database) == "sqlite" else []
        if lacking:
            yield Warning(
                f"Workers that write at the same time would get 'database is locked': "
                f"DATABASES[{alias!r}]['OPTIONS'] lacks {joined(lacking)}.",
                hint='Use "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, '
                '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}.',
                id="baton.W002",
            )


def _lacking_sqlite_options(options: dict[Any, Any]) -> Iterator[str]:
    if not re.search(r"journal_mode\s*[=(]\s*['\"]?wal\b", _text(options.get("init_command")), re.IGNORECASE):
        yield "WAL (init_command)"
    if _text(options.get("transaction_mode")).upper() not in ("IMMEDIATE", "EXCLUSIVE"):
        yield "immediate transactions (transaction_mode)"
    timeout = options.get("timeout")
    if not is_number(timeout) or timeout < BUSY_SQLITE_SECONDS:
        yield f"a timeout of at least {BUSY_SQLITE_SECONDS} seconds"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
