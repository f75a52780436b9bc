"""The page of the deployment, followed word for word: plain processes stand in for the units of systemd."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from scripts.services import DATABASE_URL
from tests.pages import DOCS, Block, blocks_of
from tests.test_docs import Project

PAGE = DOCS / "howto" / "deploy-workers.md"

INSTALLED = """
INSTALLED_APPS += ["django_q", "baton", "shop"]
"""

RUN = """
>>> from baton import Workflow
>>> from shop.steps import read_scan
>>> run = Workflow("scans").add("scan", read_scan.bind(path="a.png")).insert()
>>> run.wait(timeout=30)
'completed'
>>> run.steps["scan"].result
'the text of a.png'
"""


@pytest.fixture
def server() -> Iterator[dict[str, str]]:
    """An empty database `mysite`, as an operator has it: found by libpq's own variables."""
    url = urlsplit(os.environ[DATABASE_URL])
    with psycopg.connect(os.environ[DATABASE_URL], autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS mysite WITH (FORCE)")
        connection.execute("CREATE DATABASE mysite")
        yield {
            "PGHOST": url.hostname or "",
            "PGPORT": str(url.port or ""),
            "PGUSER": url.username or "",
            "PGPASSWORD": url.password or "",
        }
        connection.execute("DROP DATABASE IF EXISTS mysite WITH (FORCE)")


@pytest.mark.slow
@pytest.mark.postgres
def test_deployment_page_works_word_for_word_with_plain_processes_for_units(
    tmp_path: Path, server: dict[str, str]
) -> None:
    with Project(tmp_path) as project:
        project.environment |= server
        project.run("django-admin startproject mysite")
        project.run("cd mysite")
        project.run("django-admin startapp shop")
        settings = project.folder / "mysite" / "settings.py"
        settings.write_text(settings.read_text() + INSTALLED)
        for block in blocks_of(PAGE):
            _follow(project, block)

        project.run("python manage.py shell")
        project.ask(RUN)
        assert _doctor(project) == {"ok": True, "findings": []}


def _follow(project: Project, block: Block) -> None:
    if "sqlite3" in block.text or block.language == "yaml":
        return
    match block.language:
        case "python" if block.file:
            project._write(block)
        case "ini":
            unit = configparser.ConfigParser()
            unit.optionxform = str  # type: ignore[assignment,method-assign]
            unit.read_string(block.text)
            _start(project, unit["Service"])
        case "sh":
            for line in block.text.splitlines():
                _type(project, line, block.place)


def _start(project: Project, service: configparser.SectionProxy) -> None:
    interpreter, *words = shlex.split(service["ExecStart"])
    assert interpreter.startswith(service["WorkingDirectory"])
    project._start([sys.executable, *words])


def _type(project: Project, line: str, place: str) -> None:
    words = shlex.split(line)
    if words[0].startswith("Q_CLUSTER_NAME="):
        variable, _, queue = words[0].partition("=")
        usual = project.environment
        project.environment = usual | {variable: queue}
        project._start([sys.executable, *words[2:]])
        project.environment = usual
    elif words[0] == "systemctl":
        return
    elif "baton_doctor" in words:
        assert _doctor(project) == {"ok": True, "findings": []}
    else:
        project.run(line, place=place)


def _doctor(project: Project) -> Any:
    done = subprocess.run(
        [sys.executable, "manage.py", "baton_doctor", "--json", "--wait", "20"],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)
