"""Shared requests say what they shall say, however lanes take turns and whatever ids mean later.

Series come and end at each tick, so attribute sets are given back and their ids are given to
others while some lanes are in the middle of an older export, and others have left it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.delivery.packed import Packed
from retina_otel.delivery.sharing import Sharing
from retina_otel.encode.otlp import MetricsEncoder
from retina_otel.model.batches import Column, MetricBatch, Window
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.points import MetricsExport
from retina_otel.testing.exporters import METRIC, WHO

S = 10**9
LANES = 3
MAX_BYTES = 300
NAMES = [f"{letter * 20}-{number}" for letter in "abc" for number in range(8)]

Points = Counter[tuple[str, int, int, int]]


def points_in(body: bytes) -> Points:
    """Name, start, time and value (-1 for none) of each point of a request."""
    found: Points = Counter()
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.sum.data_points:
                    who = {pair.key: pair.value.string_value for pair in point.attributes}
                    value = -1 if point.flags & 1 else point.as_int
                    times = point.start_time_unix_nano, point.time_unix_nano
                    found[who[WHO.name], *times, value] += 1
    return found


def pack(body: bytes, n_items: int) -> Packed:
    return Packed(body, "", n_items, len(body))


class World:
    """A pipeline whose series live for a second, and the lanes that read it."""

    def __init__(self) -> None:
        terms = AccumulatorSettings(idle_ns=S // 2, release_ns=S)
        self.accumulator = Accumulator(EndpointTable(), terms)
        self.readers = [self.accumulator.reader(f"lane {n}") for n in range(LANES)]
        sharing = Sharing()
        self.encoders = [
            sharing.encoder("key", lambda: MetricsEncoder({}).requests) for _ in range(LANES)
        ]
        self.exports: list[MetricsExport | None] = [None] * LANES
        self.requests: list[Iterator[Packed]] = [iter(())] * LANES
        self.expected: list[Points] = [Counter() for _ in range(LANES)]
        self.got: list[Points] = [Counter() for _ in range(LANES)]
        self.compared = 0
        self.now_ns = S

    def tick(self, names: list[str]) -> None:
        window = Window(self.now_ns, self.now_ns + S)
        self.now_ns += S
        if names:
            column = Column(np.arange(len(names), dtype=np.int32), names)
            ones = np.arange(1, len(names) + 1, dtype=np.int64)
            self.accumulator.add(MetricBatch(window, {METRIC: ones}, {WHO.name: column}))
        self.accumulator.snapshot(self.now_ns)

    def pass_by(self, ticks: list[list[str]]) -> None:
        for names in ticks:
            self.tick(names)

    def take(self, lane: int) -> None:
        """Whatever the lane was in the middle of is given up."""
        export = self.exports[lane] = self.readers[lane].take()
        if export is None:
            return
        self.expected[lane] = Counter()
        for body in MetricsEncoder({}).encode(export.blocks):
            self.expected[lane] += points_in(body)
        self.got[lane] = Counter()
        self.requests[lane] = self.encoders[lane].requests(export, MAX_BYTES, pack)

    def read(self, lane: int) -> None:
        export = self.exports[lane]
        if export is None:
            return
        packed = next(self.requests[lane], None)
        if packed is not None:
            self.got[lane] += points_in(packed.data)
            return
        assert self.got[lane] == self.expected[lane]
        self.compared += 1
        self.readers[lane].acknowledge(export)
        self.exports[lane] = None


LANE = st.integers(0, LANES - 1)
SOME = st.lists(st.sampled_from(NAMES), max_size=8, unique=True)
STEP = st.one_of(
    st.tuples(st.just("pass_by"), st.lists(SOME, min_size=1, max_size=8)),
    st.tuples(st.just("take"), LANE),
    st.tuples(st.just("read"), LANE),
    st.tuples(st.just("read"), LANE),
)


@settings(max_examples=150)
@given(st.lists(STEP, max_size=60))
def test_each_lane_gets_the_points_of_its_export_whole_and_as_they_were(steps) -> None:
    world = World()
    for what, argument in [("tick", NAMES[:5]), ("take", 0), *steps]:
        getattr(world, what)(argument)
    for lane in range(LANES):
        while world.exports[lane] is not None:
            world.read(lane)
    assert world.compared
