"""OTLP over HTTP and gRPC: encoding, a push of 100,000 series, ten exporters at once; and what the
stock SDK takes for the same data in the same run.

The stock SDK is given its points ready made: what its instruments take to collect them, and its
memory, are not counted. It encodes and sends a part of the series, and its time is scaled up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http import Compression as StockCompression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from retina_otel.component import Component, Context, Exporter
from retina_otel.encode.otlp import MetricsEncoder
from retina_otel.exporters.otlp_grpc import COMPONENT as OTLP_GRPC
from retina_otel.exporters.otlp_http import COMPONENT as OTLP_HTTP
from retina_otel.pipeline.points import PointBlock
from tests.bench.exporters.backend import backend
from tests.bench.exporters.load import RESOURCE, Load, pushed
from tests.bench.report import Figure, Report

SERIES = 100_000
STOCK_SERIES = 10_000
ROUNDS = 5
ENCODE_US = 1.0
PUSH_MS = 250.0
STOCK_SHARE = 5.0
"""Per cent: twenty times less."""
TIMES_ONE = 2.0
_GROUP = f"OTLP, {SERIES:,} series"


def measure(report: Report) -> None:
    load = Load(SERIES)
    encoding = _encoding(load)
    report.add(_figure("encode a series", [s / SERIES * 1e6 for s in encoding], "us", ENCODE_US))
    with backend() as url:
        ours = {name: _push(load, url, name) for name in ("gzip", "zstd", "none")}
        for name, seconds in ours.items():
            taken = [one * 1000 for one in seconds]
            report.add(_figure(f"push, HTTP with {name}, CPU", taken, "ms", PUSH_MS))
        for name in ("gzip", "none"):
            stock = statistics.median(_stock(url, name)) * SERIES / STOCK_SERIES
            report.add(
                Figure(
                    _GROUP,
                    f"push, {name}, of the stock SDK's CPU",
                    statistics.median(ours[name]) / stock * 100,
                    "%",
                    STOCK_SHARE,
                    how=f"it took {stock * 1000:.0f} ms, scaled up from {STOCK_SERIES:,} series",
                )
            )
        for name in ("gzip", "zstd"):
            ten = _push(load, url, name, 10)
            times = statistics.median(ten) / statistics.median(ours[name])
            report.add(Figure(_GROUP, f"ten exporters over one, {name}", times, "times", TIMES_ONE))
    with backend("grpc") as url:
        one, ten = (_push(load, url, "gzip", n, OTLP_GRPC) for n in (1, 10))
    taken = [seconds * 1000 for seconds in one]
    report.add(_figure("push, gRPC with gzip, CPU", taken, "ms", PUSH_MS))
    times = statistics.median(ten) / statistics.median(one)
    how = "no budget: the library compresses each message itself, for each exporter"
    report.add(Figure(_GROUP, "ten exporters over one, gRPC", times, "times", how=how))


def _encoding(load: Load) -> list[float]:
    reader = load.accumulator.reader("encoding")
    encoder = MetricsEncoder(RESOURCE)
    taken = []
    for number in range(ROUNDS + 1):
        load.add()
        load.publish()
        export = reader.take()
        assert export is not None
        before = time.process_time()
        n = sum(request.n_items for request in encoder.requests(export.blocks))
        if number:
            taken.append(time.process_time() - before)
            assert n == load.n_series
        reader.acknowledge(export)
    load.accumulator.remove(reader)
    return taken


def _push(
    load: Load, url: str, compression: str, exporters: int = 1, component: Component = OTLP_HTTP
) -> list[float]:
    settings = component.Settings.model_validate(
        {"endpoint": url, "compression": compression, "interval": "500ms"}
    )

    def create(context: Context) -> Exporter:
        made: Exporter = component.create(settings, context)
        return made

    return pushed(load, create, exporters=exporters, rounds=ROUNDS)


def _stock(url: str, compression: str) -> list[float]:
    load = Load(STOCK_SERIES)
    load.add()
    load.publish()
    export = load.accumulator.reader("stock", zero_points=False).take()
    assert export is not None
    data = _sdk_data(export.blocks)
    exporter = OTLPMetricExporter(f"{url}/v1/metrics", compression=StockCompression(compression))
    taken = []
    for _ in range(3):
        before = time.process_time()
        result = exporter.export(data)
        taken.append(time.process_time() - before)
        assert result is MetricExportResult.SUCCESS
    exporter.shutdown()
    return taken


def _sdk_data(blocks: Sequence[PointBlock]) -> MetricsData:
    """The same points as the SDK has them."""
    metrics = []
    for block in blocks:
        points = []
        for row, value in enumerate(block.values.tolist()):
            ids = (block.source[row], block.destination[row], block.own[row])
            attributes = dict(pair for number in ids for pair in block.sets.get(int(number)))
            start, end = int(block.start_ns[row]), int(block.time_ns[row])
            points.append(NumberDataPoint(attributes, start, end, value))
        total = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        metrics.append(Metric(block.metric.name, block.metric.brief, block.metric.unit, total))
    scope = ScopeMetrics(InstrumentationScope(blocks[0].metric.scope), metrics, "")
    return MetricsData([ResourceMetrics(Resource(RESOURCE), [scope], "")])


def _figure(name: str, taken: Sequence[float], unit: str, budget: float) -> Figure:
    how = f"median CPU of {len(taken)} after the first"
    spread = (min(taken), max(taken))
    return Figure(_GROUP, name, statistics.median(taken), unit, budget, spread, how)
