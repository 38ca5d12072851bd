"""The ingestion endpoint of Application Insights for tests: a real HTTP server on loopback.

    with ApplicationInsights() as azure:
        azure.script(Answer(429, retry_after="1"), Answer(206, errors={3: 500}))
        ...                                # give an exporter azure.connection_string
        azure.wait_for(lambda: azure.envelopes("MetricData"))
        assert azure.faults() == []
        assert azure.sums("retina.flow.io") == {frozenset({...}): 1234}

An envelope counts as accepted when the answer was 200, or 206 without an error for its index. All
else was received only.
"""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from retina_otel.testing.namespaces import Namespace
from retina_otel.testing.scripted_backend import ScriptedBackend

KEY = "0f0f0f0f-1111-2222-3333-abcdefabcdef"
Envelope = dict[str, Any]
Pairs = frozenset[tuple[str, str]]
_MAX_BODY = 16 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint does with one request."""

    status: int = 200
    retry_after: str = ""
    """Header Retry-After."""
    errors: Mapping[int, int] = field(default_factory=dict)
    """Of a 206: which envelopes are not taken, by index, and the status of each."""
    message: str = "said by the test"
    location: str = ""
    body: bytes | None = None
    """Instead of what a good server says."""
    reset: bool = False
    """Reset the connection instead of answering; what came was not taken."""
    wait: threading.Event | None = None
    """Answer when this is set."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    wire_bytes: int
    envelopes: tuple[Envelope, ...]
    answer: Answer
    monotonic_s: float

    @property
    def accepted(self) -> list[Envelope]:
        if self.answer.reset or self.answer.status not in {200, 206}:
            return []
        return [e for n, e in enumerate(self.envelopes) if n not in self.answer.errors]


class ApplicationInsights(ScriptedBackend[Answer, Received]):
    """Serves from construction until `close()`; use it as a context manager."""

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        key: str = KEY,
        namespace: Namespace | None = None,
        port: int = 0,
    ) -> None:
        """`key`: requests with envelopes of another instrumentation key get a 400; empty takes any.
        `namespace`: on whose loopback it listens."""
        self.key = key
        super().__init__(Answer())
        self._unreadable: list[str] = []
        self._server = _Server(self, namespace, port)
        self._scheme = "https" if tls else "http"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="application-insights"
        )
        self._thread.start()

    def close(self) -> None:
        """Its port refuses connections from then on. What came stays readable."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def connection_string(self) -> str:
        return f"InstrumentationKey={self.key};IngestionEndpoint={self.endpoint}/"

    def envelopes(self, base_type: str = "") -> list[Envelope]:
        """Accepted ones, of "MetricData" or "EventData" or all."""
        return [
            envelope
            for request in self.received
            for envelope in request.accepted
            if base_type in {"", envelope["data"]["baseType"]}
        ]

    def points(self, metric: str = "") -> list[tuple[Pairs, Mapping[str, Any]]]:
        """Properties and data point of each accepted point, of one metric or of all."""
        return [
            (frozenset(envelope["data"]["baseData"]["properties"].items()), point)
            for envelope in self.envelopes("MetricData")
            for point in envelope["data"]["baseData"]["metrics"]
            if metric in {"", point["name"]}
        ]

    def sums(self, metric: str) -> dict[Pairs, float]:
        """What the accepted points of a metric add up to, by their properties."""
        sums: dict[Pairs, float] = {}
        for properties, point in self.points(metric):
            sums[properties] = sums.get(properties, 0) + point["value"]
        return sums

    def events(self, name: str = "") -> list[Mapping[str, str]]:
        """Properties of accepted custom events."""
        return [
            envelope["data"]["baseData"]["properties"]
            for envelope in self.envelopes("EventData")
            if name in {"", envelope["data"]["baseData"]["name"]}
        ]

    def faults(self) -> list[str]:
        """What no client of Azure should send."""
        found = list(self._unreadable)
        for request in self.received:
            if request.path != "/v2.1/track":
                found.append(f"posted to {request.path}")
            for envelope in request.envelopes:
                found += _faults_of(envelope)
        return found

    def _take(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        envelopes: list[Envelope] = []
        try:
            plain = gzip.decompress(body) if headers.get("content-encoding") else body
            envelopes = json.loads(plain, parse_constant=_not_json)
        except (OSError, ValueError) as error:
            self._unreadable.append(f"a body of {len(body)} bytes: {error}")
        with self._changed:  # so that answers are kept in the order in which they were given
            answer = self.next_answer()
            if self.key and any(envelope.get("iKey") != self.key for envelope in envelopes):
                answer = Answer(400, message=f"Invalid instrumentation key {self.key}")
            came = Received(path, headers, len(body), tuple(envelopes), answer, time.monotonic())
            self.keep(came)
        return answer


def _faults_of(envelope: Envelope) -> list[str]:
    base = envelope["data"]["baseData"]
    faults = []
    for key, value in base["properties"].items():
        if not 0 < len(key) <= 150:
            faults.append(f"a key of {len(key)} characters: {key}")
        if not isinstance(value, str) or len(value) > 8192:
            faults.append(f"the value of {key} is no string of at most 8192 characters")
    if len(json.dumps(envelope)) > 64 * 1024:
        faults.append("an item of more than 64 KiB")
    return faults


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, endpoint: ApplicationInsights, namespace: Namespace | None, port: int
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler, bind_and_activate=False)
        if namespace is not None:
            self.socket.close()
            self.socket = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.server_bind()
        self.server_activate()
        self.endpoint = endpoint

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no matter."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes out whole, or not at all
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length", 0)), _MAX_BODY)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(length)
        answer = self.server.endpoint._take(self.path, headers, body)
        if answer.wait is not None:
            answer.wait.wait()
        if answer.reset:
            # Without lingering, close() sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        n_items = len(
            json.loads(gzip.decompress(body) if headers.get("content-encoding") else body)
        )
        errors = [
            {"index": index, "statusCode": status, "message": answer.message}
            for index, status in answer.errors.items()
        ]
        if answer.status not in {200, 206}:
            errors = [{"index": 0, "statusCode": answer.status, "message": answer.message}]
        accepted = n_items - len(errors) if answer.status in {200, 206} else 0
        self._answer(
            answer,
            {"itemsReceived": n_items, "itemsAccepted": accepted, "errors": errors},
        )

    def _answer(self, answer: Answer, body: object) -> None:
        text = json.dumps(body).encode() if answer.body is None else answer.body
        self.send_response(answer.status, "as told")
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        if answer.retry_after:
            self.send_header("Retry-After", answer.retry_after)
        if answer.location:
            self.send_header("Location", answer.location)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
