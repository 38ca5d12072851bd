"""Series that come and go under readers: nothing is lost, no id changes its meaning."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.model.signals import Metric
from retina_otel.pipeline.points import MetricsExport, Temporality
from retina_otel.pipeline.readers import SnapshotReader
from tests.unit.pipeline.pipeline_parts import (
    IO,
    LATENCY,
    OPEN,
    SECOND,
    T0,
    Bench,
    batch,
    listed,
    window,
)

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


def test_tables_grow_without_losing_a_series() -> None:
    bench = Bench()
    reader = bench.accumulator.reader("x", zero_points=False)
    truth = {f"key{number}": number + 1 for number in range(1500)}
    for low in range(0, 1500, 100):
        part = [f"key{number}" for number in range(low, low + 100)]
        for metric in (IO, LATENCY, OPEN):
            values = [truth[key] for key in part]
            bench.accumulator.add(batch(window(bench.number), part, values, metric))
    bench.tick()
    by_metric: dict[str, dict[str, object]] = {}
    export = reader.take()
    assert export is not None
    for block in export.blocks:
        shown = by_metric.setdefault(block.metric.name, {})
        single = MetricsExport(export.sequence, [block])
        shown.update({key: value for key, _, _, _, value in listed(single)})
    assert by_metric == {
        "test.io": truth,
        "test.latency": {key: ([n, n], float(n)) for key, n in truth.items()},
        "test.open": truth,
    }


@pytest.mark.parametrize(("metric", "value"), [(LATENCY, ([3, 3], 3.0)), (OPEN, 3)])
def test_a_row_that_is_used_again_has_nothing_of_its_last_series(
    metric: Metric, value: object
) -> None:
    bench = Bench(idle_ns=SECOND)
    reader = bench.accumulator.reader("x", zero_points=False, stale_markers=False)
    bench.tick(metric, a=5)
    bench.accumulator.end_all(T0 + 2 * SECOND)
    for _ in range(2):
        reader.acknowledge(reader.take())  # type: ignore[arg-type]
        bench.tick()
    bench.tick(metric, b=3)
    assert [(key, shown) for key, _, _, _, shown in listed(reader.take())] == [("b", value)]
    books = bench.accumulator.totals()[metric]
    assert (books.live, books.retired, books.total) == (
        (6, 10, 16) if metric is LATENCY else (0, 0, 0)
    )
