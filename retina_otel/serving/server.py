"""The HTTP server of what is asked of the agent, as scrapes and probes are.

Each connection has a bounded time, and there is a bounded number of them. Nothing that a client
does is printed.
"""

from __future__ import annotations

import io
import logging
import socket
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from retina_otel import __version__
from retina_otel.serving.access import ServerAccess
from retina_otel.serving.address import parse_address
from retina_otel.serving.bounded import BoundedServer


class Server(BoundedServer, HTTPServer):
    """Answers over HTTP, or HTTPS."""

    allow_reuse_address = True
    request_queue_size = 64  # with the default of 5 a sixth client waits a second for its SYN

    def __init__(
        self,
        address: str,
        handler: type[Handler],
        *,
        timeout_s: float,
        logger: logging.Logger,
        access: ServerAccess | None = None,
    ) -> None:
        """Raises OSError if the address can't be listened on. Without `access` anybody is answered,
        in plain text."""
        host, port = parse_address(address)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.host = f"[{host}]" if ":" in host else host
        self.timeout_s = timeout_s
        self.logger = logger
        self.access = access
        super().__init__((host, port), handler)

    @property
    def port(self) -> int:
        """The port in use, also where the address says 0."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        # Not HTTPServer's: that asks DNS for this machine's name, which may take seconds.
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]

    def welcome(self, connection: Any) -> Any:
        if self.access is None:
            return connection
        # In the connection's thread, because a slow handshake must not keep others waiting.
        connection.settimeout(self.timeout_s)
        return self.access.wrap(connection)


class _Request(io.RawIOBase):
    """What a client sends, as long as it may: a timeout of the socket begins anew at each byte."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        super().__init__()
        self._connection = connection
        self._timeout_s = timeout_s
        self._ends_at = 0.0

    def begin(self) -> None:
        """The time of the next request begins."""
        self._ends_at = time.monotonic() + self._timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._timeout_s)


class Handler(BaseHTTPRequestHandler):
    """One connection. A subclass has `respond`, for GET and for HEAD, which gets no body."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        self.request.settimeout(self.server.timeout_s)
        super().setup()
        self.rfile.close()
        self._sent = _Request(self.request, self.server.timeout_s)
        self.rfile = io.BufferedReader(self._sent)

    def handle_one_request(self) -> None:
        self._sent.begin()
        super().handle_one_request()

    def respond(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            # Nobody reads a body here, and it must not be read as another request.
            self.close_connection = True
        if self.server.ending:
            # On a connection that was kept open: what it asks is answered by who listens now.
            self.close_connection = True
            return
        access = self.server.access
        if access is None or access.allows(self.headers.get("Authorization", "")):
            self.respond()
            return
        self.close_connection = True
        self.send_response(HTTPStatus.UNAUTHORIZED)
        self.send_header("WWW-Authenticate", 'Bearer realm="retina-otel"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, body: bytes, content_type: str) -> None:
        """A whole answer at once."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_text(self, status: int, line: str) -> None:
        self.answer(status, f"{line}\n".encode(), "text/plain; charset=utf-8")

    def log_message(self, format: str, *args: Any) -> None:
        self.server.logger.debug(format, *args)

    def version_string(self) -> str:
        return f"retina-otel/{__version__}"
