"""``make demo``: the workflows of the example project on real workers, from an empty folder.

With ``--llm`` the brief is written by language models: a fake provider's, which costs nothing, or those of the provider
whose key is in the environment. Everything it starts and writes is gone when it ends, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from scripts import services, watchdog

if TYPE_CHECKING:
    from fake_llm import FakeProvider

    from baton.models import WorkflowNode, WorkflowRun

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "example_project"
PORT = 8000
WORKFLOWS_SECONDS = 120
WEB_SECONDS = 30
GRACE_SECONDS = 4
POLL_SECONDS = 0.1

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
"""Either of them makes ``--llm`` ask the real provider."""
FAKE_DELAY_SECONDS = 0.3
FAKE_SLOW_SECONDS = 10
"""So slow are the models of the brief that is there to be watched."""
FAKE_RETRY_SECONDS = 12
ENCORE_SECONDS = 30
"""After its end another one begins."""
LEASE_SECONDS = 4
ANSWERS_BEFORE_THE_KILL = 2

EXPECTED_OF_INGEST = {
    "parse broken.json": "discarded",
    "parse channel.sonar": "discarded",
    "index": "cancelled",
    "report": "cancelled",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code is 0 if the workflows ended as they should."""
    options = arguments(argv)
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    stop = StopRequest()
    try:
        with Stage(stop) as stage:
            (play_llm if options.llm else play)(stage, options)
        say("\nEverything is stopped; nothing is left running.")
    except StoppedError as stopped:
        say(f"\nStopped by {stopped}; nothing is left running.")
        return 128 + stopped.signum
    except DemoError as problem:
        say(f"\nThe demo failed: {problem}")
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone; what the interpreter flushes at its end would fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make demo", description="A research brief and an ingest, on real workers.")
    parser.add_argument("--exit", action="store_true", help="stop when the workflows are done")
    parser.add_argument("--llm", action="store_true", help="a brief by language models instead, and what it costs")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="which models write it, with a real provider")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL instead of SQLite")
    parser.add_argument("--redis", action="store_true", help="with Valkey as the broker instead of the database")
    parser.add_argument("--topic", default="priority queues", help="what the brief is about (default: %(default)s)")
    parser.add_argument("--port", type=int, help=f"where the admin is served (default: {PORT}, or a free one)")
    return parser.parse_args(argv)


def play(stage: Stage, options: argparse.Namespace) -> None:
    """Set up, run the workflows, show what came of them, serve."""
    port = web_port(options.port)
    configure(stage, options)
    password = set_up_database()
    cluster = stage.start("qcluster")
    if options.redis:
        # Redis cannot ring a bell later: this process does it.
        stage.start("baton_sweep", "--watch", "--interval", "1")
    web = start_web(stage, port, password)

    brief, ingest = insert_workflows(options.topic)
    show_progress(stage, brief, ingest)
    show_results(brief, ingest)

    surprises = surprises_in(brief, ingest)
    if surprises:
        raise DemoError("\n".join([*surprises, cluster.last_words()]))
    wait_for_web(stage, web, port)
    if not options.exit:
        encore = Encore(stage, options.topic, port)
        serve(stage, port, between=encore.look)


def play_llm(stage: Stage, options: argparse.Namespace) -> None:
    """Have language models write a brief, kill a worker in the middle of it where nothing is paid, show the money."""
    port = web_port(options.port)
    configure(stage, options)
    provider = choose_provider(stage)
    password = set_up_database()
    cluster, llm_cluster = stage.start("qcluster"), stage.start("qcluster", Q_CLUSTER_NAME="llm")
    stage.start("baton_sweep", "--watch", "--interval", "1")
    web = start_web(stage, port, password)

    from research.llm_workflows import llm_brief  # noqa: PLC0415 - Django is loaded now

    models = options.models or models_at_hand()
    run = llm_brief(options.topic, models=models).insert()
    killing = Killing(run, "credibility")
    show_progress(stage, run, between=killing.look if provider else None)
    show_llm_results(run)

    if run.state != "completed":
        reasons = "".join(f"\n  {node.name}: {node.state}: {node.error}" for node in failures_of(run))
        said = f"{cluster.last_words()}\n{llm_cluster.last_words()}"
        raise DemoError(f"the brief is {run.state}, not completed.{reasons}\n  Another --topic may do better.\n{said}")
    if provider is not None:
        check_invoice(run, killing, provider)
    wait_for_web(stage, web, port)
    if not options.exit:
        serve(stage, port)


def start_web(stage: Stage, port: int, password: str) -> Process:
    """Start the web server, and say where the admin will be."""
    web = stage.start("runserver", "--noreload", f"127.0.0.1:{port}", EXAMPLE_DEBUG="1")
    say(f"Admin: http://127.0.0.1:{port}/admin/   user: admin   password: {password}\n")
    return web


def web_port(wanted: int | None) -> int:
    """Choose where the admin is served; a port that was asked for is never exchanged for another."""
    for port in (PORT, 0) if wanted is None else (wanted,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except (OSError, OverflowError) as exc:
                problem = exc
            else:
                return int(probe.getsockname()[1])
    msg = f"port {wanted} cannot be used ({problem}). Give another with --port, or none: then a free one is found."
    raise DemoError(msg) from problem


def configure(stage: Stage, options: argparse.Namespace) -> None:
    """Start the servers that were asked for, and load Django with the example's settings."""
    chosen = {"EXAMPLE_SQLITE_PATH": str(stage.folder / "db.sqlite3")}
    if options.postgres:
        chosen["EXAMPLE_DATABASE_URL"] = stage.enter(own_database(stage.enter(services.postgres()).url))
    if options.llm:
        chosen["EXAMPLE_LEASE_SECONDS"] = str(LEASE_SECONDS)
    if options.redis:
        chosen["EXAMPLE_REDIS_URL"] = stage.enter(services.valkey()).url
    database = "PostgreSQL" if options.postgres else "SQLite"
    say(f"Database: {database}   broker: {'Valkey' if options.redis else 'the database'}")

    inherited = [name for name in os.environ if name.startswith("EXAMPLE_") or name == "Q_CLUSTER_NAME"]
    for name in inherited:
        del os.environ[name]
    os.environ |= chosen | {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "EXAMPLE_DEBUG": "0",
        "EXAMPLE_SECRET_KEY": secrets.token_urlsafe(40),
        "PYTHONPATH": os.pathsep.join([str(PROJECT), str(ROOT)]),
        "PYTHONUNBUFFERED": "1",
    }
    sys.path.insert(0, str(PROJECT))
    import django  # noqa: PLC0415 - the settings are only known now

    django.setup()


@contextlib.contextmanager
def own_database(url: str) -> Iterator[str]:
    """Make a database for the demo alone; the server may be one that others use."""
    import psycopg  # noqa: PLC0415 - not needed on SQLite

    name = f"baton_demo_{secrets.token_hex(4)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def set_up_database() -> str:
    """Create the tables and a superuser; return the password."""
    from django.contrib.auth import get_user_model  # noqa: PLC0415 - Django is loaded now
    from django.core.management import call_command  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    password = secrets.token_urlsafe(9)
    get_user_model().objects.create_superuser("admin", password=password)
    return password


def choose_provider(stage: Stage) -> FakeProvider | None:
    """Use the real provider whose key there is, else start the fake one and let the workers find it."""
    if any(os.environ.get(name) for name in KEYS):
        from research.llm_workflows import BUDGET  # noqa: PLC0415 - Django is loaded now

        say(f"Provider: a real one, for its key is set; the brief may cost {BUDGET} USD at most")
        return None
    from fake_llm import FakeProvider  # noqa: PLC0415 - on the path now
    from research.llm_fake import answer  # noqa: PLC0415

    provider = stage.enter(FakeProvider(answer=answer, delay=FAKE_DELAY_SECONDS))
    os.environ |= {"OPENAI_BASE_URL": provider.openai_url, "ANTHROPIC_BASE_URL": provider.url}
    say(f"Provider: a fake one at {provider.url}, which costs nothing. With {' or '.join(KEYS)} set, the real one.")
    return provider


def models_at_hand() -> list[str]:
    """The brief's models, but for those of a real provider whose key is not there."""
    from research.llm_workflows import MODELS  # noqa: PLC0415 - Django is loaded now

    of_openai, of_anthropic = (bool(os.environ.get(name)) for name in KEYS)
    if of_openai == of_anthropic:
        return list(MODELS)
    return [model for model in MODELS if model.startswith("claude") == of_anthropic]


def insert_workflows(topic: str) -> tuple[WorkflowRun, WorkflowRun]:
    """Insert the brief and the ingest."""
    from research.workflows import ingest, research_brief  # noqa: PLC0415 - Django is loaded now

    return research_brief(topic).insert(), ingest(PROJECT / "sample_files").insert()


def show_progress(stage: Stage, *runs: WorkflowRun, between: Callable[[], None] | None = None) -> None:
    """Show the steps as they move, until the runs are settled; between two looks something else may be done."""
    from research.terminal import watch  # noqa: PLC0415 - Django is loaded now

    deadline = time.monotonic() + WORKFLOWS_SECONDS
    for _ in watch(runs, sys.stdout):
        stage.pause()
        if between is not None:
            between()
        if time.monotonic() > deadline:
            words = "\n".join(process.last_words() for process in stage.processes)
            msg = f"the workflows were not done after {WORKFLOWS_SECONDS} s. What the processes said:\n{words}"
            raise DemoError(msg)


def show_results(brief: WorkflowRun, ingest: WorkflowRun) -> None:
    """Print the brief, and what became of the files."""
    if brief.steps["brief"].has_result:
        say(f"\n{brief.steps['brief'].result}")
    say("# What the ingest did not do\n")
    for node in failures_of(ingest):
        tries = ", ".join(entry["outcome"] for entry in node.attempts) or "never ran"
        say(f"- {node.name}: {node.state} ({tries}): {node.error}")
    if ingest.steps["tally"].has_result:
        say(f"\n{ingest.steps['tally'].result}")


def show_llm_results(run: WorkflowRun) -> None:
    """Print the brief, and what it cost."""
    from research.llm_reports import write_money  # noqa: PLC0415 - Django is loaded now

    if run.steps["brief"].has_result:
        say(f"\n{run.steps['brief'].result}")
    say(write_money(run))


def check_invoice(run: WorkflowRun, killing: Killing, provider: FakeProvider) -> None:
    """Compare Baton's total with the provider's own books: they differ by the calls of unknown outcome alone."""
    from baton.llm.stats import unknown_outcomes, workflow_totals  # noqa: PLC0415 - Django is loaded now

    totals, unknown, charges = workflow_totals(run), unknown_outcomes(run), provider.invoice.charges
    # All calls of a key of a step bear the same idempotency key, and here each of them cost the same.
    known = sum({charge.idempotency_key: charge.cost for charge in charges}.values(), Decimal(0))
    lost = provider.invoice.total() - known
    if killing.pid:
        say(f"While `{killing.step}` ran, its worker (process {killing.pid}) was killed. Another one went on after it:")
        say("what had been answered came from the ledger, and only the call under way was made again.\n")
    say(f"The provider's invoice: {len(charges)} calls, {provider.invoice.total().normalize():f} USD")
    say(f"Baton's ledger:         {totals['calls']} calls, {totals['cost'].normalize():f} USD")
    say(f"The difference:         {len(unknown)} of unknown outcome, {lost.normalize():f} USD")
    if (totals["cost"], totals["calls"] + len(unknown)) != (known, len(charges)):
        raise DemoError("Baton's ledger and the provider's invoice do not agree.")


def surprises_in(brief: WorkflowRun, ingest: WorkflowRun) -> list[str]:
    """Say what ended otherwise than it should: the ingest is meant to fail on two of its files."""
    found = []
    if brief.state != "completed":
        reasons = "".join(f"\n  {node.name}: {node.state}: {node.error}" for node in failures_of(brief))
        found.append(f"the brief is {brief.state}, not completed.{reasons}\n  Another --topic may do better.")
    failed = {node.name: str(node.state) for node in failures_of(ingest)}
    if (ingest.state, failed) != ("failed", EXPECTED_OF_INGEST):
        found.append(f"the ingest is {ingest.state} with {failed}; expected was failed with {EXPECTED_OF_INGEST}.")
    return found


def failures_of(run: WorkflowRun) -> list[WorkflowNode]:
    """The steps that did not complete."""
    return [node for node in run.steps.values() if node.state != "completed"]


def wait_for_web(stage: Stage, web: Process, port: int) -> None:
    """See that the admin and its style sheet are served."""
    deadline = time.monotonic() + WEB_SECONDS
    # A proxy set for the outer world would be asked for this machine too.
    opener = build_opener(ProxyHandler({}))
    for path in ("/admin/login/", "/static/admin/css/base.css"):
        while True:
            try:
                opener.open(f"http://127.0.0.1:{port}{path}", timeout=5).close()
                break
            except (URLError, ConnectionError, TimeoutError) as exc:
                if time.monotonic() > deadline:
                    msg = f"the admin does not answer at {path} ({exc}).\n{web.last_words()}"
                    raise DemoError(msg) from exc
            stage.pause()


def serve(stage: Stage, port: int, *, between: Callable[[], None] | None = None) -> None:
    """Leave everything running until Ctrl-C, which is how a demo ends; between two looks something else may be done."""
    if between is not None:
        between()
    say(f"The admin is served at http://127.0.0.1:{port}/admin/ (user and password are above). Stop it with Ctrl-C.")
    try:
        while True:
            stage.pause()
            if between is not None:
                between()
    except StoppedError as stopped:
        if stopped.signum != signal.SIGINT:
            raise


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


class Encore:
    """Something to watch while the admin is served: a brief by models that take their time, and then another.

    The models are always fake ones, whatever key there is: nobody asked for money to be spent.
    """

    def __init__(self, stage: Stage, topic: str, port: int) -> None:
        from fake_llm import Failure, FakeProvider  # noqa: PLC0415 - on the path now
        from research.llm_fake import answer  # noqa: PLC0415

        busy = [Failure("refuse", status=429, retry_after=FAKE_RETRY_SECONDS, model="claude-haiku-4-5")]
        provider = stage.enter(FakeProvider(answer=answer, delay=FAKE_SLOW_SECONDS, script=busy))
        where = {"OPENAI_BASE_URL": provider.openai_url, "ANTHROPIC_BASE_URL": provider.url}
        stage.start("qcluster", Q_CLUSTER_NAME="llm", **where, **dict.fromkeys(KEYS, "fake"))
        self.topic, self.port = topic, port
        self.run: WorkflowRun | None = None
        self.next_look = 0.0
        self.ended_at: float | None = None

    def look(self) -> None:
        """Once a second, see whether it is time for another one."""
        now = time.monotonic()
        if now < self.next_look:
            return
        self.next_look = now + 1
        if self.run is None:
            self.begin()
        elif type(self.run).objects.filter(pk=self.run.pk, state="running").exists():
            self.ended_at = None
        elif self.ended_at is None:
            self.ended_at = now
        elif now - self.ended_at > ENCORE_SECONDS:
            self.begin()

    def begin(self) -> None:
        """Insert one, and say where it is to be seen."""
        from research.llm_workflows import llm_brief  # noqa: PLC0415 - Django is loaded now

        is_first, self.ended_at = self.run is None, None
        self.run = llm_brief(self.topic, capture=True).insert()
        if is_first:
            say("\nNow there is a run to watch, to cancel and to retry: fake language models write a brief, slowly.")
        say(f"The brief: http://127.0.0.1:{self.port}/admin/baton/workflowrun/{self.run.pk}/change/")


class Killing:
    """Kills the worker of a step, once, in the middle of its calls."""

    def __init__(self, run: WorkflowRun, step: str) -> None:
        self.run, self.step = run, step
        self.pid = 0

    def look(self) -> None:
        """Kill, if the time has come: some calls are answered, and the next is under way."""
        if self.pid:
            return
        node = self.run.steps[self.step]
        answered = node.ledger.filter(state="answered").count()
        if node.state == "executing" and answered >= ANSWERS_BEFORE_THE_KILL:
            self.pid = int(node.worker.rpartition(":")[2])
            os.kill(self.pid, signal.SIGKILL)


class DemoError(Exception):
    """Something went wrong; the message says what to do next."""


class StoppedError(Exception):
    """A signal asked the demo to stop."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


class StopRequest:
    """Remembers a signal until it can be honoured.

    An exception out of a handler could strike between the start of a process and the note that it is ours, or in the
    middle of the clean-up; so the handlers only take a note, and ``check`` is called where stopping is safe.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self.note)

    def note(self, signum: int, _frame: FrameType | None) -> None:
        """Take the first signal as the reason."""
        self.signum = self.signum or signum

    def check(self) -> None:
        """Raise if a signal came."""
        if self.signum is not None:
            raise StoppedError(self.signum)


class Stage:
    """A folder and the processes and servers that live in it; all gone at the end of the ``with`` block."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.folder = Path()
        self.processes: list[Process] = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="baton-demo-"))
        watchdog.watch_folder(self.folder)
        self._cleanup.callback(watchdog.forget_folder, self.folder)
        self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        return self

    def __exit__(self, *_exc: object) -> None:
        # In this order: processes, then what they were connected to, then the folder they wrote in.
        self._cleanup.callback(close_connections)
        self._cleanup.callback(stop_all, self.processes)
        self._cleanup.close()

    def start(self, command: str, *args: str, **environment: str) -> Process:
        """Start a management command as a process group of its own."""
        self.stop.check()
        log = self.folder / f"{len(self.processes)}-{command}.log"
        process = Process(command, args, log=log, environment=environment)
        watchdog.watch(process.popen, stop_with=signal.SIGTERM)
        self.processes.append(process)
        return process

    def enter(self, server: AbstractContextManager[T]) -> T:
        """Start a server or the like, to be ended with the stage."""
        self.stop.check()
        try:
            return self._cleanup.enter_context(server)
        except services.ServiceError as exc:
            # Ctrl-C in a terminal also reaches what the server is being made with.
            self.stop.check()
            raise DemoError(str(exc)) from exc

    def pause(self) -> None:
        """Wait for a moment, while all is well."""
        self.stop.check()
        for process in self.processes:
            process.check()
        time.sleep(POLL_SECONDS)


class Process:
    """A management command that runs until it is stopped."""

    def __init__(self, command: str, args: Sequence[str], *, log: Path, environment: dict[str, str]) -> None:
        self.command, self.log = command, log
        with log.open("wb") as out:
            self.popen = subprocess.Popen(
                [sys.executable, str(PROJECT / "manage.py"), command, *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise if the process ended by itself."""
        if self.popen.poll() is not None:
            how = f"ended by itself with exit code {self.popen.returncode}"
            raise DemoError(f"`manage.py {self.command}` {how}.\n{self.last_words()}")

    def last_words(self, lines: int = 30) -> str:
        """The end of its log, under a heading."""
        said = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join([f"--- the last lines of {self.command} ---", *(said or ["(it said nothing)"]), "---"])

    def is_group_alive(self) -> bool:
        """True while any process of the group is there, the dead ones that nobody collected included."""
        self.popen.poll()
        try:
            os.killpg(self.popen.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def stop_all(processes: Sequence[Process]) -> None:
    """Ask every process to stop, then make it.

    Only the main process is asked: django-q2's children must not get the signal, and it may lock itself up at stop,
    so that what is left of the group after a while is killed.
    """
    for process in processes:
        if process.popen.poll() is None:
            process.popen.terminate()
    wait_until_gone(processes, GRACE_SECONDS)
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.popen.pid, signal.SIGKILL)
    wait_until_gone(processes, GRACE_SECONDS)
    for process in processes:
        watchdog.forget(process.popen)


def wait_until_gone(processes: Sequence[Process], seconds: float) -> None:
    """Wait until no process of any group is there, or the time is up."""
    deadline = time.monotonic() + seconds
    while any(process.is_group_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)


def close_connections() -> None:
    """Close this process's own connections, which would keep a database server waiting."""
    if "django.db" in sys.modules:
        from django.db import connections  # noqa: PLC0415 - loaded already

        connections.close_all()


if __name__ == "__main__":
    sys.exit(main())
