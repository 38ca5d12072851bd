"""For tests of the pipeline: an accumulator with a second a tick; its points as plain tuples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import Column, Histogram, MetricBatch, Window
from retina_otel.model.signals import Attribute, Ends, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.points import MetricsExport

SECOND = 1_000_000_000
MS = 1_000_000
T0 = 1_700_000_000 * SECOND

OWN = (Attribute("key", "string", ""),)
IO = Metric("test.io", Kind.COUNTER, "By", "", OWN, Ends.ONE)
OPEN = Metric("test.open", Kind.UPDOWN, "{connection}", "", OWN, Ends.ONE)
LATENCY = Metric("test.latency", Kind.HISTOGRAM, "s", "", OWN, Ends.ONE, boundaries=(1.0,))

Point = tuple[str, str, int, int, object]
"""Key, form (zero, value, none), start and time in ms after T0, value."""


def pod(name: str, ifindex: int) -> Endpoint:
    return Endpoint(EndpointKind.POD, name, {"k8s.pod.name": name}, (), (ifindex,))


def batch(
    window: Window, keys: Sequence[str], values: Sequence[int], metric: Metric = IO
) -> MetricBatch:
    column: npt.NDArray[np.int64] | Histogram = np.array(values, np.int64)
    if metric is LATENCY:
        counts = np.stack([column, column], axis=1)
        column = Histogram(counts, np.array(values, np.float64))
    codes = Column(np.arange(len(keys), dtype=np.int32), list(keys))
    return MetricBatch(window, {metric: column}, {"key": codes})


def window(number: float) -> Window:
    return Window(T0 + int(number * SECOND), T0 + int((number + 1) * SECOND))


class Bench:
    """An accumulator with a second a tick."""

    def __init__(self, **settings: int) -> None:
        self.endpoints = EndpointTable()
        self.accumulator = Accumulator(self.endpoints, AccumulatorSettings(**settings))
        self.number = 0

    def tick(self, metric: Metric = IO, **values: int) -> None:
        if values:
            rows = batch(window(self.number), list(values), list(values.values()), metric)
            self.accumulator.add(rows)
        self.number += 1
        self.accumulator.snapshot(T0 + self.number * SECOND)


def listed(export: MetricsExport | None) -> list[Point]:
    assert export is not None
    found: list[Point] = []
    for block in export.blocks:
        for place in range(len(block.source)):
            start, time = int(block.start_ns[place]), int(block.time_ns[place])
            assert time > start
            value = block.values
            shown: object = (
                (value.counts[place].tolist(), float(value.sums[place]))
                if isinstance(value, Histogram)
                else value[place].item()
            )
            zero = shown in (0, ([0, 0], 0.0))
            none = bool(block.no_value[place])
            form = "none" if none else "zero" if zero and time == start + MS else "value"
            key = str(dict(block.sets.get(int(block.own[place]))).get("key", ""))
            found.append((key, form, (start - T0) // MS, (time - T0) // MS, shown))
    return found
