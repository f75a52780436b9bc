"""The provider itself: a server on loopback that answers, charges and fails."""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Self, cast
from urllib.parse import urlsplit

from fake_llm.failures import Failure, Script
from fake_llm.invoice import PRICES, Charge, Invoice, Prices, Tokens
from fake_llm.wire import JSON, Answer, Request, Wire, wire_of

ANSWER_TO = "An answer to: "
CHARACTERS_PER_TOKEN = 4

_CONTROL = re.compile(r"\[fake ([^\]]*)\]")


def echo(request: Request) -> str:
    """Return the usual answer: the beginning of the prompt."""
    return ANSWER_TO + " ".join(_CONTROL.sub("", request.prompt).split())[:200]


class FakeProvider:
    """OpenAI, Anthropic and Google at one address of loopback, as long as the block lasts.

    A request says how many tokens it takes by ``[fake input=1000 output=50 cached=400 cache_write=0 reasoning=20]``
    anywhere in its prompt, or by a header ``X-Fake: input=1000 output=50``; what neither says is a quarter of the
    characters, and then the output keeps to the request's limit.
    """

    def __init__(
        self,
        *,
        prices: Prices = PRICES,
        answer: str | Callable[[Request], str] = echo,
        usage: Callable[[Request, str], Tokens] | None = None,
        script: Iterable[Failure] = (),
        served_as: Mapping[str, str] | None = None,
        honours_keys: bool = False,
        delay: float = 0.0,
        port: int = 0,
    ) -> None:
        """Start to answer.

        Args:
            prices: Per million tokens, in the shape of ``BATON["PRICES"]``; other models do not exist.
            answer: What every request is answered, or what makes an answer of one.
            usage: The tokens of a request and its answer, instead of a quarter of the characters.
            script: The failures to begin with.
            served_as: The names that models give themselves in answers, by the names they are asked for.
            honours_keys: Whether a repeated ``Idempotency-Key`` gets the first answer again and is not charged.
            delay: Seconds until every answer.
            port: Where to listen; 0 takes a free one.
        """
        self.prices = prices
        self.invoice = Invoice()
        self.script = Script(script)
        self.honours_keys = honours_keys
        self.delay = delay
        self._answer = answer
        self._usage = usage
        self._served_as = dict(served_as or {})
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._answers: dict[str, Answer] = {}
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address, as Anthropic's SDK wants it."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def openai_url(self) -> str:
        """The address as OpenAI's SDK wants it."""
        return self.url + "/v1"

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request so far, refused ones too."""
        with self._lock:
            return tuple(self._requests)

    def fail(self, *failures: Failure) -> None:
        """Append to the script of failures."""
        self.script.add(*failures)

    def reset(self) -> None:
        """Forget every request, the invoice, the script and the answers kept for repeated keys."""
        with self._lock:
            self._requests.clear()
            self._answers.clear()
        self.script.clear()
        self.invoice.clear()

    def close(self) -> None:
        """Stop listening, break every connection and wait for the threads."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def receive(self, wire: Wire, path: str, headers: Mapping[str, str], body: JSON) -> Request:
        """Note a request that came in."""
        with self._lock:
            request = Request(
                number=len(self._requests) + 1,
                provider=wire.provider,
                model=wire.model(path, body),
                prompt=wire.prompt(body),
                streams=bool(body.get("stream")),
                max_tokens=wire.max_tokens(body),
                idempotency_key=headers.get("idempotency-key", ""),
                headers=headers,
                body=body,
            )
            self._requests.append(request)
        return request

    def charge(self, wire: Wire, request: Request) -> Answer:
        """Answer a request and charge for it, or find what was answered to the same key.

        Raises:
            LookupError: There is no such model.
            ValueError: The request asks for tokens that cannot be.
        """
        if request.model not in self.prices:
            raise LookupError(f"The model `{request.model}` does not exist.")
        answer = self._made(wire, request)
        cost = answer.tokens.cost(self.prices[request.model])
        with self._lock:
            if self.honours_keys and request.idempotency_key:
                kept = self._answers.setdefault(request.idempotency_key, answer)
                if kept is not answer:
                    return kept
        self.invoice.add(
            Charge(
                id=answer.id,
                number=request.number,
                provider=request.provider,
                model=request.model,
                idempotency_key=request.idempotency_key,
                tokens=answer.tokens,
                cost=cost,
            )
        )
        return answer

    def _made(self, wire: Wire, request: Request) -> Answer:
        text = self._answer if isinstance(self._answer, str) else self._answer(request)
        limit = request.max_tokens
        is_cut_short = limit is not None and _tokens_of(text) > limit
        if limit is not None and is_cut_short:
            text = text[: limit * CHARACTERS_PER_TOKEN]
        if self._usage is None:
            tokens = Tokens(input=_tokens_of(request.prompt), output=_tokens_of(text))
        else:
            tokens = self._usage(request, text)
        tokens = replace(tokens, **_asked_tokens(request))
        if tokens.cache_write and not wire.has_cache_writes:
            raise ValueError(f"The API of {wire.provider} has no word for tokens written to a cache.")
        return Answer(
            id=f"{wire.id_prefix}{request.number:06d}",
            model=self._served_as.get(request.model, request.model),
            text=text,
            tokens=tokens,
            is_cut_short=is_cut_short,
        )


def _asked_tokens(request: Request) -> dict[str, int]:
    controls = [request.headers.get("x-fake", ""), *_CONTROL.findall(request.prompt)]
    asked: dict[str, int] = {}
    for setting in " ".join(controls).split():
        name, _, count = setting.partition("=")
        if name not in {field.name for field in fields(Tokens)}:
            raise ValueError(f"{setting!r} is no count of tokens.")
        asked[name] = int(count)
    return asked


def _tokens_of(text: str) -> int:
    return max(1, len(text) // CHARACTERS_PER_TOKEN)


class _Server(ThreadingHTTPServer):
    request_queue_size = 512  # hundreds of clients may come at once

    def __init__(self, provider: FakeProvider, port: int) -> None:
        self.provider = provider
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, socket.socket] = {}
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks for the name of the machine: that can take seconds where no one answers.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = cast("tuple[str, int]", self.server_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._lock:
            self._connections[thread] = request
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        super().process_request_thread(request, client_address)
        with self._lock:
            del self._connections[threading.current_thread()]

    def hang_up(self) -> None:
        """Break every connection and wait until its thread has ended."""
        with self._lock:
            connections = dict(self._connections)
        for thread, connection in connections.items():
            _hang_up(connection)
            thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that has gone is none
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has in the standard library
        """Say nothing."""

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/invoice":
            self._send_invoice()
        else:
            self._send_json(404, {"error": f"Nothing is at {self.path}."})

    def do_POST(self) -> None:
        provider = self.server.provider
        path = urlsplit(self.path).path
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        if path == "/reset":
            provider.reset()
            self._send_invoice()
        elif path == "/script":
            try:
                provider.fail(*(Failure(**failure) for failure in json.loads(content)))
            except (TypeError, ValueError) as exc:
                self._send_json(400, {"error": str(exc)})
            else:
                self._send_json(200, {"pending": provider.script.pending})
        elif wire := wire_of(path):
            self._converse(wire, path, content)
        else:
            self._send_json(404, {"error": {"message": f"Nothing is at {self.path}.", "type": "not_found_error"}})

    def _converse(self, wire: Wire, path: str, content: bytes) -> None:
        provider = self.server.provider
        try:
            body = json.loads(content)
        except ValueError as exc:
            self._send_json(400, wire.error(400, f"The body is no JSON: {exc}"))
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = provider.receive(wire, path, headers, body)
        failure = provider.script.next(request)
        if failure and failure.kind == "refuse":
            headers = {wire.request_id_header: f"req_{request.number}", **failure.refusal_headers()}
            self._send_json(failure.status, wire.error(failure.status, failure.message), headers)
            return
        if failure and failure.kind == "drop" and not failure.charged:
            self._hang_up()
            return
        try:
            answer = provider.charge(wire, request)
        except LookupError as exc:
            self._send_json(404, wire.error(404, str(exc.args[0])))
        except ValueError as exc:
            self._send_json(400, wire.error(400, str(exc)))
        else:
            self._deliver(wire, request, answer, failure)

    def _deliver(self, wire: Wire, request: Request, answer: Answer, failure: Failure | None) -> None:
        kind = failure.kind if failure else None
        wait = self.server.provider.delay
        if failure and kind == "delay":
            wait += failure.seconds
        if self._client_leaves_within(wait):
            self.close_connection = True
            return
        if kind == "drop":
            self._hang_up()
            return
        parts = _parts(wire, request, answer, failure)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if request.streams else "application/json")
        self.send_header(wire.request_id_header, f"req_{request.number}")
        if request.streams:
            self.send_header("transfer-encoding", "chunked")
            parts = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
        else:
            self.send_header("content-length", str(sum(map(len, parts))))
        self.end_headers()
        middle = len(parts) // 2
        for part in parts[:middle]:
            self.wfile.write(part)
        if kind == "cut":
            self._hang_up()
            return
        if failure and kind == "stall" and self._client_leaves_within(failure.seconds):
            self.close_connection = True
            return
        for part in parts[middle:-1]:
            self.wfile.write(part)
        self._write_end(answer, parts[-1] + (b"0\r\n\r\n" if request.streams else b""), is_whole=kind != "garble")

    def _write_end(self, answer: Answer, part: bytes, *, is_whole: bool) -> None:
        invoice = self.server.provider.invoice
        # Noted first: who has the answer may look at the invoice at once.
        invoice.note_delivery(answer.id, delivered=is_whole)
        try:
            self.wfile.write(part)
        except OSError:
            invoice.note_delivery(answer.id, delivered=False)
            raise

    def _client_leaves_within(self, seconds: float) -> bool:
        """Wait, no longer than somebody listens."""
        self.connection.settimeout(seconds)
        try:
            peeked: bytes = self.connection.recv(1, socket.MSG_PEEK)
        except (TimeoutError, BlockingIOError):
            return False
        except ConnectionError:
            return True
        finally:
            self.connection.settimeout(None)
        return not peeked

    def _hang_up(self) -> None:
        self.close_connection = True
        _hang_up(self.connection)

    def _send_invoice(self) -> None:
        provider = self.server.provider
        self._send_json(200, {"requests": len(provider.requests), **provider.invoice.as_json()})

    def _send_json(self, status: int, body: JSON, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        # 529 is none of the standard's.
        self.send_response(status, None if status in set(HTTPStatus) else "Overloaded")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _parts(wire: Wire, request: Request, answer: Answer, failure: Failure | None) -> list[bytes]:
    """Return what is sent, in the parts between which something may happen."""
    usage: JSON | None = wire.usage(answer.tokens)
    match failure:
        case Failure(kind="usage"):
            usage = None if failure.usage is None else dict(failure.usage)
        case Failure(kind="huge"):
            answer = replace(answer, text=(answer.text + " ") * math.ceil(failure.size / (len(answer.text) + 1)))
        case _:
            pass
    if request.streams:
        events = [
            (f"event: {name}\n" if name else "", data if isinstance(data, str) else json.dumps(data))
            for name, data in wire.events(answer, usage, request.body)
        ]
        if failure and failure.kind == "garble":
            middle = len(events) // 2
            events = [*events[:middle], (events[middle][0], failure.body)]
        return [f"{name}data: {data}\n\n".encode() for name, data in events]
    if failure and failure.kind == "garble":
        content = failure.body.encode()
    else:
        content = json.dumps(wire.message(answer, usage)).encode()
    middle = len(content) // 2
    return [content[:middle], content[middle:]]


def _hang_up(connection: socket.socket) -> None:
    # Only a shutdown is seen at the other end at once: closing waits for whoever else holds the socket.
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
