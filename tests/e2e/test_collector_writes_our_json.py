"""Our OTLP/JSON lines are, byte for byte, what the Collector's file exporter writes."""

from __future__ import annotations

import math

from retina_otel.encode.otlp import LogsEncoder, MetricsEncoder
from retina_otel.encode.otlp.json_lines import JsonLogsEncoder, JsonMetricsEncoder
from retina_otel.model.signals import Event, Kind, Metric
from retina_otel.testing.points import Occurrence, Point, event_block, point_block

SCOPE = "retina_otel.receivers.flows"
RESOURCE = {"service.name": "retina-otel", "host.cpus": 2, "on": True, "load": 1.5}
ODD_TEXT = 'wëb<&>\u2028\x01\x7f"\\\n\t 🛰'
NUMBERS = (0.0, -0.0, 3.0, 0.1, 1e-6, 1.5e-6, 9e-7, 1e15, 1e16, 123456789012345680000.0, 1e21)
SPECIAL = (math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308)


def test_metrics_are_spelled_alike(collector):
    counter = Metric("retina.flow.io", Kind.COUNTER, "By", "Bytes.", scope=SCOPE)
    amount = Metric("amount", Kind.UPDOWN, "", "", scope="vendor.receiver")
    gauge = Metric("gauge", Kind.GAUGE, "1", "", scope=SCOPE, integer=False)
    histogram = Metric("rtt", Kind.HISTOGRAM, "s", "", scope=SCOPE, boundaries=(1e-7, 0.5, 2.0))
    blocks = [
        point_block(
            counter,
            [
                Point(2**63 - 1, {"source.k8s.pod.name": ODD_TEXT}, own={"n": -(2**63), "e": ""}),
                Point(0, own={"up": False, "ratio": 0.5}, no_value=True),
            ],
        ),
        point_block(amount, [Point(-5), Point(0, start_ns=0, own={"": "no key"})]),
        point_block(gauge, [Point(x, own={"i": i}) for i, x in enumerate(NUMBERS + SPECIAL)]),
        point_block(
            histogram,
            [
                Point(1.5, buckets=(2, 1, 0, 7)),
                Point(0, own={"x": 1}),
                Point(0, own={"x": 2}, no_value=True),
            ],
        ),
    ]
    (body,) = MetricsEncoder(RESOURCE).encode(blocks)

    collector.post("/v1/metrics", body)
    collector.stop()

    (line,) = JsonMetricsEncoder(RESOURCE).encode(blocks)
    assert collector.file.read_text() == line.decode()


def test_events_are_spelled_alike(collector):
    rows = [
        Occurrence({"source.k8s.pod.name": "web"}, integers={"n": 3}),
        Occurrence(own={"reason": ODD_TEXT}, integers={"n": -1}, time_ns=5),
    ]
    blocks = [
        event_block(Event("retina.drop", 13, "", scope=SCOPE), rows, body="{n} {reason}"),
        event_block(Event("plain", 0, "", scope="vendor.receiver"), [Occurrence()]),
    ]
    (body,) = LogsEncoder(RESOURCE).encode(blocks)

    collector.post("/v1/logs", body)
    collector.stop()

    (line,) = JsonLogsEncoder(RESOURCE).encode(blocks)
    assert collector.file.read_text() == line.decode()
