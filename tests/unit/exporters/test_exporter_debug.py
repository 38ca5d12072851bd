"""debug: text laid out like the Collector's debug exporter."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from retina_otel.exporters.debug import DebugExporter, DebugSettings, DebugText, Verbosity
from retina_otel.model.signal_types import Event, Kind, Metric
from retina_otel.pipeline.points import PointBlock
from retina_otel.testing.exporters import Bench, Source
from retina_otel.testing.points import Occurrence, Point, event_block, point_block

COUNTER = Metric("test.io", Kind.COUNTER, "By", "Bytes.", scope="test.scope")
DURATION = Metric(
    "test.duration", Kind.HISTOGRAM, "s", "Time.", boundaries=(0.5, 2.0), scope="test.scope"
)
DROP = Event("test.drop", 13, "A drop.", scope="test.scope")
RESOURCE: dict[str, str | int | bool] = {"service.name": "agent", "up": True}
SECOND = 10**9


def metric_blocks() -> list[PointBlock]:
    who = {"source.k8s.pod.name": "web"}
    return [
        point_block(
            COUNTER,
            [
                Point(5, who, own={"n": 7}, start_ns=SECOND, time_ns=2 * SECOND + 5 * 10**8),
                Point(0, who, start_ns=SECOND, time_ns=3 * SECOND, no_value=True),
            ],
        ),
        point_block(
            DURATION, [Point(4.5, who, buckets=(1, 2, 0), start_ns=SECOND, time_ns=2 * SECOND)]
        ),
    ]


def event_blocks() -> list[Any]:
    happened = [
        Occurrence({"source.k8s.pod.name": "web"}, own={"retina.drop.reason": "x"},
                   integers={"packets": n}, time_ns=SECOND)
        for n in (1, 2)
    ]  # fmt: skip
    return [event_block(DROP, happened, body="{packets} dropped", observed_ns=2 * SECOND)]


def text(pieces: Any) -> list[str]:
    return "\n".join(piece.body.decode() for piece in pieces).splitlines()


def test_basic_is_one_line_of_counts() -> None:
    writer = DebugText(Verbosity.BASIC, RESOURCE)
    assert text(writer.metrics(metric_blocks())) == [
        "Metrics (resource metrics: 1, metrics: 2, data points: 3)"
    ]
    assert text(writer.events(event_blocks())) == ["Logs (resource logs: 1, log records: 2)"]


def test_normal_is_a_line_for_each_point_and_event() -> None:
    writer = DebugText(Verbosity.NORMAL, RESOURCE)
    assert text(writer.metrics(metric_blocks())) == [
        "Metrics (resource metrics: 1, metrics: 2, data points: 3)",
        "ResourceMetrics #0 service.name=agent up=True",
        "ScopeMetrics test.scope",
        "test.io{source.k8s.pod.name=web,n=7} 5",
        "test.io{source.k8s.pod.name=web} ended",
        "test.duration{source.k8s.pod.name=web} count=3 sum=4.5 le0.5=1 le2.0=2 leinf=0",
    ]
    assert text(writer.events(event_blocks()))[2:] == [
        "ScopeLogs test.scope",
        "test.drop 1 dropped retina.drop.reason=x source.k8s.pod.name=web packets=1",
        "test.drop 2 dropped retina.drop.reason=x source.k8s.pod.name=web packets=2",
    ]


def test_detailed_has_all_there_is_about_a_point() -> None:
    writer = DebugText(Verbosity.DETAILED, RESOURCE)
    assert (
        text(writer.metrics(metric_blocks()))
        == """\
Metrics (resource metrics: 1, metrics: 2, data points: 3)
ResourceMetrics #0
Resource SchemaURL: https://retina-otel.dev/schemas/0.1.0
Resource attributes:
     -> service.name: Str(agent)
     -> up: Bool(true)
ScopeMetrics
ScopeMetrics SchemaURL:\x20
InstrumentationScope test.scope
Metric #0
Descriptor:
     -> Name: test.io
     -> Description: Bytes.
     -> Unit: By
     -> DataType: Sum
     -> IsMonotonic: true
     -> AggregationTemporality: Cumulative
NumberDataPoints #0
Data point attributes:
     -> source.k8s.pod.name: Str(web)
     -> n: Int(7)
StartTimestamp: 1970-01-01 00:00:01 +0000 UTC
Timestamp: 1970-01-01 00:00:02.5 +0000 UTC
Value: 5
NumberDataPoints #1
Data point attributes:
     -> source.k8s.pod.name: Str(web)
StartTimestamp: 1970-01-01 00:00:01 +0000 UTC
Timestamp: 1970-01-01 00:00:03 +0000 UTC
Flags: NO_RECORDED_VALUE
Metric #1
Descriptor:
     -> Name: test.duration
     -> Description: Time.
     -> Unit: s
     -> DataType: Histogram
     -> AggregationTemporality: Cumulative
HistogramDataPoints #0
Data point attributes:
     -> source.k8s.pod.name: Str(web)
StartTimestamp: 1970-01-01 00:00:01 +0000 UTC
Timestamp: 1970-01-01 00:00:02 +0000 UTC
Count: 3
Sum: 4.500000
ExplicitBounds #0: 0.500000
ExplicitBounds #1: 2.000000
Buckets #0, Count: 1
Buckets #1, Count: 2
Buckets #2, Count: 0""".splitlines()
    )


def test_detailed_has_all_there_is_about_an_event() -> None:
    lines = text(DebugText(Verbosity.DETAILED, RESOURCE).events(event_blocks()))
    first = lines.index("LogRecord #0")
    assert lines[first : first + 10] == [
        "LogRecord #0",
        "ObservedTimestamp: 1970-01-01 00:00:02 +0000 UTC",
        "Timestamp: 1970-01-01 00:00:01 +0000 UTC",
        "SeverityNumber: Warn(13)",
        "EventName: test.drop",
        "Body: Str(1 dropped)",
        "Attributes:",
        "     -> retina.drop.reason: Str(x)",
        "     -> source.k8s.pod.name: Str(web)",
        "     -> packets: Int(1)",
    ]


@pytest.mark.parametrize("logged", [True, False])
def test_the_exporter_writes_to_the_log_or_to_standard_error(
    logged: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    bench, source = Bench(id="debug"), Source()
    settings = DebugSettings.model_validate(
        {"use_internal_logger": logged, "interval": "1h", "events_interval": "1h"}
    )
    exporter = DebugExporter(settings, bench.context())
    with caplog.at_level(logging.INFO):
        exporter.start([source.accumulator.reader("x")], [source.buffer.reader("x")])
        source.count(a=1, b=2)
        source.happen(3)
        exporter.stop(bench.deadline_ns(5))
    written = caplog.text if logged else capsys.readouterr().err
    assert "metrics: 1, data points: 4" in written
    assert "log records: 3" in written
    report = bench.ledger.report()
    assert (report.seen, report.drained, report.difference) == (7, 7, 0)
    assert {unit: counts.exported for unit, counts in report.exports.items()} == {
        "points": 4,
        "events": 3,
    }
