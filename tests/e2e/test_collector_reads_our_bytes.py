"""What our encoders write is what the Collector understands, field by field."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.signals import DROP_EVENT, FLOW_IO
from retina_otel.pipeline.points import EventBlock, PointBlock, Temporality

START, END = 1_700_000_000_000_000_001, 1_700_000_015_000_000_003
RESOURCE = {"service.name": "retina-otel", "k8s.node.name": "node-1"}
PODS = ("web", "api", "db")
BYTES = (104_729, 0, 2**53 + 1)


@pytest.fixture
def sets() -> AttributeSets:
    return AttributeSets()


def pods(sets: AttributeSets, prefix: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([sets.intern(((f"{prefix}.k8s.pod.name", pod),)) for pod in PODS], np.int32)


def flow_block(sets: AttributeSets) -> PointBlock:
    n = len(PODS)
    own = sets.intern((("network.interface.direction", "egress"), ("network.type", "ipv6")))
    return PointBlock(
        metric=FLOW_IO,
        temporality=Temporality.CUMULATIVE,
        source=pods(sets, "source"),
        destination=pods(sets, "destination")[::-1].copy(),
        own=np.full(n, own, np.int32),
        start_ns=np.full(n, START, np.int64),
        time_ns=np.full(n, END, np.int64),
        values=np.array(BYTES, np.int64),
        no_value=np.array([False, True, False]),
        sets=sets,
    )


def test_points_arrive_with_their_values_times_and_attributes(collector, sets):
    (body,) = MetricsEncoder(RESOURCE).encode([flow_block(sets)])

    collector.post("/v1/metrics", body)
    collector.stop()

    own = {("network.interface.direction", "egress"), ("network.type", "ipv6")}
    got = {series: point for series, (point,) in collector.points().items()}
    assert {series: point.get("asInt") for series, point in got.items()} == {
        (
            FLOW_IO.name,
            frozenset(own | {("source.k8s.pod.name", a), ("destination.k8s.pod.name", b)}),
        ): value
        for a, b, value in zip(
            PODS, reversed(PODS), ("104729", None, "9007199254740993"), strict=True
        )
    }
    assert {point["startTimeUnixNano"] for point in got.values()} == {str(START)}
    assert {point["timeUnixNano"] for point in got.values()} == {str(END)}
    assert sorted(point.get("flags", 0) for point in got.values()) == [0, 0, 1]


def test_the_metric_around_the_points_is_a_monotonic_cumulative_sum(collector, sets):
    (body,) = MetricsEncoder(RESOURCE).encode([flow_block(sets)])

    collector.post("/v1/metrics", body)
    collector.stop()

    ((resource,),) = [line["resourceMetrics"] for line in collector.lines()]
    ((metric,),) = [scope["metrics"] for scope in resource["scopeMetrics"]]
    attributes = {pair["key"]: pair["value"] for pair in resource["resource"]["attributes"]}
    assert attributes == {key: {"stringValue": value} for key, value in RESOURCE.items()}
    assert (metric["name"], metric["unit"]) == (FLOW_IO.name, "By")
    assert (metric["sum"]["aggregationTemporality"], metric["sum"]["isMonotonic"]) == (2, True)


def test_events_arrive_with_name_body_severity_and_attributes(collector, sets):
    n = len(PODS)
    block = EventBlock(
        event=DROP_EVENT,
        time_ns=np.arange(START, START + n, dtype=np.int64),
        observed_ns=END,
        source=pods(sets, "source"),
        destination=np.zeros(n, np.int32),
        own=np.full(n, sets.intern((("network.transport", "tcp"),)), np.int32),
        integers={"retina.event.packets": np.array([2, 3, 5], np.int64)},
        body="{source_k8s_pod_name} lost {retina_event_packets}",
        sets=sets,
    )
    (body,) = LogsEncoder(RESOURCE).encode([block])

    collector.post("/v1/logs", body)
    collector.stop()

    records = collector.records()
    assert [record["eventName"] for record in records] == [DROP_EVENT.name] * n
    assert [record["severityNumber"] for record in records] == [DROP_EVENT.severity] * n
    assert [record["timeUnixNano"] for record in records] == [str(START + i) for i in range(n)]
    assert [record["body"]["stringValue"] for record in records] == [
        "web lost 2",
        "api lost 3",
        "db lost 5",
    ]
    packets = [
        value["intValue"]
        for record in records
        for key, value in ((pair["key"], pair["value"]) for pair in record["attributes"])
        if key == "retina.event.packets"
    ]
    assert packets == ["2", "3", "5"]


def test_an_export_cut_into_several_requests_arrives_whole(collector, sets):
    n = 5_003
    own = np.array([sets.intern((("network.peer", i),)) for i in range(n)], np.int32)
    block = dataclasses.replace(
        flow_block(sets),
        source=np.zeros(n, np.int32),
        destination=np.zeros(n, np.int32),
        own=own,
        start_ns=np.full(n, START, np.int64),
        time_ns=np.full(n, END, np.int64),
        values=np.arange(n, dtype=np.int64),
        no_value=np.zeros(n, np.bool_),
    )
    bodies = list(MetricsEncoder(RESOURCE).encode([block], max_bytes=65_536))

    for body in bodies:
        assert len(body) <= 65_536
        collector.post("/v1/metrics", body)
    collector.stop()

    points = collector.points()
    values = [int(point["asInt"]) for (point,) in points.values()]
    assert (len(points), sum(values)) == (n, n * (n - 1) // 2)
