"""What attributes cost: against counting frozensets of what is left of each series."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.model.batches import Column, MetricBatch
from retina_otel.model.signals import Attribute, Ends, Kind, Metric
from retina_otel.pipeline.accumulator import Accumulator, AccumulatorSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.series.attribute_costs import AttributeCost, MetricCardinality
from tests.unit.pipeline.pipeline_parts import SECOND, T0, Bench, window

OWN = (Attribute("transport", "string", ""), Attribute("reason", "string", ""))
IO = Metric("test.io", Kind.COUNTER, "By", "", OWN, Ends.BOTH)
PACKETS = Metric("test.packets", Kind.COUNTER, "{packet}", "", OWN, Ends.BOTH)
PODS = [("shop", "web-1"), ("shop", "web-2"), ("bank", "web-1"), ("bank", "db"), ("", "node")]
WORDS = ["tcp", "udp", "full"]

Row = tuple[int, int, int, int]
ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(-1, 2), st.integers(-1, 2)),
    min_size=1,
    max_size=60,
)


def attributes(row: Row) -> dict[str, str]:
    found = {}
    for prefix, pod in (("source", row[0]), ("destination", row[1])):
        namespace, name = PODS[pod]
        found[f"{prefix}.k8s.pod.name"] = name
        if namespace:
            found[f"{prefix}.k8s.namespace.name"] = namespace
    for name, code in (("transport", row[2]), ("reason", row[3])):
        if code >= 0:
            found[name] = WORDS[code]
    return found


def accumulated(rows: list[Row], limit: int = 20_000) -> Accumulator:
    endpoints = EndpointTable()
    endpoints.update(
        Endpoint(
            EndpointKind.POD,
            f"uid-{number}",
            {"k8s.pod.name": name} | ({"k8s.namespace.name": namespace} if namespace else {}),
            (),
            (number + 1,),
        )
        for number, (namespace, name) in enumerate(PODS)
    )
    sources, destinations, transports, reasons = np.array(rows, np.int64).T
    accumulator = Accumulator(endpoints, AccumulatorSettings(cardinality_limit=limit))
    ones = np.ones(len(rows), np.int64)
    accumulator.add(
        MetricBatch(
            window(0),
            {IO: ones, PACKETS: ones},
            {
                "transport": Column(transports.astype(np.int32), WORDS),
                "reason": Column(reasons.astype(np.int32), WORDS),
            },
            source_rows=endpoints.resolve_interface((sources + 1).astype(np.uint32)),
            destination_rows=endpoints.resolve_interface((destinations + 1).astype(np.uint32)),
        )
    )
    accumulator.snapshot(T0 + SECOND)
    return accumulator


@given(ROWS)
def test_the_cost_of_an_attribute_is_what_is_told_apart_by_it_alone(rows: list[Row]) -> None:
    series = [attributes(row) for row in set(rows)]
    wanted = {
        AttributeCost(
            name,
            len({one[name] for one in series if name in one}),
            len({frozenset((k, v) for k, v in one.items() if k != name) for one in series}),
        )
        for name in {name for one in series for name in one}
    }
    io, packets = accumulated(rows).cardinality()
    assert set(io.attributes) == set(packets.attributes) == wanted
    without = [one.series_without for one in io.attributes]
    assert without == sorted(without)
    assert (io.metric, packets.metric) == ("test.io", "test.packets")
    assert {(one.series, one.limit, one.folded) for one in (io, packets)} == {
        (len(series), 20_000, 0)
    }


def test_what_found_no_room_is_counted_apart() -> None:
    rows: list[Row] = [(0, pod, transport, -1) for pod in range(5) for transport in (0, 1)]
    io = accumulated(rows, limit=4).cardinality()[0]
    assert (io.series, io.limit, io.folded) == (4, 4, 6)


def test_series_that_have_ended_cost_nothing() -> None:
    bench = Bench(idle_ns=2 * SECOND)
    bench.tick(a=1, b=1)
    for _ in range(3):
        bench.tick(b=1)
    assert bench.accumulator.cardinality() == (
        MetricCardinality("test.io", 1, 20_000, 0, (AttributeCost("key", 1, 1),)),
    )


def test_who_asks_leaves_no_reader_behind() -> None:
    bench = Bench(idle_ns=SECOND)
    assert bench.accumulator.cardinality() == ()
    bench.tick(a=1)
    bench.accumulator.cardinality()
    for _ in range(3):
        bench.tick()
    assert bench.accumulator.released_unacknowledged == 0
    assert bench.accumulator.cardinality()[0].series == 0
