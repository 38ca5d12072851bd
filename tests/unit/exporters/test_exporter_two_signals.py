"""An exporter of metrics and events whose backend for one of them takes requests and gives no
answer: the other arrives in full meanwhile, and neither waits for the other's end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from retina_otel.component import Component
from retina_otel.delivery.outcome import Outcome, Result
from retina_otel.delivery.push import EventsRoute, MetricsRoute, PlainSender, Push
from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.exporters.azure_monitor import COMPONENT as AZURE_MONITOR
from retina_otel.exporters.azure_monitor.connection_string import parse
from retina_otel.exporters.azure_monitor.templates import Templates
from retina_otel.exporters.otlp_grpc import COMPONENT as OTLP_GRPC
from retina_otel.exporters.otlp_http import COMPONENT as OTLP_HTTP
from retina_otel.testing.application_insights import KEY, ApplicationInsights
from retina_otel.testing.application_insights import Answer as AzureAnswer
from retina_otel.testing.exporters import EVENT, METRIC, NUMBER, Bench, Source
from retina_otel.testing.otlp import Answer, OtlpSink
from retina_otel.testing.otlp_backend import OtlpBackend
from retina_otel.testing.otlp_grpc import OtlpGrpcSink, Status
from tests.unit.agent.agent_parts import until

ROUNDS = 5
SIGNALS = ["metrics", "logs"]
INTERVALS = {"metrics": "interval", "logs": "events_interval"}


def other(signal: str) -> str:
    return "logs" if signal == "metrics" else "metrics"


class Held(threading.Event):
    """Set when the requests that wait for it may be answered."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        """That have come to wait."""

    def wait(self, timeout: float | None = None) -> bool:
        self.requests += 1
        return super().wait(timeout)


@pytest.fixture
def held() -> Iterator[Held]:
    event = Held()
    yield event
    event.set()


class Pair:
    """A backend for each signal."""

    def __init__(self, component: Component) -> None:
        self.component = component
        kind = OtlpSink if component is OTLP_HTTP else OtlpGrpcSink
        self.sinks: dict[str, OtlpBackend[Any]] = {signal: kind() for signal in SIGNALS}

    @property
    def endpoints(self) -> dict[str, str]:
        return {
            f"{signal}_endpoint": sink.endpoint + path
            for signal, sink in self.sinks.items()
            for path in [f"/v1/{signal}" if isinstance(sink, OtlpSink) else ""]
            if isinstance(sink, OtlpSink | OtlpGrpcSink)
        }

    def hold(self, signal: str, held: Held) -> None:
        """From now on requests of that signal are answered when `held` is set."""
        http = self.component is OTLP_HTTP
        self.sinks[signal].always(Answer(wait=held) if http else Status(wait=held))

    def has_all(self, signal: str, source: Source) -> bool:
        """Whether all of a signal that there was has come to its backend, and nothing else."""
        sink = self.sinks[signal]
        if signal == "metrics":
            return sink.final_sums() == source.expected() and not sink.records()
        numbers = [record.attributes[NUMBER.name] for record in sink.records()]
        return numbers == list(range(source.events)) and not sink.points()

    def close(self) -> None:
        for sink in self.sinks.values():
            assert isinstance(sink, OtlpSink | OtlpGrpcSink)
            sink.close()


@pytest.fixture(params=[OTLP_HTTP, OTLP_GRPC], ids=["http", "grpc"])
def pair(request: pytest.FixtureRequest, held: Held) -> Iterator[Pair]:
    backends = Pair(request.param)
    yield backends
    held.set()
    backends.close()


class Running:
    """An exporter with its source, started. Requests have an hour: who waits, waits in vain."""

    def __init__(self, component: Component, signals: list[str] = SIGNALS, **given: Any) -> None:
        self.bench = Bench(id=component.type)
        self.source = Source()
        fast = dict.fromkeys(INTERVALS.values(), "20ms")
        settings = component.Settings.model_validate({"timeout": "1h", **fast, **given})
        self.exporter = component.create(settings, self.bench.context())
        kind = {
            name: getattr(self.exporter, name)
            for name in ("temporality", "zero_points", "stale_markers")
            if hasattr(self.exporter, name)
        }
        metrics = self.source.accumulator.reader("test", **kind)
        events = self.source.buffer.reader("test")
        self.exporter.start(
            [metrics] if "metrics" in signals else [], [events] if "logs" in signals else []
        )

    def feed(self, signals: list[str] = SIGNALS) -> None:
        if "metrics" in signals:
            self.source.count(a=11, b=13)
        if "logs" in signals:
            self.source.happen(17)

    def stop(self, seconds: float) -> None:
        self.exporter.stop(self.bench.deadline_ns(seconds))

    @property
    def threads(self) -> list[str]:
        names = [thread.name for thread in threading.enumerate()]
        return sorted(name for name in names if name.startswith(self.bench.id))

    @property
    def ledger(self) -> Any:
        return self.bench.ledger.report()


@pytest.mark.parametrize("spooled", [False, True], ids=["memory", "spool"])
@pytest.mark.parametrize("silent", SIGNALS)
def test_one_signal_arrives_in_full_while_the_other_gets_no_answer(
    pair: Pair, held: Held, silent: str, spooled: bool, tmp_path: Path
) -> None:
    pair.hold(silent, held)
    spool = {"spool": {"directory": str(tmp_path / "spool")}} if spooled else {}
    running = Running(pair.component, **pair.endpoints, **spool)
    running.feed()
    until(lambda: held.requests == 1, "a request that gets no answer")
    for _ in range(ROUNDS):
        running.feed()
        until(lambda: pair.has_all(other(silent), running.source), "all of the other signal")
    sink = pair.sinks[other(silent)]
    n_arrived = len(sink.points()) + len(sink.records())
    until(lambda: running.ledger.drained == n_arrived, "the last answer")
    running.stop(0.5)
    assert running.threads == []
    assert held.requests == 1
    assert pair.has_all(other(silent), running.source)
    assert sink.faults() == []
    ledger = running.ledger
    assert (ledger.difference, ledger.held) == (0, 0)
    assert ledger.drained == n_arrived == len(sink.points()) + len(sink.records())
    lost = {why: n for why, n in ledger.lost.items() if n}
    if silent == "metrics":
        assert set(lost) == {"points_shutdown"}
    elif spooled:
        assert (lost, ledger.not_ours["events_kept"]) == ({}, running.source.events)
    else:
        assert lost == {"events_shutdown": running.source.events}


@pytest.mark.parametrize("silent", SIGNALS)
def test_what_is_left_of_one_signal_goes_out_while_the_end_of_the_other_is_waited_for(
    pair: Pair, held: Held, silent: str
) -> None:
    pair.hold(silent, held)
    late = {INTERVALS[other(silent)]: "1000h"}
    running = Running(pair.component, **pair.endpoints, **late)
    running.feed()
    until(lambda: held.requests == 1, "a request that gets no answer")
    stopping = threading.Thread(target=running.stop, args=(100.0,))
    stopping.start()
    until(lambda: pair.has_all(other(silent), running.source), "what was left")
    assert stopping.is_alive()
    held.set()
    stopping.join(20)
    assert running.threads == []
    assert all(pair.has_all(signal, running.source) for signal in SIGNALS)
    assert (running.ledger.difference, sum(running.ledger.lost.values())) == (0, 0)


@pytest.mark.parametrize("silent", SIGNALS)
def test_azure_that_leaves_a_request_of_one_signal_unanswered_gets_all_of_the_other(
    held: Held, silent: str
) -> None:
    """Both go to the same place, over a connection each."""

    def all_there() -> bool:
        numbers = [int(event[NUMBER.name]) for event in azure.events()]
        counted = sum(azure.sums(METRIC.name).values())
        return (counted, numbers) == (
            sum(running.source.truth.values()),
            list(range(running.source.events)),
        )

    with ApplicationInsights() as azure:
        azure.script(AzureAnswer(wait=held))
        running = Running(AZURE_MONITOR, connection_string=azure.connection_string)
        running.feed([silent])
        until(lambda: held.requests == 1, "a request that gets no answer")
        for _ in range(ROUNDS):
            running.feed([other(silent)])
            until(all_there, "all of the other signal")
        held.set()
        running.stop(10.0)
        assert all_there()
        assert azure.faults() == []
    assert running.threads == []
    assert (running.ledger.difference, sum(running.ledger.lost.values())) == (0, 0)


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_templates_of_metrics_and_events_are_made_by_two_threads_at_once() -> None:
    templates = Templates(parse(f"InstrumentationKey={KEY}", "test"), {})
    metric, event = templates.metric(METRIC), templates.event(EVENT)
    with ThreadPoolExecutor(2) as pool:
        metrics = pool.submit(lambda: [templates.metric(METRIC) for _ in range(300)])
        events = pool.submit(lambda: [templates.event(EVENT) for _ in range(300)])
    assert (metrics.result(), events.result()) == ([metric] * 300, [event] * 300)


@pytest.mark.parametrize(
    ("signals", "threads"),
    [
        (["metrics"], ["otlp_http points"]),
        (["logs"], ["otlp_http events"]),
        (SIGNALS, ["otlp_http events", "otlp_http points"]),
    ],
)
def test_an_exporter_has_a_thread_for_each_signal_that_it_is_given(
    signals: list[str], threads: list[str]
) -> None:
    with OtlpSink() as sink:
        running = Running(OTLP_HTTP, signals, endpoint=sink.endpoint)
        assert running.threads == threads
        running.feed(signals)
        running.stop(10.0)
        assert running.threads == []
        assert len(sink.records()) == (running.source.events if "logs" in signals else 0)


class Destination:
    """What the routes of an exporter lead to, and when it was closed."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed_after: list[int] = []

    def sender(self) -> PlainSender:
        return PlainSender(self._write, lambda: self.closed_after.append(self.taken))

    def _write(self, body: bytes, timeout_s: float) -> Outcome:
        assert not self.closed_after
        self.taken += 1
        return Outcome(Result.ACCEPTED)


@pytest.mark.parametrize("given", [[], ["metrics"], ["logs"], SIGNALS])
@pytest.mark.parametrize("shared", [False, True])
def test_each_sender_is_closed_once_after_what_it_took(given: list[str], shared: bool) -> None:
    """Also that of a signal which is not sent; one of both signals is used by one thread."""
    bench, source = Bench(), Source()
    first = Destination()
    second = first if shared else Destination()
    one = first.sender()
    two = one if shared else second.sender()
    push = Push(
        bench.context(),
        metrics=MetricsRoute(
            encode=lambda: MetricsEncoder({}).requests, sender=one, interval_s=3600.0
        ),
        events=EventsRoute(encode=lambda: LogsEncoder({}).requests, sender=two, interval_s=3600.0),
    )
    metrics, events = source.accumulator.reader("x"), source.buffer.reader("x")
    source.count(a=1)
    source.happen(1)
    before = threading.active_count()
    push.start([metrics] if "metrics" in given else [], [events] if "logs" in given else [])
    started = threading.active_count() - before
    assert started == (min(1, len(given)) if shared else len(given))
    push.stop(bench.deadline_ns(10.0))
    if shared:
        assert first.closed_after == [len(given)]
    else:
        assert first.closed_after == [int("metrics" in given)]
        assert second.closed_after == [int("logs" in given)]


def test_a_signal_that_is_not_started_is_closed_too() -> None:
    destination = Destination()
    route = MetricsRoute(
        encode=lambda: MetricsEncoder({}).requests, sender=destination.sender(), interval_s=1.0
    )
    bench = Bench()
    Push(bench.context(), metrics=route).stop(bench.deadline_ns(0.0))
    assert destination.closed_after == [0]
