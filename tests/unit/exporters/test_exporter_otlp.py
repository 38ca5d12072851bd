"""OTLP over HTTP and over gRPC, from a real accumulator and event buffer to a real server: what
both exporters promise, through mishaps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from retina_otel.testing.otlp import Answer
from retina_otel.testing.otlp_backend import OtlpBackend
from tests.unit.exporters.otlp_protocols import BOTH, GRPC, HTTP, Protocol, numbers
from tests.unit.exporters.started_exporter import StartedExporter, stopped_in_the_end


@pytest.fixture
def sink(protocol: Protocol) -> Iterator[OtlpBackend[Any]]:
    with protocol.sink() as running:
        yield running


@pytest.fixture
def run(protocol: Protocol, sink: Any) -> Iterator[Callable[..., StartedExporter]]:
    def start(**settings: Any) -> StartedExporter:
        return protocol.start(**{"endpoint": sink.endpoint, **settings})

    with stopped_in_the_end(start) as run:
        yield run


@pytest.mark.parametrize(
    ("protocol", "settings"),
    [
        pytest.param(HTTP, {}, id="http"),
        pytest.param(GRPC, {"compression": "gzip"}, id="grpc-gzip"),
        pytest.param(GRPC, {"compression": "none"}, id="grpc-none"),
    ],
)
def test_sums_and_events_arrive_exactly(
    sink: OtlpBackend[Any], run: Callable[..., StartedExporter], settings: dict[str, Any]
) -> None:
    running = run(**settings)
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


@BOTH
def test_what_is_too_large_is_halved_and_every_point_arrives_exactly_once(
    protocol: Protocol, sink: OtlpBackend[Any], run: Callable[..., StartedExporter]
) -> None:
    sink.script(protocol.too_large, protocol.too_large)
    running = run(interval="10s")
    running.source.count(**{f"{i:04d}": i for i in range(1, 1001)})
    running.source.happen(1000)
    running.stop()
    points = [(point.series, point.time_ns) for point in sink.points()]
    assert (len(points), len(set(points))) == (2000, 2000)
    assert sink.totals() == running.source.expected()
    assert numbers(sink) == list(range(1000))
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})


@BOTH
def test_a_partial_success_is_counted_and_not_sent_again(
    protocol: Protocol, sink: OtlpBackend[Any], run: Callable[..., StartedExporter]
) -> None:
    sink.script(protocol.partly)
    running = run()
    running.source.count(a=5, b=6)
    sink.wait_for(sink.points, 10)
    running.stop()
    assert len(sink.received) == 1
    ledger = running.ledger
    assert (ledger.seen, ledger.drained, dict(ledger.lost)) == (4, 1, {"points_rejected": 3})


@BOTH
def test_a_backend_that_was_away_gets_right_sums_and_all_events(protocol: Protocol) -> None:
    first = protocol.sink()
    running = protocol.start(endpoint=first.endpoint)
    running.source.count(a=1, b=2)
    running.source.happen(10)
    first.wait_for(lambda: first.points() and first.records(), 10)
    if protocol is HTTP:
        # What a process that is killed does to its connections.
        first.always(Answer(reset=True))
    first.close()
    for _ in range(5):
        running.source.count(a=100, c=1000)
        running.source.happen(10)
        time.sleep(0.05)
    with protocol.at_port(first.port) as second:
        second.wait_for(lambda: second.points() and second.records(), 20)
        running.stop()
        sums = {**first.final_sums(), **second.final_sums()}
        assert sums == running.source.expected()
        assert numbers(first) + numbers(second) == list(range(60))
    ledger = running.ledger
    assert (ledger.difference, dict(ledger.lost)) == (0, {})
    if protocol is HTTP:
        reached = len(first.received) + len(second.received)
        counts = ledger.exports.values()
        refused = sum(each.request_failures["connection_refused"] for each in counts)
        assert sum(each.requests for each in counts) - refused == reached
    assert running.bench.reasons[-1] == ""


@BOTH
def test_deltas_add_up_through_an_outage(
    protocol: Protocol, sink: OtlpBackend[Any], run: Callable[..., StartedExporter]
) -> None:
    sink.script(protocol.fine, *[protocol.away] * 3)
    running = run(temporality="delta")
    for _ in range(9):
        running.source.count(a=7, b=11)
        time.sleep(0.06)
    running.stop()
    assert sink.totals() == running.source.expected()
    assert sink.faults() == []


@BOTH
def test_failing_over_and_back_keeps_sums_and_events_right(
    protocol: Protocol, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with protocol.sink() as a, protocol.sink() as b:
        running = protocol.start(endpoints=[a.endpoint, b.endpoint], failback_interval="300ms")
        running.source.count(a=1, b=2)
        running.source.happen(10)
        a.wait_for(lambda: a.points() and a.records(), 10)
        a.always(protocol.away)
        running.source.count(a=100, c=1000)
        running.source.happen(10)
        b.wait_for(lambda: b.points() and b.records(), 10)
        a.always(protocol.fine)
        returned = len(a.metric_requests), len(a.log_requests)
        for _ in range(100):
            running.source.count(a=7)
            running.source.happen(1)
            now = len(a.metric_requests), len(a.log_requests)
            if now[0] > returned[0] and now[1] > returned[1]:
                break
            time.sleep(0.05)
        running.stop()
        assert a.final_sums() == running.source.expected()
        assert sorted(numbers(a) + numbers(b)) == list(range(running.source.events))
        ledger = running.ledger
        assert (ledger.difference, dict(ledger.lost)) == (0, {})
        counts = ledger.exports.values()
        assert sum(each.requests for each in counts) == len(a.received) + len(b.received)
        failures = sum(sum(each.request_failures.values()) for each in counts)
        assert failures == sum(not one.accepted for one in (*a.received, *b.received))
    said = [record.getMessage() for record in caplog.records]
    assert sum("instead" in one for one in said) == 2  # metrics and events, once each
    assert sum("again" in one for one in said) == 2
