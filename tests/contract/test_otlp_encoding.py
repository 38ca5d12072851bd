"""Our OTLP bytes say what the SDK's own exporter says of the same data."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from retina_otel import __version__
from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import SCHEMA_URL, Event, Kind, Metric
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.points import Occurrence, Point, event_block, point_block

RESOURCE: dict[str, str | int | bool] = {
    "service.name": "retina-otel",
    "k8s.node.name": "knoten-ä",
    "host.cpus": 2,
    "on": True,
}
SCOPE = "retina_otel.receivers.flows"
INT64 = st.integers(-(2**63), 2**63 - 1)
EDGES = st.sampled_from([0, 1, 127, 128, -1, 2**31, 2**63 - 1, -(2**63)])
TEXT = st.text(st.characters(codec="utf-8"), max_size=200)
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
VALUES: dict[str, st.SearchStrategy[str | int | bool | float]] = {
    "text": TEXT,
    "int": st.one_of(INT64, EDGES),
    "bool": st.booleans(),
    "double": st.floats(allow_nan=False).filter(bool),
}
TIMES = st.integers(0, 2**63 - 1)
BOUNDARIES = st.lists(st.floats(-1e9, 1e9), max_size=20, unique=True).map(sorted).map(tuple)
SDK_TEMPORALITY = {
    Temporality.CUMULATIVE: sdk.AggregationTemporality.CUMULATIVE,
    Temporality.DELTA: sdk.AggregationTemporality.DELTA,
}


def prefixed(prefix: str) -> st.SearchStrategy[dict[str, str | int | bool | float]]:
    """Zero is no double here: attribute sets, as Python, take 0.0 and -0.0 for the same."""
    keyed = st.one_of(
        st.tuples(TEXT.map(lambda key, name=name: prefix + name + key), values)
        for name, values in VALUES.items()
    )
    return st.lists(keyed, max_size=4).map(dict)


@st.composite
def metrics(draw: st.DrawFn) -> tuple[Metric, Temporality, list[Point]]:
    kind = draw(st.sampled_from(Kind))
    integer = kind is not Kind.HISTOGRAM and draw(st.booleans())
    boundaries = draw(BOUNDARIES) if kind is Kind.HISTOGRAM else ()
    metric = Metric(
        name=draw(KEYS),
        kind=kind,
        unit=draw(st.sampled_from(["By", "{packet}", "1", ""])),
        brief=draw(TEXT),
        scope=SCOPE,
        integer=integer,
        boundaries=boundaries,
    )
    value = st.one_of(INT64, EDGES) if integer else st.floats(allow_nan=False)
    buckets = st.lists(
        st.integers(0, 2**40), min_size=len(boundaries) + 1, max_size=len(boundaries) + 1
    )
    points = draw(
        st.lists(
            st.builds(
                Point,
                value=value,
                source=prefixed("source."),
                destination=prefixed("destination."),
                own=prefixed("own."),
                start_ns=TIMES,
                time_ns=TIMES,
                buckets=buckets if kind is Kind.HISTOGRAM else st.just(()),
            ),
            min_size=1,
            max_size=30,
        )
    )
    return metric, draw(st.sampled_from((Temporality.CUMULATIVE, Temporality.DELTA))), points


def parsed(bodies: Sequence[bytes]) -> ExportMetricsServiceRequest:
    (body,) = bodies
    return ExportMetricsServiceRequest.FromString(body)


def sdk_scope() -> InstrumentationScope:
    return InstrumentationScope(SCOPE, __version__, SCHEMA_URL)


def sdk_metric(metric: Metric, temporality: Temporality, points: Sequence[Point]) -> sdk.Metric:
    data: sdk.DataT
    if metric.kind is Kind.HISTOGRAM:
        data = sdk.Histogram(
            [
                sdk.HistogramDataPoint(
                    attributes=p.attributes,
                    start_time_unix_nano=p.start_ns,
                    time_unix_nano=p.time_ns,
                    count=sum(p.buckets),
                    sum=p.value,
                    bucket_counts=p.buckets,
                    explicit_bounds=metric.boundaries,
                    min=None,  # type: ignore[arg-type]
                    max=None,  # type: ignore[arg-type]
                )
                for p in points
            ],
            SDK_TEMPORALITY[temporality],
        )
    else:
        numbers = [
            sdk.NumberDataPoint(
                attributes=p.attributes,
                start_time_unix_nano=p.start_ns,
                time_unix_nano=p.time_ns,
                value=int(p.value) if metric.integer else float(p.value),
            )
            for p in points
        ]
        if metric.kind is Kind.GAUGE:
            data = sdk.Gauge(numbers)
        else:
            data = sdk.Sum(numbers, SDK_TEMPORALITY[temporality], metric.monotonic)
    return sdk.Metric(metric.name, metric.brief, metric.unit, data)


def sdk_request(metrics: Sequence[sdk.Metric]) -> ExportMetricsServiceRequest:
    resource = Resource(RESOURCE, SCHEMA_URL)
    scope = sdk.ScopeMetrics(sdk_scope(), metrics, SCHEMA_URL)
    data = sdk.MetricsData([sdk.ResourceMetrics(resource, [scope], SCHEMA_URL)])
    return encode_metrics(data)


def in_order(
    request: ExportMetricsServiceRequest | ExportLogsServiceRequest,
) -> ExportMetricsServiceRequest | ExportLogsServiceRequest:
    """With attributes sorted by key: their order carries no meaning."""

    def sort(message: object) -> None:
        for descriptor, value in message.ListFields():  # type: ignore[attr-defined]
            if descriptor.name == "attributes":
                value.sort(key=lambda pair: pair.key)
            elif descriptor.message_type and descriptor.is_repeated:
                for one in value:
                    sort(one)
            elif descriptor.message_type:
                sort(value)

    sort(request)
    return request


@given(metrics())
@settings(deadline=None)
def test_any_metric_parses_to_what_the_sdk_encodes(
    case: tuple[Metric, Temporality, list[Point]],
) -> None:
    metric, temporality, points = case
    block = point_block(metric, points, temporality=temporality)
    ours = parsed(list(MetricsEncoder(RESOURCE).encode([block])))
    theirs = sdk_request([sdk_metric(metric, temporality, points)])
    assert in_order(ours) == in_order(theirs)


@given(st.lists(metrics(), min_size=1, max_size=5, unique_by=lambda case: case[0]))
@settings(deadline=None, max_examples=50)
def test_metrics_of_one_export_stand_in_one_scope(
    cases: list[tuple[Metric, Temporality, list[Point]]],
) -> None:
    sets = AttributeSets()
    blocks = [point_block(m, points, temporality=t, sets=sets) for m, t, points in cases]
    ours = parsed(list(MetricsEncoder(RESOURCE).encode(blocks)))
    theirs = sdk_request([sdk_metric(m, t, points) for m, t, points in cases])
    assert in_order(ours) == in_order(theirs)


@given(metrics(), st.integers(1, 4000))
@settings(deadline=None, max_examples=50)
def test_requests_cut_at_any_size_hold_the_same_points_in_the_same_order(
    case: tuple[Metric, Temporality, list[Point]], max_bytes: int
) -> None:
    metric, temporality, points = case
    blocks = [point_block(metric, points, temporality=temporality)] * 2
    merged = ExportMetricsServiceRequest()
    n_items = 0
    for request in MetricsEncoder(RESOURCE).requests(blocks, max_bytes):
        one = ExportMetricsServiceRequest.FromString(request.body)
        assert len(request.body) <= max_bytes or request.n_items == 1
        n_items += request.n_items
        (resource,) = one.resource_metrics
        (scope,) = resource.scope_metrics
        (part,) = scope.metrics
        if not merged.resource_metrics:
            merged.CopyFrom(one)
        else:
            whole = merged.resource_metrics[0].scope_metrics[0].metrics[0]
            kind = part.WhichOneof("data")
            getattr(whole, kind).data_points.extend(getattr(part, kind).data_points)
    assert n_items == 2 * len(points)
    theirs = sdk_request([sdk_metric(metric, temporality, points * 2)])
    assert in_order(merged) == in_order(theirs)


@pytest.mark.parametrize("kind", [Kind.COUNTER, Kind.UPDOWN, Kind.GAUGE])
def test_an_ended_series_says_so_and_has_no_value(kind: Kind) -> None:
    metric = Metric("m", kind, "By", "Bytes.", scope=SCOPE)
    points = [Point(5, {"a": "b"}, time_ns=7), Point(9, {"a": "c"}, no_value=True, time_ns=8)]
    request = parsed(list(MetricsEncoder(RESOURCE).encode([point_block(metric, points)])))
    metric_message = request.resource_metrics[0].scope_metrics[0].metrics[0]
    data = metric_message.gauge if kind is Kind.GAUGE else metric_message.sum
    valued, ended = data.data_points
    assert (valued.flags, valued.as_int, valued.time_unix_nano) == (0, 5, 7)
    assert (ended.flags, ended.WhichOneof("value"), ended.time_unix_nano) == (1, None, 8)
    assert ended.attributes[0].value.string_value == "c"


def test_an_ended_histogram_keeps_its_bounds_so_that_each_bucket_can_be_marked_stale() -> None:
    metric = Metric("m", Kind.HISTOGRAM, "s", "", scope=SCOPE, boundaries=(0.5, 2.0))
    points = [Point(3.5, buckets=(1, 2, 3), no_value=True)]
    request = parsed(list(MetricsEncoder(RESOURCE).encode([point_block(metric, points)])))
    (point,) = request.resource_metrics[0].scope_metrics[0].metrics[0].histogram.data_points
    assert (point.flags, point.count, point.HasField("sum")) == (1, 0, False)
    assert (list(point.bucket_counts), list(point.explicit_bounds)) == ([0, 0, 0], [0.5, 2.0])


def test_nothing_to_send_makes_no_request() -> None:
    metric = Metric("m", Kind.COUNTER, "By", "", scope=SCOPE)
    assert list(MetricsEncoder(RESOURCE).encode([])) == []
    assert list(MetricsEncoder(RESOURCE).encode([point_block(metric, [])])) == []
    assert list(LogsEncoder(RESOURCE).encode([])) == []
    assert list(LogsEncoder(RESOURCE).encode([event_block(Event("e", 9, ""), [])])) == []


@given(
    st.lists(
        st.builds(
            Occurrence,
            source=prefixed("source."),
            destination=prefixed("destination."),
            own=prefixed("own."),
            integers=st.fixed_dictionaries({"n": st.one_of(INT64, EDGES), "é": INT64}),
            time_ns=TIMES,
        ),
        min_size=1,
        max_size=30,
    ),
    TIMES.filter(bool),
    TEXT.filter(bool),
)
@settings(deadline=None)
def test_any_event_parses_to_what_the_sdk_encodes(
    occurrences: list[Occurrence], observed_ns: int, text: str
) -> None:
    event = Event("retina.drop", 13, "Dropped.", scope=SCOPE)
    body = text.replace("{", "{{").replace("}", "}}")
    block = event_block(event, occurrences, body=body, observed_ns=observed_ns)
    (ours,) = LogsEncoder(RESOURCE).encode([block])
    theirs = encode_logs(
        [
            ReadableLogRecord(
                log_record=LogRecord(
                    timestamp=o.time_ns,
                    observed_timestamp=observed_ns,
                    severity_number=SeverityNumber.WARN,
                    body=text,
                    attributes=o.attributes,
                    event_name="retina.drop",
                ),
                resource=Resource(RESOURCE, SCHEMA_URL),
                instrumentation_scope=sdk_scope(),
            )
            for o in occurrences
        ]
    )
    assert in_order(ExportLogsServiceRequest.FromString(ours)) == in_order(theirs)


def test_an_event_without_body_template_has_no_body() -> None:
    (ours,) = LogsEncoder(RESOURCE).encode([event_block(Event("e", 9, ""), [Occurrence()])])
    request = ExportLogsServiceRequest.FromString(ours)
    (record,) = request.resource_logs[0].scope_logs[0].log_records
    assert not record.HasField("body")
