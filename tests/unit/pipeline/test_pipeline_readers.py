"""Readers: zero points, final values, stale markers, deltas, times."""

from __future__ import annotations

import numpy as np
import pytest

from retina_otel.model.batches import MetricBatch, Window
from retina_otel.pipeline.points import Temporality
from tests.unit.pipeline.pipeline_parts import (
    IO,
    LATENCY,
    MS,
    OPEN,
    SECOND,
    T0,
    Bench,
    batch,
    listed,
    pod,
    window,
)


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


def test_a_reader_that_lingers_gives_final_values_for_so_long_after_they_were_acknowledged() -> (
    None
):
    bench = Bench(idle_ns=SECOND)
    reader = bench.accumulator.reader(
        "x", zero_points=False, stale_markers=False, linger_ns=2 * SECOND
    )
    bench.tick(a=5)
    given = []
    for _ in range(5):
        bench.tick()
        export = reader.take()
        given.append(listed(export))
        reader.acknowledge(export)  # type: ignore[arg-type]
    final = [("a", "value", 0, 2000, 5)]
    assert given == [final, final, final, [], []]


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


def test_each_snapshot_is_later_than_the_one_before_whatever_the_clock_says() -> None:
    bench = Bench()
    bench.tick(a=5)
    times = [bench.accumulator.snapshot(T0 + ms * MS).time_ns for ms in (1000, 1001, 500, 1010)]
    assert [(time - T0) // MS for time in times] == [1002, 1004, 1006, 1010]


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


def test_a_delta_of_a_new_series_is_not_told_from_the_one_whose_row_it_has() -> None:
    bench = Bench(idle_ns=SECOND)
    reader = bench.accumulator.reader("x", temporality=Temporality.DELTA, stale_markers=False)
    bench.tick(a=5)
    bench.tick()  # ends
    reader.acknowledge(reader.take())  # type: ignore[arg-type]
    bench.tick()  # is freed
    bench.tick(b=3)
    assert listed(reader.take()) == [("b", "value", 3000, 4000, 3)]


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


def test_low_memory_means_deltas_of_histograms_and_sums_of_counters() -> None:
    bench = Bench()
    reader = bench.accumulator.reader("x", temporality=Temporality.LOWMEMORY, zero_points=False)
    for _ in range(2):
        bench.accumulator.add(batch(window(bench.number), ["a"], [3], IO))
        bench.tick(LATENCY, a=2)
        export = reader.take()
        assert export is not None
        reader.acknowledge(export)
    assert listed(export) == [("a", "value", 0, 2000, 6), ("a", "value", 1000, 2000, ([2, 2], 2.0))]
    assert [(block.metric.name, block.temporality) for block in export.blocks] == [
        (IO.name, Temporality.CUMULATIVE),
        (LATENCY.name, Temporality.DELTA),
    ]


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
