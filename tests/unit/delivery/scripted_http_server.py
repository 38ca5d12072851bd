"""An HTTP server on loopback that gives the answers it is told to, and a sender to try on it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from retina_otel.delivery.http.sender import HttpSender, HttpTarget
from retina_otel.delivery.outcome import Outcome
from retina_otel.testing.exporters import ManualClock

BODY = b"points " * 100


@dataclass
class Got:
    headers: dict[str, str]
    body: bytes
    path: str


@dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Server(ThreadingHTTPServer):
    """Gives the scripted answers in turn, then 200 for ever."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[Got] = []
        self.answers: list[Answer] = []
        self.connections = 0
        self.refused_encodings: dict[str, int] = {}
        self.context = context
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server_port}/v1/metrics"

    def get_request(self) -> tuple[socket.socket, object]:
        plain, address = super().get_request()
        self.connections += 1
        if self.context is not None:
            plain.settimeout(5)
            return self.context.wrap_socket(plain, server_side=True), address
        return plain, address

    def handle_error(self, request: object, client_address: object) -> None: ...


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(Got(dict(self.headers.items()), body, self.path))
        refused = self.server.refused_encodings.get(self.headers.get("Content-Encoding", ""))
        if refused:
            answer = Answer(refused)
        else:
            answer = self.server.answers.pop(0) if self.server.answers else Answer()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None: ...


def serve(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def post(sender: HttpSender, body: bytes, timeout_s: float) -> Outcome:
    return sender.send(sender.pack(body, 1), timeout_s)


def send(url: str, *, timeout_s: float = 5.0, **options: object) -> Outcome:
    target = HttpTarget(url, **options)  # type: ignore[arg-type]
    with closing(HttpSender(target, clock=ManualClock(), user_agent="test")) as sender:
        return post(sender, BODY, timeout_s)
