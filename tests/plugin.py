"""The pytest plugin that brings the servers a run asks for, before Django reads its settings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

import pytest

from scripts.services import DATABASE_URL, REDIS_URL, postgres, valkey

_servers = contextlib.ExitStack()


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None]:
    """Start what is wanted and not there, and say where it is as the environment would have."""
    if os.environ.get("BATON_TEST_DB") == "postgres":
        os.environ[DATABASE_URL] = _servers.enter_context(postgres()).url
    if os.environ.get("BATON_TEST_BROKER") == "redis":
        os.environ[REDIS_URL] = _servers.enter_context(valkey()).url
    return (yield)


def pytest_unconfigure() -> None:
    """Stop what was started."""
    _servers.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is meant for the other database."""
    database = os.environ.get("BATON_TEST_DB", "sqlite")
    if any(item.iter_markers("postgres")) and database != "postgres":
        pytest.skip("needs PostgreSQL")
    if any(item.iter_markers("sqlite")) and database != "sqlite":
        pytest.skip("needs SQLite")
