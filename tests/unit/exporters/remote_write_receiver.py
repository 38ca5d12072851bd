"""What tests of prometheus_remote_write share: a strict receiver, and an exporter with a source."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from retina_otel.exporters.prometheus_remote_write import (
    PrometheusRemoteWriteExporter,
    PrometheusRemoteWriteSettings,
)
from retina_otel.testing.exporters import Bench, Source
from retina_otel.testing.remote_write import V1, V2, WriteRequest, check_order, decode

WRITTEN = "X-Prometheus-Remote-Write-Samples-Written"
HISTOGRAMS = "X-Prometheus-Remote-Write-Histograms-Written"
VERSION_OF = {"1.0": V1, "2.0": V2}
FAST = {
    "interval": "50ms",
    "retry_on_failure": {"initial_interval": "10ms", "max_interval": "20ms"},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver says to one request. `takes`: whether it has written its samples."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    takes: bool = True


class Receiver:
    """A receiver on loopback. Answers are used up in order; without any it takes everything as its
    kind does: "1" knows version 1.0 only and says so, "deaf" too, but takes 2.0 for an empty
    request, "2" knows both."""

    def __init__(self, kind: str = "2", *, utf8_names: bool = False) -> None:
        self.kind = kind
        self.utf8_names = utf8_names
        self.answers: list[Answer] = []
        self.requests: list[WriteRequest] = []
        """What was taken."""
        self.seen: list[tuple[int, str]] = []
        """Status and version of each answer."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.connections: list[tuple[str, WriteRequest]] = []
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                peer = str(self.client_address[1])
                answer = receiver._answer(dict(self.headers.items()), body, peer)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *arguments: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/api/v1/write"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def _answer(self, headers: dict[str, str], body: bytes, peer: str) -> Answer:
        request = decode(headers, body, utf8_names=self.utf8_names)
        with self._lock:
            self.headers.append(headers)
            self.bodies.append(body)
            answer = self.answers.pop(0) if self.answers else self._by_kind(request)
            self.seen.append((answer.status, request.version))
            if answer.takes:
                self.requests.append(request)
                self.connections.append((peer, request))
            return answer

    def _by_kind(self, request: WriteRequest) -> Answer:
        if self.kind == "2":
            headers = {WRITTEN: str(request.n_samples), HISTOGRAMS: str(request.n_histograms)}
            return Answer(headers=headers)
        if request.version == V1:
            return Answer()
        return Answer(takes=False) if self.kind == "deaf" else Answer(415, takes=False)

    def last(self) -> dict[str, float]:
        """The newest value of each series of `test.packets`."""
        check_order(self.requests)
        return {
            dict(series.labels)["test_who"]: series.samples[-1].value
            for request in self.requests
            for series in request.series
            if series.name == "test_packets_total"
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Running:
    """An exporter with its source, started."""

    def __init__(self, endpoint: str, **settings: Any) -> None:
        self.bench = Bench(
            id="prometheus_remote_write",
            resource={"service.name": "retina-otel", "k8s.node.name": "n"},
        )
        self.source = Source()
        chosen = PrometheusRemoteWriteSettings.model_validate(
            {"endpoint": endpoint, **FAST, **settings}
        )
        self.exporter = PrometheusRemoteWriteExporter(chosen, self.bench.context())
        readers = [self.source.accumulator.reader("test") for _ in range(self.exporter.readers)]
        self.exporter.start(readers, [])

    def stop(self, seconds: float = 5.0) -> None:
        self.exporter.stop(self.bench.deadline_ns(seconds))

    @property
    def ledger(self) -> Any:
        return self.bench.ledger.report()
