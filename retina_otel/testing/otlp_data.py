"""OTLP requests as plain rows: one object a point or log record, with its attributes as a dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

Number = int | float


@dataclass(frozen=True, slots=True)
class HistogramValue:
    count: int
    sum: float
    buckets: tuple[int, ...]
    bounds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ReceivedPoint:
    """One data point with all that stands around it."""

    resource: dict[str, Any]
    scope: str
    metric: str
    unit: str
    kind: str
    """The field of Metric that holds it: sum, gauge, histogram, ..."""
    monotonic: bool
    temporality: int
    """0 unspecified (and gauges), 1 delta, 2 cumulative."""
    attributes: dict[str, Any]
    start_ns: int
    time_ns: int
    value: Number | HistogramValue | None
    no_value: bool
    """The flag NO_RECORDED_VALUE: the series has ended."""

    @property
    def series(self) -> tuple[str, frozenset[tuple[str, Any]]]:
        """Metric and attributes, usable as a key."""
        return self.metric, frozenset(self.attributes.items())


@dataclass(frozen=True, slots=True)
class ReceivedRecord:
    """One log record with all that stands around it."""

    resource: dict[str, Any]
    scope: str
    event: str
    severity: int
    body: Any
    attributes: dict[str, Any]
    time_ns: int
    observed_ns: int


def points_of(requests: Iterable[ExportMetricsServiceRequest]) -> Iterator[ReceivedPoint]:
    """All points, in the order in which they stand there."""
    for request in requests:
        for in_resource in request.resource_metrics:
            resource = attributes_of(in_resource.resource.attributes)
            for in_scope in in_resource.scope_metrics:
                for metric in in_scope.metrics:
                    kind = metric.WhichOneof("data") or ""
                    data: Any = getattr(metric, kind) if kind else None
                    for point in data.data_points if data is not None else ():
                        yield ReceivedPoint(
                            resource=resource,
                            scope=in_scope.scope.name,
                            metric=metric.name,
                            unit=metric.unit,
                            kind=kind,
                            monotonic=getattr(data, "is_monotonic", False),
                            temporality=getattr(data, "aggregation_temporality", 0),
                            attributes=attributes_of(point.attributes),
                            start_ns=point.start_time_unix_nano,
                            time_ns=point.time_unix_nano,
                            value=_value(kind, point),
                            no_value=bool(point.flags & 1),
                        )


def records_of(requests: Iterable[ExportLogsServiceRequest]) -> Iterator[ReceivedRecord]:
    """All log records, in the order in which they stand there."""
    for request in requests:
        for in_resource in request.resource_logs:
            resource = attributes_of(in_resource.resource.attributes)
            for in_scope in in_resource.scope_logs:
                for record in in_scope.log_records:
                    yield ReceivedRecord(
                        resource=resource,
                        scope=in_scope.scope.name,
                        event=record.event_name,
                        severity=record.severity_number,
                        body=plain(record.body),
                        attributes=attributes_of(record.attributes),
                        time_ns=record.time_unix_nano,
                        observed_ns=record.observed_time_unix_nano,
                    )


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


def plain(value: AnyValue) -> Any:
    """An AnyValue as a hashable Python value; None where it has none."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(plain(one) for one in value.array_value.values)
    if kind == "kvlist_value":
        return frozenset(attributes_of(value.kvlist_value.values).items())
    return getattr(value, kind) if kind else None


def _value(kind: str, point: Any) -> Number | HistogramValue | None:
    if point.flags & 1:
        return None
    if kind == "histogram":
        return HistogramValue(
            point.count, point.sum, tuple(point.bucket_counts), tuple(point.explicit_bounds)
        )
    if kind in ("sum", "gauge"):
        which = point.WhichOneof("value")
        number: Number | None = getattr(point, which) if which else None
        return number
    return None
