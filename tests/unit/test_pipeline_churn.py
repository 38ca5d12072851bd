"""Series that come and go under readers: nothing is lost, no id changes its meaning."""

from __future__ import annotations

import threading
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from retina_otel.pipeline.points import Temporality
from retina_otel.pipeline.readers import SnapshotReader
from tests.unit.pipeline_parts import IO, SECOND, Bench, listed

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
