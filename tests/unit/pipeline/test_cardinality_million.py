"""A million pairs of pods, the heaviest beginning last, at a budget of ten thousand series.

K = budget / 2: whoever has more than total / K has a series. The truth is kept beside, by pair.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from retina_otel.model.batches import Column, MetricBatch, RawEnds, Window
from retina_otel.model.signals import FLOW_IO, FLOW_PACKETS, NETWORK_INTERFACE_DIRECTION
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity import end_addresses
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.readers import SnapshotReader
from tests.unit.pipeline.pipeline_parts import SECOND, T0

SIDE = 1_000
PAIRS = SIDE * SIDE
BUDGET = 10_000
K = BUDGET // 2
COHORTS = 10
INTERVAL = 5 * SECOND

_Longs = npt.NDArray[np.int64]


def pods() -> EndpointTable:
    endpoints = EndpointTable()
    endpoints.update(
        Endpoint(
            EndpointKind.POD,
            f"uid-{number}",
            {"k8s.namespace.name": f"team-{number % 20}", "k8s.pod.name": f"pod-{number:04}"},
            (),
            (1 + number,),
        )
        for number in range(SIDE)
    )
    return endpoints


class Stream:
    """Pairs by ascending weight, in cohorts: half of a pair's bytes come in the window in which it
    begins, half in the next."""

    def __init__(self) -> None:
        random = np.random.default_rng(6)
        self.pairs: _Longs = random.permutation(PAIRS)
        self.bytes = (10**12 // np.arange(PAIRS, 0, -1)).astype(np.int64)

    def windows(self) -> Iterator[tuple[_Longs, _Longs]]:
        size = PAIRS // COHORTS
        none = np.zeros(0, np.int64)
        pairs, late = none, none
        for cohort in range(COHORTS + 1):
            mine = slice(cohort * size, (cohort + 1) * size)
            half = self.bytes[mine] // 2
            yield np.concatenate([pairs, self.pairs[mine]]), np.concatenate([late, half])
            pairs, late = self.pairs[mine], self.bytes[mine] - half


def batch(endpoints: EndpointTable, pairs: _Longs, io: _Longs, window: Window) -> MetricBatch:
    rows = endpoints.resolve_interface(np.arange(1, SIDE + 1, dtype=np.uint32))
    return MetricBatch(
        window,
        {FLOW_PACKETS: np.ones(len(pairs), np.int64), FLOW_IO: io},
        {NETWORK_INTERFACE_DIRECTION.name: Column(np.zeros(len(pairs), np.int32), ["egress"])},
        source_rows=rows[pairs // SIDE],
        destination_rows=rows[pairs % SIDE],
    )


class Backend:
    """What an exporter is told of FLOW_IO: cumulative values by pair and start."""

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader
        self.values: dict[tuple[int, int], int] = {}
        self.shown: set[int] = set()
        self.live: set[int] = set()
        self.falls = 0

    def pull(self) -> None:
        export = self._reader.take()
        assert export is not None
        self.live = set()
        for block in export.blocks:
            if block.metric != FLOW_IO:
                continue
            numbers = [self._numbers(block.sets, ids) for ids in (block.source, block.destination)]
            rows = zip(
                (numbers[0] * SIDE + numbers[1]).tolist(),
                block.start_ns.tolist(),
                block.values.tolist(),  # type: ignore[union-attr]
                block.no_value.tolist(),
                strict=True,
            )
            for pair, start_ns, value, ended in rows:
                if pair < 0:
                    continue  # the overflow series
                if ended:
                    self.live.discard(pair)
                    continue
                key = (pair, start_ns)
                self.falls += value < self.values.get(key, 0)
                self.values[key] = value
                self.live.add(pair)
        self.shown |= self.live
        self._reader.acknowledge(export)

    @staticmethod
    def _numbers(sets: object, ids: npt.NDArray[np.int32]) -> _Longs:
        """The number in the name of each pod; far below zero for an end that has no name."""
        names = {
            number: next(
                (int(str(v)[4:]) for key, v in sets.get(number) if key.endswith("pod.name")),  # type: ignore[attr-defined]
                -PAIRS,
            )
            for number in np.unique(ids).tolist()
        }
        return np.array([names[number] for number in ids.tolist()], np.int64)


def held(accumulator: Accumulator) -> int:
    """Bytes of all arrays of the tables, their talkers and the attribute sets."""
    found = 0
    waiting: list[object] = [*accumulator._tables, accumulator.sets]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, np.ndarray):
            found += thing.nbytes
        elif isinstance(thing, dict):
            waiting += thing.values()
        elif (
            type(thing).__module__.startswith("retina_otel.pipeline.") or thing is accumulator.sets
        ):
            names = getattr(thing, "__slots__", None) or vars(thing)
            waiting += [getattr(thing, name) for name in names]
    return found


def test_a_million_pairs_cost_no_more_than_the_budget_and_lose_no_byte() -> None:
    endpoints = pods()
    accumulator = Accumulator(endpoints, AccumulatorSettings(cardinality_limit=BUDGET))
    backend = Backend(accumulator.reader("backend"))
    stream = Stream()
    truth: _Longs = np.zeros(PAIRS, np.int64)
    absent: list[int] = []
    for number, (pairs, io) in enumerate(stream.windows()):
        start_ns = T0 + number * INTERVAL
        accumulator.add(batch(endpoints, pairs, io, Window(start_ns, start_ns + INTERVAL)))
        accumulator.snapshot(start_ns + INTERVAL)
        backend.pull()
        np.add.at(truth, pairs, io)
        books = accumulator.totals()[FLOW_IO]
        assert books.total == int(truth.sum())
        assert books.live + books.retired + books.overflow == books.total
        heavy = np.flatnonzero(truth > int(truth.sum()) / K)
        absent += set(heavy.tolist()) - backend.live
        assert sum(backend.values.values()) == books.live + books.retired
    assert absent == []
    assert backend.falls == 0
    assert int(truth.sum()) == int(stream.bytes.sum())
    assert np.count_nonzero(truth) == PAIRS
    assert len(backend.shown) <= 2.5 * BUDGET


class Memory:
    """What stays when a window has been accumulated, published and acknowledged."""

    def __init__(self, accumulator: Accumulator) -> None:
        self._accumulator = accumulator
        self._reader = accumulator.reader("backend")
        self.arrays: list[int] = []
        self.python: list[int] = []
        self.sets: list[int] = []

    def add(self, one: MetricBatch) -> None:
        self._accumulator.add(one)
        self._accumulator.snapshot(one.window.end_ns)
        export = self._reader.take()
        assert export is not None
        self._reader.acknowledge(export)
        del export
        gc.collect()
        self.arrays.append(held(self._accumulator))
        self.python.append(tracemalloc.get_traced_memory()[0])
        self.sets.append(len(self._accumulator.sets))


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("traced")
def test_a_million_pairs_take_no_more_memory_than_the_first_three_hundred_thousand() -> None:
    endpoints = pods()
    accumulator = Accumulator(endpoints, AccumulatorSettings(cardinality_limit=BUDGET))
    memory = Memory(accumulator)
    for number, (pairs, io) in enumerate(Stream().windows()):
        start_ns = T0 + number * INTERVAL
        memory.add(batch(endpoints, pairs, io, Window(start_ns, start_ns + INTERVAL)))
    # Two sets for each pod, namespaces, the overflow set, the direction and the empty set.
    assert set(memory.sets[1:]) == {2 * SIDE + 20 + 3}
    assert max(memory.arrays[3:]) <= memory.arrays[2]
    # In each window come 100,000 pairs that were not there before.
    assert max(memory.python[3:]) - memory.python[2] < 100_000


def test_addresses_on_points_leave_nothing_behind_once_they_are_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(end_addresses, "_MAX_CACHED", 1_000)
    size, limit = 2_000, 100
    settings = AccumulatorSettings(
        attributes={FLOW_IO.name: ["destination.address"]}, cardinality_limit=limit
    )
    accumulator = Accumulator(EndpointTable(), settings)
    waiting = accumulator.reader("an exporter whose backend is away")
    kept, shown = [], [0]
    for number in range(20):
        zeros = np.zeros(size, np.uint64)
        addresses = np.uint64(0xFFFF << 32 | 10 << 24) + np.arange(size, dtype=np.uint64)
        ends = RawEnds(
            zeros,
            addresses + np.uint64(number * size),
            zeros.astype(np.uint16),
            zeros.astype(np.uint32),
        )
        values = {FLOW_IO: np.arange(1, size + 1)}
        window = Window(T0 + number * INTERVAL, T0 + (number + 1) * INTERVAL)
        accumulator.add(MetricBatch(window, values, source=ends, destination=ends))
        accumulator.snapshot(window.end_ns)
        if number == 0:
            waiting.take()
        born = accumulator.newest.tables[0].keys.born  # type: ignore[union-attr]
        kept.append(len(accumulator.sets))
        shown.append(int(np.count_nonzero(born)) - 1)
    # The empty set, the overflow set, the addresses of one window and those of earlier series.
    assert kept == [2 + size + before for before in shown[:-1]]
    assert accumulator.totals()[FLOW_IO].total == 20 * size * (size + 1) // 2
