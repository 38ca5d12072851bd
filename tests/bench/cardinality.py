"""What a budget for series costs: 100,000 flows of as many pairs of pods a tick, where there is
room for 10,000.

Each tick brings 100,000 pairs that were not there before (churn), or the same ones again (steady).
CPU time of this process from rows with identity to credited increments; the window is published
between, and not counted. The first ticks fill the budget and are not counted either.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from retina_otel.model.batches import Column, MetricBatch, Window
from retina_otel.model.signals import FLOW_IO, FLOW_PACKETS, NETWORK_INTERFACE_DIRECTION
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from tests.bench.report import Figure, Report

SIDE = 1_400
ROWS = 100_000
BUDGET = 10_000
WARM = 3
ROUNDS = 7
INTERVAL_NS = 5_000_000_000
BUDGET_MS = 40.0


def measure(report: Report) -> None:
    endpoints = _pods()
    for share, rule in ((None, "by bytes alone"), (BUDGET // 10, "a share for each namespace")):
        for fresh, name in ((True, "churn"), (False, "steady")):
            taken = _ticks(endpoints, share, fresh=fresh)
            report.add(
                Figure(
                    f"{ROWS:,} flows, budget of {BUDGET:,} series",
                    f"{name}, {rule}, CPU",
                    statistics.median(taken),
                    "ms",
                    BUDGET_MS,
                    (min(taken), max(taken)),
                    f"median CPU of {len(taken)} ticks at the budget",
                )
            )


def _pods() -> EndpointTable:
    table = EndpointTable()
    table.update(
        Endpoint(
            EndpointKind.POD,
            f"uid-{number}",
            {"k8s.namespace.name": f"team-{number % 50}", "k8s.pod.name": f"pod-{number}"},
            interfaces=(1 + number,),
        )
        for number in range(SIDE)
    )
    return table


def _ticks(endpoints: EndpointTable, share: int | None, *, fresh: bool) -> list[float]:
    """Milliseconds of each tick."""
    settings = AccumulatorSettings(cardinality_limit=BUDGET, cardinality_per_namespace=share)
    accumulator = Accumulator(endpoints, settings)
    reader = accumulator.reader("bench")
    rows = endpoints.resolve_interface(np.arange(1, SIDE + 1, dtype=np.uint32))
    random = np.random.default_rng(1)
    pairs = random.permutation(SIDE * SIDE)
    direction = {NETWORK_INTERFACE_DIRECTION.name: Column(np.zeros(ROWS, np.int32), ["egress"])}
    taken = []
    for number in range(WARM + ROUNDS):
        here = pairs[number * ROWS : (number + 1) * ROWS] if fresh else pairs[:ROWS]
        io = (1e9 / (1 + random.permutation(ROWS))).astype(np.int64)
        window = Window(number * INTERVAL_NS + 1, (number + 1) * INTERVAL_NS)
        batch = MetricBatch(
            window,
            {FLOW_IO: io, FLOW_PACKETS: np.ones(ROWS, np.int64)},
            direction,
            source_rows=rows[here // SIDE],
            destination_rows=rows[here % SIDE],
        )
        before = time.process_time()
        accumulator.add(batch)
        taken.append((time.process_time() - before) * 1000)
        accumulator.snapshot(window.end_ns)
        export = reader.take()
        assert export is not None
        reader.acknowledge(export)
    return taken[WARM:]
