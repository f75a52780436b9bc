"""What the documentation shows is so: its code is run, its commands are parsed, its lists are complete."""

from __future__ import annotations

import ast
import builtins
import contextlib
import copy
import importlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
import types
import unittest
import warnings
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from django.conf import settings as django_settings
from django.core.checks import run_checks
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.db import connection, transaction
from django.db.models import Model
from django.dispatch import Signal
from django.test import TestCase
from django.test.utils import override_settings
from django.utils import timezone
from fake_llm import PRICES, FakeProvider

import baton
from baton import Workflow, exceptions, registry, telemetry, testing
from baton.conf import Settings
from baton.engine.gate import claim
from baton.models import Completion, StepLog, WorkflowNode, WorkflowRun
from baton.states import AttemptOutcome, RunState, StepState
from baton.sweep import SweepReport, sweep
from baton.testing import drain
from scripts import watchdog
from tests import steps
from tests.clock import expire_leases
from tests.pages import DOCS, README, ROOT, Block, blocks_of, converse, name_of, pages, prose_of
from tests.utils import wait_until

TUTORIAL = DOCS / "tutorial" / "first-workflow.md"
IN_THIS_PROCESS = [page for page in pages() if page not in (README, TUTORIAL)]
SETTINGS = {"BATON", "DATABASES", "INSTALLED_APPS", "Q_CLUSTER"}

# What nothing can be run of here. Commands of manage.py in them are parsed all the same.
LANGUAGES_FOR_EYES = {"dockerfile", "ini", "text", "yaml"}
PATIENCE_SECONDS = 60.0
CLIENTS = ("anthropic", "openai")

_MANAGE = re.compile(r"manage\.py (?P<arguments>[a-z_]+( [^`\n\"]+)?)")
_ASSIGNMENT = re.compile(r"^[A-Z_]+=")


@pytest.fixture
def _provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the clients of language models find one that costs nothing, by the environment as on a reader's machine."""
    with FakeProvider(prices={**PRICES, "smollm2-135m": {"input": "0", "output": "0"}}) as provider:
        for name, address in (("OPENAI", provider.openai_url), ("ANTHROPIC", provider.url)):
            monkeypatch.setenv(f"{name}_BASE_URL", address)
            monkeypatch.setenv(f"{name}_API_KEY", "any")
        yield


@pytest.mark.parametrize("page", IN_THIS_PROCESS, ids=name_of)
@pytest.mark.django_db
@pytest.mark.usefixtures("_provider")
def test_code_of_page_does_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolated_steps: None
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    with Reader(tmp_path) as reader:
        for block in blocks_of(page):
            reader.follow(block)


@pytest.mark.slow
@pytest.mark.sqlite
@pytest.mark.usefixtures("_provider")
def test_readme_works_word_for_word_in_a_fresh_project(tmp_path: Path) -> None:
    with Project(tmp_path) as project:
        project.follow_page(README)

        project.ask(_LOOK_AT_THE_PROJECT)


@pytest.mark.slow
@pytest.mark.sqlite
def test_tutorial_works_word_for_word_in_an_empty_project(tmp_path: Path) -> None:
    with Project(tmp_path) as project:
        project.follow_page(TUTORIAL)

        project.ask(_LOOK_AT_THE_PROJECT)
        project.ask(_LOOK_AT_THE_ADMIN)


_LOOK_AT_THE_PROJECT = """
>>> from django.core.management import call_command
>>> call_command("check", fail_level="WARNING")
System check identified no issues (0 silenced).
>>> call_command("baton_sweep", "--check")
Every invariant holds.
>>> from django_q.models import Schedule
>>> [schedule.func for schedule in Schedule.objects.all()]
['baton.sweep.scheduled_sweep']
"""

_LOOK_AT_THE_ADMIN = """
>>> from django.contrib.auth import get_user_model
>>> from django.test import Client
>>> from baton.models import WorkflowNode
>>> reader = Client(SERVER_NAME="localhost")
>>> reader.force_login(get_user_model().objects.get(username="reader"))
>>> [reader.get(f"/admin/baton/{kind}/").status_code for kind in ("workflowrun", "workflownode", "completion")]
[200, 200, 200]
>>> failed = WorkflowNode.objects.get(name="words", state="discarded")
>>> page = reader.get(f"/admin/baton/workflownode/{failed.pk}/change/")
>>> "there is nothing to count" in page.content.decode()
True
>>> 'type="submit" value="Save"' in page.content.decode()
False
"""


def test_apps_of_the_guide_to_monitoring_can_be_loaded_before_the_models_are(tmp_path: Path) -> None:
    load = "from django.conf import settings; settings.configure(INSTALLED_APPS=['django_q', 'baton', 'shop']); "
    (tmp_path / "shop").mkdir()
    for block in blocks_of(DOCS / "howto/monitor.md"):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
        if block.file == "shop/apps.py":
            done = subprocess.run(
                [sys.executable, "-c", f"{load}import django; django.setup()"],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{block.place}\n{done.stderr}"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_command_of_page_exists_with_its_options(page: Path) -> None:
    for line, arguments in _manage_commands(page):
        _parse(shlex.split(arguments), place=f"{name_of(page)}:{line}")


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_prose_has_one_sentence_a_line(page: Path) -> None:
    crowded = [f"{name_of(page)}:{line}: {text}" for line, text in prose_of(page) if re.search(r"[.!?] [A-Z`\[]", text)]

    assert crowded == []


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_settings_that_page_names_exist(page: Path) -> None:
    known = {field.name.upper() for field in fields(Settings)}

    named = set(re.findall(r"BATON\[[\"'](\w+)[\"']\]", page.read_text()))

    assert named <= known


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_errors_that_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"`(?:baton\.\w+\.)?([A-Z]\w+Error)`", page.read_text()))

    assert named <= {*ERRORS, *dir(builtins)}


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?://)([^)#]+)", README.read_text()))
def test_link_of_readme_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).is_file()


def test_readme_says_in_one_sentence_that_django_baton_has_the_same_import_name() -> None:
    (sentence,) = (text for text in README.read_text().splitlines() if "django-baton" in text)

    assert sentence == (
        "PyPI's `django-baton`, an admin theme, uses the same import name `baton`, "
        "so the two cannot be installed together."
    )


ERRORS = {
    name: found
    for module in (exceptions, testing)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, Exception) and found.__module__ == module.__name__
}
SIGNALS = {name: found for name, found in vars(telemetry).items() if isinstance(found, Signal)}
COMMANDS = sorted(path.stem for path in (ROOT / "baton/management/commands").glob("baton_*.py"))


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_error_has_its_place_in_the_reference(name: str) -> None:
    assert name in _documented("reference/errors.md")


@pytest.mark.parametrize("name", sorted(SIGNALS))
def test_signal_has_its_place_in_the_reference(name: str) -> None:
    assert name in _documented("reference/signals.md")


@pytest.mark.parametrize("name", COMMANDS)
def test_command_and_its_options_have_their_place_in_the_reference(name: str) -> None:
    of_django = _options(BaseCommand().create_parser("manage.py", "any"))

    documented = _documented("reference/commands.md")

    assert {name, *(_options(_parser(name)) - of_django)} <= documented


@pytest.mark.parametrize("name", [field.name for field in fields(SweepReport)])
def test_count_of_a_sweep_has_its_place_in_the_reference(name: str) -> None:
    assert name in _documented("reference/commands.md")


@pytest.mark.parametrize("name", sorted(baton.__all__))
def test_public_name_has_its_place_in_the_reference(name: str) -> None:
    assert re.search(rf"^\.\. auto\w+:: baton\.{name}\b", (DOCS / "reference/api.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("model", [WorkflowNode, WorkflowRun, Completion, StepLog], ids=lambda model: model.__name__)
def test_column_has_its_place_in_the_reference(model: type[Model]) -> None:
    columns = {field.name for field in model._meta.concrete_fields}

    assert columns - _documented("reference/node-row.md") == set()


@pytest.mark.parametrize("state", [*StepState, *RunState, *AttemptOutcome], ids=repr)
def test_state_has_its_place_in_the_reference(state: StepState | RunState | AttemptOutcome) -> None:
    assert state.value in _documented("reference/node-row.md")


@pytest.mark.django_db
def test_reference_names_the_keys_of_each_signal_and_no_others() -> None:
    heard: dict[str, set[str]] = {}

    def hear(name: str) -> Any:
        def receiver(sender: object, signal: Signal, **payload: object) -> None:
            heard.setdefault(name, set()).update(payload)

        return receiver

    receivers = {name: hear(name) for name in SIGNALS}
    for name, receiver in receivers.items():
        SIGNALS[name].connect(receiver)
    try:
        with TestCase.captureOnCommitCallbacks(execute=True):
            run = Workflow("told").add("fails", steps.discard).add("waits", steps.nothing, deps=["fails"]).insert()
            lost = Workflow("told").add("lost", steps.nothing).insert()
        drain(run)
        claim(connection, lost.steps["lost"].pk, worker="elsewhere:1")
        expire_leases(lost)
        with override_settings(BATON={"RETENTION_DAYS": 0}):
            sweep()
        # A completion that cannot be announced fails a part of the sweep.
        drain(lost)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE baton_completion SET announced_at = NULL, failed_steps = 'no JSON'")
        Completion.objects.update(finished_at=timezone.now() - timedelta(hours=1))
        sweep()
        Completion.objects.update(failed_steps=[])
    finally:
        for name, receiver in receivers.items():
            SIGNALS[name].disconnect(receiver)

    assert heard == _payloads_in_reference()


def test_attempts_have_the_keys_that_the_reference_names(isolated_steps: None, db: None) -> None:
    run = drain(Workflow("told").add("step", steps.nothing).insert())
    (attempt,) = run.steps["step"].attempts

    section = (DOCS / "reference/node-row.md").read_text().partition("## Attempts")[2].partition("\n## ")[0]

    table = section.partition("\n\n|")[2].partition("\n\n")[0]
    assert set(attempt) == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


# Following pages ----------------------------------------------------------------------------------------------------


class Reader:
    """Follows a page in this process; what the page inserts has run to its end when the next block begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace: dict[str, Any] = {"__name__": "page"}
        self.settings: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(self.folder)):
                del sys.modules[name]
                _close_client(module)

    def follow(self, block: Block) -> None:
        """Do what a reader does with a block, at the prices that the page has named so far."""
        prices = {key: value for key, value in self.settings.get("BATON", {}).items() if key == "PRICES"}
        with override_settings(BATON={**django_settings.BATON, **prices}):
            self._follow(block)

    def _follow(self, block: Block) -> None:
        with TestCase.captureOnCommitCallbacks(execute=True):
            match block.language:
                case "python" if _is_of_settings(block):
                    self._configure(block)
                case "python" if block.file:
                    self._write(block)
                case "python":
                    exec(compile(block.padded, block.page, "exec"), self.namespace)
                    self._call_tests(self.namespace)
                case "pycon":
                    faults = converse(block.text, self.namespace, line=block.line)
                    assert not faults, "\n".join([block.place, *faults])
                case "sh":
                    for words in _lines_of(block.text):
                        self._command(words, block.place)
                case "json":
                    json.loads(block.text)
                case language:
                    assert language in LANGUAGES_FOR_EYES, f"{block.place}: nobody reads {language!r}"
        for run in WorkflowRun.objects.running():
            drain(run)

    def _write(self, block: Block) -> None:
        path = self.folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(block.text)
        for parent in Path(block.file).parents[:-1]:
            (self.folder / parent / "__init__.py").touch()
        importlib.invalidate_caches()
        name = block.file.removesuffix(".py").replace("/", ".")
        known = sys.modules.pop(name, None)
        module = importlib.import_module(name)
        if known is not None:
            # A block that goes on with a file: what was taken from it before stays the same module.
            known.__dict__.update(module.__dict__)
            sys.modules[name] = known
        self._call_tests(vars(module))
        self._run_test_cases(module)

    def _configure(self, block: Block) -> None:
        usual = {
            "BASE_DIR": self.folder,
            "DATABASES": copy.deepcopy(django_settings.DATABASES),
            "INSTALLED_APPS": list(django_settings.INSTALLED_APPS),
        }
        namespace = usual | self.settings
        exec(compile(block.padded, block.page, "exec"), namespace)
        self.settings |= {name: namespace[name] for name in SETTINGS - {"INSTALLED_APPS"} if name in namespace}
        with warnings.catch_warnings():
            # Only the checks read them.
            warnings.filterwarnings("ignore", "Overriding setting DATABASES")
            with override_settings(**self.settings):
                messages = run_checks(tags=["baton"])
        assert messages == [], block.place

    def _command(self, words: list[str], place: str) -> None:
        environment, words = _without_environment(words)
        if "Q_CLUSTER_NAME" in environment:
            assert environment["Q_CLUSTER_NAME"] in self.settings["Q_CLUSTER"]["ALT_CLUSTERS"], place
        if not _is_manage(words, place):
            return
        _parse(words[2:], place=place)
        if words[2] in ("baton_sweep", "check") and "--watch" not in words:
            call_command(*words[2:], stdout=io.StringIO())

    def _call_tests(self, namespace: dict[str, Any]) -> None:
        for name in [name for name in namespace if name.startswith("test_")]:
            test = namespace.pop(name)
            if not isinstance(test, types.ModuleType):
                test()

    def _run_test_cases(self, module: types.ModuleType) -> None:
        """Run the methods only: what Django does around a class would close the connection of this test."""
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, TestCase) and found.__module__ == module.__name__:
                for name in unittest.defaultTestLoader.getTestCaseNames(found):
                    with transaction.atomic():
                        getattr(found(name), name)()
                        transaction.set_rollback(True)


class Project:
    """Follows a page in a project of its own, word for word, with real workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []
        self._shell: subprocess.Popen[str] | None = None
        self._written: set[Path] = set()
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BATON_", "COV_", "DJANGO_", "Q_CLUSTER", "PYTEST_"))
        } | {
            "DJANGO_SUPERUSER_EMAIL": "reader@example.com",
            "DJANGO_SUPERUSER_PASSWORD": "only for a moment",
            "DJANGO_SUPERUSER_USERNAME": "reader",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        for process in self._started:
            _end_group(process)

    def follow_page(self, page: Path) -> None:
        """Do everything that a page says."""
        for block in blocks_of(page):
            match block.language:
                case "python":
                    self._write(block)
                case "sh":
                    for words in _lines_of(block.text):
                        self.run(shlex.join(words), place=block.place)
                case "pycon":
                    self.ask(block.text, line=block.line, place=block.place)
                case language:
                    pytest.fail(f"{block.place}: a page that is followed has no use for {language!r}")

    def run(self, command: str, *, place: str = "") -> None:
        """Type a command in; workers stay, a shell stays until the next one."""
        words = shlex.split(command)
        match words:
            case ["cd", folder]:
                self.folder /= folder
            case ["django-admin", "startproject" | "startapp", _]:
                self._wait_for(words)
            case ["python", "manage.py", "qcluster"]:
                self._start(words)
            case ["python", "manage.py", "shell"]:
                words += ["-c", "from tests.pages import answer; answer()"]
                self._shell = self._start(words, talks=True)
            case ["python", "manage.py", "runserver"]:
                _parse(["runserver"], place=place)
            case ["python", "manage.py", "createsuperuser"]:
                self._wait_for([*words, "--noinput"])
            case _:
                if _is_manage(words, place):
                    self._wait_for(words)

    def ask(self, session: str, *, line: int = 1, place: str = "") -> None:
        """Type a session into the shell."""
        shell = self._shell
        if shell is None or shell.stdin is None or shell.stdout is None:
            pytest.fail(f"{place}: no shell is open")
        shell.stdin.write(json.dumps({"text": session, "line": line, "patience": PATIENCE_SECONDS}) + "\n")
        shell.stdin.flush()
        for reply in shell.stdout:
            if reply.startswith("["):
                faults = json.loads(reply)
                assert not faults, "\n".join([place, *faults])
                return
        pytest.fail(f"{place}: the shell is gone")

    def _write(self, block: Block) -> None:
        assert block.file, f"{block.place}: the block does not say where it belongs"
        path = self.folder / block.file
        goes_on = path.name == "settings.py" or path in self._written
        self._written.add(path)
        path.write_text((path.read_text() if goes_on else "") + block.text)

    def _wait_for(self, words: list[str]) -> None:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"

    def _start(self, words: list[str], *, talks: bool = False) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environment,
            text=True,
            start_new_session=True,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE if talks else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        watchdog.watch(process, stop_with=signal.SIGKILL)
        self._started.append(process)
        return process


@pytest.fixture
def isolated_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget the steps and receivers of a page afterwards, and let it not see those of the suite."""
    monkeypatch.setattr(registry, "_steps", {})
    monkeypatch.setattr(registry, "_duplicates", {})
    before = {name: list(found.receivers) for name, found in SIGNALS.items()}
    yield
    for name, receivers in before.items():
        SIGNALS[name].receivers = receivers


def _close_client(module: types.ModuleType) -> None:
    """Close a provider's client that a page makes for as long as its worker lives."""
    client = vars(module).get("client")
    if hasattr(client, "cache_info") and client.cache_info().currsize:
        client().close()


def _end_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not _group(process.pid), what=f"the end of process group {process.pid}")
    watchdog.forget(process)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def _group(leader: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _is_of_settings(block: Block) -> bool:
    assigned = {
        target.id
        for statement in ast.parse(block.text).body
        if isinstance(statement, (ast.Assign, ast.AugAssign))
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name)
    }
    return bool(assigned & SETTINGS)


def _lines_of(text: str) -> list[list[str]]:
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _without_environment(words: list[str]) -> tuple[dict[str, str], list[str]]:
    count = next(index for index, word in enumerate(words) if not _ASSIGNMENT.match(word))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


def _is_manage(words: list[str], place: str) -> bool:
    """Whether it is a command of manage.py; any other must be one that this repository or its metadata knows."""
    match words:
        case ["python", "manage.py", *_]:
            return True
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), place
        case ["systemctl", "daemon-reload" | "enable", *_]:
            pass  # tests/test_deployment.py starts what the units say
        case ["pip", "install", requirement]:
            assert requirement in _requirements(), place
        case _:
            pytest.fail(f"{place}: nobody knows the command {shlex.join(words)}")
    return False


def _requirements() -> set[str]:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = metadata["name"]
    return {name, *(f"{name}[{extra}]" for extra in metadata["optional-dependencies"]), *CLIENTS}


def _manage_commands(page: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        for match in _MANAGE.finditer(line):
            yield number, match["arguments"].split(" # ")[0]


def _parse(arguments: list[str], *, place: str) -> None:
    name, *options = arguments
    assert name in get_commands(), f"{place}: there is no command {name!r}"
    try:
        _parser(name).parse_args(options)
    except CommandError as exc:
        pytest.fail(f"{place}: {exc}")


def _parser(name: str) -> Any:
    app = get_commands()[name]
    command = app if isinstance(app, BaseCommand) else load_command_class(app, name)
    return command.create_parser("manage.py", name)


def _options(parser: Any) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def _documented(page: str) -> set[str]:
    """The words that a page explains: code spans in the first column of a table, in headings and in terms."""
    text = (DOCS / page).read_text()
    rows = re.findall(r"^(?:\||#+) *([^|\n]+)", text, re.MULTILINE)
    return {word.rpartition(".")[2] for row in rows for span in re.findall(r"`([^`]+)`", row) for word in span.split()}


def _payloads_in_reference() -> dict[str, set[str]]:
    """The keys that the page of signals lists for each, by heading."""
    payloads = {}
    for section in re.split(r"^## ", (DOCS / "reference/signals.md").read_text(), flags=re.MULTILINE)[1:]:
        for name in re.findall(r"`(\w+)`", section.partition("\n")[0]):
            payloads[name] = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    return payloads
