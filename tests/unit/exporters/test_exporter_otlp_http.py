"""otlp_http alone: compression, refusals, connections that break, its end, TLS."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from retina_otel.testing.exporters import Source
from retina_otel.testing.otlp import Answer, OtlpSink, series
from tests.unit.exporters.otlp_protocols import HTTP, numbers
from tests.unit.exporters.started_exporter import StartedExporter, stopped_in_the_end


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as running:
        yield running


@pytest.fixture
def run(sink: OtlpSink) -> Iterator[Callable[..., StartedExporter]]:
    def start(**settings: Any) -> StartedExporter:
        return HTTP.start(**{"endpoint": sink.endpoint, **settings})

    with stopped_in_the_end(start) as run:
        yield run


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none", "auto"])
def test_each_compression_is_understood(
    sink: OtlpSink, run: Callable[..., StartedExporter], compression: str
) -> None:
    running = run(compression=compression)
    running.source.count(a=5)
    sink.wait_for(sink.points, 10)
    wanted = {"none": None, "auto": "zstd"}.get(compression, compression)
    assert sink.received[0].headers.get("content-encoding") == wanted


def test_headers_authenticate_and_a_refusal_is_final_and_counted(
    sink: OtlpSink, run: Callable[..., StartedExporter], caplog: pytest.LogCaptureFixture
) -> None:
    sink.always(Answer(401))
    running = run(headers={"Authorization": "Bearer hunter2"})
    running.source.count(a=5)
    sink.wait_for(lambda: sink.received, 10)
    running.stop()
    assert sink.received[0].headers["authorization"] == "Bearer hunter2"
    assert running.ledger.lost == {"points_refused": 2}
    assert "HTTP 401" in running.bench.reasons[0]
    assert "headers" in running.bench.reasons[0]
    assert "hunter2" not in caplog.text + "".join(running.bench.reasons)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_retry_after_delays_the_next_attempt(
    sink: OtlpSink, run: Callable[..., StartedExporter]
) -> None:
    sink.script(Answer(429, retry_after_s=1))
    running = run()
    running.source.count(a=5)
    sink.wait_for(sink.points, 10)
    first, second = sink.received[:2]
    assert second.time_ns - first.time_ns >= 1_000_000_000
    assert running.ledger.exports["points"].request_failures == {"http_429": 1}


def test_a_connection_reset_in_the_middle_of_a_body_loses_nothing(
    sink: OtlpSink, run: Callable[..., StartedExporter]
) -> None:
    sink.script(*[Answer(reset=True)] * 3)
    running = run(compression="none")
    running.source.count(**{f"{i:04d}": i for i in range(1, 501)})
    running.source.happen(500)
    sink.wait_for(lambda: len(sink.points()) >= 1000 and len(numbers(sink)) >= 500, 20)
    running.stop()
    assert sink.totals() == running.source.expected()
    assert numbers(sink) == list(range(500))
    failures = [counts.request_failures for counts in running.ledger.exports.values()]
    assert sum(each.get("connection_lost", 0) for each in failures) == 3


def test_events_beyond_the_buffer_are_counted_as_shed(
    sink: OtlpSink, run: Callable[..., StartedExporter]
) -> None:
    sink.always(Answer(503))
    running = run(source=Source(most_event_bytes=20_000))
    running.source.happen(10)
    sink.wait_for(lambda: sink.received, 10)
    for _ in range(20):
        running.source.happen(100)
    sink.always(Answer())
    sink.wait_for(lambda: numbers(sink)[-1:] == [2009], 20)
    running.stop()
    ledger = running.ledger
    assert ledger.lost == {"events_shed": 2010 - len(numbers(sink))}
    assert (ledger.seen, ledger.difference) == (2010, 0)


def test_stopping_sends_the_last_values(
    sink: OtlpSink, run: Callable[..., StartedExporter]
) -> None:
    running = run(interval="1h", events_interval="1h")
    running.source.count(a=5)
    running.source.happen(3)
    running.stop()
    assert sink.totals() == running.source.expected()
    assert numbers(sink) == [0, 1, 2]


def test_stopping_does_not_wait_for_a_backend_that_hangs(
    run: Callable[..., StartedExporter],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        running = run(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout="60s")
        running.source.count(a=5)
        running.source.happen(3)
        silent.settimeout(10)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1) == b"P"
            running.stop(0.5)
    assert not [t for t in threading.enumerate() if t.name.startswith("otlp_http")]
    assert running.ledger.difference == 0
    assert running.ledger.lost["events_shutdown"] == 3


def test_stopping_books_and_tells_what_a_dead_backend_did_not_get(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = HTTP.start(endpoint="http://127.0.0.1:1", interval="1h", events_interval="1h")
    running.source.count(a=5)
    running.source.happen(7)
    running.stop(0.6)
    ledger = running.ledger
    assert ledger.lost == {"points_shutdown": 2, "events_shutdown": 7}
    assert "connection refused" in running.bench.reasons[0]
    said = [record.getMessage() for record in caplog.records]
    assert said[-1] == "ended before the backend took what was left: 7 events, 2 points"


class _NoZstd(BaseHTTPRequestHandler):
    """A backend that reads gzip only, and answers 415 to the rest, as some do."""

    protocol_version = "HTTP/1.1"
    encodings: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        encoding = self.headers["Content-Encoding"]
        self.encodings.append(encoding)
        self.send_response(200 if encoding == "gzip" else 415)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


def test_auto_falls_back_to_gzip_once() -> None:
    encodings: list[str] = []
    handler = type("Handler", (_NoZstd,), {"encodings": encodings})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    running = HTTP.start(endpoint=f"http://127.0.0.1:{server.server_port}", compression="auto")
    for _ in range(3):
        running.source.count(a=1)
        time.sleep(0.08)
    running.stop()
    server.shutdown()
    server.server_close()
    thread.join()
    assert encodings[0] == "zstd"
    assert set(encodings[1:]) == {"gzip"}
    assert running.ledger.drained == running.ledger.seen


class TlsSink:
    """The sink behind a TLS socket."""

    def __init__(self, ca: trustme.CA) -> None:
        self.sink = OtlpSink()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        server = self.sink._server
        server.socket = context.wrap_socket(server.socket, server_side=True)


def test_tls_with_an_own_ca(tmp_path: Path) -> None:
    ca = trustme.CA()
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    with TlsSink(ca).sink as sink:
        endpoint = sink.endpoint.replace("http:", "https:")
        running = HTTP.start(endpoint=endpoint, tls={"ca_file": str(path)})
        running.source.count(a=5)
        running.stop()
        assert sink.totals() == running.source.expected()


def test_a_wrong_ca_degrades_with_a_clear_reason(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    with TlsSink(trustme.CA()).sink as sink:
        endpoint = sink.endpoint.replace("http:", "https:")
        running = HTTP.start(endpoint=endpoint, tls={"ca_file": str(path)}, interval="1h")
        running.source.count(a=5)
        running.stop(0.6)
        assert sink.received == []
    assert "certificate is not trusted" in running.bench.reasons[0]
    assert "tls.ca_file" in running.bench.reasons[0]


def test_skipping_verification_is_warned_about(
    sink: OtlpSink, run: Callable[..., StartedExporter], caplog: pytest.LogCaptureFixture
) -> None:
    https = sink.endpoint.replace("http:", "https:")
    run(endpoint=https, tls={"insecure_skip_verify": True})
    assert "insecure_skip_verify" in caplog.text


def test_series_keys_of_the_sink_match() -> None:
    assert series("test.packets", test_who="a") == (
        "test.packets",
        frozenset({("test.who", "a")}),
    )
