"""EndpointTable and its address index, against ipaddress as the independent truth."""

from __future__ import annotations

import ipaddress

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_otel.errors import RetinaError
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable
from retina_otel.pipeline.identity.networks import parse

SECOND = 1_000_000_000


def pod(name: str, *addresses: str, **claims: tuple[int, ...]) -> Endpoint:
    return Endpoint(EndpointKind.POD, name, {"k8s.pod.name": name}, addresses, **claims)


def halves(*texts: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    whole = [parse(text).base for text in texts]
    hi = np.array([base >> 64 for base in whole], np.uint64)
    return hi, np.array([base & (2**64 - 1) for base in whole], np.uint64)


def who(table: EndpointTable, *texts: str) -> list[str]:
    return [table.endpoint(row).key for row in table.resolve_address(*halves(*texts)).tolist()]


def behind(table: EndpointTable, *ifindexes: int) -> list[str]:
    rows = table.resolve_interface(np.array(ifindexes, np.uint32)).tolist()
    return [table.endpoint(row).key for row in rows]


V4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
NEAR_V4 = st.integers(0x0A000000, 0x0A0000FF).map(ipaddress.IPv4Address)
NEAR_V6 = st.integers(0, 255).map(lambda low: ipaddress.IPv6Address((0xFD << 120) + (low << 60)))
NETWORKS = st.one_of(
    st.tuples(NEAR_V4 | V4, st.integers(0, 32)), st.tuples(NEAR_V6 | V6, st.integers(0, 128))
).map(lambda pair: ipaddress.ip_network(pair, strict=False))
ADDRESSES = NEAR_V4 | V4 | NEAR_V6 | V6


@given(st.lists(NETWORKS, max_size=12, unique=True), st.lists(ADDRESSES, min_size=1, max_size=12))
def test_the_longest_prefix_wins(networks: list[object], addresses: list[object]) -> None:
    table = EndpointTable()
    table.update(Endpoint(EndpointKind.CIDR, str(one), {}, (str(one),)) for one in networks)
    expected = []
    for address in addresses:
        covering = [
            (network.prefixlen, str(network))
            for network in networks
            if network.version == address.version and address in network
        ]
        mapped = parse(str(address)).base
        unspecified = address.version == 6 and mapped == 0
        expected.append(max(covering)[1] if covering and not unspecified else "unknown")
    assert who(table, *map(str, addresses)) == expected


@given(st.sets(ADDRESSES, max_size=40), st.lists(ADDRESSES, max_size=20))
def test_single_addresses_are_found_and_no_others(known: set[object], others: list[object]) -> None:
    table = EndpointTable()
    table.update(pod(str(address), str(address)) for address in known)
    asked = [a for a in [*known, *others] if int(a) or a.version == 4]
    expected = [str(address) if address in known else "unknown" for address in asked]
    assert who(table, *map(str, asked)) == expected


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.0/33", "fd00::/129", "pod", "1.2.3.4/x"])
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(RetinaError, match="neither an address nor a network"):
        parse(text)


def test_a_refused_update_changes_nothing() -> None:
    table = EndpointTable()
    table.update([pod("web", "10.0.0.1")])
    with pytest.raises(RetinaError):
        table.update([pod("api", "10.0.0.2"), pod("db", "ten")])
    assert who(table, "10.0.0.1", "10.0.0.2") == ["web", "unknown"]


def test_ends_are_resolved_by_interface_namespace_and_address() -> None:
    table = EndpointTable()
    table.update(
        [
            pod("web", "10.0.0.1", "fd00::1", interfaces=(7,), netns=(4026532000,)),
            pod("api", "10.0.0.2", interfaces=(8, 9)),
            Endpoint(EndpointKind.CIDR, "office", {}, ("192.0.2.0/24", "2001:db8::/32")),
        ]
    )
    assert behind(table, 7, 8, 9, 10, 0) == ["web", "api", "api", "unknown", "unknown"]
    inodes = np.array([4026532000, 1, 0], np.uint32)
    rows = table.resolve_netns(inodes).tolist()
    assert [table.endpoint(row).key for row in rows] == ["web", "unknown", "unknown"]
    asked = ("10.0.0.1", "fd00::1", "10.0.0.2", "192.0.2.9", "2001:db8:1::1", "10.0.0.3", "::")
    expected = ["web", "web", "api", "office", "office", "unknown", "unknown"]
    assert who(table, *asked) == expected


def test_the_world_is_what_is_neither_known_nor_private_nor_special() -> None:
    table = EndpointTable()
    table.update([Endpoint(EndpointKind.WORLD, "world", {}), pod("web", "203.0.113.7")])
    assert who(table, "8.8.8.8", "2606:4700::1111", "203.0.113.7", "203.0.113.8") == [
        "world",
        "world",
        "web",
        "world",
    ]
    special = ("10.1.2.3", "172.31.0.1", "192.168.0.1", "127.0.0.1", "100.64.0.1", "169.254.1.1")
    more = ("224.0.0.1", "255.255.255.255", "fe80::1", "fd00::1", "ff02::1", "::1")
    assert who(table, *special, *more) == ["unknown"] * 12


def test_each_source_replaces_only_what_it_said() -> None:
    table = EndpointTable()
    table.update([pod("node-1", "10.0.0.9")], source="node")
    table.update([pod("web", "10.0.0.1"), pod("api", "10.0.0.2")], source="file")
    table.update([pod("api", "10.0.0.2")], source="file")
    table.advance(SECOND)
    table.advance(60 * SECOND)
    assert who(table, "10.0.0.9", "10.0.0.1", "10.0.0.2") == ["node-1", "unknown", "api"]


def test_apply_leaves_the_others_alone() -> None:
    table = EndpointTable()
    table.update([pod("web", "10.0.0.1"), pod("api", "10.0.0.2")])
    table.apply(added=[pod("db", "10.0.0.3")], removed=["web", "never-there"])
    table.advance(SECOND)
    table.advance(60 * SECOND)
    assert who(table, "10.0.0.1", "10.0.0.2", "10.0.0.3") == ["unknown", "api", "db"]


def test_a_changed_endpoint_keeps_its_row_and_an_equal_one_the_epoch() -> None:
    table = EndpointTable()
    table.update([pod("web", "10.0.0.1")])
    row = table.resolve_address(*halves("10.0.0.1")).tolist()
    epoch = table.epoch
    table.update([pod("web", "10.0.0.1")])
    assert table.epoch == epoch
    table.update([Endpoint(EndpointKind.POD, "web", {"k8s.pod.name": "new"}, ("10.0.0.5",))])
    assert table.epoch > epoch
    assert table.resolve_address(*halves("10.0.0.5")).tolist() == row
    assert who(table, "10.0.0.1") == ["unknown"]
    assert table.attributes(row[0]) == {"k8s.pod.name": "new"}


def test_a_removed_endpoint_lingers_unless_a_present_one_has_its_address() -> None:
    table = EndpointTable(linger_ns=10 * SECOND)
    table.update([pod("old", "10.0.0.1", "10.0.0.2", interfaces=(7,))])
    table.update([pod("new", "10.0.0.1")])
    table.advance(100 * SECOND)
    assert who(table, "10.0.0.1", "10.0.0.2") == ["new", "old"]
    assert behind(table, 7) == ["old"]
    table.advance(109 * SECOND)
    assert behind(table, 7) == ["old"]
    table.advance(110 * SECOND)
    assert behind(table, 7) == ["unknown"]
    assert who(table, "10.0.0.1", "10.0.0.2") == ["new", "unknown"]


def test_lingering_does_not_last_longer_when_the_clock_steps_back() -> None:
    table = EndpointTable(linger_ns=10 * SECOND)
    table.update([pod("old", interfaces=(7,))])
    table.update([])
    table.advance(1000 * SECOND)
    table.advance(10 * SECOND)
    table.advance(20 * SECOND)
    assert behind(table, 7) == ["unknown"]


def test_a_row_is_given_to_another_only_after_time_and_ticks() -> None:
    table = EndpointTable(linger_ns=SECOND, reuse_ns=60 * SECOND)
    table.update([pod("old", interfaces=(7,))])
    row = int(table.resolve_interface(np.array([7], np.uint32))[0])
    table.update([])
    for tick in range(1, 8):
        for _ in range(3):  # the same tick, told by several accumulators
            table.advance(tick * 20 * SECOND)
    table.update([pod("second", interfaces=(8,))])
    assert int(table.resolve_interface(np.array([8], np.uint32))[0]) != row
    assert table.endpoint(row).key == "old"
    for tick in range(8, 10):
        table.advance(tick * 20 * SECOND)
    table.apply([pod("third", interfaces=(9,))])
    assert int(table.resolve_interface(np.array([9], np.uint32))[0]) == row
    assert behind(table, 7, 8, 9) == ["unknown", "second", "third"]


def test_near_pods_is_what_may_be_a_pods_of_whom_nobody_has_heard() -> None:
    table = EndpointTable()
    node = Endpoint(EndpointKind.NODE, "node-1", {}, ("10.2.0.1",))
    office = Endpoint(EndpointKind.CIDR, "office", {}, ("10.0.0.0/8",))
    table.update([node, office, pod("web", "10.1.2.3", "2001:db8:7::1")])
    asked = ("10.1.9.9", "10.2.0.2", "2001:db8:7:ffff::1", "2001:db8:8::1", "8.8.8.8", "::")
    bases = [parse(text).base for text in asked]
    hi = np.array([base >> 64 for base in bases], np.uint64)
    lo = np.array([base & (1 << 64) - 1 for base in bases], np.uint64)
    assert table.near_pods(hi, lo).tolist() == [True, False, True, False, False, False]


def test_by_address_a_node_goes_before_a_pod_on_its_network() -> None:
    table = EndpointTable()
    node = Endpoint(EndpointKind.NODE, "node-1", {}, ("10.0.0.1",))
    for order in ([node, pod("host-pod", "10.0.0.1")], [pod("host-pod", "10.0.0.1"), node]):
        table.update(order)
        assert who(table, "10.0.0.1") == ["node-1"]


def test_the_index_has_the_rows_that_live_on_this_node() -> None:
    table = EndpointTable()

    def local() -> list[str]:
        return [table.endpoint(row).key for row in table.index.local.tolist()]

    def pod(key: str, **where: tuple[int, ...]) -> Endpoint:
        return Endpoint(EndpointKind.POD, key, {}, ("10.0.0.1",), **where)

    assert local() == []
    table.apply([pod("far"), pod("by interface", interfaces=(3,)), pod("by name", netns=(4,))])
    assert local() == ["by interface", "by name"]
    table.apply([pod("far", netns=(5,)), pod("by name")], ["by interface"])
    assert local() == ["far"]
    table.update([])
    assert local() == []
