"""What Baton logs carries what it is about, and the page that tells of it tells of all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from baton import Workflow
from baton.engine.gate import claim
from baton.engine.runner import answer_bell
from baton.models import WorkflowNode
from baton.sweep import sweep
from baton.telemetry import step_transitioned, workflow_inserted
from baton.testing import drain
from tests import steps
from tests.clock import expire_leases
from tests.pages import DOCS, ROOT, blocks_of

pytestmark = pytest.mark.django_db

PAGE = DOCS / "reference" / "logging.md"


def about(node: WorkflowNode, attempt: int) -> dict[str, Any]:
    """What every record about a step carries."""
    return {
        "workflow_id": str(node.run_id),
        "workflow_name": "label",
        "step_name": node.name,
        "attempt": attempt,
        "node_id": node.pk,
    }


def carried(caplog, start: str, keys: Any) -> dict[str, Any]:
    """The attributes of the only record whose message begins so."""
    (record,) = (record for record in caplog.records if record.getMessage().startswith(start))
    return {key: getattr(record, key, "missing") for key in keys}


@contextmanager
def gone(table: str) -> Iterator[None]:
    """A table is not where it should be."""
    rename(table, "baton_gone")
    try:
        yield
    finally:
        rename("baton_gone", table)


def rename(old: str, new: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {old} RENAME TO {new}")


# Records --------------------------------------------------------------------------------------------------------------


def test_record_of_a_backoff_that_raised_carries_the_step(caplog):
    run = drain(Workflow("label").add("a", steps.fail, max_attempts=2, backoff=steps.no_backoff).insert())

    expected = about(run.steps["a"], 1)
    assert carried(caplog, "The backoff ", expected) == expected


@pytest.mark.parametrize(
    ("step", "start"), [(steps.badly_hooked, "The hook of step 'b'"), (steps.slowly_hooked, "The hook of step 'b'")]
)
def test_record_of_a_hook_that_failed_carries_the_step(step, start, caplog):
    run = drain(Workflow("label").add("a", steps.discard).add("b", step, deps=["a"]).insert())

    expected = about(run.steps["b"], 0)
    assert carried(caplog, start, expected) == expected


def test_record_of_a_log_that_could_not_be_written_carries_the_step(caplog):
    run = Workflow("label").add("a", steps.log).insert()

    with gone("baton_steplog"):
        drain(run)

    expected = about(run.steps["a"], 1)
    assert carried(caplog, "The log of step 'a'", expected) == expected


def test_record_of_a_step_taken_from_its_worker_carries_the_step_and_the_worker(caplog):
    run = Workflow("label").add("a", steps.nothing).insert()
    node = run.steps["a"]
    claim(connection, node.pk, worker="elsewhere:1")
    expire_leases(run)

    with caplog.at_level("INFO", logger="baton.sweep"):
        sweep()

    expected = {**about(node, 1), "worker": "elsewhere:1"}
    assert carried(caplog, "Step 'a' of run ", expected) == expected


def test_record_of_a_receiver_that_raised_carries_what_the_signal_was_about(caplog):
    def refuse(**_: Any) -> None:
        raise LookupError

    workflow_inserted.connect(refuse)
    step_transitioned.connect(refuse)
    try:
        run = Workflow("label").add("a", steps.nothing).insert()
        answer_bell("default")
    finally:
        workflow_inserted.disconnect(refuse)
        step_transitioned.disconnect(refuse)

    expected = about(run.steps["a"], 1)
    found = [{key: getattr(record, key, None) for key in expected} for record in caplog.records]
    assert [each for each in found if each["step_name"]] == [expected] * 2


@pytest.mark.django_db(transaction=True)
def test_record_of_a_bell_that_ended_early_carries_the_queue(caplog):
    with gone("baton_workflownode"):
        answer_bell("slow")

    assert carried(caplog, "A bell of queue ", ["queue"]) == {"queue": "slow"}


@pytest.mark.django_db(transaction=True)
def test_record_of_a_part_of_the_sweep_that_failed_carries_the_part(caplog):
    with gone("baton_workflownode"):
        report = sweep()

    assert report.errors
    found = {getattr(record, "part", None) for record in caplog.records}
    assert found - {None} == set(report.errors)


# The page -------------------------------------------------------------------------------------------------------------


def test_every_logger_has_its_place_in_the_reference():
    made = {
        name
        for path in (ROOT / "baton").rglob("*.py")
        for name in re.findall(r"getLogger\(\"(baton[\w.]*)\"\)", path.read_text())
    }

    assert made == set(re.findall(r"^\| `(baton[\w.]*)` \|", PAGE.read_text(), re.MULTILINE))


def test_lines_have_the_keys_that_the_reference_names():
    (line,) = drain(Workflow("x").add("a", steps.log).insert()).steps["a"].logs

    table = PAGE.read_text().partition("| key | meaning |")[2].partition("\n\n")[0]
    assert list(line) == re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_logging_as_the_page_configures_it_writes_what_the_page_shows(manage, tmp_path):
    blocks = blocks_of(PAGE)
    (shown,) = (block for block in blocks if block.language == "text")
    write(tmp_path / "shop", {block.file: block.text for block in blocks if block.file.startswith("shop/")})
    write(tmp_path / "mysite", {block.file: block.text for block in blocks if block.file.startswith("mysite/")})
    settings = tmp_path / "mysite" / "settings.py"
    settings.write_text("from tests.settings import *\n" + settings.read_text())

    done = manage(
        "shell",
        "-c",
        "from baton import Workflow; from baton.testing import drain; from shop.steps import charge; "
        'drain(Workflow("checkout").add("charge", charge.bind(order=7)).insert())',
        env={"DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )

    written = [json.loads(line) for line in done.stderr.splitlines()]
    node = WorkflowNode.objects.get()
    assert written == [
        {**json.loads(line), "workflow_id": str(node.run_id), "node_id": node.pk} for line in shown.text.splitlines()
    ]


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name, text in files.items():
        (folder.parent / name).write_text(text)
