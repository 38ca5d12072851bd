"""Counting, splitting and reading answers on the wire, against the official protobufs."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from retina_otel.delivery.otlp_wire import LOGS, METRICS, partial_success, status_message

KINDS: tuple[Any, ...] = ("gauge", "sum", "histogram", "exponential_histogram", "summary")


@st.composite
def metric_requests(draw: st.DrawFn) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    number = 0
    for _ in range(draw(st.integers(0, 2))):
        resource = request.resource_metrics.add(schema_url="https://example.org/r")
        resource.resource.attributes.add(key="host.name").value.string_value = "node"
        for _ in range(draw(st.integers(0, 2))):
            scope = resource.scope_metrics.add(schema_url="https://example.org/s")
            scope.scope.name = "scope"
            for kind in draw(st.lists(st.sampled_from(KINDS), max_size=3)):
                metric = scope.metrics.add(name=f"a.{kind}", unit="By", description="text")
                data = getattr(metric, kind)
                for _ in range(draw(st.integers(0, 5))):
                    number += 1
                    point = data.data_points.add(start_time_unix_nano=1, time_unix_nano=number)
                    point.attributes.add(key="k").value.string_value = "x" * (number * 40 % 300)
                if kind == "sum":
                    data.is_monotonic = True
    return request


def points(request: ExportMetricsServiceRequest) -> list[tuple[str, bytes]]:
    return [
        (metric.name, point.SerializeToString())
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for kind in KINDS
        if metric.HasField(kind)
        for point in getattr(metric, kind).data_points
    ]


@settings(deadline=None)
@given(metric_requests())
def test_halves_of_a_metrics_request_hold_each_point_once_in_order(
    request: ExportMetricsServiceRequest,
) -> None:
    wire = request.SerializeToString()
    expected = points(request)
    assert METRICS.count(wire) == len(expected)
    halves = METRICS.split(wire)
    if halves is None:
        assert len(expected) <= 1
        return
    first, second = map(ExportMetricsServiceRequest.FromString, halves)
    assert len(points(first)) == len(expected) // 2
    assert points(first) + points(second) == expected
    for half in (first, second):
        for resource in half.resource_metrics:
            assert resource.schema_url == "https://example.org/r"
            assert resource.resource.attributes[0].value.string_value == "node"
            for scope in resource.scope_metrics:
                assert (scope.scope.name, scope.schema_url) == ("scope", "https://example.org/s")
                assert [m.sum.is_monotonic for m in scope.metrics if m.HasField("sum")] == [
                    True for m in scope.metrics if m.HasField("sum")
                ]


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=4))
def test_halves_of_a_logs_request_hold_each_record_once_in_order(sizes: list[int]) -> None:
    request = ExportLogsServiceRequest()
    number = 0
    resource = request.resource_logs.add()
    for size in sizes:
        scope = resource.scope_logs.add()
        for _ in range(size):
            number += 1
            scope.log_records.add(time_unix_nano=number, event_name="retina.drop")
    wire = request.SerializeToString()
    assert LOGS.count(wire) == number
    halves = LOGS.split(wire)
    if halves is None:
        assert number <= 1
        return
    stamps = [
        record.time_unix_nano
        for half in map(ExportLogsServiceRequest.FromString, halves)
        for each in half.resource_logs
        for scope in each.scope_logs
        for record in scope.log_records
    ]
    assert stamps == list(range(1, number + 1))


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.text())
def test_partial_success_is_read_as_the_official_protobufs_write_it(n: int, text: str) -> None:
    response = ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(rejected_data_points=n, error_message=text)
    )
    assert partial_success(response.SerializeToString()) == (n, text)


def test_a_status_gives_its_message() -> None:
    # google.rpc.Status{code: 3, message: "no"}, written by hand: its protobuf is not a dependency.
    assert status_message(b"\x08\x03\x12\x02no") == "no"


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_without_a_crash(noise: bytes) -> None:
    for read in (METRICS.count, METRICS.split, LOGS.split, partial_success, status_message):
        with contextlib.suppress(ValueError):
            read(noise)


@settings(deadline=None)
@given(metric_requests(), st.data())
def test_a_request_cut_off_anywhere_is_refused_or_holds_no_more_than_it_did(
    request: ExportMetricsServiceRequest, data: st.DataObject
) -> None:
    wire = request.SerializeToString()
    cut = wire[: data.draw(st.integers(0, len(wire)))]
    with contextlib.suppress(ValueError):
        assert METRICS.count(cut) <= METRICS.count(wire)


def test_a_group_is_refused() -> None:
    with pytest.raises(ValueError, match="wire type 3"):
        METRICS.count(b"\x0b")
