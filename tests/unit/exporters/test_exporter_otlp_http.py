"""otlp_http from a real accumulator and event buffer to a real OTLP server, through all mishaps."""

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

from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.testing.exporters import NUMBER, Bench, Source
from retina_otel.testing.otlp import Answer, OtlpSink, series

FAST = {
    "interval": "50ms",
    "events_interval": "20ms",
    "retry_on_failure": {"initial_interval": "20ms", "max_interval": "50ms"},
}


class Running:
    """An exporter with its source, started."""

    def __init__(self, endpoint: str, source: Source | None = None, **settings: Any) -> None:
        self.bench = Bench(id="otlp_http")
        self.source = source or Source()
        chosen = OtlpHttpSettings.model_validate({"endpoint": endpoint, **FAST, **settings})
        self.exporter = OtlpHttpExporter(chosen, self.bench.context(), {})
        metrics = self.source.accumulator.reader("test", temporality=self.exporter.temporality)
        self.exporter.start([metrics], [self.source.buffer.reader("test")])

    def stop(self, seconds: float = 5.0) -> None:
        self.exporter.stop(self.bench.deadline_ns(seconds))

    @property
    def ledger(self) -> Any:
        return self.bench.ledger.report()


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as running:
        yield running


@pytest.fixture
def run(sink: OtlpSink) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(**options: Any) -> Running:
        started.append(Running(options.pop("endpoint", sink.endpoint), **options))
        return started[-1]

    yield start
    for running in started:
        running.stop(0.5)


def numbers(sink: OtlpSink) -> list[int]:
    return [record.attributes[NUMBER.name] for record in sink.records()]


def test_sums_and_events_arrive_exactly(sink: OtlpSink, run: Callable[..., Running]) -> None:
    running = run()
    for _ in range(7):
        running.source.count(a=11, b=13)
        running.source.happen(17)
        time.sleep(0.06)
    running.stop()
    assert sink.totals() == running.source.expected()
    assert numbers(sink) == list(range(7 * 17))
    assert sink.faults() == []
    ledger = running.ledger
    assert (ledger.difference, dict(ledger.lost)) == (0, {})
    points, events = ledger.exports["points"], ledger.exports["events"]
    assert (points.exported, events.exported) == (len(sink.points()), 7 * 17)
    assert points.requests == len(sink.metric_requests)
    assert events.requests == len(sink.log_requests)


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none", "auto"])
def test_each_compression_is_understood(
    sink: OtlpSink, run: Callable[..., Running], compression: str
) -> None:
    running = run(compression=compression)
    running.source.count(a=5)
    sink.wait_for(sink.points, 10)
    wanted = {"none": None, "auto": "zstd"}.get(compression, compression)
    assert sink.received[0].headers.get("content-encoding") == wanted


def test_headers_authenticate_and_a_refusal_is_final_and_counted(
    sink: OtlpSink, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
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


def test_retry_after_delays_the_next_attempt(sink: OtlpSink, run: Callable[..., Running]) -> None:
    sink.script(Answer(429, retry_after_s=1))
    running = run()
    running.source.count(a=5)
    sink.wait_for(sink.points, 10)
    first, second = sink.received[:2]
    assert second.time_ns - first.time_ns >= 1_000_000_000
    assert running.ledger.exports["points"].request_failures == {"http_429": 1}


def test_a_partial_success_is_counted_and_not_sent_again(
    sink: OtlpSink, run: Callable[..., Running]
) -> None:
    sink.script(Answer(rejected=3, message="too old"))
    running = run()
    running.source.count(a=5, b=6)
    sink.wait_for(sink.points, 10)
    running.stop()
    assert len(sink.received) == 1
    ledger = running.ledger
    assert (ledger.seen, ledger.drained, dict(ledger.lost)) == (4, 1, {"points_rejected": 3})


def test_a_413_halves_and_every_point_arrives_exactly_once(
    sink: OtlpSink, run: Callable[..., Running]
) -> None:
    sink.script(Answer(413), Answer(413))
    running = run(interval="10s")
    amounts = {f"{i:04d}": i for i in range(1, 1001)}
    running.source.count(**amounts)
    running.source.happen(1000)
    running.stop()
    points = [(point.series, point.time_ns) for point in sink.points()]
    assert (len(points), len(set(points))) == (2000, 2000)
    assert sink.totals() == running.source.expected()
    assert numbers(sink) == list(range(1000))
    assert running.ledger.difference == 0
    assert dict(running.ledger.lost) == {}


def test_a_connection_reset_in_the_middle_of_a_body_loses_nothing(
    sink: OtlpSink, run: Callable[..., Running]
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


def test_a_backend_that_was_away_gets_right_sums_and_all_events() -> None:
    first = OtlpSink()
    port = first.port
    running = Running(first.endpoint)
    running.source.count(a=1, b=2)
    running.source.happen(10)
    first.wait_for(lambda: first.points() and first.records(), 10)
    # What a process that is killed does to its connections.
    first.always(Answer(reset=True))
    first.close()
    for _ in range(5):
        running.source.count(a=100, c=1000)
        running.source.happen(10)
        time.sleep(0.05)
    with OtlpSink(port=port) as second:
        second.wait_for(lambda: second.points() and second.records(), 20)
        running.stop()
        sums = {**first.final_sums(), **second.final_sums()}
        assert sums == running.source.expected()
        assert numbers(first) + numbers(second) == list(range(60))
    ledger = running.ledger
    assert (ledger.difference, dict(ledger.lost)) == (0, {})
    reached = len(first.received) + len(second.received)
    counts = ledger.exports.values()
    refused = sum(each.request_failures["connection_refused"] for each in counts)
    assert sum(each.requests for each in counts) - refused == reached
    assert running.bench.reasons[-1] == ""


def test_deltas_add_up_through_an_outage(sink: OtlpSink, run: Callable[..., Running]) -> None:
    sink.script(Answer(), Answer(503), Answer(503), Answer(503))
    running = run(temporality="delta")
    for _ in range(9):
        running.source.count(a=7, b=11)
        time.sleep(0.06)
    running.stop()
    assert sink.totals() == running.source.expected()
    assert sink.faults() == []


def test_events_beyond_the_buffer_are_counted_as_shed(
    sink: OtlpSink, run: Callable[..., Running]
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


def test_stopping_sends_the_last_values(sink: OtlpSink, run: Callable[..., Running]) -> None:
    running = run(interval="1h", events_interval="1h")
    running.source.count(a=5)
    running.source.happen(3)
    running.stop()
    assert sink.totals() == running.source.expected()
    assert numbers(sink) == [0, 1, 2]


def test_stopping_does_not_wait_for_a_backend_that_hangs(run: Callable[..., Running]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        running = run(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout="60s")
        running.source.count(a=5)
        running.source.happen(3)
        silent.settimeout(10)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1) == b"P"
            running.stop(0.5)
    assert not [t for t in threading.enumerate() if t.name == "otlp_http"]
    assert running.ledger.difference == 0
    assert running.ledger.lost["events_shutdown"] == 3


def test_stopping_books_and_tells_what_a_dead_backend_did_not_get(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = Running("http://127.0.0.1:1", interval="1h", events_interval="1h")
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
    running = Running(f"http://127.0.0.1:{server.server_port}", compression="auto")
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
        running = Running(endpoint, tls={"ca_file": str(path)})
        running.source.count(a=5)
        running.stop()
        assert sink.totals() == running.source.expected()


def test_a_wrong_ca_degrades_with_a_clear_reason(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    with TlsSink(trustme.CA()).sink as sink:
        running = Running(
            sink.endpoint.replace("http:", "https:"), tls={"ca_file": str(path)}, interval="1h"
        )
        running.source.count(a=5)
        running.stop(0.6)
        assert sink.received == []
    assert "certificate is not trusted" in running.bench.reasons[0]
    assert "tls.ca_file" in running.bench.reasons[0]


def test_skipping_verification_is_warned_about(
    sink: OtlpSink, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    run(tls={"insecure_skip_verify": True})
    assert "insecure_skip_verify" in caplog.text


def test_series_keys_of_the_sink_match() -> None:
    assert series("test.packets", test_who="a") == (
        "test.packets",
        frozenset({("test.who", "a")}),
    )
