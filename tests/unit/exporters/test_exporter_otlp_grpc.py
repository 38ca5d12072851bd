"""otlp_grpc from a real accumulator and event buffer to a real gRPC server, through mishaps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from retina_otel.delivery.grpc.sender import GrpcSender
from retina_otel.errors import ConfigError
from retina_otel.exporters.otlp_grpc import COMPONENT, OtlpGrpcExporter, OtlpGrpcSettings
from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.exporters import NUMBER, Bench, EventsFeed, MetricsFeed, Source
from retina_otel.testing.otlp import Answer, OtlpSink
from retina_otel.testing.otlp_backend import OtlpBackend
from retina_otel.testing.otlp_grpc import OtlpGrpcSink, Status
from tests.unit.delivery.delivery_parts import Pki

FAST = {
    "interval": "50ms",
    "events_interval": "20ms",
    "retry_on_failure": {"initial_interval": "20ms", "max_interval": "50ms"},
}


class Running:
    """An exporter with its source, started."""

    def __init__(self, grpc: bool = True, source: Source | None = None, **settings: Any) -> None:
        self.bench = Bench(id="otlp")
        self.source = source or Source()
        self.exporter: OtlpGrpcExporter | OtlpHttpExporter
        if grpc:
            chosen = OtlpGrpcSettings.model_validate({**FAST, **settings})
            self.exporter = OtlpGrpcExporter(chosen, self.bench.context(), {})
        else:
            other = OtlpHttpSettings.model_validate({**FAST, **settings})
            self.exporter = OtlpHttpExporter(other, self.bench.context(), {})
        metrics = self.source.accumulator.reader("test", temporality=self.exporter.temporality)
        self.exporter.start([metrics], [self.source.buffer.reader("test")])

    def stop(self, seconds: float = 5.0) -> None:
        self.exporter.stop(self.bench.deadline_ns(seconds))

    @property
    def ledger(self) -> Any:
        return self.bench.ledger.report()


@pytest.fixture
def sink() -> Iterator[OtlpGrpcSink]:
    with OtlpGrpcSink() as running:
        yield running


@pytest.fixture
def run(sink: OtlpGrpcSink) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(**options: Any) -> Running:
        if "endpoints" not in options:
            options.setdefault("endpoint", sink.endpoint)
        started.append(Running(**options))
        return started[-1]

    yield start
    for running in started:
        running.stop(0.5)


def numbers(sink: OtlpBackend[Any]) -> list[int]:
    return [record.attributes[NUMBER.name] for record in sink.records()]


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_sums_and_events_arrive_exactly(
    sink: OtlpGrpcSink, run: Callable[..., Running], compression: str
) -> None:
    running = run(compression=compression)
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


def test_a_message_too_large_is_halved_and_every_point_arrives_exactly_once(
    sink: OtlpGrpcSink, run: Callable[..., Running]
) -> None:
    words = "grpc: received message larger than max (5 vs. 4)"
    sink.script(*[Status("RESOURCE_EXHAUSTED", words)] * 2)
    running = run(interval="10s")
    running.source.count(**{f"{i:04d}": i for i in range(1, 1001)})
    running.source.happen(1000)
    running.stop()
    points = [(point.series, point.time_ns) for point in sink.points()]
    assert (len(points), len(set(points))) == (2000, 2000)
    assert sink.totals() == running.source.expected()
    assert numbers(sink) == list(range(1000))
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})


def test_a_partial_success_is_counted_and_not_sent_again(
    sink: OtlpGrpcSink, run: Callable[..., Running]
) -> None:
    sink.script(Status(rejected=3, message="too old"))
    running = run()
    running.source.count(a=5, b=6)
    sink.wait_for(sink.points, 10)
    running.stop()
    assert len(sink.received) == 1
    ledger = running.ledger
    assert (ledger.seen, ledger.drained, dict(ledger.lost)) == (4, 1, {"points_rejected": 3})


def test_retry_info_delays_the_next_attempt(
    sink: OtlpGrpcSink, run: Callable[..., Running]
) -> None:
    sink.script(Status("RESOURCE_EXHAUSTED", retry_delay_s=0.5))
    running = run()
    running.source.count(a=5)
    sink.wait_for(sink.points, 10)
    first, second = sink.received[:2]
    assert second.time_ns - first.time_ns >= 500_000_000
    assert running.ledger.exports["points"].request_failures == {"grpc_resource_exhausted": 1}


def test_a_backend_that_was_away_gets_right_sums_and_all_events() -> None:
    first = OtlpGrpcSink()
    running = Running(endpoint=first.endpoint)
    running.source.count(a=1, b=2)
    running.source.happen(10)
    first.wait_for(lambda: first.points() and first.records(), 10)
    first.close()
    for _ in range(5):
        running.source.count(a=100, c=1000)
        running.source.happen(10)
        time.sleep(0.05)
    with OtlpGrpcSink(f"127.0.0.1:{first.port}") as second:
        second.wait_for(lambda: second.points() and second.records(), 20)
        running.stop()
        assert {**first.final_sums(), **second.final_sums()} == running.source.expected()
        assert numbers(first) + numbers(second) == list(range(60))
    assert (running.ledger.difference, dict(running.ledger.lost)) == (0, {})
    assert running.bench.reasons[-1] == ""


def test_deltas_add_up_through_an_outage(sink: OtlpGrpcSink, run: Callable[..., Running]) -> None:
    sink.script(Status(), *[Status("UNAVAILABLE")] * 3)
    running = run(temporality="delta")
    for _ in range(9):
        running.source.count(a=7, b=11)
        time.sleep(0.06)
    running.stop()
    assert sink.totals() == running.source.expected()
    assert sink.faults() == []


def test_stopping_does_not_wait_for_a_backend_that_hangs(
    sink: OtlpGrpcSink, run: Callable[..., Running]
) -> None:
    sink.always(Status(delay_s=2))
    running = run(timeout="60s")
    running.source.count(a=5)
    running.source.happen(3)
    sink.wait_for_call(10)
    running.stop(0.5)
    assert not [thread for thread in threading.enumerate() if thread.name == "otlp"]
    assert running.ledger.difference == 0
    assert running.ledger.lost["events_shutdown"] == 3


# --------------------------------------------------------------------------------------- failover


@pytest.mark.parametrize("grpc", [True, False])
def test_failing_over_and_back_keeps_sums_and_events_right(
    grpc: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kind: Any = OtlpGrpcSink if grpc else OtlpSink
    bad: Any = Status("UNAVAILABLE") if grpc else Answer(503)
    good: Any = Status() if grpc else Answer()
    with kind() as a, kind() as b:
        running = Running(grpc, endpoints=[a.endpoint, b.endpoint], failback_interval="300ms")
        running.source.count(a=1, b=2)
        running.source.happen(10)
        a.wait_for(lambda: a.points() and a.records(), 10)
        a.always(bad)
        running.source.count(a=100, c=1000)
        running.source.happen(10)
        b.wait_for(lambda: b.points() and b.records(), 10)
        a.always(good)
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


# --------------------------------------------------------------------------------------- settings


def exporter(variables: dict[str, str], **settings: Any) -> OtlpGrpcExporter:
    chosen = OtlpGrpcSettings.model_validate(settings)
    return OtlpGrpcExporter(chosen, Bench().context(), variables)


def metrics_sender(made: OtlpGrpcExporter) -> GrpcSender:
    sender = made.senders["metrics"]
    assert isinstance(sender, GrpcSender)
    return sender


def test_the_endpoint_is_explicit_then_from_the_environment_then_local() -> None:
    general = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://env:4317"}
    special = {**general, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://special:4317"}
    assert exporter({}).targets()["metrics"] == "http://localhost:4317"
    assert exporter(general).targets()["logs"] == "http://env:4317"
    assert exporter(special).targets()["metrics"] == "http://special:4317"
    own = exporter(special, endpoint="http://own:1", logs_endpoint="http://l:2")
    assert own.targets() == {"metrics": "http://own:1", "logs": "http://l:2"}
    several = exporter(special, endpoints=["http://a:1", "b:2"])
    assert several.targets()["metrics"] == "http://a:1, b:2"


def test_an_endpoint_without_a_scheme_has_tls_unless_it_is_said_to_be_insecure() -> None:
    bare = {"OTEL_EXPORTER_OTLP_ENDPOINT": "env:4317"}
    insecure = {**bare, "OTEL_EXPORTER_OTLP_INSECURE": "true"}
    assert metrics_sender(exporter(bare))._endpoint.tls
    assert not metrics_sender(exporter(insecure))._endpoint.tls
    special = {**insecure, "OTEL_EXPORTER_OTLP_METRICS_INSECURE": "false"}
    assert metrics_sender(exporter(special))._endpoint.tls
    assert metrics_sender(exporter(insecure, tls={"insecure": False}))._endpoint.tls
    assert not metrics_sender(exporter(bare, tls={"insecure": True}))._endpoint.tls


def test_certificates_come_from_the_environment_too(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    variables = {"OTEL_EXPORTER_OTLP_CERTIFICATE": pki.ca_file}
    with OtlpGrpcSink(credentials=pki.server()) as sink:
        made = exporter({**variables, "OTEL_EXPORTER_OTLP_ENDPOINT": sink.endpoint})
        sender = metrics_sender(made)
        assert sender.send(sender.pack(b"", 0), 5).reason == ""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, "no valid port"),
        ({"OTEL_EXPORTER_OTLP_INSECURE": "yes"}, "OTEL_EXPORTER_OTLP_INSECURE"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "zstd, which gRPC does not know"),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "x"}, "lowmemory"),
    ],
)
def test_variables_that_can_not_work_are_one_clear_error(
    variables: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        exporter(variables)


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "c"},
        {"endpoint": "http://c:4317/v1/metrics"},
        {"endpoints": ["c:1", "http://c"]},
        {"endpoint": "c:1", "endpoints": ["d:1"]},
        {"compression": "zstd"},
        {"tls": {"insecure_skip_verify": True}},
        {"proxy_url": "proxy"},
        {"headers": {"authorization": "x"}, "auth": {"bearer": {"token_file": "/t"}}},
        {"keepalive": {"time": "0s"}},
        {"auth": {"sigv4": {"region": "eu-central-1"}}},
    ],
)
def test_settings_of_a_wrong_kind_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OtlpGrpcSettings.model_validate(settings)


def test_temporality_knows_the_three_words() -> None:
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    found = [exporter({name: word}).temporality for word in ("Cumulative", "delta", "LOWMEMORY")]
    assert found == [Temporality.CUMULATIVE, Temporality.DELTA, Temporality.LOWMEMORY]
    assert exporter({name: "delta"}, temporality="lowmemory").temporality is Temporality.LOWMEMORY


def test_settings_do_not_show_their_secrets() -> None:
    settings = OtlpGrpcSettings.model_validate(
        {"headers": {"x-key": "hunter2"}, "proxy_url": "http://user:hunter2@proxy:3128"}
    )
    assert "hunter2" not in f"{settings!r} {settings.model_dump_json()}"


def test_every_setting_is_described() -> None:
    schema = COMPONENT.Settings.model_json_schema()
    undescribed = [
        name
        for model in (schema, *schema["$defs"].values())
        for name, field in model.get("properties", {}).items()
        if "description" not in field and "$ref" not in field
    ]
    assert undescribed == []


def test_an_endpoint_of_the_environment_that_is_for_http_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    made = exporter(variables)
    made.start([MetricsFeed()], [EventsFeed()])
    made.stop(0)
    assert [record.getMessage() for record in caplog.records] == [
        "OTEL_EXPORTER_OTLP_PROTOCOL is http/protobuf, but otlp_grpc speaks grpc. Set its endpoint "
        "to a port that takes OTLP over gRPC, commonly 4317"
    ]


@pytest.mark.parametrize(
    ("grpc", "settings", "said"),
    [
        (True, {"endpoint": "http://c:4317"}, "http://c:4317"),
        (True, {"endpoint": "c:4317", "tls": {"insecure": True}}, "c:4317"),
        (True, {"endpoints": ["c:4317", "http://d:4317"]}, "http://d:4317"),
        (True, {"endpoint": "http://localhost:4317"}, ""),
        (True, {"endpoint": "unix:///run/c.sock"}, ""),
        (False, {"endpoint": "http://c:4318"}, "http://c:4318/v1/metrics, http://c:4318/v1/logs"),
        (False, {"endpoint": "https://c:4318"}, ""),
        (False, {"endpoint": "http://127.0.0.1:4318"}, ""),
        (
            False,
            {"metrics_endpoint": "http://127.example:4318/m", "logs_endpoint": "https://c/l"},
            "http://127.example:4318/m",
        ),
    ],
)
def test_a_token_that_leaves_this_machine_unencrypted_is_warned_about(
    grpc: bool,
    settings: dict[str, Any],
    said: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2")
    auth = {"bearer": {"token_file": str(token)}}
    made: OtlpGrpcExporter | OtlpHttpExporter
    if grpc:
        made = exporter({}, auth=auth, **settings)
    else:
        chosen = OtlpHttpSettings.model_validate({"auth": auth, **settings})
        made = OtlpHttpExporter(chosen, Bench().context(), {})
    made.start([MetricsFeed()], [EventsFeed()])
    made.stop(0)
    expected = f"auth goes unencrypted to {said}: whoever is on the way can read it. Use https://"
    assert [record.getMessage() for record in caplog.records] == ([expected] if said else [])
