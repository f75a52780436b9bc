"""A process that holds many pages of a run open, as far as the server can tell.

Each has its socket, asks what changed every quarter of a minute, and asks for the picture again where something did, at
most so often as ``visit.js`` does. They are opened one after the other, as people do. What a socket brings is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.cluster import ROOT
from benchmarks.dashboard.site import Site
from scripts import watchdog

OPENING_SECONDS = 15.0
"""In which all are opened."""
AGAIN_SECONDS = 0.5
"""After which a page tries again to connect its socket."""
ASK_SECONDS = 15.0
JITTER = 0.3
REPORT_SECONDS = 0.1
START_SECONDS = 60.0
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_HOW_OFTEN = re.compile(r"\[SOON, SOON_TIMES, REST, REST_TIMES\] = \[([\d_, ]+)\]")
_AS_OF = re.compile(r'data-as-of="([^"]+)"')


class Readers:
    """The process, for the length of a ``with`` block that begins when all pages are open."""

    def __init__(self, site: Site, folder: Path, *, page: str, socket: str, count: int, pictures: bool = True) -> None:
        self.out = folder / "readers.json"
        self.count = count
        words = [str(site.port), site.cookie, page, socket, str(self.out), "--count", str(count)]
        self.command = [sys.executable, "-m", "benchmarks.dashboard.readers", *words]
        self.command += ["--pictures"] if pictures else []
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.out.unlink(missing_ok=True)
        self.process = subprocess.Popen(self.command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
        watchdog.watch(self.process, stop_with=signal.SIGKILL)
        deadline = time.monotonic() + START_SECONDS
        while not (self.out.exists() and self.read()["answered"] >= self.count):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the pages did not open: {self.out.read_text() if self.out.exists() else 'none'}")
            time.sleep(REPORT_SECONDS)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait()
        watchdog.forget(self.process)

    def read(self) -> dict[str, Any]:
        """What was counted so far, over all pages."""
        found: dict[str, Any] = json.loads(self.out.read_text(encoding="ascii"))
        return found


@dataclass(slots=True)
class Counts:
    """What all pages together have seen."""

    answered: int = 0
    """Pages whose first question was answered."""
    messages: int = 0
    """What came by itself, in answer to no question."""
    bytes: int = 0
    """Of these messages."""
    answers: int = 0
    answer_bytes: int = 0
    pictures: int = 0
    closed: int = 0
    first_at: float = 0.0
    last_at: float = 0.0


@dataclass(slots=True)
class Reader:
    """One open page."""

    port: int
    cookie: str
    page: str
    socket: str
    counts: Counts
    as_of: str = ""
    is_answered: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, *, after: float, pictures: bool) -> None:
        """Open the page, and look at it until the process ends."""
        await asyncio.sleep(after)
        self.as_of = _AS_OF.findall(await self._get())[0]
        while True:
            try:
                reader, writer = await self._connect()
                break
            except (OSError, asyncio.IncompleteReadError):  # more at once than daphne has time for
                await asyncio.sleep(AGAIN_SECONDS)
        tasks = [asyncio.create_task(self._ask(writer))]
        if pictures:
            tasks.append(asyncio.create_task(self._renew()))
        try:
            await self._hear(reader, writer)
        finally:
            self.counts.closed += 1
            for task in tasks:
                task.cancel()

    async def _get(self) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(self._head(self.page, "Connection: close"))
        answer = await reader.read()
        writer.close()
        status, _, rest = answer.partition(b"\r\n")
        if b" 200 " not in status + b" ":
            raise RuntimeError(f"{self.page}: {status!r}")
        return rest.decode("utf-8", "replace")

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        key = base64.b64encode(random.randbytes(16)).decode()
        upgrade = ("Connection: Upgrade", "Upgrade: websocket", f"Origin: http://127.0.0.1:{self.port}")
        writer.write(self._head(self.socket, *upgrade, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"))
        status = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in status:
            raise RuntimeError(f"{self.socket}: {status!r}")
        return reader, writer

    def _head(self, path: str, *lines: str) -> bytes:
        rows = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Cookie: {self.cookie}", *lines, "", ""]
        return "\r\n".join(rows).encode()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            kind, size = await reader.readexactly(2)
            length = size & 127
            if length > 125:
                length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
            payload = await reader.readexactly(length)
            if kind & 15 == _PING:
                writer.write(_frame(_PONG, payload))
            elif kind & 15 == _CLOSE:
                return
            elif kind & 15 == _TEXT:
                self._note(payload)

    def _note(self, payload: bytes) -> None:
        message = json.loads(payload)
        self.as_of = message.get("as_of", self.as_of)
        counts = self.counts
        if message.get("is_answer") or message["type"] == "reload":
            counts.answered += not self.is_answered
            self.is_answered = True
            counts.answers += 1
            counts.answer_bytes += len(payload)
        else:
            counts.messages += 1
            counts.bytes += len(payload)
            counts.last_at = time.monotonic()
            counts.first_at = counts.first_at or counts.last_at
        if message.get("steps") or message.get("brief"):
            self.changed.set()

    async def _ask(self, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(_frame(_TEXT, json.dumps({"type": "since", "as_of": self.as_of}).encode()))
            await asyncio.sleep(ASK_SECONDS * (1 - JITTER * random.random()))

    async def _renew(self) -> None:
        every, times = how_often()
        pause = every
        while True:
            await self.changed.wait()
            await asyncio.sleep(pause)
            self.changed.clear()
            began = time.monotonic()
            await self._get()
            self.counts.pictures += 1
            pause = max(every, times * (time.monotonic() - began))


def how_often() -> tuple[float, float]:
    """How long a page waits before it asks for itself again: in seconds, and in times of what that took."""
    script = (ROOT / "baton" / "static" / "baton" / "js" / "visit.js").read_text(encoding="utf-8")
    found = _HOW_OFTEN.search(script)
    if found is None:
        raise RuntimeError("visit.js says in other words how often a page is asked for again: tell readers.py")
    _, _, every, times = (float(number.replace("_", "")) for number in found[1].split(","))
    return every / 1000, times


def _frame(kind: int, payload: bytes) -> bytes:
    """A frame of a client; the mask is zero, which leaves the payload as it is."""
    size = len(payload)
    length = bytes([128 | size]) if size < 126 else bytes([128 | 126]) + size.to_bytes(2, "big")
    return bytes([128 | kind]) + length + bytes(4) + payload


async def _report(counts: Counts, out: Path) -> None:
    """Write the counts, every now and then."""
    scratch = out.with_suffix(".new")
    while True:
        scratch.write_text(json.dumps({name: getattr(counts, name) for name in counts.__slots__}), encoding="ascii")
        scratch.replace(out)
        await asyncio.sleep(REPORT_SECONDS)


async def _main(options: argparse.Namespace) -> None:
    counts = Counts()
    readers = [Reader(options.port, options.cookie, options.page, options.socket, counts) for _ in range(options.count)]
    async with asyncio.TaskGroup() as group:
        group.create_task(_report(counts, options.out))
        for number, reader in enumerate(readers):
            after = OPENING_SECONDS * number / len(readers)
            group.create_task(reader.read(after=after, pictures=options.pictures))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("cookie")
    parser.add_argument("page")
    parser.add_argument("socket")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--pictures", action="store_true")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args()))
    sys.exit(0)
