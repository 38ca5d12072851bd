"""Pipelines and late identity: rows in are rows accumulated, dropped or held, at every moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.model.batches import Column, EventBatch, Histogram, MetricBatch, RawEnds, Window
from retina_otel.model.signals import Ends, Event, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.events import EventBuffer
from retina_otel.pipeline.late import LateIdentity, LateSettings
from retina_otel.pipeline.pipeline import LogsPipeline, MetricsPipeline

SECOND = 1_000_000_000
IO = Metric("test.io", Kind.COUNTER, "By", "", (), Ends.ONE)
OPEN = Metric("test.open", Kind.UPDOWN, "By", "", (), Ends.ONE)
LATENCY = Metric("test.latency", Kind.HISTOGRAM, "s", "", (), Ends.ONE)
PLAIN = Event("test.plain", 9, "")


def ends(*ifindexes: int) -> RawEnds:
    count = len(ifindexes)
    return RawEnds(
        np.zeros(count, np.uint64),
        np.zeros(count, np.uint64),
        np.zeros(count, np.uint16),
        np.array(ifindexes, np.uint32),
    )


def batch(number: int, *ifindexes: int, metric: Metric = IO) -> MetricBatch:
    """A value of 1 for each row."""
    window = Window(number * SECOND, (number + 1) * SECOND)
    return MetricBatch(window, {metric: np.ones(len(ifindexes), np.int64)}, {}, ends(*ifindexes))


class Identity:
    def __init__(self, endpoints: EndpointTable) -> None:
        self.endpoints = endpoints

    def process_metrics(self, batch: MetricBatch) -> MetricBatch:
        assert batch.source is not None
        return replace(batch, source_rows=self.endpoints.resolve_interface(batch.source.ifindex))


class WithoutFirst:
    def process_metrics(self, batch: MetricBatch) -> MetricBatch | None:
        return batch.at(np.arange(1, len(batch))) if len(batch) > 1 else None

    def process_events(self, batch: EventBatch) -> EventBatch | None:
        return batch.at(np.arange(1, len(batch))) if len(batch) > 1 else None


class Bench:
    def __init__(self, settings: LateSettings | None = None) -> None:
        self.endpoints = EndpointTable()
        self.identity = Identity(self.endpoints)
        self.late = LateIdentity(self.identity.process_metrics, settings)
        self.accumulator = Accumulator(self.endpoints)
        self.reader = self.accumulator.reader("x", zero_points=False)
        self.pipeline = MetricsPipeline(
            "metrics", [self.identity], self.accumulator, late=self.late
        )

    def know(self, name: str, ifindex: int) -> None:
        self.endpoints.apply(
            [Endpoint(EndpointKind.POD, name, {"k8s.pod.name": name}, (), (ifindex,))]
        )

    def values(self, metric: Metric = IO) -> dict[str, int]:
        export = self.reader.take()
        assert export is not None
        return {
            str(dict(block.sets.get(int(number))).get("k8s.pod.name", "")): int(value)
            for block in export.blocks
            if block.metric == metric
            for number, value in zip(block.source, block.values, strict=True)  # type: ignore[arg-type]
        }


def test_a_row_waits_until_its_end_is_known() -> None:
    bench = Bench()
    bench.know("web", 1)
    bench.pipeline.push([batch(0, 1, 7, 7)])
    assert bench.late.held == 2
    bench.know("api", 7)
    bench.pipeline.tick(SECOND)
    assert bench.values() == {"web": 1, "api": 2}
    assert bench.late.held == 0


def test_after_two_windows_it_stays_credited_to_unknown() -> None:
    bench = Bench()
    bench.pipeline.push([batch(0, 7)])
    bench.pipeline.tick(SECOND)
    assert (bench.values(), bench.late.held) == ({}, 1)
    bench.pipeline.tick(2 * SECOND)
    assert (bench.values(), bench.late.held) == ({"": 1}, 0)
    bench.know("web", 7)
    bench.pipeline.push([batch(2, 7)])
    bench.pipeline.tick(3 * SECOND)
    assert bench.values() == {"": 1, "web": 1}


def test_only_deltas_of_ends_that_live_here_wait() -> None:
    bench = Bench()
    bench.pipeline.push([batch(0, 0, 0), batch(0, 7, metric=OPEN)])
    bench.pipeline.tick(SECOND)
    assert (bench.values(), bench.values(OPEN), bench.late.held) == ({"": 2}, {"": 1}, 0)


def test_no_more_rows_wait_than_may() -> None:
    bench = Bench(LateSettings(max_rows=3))
    bench.pipeline.push([batch(0, 7, 8), batch(0, 9, 10), batch(0, 11)])
    assert bench.late.held == 3
    bench.pipeline.tick(SECOND)
    assert bench.values() == {"": 2}


def test_the_last_window_holds_nothing_back() -> None:
    bench = Bench()
    bench.pipeline.push([batch(0, 7, 8)])
    bench.pipeline.drain(SECOND)
    assert bench.values() == {"": 2}
    assert bench.pipeline.ledger.report().held == 0


ROUNDS = st.lists(
    st.tuples(
        st.lists(st.lists(st.integers(0, 6), max_size=5), max_size=3),
        st.sets(st.integers(1, 6), max_size=2),
    ),
    max_size=6,
)


@given(ROUNDS, st.integers(0, 6))
def test_the_books_of_a_pipeline_close_at_every_moment(
    rounds: list[tuple[list[list[int]], set[int]]], max_rows: int
) -> None:
    bench = Bench(LateSettings(max_rows=max_rows))
    pipeline = MetricsPipeline(
        "metrics", [bench.identity, WithoutFirst()], bench.accumulator, late=bench.late
    )
    came = dropped = 0
    for number, (batches, found) in enumerate(rounds):
        pipeline.push(batch(number, *rows) for rows in batches if rows)
        came += sum(map(len, batches))
        dropped += sum(1 for rows in batches if rows)
        for ifindex in found:
            bench.know(f"pod{ifindex}", ifindex)
        for _ in range(2):
            report = pipeline.ledger.report()
            assert (report.seen, report.filtered, report.difference) == (came, dropped, 0)
            assert report.held == bench.late.held <= max_rows
            pipeline.tick((number + 1) * SECOND)
    pipeline.drain((len(rounds) + 1) * SECOND)
    assert pipeline.ledger.report().drained == came - dropped
    totals = bench.accumulator.totals()
    assert (totals[IO].live if totals else 0) == came - dropped


def test_a_logs_pipeline_counts_what_its_processors_drop() -> None:
    buffer = EventBuffer(EndpointTable())
    reader = buffer.reader("x")
    pipeline = LogsPipeline("logs", [WithoutFirst()], buffer)
    times = np.arange(5, dtype=np.int64)
    window = Window(0, SECOND)
    pipeline.push([EventBatch(PLAIN, window, times), EventBatch(PLAIN, window, times[:1])], 17)
    export = reader.take(1 << 20)
    assert export is not None
    assert [block.time_ns.tolist() for block in export.blocks] == [[1, 2, 3, 4]]
    assert export.blocks[0].observed_ns == 17
    report = pipeline.ledger.report()
    assert (report.seen, report.drained, report.filtered, report.difference) == (6, 4, 2, 0)
    reader.acknowledge(export)
    pipeline.tick(SECOND)
    assert len(buffer) == 0


def test_rows_of_a_batch_are_taken_from_all_its_columns() -> None:
    counts, sums = np.array([[1, 2], [3, 4]], np.int64), np.array([1.0, 2.0])
    raw = replace(ends(5, 6), netns=np.array([8, 9], np.uint32))
    column = Column(np.array([0, 1], np.int32), ["a", "b"])
    whole = MetricBatch(
        Window(0, 1),
        {LATENCY: Histogram(counts, sums), IO: np.array([10, 20], np.int64)},
        {"key": column},
        raw,
        raw,
        np.array([1, 2], np.int32),
    )
    part = whole.at(np.array([False, True]))
    assert len(part) == 1
    histogram = part.values[LATENCY]
    assert isinstance(histogram, Histogram)
    assert (histogram.counts.tolist(), histogram.sums.tolist()) == ([[3, 4]], [2.0])
    assert part.values[IO].tolist() == [20]  # type: ignore[union-attr]
    assert part.own["key"].codes.tolist() == [1]
    assert part.source is not None
    assert part.source.netns is not None
    assert (part.source.ifindex.tolist(), part.source.netns.tolist()) == ([6], [9])
    assert part.source_rows is not None
    assert (part.source_rows.tolist(), part.destination_rows) == ([2], None)
    own = {"key": column, "n": np.array([7, 8])}
    event = EventBatch(PLAIN, Window(0, 1), np.array([3, 4]), own).at(np.array([1]))
    assert event.time_ns.tolist() == [4]
    assert event.own["n"].tolist() == [8]  # type: ignore[union-attr]
