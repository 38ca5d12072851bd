"""Faults of an OTLP stream as a whole, as a backend would suffer from them.

Give `validate` what a backend accepted, in the order of arrival. A request that came twice, because
an answer was lost, is not a fault: points that are equal in all they say count once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.testing.otlp_data import HistogramValue, ReceivedPoint, points_of, records_of

MAX_REQUEST = 4 * 1024 * 1024
DELTA, CUMULATIVE = 1, 2


def validate(
    metric_requests: Sequence[ExportMetricsServiceRequest] = (),
    log_requests: Sequence[ExportLogsServiceRequest] = (),
    *,
    zero_first: bool = True,
    answers_lost: bool = False,
) -> list[str]:
    """What is wrong, one line a fault; an empty list if nothing is.

    `zero_first` asks that each start of a monotonic cumulative series is told by a zero before any
    other value, so that no increase is lost to a backend that knows no start times.
    `answers_lost` says that the client was not told of some requests that came: then it may say
    again, at a later time, that a series has ended.
    """
    sizes = [request.ByteSize() for request in (*metric_requests, *log_requests)]
    faults = [
        f"request of {size} bytes: servers take less than 4 MiB"
        for size in sizes
        if size >= MAX_REQUEST
    ]
    faults += _form_of_metrics(metric_requests)
    faults += _form_of_logs(log_requests)
    streams: dict[Any, _Series] = {}
    for place, request in enumerate(metric_requests):
        in_request: set[Any] = set()
        for point in points_of([request]):
            key = (frozenset(point.resource.items()), point.scope, *point.series)
            if (key, point.time_ns) in in_request:
                faults.append(f"{_name(point)}: twice at {point.time_ns} in request {place}")
                continue
            in_request.add((key, point.time_ns))
            stream = streams.setdefault(key, _Series(zero_first, answers_lost))
            faults += [f"{_name(point)}: {fault}" for fault in stream.add(point)]
    return faults


@dataclass(slots=True)
class _Series:
    """What is known of one series so far."""

    zero_first: bool
    answers_lost: bool
    last: ReceivedPoint | None = None
    ended: bool = False
    """The last thing said of it was NO_RECORDED_VALUE."""
    last_value: ReceivedPoint | None = None
    at: dict[int, ReceivedPoint] = field(default_factory=dict)

    def add(self, point: ReceivedPoint) -> list[str]:
        same_time = self.at.get(point.time_ns)
        if same_time is not None:
            return [] if same_time == point else [f"two different points at {point.time_ns}"]
        self.at[point.time_ns] = point
        faults = list(_form_of_point(point))
        last = self.last
        if last is not None and point.time_ns < last.time_ns:
            faults.append(f"time goes back from {last.time_ns} to {point.time_ns}")
        if point.kind != "gauge":
            faults += self._against_last(point)
        if last is not None and last.start_ns == point.start_ns:
            again = point.no_value and self.ended
            if again and not self.answers_lost:
                faults.append("ended twice with the same start")
        self.ended = point.no_value
        self.last = point
        if not point.no_value:
            self.last_value = point
        return faults

    def _against_last(self, point: ReceivedPoint) -> list[str]:
        last, counts = self.last, _counts(point)
        faults = []
        if last is not None and point.start_ns < last.start_ns:
            faults.append(f"start goes back from {last.start_ns} to {point.start_ns}")
        new_start = last is None or last.start_ns != point.start_ns
        if new_start and last is not None and point.start_ns < last.time_ns:
            faults.append(f"start {point.start_ns} is before the last point, {last.time_ns}")
        if point.temporality != CUMULATIVE or counts is None:
            return faults
        if point.monotonic or point.kind == "histogram":
            before = self.last_value
            if before is not None and before.start_ns == point.start_ns:
                was = _counts(before) or ()
                if any(now < then for now, then in zip(counts, was, strict=False)):
                    faults.append(f"falls from {was} to {counts} with the same start")
            elif self.zero_first and any(counts):
                faults.append(f"begins at {counts}, not at zero, with start {point.start_ns}")
        return faults


def _form_of_metrics(requests: Iterable[ExportMetricsServiceRequest]) -> list[str]:
    faults = []
    forms: dict[tuple[str, str], tuple[Any, ...]] = {}
    for request in requests:
        for in_resource in request.resource_metrics:
            faults += _keys("resource", in_resource.resource.attributes)
            for in_scope in in_resource.scope_metrics:
                for metric in in_scope.metrics:
                    kind = metric.WhichOneof("data")
                    if not metric.name:
                        faults.append("a metric without name")
                    if kind is None:
                        faults.append(f"{metric.name}: no data")
                        continue
                    data: Any = getattr(metric, kind)
                    if not data.data_points:
                        faults.append(f"{metric.name}: no points")
                    for point in data.data_points:
                        faults += _keys(metric.name, point.attributes)
                    form = (kind, metric.unit, getattr(data, "is_monotonic", False))
                    known = forms.setdefault((in_scope.scope.name, metric.name), form)
                    if known != form:
                        faults.append(f"{metric.name}: is {form} and was {known}")
    return faults


def _form_of_logs(requests: Iterable[ExportLogsServiceRequest]) -> list[str]:
    faults = []
    for request in requests:
        for in_resource in request.resource_logs:
            faults += _keys("resource", in_resource.resource.attributes)
            for in_scope in in_resource.scope_logs:
                for record in in_scope.log_records:
                    faults += _keys(record.event_name, record.attributes)
    for received in records_of(requests):
        name = received.event or "a log record"
        if not received.event:
            faults.append("a log record without event name")
        if not received.time_ns:
            faults.append(f"{name}: no time")
        if not received.observed_ns:
            faults.append(f"{name}: no observed time")
        if not 1 <= received.severity <= 24:
            faults.append(f"{name}: severity number {received.severity}")
    return faults


def _form_of_point(point: ReceivedPoint) -> Iterable[str]:
    if not point.time_ns:
        yield "no time"
    if point.kind == "gauge":
        if point.value is None and not point.no_value:
            yield "no value, and no flag that says so"
        return
    if point.temporality not in (DELTA, CUMULATIVE):
        yield f"temporality {point.temporality}"
    if not point.start_ns:
        yield "no start time"
    counts = _counts(point)
    if point.time_ns < point.start_ns or (point.time_ns == point.start_ns and any(counts or ())):
        yield f"time {point.time_ns} is not after start {point.start_ns}"
    if point.no_value:
        return
    if point.value is None:
        yield "no value, and no flag that says so"
    value = point.value
    if isinstance(value, HistogramValue):
        if len(value.buckets) != len(value.bounds) + 1:
            yield f"{len(value.buckets)} buckets for {len(value.bounds)} bounds"
        if sum(value.buckets) != value.count:
            yield f"{value.count} values in buckets that hold {sum(value.buckets)}"
        if any(a >= b for a, b in zip(value.bounds, value.bounds[1:], strict=False)):
            yield "bounds that do not rise"
    elif point.monotonic and value is not None and value < 0:
        yield f"a monotonic sum of {value}"


def _keys(owner: str, attributes: Iterable[Any]) -> list[str]:
    keys = Counter(pair.key for pair in attributes)
    faults = [f"{owner}: attribute {key!r} {n} times" for key, n in keys.items() if n > 1]
    if "" in keys:
        faults.append(f"{owner}: an attribute without key")
    return faults


def _counts(point: ReceivedPoint) -> tuple[float, ...] | None:
    """What must not fall: the value, or all that a histogram counts."""
    if isinstance(point.value, HistogramValue):
        return (point.value.count, *point.value.buckets)
    return None if point.value is None else (point.value,)


def _name(point: ReceivedPoint) -> str:
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(point.attributes.items()))
    return f"{point.metric}{{{attributes}}}"
