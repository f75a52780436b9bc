"""Fixtures that every room's tests share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection, connections
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from scripts.services import REDIS_URL, Postgres
from tests.llm import scripted
from tests.processes import Manage, RealCluster
from tests.utils import wait_until

StartCluster = Callable[..., RealCluster]

# A slow machine is no failure, and our fixtures leave nothing behind between two examples.
hypothesis_settings.register_profile(
    "baton", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
hypothesis_settings.load_profile("baton")


@pytest.fixture(autouse=True)
def _empty_broker() -> None:
    """Forget the messages of the test before; the ORM broker's go with the database's rows."""
    if settings.Q_CLUSTER.get("redis"):
        import redis

        with redis.Redis.from_url(os.environ[REDIS_URL]) as client:
            client.flushdb()


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> None:
    """Forget what pages keep for some seconds: every room has tests that open them."""
    cache.clear()


@pytest.fixture(autouse=True)
def _empty_script() -> Iterator[None]:
    """Forget what a test had its provider answer and what was called: every room's tests have steps that call."""
    yield
    left = [*scripted.SCRIPT, *scripted.AFTER]
    for each in (scripted.SCRIPT, scripted.CALLS, scripted.AFTER):
        each.clear()
    assert not left, "the script of a test was not played to its end"


@pytest.fixture
def prices(settings) -> None:
    """The prices of two models, and nobody else's."""
    settings.BATON = {**settings.BATON, "PRICES": scripted.PRICES, "CURRENCY": "EUR"}


def end_sessions() -> None:
    """Wait until PostgreSQL has ended what killed processes left: a statement of theirs can deadlock with the flush."""
    if connection.vendor != "postgresql":
        return

    def others() -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            return list(cursor.fetchall())

    wait_until(lambda: not others(), what="the end of the killed processes' sessions")


@pytest.fixture
def manage(transactional_db: None) -> Iterator[Manage]:
    """Management commands as processes of their own, on the test database."""
    runner = Manage()
    yield runner
    runner.close()
    end_sessions()


@pytest.fixture
def real_cluster(transactional_db: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartCluster]:
    """Start real clusters on the test database.

    `cluster = real_cluster(queue="slow", workers=1)`

    Keyword arguments: `queue`, `workers`, `wait=False` not to wait until they are ready, and those of
    `tests.processes.child_environment`. Every process of every cluster is killed after the test.
    """
    clusters: list[RealCluster] = []

    def start(*, queue: str | None = None, workers: int = 2, wait: bool = True, **environment: Any) -> RealCluster:
        changes = {**(environment.pop("q_cluster", None) or {}), "workers": workers}
        if queue is not None:
            changes["ALT_CLUSTERS"] = {**settings.Q_CLUSTER["ALT_CLUSTERS"], queue: {"workers": workers}}
        cluster = RealCluster(tmp_path_factory.mktemp("cluster"), queue=queue, q_cluster=changes, **environment)
        clusters.append(cluster)
        if wait:
            cluster.wait_until_ready(workers)
        return cluster

    yield start
    for cluster in clusters:
        cluster.kill()
    end_sessions()


@pytest.fixture
def invariants(db: None) -> Iterator[None]:
    """Assert, after the test, that no invariant of the engine is broken."""
    yield
    from baton.sweep import check

    assert check() == []


@pytest.fixture
def restartable_postgres(transactional_db: None) -> Iterator[Postgres]:
    """A migrated PostgreSQL of the test's own behind the alias `default`, to be stopped and started at will."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("needs PostgreSQL")
    database = connections["default"].settings_dict
    usual = {key: database[key] for key in ("NAME", "USER", "PASSWORD", "HOST", "PORT")}
    with Postgres() as server:
        connections.close_all()
        database.update(NAME="postgres", USER="baton", PASSWORD="", HOST="127.0.0.1", PORT=server.port)
        try:
            call_command("migrate", verbosity=0)
            yield server
        finally:
            connections.close_all()
            database.update(usual)


@pytest.fixture
def no_table_of_sightings(transactional_db: None) -> Iterator[None]:
    """Who was seen serving a queue cannot be read."""
    with _away("baton_queuesighting"):
        yield


@pytest.fixture
def no_sweeper_s_lease(transactional_db: None) -> Iterator[None]:
    """No sweep can begin."""
    with _away("baton_sweeplease"):
        yield


@contextlib.contextmanager
def _away(table: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO away")
    yield
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE away RENAME TO {table}")


@pytest.fixture
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent
