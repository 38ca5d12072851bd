"""Readers: zero points, final values, stale markers, deltas, and ids that never change under a
reader."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.model.batches import Column, Histogram, MetricBatch, Window
from retina_otel.model.signals import Attribute, Ends, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.points import MetricsExport, Temporality
from retina_otel.pipeline.readers import SnapshotReader

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


def test_there_is_nothing_to_take_before_the_first_snapshot() -> None:
    assert Bench().accumulator.reader("x").take() is None


def test_a_new_series_is_preceded_by_zero_at_its_start_until_that_is_acknowledged() -> None:
    bench = Bench()
    reader = bench.accumulator.reader("x")
    bench.tick(a=5)
    new = [("a", "zero", 0, 1, 0), ("a", "value", 0, 1000, 5)]
    assert listed(reader.take()) == new
    bench.tick(a=1)
    again = reader.take()
    assert listed(again) == [("a", "zero", 0, 1, 0), ("a", "value", 0, 2000, 6)]
    reader.acknowledge(again)
    bench.tick(b=7)
    assert listed(reader.take()) == [
        ("b", "zero", 2000, 2001, 0),
        ("a", "value", 0, 3000, 6),
        ("b", "value", 2000, 3000, 7),
    ]


def test_readers_do_not_wait_for_each_other() -> None:
    bench = Bench()
    quick, slow = bench.accumulator.reader("quick"), bench.accumulator.reader("slow")
    bench.tick(a=5)
    first = slow.take()
    for _ in range(3):
        export = quick.take()
        reader_points = listed(export)
        quick.acknowledge(export)  # type: ignore[arg-type]
        bench.tick(a=1)
    assert reader_points == [("a", "value", 0, 3000, 7)]
    assert listed(first) == [("a", "zero", 0, 1, 0), ("a", "value", 0, 1000, 5)]
    slow.acknowledge(first)  # type: ignore[arg-type]
    assert listed(slow.take()) == [("a", "value", 0, 4000, 8)]


def test_without_zero_points_and_stale_markers_a_series_simply_comes_and_goes() -> None:
    bench = Bench(idle_ns=SECOND)
    reader = bench.accumulator.reader("x", zero_points=False, stale_markers=False)
    bench.tick(a=5)
    bench.tick()
    last = reader.take()
    assert listed(last) == [("a", "value", 0, 2000, 5)]
    reader.acknowledge(last)  # type: ignore[arg-type]
    assert listed(reader.take()) == []


def test_an_ended_series_gives_its_final_value_then_its_marker_then_nothing() -> None:
    bench = Bench(idle_ns=2 * SECOND)
    reader = bench.accumulator.reader("x")
    bench.tick(a=5, b=1)
    reader.acknowledge(reader.take())  # type: ignore[arg-type]
    bench.tick(b=1)
    bench.tick(b=1)  # a ends at 3 s
    bench.tick(b=1)
    final = reader.take()
    assert listed(final) == [("a", "value", 0, 3000, 5), ("b", "value", 0, 4000, 4)]
    bench.tick(b=1)
    assert listed(reader.take())[0] == ("a", "value", 0, 3000, 5)  # not acknowledged: again
    kept = reader.take()
    reader.acknowledge(kept)  # type: ignore[arg-type]
    bench.tick(b=1)
    marked = reader.take()
    assert listed(marked) == [("b", "value", 0, 6000, 6), ("a", "none", 0, 6000, 0)]
    bench.tick(b=1)
    assert listed(reader.take())[1] == ("a", "none", 0, 7000, 0)
    reader.acknowledge(reader.take())  # type: ignore[arg-type]
    bench.tick(b=1)
    assert listed(reader.take()) == [("b", "value", 0, 8000, 8)]
    assert bench.accumulator.released_unacknowledged == 0


def test_a_marker_is_later_than_the_final_value_even_without_a_new_snapshot() -> None:
    bench = Bench(idle_ns=SECOND)
    reader = bench.accumulator.reader("x")
    bench.tick(a=5)
    bench.tick()
    reader.acknowledge(reader.take())  # type: ignore[arg-type]
    marked = reader.take()
    assert listed(marked) == [("a", "none", 0, 2001, 0)]
    reader.acknowledge(marked)  # type: ignore[arg-type]
    assert listed(reader.take()) == []


def test_a_series_that_comes_back_in_time_goes_on_where_it_was() -> None:
    bench = Bench(idle_ns=SECOND)
    reader = bench.accumulator.reader("x")
    bench.tick(a=5)
    bench.tick()  # ends
    reader.acknowledge(reader.take())  # type: ignore[arg-type]
    bench.tick(a=2)
    assert listed(reader.take()) == [("a", "value", 0, 3000, 7)]
    assert bench.accumulator.totals()[IO].live == 7


def test_a_series_that_comes_back_too_late_begins_anew_at_zero() -> None:
    bench = Bench(idle_ns=SECOND)
    reader = bench.accumulator.reader("x", stale_markers=False)
    bench.tick(a=5)
    bench.tick()
    reader.acknowledge(reader.take())  # type: ignore[arg-type]
    bench.tick()  # freed
    bench.tick(a=2)
    assert listed(reader.take()) == [("a", "zero", 3000, 3001, 0), ("a", "value", 3000, 4000, 2)]
    books = bench.accumulator.totals()[IO]
    assert (books.live, books.retired, books.overflow, books.total) == (2, 5, 0, 7)


def test_what_nobody_acknowledges_is_freed_after_a_time_and_counted() -> None:
    bench = Bench(idle_ns=SECOND, release_ns=3 * SECOND)
    reader = bench.accumulator.reader("x")
    bench.tick(a=5, b=6)
    bench.tick()  # both end at 2 s
    for _ in range(4):
        bench.tick()
    assert bench.accumulator.released_unacknowledged == 2
    bench.tick()
    assert listed(reader.take()) == []
    assert bench.accumulator.totals()[IO].retired == 11


def test_ended_series_that_wait_are_bounded_by_the_cardinality_limit() -> None:
    bench = Bench(idle_ns=SECOND, cardinality_limit=3)
    bench.accumulator.reader("x")
    for number in range(4):
        bench.tick(**{f"{letter}{number}": 1 for letter in "abc"})
        bench.tick()
    assert bench.accumulator.released_unacknowledged == 9
    books = bench.accumulator.totals()[IO]
    assert (books.live, books.retired, books.overflow, books.total) == (0, 12, 0, 12)


def test_a_reader_that_is_removed_is_not_waited_for() -> None:
    bench = Bench(idle_ns=SECOND)
    gone = bench.accumulator.reader("gone")
    bench.tick(a=5)
    bench.accumulator.remove(gone)
    bench.tick()
    bench.tick()
    assert bench.accumulator.released_unacknowledged == 0
    assert listed(bench.accumulator.reader("late").take()) == []


def test_the_series_of_a_removed_endpoint_end_and_others_do_not() -> None:
    bench = Bench()
    bench.endpoints.update([pod("web", 1), pod("api", 2)])
    reader = bench.accumulator.reader("x", zero_points=False)

    def add(number: int, *ifindexes: int) -> None:
        rows = bench.endpoints.resolve_interface(np.array(ifindexes, np.uint32))
        values = {IO: np.ones(len(rows), np.int64)}
        bench.accumulator.add(MetricBatch(window(number), values, source_rows=rows))
        bench.accumulator.snapshot(window(number).end_ns)

    def starts() -> list[tuple[str, int, bool]]:
        export = reader.take()
        assert export is not None
        reader.acknowledge(export)
        return [
            (str(dict(b.sets.get(int(s))).get("k8s.pod.name")), int(v), bool(n))
            for b in export.blocks
            for s, v, n in zip(b.source, b.values, b.no_value, strict=True)
        ]

    add(0, 1, 2)
    assert starts() == [("web", 1, False), ("api", 1, False)]
    bench.endpoints.update([pod("api", 2)])
    add(1, 1, 2)  # what was counted before it went still belongs to it
    assert starts() == [("web", 2, False), ("api", 2, False)]
    add(2, 2)
    assert starts() == [("web", 2, False), ("api", 3, False)]
    add(3, 2)
    assert starts() == [("api", 4, False), ("web", 0, True)]
    add(4, 2)
    assert starts() == [("api", 5, False)]


def test_time_goes_on_when_the_clock_steps_back() -> None:
    bench = Bench()
    reader = bench.accumulator.reader("x")
    bench.tick(a=5)
    reader.acknowledge(reader.take())  # type: ignore[arg-type]
    bench.accumulator.add(batch(window(-3600), ["a", "b"], [1, 2]))
    bench.accumulator.snapshot(window(-3600).end_ns)
    assert listed(reader.take()) == [
        ("b", "zero", 1000, 1001, 0),
        ("a", "value", 0, 1002, 6),
        ("b", "value", 1000, 1002, 2),
    ]


def test_a_start_is_never_after_what_follows_when_windows_are_odd() -> None:
    bench = Bench()
    bench.accumulator.add(batch(Window(T0 + 9 * SECOND, T0 + 9 * SECOND), ["a"], [1]))
    bench.accumulator.snapshot(T0)
    assert listed(bench.accumulator.reader("x").take()) == [
        ("a", "zero", 9000, 9001, 0),
        ("a", "value", 9000, 9002, 1),
    ]


def test_deltas_are_since_what_was_acknowledged() -> None:
    bench = Bench()
    reader = bench.accumulator.reader("x", temporality=Temporality.DELTA)
    bench.tick(a=5)
    first = reader.take()
    assert listed(first) == [("a", "value", 0, 1000, 5)]
    bench.tick(a=1, b=2)
    second = reader.take()  # the first got lost
    assert listed(second) == [("a", "value", 0, 2000, 6), ("b", "value", 1000, 2000, 2)]
    reader.acknowledge(first)  # type: ignore[arg-type]
    assert listed(reader.take()) == listed(second)
    reader.acknowledge(second)  # type: ignore[arg-type]
    assert listed(reader.take()) == []
    bench.tick(b=4)
    third = reader.take()
    assert listed(third) == [("b", "value", 2000, 3000, 4)]
    assert {block.temporality for block in third.blocks} == {Temporality.DELTA}  # type: ignore[union-attr]


def test_deltas_of_histograms_and_amounts_that_are_none() -> None:
    bench = Bench()
    reader = bench.accumulator.reader("x", temporality=Temporality.DELTA)
    bench.tick(LATENCY, a=5)
    reader.acknowledge(reader.take())  # type: ignore[arg-type]
    bench.accumulator.add(batch(window(1), ["a"], [3], OPEN))
    bench.tick(LATENCY, a=2)
    export = reader.take()
    assert listed(export) == [
        ("a", "value", 1000, 2000, ([2, 2], 2.0)),
        ("a", "value", 1000, 2000, 3),
    ]
    assert [(b.metric.name, b.temporality) for b in export.blocks] == [  # type: ignore[union-attr]
        ("test.latency", Temporality.DELTA),
        ("test.open", Temporality.CUMULATIVE),
    ]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["tick", "tick", "take", "ack"]),
        st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), max_size=4),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 6))
def test_acknowledged_deltas_add_up_to_all_there_was(
    steps: list[tuple[str, dict[str, int]]], limit: int
) -> None:
    bench = Bench(idle_ns=2 * SECOND, cardinality_limit=limit)
    reader = bench.accumulator.reader("x", temporality=Temporality.DELTA)
    truth, delivered, export = 0, 0, None
    for step, values in [*steps, ("tick", {}), ("take", {}), ("ack", {})]:
        if step == "tick":
            bench.tick(**values)
            truth += sum(values.values())
        elif step == "take":
            export = reader.take()
        elif export is not None:
            delivered += sum(int(block.values.sum()) for block in export.blocks)  # type: ignore[union-attr]
            reader.acknowledge(export)
            export = None
    lost = bench.accumulator.released_unacknowledged
    assert delivered == truth if lost == 0 else delivered <= truth


@given(STEPS, st.integers(1, 6))
def test_what_a_backend_sees_is_a_proper_history_of_each_series(
    steps: list[tuple[str, dict[str, int]]], limit: int
) -> None:
    """Per start time values never fall, times grow, a new start is not before the old one's end."""
    bench = Bench(idle_ns=2 * SECOND, cardinality_limit=limit)
    reader = bench.accumulator.reader("x")
    last: dict[str, tuple[int, int, int]] = {}
    for step, values in steps:
        if step == "tick":
            bench.tick(**values)
            continue
        export = reader.take()
        if export is None:
            continue
        for key, form, start, time, value in listed(export):
            before = last.get(key)
            if before is not None:
                assert start == before[0] or start >= before[1]
                assert form == "zero" or time >= before[1] or start != before[0]
                assert start != before[0] or form != "value" or int(str(value)) >= before[2]
            if form == "value" and step == "ack":
                last[key] = (start, time, int(str(value)))
        if step == "ack":
            reader.acknowledge(export)


def test_ids_mean_the_same_for_as_long_as_an_export_is_held() -> None:
    bench = Bench(idle_ns=SECOND, release_ns=0)
    holder = bench.accumulator.reader("holder")
    bench.tick(a=1, b=1)
    held = holder.take()
    before = listed(held)
    for number in range(20):
        bench.tick(**{f"new{number}": 1})
    assert listed(held) == before
    holder.take()
    bench.tick(last=1)
    bench.tick(really=1)
    held_ids = {int(n) for block in held.blocks for n in block.own}  # type: ignore[union-attr]
    sets = bench.accumulator.sets
    assert {sets.version(number) for number in held_ids} == {1}


def test_ids_are_used_again_so_that_churn_costs_no_memory() -> None:
    bench = Bench(idle_ns=SECOND)
    reader = bench.accumulator.reader("x", stale_markers=False)
    for number in range(200):
        bench.tick(**{f"key{number}": 1})
        reader.acknowledge(reader.take())  # type: ignore[arg-type]
    # The empty set, the overflow set, and the keys of ticks until one is acknowledged and freed.
    assert len(bench.accumulator.sets) == 6


def test_readers_on_threads_see_consistent_snapshots_while_the_tick_thread_adds() -> None:
    bench = Bench(idle_ns=SECOND, cardinality_limit=50)
    faults: list[str] = []
    stop = threading.Event()

    def read(reader: SnapshotReader) -> None:
        while not stop.is_set():
            export = reader.take()
            if export is None:
                continue
            keys: Counter[tuple[str, str, int]] = Counter()
            for key, form, start, _, value in listed(export):
                keys[key, form, start] += 1
                # Every series grows by 3 in each tick of its life.
                if form == "value" and int(str(value)) % 3:
                    faults.append(f"{key} has {value}")
            faults.extend(f"{key} is there twice" for key, n in keys.items() if n > 1)
            reader.acknowledge(export)

    threads = [
        threading.Thread(target=read, args=(bench.accumulator.reader(f"r{n}"),)) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for number in range(150):
        bench.tick(**{f"key{(number + i) % 70}": 3 for i in range(20)})
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
    books = bench.accumulator.totals()[IO]
    assert books.live + books.retired + books.overflow == books.total == 150 * 20 * 3


@pytest.mark.parametrize("temporality", list(Temporality))
def test_ending_all_gives_final_values(temporality: Temporality) -> None:
    bench = Bench()
    reader = bench.accumulator.reader("x", temporality=temporality, zero_points=False)
    bench.tick(a=5)
    bench.accumulator.end_all(T0 + 2 * SECOND)
    export = reader.take()
    assert listed(export) == [("a", "value", 0, 2000, 5)]
    reader.acknowledge(export)  # type: ignore[arg-type]
    bench.accumulator.snapshot(T0 + 3 * SECOND)
    marker = [] if temporality is Temporality.DELTA else [("a", "none", 0, 3000, 0)]
    assert listed(reader.take()) == marker
