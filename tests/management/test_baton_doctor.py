"""The doctor in real installations: one that is well, and others whose parts are stopped, cut off or missing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from django_q.models import OrmQ

from baton import Workflow
from baton.models import QueueSighting, WorkflowNode
from scripts.services import Valkey
from tests import steps
from tests.conftest import StartCluster
from tests.processes import Manage
from tests.utils import wait_until

SETTINGS = """
from tests.settings import *

CHANNEL_LAYERS = {{"default": {{"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {{"hosts": [{url!r}]}}}}}}
"""

Doctor = Callable[..., list[dict[str, str]]]


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


@pytest.fixture
def doctor(manage: Manage) -> Doctor:
    """Ask the doctor in a process of its own, and return what it found."""

    def ask(*options: str, **environment: Any) -> list[dict[str, str]]:
        done = manage("baton_doctor", "--json", *options, check=False, **environment)
        assert "Traceback" not in done.stderr
        answer = json.loads(done.stdout)
        assert done.returncode == (0 if answer["ok"] else 1)
        return list(answer["findings"])

    return ask


def waiting_step(queue: str = "default") -> None:
    """A live step, so that its queue is needed."""
    Workflow("x").add("a", steps.nothing, queue=queue, not_before=timezone.now() + timedelta(hours=1)).insert()


def lose_every_message() -> None:
    if redis_url := settings.Q_CLUSTER.get("redis"):
        import redis

        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()
    OrmQ.objects.all().delete()


@pytest.mark.slow
@pytest.mark.broker
def test_installation_that_is_well_has_no_finding(
    manage: Manage, real_cluster: StartCluster, valkey: Valkey, tmp_path: Path
):
    (tmp_path / "with_a_layer.py").write_text(SETTINGS.format(url=valkey.url))
    env = {
        "DJANGO_SETTINGS_MODULE": "with_a_layer",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    baton = {"SWEEP_RESIDENT": True}
    real_cluster(env=env, baton=baton)
    real_cluster(queue="slow", env=env, baton=baton)
    assert Workflow("x").add("a", steps.nothing).insert().wait(timeout=60) == "completed"
    waiting_step("default")
    waiting_step("slow")
    manage("baton_sweep", env=env, baton=baton)

    said = manage("baton_doctor", "--wait", "60", env=env, baton=baton)

    assert said.stdout == "Nothing is wrong.\n"
    assert set(QueueSighting.objects.values_list("queue", flat=True)) == {"default", "slow"}
    assert all(abs(offset) < 10 for offset in QueueSighting.objects.values_list("clock_offset", flat=True))


@pytest.mark.slow
@pytest.mark.broker
def test_queue_whose_cluster_is_missing_is_named_with_the_command_that_starts_it(
    manage: Manage, doctor: Doctor, real_cluster: StartCluster
):
    cluster = real_cluster()
    waiting_step("slow")
    manage("baton_sweep")

    (finding,) = doctor("--wait", "10")

    assert (finding["severity"], finding["id"]) == ("error", "queue-unserved")
    assert finding["sentence"].startswith("No worker of queue 'slow' has answered within 10 s; none was ever seen. ")
    assert finding["fix"].endswith(": Q_CLUSTER_NAME=slow python manage.py qcluster")

    cluster.kill()

    slow, default = doctor("--wait", "1")
    assert (slow["severity"], default["severity"], default["id"]) == ("error", "warning", "queue-unserved")
    assert default["sentence"].startswith("No worker of queue 'default' has answered within 1 s; the last was seen ")


@pytest.mark.slow
@pytest.mark.broker
def test_worker_that_is_busy_with_a_long_step_counts_as_serving(
    manage: Manage, doctor: Doctor, real_cluster: StartCluster, tmp_path: Path
):
    real_cluster(workers=1)
    Workflow("x").add("a", steps.trace.bind(str(tmp_path), seconds=120)).insert()
    wait_until(lambda: steps.traces(tmp_path))
    manage("baton_sweep")

    assert doctor("--wait", "60") == []


@pytest.mark.slow
@pytest.mark.broker
def test_step_whose_message_was_lost_is_named_while_a_worker_has_nothing_to_do(
    manage: Manage, doctor: Doctor, real_cluster: StartCluster
):
    Workflow("x").add("a", steps.nothing).insert()
    manage("baton_sweep")
    lose_every_message()
    WorkflowNode.objects.update(queued_at=timezone.now() - timedelta(minutes=5))
    real_cluster()

    (finding,) = doctor("--wait", "60")

    assert (finding["severity"], finding["id"]) == ("error", "steps-stuck")
    assert finding["sentence"].startswith("1 step of queue 'default' has been ready for up to 5 m ")
    assert finding["fix"].endswith(": python manage.py baton_sweep")


@pytest.mark.slow
def test_redis_that_is_stopped_is_found(manage: Manage, doctor: Doctor, valkey: Valkey):
    valkey.stop()
    baton = {"SWEEP_RESIDENT": True}
    manage("baton_sweep", baton=baton)

    findings = doctor(env={"BATON_TEST_BROKER": "redis", "BATON_TEST_REDIS_URL": valkey.url}, baton=baton)

    assert [(finding["severity"], finding["id"]) for finding in findings] == [("error", "broker-unreachable")]
    assert f"connecting to 127.0.0.1:{valkey.port}" in findings[0]["sentence"]


@pytest.mark.slow
def test_database_that_is_away_is_found_and_the_rest_is_looked_at_all_the_same(doctor: Doctor, tmp_path: Path):
    away = str(tmp_path / "away" / "db") if connection.vendor == "sqlite" else "baton_away"

    findings = doctor(env={"BATON_TEST_DB_NAME": away}, q_cluster={"retry": 30})

    assert [finding["id"] for finding in findings] == ["database-unreachable", "baton.W009"]
    assert findings[0]["sentence"].startswith("The database 'default' does not answer: ")


@pytest.mark.slow
def test_installation_that_was_never_migrated_is_told_to_migrate(manage: Manage, doctor: Doctor):
    manage("migrate", "baton", "0001", "--verbosity", "0")
    try:
        findings = doctor("--wait", "0")
    finally:
        manage("migrate", "--verbosity", "0")

    assert [(finding["severity"], finding["id"]) for finding in findings] == [("error", "migration-missing")]
    assert findings[0]["fix"] == "Run: python manage.py migrate"


@pytest.mark.slow
def test_channel_layer_of_which_another_process_knows_nothing_is_found(
    manage: Manage, doctor: Doctor, valkey: Valkey, tmp_path: Path
):
    # Each process takes a number of its own for its prefix, so that none hears another.
    text = (
        SETTINGS.format(url=valkey.url)
        + 'CHANNEL_LAYERS["default"]["CONFIG"]["prefix"] = str(__import__("os").getpid())'
    )
    (tmp_path / "with_a_layer.py").write_text(text)
    env = {
        "DJANGO_SETTINGS_MODULE": "with_a_layer",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }

    findings = doctor("--wait", "0", env=env)

    (finding,) = (finding for finding in findings if finding["id"].startswith("channel"))
    assert (finding["severity"], finding["id"]) == ("warning", "channel-layer-local")
    assert "what another process sent did not arrive" in finding["sentence"]


@pytest.mark.slow
def test_findings_are_printed_with_their_severity_and_fix_and_the_wait_is_told(manage: Manage):
    done = manage("baton_doctor", "--wait", "1.2", check=False)

    assert done.returncode == 1
    assert done.stdout == (
        "warning  queue-unserved\n"
        "         No worker of queue 'default' has answered within 1.2 s; none was ever seen. No step needs it now.\n"
        "         Fix: Start one, unless its workers are only busy with other tasks: python manage.py qcluster\n"
        "\n"
        "warning  sweep-never\n"
        "         Nobody has ever swept: what a crash or a lost message leaves behind stays so.\n"
        "         Fix: Set BATON['SWEEP_SCHEDULE'] = True and run migrate, or keep it running: "
        "python manage.py baton_sweep --watch --interval 1\n"
    )
    assert done.stderr == "Waiting up to 1.2 s for a worker of default to answer ...\n"


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["soon", "-1", "601", "nan"])
def test_wait_that_is_none_is_refused_as_wrong_usage(wait: str):
    with pytest.raises(CommandError, match="--wait"):
        call_command("baton_doctor", f"--wait={wait}", stdout=StringIO())
