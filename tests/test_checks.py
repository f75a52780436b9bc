from __future__ import annotations

import re
import sqlite3
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage, Error, Warning, run_checks  # noqa: A004 - Django's name for it
from django.core.management import call_command
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from psycopg import IsolationLevel

from baton import registry, step
from baton.checks.brokers import BROKER_KEYS

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "baton" / "checks").glob("*.py"))
REFERENCE = ROOT / "docs" / "reference" / "checks.md"

SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": "db.sqlite3",
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
}
POSTGRES = {"ENGINE": "django.db.backends.postgresql", "NAME": "app", "CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}
Q_CLUSTER = {
    "name": "app",
    "orm": "default",
    "workers": 4,
    "timeout": 60,
    "retry": 240,
    "ALT_CLUSTERS": {"ocr": {"workers": 1, "timeout": 600, "retry": 3600}},
}

SetDatabase = Callable[..., None]


@pytest.fixture(autouse=True)
def good_project(settings, monkeypatch):
    """A project without a fault, and without the suite's own steps."""
    settings.BATON = {}
    settings.Q_CLUSTER = Q_CLUSTER
    monkeypatch.setitem(settings.DATABASES, "default", SQLITE)
    monkeypatch.delenv("Q_CLUSTER_NAME", raising=False)
    for name in ("_steps", "_duplicates", "_failures"):
        monkeypatch.setattr(registry, name, {})


@pytest.fixture
def set_database(settings, monkeypatch) -> SetDatabase:
    """Change what ``DATABASES`` says, which no check may connect to."""

    def change(base: dict[str, Any], *, alias: str = "default", **changes: Any) -> None:
        monkeypatch.setitem(settings.DATABASES, alias, base | changes)

    return change


@pytest.fixture
def set_cluster(settings) -> Callable[..., None]:
    """Change what ``Q_CLUSTER`` says."""

    def change(**changes: Any) -> None:
        settings.Q_CLUSTER = Q_CLUSTER | changes

    return change


def findings() -> list[CheckMessage]:
    return sorted(run_checks(tags=["baton"]), key=lambda message: (str(message.id), message.msg))


# A good project


def test_a_good_project_gets_no_message():
    @step(queue="ocr", atomic=True, timeout=5)
    def read(ctx): ...

    @step
    async def ask(ctx): ...

    assert [message for message in run_checks() if str(message.id).startswith("baton.")] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 8, "queue_limit": 8, "bulk": 8},
        {"workers": 2, "poll": 0.2},
        {"name": "app", "cluster_name": "main"},
        {"timeout": None},
        {"timeout": -1},
        {"guard_cycle": 0.25},
        {"guard_cycle": 1},
        {"save_limit": 1000, "ack_failures": False, "max_attempts": 0, "cached": True},
        {"ALT_CLUSTERS": {"ocr": {"workers": 2, "name": "ignored"}, "llm": {}}},
    ],
)
def test_settings_that_do_no_harm_are_not_mentioned(set_cluster, changes):
    set_cluster(**changes)

    assert findings() == []


def test_django_q2_without_settings_of_its_own_but_a_broker_is_good(settings):
    settings.Q_CLUSTER = {"orm": "default"}

    assert findings() == []


def test_a_good_project_on_postgresql_gets_no_message(set_database):
    set_database(POSTGRES)
    assert findings() == []

    set_database(POSTGRES, CONN_MAX_AGE=None)
    assert findings() == []


@pytest.mark.parametrize("baton", [{"SWEEP_RESIDENT": True}, {"SWEEP_SCHEDULE": True}])
def test_a_good_project_on_redis_gets_no_message(settings, set_cluster, baton):
    set_cluster(orm=None, redis="redis://localhost")
    settings.BATON = baton

    assert findings() == []


def test_the_checks_run_with_the_command(settings, capsys):
    settings.BATON = {"MAX_BELLS": 0}

    with pytest.raises(Exception, match=r"\(baton\.E001\) BATON\['MAX_BELLS'\] is 0 \(int\)\.") as failed:
        call_command("check", tags=["baton"])

    assert type(failed.value).__name__ == "SystemCheckError"


# The project


def test_e001_every_fault_of_the_setting_is_an_error(settings):
    settings.BATON = {"LEASE_SECONDS": "15", "SWEEP_SHEDULE": True}

    assert findings() == [
        Error(
            "BATON['LEASE_SECONDS'] is '15' (str).",
            hint="It must be a number, above 0 and at most 31622400.",
            id="baton.E001",
        ),
        Error(
            "BATON['SWEEP_SHEDULE'] is not a setting of Baton.",
            hint="Did you mean 'SWEEP_SCHEDULE'?",
            id="baton.E001",
        ),
    ]


def test_e002_django_q2_is_not_installed(settings):
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_q"]

    assert findings() == [
        Error(
            "INSTALLED_APPS lacks 'django_q', whose workers run Baton's steps.",
            hint="Add 'django_q' to INSTALLED_APPS and run migrate.",
            id="baton.E002",
        )
    ]


def test_e003_times_are_naive(settings):
    settings.USE_TZ = False

    assert findings() == [
        Error(
            "USE_TZ is not True, and Baton compares due times and leases across processes.",
            hint="Set USE_TZ = True.",
            id="baton.E003",
        )
    ]


@pytest.mark.parametrize("spelling", ["django-baton", "django_baton", "Django.Baton"])
def test_e004_the_admin_theme_of_the_same_import_name_is_installed(tmp_path, monkeypatch, spelling):
    metadata = tmp_path / f"{spelling.replace('-', '_').replace('.', '_')}-4.2.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {spelling}\nVersion: 4.2\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert findings() == [
        Error(
            "The distribution 'django-baton', an admin theme, is installed and has the same import name 'baton'.",
            hint="Uninstall django-baton, then reinstall baton-workflows: they overwrite each other's files.",
            id="baton.E004",
        )
    ]


# The databases


def test_e005_the_alias_of_batons_tables_is_unknown(settings, set_database):
    settings.BATON = {"DATABASE": "workflows"}
    set_database(SQLITE, alias="other")

    assert findings()[0] == Error(
        "BATON['DATABASE'] is 'workflows', which is not in DATABASES.",
        hint="Use one of: 'default', 'other'.",
        id="baton.E005",
    )


def test_e006_batons_tables_are_in_a_database_it_does_not_speak_to(set_database):
    set_database({"ENGINE": "django.db.backends.dummy"})

    assert findings() == [
        Error(
            "The database 'default' of Baton's tables is of the kind 'unknown', whose SQL Baton does not speak.",
            hint="Point BATON['DATABASE'] at PostgreSQL or SQLite.",
            id="baton.E006",
        )
    ]


def test_e007_sqlite_is_too_old(monkeypatch, set_database):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))

    assert findings() == [
        Error(
            "SQLite is version 3.34.1, and Baton's statements need 3.35 (RETURNING).",
            hint="Use a Python that is linked to SQLite 3.35 or newer, or PostgreSQL.",
            id="baton.E007",
        )
    ]

    set_database(POSTGRES)
    assert findings() == []


def test_e008_connections_are_pooled_in_batons_database_or_the_brokers(settings, set_cluster, set_database):
    set_database(POSTGRES, alias="pooled", OPTIONS={"pool": {"max_size": 4}})
    pooled = Error(
        "DATABASES['pooled']['OPTIONS']['pool'] is set, and the processes of a cluster share its sockets.",
        hint="Remove 'pool' and set CONN_MAX_AGE instead.",
        id="baton.E008",
    )
    assert findings() == []

    set_cluster(orm="pooled")
    assert pooled in findings()

    set_cluster(orm="default")
    settings.BATON = {"DATABASE": "pooled"}
    assert pooled in findings()


def test_e009_transactions_are_stricter_than_read_committed(set_database):
    for level in (IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE):
        set_database(POSTGRES, OPTIONS={"isolation_level": level})

        assert findings() == [
            Error(
                "DATABASES['default']['OPTIONS']['isolation_level'] is stricter than READ COMMITTED: "
                "two workers that settle neighbours would fail each other.",
                hint="Remove 'isolation_level', or give Baton an alias of its own without it (BATON['DATABASE']).",
                id="baton.E009",
            )
        ]

    set_database(POSTGRES, OPTIONS={"isolation_level": IsolationLevel.READ_COMMITTED})
    assert findings() == []


def test_w001_workers_connect_anew_for_every_message(set_database):
    without = {key: value for key, value in POSTGRES.items() if key != "CONN_MAX_AGE"}
    for database in (without, POSTGRES | {"CONN_MAX_AGE": 0}):
        set_database(database)

        assert findings() == [
            Warning(
                "DATABASES['default']['CONN_MAX_AGE'] is 0: workers connect anew for every message.",
                hint="Set CONN_MAX_AGE to 600 or None, and CONN_HEALTH_CHECKS to True.",
                id="baton.W001",
            )
        ]


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        (
            {},
            "WAL (init_command), immediate transactions (transaction_mode) and a timeout of at least 5 seconds",
        ),
        ({"init_command": "PRAGMA synchronous=NORMAL"}, "WAL (init_command)"),
        ({"init_command": "PRAGMA journal_mode=DELETE"}, "WAL (init_command)"),
        ({"transaction_mode": "DEFERRED"}, "immediate transactions (transaction_mode)"),
        ({"timeout": 1}, "a timeout of at least 5 seconds"),
    ],
)
def test_w002_sqlite_is_not_made_for_several_writers(set_database, options, lacking):
    set_database(SQLITE, OPTIONS={**SQLITE["OPTIONS"], **options} if options else {})  # type: ignore[dict-item]

    assert findings() == [
        Warning(
            "Workers that write at the same time would get 'database is locked': "
            f"DATABASES['default']['OPTIONS'] lacks {lacking}.",
            hint='Use "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, '
            '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}.',
            id="baton.W002",
        )
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"init_command": "pragma JOURNAL_MODE = wal"},
        {"init_command": "PRAGMA journal_mode('WAL')"},
        {"transaction_mode": "immediate"},
        {"transaction_mode": "EXCLUSIVE"},
        {"timeout": 5},
    ],
)
def test_sqlite_may_be_set_up_in_other_words(set_database, options):
    set_database(SQLITE, OPTIONS={**SQLITE["OPTIONS"], **options})  # type: ignore[dict-item]

    assert findings() == []


# The steps


def test_e010_two_steps_have_one_name():
    @step(name="orders.fetch")
    def one(ctx): ...

    @step(name="orders.fetch")
    def two(ctx): ...

    here = f"{__name__}.test_e010_two_steps_have_one_name.<locals>"
    assert findings() == [
        Error(
            f"Two steps are registered as 'orders.fetch': {here}.one and {here}.two.",
            hint="Give one of them another name with @step(name=...).",
            id="baton.E010",
        )
    ]


def test_e011_a_steps_module_cannot_be_imported(settings, tmp_path, monkeypatch):
    package = tmp_path / "app_with_broken_steps"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "steps.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)

    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "app_with_broken_steps"]

    assert findings() == [
        Error(
            "app_with_broken_steps.steps could not be imported, so its steps cannot run: "
            "ModuleNotFoundError: No module named 'a_module_that_nobody_has'",
            hint="Correct the module; the log has the traceback.",
            id="baton.E011",
        )
    ]
    sys.modules.pop("app_with_broken_steps", None)


def test_e012_a_step_is_async_and_atomic():
    @step(name="ask", atomic=True, timeout=5)
    async def ask(ctx): ...

    assert findings() == [
        Error(
            "Step 'ask' is async and atomic, and Django has no transactions in async code.",
            hint="Remove atomic=True, or make the body a plain function.",
            id="baton.E012",
        )
    ]


def test_e013_a_step_names_a_queue_without_a_cluster():
    for name in "abcd":
        step(name=name, queue="orc")(lambda ctx: None)

    assert findings() == [
        Error(
            "No cluster is configured for the queue 'orc' of 'a', 'b', 'c' and 1 more.",
            hint="Add 'orc' to Q_CLUSTER['ALT_CLUSTERS'] and run a qcluster with Q_CLUSTER_NAME=orc, "
            "or use one of: 'app', 'default', 'ocr'.",
            id="baton.E013",
        )
    ]


@pytest.mark.parametrize("timeout", [None, 15, 60])
def test_w003_an_atomic_step_may_outlast_its_lease_on_sqlite(set_database, timeout):
    @step(name="post", atomic=True, timeout=timeout)
    def post(ctx): ...

    assert findings() == [
        Warning(
            "Step 'post' is atomic and may hold SQLite's only write lock longer than its lease.",
            hint="Give it a timeout below BATON['LEASE_SECONDS'] (15), such as @step(atomic=True, timeout=5).",
            id="baton.W003",
        )
    ]

    set_database(POSTGRES)
    assert findings() == []


# The brokers


@pytest.mark.parametrize(
    ("q_cluster", "place"),
    [
        (None, "Q_CLUSTER is None."),
        (["orm"], "Q_CLUSTER is ['orm'] (list)."),
        ({"orm": "default", "ALT_CLUSTERS": ["ocr"]}, "Q_CLUSTER['ALT_CLUSTERS'] is ['ocr'] (list)."),
        ({"orm": "default", "ALT_CLUSTERS": {"ocr": 3}}, "Q_CLUSTER['ALT_CLUSTERS']['ocr'] is 3 (int)."),
    ],
)
def test_e014_the_clusters_are_not_dicts(settings, q_cluster, place):
    settings.Q_CLUSTER = q_cluster

    assert findings()[0] == Error(place, hint="Make it a dict of django-q2's settings.", id="baton.E014")


@pytest.mark.parametrize("alternatives", [None, {}, {"llm": {}}])
def test_e015_this_process_is_told_to_serve_an_unknown_cluster(settings, monkeypatch, alternatives):
    monkeypatch.setenv("Q_CLUSTER_NAME", "ocr")
    assert findings() == []

    settings.Q_CLUSTER = {"name": "app", "orm": "default"} | (
        {} if alternatives is None else {"ALT_CLUSTERS": alternatives}
    )
    assert findings() == [
        Error(
            "The environment says Q_CLUSTER_NAME=ocr, and Q_CLUSTER['ALT_CLUSTERS'] has no such cluster.",
            hint="Add 'ocr' to ALT_CLUSTERS, or unset the variable for the cluster that serves the default queue.",
            id="baton.E015",
        )
    ]


def test_e015_default_is_not_the_name_of_a_cluster_that_is_called_otherwise(monkeypatch, set_cluster):
    monkeypatch.setenv("Q_CLUSTER_NAME", "default")

    assert [message.id for message in findings()] == ["baton.E015"]
    set_cluster(name="default")
    assert findings() == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("brokers.Mine", "No module named 'brokers'"),
        ("collections.Mine", 'Module "collections" does not define a "Mine" attribute/class'),
        ("Mine", "Mine doesn't look like a module path"),
    ],
)
def test_e016_the_broker_class_cannot_be_imported(set_cluster, path, reason):
    set_cluster(broker_class=path)

    assert findings() == [
        Error(
            f"Q_CLUSTER['broker_class'] is {path!r} (str), which cannot be imported: {reason}",
            hint="Give the dotted path of a broker class.",
            id="baton.E016",
        )
    ]


def test_e016_redis_is_the_broker_where_none_is_named_and_needs_its_client(settings, monkeypatch):
    settings.BATON = {"SWEEP_SCHEDULE": True}
    del settings.Q_CLUSTER
    assert findings() == []

    monkeypatch.setitem(sys.modules, "redis", None)

    assert findings() == [
        Error(
            "The broker of django-q2 is Redis, as it is where Q_CLUSTER names none, and no client of it is installed.",
            hint="Set Q_CLUSTER['orm'] to the alias of Baton's database, or install 'baton-workflows[redis]'.",
            id="baton.E016",
        )
    ]


def test_a_broker_class_that_can_be_imported_is_left_alone(set_cluster):
    set_cluster(broker_class="collections.OrderedDict", orm=None)

    assert findings() == []


@pytest.mark.parametrize(
    ("own", "key"),
    [
        ({"orm": "other"}, "orm"),
        ({"orm": None}, "orm"),
        ({"orm": None, "redis": {"db": 3}}, "orm"),
        ({"broker_class": "collections.OrderedDict"}, "broker_class"),
        ({"sqs": {"aws_region": "eu"}}, "sqs"),
    ],
)
def test_e017_a_cluster_has_a_broker_of_its_own(set_cluster, own, key):
    set_cluster(ALT_CLUSTERS={"ocr": own})

    assert findings() == [
        Error(
            f"Cluster 'ocr' has another broker than the rest: Q_CLUSTER['ALT_CLUSTERS']['ocr'][{key!r}] "
            f"is not what Q_CLUSTER[{key!r}] says.",
            hint="Set the broker once, at the top of Q_CLUSTER: a process sends the messages for every queue "
            "through the broker of its own cluster.",
            id="baton.E017",
        )
    ]


def test_what_the_broker_does_not_read_may_differ(set_cluster):
    set_cluster(ALT_CLUSTERS={"ocr": {"orm": "default", "redis": {"db": 3}}})

    assert findings() == []


@pytest.mark.parametrize("alias", ["queue", True])
def test_e018_the_broker_is_in_an_unknown_database(set_cluster, alias):
    set_cluster(orm=alias)

    assert findings() == [
        Error(
            f"Q_CLUSTER['orm'] is {alias!r}{' (str)' if alias == 'queue' else ''}, which is not in DATABASES.",
            hint="Use one of: 'default'.",
            id="baton.E018",
        )
    ]


def test_w004_the_broker_is_in_another_database_than_baton(set_cluster, set_database):
    set_database(SQLITE, alias="queue")
    set_cluster(orm="queue")

    assert findings() == [
        Warning(
            "Q_CLUSTER['orm'] is 'queue' while Baton's tables are in 'default': bells cannot join the transaction "
            "that makes steps ready, and async_task() inside atomic() loses what the transaction wrote.",
            hint="Set both to the same alias.",
            id="baton.W004",
        )
    ]


@pytest.mark.parametrize(
    ("q_cluster", "broker"),
    [
        ({}, "Redis"),
        ({"redis": {"host": "localhost"}}, "Redis"),
        ({"django_redis": "default"}, "Redis"),
        ({"sqs": {"aws_region": "eu"}}, "Amazon SQS"),
        ({"iron_mq": {"project_id": "x"}}, "IronMQ"),
        ({"mongo": {"host": "localhost"}}, "MongoDB"),
    ],
)
def test_w005_the_broker_knows_no_due_times_and_nothing_sweeps(settings, q_cluster, broker):
    settings.Q_CLUSTER = q_cluster

    assert findings() == [
        Warning(
            f"The broker is {broker}, which cannot deliver at a due time: "
            "retries, snoozes and lost bells wait for a sweep, and none is configured.",
            hint="Keep 'manage.py baton_sweep --watch --interval 1' running and set BATON['SWEEP_RESIDENT'] = True, "
            "or accept delays of a minute and more with BATON['SWEEP_SCHEDULE'] = True.",
            id="baton.W005",
        )
    ]


# The clusters


def test_e019_tasks_run_in_the_callers_process(set_cluster):
    set_cluster(sync=True)

    assert findings() == [
        Error(
            "Q_CLUSTER['sync'] is True: tasks run in the caller's transaction, "
            "and the processes of a cluster share its connections.",
            hint="Remove it. In tests, run workflows with baton.testing.drain().",
            id="baton.E019",
        )
    ]


@pytest.mark.parametrize(("limit", "shown"), [(0, "0 (int)"), (None, "None"), (-1, "-1 (int)"), ("4", "'4' (str)")])
def test_e020_a_host_may_take_every_message(set_cluster, limit, shown):
    set_cluster(queue_limit=limit)

    assert findings() == [
        Error(
            f"Q_CLUSTER['queue_limit'] is {shown}: a busy host would take every message of the queue.",
            hint="Set queue_limit to about the number of workers.",
            id="baton.E020",
        )
    ]


@pytest.mark.parametrize(
    ("cycle", "shown"),
    [(0.1, "0.1 (float)"), (0.2, "0.2 (float)"), (0.3, "0.3 (float)"), (2, "2 (int)"), (0, "0 (int)"), (None, "None")],
)
def test_e021_the_guard_never_sees_a_timer_at_zero(set_cluster, cycle, shown):
    set_cluster(guard_cycle=cycle)

    assert findings() == [
        Error(
            f"Q_CLUSTER['guard_cycle'] is {shown}: django-q2 kills a hung worker when its timer is "
            "exactly zero, which steps of this size jump over.",
            hint="Use 0.5 (the default), 0.25 or 1.",
            id="baton.E021",
        )
    ]


def test_e022_the_scheduled_sweep_is_in_a_queue_without_a_cluster(settings):
    settings.BATON = {"SWEEP_QUEUE": "ops"}
    assert findings() == []

    settings.BATON = {"SWEEP_QUEUE": "ops", "SWEEP_SCHEDULE": True}
    assert findings() == [
        Error(
            "BATON['SWEEP_QUEUE'] is 'ops', a queue for which no cluster is configured.",
            hint="Use one of: 'app', 'default', 'ocr'.",
            id="baton.E022",
        )
    ]


def test_e023_the_sweep_is_scheduled_where_the_scheduler_is_off(settings, set_cluster):
    set_cluster(scheduler=False, ALT_CLUSTERS={"ocr": {"scheduler": True}})
    assert findings() == []

    settings.BATON = {"SWEEP_SCHEDULE": True}
    assert findings() == [
        Error(
            "BATON['SWEEP_SCHEDULE'] is True, but Q_CLUSTER['scheduler'] is False: the sweep would never run.",
            hint="Remove 'scheduler', or name a cluster that has one in BATON['SWEEP_QUEUE'].",
            id="baton.E023",
        )
    ]

    settings.BATON = {"SWEEP_SCHEDULE": True, "SWEEP_QUEUE": "ocr"}
    assert findings() == []


@pytest.mark.parametrize(
    ("changes", "key", "found"),
    [
        ({"workers": 2, "queue_limit": 17}, "queue_limit", "17 for 2 workers"),
        ({"workers": 8, "queue_limit": 33}, "queue_limit", "33 for 8 workers"),
        ({"workers": 8}, "queue_limit", "64 (django-q2's default, workers squared) for 8 workers"),
        ({"workers": 1, "queue_limit": 16, "bulk": 20}, "bulk", "20 for 1 worker"),
    ],
)
def test_w006_a_busy_host_keeps_bells_from_an_idle_one(set_cluster, changes, key, found):
    set_cluster(**changes, ALT_CLUSTERS={})

    assert findings()[0] == Warning(
        f"Q_CLUSTER[{key!r}] is {found}: a host busy with long steps keeps bells that an idle one could answer.",
        hint=f"Set {key} to about the number of workers.",
        id="baton.W006",
    )


def test_w006_names_the_cluster_whose_workers_are_too_few(set_cluster):
    set_cluster(workers=16, queue_limit=32, ALT_CLUSTERS={"ocr": {"workers": 1}})

    assert [message.msg for message in findings()] == [
        (
            "Q_CLUSTER['queue_limit'] is 32 for 1 worker of cluster 'ocr': "
            "a host busy with long steps keeps bells that an idle one could answer."
        )
    ]


def test_w007_a_batch_is_larger_than_the_queue_in_front_of_the_workers(set_cluster):
    set_cluster(queue_limit=4, bulk=5)

    assert findings() == [
        Warning(
            "Q_CLUSTER['bulk'] is 5, more than the queue_limit of 4: "
            "a batch waits half unpacked until workers have made room.",
            hint="Set bulk to queue_limit or less.",
            id="baton.W007",
        )
    ]


def test_bulk_means_nothing_to_redis(settings, set_cluster):
    settings.BATON = {"SWEEP_RESIDENT": True}
    set_cluster(orm=None, bulk=100, retry=1, poll=5)

    assert findings() == []


def test_w008_an_idle_cluster_looks_seldom(set_cluster):
    set_cluster(poll=1)

    assert findings() == [
        Warning(
            "Q_CLUSTER['poll'] is 1: an idle cluster looks for bells only so often, in seconds, "
            "and every start and retry waits for it.",
            hint="Set poll to 0.2 (django-q2's default) or less; 0.05 costs little.",
            id="baton.W008",
        )
    ]


def test_w009_a_task_is_delivered_again_while_it_runs(set_cluster):
    set_cluster(retry=60, timeout=60)

    assert findings() == [
        Warning(
            "Q_CLUSTER['retry'] is 60 and the timeout is 60: a task of django-q2 is delivered "
            "again while it still runs. (Steps are not: the gate turns the second bell away.)",
            hint="Set retry above the timeout times the number of tasks that can wait in front of a worker.",
            id="baton.W009",
        )
    ]


@pytest.mark.parametrize(("timeout", "shown"), [(2.5, "2.5 (float)"), (0, "0 (int)"), ("60", "'60' (str)")])
def test_w010_the_timeout_is_not_whole_seconds(set_cluster, timeout, shown):
    set_cluster(timeout=timeout)

    assert findings() == [
        Warning(
            f"Q_CLUSTER['timeout'] is {shown}: django-q2 fails or kills its own tasks for it, the "
            "scheduled sweep among them.",
            hint="Use whole seconds, at least 1, or leave it out. Steps have timeouts of their own.",
            id="baton.W010",
        )
    ]


# All of them


@pytest.mark.parametrize(
    ("own", "place"),
    [
        ({"sync": True}, "['sync'] is True"),
        ({"queue_limit": 0}, "['queue_limit'] is 0 (int)"),
        ({"guard_cycle": 0.1}, "['guard_cycle'] is 0.1 (float)"),
        ({"queue_limit": 50}, "['queue_limit'] is 50 for 4 workers of cluster 'ocr'"),
        ({"queue_limit": 4, "bulk": 5}, "['bulk'] is 5, more than the queue_limit of 4"),
        ({"poll": 3}, "['poll'] is 3"),
        ({"retry": 10}, "['retry'] is 10 and the timeout is 60"),
        ({"timeout": 0.5}, "['timeout'] is 0.5 (float)"),
    ],
)
def test_a_cluster_is_judged_as_it_merges_its_settings(set_cluster, own, place):
    set_cluster(ALT_CLUSTERS={"ocr": own})

    assert [message.msg.partition(":")[0] for message in findings()] == [f"Q_CLUSTER['ALT_CLUSTERS']['ocr']{place}"]


def test_a_fault_that_every_cluster_inherits_is_told_once(set_cluster):
    set_cluster(sync=True, ALT_CLUSTERS={"ocr": {"workers": 1}, "llm": {"sync": False}})

    assert [message.id for message in findings()] == ["baton.E019"]


garbage = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.builds(lambda: 10**5000)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=2),
    max_leaves=4,
)


def test_w011_the_channel_layer_named_is_not_configured(settings):
    settings.BATON = {"CHANNEL_LAYER": "events"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

    assert findings() == [
        Warning(
            "BATON['CHANNEL_LAYER'] is 'events', which is not in CHANNEL_LAYERS: no events are sent.",
            hint="Use one of: 'default'; or None, to send none.",
            id="baton.W011",
        )
    ]


def test_w012_the_channel_layer_named_needs_channels(settings, monkeypatch):
    settings.BATON = {"CHANNEL_LAYER": "default"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    assert findings() == []

    monkeypatch.setitem(sys.modules, "channels", None)

    assert findings() == [
        Warning(
            "BATON['CHANNEL_LAYER'] is 'default', and Channels is not installed: no events are sent.",
            hint="Install 'baton-workflows[dashboard]', or set it to None.",
            id="baton.W012",
        )
    ]


def test_channel_layer_that_is_no_alias_is_told_once(settings):
    settings.BATON = {"CHANNEL_LAYER": 5}
    settings.CHANNEL_LAYERS = {}

    assert [message.id for message in findings()] == ["baton.E001"]


@pytest.mark.parametrize("baton", [{}, {"CHANNEL_LAYER": None}])
def test_a_project_without_a_channel_layer_is_good(settings, monkeypatch, baton):
    settings.BATON = baton
    settings.CHANNEL_LAYERS = {}
    monkeypatch.setitem(sys.modules, "channels", None)

    assert findings() == []


class NoPricing:
    """Has no price for anything, and says so of no model."""


class PricingOfATenant:
    """Is not made without arguments."""

    def __init__(self, tenant: str) -> None: ...

    def cost(self, usage: object) -> None: ...


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("shop.prices.Ours", "which cannot be imported: No module named 'shop'"),
        ("Ours", "which cannot be imported: Ours doesn't look like a module path"),
        ("tests.test_checks.ROOT", "which is no class."),
        ("tests.test_checks.NoPricing", "which has no method cost()."),
        (
            "tests.test_checks.PricingOfATenant",
            "which cannot be made without arguments: missing a required argument: 'tenant'",
        ),
    ],
)
def test_e024_nothing_can_be_priced(settings, path, fault):
    settings.BATON = {"PRICING": path}

    assert findings() == [
        Error(
            f"BATON['PRICING'] is {path!r}, {fault}",
            hint="Give the dotted path of a class that is made without arguments and has a method cost(usage).",
            id="baton.E024",
        )
    ]


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("nowhere.hook", "which cannot be imported: No module named 'nowhere'"),
        ("tests.settings.SECRET_KEY", "which cannot be called."),
    ],
)
def test_e025_the_redaction_hook_is_unusable(settings, path, fault):
    settings.BATON = {"REDACT_HOOK": path}

    assert findings() == [
        Error(
            f"BATON['REDACT_HOOK'] is {path!r}, {fault}",
            hint="Give the dotted path of a function (kind, value); while it is missing, nothing of a call is kept.",
            id="baton.E025",
        )
    ]


def test_w013_the_default_prices_are_in_another_currency(settings):
    settings.BATON = {"CURRENCY": "EUR"}

    assert findings() == [
        Warning(
            "BATON['CURRENCY'] is 'EUR', and genai-prices, which counts in USD, is not asked: no call has a price.",
            hint="Say what your models cost in BATON['PRICES'], or name a class of yours in BATON['PRICING'].",
            id="baton.W013",
        )
    ]


@pytest.mark.parametrize(
    "baton",
    [
        {"CURRENCY": "EUR", "PRICES": {"ours": {"input": "1", "output": 2}}},
        {"CURRENCY": "EUR", "PRICING": "tests.llm.test_pricing.ByTheSecond"},
        {"CURRENCY": "usd"},
        {"PRICING": "tests.llm.test_pricing.Discounted"},
    ],
)
def test_prices_that_are_known_are_good(settings, baton):
    settings.BATON = baton

    assert findings() == []


CLUSTER_KEYS = (
    *BROKER_KEYS,
    *("name", "cluster_name", "workers", "queue_limit", "bulk", "poll", "retry", "timeout", "guard_cycle"),
    *("sync", "scheduler"),
)


def holding(*keys: str) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(keys), garbage, max_size=6)


@given(
    baton=garbage
    | holding("DATABASE", "LEASE_SECONDS", "SWEEP_SCHEDULE", "SWEEP_QUEUE", "SWEEP_RESIDENT", "CHANNEL_LAYER")
    | holding("PRICING", "PRICES", "CURRENCY"),
    q_cluster=garbage
    | holding(*CLUSTER_KEYS, "ALT_CLUSTERS")
    | st.fixed_dictionaries(
        {"ALT_CLUSTERS": st.dictionaries(st.text(max_size=3), holding(*CLUSTER_KEYS) | garbage, max_size=2)},
        optional=dict.fromkeys(CLUSTER_KEYS, garbage),
    ),
    databases=garbage
    | st.fixed_dictionaries({"default": garbage | holding("ENGINE", "OPTIONS", "CONN_MAX_AGE", "NAME")})
    | st.fixed_dictionaries(
        {
            "default": st.fixed_dictionaries(
                {
                    "ENGINE": st.sampled_from([SQLITE["ENGINE"], POSTGRES["ENGINE"]]),
                    "OPTIONS": garbage
                    | holding("pool", "isolation_level", "init_command", "transaction_mode", "timeout"),
                    "CONN_MAX_AGE": garbage,
                }
            )
        }
    ),
    use_tz=garbage,
    channel_layers=garbage | holding("default"),
)
def test_whatever_settings_hold_the_checks_do_not_raise(baton, q_cluster, databases, use_tz, channel_layers):
    @step(queue="ocr", atomic=True)
    async def ask(ctx): ...

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Django's own, for overriding DATABASES
        with override_settings(BATON=baton, Q_CLUSTER=q_cluster, DATABASES=databases, CHANNEL_LAYERS=channel_layers):
            messages = findings()

    assert all(str(message.id).startswith("baton.") and message.hint for message in messages)


def test_the_checks_do_not_touch_a_database(django_assert_num_queries, db):
    step(name="post", atomic=True)(lambda ctx: None)

    with django_assert_num_queries(0):
        assert len(findings()) == 1


def test_every_check_is_in_the_reference_and_in_this_file():
    ids = sorted(re.findall(r'id="(baton\.[EW]\d{3})"', "".join(path.read_text() for path in SOURCES)))
    listed = re.findall(r"^\| `(baton\.[EW]\d{3})` \|", REFERENCE.read_text(), flags=re.MULTILINE)
    tested = {f"baton.{name[5:9].upper()}" for name in globals() if re.match(r"test_[ew]\d{3}_", name)}

    assert len(ids) == len(set(ids)) > 30
    assert sorted(listed) == ids
    assert sorted(tested) == ids


def test_ids_count_up_without_a_gap():
    for level in "EW":
        numbers = sorted(int(n) for path in SOURCES for n in re.findall(rf'id="baton\.{level}(\d+)"', path.read_text()))

        assert numbers == list(range(1, len(numbers) + 1))
