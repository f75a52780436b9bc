"""The example project: its settings, its steps, its workflows, and the demo that runs them."""

from __future__ import annotations

import contextlib
import heapq
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import ProxyHandler, build_opener

import psutil
import pytest
from config import settings as example_settings
from django.core.management import call_command
from django.core.management.base import CommandError
from fake_llm import PRICES, Failure, FakeProvider
from research import llm_fake, llm_steps, llm_workflows, steps, workflows
from research.analysis import assess
from research.llm_reports import write_money
from research.terminal import watch

from baton import Discard
from baton.llm import capture
from baton.llm.stats import workflow_totals
from baton.testing import drain, perform
from scripts import demo, watchdog

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "example_project"
SAMPLES = PROJECT / "sample_files"
TOPIC = "priority queues"


# The settings


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"EXAMPLE_DATABASE_URL": "postgresql://somebody@127.0.0.1:1/example"},
        {"EXAMPLE_REDIS_URL": "redis://127.0.0.1:1/0"},
        {"EXAMPLE_DEBUG": "0"},
    ],
    ids=lambda chosen: ",".join(chosen) or "defaults",
)
def test_the_example_passes_all_system_checks_silently(chosen: dict[str, str]) -> None:
    done = manage("check", "--fail-level", "WARNING", **chosen)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "System check identified no issues (0 silenced).\n"


def test_a_database_url_of_another_kind_is_refused_by_name() -> None:
    done = manage("check", EXAMPLE_DATABASE_URL="mysql://somebody@127.0.0.1/example")

    assert done.returncode != 0
    assert "EXAMPLE_DATABASE_URL must start with postgresql://, not mysql://" in done.stderr


# The steps of the research brief


@pytest.fixture(scope="module")
def sources() -> Any:
    """What ``fetch_sources`` gives to its dependents."""
    return as_stored(perform(steps.fetch_sources, topic=TOPIC))


def test_sources_are_real_documentation_on_the_topic(sources: Any) -> None:
    texts = {document["name"]: document["text"] for document in sources["documents"]}

    assert {"queue.PriorityQueue", "asyncio.PriorityQueue", "heapq"} <= set(texts)
    assert str(heapq.__doc__).strip() in texts["heapq"]
    assert len(texts) <= 12
    assert sources["corpus_size"] > 500


def test_a_limit_bounds_the_sources_and_keeps_the_best(sources: Any) -> None:
    fewer = as_stored(perform(steps.fetch_sources, topic=TOPIC, limit=3))

    assert fewer["documents"] == sources["documents"][:3]


def test_a_topic_that_nobody_speaks_of_is_discarded_with_the_reason() -> None:
    returned = outcome_of(steps.fetch_sources, topic="pizza")

    assert isinstance(returned, Discard)
    assert returned.reason == "Python's documentation says nothing about 'pizza'"


def test_every_process_finds_the_same_sources(sources: Any) -> None:
    script = (
        "import json; from dataclasses import asdict; from research.sources import *; from research.analysis import *;"
        "corpus = [document for module in MODULES for document in documents_of(module)];"
        "found = search(corpus, 'priority queues', frequencies=document_frequencies(corpus), limit=12);"
        "print(json.dumps([len(corpus), [asdict(document) for document in found]]))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]

    # This process has imported far more than those two: that must not show either.
    here = [sources["corpus_size"], sources["documents"]]
    assert [json.loads(output) for output in outputs] == [here, here]


def test_the_summary_quotes_its_sources_word_for_word(sources: Any) -> None:
    summary = perform(steps.summarize, results={"sources": sources}, topic=TOPIC)

    texts = {document["name"]: " ".join(document["text"].split()) for document in sources["documents"]}
    assert 3 <= len(summary) <= 6
    assert all(point["sentence"] in texts[point["source"]] for point in summary)
    assert any("priority" in point["sentence"] for point in summary)


def test_keywords_are_what_marks_the_sources_off_from_the_rest(sources: Any) -> None:
    found = perform(steps.keywords, results={"sources": sources})

    weights = [keyword["weight"] for keyword in found]
    names = [keyword["term"] for keyword in found]
    assert weights == sorted(weights, reverse=True)
    assert {"queue", "priority"} <= set(names)
    assert "return" not in names


def test_credibility_scores_are_the_sum_of_their_reasons(sources: Any) -> None:
    verdicts = perform(steps.credibility, results={"sources": sources})

    assert {verdict["name"] for verdict in verdicts} == {document["name"] for document in sources["documents"]}
    for verdict in verdicts:
        points = sum(int(re.findall(r"\(([+-]\d+)\)$", reason)[0]) for reason in verdict["reasons"])
        assert verdict["score"] == max(0, min(100, 50 + points))


def test_a_deprecated_source_is_trusted_less() -> None:
    source = {"name": "a.b", "signature": "()", "text": "Do something useful with the given number. " * 10}

    sound, deprecated = assess(source), assess(source | {"text": source["text"] + "Deprecated."})

    assert deprecated["score"] == sound["score"] - 25
    assert "speaks of a deprecation (-25)" in deprecated["reasons"]


# The steps of the ingest


@pytest.mark.parametrize(
    ("name", "title", "words"),
    [
        ("harbour_log.txt", "Harbour log, second week of March", 102),
        ("survey.md", "Survey of the tide gauges", 71),
        ("readings.csv", "8 rows of station, day, tide, centimetres", 72),
        ("stations.json", "Stations of the harbour", 30),
    ],
)
def test_each_kind_of_file_is_read(name: str, title: str, words: int) -> None:
    parsed = perform(steps.parse_file, file=file_entry(name))

    assert (parsed["title"], parsed["words"]) == (title, words)
    assert parsed["terms"]["pier"] > 0


def test_a_file_that_breaks_off_fails_its_attempt() -> None:
    with pytest.raises(json.JSONDecodeError):
        perform(steps.parse_file, file=file_entry("broken.json"))


def test_a_file_that_nothing_reads_is_given_up_at_once() -> None:
    returned = outcome_of(steps.parse_file, file=file_entry("channel.sonar"))

    assert isinstance(returned, Discard)
    assert returned.reason == "no reader for .sonar"


# The workflows, in this process


@pytest.mark.django_db
def test_the_brief_completes_and_cites_every_source_by_number() -> None:
    run = workflows.research_brief(TOPIC).insert()

    drain(run)

    assert run.state == "completed"
    brief = run.steps["brief"].result
    assert brief.startswith("# Priority queues\n")
    cited = {int(number) for number in re.findall(r"\[(\d+)\]$", brief, re.MULTILINE)}
    listed = {int(number) for number in re.findall(r"^(\d+)\. `", brief, re.MULTILINE)}
    assert cited <= listed == set(range(1, len(listed) + 1))


@pytest.mark.django_db
def test_the_brief_reports_how_far_the_reading_is() -> None:
    run = workflows.research_brief(TOPIC).insert()

    drain(run)

    progress = run.steps["sources"].progress
    assert progress["current"] == progress["total"] > 50


@pytest.mark.django_db
def test_a_brief_about_nothing_fails_and_cancels_what_hangs_on_it() -> None:
    run = workflows.research_brief("pizza").insert()

    drain(run)

    assert run.state == "failed"
    assert states(run) == {
        "sources": "discarded",
        "summary": "cancelled",
        "keywords": "cancelled",
        "credibility": "cancelled",
        "brief": "cancelled",
    }


@pytest.mark.django_db
def test_the_ingest_retries_the_broken_file_discards_it_and_cancels_the_report() -> None:
    run = workflows.ingest(SAMPLES).insert()

    drain(run)

    assert run.state == "failed"
    assert states(run) == {
        "files": "completed",
        "parse broken.json": "discarded",
        "parse channel.sonar": "discarded",
        "parse harbour_log.txt": "completed",
        "parse readings.csv": "completed",
        "parse stations.json": "completed",
        "parse survey.md": "completed",
        "index": "cancelled",
        "report": "cancelled",
        "tally": "completed",
    }
    assert outcomes(run, "parse broken.json") == ["failed", "failed"]
    assert outcomes(run, "parse channel.sonar") == ["discarded"]
    assert outcomes(run, "report") == []


@pytest.mark.django_db
def test_the_tally_ignores_discarded_files_and_names_them() -> None:
    run = workflows.ingest(SAMPLES).insert()

    drain(run)

    lines = run.steps["tally"].result.splitlines()
    assert lines[0] == "# 4 of 6 files read"
    assert lines[-2:] == ["- broken.json: not read", "- channel.sonar: not read"]


@pytest.mark.django_db
def test_without_the_faulty_files_the_ingest_completes_with_its_report(tmp_path: Path) -> None:
    for name in ("harbour_log.txt", "survey.md"):
        (tmp_path / name).write_bytes((SAMPLES / name).read_bytes())
    run = workflows.ingest(tmp_path).insert()

    drain(run)

    assert run.state == "completed"
    assert "- tide: harbour_log.txt, survey.md\n" in run.steps["report"].result


@pytest.mark.django_db
def test_an_empty_folder_is_ingested_too(tmp_path: Path) -> None:
    run = workflows.ingest(tmp_path).insert()

    drain(run)

    assert run.state == "completed"
    assert run.steps["report"].result == "# Terms in several files\n\nNone.\n"


@pytest.mark.django_db
def test_a_file_that_vanishes_before_the_listing_is_discarded_by_its_reference(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("gone soon")
    run = workflows.ingest(tmp_path).insert()
    (tmp_path / "notes.txt").unlink()

    drain(run)

    node = run.steps["parse notes.txt"]
    assert node.state == "discarded"
    assert "result_of('files')['notes.txt']" in str(node.error)


# The brief by language models, in this process


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[FakeProvider]:
    """Let the example ask a provider that costs nothing, at the prices that its settings name."""
    settings.BATON = {**settings.BATON, "PRICES": example_settings.BATON["PRICES"]}
    with FakeProvider(answer=llm_fake.answer) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_url)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.url)
        for name in demo.KEYS:
            monkeypatch.setenv(name, f"the {name}")
        yield provider


@pytest.mark.django_db
def test_models_write_a_brief_and_the_ledger_agrees_with_the_invoice(provider: FakeProvider) -> None:
    run = drain(llm_workflows.llm_brief(TOPIC).insert())

    totals = workflow_totals(run)
    assert run.state == "completed"
    assert set(states(run)) >= {f"summary[{model}]" for model in llm_workflows.MODELS}
    assert run.steps["brief"].result.startswith("# Priority queues\n")
    assert (totals["calls"], totals["unpriced"]) == (len(provider.requests), 0) == (11, 0)
    assert totals["cost"] == provider.invoice.total() > 0
    assert f"{totals['cost'].normalize():f} USD\n" in write_money(run)


@pytest.mark.django_db
def test_each_provider_is_asked_with_its_own_key_and_told_the_key_of_the_call(provider: FakeProvider) -> None:
    drain(llm_workflows.llm_brief(TOPIC, limit=2).insert())

    by_provider = {request.provider: request.headers for request in provider.requests}
    assert by_provider["openai"]["authorization"] == "Bearer the OPENAI_API_KEY"
    assert by_provider["anthropic"]["x-api-key"] == "the ANTHROPIC_API_KEY"
    assert len({request.idempotency_key for request in provider.requests}) == len(provider.requests)


@pytest.mark.django_db
def test_a_brief_that_fails_in_the_middle_of_its_calls_pays_for_none_of_them_twice(provider: FakeProvider) -> None:
    provider.fail(Failure("refuse", status=529, prompt=llm_steps.CREDIBILITY, after=3, retry_after=1))
    run = drain(llm_workflows.llm_brief(TOPIC).insert())

    totals = workflow_totals(run)
    assert outcomes(run, "credibility") == ["failed", "completed"]
    assert (totals["calls"], totals["served"]) == (len(provider.invoice.charges), 3) == (11, 3)
    assert totals["cost"] == provider.invoice.total()
    assert "HTTP Error 529" in str(run.steps["credibility"].attempts[0]["error"])
    assert "answers from the ledger, not paid for again: 3, saved 0.00" in write_money(run)


@pytest.mark.django_db
def test_a_brief_over_its_budget_is_held_and_goes_on_when_that_is_raised(provider: FakeProvider) -> None:
    run = drain(llm_workflows.llm_brief(TOPIC, budget=Decimal("0.001")).insert())
    out = io.StringIO()
    next(watch([run], out))
    held = states(run)

    run.budget = Decimal("0.10")
    run.save()
    drain(run)

    assert run.state == "completed"
    assert held["summary[claude-haiku-4-5]"] == "snoozed"
    assert "snoozed    summary[claude-haiku-4-5] the budget of the run of 0.001 leaves " in out.getvalue()
    assert workflow_totals(run)["cost"] == provider.invoice.total() < run.budget


@pytest.mark.django_db
@pytest.mark.parametrize("is_captured", [False, True])
def test_prompts_are_kept_only_where_that_is_asked_for(provider: FakeProvider, *, is_captured: bool) -> None:
    run = drain(llm_workflows.llm_brief(TOPIC, limit=1, capture=is_captured).insert())

    kept = [entry["request"] for entry in capture.entries(run, step="keywords")]
    assert ["Name the eight terms" in str(request) for request in kept] == [True] * is_captured


def test_the_prices_of_the_example_are_what_the_fake_provider_charges() -> None:
    assert example_settings.BATON["PRICES"] == {model: PRICES[model] for model in llm_workflows.MODELS}


@pytest.mark.parametrize(
    ("said", "score"), [("85. Sound.", 85), ("I give it 7 of 10", 7), ("None.", None), ("4711", None)]
)
def test_a_score_is_the_first_number_that_a_model_says(said: str, score: int | None) -> None:
    assert llm_steps.score_in(said) == score


@pytest.mark.parametrize(
    ("keys", "models"),
    [
        ({}, ["gpt-5-mini", "gpt-4o-mini", "claude-haiku-4-5"]),
        ({"OPENAI_API_KEY": "k"}, ["gpt-5-mini", "gpt-4o-mini"]),
        ({"ANTHROPIC_API_KEY": "k"}, ["claude-haiku-4-5"]),
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, ["gpt-5-mini", "gpt-4o-mini", "claude-haiku-4-5"]),
    ],
    ids=lambda value: ",".join(value) or "neither",
)
def test_of_a_real_provider_only_models_are_asked_whose_key_is_there(
    keys: dict[str, str], models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in demo.KEYS:
        monkeypatch.delenv(name, raising=False)
    for name, value in keys.items():
        monkeypatch.setenv(name, value)

    assert demo.models_at_hand() == models


# Runs in the terminal


@pytest.mark.django_db
def test_a_log_gets_one_line_for_each_change() -> None:
    run = workflows.ingest(SAMPLES).insert()
    out = io.StringIO()

    first = next(watch([run], out), "settled")
    drain(run)
    rest = list(watch([run], out))

    assert (first, rest) == (None, [])
    lines = [re.sub(r"^ +[\d.]+ s  ", "", line) for line in out.getvalue().splitlines()]
    assert lines[0] == "ingest         ○ available  files"
    assert sum("parse broken.json" in line for line in lines) == 1
    assert any(re.search(r"discarded  parse broken.json +attempt 2 of 2: .*line 5 column 33", line) for line in lines)


class Window(io.StringIO):
    """An output that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.django_db
def test_a_terminal_gets_one_table_drawn_over_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "30")
    run = workflows.research_brief(TOPIC).insert()
    out = Window()

    looks = watch([run], out)
    next(looks)
    first = out.getvalue()
    drain(run)
    list(looks)

    assert first.splitlines()[:3] == ["research brief [running]", "  ○ available  sources", "  · pending    summary"]
    second = out.getvalue().removeprefix(first)
    assert second.startswith("\x1b[6F\x1b[Jresearch brief [completed]\n  ✓ completed  sources")
    assert max(map(len, second.splitlines()[1:])) < 60


@pytest.mark.django_db
def test_a_window_too_small_for_the_table_gets_what_fits_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "5")
    run = workflows.research_brief(TOPIC).insert()
    out = Window()

    next(watch([run], out))

    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) < 20


# The commands and the demo, on real processes


@pytest.mark.sqlite
def test_the_commands_follow_a_real_cluster_to_the_end(tmp_path: Path) -> None:
    chosen = {"EXAMPLE_SQLITE_PATH": str(tmp_path / "db.sqlite3")}
    assert manage("migrate", "--verbosity", "0", **chosen).returncode == 0
    with running_cluster(chosen):
        brief = manage("brief", TOPIC, **chosen)
        ingest = manage("ingest", str(SAMPLES), **chosen)

    assert (brief.returncode, brief.stderr) == (0, "")
    assert "# Priority queues\n" in brief.stdout
    assert ingest.returncode == 1
    assert ingest.stderr == "CommandError: not every file could be read: the reasons are above\n"
    assert "# 4 of 6 files read\n" in ingest.stdout
    assert re.search(r"discarded  parse channel.sonar +attempt 1 of 2: no reader for .sonar\n", ingest.stdout)


@pytest.mark.sqlite
def test_the_command_of_the_llm_brief_prints_what_it_cost(tmp_path: Path) -> None:
    with FakeProvider(answer=llm_fake.answer) as provider:
        chosen = {
            "EXAMPLE_SQLITE_PATH": str(tmp_path / "db.sqlite3"),
            "OPENAI_BASE_URL": provider.openai_url,
            "ANTHROPIC_BASE_URL": provider.url,
        }
        assert manage("migrate", "--verbosity", "0", **chosen).returncode == 0
        with contextlib.ExitStack() as clusters:
            for queue in ({}, {"Q_CLUSTER_NAME": "llm"}):
                clusters.enter_context(running_cluster(chosen | queue))
            brief = manage("llm_brief", TOPIC, "--models", "gpt-4o-mini", **chosen)
            unpriced = manage("llm_brief", TOPIC, "--models", "a-model-of-nobody", **chosen)

        assert (brief.returncode, brief.stderr) == (0, "")
        assert "# Priority queues\n" in brief.stdout
        assert re.search(rf"^total +9 .* {provider.invoice.total().normalize():f} USD$", brief.stdout, re.MULTILINE)
        assert unpriced.returncode == 1
        assert "no price for model 'a-model-of-nobody'" in unpriced.stderr


def test_a_budget_that_is_no_amount_is_refused() -> None:
    done = manage("llm_brief", TOPIC, "--budget", "much")

    assert done.returncode == 2
    assert "argument --budget: 'much' is no amount" in done.stderr


def test_a_folder_that_is_not_there_is_refused() -> None:
    from research.management.commands.ingest import Command

    with pytest.raises(CommandError, match=r"^/nowhere is not a folder$"):
        call_command(Command(), "/nowhere")


class Demo:
    """A demo as a process, and whatever it started."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = folder
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "scripts.demo", *args],
            cwd=ROOT,
            env=os.environ | {"BATON_DEMO_MARK": self.mark, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        watchdog.watch(self.popen, stop_with=signal.SIGTERM)
        self.output = ""

    def read_until(self, text: str) -> str:
        """Read on until a line holds the text; return that line."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.output += line
            if text in line:
                return line
        raise AssertionError(f"{text!r} was not said:\n{self.output}")

    def end(self) -> int:
        """Wait for its end; return the exit code."""
        self.output += self.popen.communicate(timeout=120)[0]
        return self.popen.returncode

    def left_behind(self) -> list[str]:
        """What of it is still there, its main process aside: processes by their environment, and files."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("BATON_DEMO_MARK") == self.mark and process.pid != self.popen.pid:
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return [*found, *(str(path) for path in self.folder.iterdir())]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Any]:
    """Start demos, and end those that a failing test left."""
    demos: list[Demo] = []

    def start(*args: str) -> Demo:
        demos.append(Demo(tmp_path, *args))
        return demos[-1]

    yield start
    for started in demos:
        if started.popen.poll() is None:
            started.popen.terminate()
        with contextlib.suppress(ValueError):  # its output was read to the end
            started.popen.communicate()
        watchdog.forget(started.popen)


@pytest.mark.sqlite
def test_the_demo_runs_both_workflows_and_leaves_nothing(play: Any) -> None:
    started = play("--exit")

    code = started.end()

    assert code == 0, started.output
    assert "# Priority queues\n" in started.output
    assert "- parse broken.json: discarded (failed, failed): " in started.output
    assert "- parse channel.sonar: discarded (discarded): no reader for .sonar\n" in started.output
    assert "- index: cancelled (never ran): " in started.output
    assert "# 4 of 6 files read\n" in started.output
    assert started.left_behind() == []


@pytest.mark.sqlite
def test_the_llm_demo_kills_a_worker_and_its_money_agrees_with_the_invoice(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in demo.KEYS:
        monkeypatch.delenv(name, raising=False)
    started = play("--llm", "--exit")

    code = started.end()

    assert code == 0, started.output
    assert "Provider: a fake one at http://127.0.0.1:" in started.output
    assert "# Priority queues\n" in started.output
    assert re.search(r"While `credibility` ran, its worker \(process \d+\) was killed\.", started.output)
    invoice, ledger, difference = re.findall(r": +(\d+) .*?, (0[.\d]*) USD$", started.output, re.MULTILINE)
    assert int(invoice[0]) == int(ledger[0]) + int(difference[0])
    assert Decimal(invoice[1]) == Decimal(ledger[1]) + Decimal(difference[1])
    assert started.left_behind() == []


@pytest.mark.postgres
def test_the_demo_brings_its_own_postgresql_and_valkey(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATON_TEST_DATABASE_URL", "BATON_TEST_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    started = play("--postgres", "--redis", "--exit", "--topic", "temporary files")

    code = started.end()

    assert code == 0, started.output
    assert "Database: PostgreSQL   broker: Valkey\n" in started.output
    assert "# Temporary files\n" in started.output
    assert "- parse broken.json: discarded (failed, failed): " in started.output
    assert started.left_behind() == []


@pytest.mark.postgres
def test_on_a_server_of_others_the_demo_has_a_database_of_its_own_and_drops_it() -> None:
    import psycopg

    server = os.environ["BATON_TEST_DATABASE_URL"]
    with demo.own_database(server) as own, psycopg.connect(own) as connection:
        name = connection.info.dbname
        connection.execute("CREATE TABLE something (id int)")

    assert name.startswith("baton_demo_")
    with psycopg.connect(server) as connection:
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchall() == []


@pytest.mark.sqlite
def test_the_demo_serves_the_admin_until_ctrl_c(play: Any) -> None:
    started = play()
    line = started.read_until("Admin: ")
    to_watch = started.read_until("The brief: ").split()[-1]
    started.read_until("Stop it with Ctrl-C")
    address = line.split()[1]
    style_sheet = urljoin(address, "/static/admin/css/base.css")
    opener = build_opener(ProxyHandler({}))

    with opener.open(address, timeout=10) as login, opener.open(style_sheet, timeout=10) as style:
        pages = login.read(), style.headers["Content-Type"]
    with opener.open(to_watch, timeout=10) as asked:
        assert asked.url.endswith(to_watch.removeprefix(address.removesuffix("/admin/")))
    started.popen.send_signal(signal.SIGINT)

    assert b'name="password"' in pages[0]
    assert pages[1] == "text/css"
    assert started.end() == 0, started.output
    assert started.output.endswith("\nEverything is stopped; nothing is left running.\n")
    assert started.left_behind() == []


@pytest.mark.sqlite
def test_a_demo_told_to_terminate_in_the_middle_leaves_nothing(play: Any) -> None:
    started = play()
    started.read_until("completed")

    started.popen.terminate()

    assert started.end() == 128 + signal.SIGTERM, started.output
    assert "Stopped by SIGTERM" in started.output
    assert started.left_behind() == []


@pytest.mark.sqlite
def test_a_killed_demo_leaves_nothing_either(play: Any) -> None:
    started = play()
    started.read_until("Admin: ")

    started.popen.kill()

    started.popen.communicate()
    deadline = time.monotonic() + 120
    while started.left_behind() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert started.left_behind() == []


@pytest.mark.sqlite
def test_a_demo_whose_cluster_dies_says_so_and_takes_its_orphans_along(play: Any) -> None:
    started = play()
    started.read_until("completed")
    children = psutil.Process(started.popen.pid).children()
    main_process = next(process for process in children if "qcluster" in process.cmdline())
    orphans = main_process.children(recursive=True)

    main_process.kill()

    assert started.end() == 1, started.output
    assert "The demo failed: `manage.py qcluster` ended by itself with exit code -9." in started.output
    assert "--- the last lines of qcluster ---" in started.output
    assert len(orphans) >= 3
    assert started.left_behind() == []


@pytest.mark.sqlite
def test_a_demo_whose_brief_fails_says_so_and_what_to_do(play: Any) -> None:
    started = play("--exit", "--topic", "pizza")

    code = started.end()

    assert code == 1
    assert "The demo failed: the brief is failed, not completed." in started.output
    assert "Python's documentation says nothing about 'pizza'" in started.output
    assert "Another --topic may do better." in started.output
    assert started.left_behind() == []


def test_a_port_in_use_is_named_and_not_exchanged_for_another() -> None:
    with socket_in_use() as port, pytest.raises(demo.DemoError, match=f"^port {port} cannot be used .* --port"):
        demo.web_port(port)


@pytest.mark.usefixtures("stage_of_ours")
def test_a_process_that_ends_by_itself_shows_its_last_words() -> None:
    with demo.Stage(demo.StopRequest()) as stage:
        process = stage.start("no_such_command")
        process.popen.wait()
        with pytest.raises(demo.DemoError) as caught:
            stage.pause()

    assert str(caught.value).startswith("`manage.py no_such_command` ended by itself with exit code 1.\n")
    assert "Unknown command: 'no_such_command'" in str(caught.value)
    assert not stage.folder.exists()


@pytest.mark.usefixtures("stage_of_ours")
def test_a_process_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "GRACE_SECONDS", 0.5)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    with demo.Stage(demo.StopRequest()) as stage:
        process = stage.start("shell", "--command", deaf)
        while "deaf" not in process.log.read_text():
            stage.pause()

    assert process.popen.returncode == -signal.SIGKILL


@pytest.fixture
def stage_of_ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set what a ``Stage`` needs in the environment, and put back the handlers that a ``StopRequest`` replaces."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "config.settings")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def environment(chosen: dict[str, str]) -> dict[str, str]:
    """The environment without anything that would steer the example, and with what was chosen."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EXAMPLE_", "DJANGO_SETTINGS_MODULE", "Q_CLUSTER_NAME"))
    }
    return kept | {"PYTHONPATH": str(ROOT)} | chosen


def manage(*args: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    """Run a management command of the example as a user would."""
    return subprocess.run(
        [sys.executable, str(PROJECT / "manage.py"), *args],
        env=environment(chosen),
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


@contextlib.contextmanager
def running_cluster(chosen: dict[str, str]) -> Iterator[None]:
    """A cluster of the example as a process, killed at the end."""
    cluster = subprocess.Popen(
        [sys.executable, str(PROJECT / "manage.py"), "qcluster"],
        env=environment(chosen),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    watchdog.watch(cluster, stop_with=signal.SIGTERM)
    try:
        yield
    finally:
        os.killpg(cluster.pid, signal.SIGKILL)
        cluster.wait()
        watchdog.forget(cluster)


def as_stored(value: Any) -> Any:
    """What a dependent reads of a result."""
    return json.loads(json.dumps(value))


def outcome_of(step: Any, **args: Any) -> Any:
    """What a body returned, or the directive it raised."""
    try:
        return perform(step, **args)
    except Discard as directive:
        return directive


def file_entry(name: str) -> dict[str, str]:
    """What ``list_files`` says of a sample."""
    return {"path": str(SAMPLES / name), "suffix": Path(name).suffix}


def states(run: Any) -> dict[str, str]:
    """Every step's state by name."""
    return {name: str(node.state) for name, node in run.steps.items()}


def outcomes(run: Any, name: str) -> list[str]:
    """How each execution of a step ended."""
    return [entry["outcome"] for entry in run.steps[name].attempts]


@contextlib.contextmanager
def socket_in_use() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]
