"""Series as a node has them, and how much CPU an exporter takes to bring them to its backend.

Pairs of pods with names, namespaces and owners, two counters each, all of them growing each tick.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from retina_otel.component import Context, Exporter
from retina_otel.delivery.sharing import Sharing
from retina_otel.model.batches import Column, MetricBatch, Window
from retina_otel.model.signals import FLOW_IO, FLOW_PACKETS, NETWORK_INTERFACE_DIRECTION
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import EndpointTable
from retina_otel.pipeline.points import Temporality
from retina_otel.testing.exporters import Bench
from tests.bench.pipeline import pods

LOCAL_PODS = 50
_TICK_NS = 5_000_000_000
_LONGEST_WAIT_S = 60.0
RESOURCE: dict[str, str | int | bool] = {
    "service.name": "retina-otel",
    "service.instance.id": "9c1f0f0e-7b0e-4b6c-9a55-2a4f7c0f3f0e",
    "k8s.node.name": "node-0",
    "k8s.cluster.name": "bench",
}


class Load:
    """An accumulator with `n_series` living series."""

    def __init__(self, n_series: int) -> None:
        n_pairs = n_series // 2
        self.n_series = 2 * n_pairs
        endpoints = EndpointTable()
        known = pods()[: LOCAL_PODS + n_pairs // LOCAL_PODS + 1]
        endpoints.update(
            replace(pod, interfaces=(number,)) for number, pod in enumerate(known, start=1)
        )
        rows = endpoints.resolve_interface(np.arange(1, len(known) + 1, dtype=np.uint32))
        self.accumulator = Accumulator(
            endpoints, AccumulatorSettings(cardinality_limit=n_pairs + 1)
        )
        pairs = np.arange(n_pairs)
        self._source = rows[pairs % LOCAL_PODS]
        self._destination = rows[pairs // LOCAL_PODS + LOCAL_PODS]
        self._random = np.random.default_rng(1)
        self._number = 0

    def add(self) -> None:
        """A window in which every series grows."""
        self._number += 1
        n = self.n_series // 2
        window = Window(self._number * _TICK_NS, (self._number + 1) * _TICK_NS)
        packets = self._random.integers(1, 10_000, n)
        batch = MetricBatch(
            window,
            {FLOW_IO: packets * self._random.integers(60, 1500, n), FLOW_PACKETS: packets},
            {NETWORK_INTERFACE_DIRECTION.name: Column(np.zeros(n, np.int32), ["egress"])},
            source_rows=self._source,
            destination_rows=self._destination,
        )
        self.accumulator.add(batch)

    def publish(self) -> None:
        self.accumulator.snapshot((self._number + 1) * _TICK_NS)


def pushed(
    load: Load, create: Callable[[Context], Exporter], *, exporters: int = 1, rounds: int = 5
) -> list[float]:
    """CPU seconds of each push of all series by that many exporters of one agent, which are made
    by `create`: what the process took, but for its main thread, which makes the snapshots. The
    first push, of new series, is not among them."""
    sharing = Sharing()
    benches = [Bench(id=f"bench/{number}", resource=dict(RESOURCE)) for number in range(exporters)]
    made = [create(replace(bench.context(), sharing=sharing)) for bench in benches]
    taken = []
    load.add()
    load.publish()
    readers = [
        load.accumulator.reader(
            bench.id, temporality=getattr(exporter, "temporality", Temporality.CUMULATIVE)
        )
        for bench, exporter in zip(benches, made, strict=True)
    ]
    for exporter, reader in zip(made, readers, strict=True):
        exporter.start([reader], [])
    try:
        # Of new series, where sums are cumulative, with a zero point of each.
        done = 1 if readers[0].temporality is Temporality.DELTA else 2
        _wait(benches, done * load.n_series)
        for number in range(rounds):
            load.add()
            before = time.process_time() - time.thread_time()
            load.publish()
            _wait(benches, (done + 1 + number) * load.n_series)
            taken.append(time.process_time() - time.thread_time() - before)
    finally:
        for exporter, reader in zip(made, readers, strict=True):
            exporter.stop(benches[0].deadline_ns(5.0))
            load.accumulator.remove(reader)
    return taken


def _wait(benches: Sequence[Bench], n_points: int) -> None:
    """Until every exporter has had so many points accepted, and no more."""
    deadline = time.monotonic() + _LONGEST_WAIT_S
    while any((left := n_points - bench.ledger.report().drained) for bench in benches):
        assert left > 0, f"{-left} points too many"
        assert time.monotonic() < deadline, f"{left} points were not accepted in time"
        time.sleep(0.01)
