"""Accumulator: what goes in is credited once, whatever the order, the limit and the comings and
goings.

The independent truth is a Counter by attributes, kept beside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.model.batches import Column, Histogram, MetricBatch, Window
from retina_otel.model.signals import Attribute, Ends, Fold, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.points import MetricsExport
from retina_otel.pipeline.snapshots import Totals

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND
PODS = ("web", "api", "db", "dns", "gone")

OWN = (Attribute("transport", "string", ""), Attribute("port", "int", "", opt_in=True))
IO = Metric("test.io", Kind.COUNTER, "By", "", OWN, Ends.BOTH)
PACKETS = Metric("test.packets", Kind.COUNTER, "{packet}", "", OWN, Ends.BOTH)
SECONDS = Metric("test.time", Kind.COUNTER, "s", "", OWN, Ends.BOTH, integer=False)
OPEN = Metric("test.open", Kind.UPDOWN, "{connection}", "", OWN, Ends.BOTH)
HIGHEST = Metric("test.highest", Kind.GAUGE, "1", "", OWN, Ends.BOTH, Fold.MAX)
SUMMED = Metric("test.summed", Kind.GAUGE, "1", "", OWN, Ends.BOTH, Fold.SUM)
LATEST = Metric("test.latest", Kind.GAUGE, "1", "", OWN, Ends.BOTH, Fold.LAST)
LATENCY = Metric("test.latency", Kind.HISTOGRAM, "s", "", OWN, Ends.BOTH, boundaries=(1.0, 2.0))

Row = tuple[str, str, str | None]
Series = frozenset[tuple[str, object]]


def table(*pods: str) -> EndpointTable:
    endpoints = EndpointTable()
    endpoints.update(endpoint(name) for name in pods or PODS)
    return endpoints


def endpoint(name: str) -> Endpoint:
    attributes = {"k8s.pod.name": name, "k8s.namespace.name": "shop"}
    return Endpoint(EndpointKind.POD, name, attributes, (), (1 + PODS.index(name),))


def batch(
    endpoints: EndpointTable, rows: Sequence[Row], window: int = 0, **values: object
) -> MetricBatch:
    """`values` by the last part of a metric's name."""
    metrics = {m.name.removeprefix("test."): m for m in ALL}
    codes = {"tcp": 0, "udp": 1, None: -1}
    ends = [
        endpoints.resolve_interface(np.array([1 + PODS.index(n) for n in names], np.uint32))
        for names in ([row[0] for row in rows], [row[1] for row in rows])
    ]
    return MetricBatch(
        window=Window(T0 + window * SECOND, T0 + (window + 1) * SECOND),
        values={metrics[name]: column for name, column in values.items()},  # type: ignore[misc]
        own={"transport": Column(np.array([codes[r[2]] for r in rows], np.int32), ["tcp", "udp"])},
        source_rows=ends[0],
        destination_rows=ends[1],
    )


ALL = (IO, PACKETS, SECONDS, OPEN, HIGHEST, SUMMED, LATEST, LATENCY)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def series(source: str, destination: str, transport: str | None = "tcp") -> Series:
    attributes: dict[str, object] = {
        "source.k8s.pod.name": source,
        "source.k8s.namespace.name": "shop",
        "destination.k8s.pod.name": destination,
        "destination.k8s.namespace.name": "shop",
    }
    if transport:
        attributes["transport"] = transport
    return frozenset(attributes.items())


OVERFLOW: Series = frozenset({("otel.metric.overflow", True)})


def points(export: MetricsExport | None, metric: Metric) -> dict[Series, object]:
    """Values by attributes; fails on a second point of one series, or a key that is there twice."""
    assert export is not None
    found: dict[Series, object] = {}
    for block in export.blocks:
        if block.metric != metric:
            continue
        for place in range(len(block.source)):
            sets = (block.source[place], block.destination[place], block.own[place])
            pairs = [pair for number in sets for pair in block.sets.get(number)]
            assert len({key for key, _ in pairs}) == len(pairs)
            key = frozenset(pairs)
            assert key not in found
            values = block.values
            found[key] = (
                (values.counts[place].tolist(), values.sums[place].item())
                if isinstance(values, Histogram)
                else values[place].item()
            )
    return found


def plain(accumulator: Accumulator):  # type: ignore[no-untyped-def]
    """A reader without zero points and stale markers: one point for each series."""
    return accumulator.reader("test", zero_points=False, stale_markers=False)


ROWS = st.lists(
    st.tuples(st.sampled_from(PODS), st.sampled_from(PODS), st.sampled_from(["tcp", "udp", None])),
    max_size=20,
)
WINDOWS = st.lists(st.lists(ROWS, max_size=3), max_size=5)


@given(WINDOWS, st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_sum_of_the_parts_is_the_whole(
    windows: list[list[list[Row]]], limit: int, random: object
) -> None:
    endpoints = table()
    accumulator = Accumulator(endpoints, AccumulatorSettings(cardinality_limit=limit))
    reader = plain(accumulator)
    truth: Counter[Series] = Counter()
    packets = 0
    for number, batches in enumerate(windows):
        for rows in batches:
            values = [random.randrange(1 << 40) for _ in rows]  # type: ignore[attr-defined]
            for row, value in zip(rows, values, strict=True):
                truth[series(*row)] += value
            packets += len(rows)
            io, ones = np.array(values, np.int64), np.ones(len(rows), np.int64)
            accumulator.add(batch(endpoints, rows, number, io=io, packets=ones))
        accumulator.snapshot(T0 + (number + 1) * SECOND)
        found = points(reader.take(), IO)
        if truth:
            books = accumulator.totals()[IO]
            whole = truth.total()
            assert books == Totals(whole - found.get(OVERFLOW, 0), 0, found.get(OVERFLOW, 0), whole)
            assert sum(found.values()) == whole
            assert accumulator.totals()[PACKETS].total == packets
        assert {key: truth[key] for key in found if key != OVERFLOW} == {
            key: value for key, value in found.items() if key != OVERFLOW
        }
        assert len(found.keys() - {OVERFLOW}) == min(limit, len(truth))


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_batches_does_not_matter(rows: list[Row], random: object) -> None:
    valued = [(row, 10**place) for place, row in enumerate(rows[:18])]
    results = []
    for _ in range(2):
        endpoints = table()
        accumulator = Accumulator(endpoints)
        cut = random.randrange(len(valued) + 1)  # type: ignore[attr-defined]
        for part in (valued[:cut], valued[cut:]):
            values = np.array([value for _, value in part], np.int64)
            accumulator.add(batch(endpoints, [row for row, _ in part], io=values))
        accumulator.snapshot(T0 + SECOND)
        results.append(points(plain(accumulator).take(), IO))
        random.shuffle(valued)  # type: ignore[attr-defined]
    assert results[0] == results[1]


@given(st.lists(st.sampled_from(["add", "quiet", "leave", "come", "ack"]), max_size=30))
def test_live_and_retired_and_overflow_are_the_total_through_all_lives(steps: list[str]) -> None:
    endpoints = table()
    settings = AccumulatorSettings(cardinality_limit=2, idle_ns=3 * SECOND, release_ns=8 * SECOND)
    accumulator = Accumulator(endpoints, settings)
    reader = accumulator.reader("test")
    total = 0
    for number, step in enumerate(steps):
        if step == "add":
            rows: list[Row] = [("web", "gone", "tcp"), ("api", "db", None), ("web", "db", "udp")]
            accumulator.add(batch(endpoints, rows, number, io=ints(3, 5, 7)))
            total += 15
        elif step in ("leave", "come"):
            here = [name for name in PODS if name != "gone" or step == "come"]
            endpoints.update(endpoint(name) for name in here)
        accumulator.snapshot(T0 + (number + 1) * SECOND)
        export = reader.take()
        assert export is not None
        if step == "ack":
            reader.acknowledge(export)
        if total:
            books = accumulator.totals()[IO]
            assert books.live + books.retired + books.overflow == books.total == total
            assert accumulator.n_live <= 2


def test_a_batch_with_several_metrics_credits_each_to_the_same_series() -> None:
    endpoints = table()
    accumulator = Accumulator(endpoints)
    rows: list[Row] = [("web", "api", "tcp"), ("web", "db", "udp"), ("web", "api", "tcp")]
    accumulator.add(
        batch(endpoints, rows, io=ints(100, 20, 3), packets=ints(10, 2, 1), time=np.full(3, 0.5))
    )
    accumulator.snapshot(T0 + SECOND)
    export = plain(accumulator).take()
    one, other = series("web", "api"), series("web", "db", "udp")
    assert points(export, IO) == {one: 103, other: 20}
    assert points(export, PACKETS) == {one: 11, other: 2}
    assert points(export, SECONDS) == {one: 1.0, other: 0.5}


def test_a_metric_has_no_points_of_series_it_was_not_reported_for() -> None:
    endpoints = table()
    accumulator = Accumulator(endpoints)
    accumulator.add(batch(endpoints, [("web", "api", "tcp")], io=ints(1), packets=ints(1)))
    accumulator.add(batch(endpoints, [("web", "db", "tcp")], io=ints(2)))
    accumulator.snapshot(T0 + SECOND)
    export = plain(accumulator).take()
    assert points(export, IO) == {series("web", "api"): 1, series("web", "db"): 2}
    assert points(export, PACKETS) == {series("web", "api"): 1}


@pytest.mark.parametrize(
    ("metric", "name", "once", "twice"),
    [
        (OPEN, "open", 7, 5),
        (SUMMED, "summed", 7, 5),
        (HIGHEST, "highest", 4, 3),
        (LATEST, "latest", 1, 3),
    ],
)
def test_readings_of_a_window_are_folded_and_replace_those_before(
    metric: Metric, name: str, once: int, twice: int
) -> None:
    endpoints = table()
    accumulator = Accumulator(endpoints)
    reader = plain(accumulator)
    same: list[Row] = [("web", "api", "tcp")] * 2
    accumulator.add(batch(endpoints, same, **{name: ints(2, 4)}))
    accumulator.add(batch(endpoints, same[:1], **{name: ints(1)}))
    accumulator.snapshot(T0 + SECOND)
    assert points(reader.take(), metric) == {series("web", "api"): once}
    accumulator.add(batch(endpoints, same, 1, **{name: ints(2, 3)}))
    accumulator.snapshot(T0 + 2 * SECOND)
    assert points(reader.take(), metric) == {series("web", "api"): twice}
    assert accumulator.totals()[metric] == Totals(0, 0, 0, 0)


def test_a_reading_that_is_missing_in_the_newest_report_has_ended() -> None:
    endpoints = table()
    accumulator = Accumulator(endpoints)
    reader = plain(accumulator)
    accumulator.add(batch(endpoints, [("web", "api", None), ("web", "db", None)], open=ints(1, 2)))
    accumulator.snapshot(T0 + SECOND)
    reader.acknowledge(reader.take())
    for _ in range(2):  # nothing was reported: nothing is known anew
        accumulator.snapshot(T0 + 2 * SECOND)
        export = reader.take()
        assert points(export, OPEN) == {series("web", "api", None): 1, series("web", "db", None): 2}
        reader.acknowledge(export)
    accumulator.add(batch(endpoints, [("web", "db", None)], 2, open=ints(5)))
    accumulator.snapshot(T0 + 3 * SECOND)
    export = reader.take()
    assert points(export, OPEN) == {series("web", "api", None): 1, series("web", "db", None): 5}
    reader.acknowledge(export)
    assert points(reader.take(), OPEN) == {series("web", "db", None): 5}


def test_a_reading_ends_and_a_counter_beside_it_does_not() -> None:
    endpoints = table()
    accumulator = Accumulator(endpoints)
    reader = plain(accumulator)
    both: list[Row] = [("web", "api", None), ("web", "db", None)]
    accumulator.add(batch(endpoints, both, io=ints(1, 2), open=ints(1, 2)))
    accumulator.snapshot(T0 + SECOND)
    accumulator.add(batch(endpoints, both[1:], 1, io=ints(3), open=ints(4)))
    accumulator.snapshot(T0 + 2 * SECOND)
    reader.acknowledge(reader.take())
    export = reader.take()
    one, other = series("web", "api", None), series("web", "db", None)
    assert points(export, IO) == {one: 1, other: 5}
    assert points(export, OPEN) == {other: 4}


def test_histograms_add_up_bucket_by_bucket() -> None:
    endpoints = table()
    accumulator = Accumulator(endpoints)
    rows: list[Row] = [("web", "api", None), ("web", "db", None), ("web", "api", None)]
    counts = np.array([[1, 0, 2], [0, 3, 0], [4, 0, 0]], np.int64)
    values = Histogram(counts, np.array([9.0, 4.5, 2.0]))
    for window in range(2):
        accumulator.add(batch(endpoints, rows, window, latency=values))
    accumulator.snapshot(T0 + 2 * SECOND)
    assert points(plain(accumulator).take(), LATENCY) == {
        series("web", "api", None): ([10, 0, 4], 22.0),
        series("web", "db", None): ([0, 6, 0], 9.0),
    }
    assert accumulator.totals()[LATENCY] == Totals(20, 0, 0, 20)


def test_rows_without_identity_are_credited_to_unknown() -> None:
    accumulator = Accumulator(EndpointTable())
    window = Window(T0, T0 + SECOND)
    accumulator.add(MetricBatch(window, {IO: ints(3, 4)}))
    accumulator.snapshot(T0 + SECOND)
    assert points(plain(accumulator).take(), IO) == {frozenset(): 7}


def test_a_value_of_the_wrong_shape_is_refused() -> None:
    accumulator = Accumulator(EndpointTable())
    window = Window(T0, T0 + SECOND)
    with pytest.raises(TypeError):
        accumulator.add(MetricBatch(window, {LATENCY: ints(3)}))
    values = Histogram(np.ones((1, 3), np.int64), np.ones(1))
    for metric in (IO, OPEN):
        with pytest.raises(TypeError):
            accumulator.add(MetricBatch(window, {metric: values}))
