"""Names of the conventions' draft: on metrics, attributes and schema; values as they were."""

from __future__ import annotations

import numpy as np
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.delivery.shards import ShardReader
from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.model import preview, signals
from retina_otel.model.batches import Column, EventBatch, MetricBatch, Window
from retina_otel.model.signals import SCHEMA_URL
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.events import EventBuffer, EventBufferSettings
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.points import PointBlock
from retina_otel.pipeline.preview import PreviewEvents, PreviewMetrics, PreviewSets

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
WINDOW = Window(T0, T0 + SECOND)
FLOWS = {
    "network.interface.direction": Column(np.array([0, 1], np.int32), ("ingress", "egress")),
    "retina.flow.inter_zone": Column(np.array([1, 0], np.int32), (False, True)),
}
INTER_ZONE = "network.flow.inter_zone"


def accumulated() -> Accumulator:
    accumulator = Accumulator(
        EndpointTable(), AccumulatorSettings(attributes={"retina.flow.*": ("*",)})
    )
    flows = {
        signals.FLOW_IO: np.array([1009, 2003], np.int64),
        signals.FLOW_PACKETS: np.array([11, 13], np.int64),
    }
    accumulator.add(MetricBatch(WINDOW, flows, FLOWS))
    device = {"system.device": Column(np.zeros(1, np.int32), ("eth0",))}
    packets = {signals.INTERFACE_PACKETS: np.array([17], np.int64)}
    accumulator.add(MetricBatch(WINDOW, packets, device))
    accumulator.snapshot(WINDOW.end_ns)
    return accumulator


def test_metrics_and_attributes_of_the_draft_are_told_in_their_own_schema() -> None:
    accumulator = accumulated()
    reader = PreviewMetrics(
        accumulator.reader("test", zero_points=False), PreviewSets(accumulator.sets)
    )
    export = reader.take()
    assert export is not None
    told: dict[str, dict[bool | None, int]] = {}
    schemas: dict[str, str] = {}
    for body in MetricsEncoder({"service.name": "x"}).encode(export.blocks):
        (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                schemas[metric.name] = scope.schema_url
                for point in metric.sum.data_points:
                    keys = {pair.key: pair.value.bool_value for pair in point.attributes}
                    assert "retina.flow.inter_zone" not in keys
                    values = told.setdefault(metric.name, {})
                    values[keys.get(INTER_ZONE)] = point.as_int
    assert told == {
        "network.flow.io": {True: 1009, False: 2003},
        "network.flow.packets": {True: 11, False: 13},
        "system.network.packet.count": {None: 17},
    }
    assert schemas == {
        "network.flow.io": preview.PREVIEW_SCHEMA_URL,
        "network.flow.packets": preview.PREVIEW_SCHEMA_URL,
        "system.network.packet.count": SCHEMA_URL,
    }


def test_readers_of_one_kind_are_given_one_renamed_export() -> None:
    accumulator = accumulated()
    sets = PreviewSets(accumulator.sets)
    first, second = (PreviewMetrics(accumulator.reader(name), sets) for name in ("a", "b"))
    assert first.take() is second.take()


def test_what_is_acknowledged_is_not_told_again() -> None:
    accumulator = accumulated()
    reader = PreviewMetrics(accumulator.reader("test"), PreviewSets(accumulator.sets))
    export = reader.take()
    assert export is not None
    zeros = sum(int((block.values == 0).all()) for block in export.blocks)
    assert zeros == len(export.blocks) / 2
    reader.acknowledge(export)
    accumulator.snapshot(WINDOW.end_ns + SECOND)
    again = reader.take()
    assert again is not None
    assert not any((block.values == 0).all() for block in again.blocks)


def test_events_have_the_drafts_attributes_and_their_own_name() -> None:
    buffer = EventBuffer(EndpointTable(), EventBufferSettings())
    reader = PreviewEvents(buffer.reader("test"), PreviewSets(buffer.sets))
    times = np.array([T0, T0], np.int64)
    buffer.append(EventBatch(signals.FLOW_EVENT, WINDOW, times, FLOWS, body="a flow"))
    export = reader.take(1 << 20)
    assert export is not None
    (body,) = LogsEncoder({"service.name": "x"}).encode(export.blocks)
    (resource,) = ExportLogsServiceRequest.FromString(body).resource_logs
    (scope,) = resource.scope_logs
    assert scope.schema_url == preview.PREVIEW_SCHEMA_URL
    assert {record.event_name for record in scope.log_records} == {"retina.flow"}
    told = [
        {pair.key: pair.value.bool_value for pair in record.attributes}[INTER_ZONE]
        for record in scope.log_records
    ]
    assert told == [True, False]
    reader.acknowledge(export)
    assert reader.take(1 << 20) is None


def test_each_renamed_series_is_in_the_shard_in_which_it_would_be_without() -> None:
    accumulator = accumulated()
    sets = PreviewSets(accumulator.sets)
    points = []
    for number in range(3):
        plain = ShardReader(accumulator.reader("plain"), number, 3).take()
        reader = PreviewMetrics(accumulator.reader("preview"), sets)
        renamed = ShardReader(reader, number, 3).take()
        assert plain is not None
        assert renamed is not None
        assert [values(block) for block in renamed.blocks] == [values(b) for b in plain.blocks]
        points += [value for block in renamed.blocks for value in values(block)]
    export = accumulator.reader("whole").take()
    assert export is not None
    assert sorted(points) == sorted(v for block in export.blocks for v in values(block))


def values(block: PointBlock) -> list[int]:
    assert isinstance(block.values, np.ndarray)
    return [int(value) for value in block.values]
