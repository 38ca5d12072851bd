"""Projection: which attributes stand on a point, and that equal looks mean one set."""

from __future__ import annotations

import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.model.attribute_sets import EMPTY_SET, AttributeSet, AttributeSets
from retina_otel.model.batches import Column, MetricBatch, RawEnds, Window
from retina_otel.model.signals import FLOW_IO, Attribute, Ends, Kind, Metric
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.identity.networks import parse
from retina_otel.pipeline.series import own_sets
from retina_otel.pipeline.series.projection import Choice, Projection, patterns_for

OWN = (Attribute("transport", "string", ""), Attribute("port", "int", "", opt_in=True))
BOTH = Metric("test.both", Kind.COUNTER, "By", "", OWN, Ends.BOTH)
ONE = Metric("test.one", Kind.COUNTER, "By", "", OWN, Ends.ONE)
NONE = Metric("test.none", Kind.COUNTER, "By", "", OWN)

POD = {
    "k8s.namespace.name": "shop",
    "k8s.pod.name": "web-0",
    "k8s.pod.uid": "u1",
    "k8s.owner.name": "web",
    "k8s.owner.type": "deployment",
    "k8s.node.name": "node-1",
    "k8s.pod.label.app": "web",
    "k8s.resource.type": "pod",
}
ENDPOINTS = (
    Endpoint(EndpointKind.POD, "u1", POD, ("10.0.0.1",)),
    Endpoint(EndpointKind.POD, "u2", {**POD, "k8s.pod.name": "web-1"}, ("10.0.0.2",)),
    Endpoint(EndpointKind.NODE, "n", {"k8s.node.name": "node-1", "k8s.node.uid": "n"}),
    Endpoint(EndpointKind.CIDR, "c", {"cidr": "office"}, ("192.0.2.0/24",)),
)
WEB_0, WEB_1, NODE, OFFICE = 1, 2, 3, 4


class Bench:
    def __init__(self, metric: Metric, *patterns: str, pod_uids: bool = False) -> None:
        self.endpoints = EndpointTable()
        self.endpoints.update(ENDPOINTS)
        self.sets = AttributeSets()
        self.metric = metric
        choice = Choice.of(metric, patterns or None, pod_uids=pod_uids)
        self.projection = Projection(self.endpoints, self.sets, choice)

    def look(self, source: int, destination: int = 0, **own: object) -> dict[str, object]:
        """What stands on a point from one row to another."""
        columns = {name: Column(np.zeros(1, np.int32), [v]) for name, v in own.items()}  # type: ignore[list-item]
        projected = self.projection.project(
            MetricBatch(
                Window(0, 1),
                {self.metric: np.ones(1, np.int64)},
                columns,
                raw("10.0.0.1", 1234),
                raw("fd00::2", 80),
                np.array([source], np.int32),
                np.array([destination], np.int32),
            )
        )
        pairs = [pair for ids in projected for pair in self.sets.get(int(ids[0]))]
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)


def raw(address: str, port: int) -> RawEnds:
    base = parse(address).base
    return RawEnds(
        np.array([base >> 64], np.uint64),
        np.array([base & (2**64 - 1)], np.uint64),
        np.array([port], np.uint16),
        np.zeros(1, np.uint32),
    )


def test_a_point_says_by_default_who_its_ends_are_and_what_is_bounded() -> None:
    assert Bench(BOTH).look(WEB_0, OFFICE, transport="tcp", port=80) == {
        "source.k8s.namespace.name": "shop",
        "source.k8s.pod.name": "web-0",
        "source.k8s.owner.name": "web",
        "destination.cidr": "office",
        "transport": "tcp",
    }


def test_a_point_of_flows_has_at_most_ten_attributes_of_its_own_and_its_pods() -> None:
    bench = Bench(FLOW_IO)
    service = Endpoint(EndpointKind.SERVICE, "s", {"k8s.service.name": "shop"})
    bench.endpoints.apply([service], source="services")
    rows = np.array([len(ENDPOINTS) + 1], np.int32)
    (reached,) = bench.endpoints.combined(rows, np.array([WEB_1], np.int32)).tolist()
    own = {attribute.name: "x" for attribute in FLOW_IO.attributes}
    assert sorted(bench.look(WEB_0, reached, **own)) == [
        "destination.k8s.namespace.name",
        "destination.k8s.owner.name",
        "destination.k8s.pod.name",
        "destination.k8s.service.name",
        "network.interface.direction",
        "network.transport",
        "network.type",
        "source.k8s.namespace.name",
        "source.k8s.owner.name",
        "source.k8s.pod.name",
    ]


def test_a_node_is_named_where_it_is_one_of_two_ends_and_is_the_resource_elsewhere() -> None:
    assert Bench(BOTH).look(NODE) == {"source.k8s.node.name": "node-1"}
    assert Bench(ONE).look(NODE) == {}
    assert Bench(ONE).look(WEB_0, transport="udp") == {
        "k8s.namespace.name": "shop",
        "k8s.pod.name": "web-0",
        "k8s.owner.name": "web",
        "transport": "udp",
    }
    assert Bench(NONE).look(WEB_0, WEB_1, transport="udp") == {"transport": "udp"}


def test_an_only_end_that_is_a_pod_has_its_uid_beside_its_name_when_asked_for() -> None:
    plain = Bench(ONE).look(WEB_0)
    assert Bench(ONE, pod_uids=True).look(WEB_0) == {**plain, "k8s.pod.uid": "u1"}
    assert Bench(ONE, "k8s.namespace.name", pod_uids=True).look(WEB_0) == {
        "k8s.namespace.name": "shop"
    }
    for metric, row in ((BOTH, WEB_0), (ONE, NODE), (NONE, WEB_0)):
        assert Bench(metric, pod_uids=True).look(row) == Bench(metric).look(row)


def test_patterns_choose_exactly_what_they_match() -> None:
    bench = Bench(BOTH, "source.k8s.owner.*", "destination.k8s.pod.label.*", "port")
    assert bench.look(WEB_0, WEB_1, transport="tcp", port=80) == {
        "source.k8s.owner.name": "web",
        "source.k8s.owner.type": "deployment",
        "destination.k8s.pod.label.app": "web",
        "port": 80,
    }


def test_patterns_can_add_to_the_default() -> None:
    bench = Bench(BOTH, "default", "source.k8s.pod.uid", "*.port", "destination.address")
    look = bench.look(WEB_0, OFFICE, transport="tcp", port=80)
    assert look == {
        **Bench(BOTH).look(WEB_0, OFFICE, transport="tcp", port=80),
        "source.k8s.pod.uid": "u1",
        "source.port": 1234,
        "destination.port": 80,
        "destination.address": "fd00::2",
    }


def test_ends_that_look_the_same_are_one_set() -> None:
    bench = Bench(BOTH, "*.k8s.owner.name")
    rows = np.array([WEB_0, WEB_1, NODE, 0], np.int32)
    values = {BOTH: np.ones(4, np.int64)}
    batch = MetricBatch(Window(0, 1), values, source_rows=rows, destination_rows=rows)
    source, destination, own = bench.projection.project(batch)
    assert source[0] == source[1] != EMPTY_SET
    assert source[2:].tolist() == [EMPTY_SET, EMPTY_SET]
    assert source[0] != destination[0] == destination[1]
    assert own.tolist() == [EMPTY_SET] * 4


def test_a_projection_follows_what_becomes_of_its_endpoints() -> None:
    bench = Bench(BOTH, "source.k8s.pod.name")
    assert bench.look(WEB_0) == {"source.k8s.pod.name": "web-0"}
    renamed = {**POD, "k8s.pod.name": "renamed"}
    bench.endpoints.apply([Endpoint(EndpointKind.POD, "u1", renamed)])
    assert bench.look(WEB_0) == {"source.k8s.pod.name": "renamed"}


def test_sets_of_endpoints_that_are_gone_are_given_back() -> None:
    bench = Bench(ONE, "k8s.pod.name")
    for number in range(5):
        bench.endpoints.apply([Endpoint(EndpointKind.POD, "u1", {"k8s.pod.name": f"n{number}"})])
        assert bench.look(WEB_0) == {"k8s.pod.name": f"n{number}"}
    bench.sets.reclaim(1)
    assert bench.sets.in_use == 2  # the empty set and n4
    bench.endpoints.apply(removed=["u1"])
    for second in (1, 20):
        bench.endpoints.advance(second * 1_000_000_000)
    bench.projection.alive()
    bench.sets.reclaim(1)
    assert bench.sets.in_use == 1


def test_a_set_is_alive_while_an_endpoint_that_is_there_has_it() -> None:
    bench = Bench(BOTH, "source.k8s.owner.name", "source.address")
    rows = np.array([WEB_0, WEB_1], np.int32)
    raws = RawEnds(
        np.zeros(2, np.uint64),
        np.full(2, 0xFFFF0A000001, np.uint64),
        np.zeros(2, np.uint16),
        np.zeros(2, np.uint32),
    )
    values = {BOTH: np.ones(2, np.int64)}
    source, _, _ = bench.projection.project(
        MetricBatch(Window(0, 1), values, source=raws, source_rows=rows)
    )
    assert source[0] == source[1]
    for gone, alive in (("u1", True), ("u2", False)):
        bench.endpoints.apply(removed=[gone])
        assert bool(bench.projection.alive()[0][source[0]]) is alive


def test_addresses_that_were_made_to_look_the_same_are_told_apart() -> None:
    def mixed(*columns: int) -> int:
        state = 0
        for column in columns:
            state = (state ^ column) * 0x9E3779B97F4A7C15 % 2**64
            state ^= state >> 29
        return state

    bench = Bench(BOTH, "source.address")
    first, second = 0xFD << 56, 0xFE << 56
    low = 1 ^ mixed(EMPTY_SET, 0, first) ^ mixed(EMPTY_SET, 0, second)
    ends = RawEnds(
        np.array([first, second], np.uint64),
        np.array([1, low], np.uint64),
        np.zeros(2, np.uint16),
        np.zeros(2, np.uint32),
    )
    assert mixed(EMPTY_SET, 0, first, 1) == mixed(EMPTY_SET, 0, second, low)
    values = {BOTH: np.ones(2, np.int64)}
    source, _, _ = bench.projection.project(MetricBatch(Window(0, 1), values, source=ends))
    found = [dict(bench.sets.get(int(number)))["source.address"] for number in source]
    assert found == ["fd00::1", str(ipaddress.IPv6Address(second << 64 | low))]


def test_the_choice_for_a_metric_is_by_its_name_then_by_the_first_pattern() -> None:
    attributes = {"test.*": ["a"], "test.o*": ["b"], "test.one": ["c"]}
    assert patterns_for(ONE, attributes) == ["c"]
    assert patterns_for(BOTH, attributes) == ["a"]
    assert patterns_for(FLOW_IO, attributes) is None


def test_no_default_of_a_flow_is_an_address_or_a_port() -> None:
    own = Choice.of(FLOW_IO).own_defaults
    assert own == {"network.interface.direction", "network.transport", "network.type"}


VALUES = st.one_of(
    st.text(max_size=3), st.integers(-3, 3), st.booleans(), st.sampled_from([1.0, 0.5])
)
TABLES = st.lists(st.lists(VALUES, min_size=1, max_size=4), max_size=3)


@given(TABLES, st.data())
@pytest.mark.parametrize(("dense", "mixed"), [(1 << 20, 1 << 62), (0, 1 << 62), (0, 0)])
def test_own_sets_are_the_attributes_of_each_row(
    dense: int, mixed: int, tables: list[list[object]], data: st.DataObject
) -> None:
    """Few, many and very many possible combinations are worked out in different ways."""
    count = data.draw(st.integers(0, 12))
    own, rows = {}, [dict[str, tuple[type, object]]() for _ in range(count)]
    for place, values in enumerate(tables):
        codes = data.draw(
            st.lists(st.integers(-1, len(values) - 1), min_size=count, max_size=count)
        )
        own[f"key{place}"] = Column(np.array(codes, np.int32), values)  # type: ignore[arg-type]
        for row, code in zip(rows, codes, strict=True):
            if code >= 0:
                row[f"key{place}"] = (type(values[code]), values[code])
    sets = AttributeSets()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_sets, "_DENSE", dense)
        patch.setattr(own_sets, "_MIXED", mixed)
        ids = own_sets.OwnSets(sets, lambda name: True).ids(count, own)
    assert [typed(sets.get(int(number))) for number in ids] == rows


def typed(attributes: AttributeSet) -> dict[str, tuple[type, object]]:
    return {key: (type(value), value) for key, value in attributes}


def test_ids_are_put_aside_before_they_are_given_to_another_set() -> None:
    sets = AttributeSets()
    first = sets.intern((("a", "1"),))
    sets.retain(first)
    sets.generation = 5
    sets.release(first)
    sets.reclaim(5)
    assert sets.intern((("a", "1"),)) == first  # still what it was
    sets.generation = 6
    sets.reclaim(6)
    assert sets.version(first) == 1
    assert sets.intern((("b", "2"),)) == first
    assert sets.get(first) == (("b", "2"),)


def test_an_id_that_is_referred_to_again_is_not_given_away() -> None:
    sets = AttributeSets()
    number = sets.intern((("a", "1"),))
    sets.retain_all(np.array([number, number, EMPTY_SET]))
    sets.release_all(np.array([number, number, EMPTY_SET]))
    sets.retain(number)
    sets.reclaim(100)
    assert (sets.version(number), sets.in_use) == (0, 2)
    sets.release(number)
    sets.reclaim(100)
    assert (sets.version(number), sets.in_use) == (1, 1)
