"""A push of 10,000 series to Application Insights, and what Azure's own exporter takes for it.

Theirs is given its points ready made, and sends them nowhere, uncompressed: only what makes its
envelopes is counted.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from retina_otel.component import Context, Exporter
from retina_otel.exporters.azure_monitor import COMPONENT
from retina_otel.pipeline.points import PointBlock
from tests.bench.exporters.backend import backend
from tests.bench.exporters.load import RESOURCE, Load, pushed
from tests.bench.report import Figure, Report

SERIES = 10_000
THEIR_SERIES = 2_000
PUSH_MS = 120.0
THEIR_SHARE = 10.0
"""Per cent: ten times less, compression included."""
_GROUP = f"Application Insights, {SERIES:,} series"
_KEY = "00000000-0000-0000-0000-000000000000"


def measure(report: Report) -> None:
    load = Load(SERIES)
    with backend() as url:
        settings = COMPONENT.Settings.model_validate(
            {
                "connection_string": f"InstrumentationKey={_KEY};IngestionEndpoint={url}",
                "interval": "200ms",
            }
        )

        def create(context: Context) -> Exporter:
            made: Exporter = COMPONENT.create(settings, context)
            return made

        taken = [seconds * 1000 for seconds in pushed(load, create)]
    ours = statistics.median(taken)
    spread = (min(taken), max(taken))
    report.add(Figure(_GROUP, "push, CPU", ours, "ms", PUSH_MS, spread))
    theirs = statistics.median(_theirs(load)) * SERIES / THEIR_SERIES * 1000
    how = f"it took {theirs:.0f} ms, scaled up from {THEIR_SERIES:,} series"
    share = ours / theirs * 100
    report.add(Figure(_GROUP, "push, of their CPU", share, "%", THEIR_SHARE, how=how))


def _theirs(load: Load) -> list[float]:
    from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter

    from retina_otel.delivery.http.responses import Response
    from retina_otel.exporters.azure_monitor.connection_string import parse
    from retina_otel.exporters.azure_monitor.sdk import Answer, Transport, quiet

    class Nowhere(Transport):
        def send(self, request: Any, **options: Any) -> Answer:
            return Answer(request, Response(200, {"Content-Type": "application/json"}, b"{}"))

    exporter = quiet(AzureMonitorMetricExporter, parse(f"InstrumentationKey={_KEY}", ""), Nowhere())
    reader = load.accumulator.reader("theirs")
    export = reader.take()
    assert export is not None
    data = _data(export.blocks[-1])
    load.accumulator.remove(reader)
    taken = []
    for _ in range(3):
        before = time.process_time()
        exporter.export(data)
        taken.append(time.process_time() - before)
    return taken


def _data(block: PointBlock) -> Any:
    """Points as the SDK would hand them over, with the resource's attributes on each."""
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Metric,
        MetricsData,
        NumberDataPoint,
        ResourceMetrics,
        ScopeMetrics,
        Sum,
    )
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    sets = block.sets
    points = [
        NumberDataPoint(
            {
                **RESOURCE,
                **dict(sets.get(block.source[row])),
                **dict(sets.get(block.destination[row])),
                **dict(sets.get(block.own[row])),
            },
            int(block.start_ns[row]),
            int(block.time_ns[row]),
            int(block.values[row]),
        )
        for row in range(THEIR_SERIES)
    ]
    data = Sum(points, AggregationTemporality.DELTA, True)
    metric = Metric(block.metric.name, block.metric.brief, block.metric.unit, data)
    scope = ScopeMetrics(InstrumentationScope(block.metric.scope), [metric], "")
    return MetricsData([ResourceMetrics(Resource(dict(RESOURCE)), [scope], "")])
