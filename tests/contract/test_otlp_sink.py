"""The test backend decodes what real clients send, and misbehaves exactly as it is told."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from http.client import RemoteDisconnected

import pytest
import urllib3
import zstandard
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from urllib3.exceptions import ProtocolError

from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.encode.otlp.json_lines import JsonMetricsEncoder
from retina_otel.model.signals import Event, Kind, Metric
from retina_otel.testing.otlp import Answer, OtlpSink, series
from retina_otel.testing.points import Occurrence, Point, event_block, point_block

METRIC = Metric("retina.flow.io", Kind.COUNTER, "By", "", scope="retina_otel.receivers.flows")
BLOCK = point_block(
    METRIC,
    [
        Point(0, {"pod": "web"}, time_ns=1_000_000_001),
        Point(1234, {"pod": "web"}, time_ns=2_000_000_000),
    ],
)
RESOURCE = {"service.name": "retina-otel"}
(METRICS,) = MetricsEncoder(RESOURCE).encode([BLOCK])
(LOGS,) = LogsEncoder(RESOURCE).encode(
    [event_block(Event("retina.drop", 13, ""), [Occurrence(integers={"n": 3})])]
)
PROTOBUF = {"Content-Type": "application/x-protobuf"}
HTTP = urllib3.PoolManager(retries=False)


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        yield sink


def post(sink: OtlpSink, path: str, body: bytes, **headers: str) -> urllib3.BaseHTTPResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HTTP.request("POST", sink.endpoint + path, body=body, headers={**PROTOBUF, **named})


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("identity", METRICS),
        ("gzip", gzip.compress(METRICS)),
        ("zstd", zstandard.compress(METRICS)),
        ("deflate", zlib.compress(METRICS)),
    ],
)
def test_each_content_encoding_is_decoded(sink: OtlpSink, encoding: str, body: bytes) -> None:
    response = post(sink, "/v1/metrics", body, content_encoding=encoding)
    assert response.status == 200
    assert ExportMetricsServiceResponse.FromString(response.data) == ExportMetricsServiceResponse()
    (received,) = sink.received
    assert (received.wire_bytes, received.body_bytes) == (len(body), len(METRICS))
    assert sink.final_sums() == {series("retina.flow.io", pod="web"): 1234}
    assert sink.faults() == []


def test_events_are_kept_with_their_names_and_attributes(sink: OtlpSink) -> None:
    response = post(sink, "/v1/logs", LOGS)
    assert ExportLogsServiceResponse.FromString(response.data) == ExportLogsServiceResponse()
    (record,) = sink.records("retina.drop")
    assert (record.attributes, record.severity, record.observed_ns) == ({"n": 3}, 13, 3 * 10**9)
    assert sink.faults() == []


def test_json_is_decoded_and_answered_in_json(sink: OtlpSink) -> None:
    (line,) = JsonMetricsEncoder(RESOURCE).encode([BLOCK])
    response = post(sink, "/v1/metrics", line, content_type="application/json")
    assert json.loads(response.data) == {}
    assert sink.final_sums() == {series("retina.flow.io", pod="web"): 1234}


def test_the_stock_sdk_exporter_is_understood(sink: OtlpSink) -> None:
    exporter = OTLPMetricExporter(endpoint=sink.endpoint + "/v1/metrics")
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, 10**6)])
    provider.get_meter("m").create_counter("things").add(7, {"a": "b"})
    provider.shutdown()
    assert sink.final_sums() == {series("things", a="b"): 7}


def test_answers_are_given_in_the_order_of_the_script_and_then_200(sink: OtlpSink) -> None:
    sink.script(
        Answer(503, retry_after_s=2), Answer(429), Answer(413), Answer(rejected=1, message="why")
    )
    responses = [post(sink, "/v1/metrics", METRICS) for _ in range(5)]
    assert [response.status for response in responses] == [503, 429, 413, 200, 200]
    assert responses[0].headers["Retry-After"] == "2"
    partial = ExportMetricsServiceResponse.FromString(responses[3].data).partial_success
    assert (partial.rejected_data_points, partial.error_message) == (1, "why")
    assert [one.accepted for one in sink.received] == [False, False, False, True, True]
    assert len(sink.metric_requests) == 2


def test_the_standing_answer_holds_until_it_is_changed(sink: OtlpSink) -> None:
    sink.always(Answer(503))
    assert [post(sink, "/v1/metrics", METRICS).status for _ in range(2)] == [503, 503]
    sink.always(Answer())
    assert post(sink, "/v1/metrics", METRICS).status == 200


def test_a_reset_comes_in_the_middle_of_the_body(sink: OtlpSink) -> None:
    sink.script(Answer(reset=True))
    with pytest.raises((ProtocolError, ConnectionResetError, RemoteDisconnected)):
        post(sink, "/v1/metrics", METRICS)
    (received,) = sink.received
    assert (received.accepted, received.message) == (False, None)
    assert received.wire_bytes == len(METRICS) // 2
    assert post(sink, "/v1/metrics", METRICS).status == 200


def test_a_reset_is_a_reset_and_no_orderly_end(sink: OtlpSink) -> None:
    sink.script(Answer(reset=True))
    head = b"POST /v1/metrics HTTP/1.1\r\nHost: sink\r\nContent-Length: 8\r\n\r\n"
    with socket.create_connection(("127.0.0.1", sink.port), timeout=10) as client:
        client.sendall(head + b"half")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.parametrize(
    ("path", "body", "headers", "refusal"),
    [
        ("/v1/traces", METRICS, {}, (404, "request to /v1/traces")),
        ("/v1/metrics", METRICS, {"content_type": "text/plain"}, (415, "'text/plain'")),
        ("/v1/metrics", METRICS, {"content_encoding": "br"}, (415, "'br'")),
        ("/v1/metrics", METRICS, {"content_encoding": "gzip"}, (400, "no gzip")),
        ("/v1/metrics", METRICS, {"content_encoding": "zstd"}, (400, "no zstd")),
        ("/v1/metrics", METRICS[:-1], {}, (400, "can't be decoded")),
        ("/v1/logs", b"{", {"content_type": "application/json"}, (400, "can't be decoded")),
    ],
)
def test_what_is_no_otlp_is_refused_and_is_a_fault(
    sink: OtlpSink, path: str, body: bytes, headers: dict[str, str], refusal: tuple[int, str]
) -> None:
    status, fault = refusal
    assert post(sink, path, body, **headers).status == status
    (found,) = sink.faults()
    assert fault in found


def test_totals_add_up_starts_of_cumulative_and_intervals_of_delta_series(sink: OtlpSink) -> None:
    rows = [
        Point(5, {"a": "b"}, start_ns=1, time_ns=10),
        Point(7, {"a": "b"}, start_ns=1, time_ns=20),
        Point(3, {"a": "b"}, start_ns=30, time_ns=40),
        Point(0, {"a": "b"}, start_ns=30, time_ns=50, no_value=True),
    ]
    (body,) = MetricsEncoder({}).encode([point_block(METRIC, rows)])
    post(sink, "/v1/metrics", body)
    post(sink, "/v1/metrics", body)
    assert sink.totals() == {series("retina.flow.io", a="b"): 10}
    assert sink.final_sums() == {series("retina.flow.io", a="b"): 3}


def test_the_last_value_is_the_one_with_the_latest_time_whenever_it_came(sink: OtlpSink) -> None:
    for time_ns, value in ((20, 7), (10, 5)):
        rows = [Point(value, {"a": "b"}, start_ns=1, time_ns=time_ns)]
        (body,) = MetricsEncoder({}).encode([point_block(METRIC, rows)])
        post(sink, "/v1/metrics", body)
    assert sink.final_sums() == {series("retina.flow.io", a="b"): 7}
    assert sink.totals() == {series("retina.flow.io", a="b"): 7}


def test_waiting_ends_with_the_condition_or_says_what_came(sink: OtlpSink) -> None:
    post(sink, "/v1/metrics", METRICS)
    sink.wait_for(lambda: sink.points("retina.flow.io"), timeout_s=5)
    with pytest.raises(TimeoutError, match="1 requests came"):
        sink.wait_for(lambda: False, timeout_s=0.01)


def test_a_closed_sink_refuses_connections_and_another_can_take_its_port() -> None:
    with OtlpSink() as first:
        port = first.port
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        post(first, "/v1/metrics", METRICS)
    with OtlpSink(port=port) as second:
        assert post(second, "/v1/metrics", METRICS).status == 200
