"""What the agent tells about its exporters is what their backends say: each request and item."""

from __future__ import annotations

import functools
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from retina_otel.agent.status import StatusBoard
from retina_otel.agent.telemetry import OwnTelemetry
from retina_otel.encode.prometheus.text import render
from retina_otel.exporters.otlp_http import OtlpHttpExporter, OtlpHttpSettings
from retina_otel.model.batches import Window
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.testing.exporters import Bench, Source
from retina_otel.testing.otlp import Answer, OtlpSink, points_of, records_of
from tests.unit.agent.agent_parts import until
from tests.unit.agent.test_agent_signals import Process

ID = "otlp_http/backup"
SCOPE_LABELS = {"otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}

Labels = frozenset[tuple[str, str]]


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as running:
        yield running


def labels(signal_: str, error_type: str = "") -> Labels:
    found = {"otel_component_name": ID, "otel_component_type": f"otlp_http_{signal_}_exporter"}
    return frozenset({**found, **({"error_type": error_type} if error_type else {})}.items())


def page(telemetry: OwnTelemetry) -> dict[str, dict[Labels, float]]:
    """What Prometheus reads of the own metrics, by name and labels."""
    accumulator = Accumulator(EndpointTable())
    for batch in telemetry.collect(Window(10**18, 10**18 + 10**9), now=True).metrics:
        accumulator.add(batch)
    accumulator.snapshot(10**18 + 10**9)
    export = accumulator.reader("test", zero_points=False, stale_markers=False).take()
    telemetry.close()
    assert export is not None
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(render(export.blocks, {}).decode()):
        for sample in family.samples:
            kept = {k: v for k, v in sample.labels.items() if k not in SCOPE_LABELS}
            found.setdefault(sample.name, {})[frozenset(kept.items())] = sample.value
    return found


_LOST = {"rejected", "refused", "too_large", "expired", "not_encoded", "shutdown"}
LOST = {"metric": _LOST, "log": _LOST | {"shed"}}
"""Reasons that are told from 0 on."""


def test_counters_of_an_exporter_are_what_its_backend_counts(sink: OtlpSink) -> None:
    sink.script(Answer(503), Answer(503), Answer(rejected=3), Answer(400))
    board, bench, source = StatusBoard(), Bench(id=ID), Source()
    board.keep_ledger(f"exporter/{ID}", bench.ledger)
    settings = OtlpHttpSettings.model_validate(
        {
            "endpoint": sink.endpoint,
            "compression": "none",
            "interval": "20ms",
            "events_interval": "20ms",
            "retry_on_failure": {"initial_interval": "20ms", "max_interval": "50ms"},
        }
    )
    telemetry = OwnTelemetry(board, tuple, 15)
    context = replace(bench.context(), operated=functools.partial(telemetry.operated, ID))
    exporter = OtlpHttpExporter(settings, context, {})
    exporter.start([source.accumulator.reader("x")], [source.buffer.reader("x")])
    for _ in range(5):
        source.count(**{f"s{i}": 1 for i in range(7)})
        source.happen(4)
        sink.wait_for(lambda: 2 * len(sink.received) >= source.events, 10)
    exporter.stop(bench.deadline_ns(5))

    items, requests, sizes = Counter[Labels](), Counter[Labels](), Counter[Labels]()
    for one in sink.received:
        if isinstance(one.message, ExportMetricsServiceRequest):
            kind, n = "metric", len(list(points_of([one.message])))
        else:
            assert isinstance(one.message, ExportLogsServiceRequest)
            kind, n = "log", len(list(records_of([one.message])))
        error = {503: "http_503", 400: "http_400"}.get(one.answer.status, "")
        requests[labels(kind, error or ("partial_success" if one.answer.rejected else ""))] += 1
        sizes[labels(kind)] += one.body_bytes
        if one.answer.status == 200:
            items[labels(kind)] += n - one.answer.rejected
            if one.answer.rejected:
                items[labels(kind, "rejected")] += one.answer.rejected
        elif one.answer.status == 400:
            items[labels(kind, "refused")] += n
    never = {labels(kind, why): 0 for kind, reasons in LOST.items() for why in reasons}
    shown = page(telemetry)
    assert {
        **shown["otel_sdk_exporter_metric_data_point_exported_total"],
        **shown["otel_sdk_exporter_log_exported_total"],
    } == never | items
    assert shown["retina_exporter_requests_total"] == requests
    assert shown["otel_sdk_exporter_operation_duration_seconds_count"] == requests
    assert shown["retina_exporter_request_io_bytes_total"] == sizes
    assert "retina_ledger_beside" not in shown


def test_an_agent_sends_the_counters_of_an_exporter_by_all_others(
    sink: OtlpSink, tmp_path: Path
) -> None:
    sink.script(Answer(503))
    agent = Process(tmp_path)
    try:
        agent.wait_ready()
        without = agent.config.read_text()
        otlp = f'{{endpoint: "{sink.endpoint}", interval: 100ms}}'
        text = without.replace("exporters: {file:", f"exporters: {{{ID}: {otlp}, file:")
        agent.config.write_text(text.replace("[file]", f"[{ID}, file]"))
        agent.process.send_signal(signal.SIGHUP)
        sink.wait_for(sink.points, 20)
        agent.config.write_text(without)
        agent.process.send_signal(signal.SIGHUP)
        until(lambda: ID not in agent.health()["components"]["exporters"], "the second reload")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(10) == 0
    finally:
        if agent.process.poll() is None:
            agent.process.kill()
            agent.process.wait()
    # Attributes in the order of their names: error.type, then name and type of the component.
    who = (ID, "otlp_http_metric_exporter")
    exported = agent.metric("otel.sdk.exporter.metric_data_point.exported")
    requests = agent.metric("retina.exporter.requests")
    assert exported[who] == len(sink.points())
    assert requests[who] == len(sink.metric_requests)
    assert requests["http_503", *who] == len(sink.received) - len(sink.metric_requests) == 1
    assert set(agent.metric("otel.sdk.exporter.log.exported")) == set()
