"""A receiver of remote write on loopback that decodes strictly, keeps, and can refuse."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from retina_otel.testing.remote_write import V2, NotRemoteWrite, WriteRequest, decode


@dataclass(frozen=True, slots=True)
class Reply:
    """What the receiver does with one request."""

    status: int = 204
    retry_after_s: float | None = None
    delay_s: float = 0.0
    not_written: int = 0
    """Of the samples; the others are, and version 2.0 says so."""


@dataclass(frozen=True, slots=True)
class Came:
    message: WriteRequest
    authorization: str | None
    status: int
    taken: bool


class RemoteWriteSink:
    """Serves from construction until `close()`."""

    def __init__(self) -> None:
        self.script: list[Reply] = []
        """For the next requests, in turn; those after get the standing one."""
        self.always = Reply()
        self.requests: list[Came] = []
        self.faults: list[str] = []
        """What could not be decoded."""
        self._changed = threading.Condition()
        handler = type("Handler", (_Handler,), {"sink": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 20) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise TimeoutError(f"not within {timeout_s} s; {len(self.requests)} came")

    def keep(self, came: Came | str) -> None:
        with self._changed:
            if isinstance(came, str):
                self.faults.append(came)
            else:
                self.requests.append(came)
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is a client's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sink: RemoteWriteSink

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return
        reply = self.sink.script.pop(0) if self.sink.script else self.sink.always
        time.sleep(reply.delay_s)
        try:
            message = decode(dict(self.headers.items()), body)
        except NotRemoteWrite as error:
            self.sink.keep(str(error))
            self.send_response(400)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        taken = reply.status == 204 or reply.not_written > 0
        authorization = self.headers.get("Authorization")
        self.sink.keep(Came(message, authorization, reply.status, taken))
        self.send_response(reply.status)
        self.send_header("Content-Length", "0")
        if message.version == V2 and taken:
            written = message.n_samples - reply.not_written
            self.send_header("X-Prometheus-Remote-Write-Samples-Written", str(written))
            histograms = str(message.n_histograms)
            self.send_header("X-Prometheus-Remote-Write-Histograms-Written", histograms)
            self.send_header("X-Prometheus-Remote-Write-Exemplars-Written", "0")
        if reply.retry_after_s is not None:
            self.send_header("Retry-After", f"{reply.retry_after_s:.0f}")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: what came is in `requests`."""
