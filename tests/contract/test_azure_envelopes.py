"""Our envelopes are, each by each, what Azure Monitor's own exporters write for the same data with
the resource's attributes put on it: only that nothing is left out for being too long."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from azure.monitor.opentelemetry.exporter import AzureMonitorLogExporter, AzureMonitorMetricExporter
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from retina_otel.delivery.http.responses import Response
from retina_otel.exporters.azure_monitor.connection_string import parse
from retina_otel.exporters.azure_monitor.envelopes import (
    EventEnvelopes,
    MetricEnvelopes,
    Properties,
    split,
)
from retina_otel.exporters.azure_monitor.sdk import Answer, Transport, quiet
from retina_otel.exporters.azure_monitor.templates import Templates
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import AttributeValue
from retina_otel.model.signal_types import Attribute, Event, Kind, Metric
from retina_otel.pipeline.points import EventBlock, PointBlock
from retina_otel.testing.points import Occurrence, Point, event_block, point_block

TARGET = parse(
    "InstrumentationKey=0f0f0f0f-1111-2222-3333-abcdefabcdef;IngestionEndpoint=http://127.0.0.1:9",
    "the test",
)
RESOURCE: dict[str, AttributeValue] = {
    "service.name": "retina-otel",
    "service.namespace": "kube-system",
    "service.version": "0.1.0",
    "service.instance.id": "6f1c2a9e-0000-5000-8000-000000000001",
    "k8s.node.name": "node-1",
    "k8s.cluster.name": "prod",
}
NOW = 1_700_000_000_123_456_000
COUNTER = Metric("retina.flow.io", Kind.COUNTER, "By", "Bytes.", scope="retina_otel.flows")
UPDOWN = Metric("retina.things", Kind.UPDOWN, "{thing}", "Things.", scope="retina_otel.flows")
GAUGE = Metric("retina.share", Kind.GAUGE, "1", "A share.", scope="x", integer=False)
HISTOGRAM = Metric(
    "retina.rtt", Kind.HISTOGRAM, "s", "Times.", boundaries=(0.1, 1.0), scope="x", integer=False
)
DROP = Event("retina.drop", 13, "drop", (Attribute("n", "int", "how many"),), scope="retina_otel")
POD = {
    "source.k8s.namespace.name": "shop",
    "source.k8s.pod.name": "web-7d9c",
    "source.k8s.deployment.name": 'wéb "quoted" \\ \n',
    "source.address": "10.0.0.7",
}
PEER = {"destination.k8s.service.name": "db", "destination.port": 5432}
OWN = {"network.transport": "tcp", "test.flag": True, "test.ratio": 0.25}


class Kept(Transport):
    """Keeps what their exporter posts."""

    body: Any = None

    def send(self, request: Any, **options: Any) -> Answer:
        self.body = request.content
        return Answer(request, Response(200, {"Content-Type": "application/json"}, b"{}"))


def theirs_of_points(
    metric: Metric, points: Sequence[Point], resource: Mapping[str, AttributeValue] = RESOURCE
) -> list[dict[str, Any]]:
    kept = Kept()
    exporter = quiet(AzureMonitorMetricExporter, TARGET, kept)
    data: Any
    if metric.kind is Kind.HISTOGRAM:
        rows: list[Any] = [
            HistogramDataPoint(
                {**resource, **p.attributes},
                p.start_ns,
                p.time_ns,
                sum(p.buckets),
                p.value,
                list(p.buckets),
                list(metric.boundaries),
                None,  # type: ignore[arg-type]
                None,  # type: ignore[arg-type]
            )
            for p in points
        ]
        data = HistogramData(rows, AggregationTemporality.DELTA)
    else:
        rows = [
            NumberDataPoint({**resource, **p.attributes}, p.start_ns, p.time_ns, p.value)
            for p in points
        ]
        data = Sum(rows, AggregationTemporality.DELTA, True)
        data = Gauge(rows) if metric.kind is Kind.GAUGE else data
    series = MetricData(metric.name, metric.brief, metric.unit, data)
    scope = ScopeMetrics(InstrumentationScope(metric.scope), [series], "")
    exporter.export(MetricsData([ResourceMetrics(roles(resource), [scope], "")]))
    return decoded(kept.body)


def theirs_of_events(
    event: Event, occurrences: Sequence[Occurrence], bodies: Sequence[str]
) -> list[dict[str, Any]]:
    kept = Kept()
    exporter = quiet(AzureMonitorLogExporter, TARGET, kept)
    exporter.export(
        [
            ReadableLogRecord(
                LogRecord(
                    timestamp=o.time_ns,
                    severity_number=SeverityNumber(event.severity),
                    attributes={
                        "microsoft.custom_event.name": event.name,
                        **RESOURCE,
                        **o.attributes,
                        "body": body,
                        "severity_number": event.severity,
                    },
                ),
                roles(RESOURCE),
                InstrumentationScope(event.scope),
            )
            for o, body in zip(occurrences, bodies, strict=True)
        ]
    )
    return decoded(kept.body)


def roles(resource: Mapping[str, AttributeValue]) -> Resource:
    """The resource as theirs reads a role instance of it that a person knows."""
    return Resource({**resource, "service.instance.id": resource["k8s.node.name"]})


def ours(
    blocks: Iterable[PointBlock], resource: Mapping[str, AttributeValue] = RESOURCE
) -> list[dict[str, Any]]:
    encoder = MetricEnvelopes(Templates(TARGET, resource).metric, Properties(resource), 1000)
    return [
        envelope
        for request in encoder.requests(blocks, 1 << 20)
        for envelope in decoded(request.body)
    ]


def ours_of_events(blocks: Iterable[EventBlock]) -> list[dict[str, Any]]:
    encoder = EventEnvelopes(Templates(TARGET, RESOURCE).event, Properties(RESOURCE), 1000)
    return [
        envelope
        for request in encoder.requests(blocks, 1 << 20)
        for envelope in decoded(request.body)
    ]


def decoded(body: bytes | str) -> list[dict[str, Any]]:
    envelopes: list[dict[str, Any]] = json.loads(body)
    return envelopes


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    """Equal but for the microsecond to which theirs rounds by way of a float."""
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        between = datetime.fromisoformat(our["time"]) - datetime.fromisoformat(their["time"])
        assert abs(between) <= timedelta(microseconds=1)
        assert {**our, "time": None} == {**their, "time": None}


@pytest.mark.parametrize(
    ("metric", "points"),
    [
        (COUNTER, [Point(7, POD, PEER, OWN, NOW - 1, NOW), Point(2**62, {}, PEER, {}, 1, NOW)]),
        (UPDOWN, [Point(-3, POD, {}, {}, 1, NOW + 10**9), Point(0, {}, {}, {}, 1, NOW)]),
        (GAUGE, [Point(0.25, POD, {}, {}, 1, NOW), Point(1e-9, PEER, {}, {}, 1, NOW)]),
        (HISTOGRAM, [Point(3.5, POD, {}, OWN, 1, NOW, buckets=(1, 6, 2))]),
    ],
    ids=["counter", "updown", "gauge", "histogram"],
)
def test_each_kind_of_metric_is_what_theirs_writes(metric: Metric, points: list[Point]) -> None:
    assert_same(ours([point_block(metric, points)]), theirs_of_points(metric, points))


def test_each_event_is_what_theirs_writes_with_body_and_severity_as_properties() -> None:
    occurrences = [
        Occurrence(POD, PEER, OWN, {"n": n, "size": 2**40 + n}, NOW + n * 1001) for n in range(3)
    ]
    block = event_block(DROP, occurrences, body="{source_k8s_pod_name} dropped {n}")
    texts = [f"web-7d9c dropped {n}" for n in range(3)]
    assert_same(ours_of_events([block]), theirs_of_events(DROP, occurrences, texts))
    assert ours_of_events([block])[0]["data"]["baseData"]["name"] == "retina.drop"


def test_a_point_without_any_attribute_is_what_theirs_writes() -> None:
    bare = {"service.name": "retina-otel", "k8s.node.name": "n"}
    block = point_block(COUNTER, [Point(1, time_ns=NOW)])
    assert_same(ours([block], bare), theirs_of_points(COUNTER, [Point(1, time_ns=NOW)], bare))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(
                st.text(min_size=1, max_size=150),
                st.text(max_size=300) | st.integers() | st.booleans() | st.floats(),
                max_size=5,
            ),
            st.integers(-(2**63), 2**63 - 1),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_attributes_say_is_what_theirs_writes(
    rows: list[tuple[dict[str, AttributeValue], int]],
) -> None:
    points = [Point(value, own=own, time_ns=NOW) for own, value in rows]
    resource: dict[str, AttributeValue] = {"k8s.node.name": "n" * 151}
    points = [p for p in points if not p.own.keys() & resource.keys()]
    if points:
        assert_same(
            ours([point_block(UPDOWN, points)], resource),
            theirs_of_points(UPDOWN, points, resource),
        )


def properties(envelope: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = envelope["data"]["baseData"]["properties"]
    return found


def test_what_is_too_long_is_cut_and_counted_but_not_left_out() -> None:
    told: dict[str, int] = {}
    own = {"k" * 151: "a", "k" * 160: "b", "long": "v" * 9000, "fits" + "k" * 146: "v" * 8192}
    encoder = MetricEnvelopes(
        Templates(TARGET, RESOURCE).metric, Properties(RESOURCE, told.__setitem__), 1000
    )
    (request,) = encoder.requests([point_block(COUNTER, [Point(1, own=own)] * 3)], 1 << 20)
    for envelope in decoded(request.body):
        found = {k: v for k, v in properties(envelope).items() if k not in RESOURCE}
        assert {len(key) for key in found} == {150, 4}
        assert sorted(found.values(), key=len) == ["a", "b", "v" * 8192, "v" * 8192]
        assert found["fits" + "k" * 146] == "v" * 8192
    assert told == {"keys": 2, "values": 1}


def test_a_key_that_point_and_resource_share_keeps_both_values() -> None:
    own = {"k8s.node.name": "another"}
    blocks = [point_block(COUNTER, [Point(1, own=own), Point(2, own={"a": "b"})])]
    shared, alone = map(properties, ours(blocks))
    assert shared == {
        **{key: str(value) for key, value in RESOURCE.items()},
        "k8s.node.name": "another",
        "resource.k8s.node.name": "node-1",
    }
    assert alone == {**{key: str(value) for key, value in RESOURCE.items()}, "a": "b"}


def test_what_no_json_holds_is_not_sent() -> None:
    points = [Point(float("nan")), Point(1.5), Point(float("inf")), Point(2.5, no_value=True)]
    (envelope,) = ours([point_block(GAUGE, points)])
    assert envelope["data"]["baseData"]["metrics"][0]["value"] == 1.5


def test_requests_hold_so_many_envelopes_and_bytes_and_halve_between_envelopes() -> None:
    encoder = MetricEnvelopes(Templates(TARGET, RESOURCE).metric, Properties(RESOURCE), 7)
    block = point_block(COUNTER, [Point(n, own={"n": n, "x": ",\n[]"}) for n in range(20)])
    requests = list(encoder.requests([block], 1 << 20))
    assert [request.n_items for request in requests] == [7, 7, 6]
    most = len(requests[0].body) // 2
    smaller = list(encoder.requests([block], most))
    assert max(len(request.body) for request in smaller) <= most
    values = [
        envelope["data"]["baseData"]["metrics"][0]["value"]
        for request in smaller
        for envelope in decoded(request.body)
    ]
    assert values == list(range(20))
    halves = split(requests[0].body)
    assert halves is not None
    assert [len(decoded(half)) for half in halves] == [3, 4]
    assert decoded(halves[0]) + decoded(halves[1]) == decoded(requests[0].body)
    (single,) = encoder.requests([point_block(COUNTER, [Point(1)])], 10)
    assert split(single.body) is None


def test_an_attribute_set_that_is_given_another_meaning_is_written_anew() -> None:
    sets = AttributeSets()
    encoder = MetricEnvelopes(Templates(TARGET, RESOURCE).metric, Properties(RESOURCE), 1000)

    def sent(**own: str) -> dict[str, str]:
        block = point_block(COUNTER, [Point(1, own=own)], sets=sets)
        (request,) = encoder.requests([block], 1 << 20)
        return properties(decoded(request.body)[0])

    assert sent(a="1")["a"] == "1"
    sets.reclaim(1)
    assert "a" not in sent(b="2")
