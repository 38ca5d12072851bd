"""Pipelines and late identity: rows in are rows accumulated, dropped or held, at every moment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.model.batches import (
    UNKNOWN_ROW,
    Column,
    EventBatch,
    Histogram,
    How,
    MetricBatch,
    RawEnds,
    Window,
)
from retina_otel.model.signals import Ends, Event, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator
from retina_otel.pipeline.events import EventBuffer
from retina_otel.pipeline.identity.claims import AMBIGUOUS
from retina_otel.pipeline.identity.endpoints import (
    FOREVER,
    Endpoint,
    EndpointKind,
    EndpointTable,
    Validity,
)
from retina_otel.pipeline.identity.late import LateIdentity, LateSettings
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
    own: dict[str, Column | npt.NDArray[np.int64]] = {"key": column, "n": np.array([7, 8])}
    event = EventBatch(PLAIN, Window(0, 1), np.array([3, 4]), own).at(np.array([1]))
    assert event.time_ns.tolist() == [4]
    assert event.own["n"].tolist() == [8]  # type: ignore[union-attr]


def addressed(number: int, last_ns: int, *, ifindex: int = 0) -> MetricBatch:
    """A row of which one end is 10.0.0.1."""
    window = Window(number * SECOND, (number + 1) * SECOND)
    end = RawEnds(
        np.zeros(1, np.uint64),
        np.array([0xFFFF_0A00_0001], np.uint64),
        np.zeros(1, np.uint16),
        np.array([ifindex], np.uint32),
    )
    times = np.array([last_ns], np.int64)
    one = np.ones(1, np.int64)
    return MetricBatch(window, {IO: one}, {}, end, first_ns=times, last_ns=times)


class Addresses(Identity):
    def process_metrics(self, batch: MetricBatch) -> MetricBatch:
        end = batch.source
        assert end is not None
        found = self.endpoints.locate(end.hi, end.lo, batch.first_ns, batch.last_ns)
        how = np.where(found > 0, np.uint8(How.ADDRESS), np.uint8(How.NOBODY))
        how[found == AMBIGUOUS] = How.AMBIGUOUS
        return replace(batch, source_rows=np.maximum(found, UNKNOWN_ROW), source_how=how)


class Settling(Bench):
    """Windows of a second; events of the watch come up to three seconds late."""

    def __init__(self, max_rows: int = 100) -> None:
        super().__init__()
        self.endpoints.settle_after_ns = 3 * SECOND
        self.late = LateIdentity(
            Addresses(self.endpoints).process_metrics,
            LateSettings(max_rows=max_rows),
            endpoints=self.endpoints,
        )
        self.pipeline = MetricsPipeline(
            "metrics", [Addresses(self.endpoints)], self.accumulator, late=self.late
        )

    def pod(self, name: str, since_ns: int, until_ns: int = FOREVER) -> None:
        valid = Validity(since_ns, since_ns, until_ns, until_ns)
        self.endpoints.apply(
            [Endpoint(EndpointKind.POD, name, {"k8s.pod.name": name}, ("10.0.0.1",), valid=valid)]
        )


def test_what_was_just_seen_waits_until_no_event_can_say_that_another_had_the_address() -> None:
    bench = Settling()
    bench.pod("old", 0)
    bench.pipeline.push([addressed(9, 9 * SECOND), addressed(9, 5 * SECOND)])
    bench.pipeline.tick(10 * SECOND)
    assert (bench.values(), bench.late.held) == ({"old": 1}, 1)
    bench.pod("old", 0, 8 * SECOND)
    bench.pod("new", 8 * SECOND)
    bench.pipeline.tick(11 * SECOND)
    assert bench.late.held == 1
    bench.pipeline.tick(12 * SECOND)
    assert (bench.values(), bench.late.held) == ({"old": 1, "new": 1}, 0)
    assert bench.pipeline.ledger.report().difference == 0


def test_what_can_t_wait_is_nobody_s_and_counted() -> None:
    bench = Settling(max_rows=1)
    bench.pod("old", 0)
    bench.pipeline.push([addressed(9, 9 * SECOND) for _ in range(3)])
    assert (bench.late.held, bench.late.unsettled) == (1, 2)
    bench.pipeline.drain(10 * SECOND)
    assert bench.values() == {"": 3}
    report = bench.pipeline.ledger.report()
    assert (report.drained, report.held, report.beside) == (3, 0, {"unsettled": 3})


def test_a_clock_that_steps_back_holds_nothing_for_longer() -> None:
    bench = Settling()
    bench.pod("old", 0)
    bench.pipeline.push([addressed(99, 99 * SECOND)])
    for tick in range(26):
        assert bench.late.held == 1
        bench.pipeline.tick(tick * SECOND)
    assert (bench.late.held, bench.values()) == (0, {"": 1})


def test_ends_that_more_than_one_may_mean_are_counted_once() -> None:
    bench = Settling()
    bench.pod("a", 5 * SECOND)
    bench.pod("b", 5 * SECOND)
    bench.pipeline.push([addressed(9, 9 * SECOND), addressed(9, 5 * SECOND), addressed(9, 1)])
    for tick in range(10, 14):
        bench.pipeline.tick(tick * SECOND)
    assert bench.values() == {"": 3}
    assert bench.pipeline.ledger.report().beside == {"ambiguous_ends": 2}


def test_rows_that_turn_out_not_to_be_wanted_leave_no_gap_in_the_books() -> None:
    bench = Bench()

    def unless_known(batch: MetricBatch) -> MetricBatch | None:
        known = bench.identity.process_metrics(batch)
        assert known.source_rows is not None
        wanted = known.source_rows == UNKNOWN_ROW
        return known.at(wanted) if wanted.any() else None

    late = LateIdentity(unless_known)
    pipeline = MetricsPipeline("metrics", [bench.identity], bench.accumulator, late=late)
    pipeline.push([batch(0, 7, 8), batch(0, 7)])
    bench.know("web", 7)
    pipeline.tick(SECOND)
    report = pipeline.ledger.report()
    assert (report.seen, report.filtered, report.held, report.difference) == (3, 2, 1, 0)


def test_events_settle_too() -> None:
    endpoints = EndpointTable()
    endpoints.settle_after_ns = 3 * SECOND
    buffer = EventBuffer(endpoints)
    reader = buffer.reader("x")

    def resolved(events: EventBatch) -> EventBatch:
        assert events.source is not None
        end = events.source
        found = endpoints.resolve_address(end.hi, end.lo, events.time_ns, events.time_ns)
        how = np.full(len(events), How.ADDRESS, np.uint8)
        return replace(events, source_rows=found, source_how=how)

    late = LateIdentity(resolved, endpoints=endpoints)
    pipeline = LogsPipeline("logs", [], buffer, late=late)
    times = np.array([5, 9], np.int64) * SECOND
    one = addressed(9, 0).source
    assert one is not None
    events = EventBatch(PLAIN, Window(9 * SECOND, 10 * SECOND), times)
    events = replace(events, source=one.at(np.zeros(2, np.int64)))
    pipeline.push([resolved(events)])
    told = []
    for tick in range(10, 13):
        pipeline.tick(tick * SECOND)
        export = reader.take(1 << 20)
        told.append(0 if export is None else sum(len(block.time_ns) for block in export.blocks))
        if export is not None:
            reader.acknowledge(export)
    assert told == [1, 0, 1]
    report = pipeline.ledger.report()
    assert (report.seen, report.drained, report.held, report.difference) == (2, 2, 0, 0)
