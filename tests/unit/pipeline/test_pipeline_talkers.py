"""Top talkers: who gets a series and who gives way, and that no increment is lost between them.

The model is a dict: an increment is credited to a series if there is one before or after its
window, else to overflow; a series with a new start begins at zero.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retina_otel.model.batches import Column, MetricBatch
from retina_otel.model.signals import (
    FLOW_IO,
    FLOW_PACKETS,
    NETWORK_INTERFACE_DIRECTION,
    Ends,
    Kind,
    Metric,
)
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.points import MetricsExport, Temporality
from retina_otel.pipeline.series.folding import MOST_NAMESPACES
from retina_otel.pipeline.series.talkers import TRACKED, Contenders, Talkers, TalkerSettings
from retina_otel.pipeline.snapshots import LIVE
from tests.unit.pipeline.pipeline_parts import IO, LATENCY, SECOND, T0, Bench, listed, window

OVERFLOW = ""
"""What `listed` calls the overflow series."""
KEYS = "abcdefghijklmnop"
WINDOWS = st.lists(
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 1 << 20), max_size=len(KEYS)), max_size=8
)
FOREVER = 1 << 62


def values(export: MetricsExport | None) -> dict[tuple[str, int], int]:
    """Cumulative values by key and start in ms, markers and zero points left out."""
    return {
        (key, start): int(str(value))
        for key, form, start, _, value in listed(export)
        if form == "value"
    }


def living(accumulator: Accumulator) -> set[str]:
    """Keys of the series that live after the newest snapshot."""
    snapshot = accumulator.newest
    if snapshot is None or not snapshot.tables:
        return set()
    table = snapshot.tables[0]
    rows = np.flatnonzero((table.keys.born > 0) & (table.ended == LIVE))
    sets = (dict(snapshot.sets.get(number)) for number in table.keys.own[rows].tolist())
    return {str(one["key"]) for one in sets if "key" in one}


@given(WINDOWS, st.integers(1, 5), st.sampled_from([2 * SECOND, FOREVER]))
@example([{"a": 1, "b": 1}, {"c": 9}, {"a": 100}, {"a": 1, "b": 50}], 2, FOREVER)
def test_values_are_those_of_a_dict_through_promotions_and_demotions(
    windows: list[dict[str, int]], limit: int, idle_ns: int
) -> None:
    bench = Bench(cardinality_limit=limit, cardinality_burst=0.5, idle_ns=idle_ns)
    reader = bench.accumulator.reader("x", zero_points=False, stale_markers=False)
    model: Counter[tuple[str, int]] = Counter()
    start_of: dict[str, int] = {}
    truth: Counter[str] = Counter()
    before: set[str] = set()
    for increments in windows:
        bench.tick(**increments)
        after = living(bench.accumulator)
        found = values(export := reader.take())
        assert export is not None
        reader.acknowledge(export)
        for key, start in found:
            start_of[key] = max(start_of.get(key, 0), start)
        for key, amount in increments.items():
            own = key in before | after
            model[(key, start_of[key]) if own else (OVERFLOW, start_of[OVERFLOW])] += amount
        assert found == {series: model[series] for series in found}
        assert after <= {key for key, _ in found}
        assert len(after) <= limit
        truth.update(increments)
        if truth:
            books = bench.accumulator.totals()[IO]
            assert books.overflow == sum(n for (key, _), n in model.items() if key == OVERFLOW)
            assert books.live + books.retired + books.overflow == books.total == truth.total()
        before = after


@given(WINDOWS, st.integers(2, 5), st.lists(st.booleans(), min_size=8, max_size=8))
def test_acknowledged_deltas_add_up_through_promotions_and_demotions(
    windows: list[dict[str, int]], limit: int, acknowledged: list[bool]
) -> None:
    bench = Bench(cardinality_limit=limit, cardinality_burst=0.5)
    reader = bench.accumulator.reader("x", temporality=Temporality.DELTA)
    delivered: Counter[str] = Counter()
    for increments, well in zip([*windows, {}], [*acknowledged[: len(windows)], True], strict=True):
        bench.tick(**increments)
        export = reader.take()
        assert export is not None
        if well:
            for key, _, _, _, value in listed(export):
                delivered[key] += int(str(value))
            reader.acknowledge(export)
    truth: Counter[str] = Counter()
    for increments in windows:
        truth.update(increments)
    assert bench.accumulator.released_unacknowledged == 0
    assert delivered.total() == truth.total()
    assert {key: n for key, n in delivered.items() if key and n > truth[key]} == {}


@given(WINDOWS)
def test_who_has_more_than_its_part_of_the_total_always_has_a_series(
    windows: list[dict[str, int]],
) -> None:
    limit = 4
    bench = Bench(cardinality_limit=limit, cardinality_burst=0.25, idle_ns=FOREVER)
    truth: Counter[str] = Counter()
    for increments in windows:
        bench.tick(**increments)
        truth.update(increments)
        heavy = {key for key, amount in truth.items() if amount > truth.total() / (limit / 2)}
        assert heavy - living(bench.accumulator) == set()


def test_a_displaced_series_ends_and_the_one_in_its_place_begins_at_zero() -> None:
    bench = Bench(cardinality_limit=2, cardinality_burst=0.5)
    reader = bench.accumulator.reader("x")

    def told() -> list[object]:
        export = reader.take()
        found = listed(export)
        reader.acknowledge(export)  # type: ignore[arg-type]
        return sorted(found, key=lambda point: (point[0], point[3]))

    bench.tick(a=5, b=6)
    told()
    bench.tick(b=1, c=100)
    assert told() == [
        ("a", "value", 0, 2000, 5),
        ("b", "value", 0, 2000, 7),
        ("c", "zero", 1000, 1001, 0),
        ("c", "value", 1000, 2000, 100),
    ]
    bench.tick(a=1)
    assert told() == [
        (OVERFLOW, "zero", 2000, 2001, 0),
        (OVERFLOW, "value", 2000, 3000, 1),
        ("a", "none", 0, 3000, 0),
        ("b", "value", 0, 3000, 7),
        ("c", "value", 1000, 3000, 100),
    ]
    bench.tick(b=1)
    told()
    bench.tick(a=1000)  # the newcomer that it is now: what it had before stays where it was
    assert told() == [
        (OVERFLOW, "value", 2000, 5000, 1),
        ("a", "zero", 4000, 4001, 0),
        ("a", "value", 4000, 5000, 1000),
        ("b", "value", 0, 5000, 8),
        ("c", "value", 1000, 5000, 100),
    ]
    assert bench.accumulator.released_unacknowledged == 0


def test_a_series_that_is_wanted_again_before_its_end_was_told_goes_on() -> None:
    bench = Bench(cardinality_limit=2, cardinality_burst=0.5)
    reader = bench.accumulator.reader("x", zero_points=False)
    bench.tick(a=1, b=5)
    bench.tick(c=50)  # in the place of a
    bench.tick(a=500)  # in the place of b
    assert sorted(listed(reader.take())) == [
        ("a", "value", 0, 3000, 501),
        ("b", "value", 0, 3000, 5),
        ("c", "value", 1000, 3000, 50),
    ]


def test_a_newcomer_must_be_half_as_heavy_again_as_the_weakest() -> None:
    bench = Bench(cardinality_limit=2, cardinality_burst=0.5, idle_ns=FOREVER)
    bench.tick(a=10, b=100)
    bench.tick(c=15)
    assert living(bench.accumulator) == {"a", "b"}
    bench.tick(c=1)  # 16 of 126 in all
    assert living(bench.accumulator) == {"c", "b"}


def test_a_budget_of_which_the_burst_is_no_series_keeps_those_that_came_first() -> None:
    bench = Bench(cardinality_limit=19)
    bench.tick(**{f"key{number}": 1 for number in range(19)})
    bench.tick(late=10**9)
    assert living(bench.accumulator) == {f"key{number}" for number in range(19)}


def test_the_heaviest_of_the_first_window_get_the_series_whatever_their_order() -> None:
    bench = Bench(cardinality_limit=3)
    bench.tick(a=1, b=5, c=2, d=4, e=3)
    assert living(bench.accumulator) == {"b", "d", "e"}


def test_replacements_are_rationed_and_the_ration_comes_back_with_time() -> None:
    settings = TalkerSettings(limit=100, half_life_ns=100 * SECOND)
    talkers = Talkers(settings, 100)
    talkers.seat(np.arange(100, dtype=np.int32), np.ones(100), np.zeros(100, np.uint64))
    talkers.heard(np.zeros(1, np.int32), np.array([1e9]))  # so that nobody else is heavy
    live = np.arange(100)
    replaced = []
    talkers.pass_time(T0)
    for number in range(6):
        keys = np.arange(20, dtype=np.uint64) + np.uint64(1000 * (1 + number))
        contenders = Contenders(keys, np.zeros(20, np.uint64), np.full(20, 1e4))
        verdict = talkers.judge(contenders, live)
        replaced.append(int(verdict.admitted.sum()))
        assert len(verdict.displaced) == replaced[-1]
        talkers.pass_time(T0 + (number + 1) * 2 * SECOND)
    assert replaced == [5, 2, 2, 2, 2, 2]  # a burst of 5 %, then 100 in 100 s


def test_weights_fade_so_that_the_top_is_that_of_now() -> None:
    def survivor(idle_ns: int) -> set[str]:
        bench = Bench(cardinality_limit=2, cardinality_burst=0.5, idle_ns=idle_ns)
        bench.tick(old=1000, other=10**6)
        for _ in range(20):
            bench.tick(old=1, other=10**6)
        bench.tick(old=1, other=10**6, new=800)
        return living(bench.accumulator)

    assert survivor(FOREVER) == {"old", "other"}
    assert survivor(5 * SECOND) == {"new", "other"}


def test_what_is_remembered_of_those_turned_away_is_bounded() -> None:
    limit = 10
    talkers = Talkers(TalkerSettings(limit, FOREVER), 16)
    random = np.random.default_rng(1)
    for number in range(30):
        keys = np.arange(1000, dtype=np.uint64) + np.uint64(1000 * number)
        weights = random.integers(1, 1000, 1000).astype(np.float64)
        talkers.judge(Contenders(keys, np.zeros(1000, np.uint64), weights), np.arange(0))
        assert talkers.tracked <= TRACKED * limit


def test_readings_keep_those_that_came_first() -> None:
    bench = Bench(cardinality_limit=2, cardinality_burst=0.5)
    gauge = Metric("test.gauge", Kind.GAUGE, "1", "", IO.attributes, Ends.ONE)
    bench.tick(gauge, a=1, b=1)
    bench.tick(gauge, a=1, b=1, c=1000)
    assert living(bench.accumulator) == {"a", "b"}


def test_histograms_weigh_by_their_counts() -> None:
    bench = Bench(cardinality_limit=2, cardinality_burst=0.5)
    bench.tick(LATENCY, a=10, b=20, c=30)
    assert living(bench.accumulator) == {"b", "c"}


# --- Namespaces ---


def cluster(namespaces: dict[str, int]) -> tuple[EndpointTable, dict[str, list[int]]]:
    """Pods of each namespace, and the interfaces behind which they live."""
    endpoints, interfaces, number = EndpointTable(), {}, 0
    pods = []
    for name, count in namespaces.items():
        interfaces[name] = list(range(number + 1, number + 1 + count))
        for ifindex in interfaces[name]:
            attributes = {"k8s.namespace.name": name, "k8s.pod.name": f"{name}-{ifindex}"}
            pods.append(Endpoint(EndpointKind.POD, f"{ifindex}", attributes, (), (ifindex,)))
        number += count
    endpoints.update(pods)
    return endpoints, interfaces


def flows(
    endpoints: EndpointTable,
    number: int,
    rows: list[tuple[int, int, str, int]],
    metric: Metric = FLOW_IO,
) -> MetricBatch:
    """Rows of source and destination interface, direction and bytes."""
    sources, destinations, directions, io = zip(*rows, strict=True)
    words = ["egress", "ingress"]
    codes = np.array([words.index(direction) for direction in directions], np.int32)
    return MetricBatch(
        window(number),
        {FLOW_PACKETS: np.ones(len(rows), np.int64), metric: np.array(io, np.int64)},
        {NETWORK_INTERFACE_DIRECTION.name: Column(codes, words)},
        source_rows=endpoints.resolve_interface(np.array(sources, np.uint32)),
        destination_rows=endpoints.resolve_interface(np.array(destinations, np.uint32)),
    )


@pytest.mark.parametrize(("share", "shown"), [(None, (100, 0)), (10, (90, 10)), (3, (97, 3))])
def test_a_noisy_namespace_takes_what_others_do_not_want_of_their_share(
    share: int | None, shown: tuple[int, int]
) -> None:
    endpoints, pods = cluster({"noisy": 300, "quiet": 20})
    settings = AccumulatorSettings(
        cardinality_limit=100, cardinality_per_namespace=share, cardinality_burst=0.05
    )
    accumulator = Accumulator(endpoints, settings)
    to = pods["noisy"][0]
    noisy = [(pod, to, "egress", 10**6 + pod) for pod in pods["noisy"]]
    quiet = [(pod, to, "egress", 1) for pod in pods["quiet"]]
    accumulator.add(flows(endpoints, 0, noisy))
    accumulator.snapshot(T0 + SECOND)
    for number in range(1, 40):  # a burst of five, then one in six seconds... until all are in
        accumulator.add(flows(endpoints, number * 60, noisy + quiet))
        accumulator.snapshot(T0 + (number * 60 + 1) * SECOND)
    snapshot = accumulator.newest
    assert snapshot is not None
    table = snapshot.tables[0]
    rows = np.flatnonzero((table.keys.born > 0) & (table.ended == LIVE))[1:]
    of = Counter(
        dict(snapshot.sets.get(number))["source.k8s.namespace.name"]
        for number in table.keys.source[rows].tolist()
    )
    assert (of["noisy"], of["quiet"]) == shown


def test_what_is_folded_is_told_by_the_namespace_of_the_workload() -> None:
    endpoints, pods = cluster({"shop": 30, "bank": 30, "dns": 1})
    settings = AccumulatorSettings(cardinality_limit=4, attributes={"*": ["source.k8s.pod.name"]})
    accumulator = Accumulator(endpoints, settings)
    dns, unknown = pods["dns"][0], 9999
    heavy = [(pod, dns, "egress", 10**6) for pod in pods["shop"][:4]]
    rows = [
        *heavy,
        *((pod, dns, "egress", 10) for pod in pods["shop"][4:10]),
        *((pod, dns, "ingress", 7) for pod in pods["shop"][10:12]),
        *((pod, dns, "egress", 3) for pod in pods["bank"]),
        (unknown, dns, "egress", 1),
        (pods["bank"][0], dns, "egress", 2),
    ]
    accumulator.add(flows(endpoints, 0, rows))
    accumulator.add(flows(endpoints, 0, [(pods["bank"][0], dns, "egress", 4)]))
    accumulator.snapshot(T0 + SECOND)
    io, packets = FLOW_IO.name, FLOW_PACKETS.name
    amounts = {(io, "shop"): 60, (io, "dns"): 14, (io, "bank"): 96, (io, ""): 1}
    counts = {"shop": 6, "dns": 2, "bank": 30, "": 1}
    assert accumulator.folding.io == amounts
    assert accumulator.folding.series == {
        (metric, namespace): n for metric in (io, packets) for namespace, n in counts.items()
    }
    assert accumulator.totals()[FLOW_IO].overflow == sum(amounts.values())
    accumulator.add(flows(endpoints, 1, heavy))
    accumulator.snapshot(T0 + 2 * SECOND)
    assert accumulator.folding.series == {}
    assert accumulator.folding.io == amounts


def test_without_a_direction_the_source_has_a_namespace_or_else_the_destination() -> None:
    endpoints, _ = cluster({"shop": 2, "bank": 2})
    accumulator = Accumulator(endpoints, AccumulatorSettings(cardinality_limit=1))
    drops = Metric("test.drops", Kind.COUNTER, "By", "", (), Ends.BOTH)
    rows = [(1, 3, "egress", 50), (2, 3, "egress", 3), (9999, 4, "egress", 2)]
    given = flows(endpoints, 0, rows, drops)
    accumulator.add(
        MetricBatch(
            given.window,
            given.values,
            {},
            source_rows=given.source_rows,
            destination_rows=given.destination_rows,
        )
    )
    accumulator.snapshot(T0 + SECOND)
    assert accumulator.folding.io == {(drops.name, "shop"): 3, (drops.name, "bank"): 2}


def test_namespaces_that_come_and_go_are_not_all_remembered() -> None:
    endpoints, pods = cluster({f"job{i}": 1 for i in range(MOST_NAMESPACES + 100)})
    accumulator = Accumulator(endpoints, AccumulatorSettings(cardinality_limit=1))
    everyone = [(pod, 0, "egress", 5) for (pod,) in pods.values()]
    for number in range(2):
        accumulator.add(flows(endpoints, number, everyone))
        accumulator.snapshot(T0 + (number + 1) * SECOND)
    io = accumulator.folding.io
    assert len(io) == MOST_NAMESPACES + 1
    assert sum(io.values()) == accumulator.totals()[FLOW_IO].overflow
    assert io[FLOW_IO.name, "job50"] == 10
    assert io[FLOW_IO.name, ""] == 2 * 5 * 99
