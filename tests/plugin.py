"""The pytest plugin that brings the servers and the folder of a run, before Django reads its settings."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from scripts import watchdog
from scripts.services import DATABASE_URL, REDIS_URL, UNCOUNTED, postgres, valkey

_brought = contextlib.ExitStack()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what one database is enough for: how commands behave as processes; what they do is tested on both.

    What looks through a browser is a suite of its own, and on PostgreSQL what kills processes and races connections.
    """
    for item in items:
        if item.nodeid.startswith("tests/browser/"):
            item.add_marker("browser")
        if item.nodeid.startswith(("tests/faults/", "tests/races/")):
            item.add_marker("faults")
        is_command = item.nodeid.startswith("tests/management/") and item.get_closest_marker("slow")
        if is_command or item.nodeid.startswith(ONCE):
            item.add_marker("once")


ONCE = (
    "tests/dashboard/test_graph_drawing",
    "tests/dashboard/test_graph_folding",
    "tests/dashboard/test_graph_layout",
    "tests/dashboard/test_graph_properties",
    "tests/dashboard/test_scripts",
    "tests/dashboard/test_styles",
    "tests/llm/test_transience",
    "tests/llm/test_usage",
    "tests/scripts/",
    "tests/test_benchmark_report.py",
    "tests/test_conf.py",
    "tests/test_databases.py",
    "tests/test_docs.py",
    "tests/test_example_project.py",
    "tests/test_fake_llm.py",
    "tests/test_features.py",
    "tests/test_graph.py",
    "tests/test_interpreter.py",
    "tests/test_package.py",
    "tests/test_processes.py",
    "tests/test_references.py",
    "tests/test_registry.py",
    "tests/test_values.py",
)
"""What has nothing to do with a database, or as much with the one as with the other, and takes its time."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files unread that have no test for the broker: reading them all takes longer than those few tests."""
    if not config.option.markexpr.startswith("broker") or not collection_path.name.startswith("test_"):
        return None
    return True if "mark.broker" not in collection_path.read_text() else None


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests() -> Generator[None]:
    """Start what is wanted and not there, and say where it is as the environment would have."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell without a terminal starts what is in the background so, and our children would be deaf to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "BATON_TEST_FOLDER" not in os.environ:
        os.environ["BATON_TEST_FOLDER"] = str(_brought.enter_context(_folder()))
    if os.environ.get("BATON_TEST_DB") == "postgres":
        os.environ[DATABASE_URL] = _brought.enter_context(postgres(settings=UNCOUNTED)).url
    if os.environ.get("BATON_TEST_BROKER") == "redis":
        os.environ[REDIS_URL] = _database_of_redis(_brought.enter_context(valkey()).url)
    return (yield)


def pytest_unconfigure() -> None:
    """Stop what was started."""
    _brought.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is meant for the other database."""
    database = os.environ.get("BATON_TEST_DB", "sqlite")
    if any(item.iter_markers("postgres")) and database != "postgres":
        pytest.skip("needs PostgreSQL")
    if any(item.iter_markers("sqlite")) and database != "sqlite":
        pytest.skip("needs SQLite")


def _database_of_redis(url: str) -> str:
    """Take a database of one's own: each test empties the broker's, and other suites use the same server."""
    import redis

    server, _, _ = url.rpartition("/")
    with redis.Redis.from_url(f"{server}/0") as client:
        turn = int(client.incr("baton:suites"))
    return f"{server}/{1 + turn % _DATABASES_OF_REDIS}"


_DATABASES_OF_REDIS = 15
"""Those that a server has unless it is told otherwise, but for the first, where the others have channel layers."""


@contextlib.contextmanager
def _folder() -> Generator[Path]:
    """Make a folder for this run's database files, gone also when pytest is killed."""
    folder = Path(tempfile.mkdtemp(prefix="baton-tests-"))
    watchdog.watch_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        watchdog.forget_folder(folder)
