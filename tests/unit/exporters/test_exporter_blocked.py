"""An exporter whose backend takes connections and never answers: nobody else waits for it, and it
costs no more memory the longer it lasts."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retina_otel.config.load import Instance
from retina_otel.delivery.lane import Lane, LaneOptions
from retina_otel.delivery.lanes import EventsLane, EventsRoute, MetricsLane, MetricsRoute
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.report import DeliveryReport
from retina_otel.delivery.retry import RetryPolicy
from retina_otel.delivery.sender import PlainSender
from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.exporters.file import COMPONENT as FILE
from retina_otel.exporters.otlp_http import COMPONENT as OTLP_HTTP
from retina_otel.model.batches import Column, EventBatch, MetricBatch, Window
from retina_otel.model.signals import Event
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.events import EventBuffer, EventBufferSettings
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.exporters import METRIC, WHO, Bench, ManualClock
from retina_otel.testing.otlp import OtlpSink
from tests.unit.agent.agent_parts import COLOUR, COUNTED, Parts, Run, configuration, until

S = 10**9
TICKS = 60
NAMED = Event("test.named", 9, "something happened", (WHO,), scope="test")


class Silent:
    """Accepts, reads all there is, and never answers."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections.append(connection)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()
        for connection in self.connections:
            connection.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    yield server
    server.close()


def otlp(id_: str, endpoint: str, **settings: Any) -> Instance:
    chosen = {"endpoint": endpoint, "interval": "40ms", "events_interval": "20ms", **settings}
    return Instance(id_, OTLP_HTTP, OTLP_HTTP.Settings.model_validate(chosen))


def test_a_backend_that_never_answers_delays_no_receiver_and_no_other_exporter(
    parts: Parts, run: Run, silent: Silent, tmp_path: Path
) -> None:
    """Its timeout is an hour: whoever waited for it would wait in vain. The others are of the same
    kind, one of another, so that all they share is shared with the one that is blocked."""
    path = tmp_path / "out.json"
    file = FILE.Settings.model_validate(
        {"path": path, "interval": "40ms", "flush_interval": "20ms"}
    )
    with OtlpSink() as first, OtlpSink() as second:
        agent = run(
            configuration(
                parts.receiver("count", range(1, TICKS + 1)),
                otlp("otlp_http/silent", silent.endpoint, timeout="1h"),
                otlp("otlp_http/first", first.endpoint),
                otlp("otlp_http/second", second.endpoint),
                Instance("file", FILE, file),
            )
        )
        until(lambda: len(silent.connections) == 2, "the exporter, both signals of which wait")
        total = TICKS * (TICKS + 1) // 2
        of_count = (COUNTED.name, frozenset({(COLOUR.name, "count")}))
        sinks = (first, second)
        until(
            lambda: (
                all(sink.final_sums().get(of_count) == total for sink in sinks)
                and all(len(sink.records()) == TICKS for sink in sinks)
            ),
            "all that was counted, and all events",
        )
        until(lambda: path.read_text().count('"body":{"stringValue":"seen"}') == TICKS, "lines")
        assert agent.stop()
        for sink in sinks:
            assert sink.final_sums()[of_count] == total
            assert len(sink.records()) == TICKS
    assert len(silent.connections) == 2
    assert parts.story.lines[-1] == "count stopped with 0 left"
    ledger = agent.status().ledgers["exporter/otlp_http/silent"]
    assert (ledger.difference, ledger.drained) == (0, 0)
    assert ledger.lost["events_shutdown"] == TICKS


class Churn:
    """Each second fifty series and fifty events whose attributes were never there before."""

    EACH = 50

    def __init__(self) -> None:
        self.clock = ManualClock()
        endpoints = EndpointTable()
        terms = AccumulatorSettings(idle_ns=2 * S, release_ns=5 * S)
        self.accumulator = Accumulator(endpoints, terms)
        self.buffer = EventBuffer(endpoints, EventBufferSettings(max_bytes=16_384))
        self._made = 0

    def second(self) -> None:
        begun_ns = self.clock.wall_ns()
        self.clock.advance(1.0)
        window = Window(begun_ns, self.clock.wall_ns())
        names = [f"one-{self._made + number}" for number in range(self.EACH)]
        self._made += self.EACH
        who = {WHO.name: Column(np.arange(self.EACH, dtype=np.int32), names)}
        ones = np.ones(self.EACH, np.int64)
        self.accumulator.add(MetricBatch(window, {METRIC: ones}, who))
        self.accumulator.snapshot(window.end_ns)
        self.buffer.append(EventBatch(NAMED, window, ones * window.end_ns, who))


class Blocked:
    """Lanes of one exporter whose requests wait for their whole timeout, but for the first."""

    def __init__(
        self, source: Churn, temporality: Temporality, pause_s: float | None = None
    ) -> None:
        self._clock = source.clock
        self._pause_s = pause_s
        bench = Bench(source.clock)
        options = LaneOptions(
            clock=source.clock,
            report=DeliveryReport(bench.ledger, bench.logger, source.clock),
            retry=RetryPolicy(max_elapsed_s=0),
            random=random.Random(7),
        )
        reader = source.accumulator.reader("blocked", temporality=temporality)
        metrics = MetricsRoute(
            encode=lambda: MetricsEncoder({}).requests,
            sender=PlainSender(self._send),
            interval_s=15.0,
            max_bytes=2048,
            temporality=temporality,
        )
        events = EventsRoute(
            encode=lambda: LogsEncoder({}).requests,
            sender=PlainSender(self._send),
            interval_s=1.0,
            max_bytes=2048,
        )
        self._lanes: list[Lane[Any]] = [
            MetricsLane("metrics", reader, metrics, options),
            EventsLane("events", source.buffer.reader("blocked"), events, options),
        ]
        self._accepts = 1
        self._busy_until_ns = 0

    def step(self) -> None:
        """The exporter's thread, unless it still waits for an answer."""
        for lane in self._lanes:
            now = self._clock.monotonic_ns()
            if lane.due_ns <= now and self._busy_until_ns <= now:
                lane.step()

    def _send(self, body: bytes, timeout_s: float) -> Outcome:
        if self._accepts:
            self._accepts -= 1
            return Outcome(Result.ACCEPTED)
        if self._pause_s is not None:
            return Outcome(Result.RETRY, "http_503", "HTTP 503", retry_after_s=self._pause_s)
        self._busy_until_ns = self._clock.monotonic_ns() + int(timeout_s * S)
        return Outcome(Result.RETRY, "timeout", "no answer")


@pytest.mark.parametrize("pause_s", [None, 3600.0])
@pytest.mark.parametrize("temporality", list(Temporality))
def test_a_blocked_exporter_keeps_no_more_attribute_sets_the_longer_it_lasts(
    temporality: Temporality, pause_s: float | None
) -> None:
    """Also where an export is tried for ever: events, and a delta of which a part has passed; and
    where the backend asks to be left alone for an hour."""
    source = Churn()
    blocked = Blocked(source, temporality, pause_s)
    most: list[tuple[int, int]] = []
    for _ in range(2):
        used = []
        for _ in range(200):
            source.second()
            for _ in range(20):
                blocked.step()
            used.append((source.accumulator.sets.in_use, source.buffer.sets.in_use))
        most.append((max(a for a, _ in used), max(b for _, b in used)))
    (series_first, events_first), (series_later, events_later) = most
    assert series_later <= series_first
    assert events_later <= events_first
