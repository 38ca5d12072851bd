"""Each drop is credited to whose packet it was, or to nobody: never to a pod that it was not of.

The receiver sees the whole machine, on which others may use the same addresses.
"""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import suppress

import pytest

from retina_otel.model import signals
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind
from retina_otel.testing import packets, traffic
from retina_otel.testing.lab import Lab
from tests.netns.drops_in_lab import DROPPED, Counting, counting, firewall, settle, snmp, values

OTHERS_PORT = 50029
INGRESS = f"""
table netdev t {{
  counter dropped {{ }}
  chain in {{
    type filter hook ingress device "veth-web" priority 0;
    udp dport {DROPPED} counter name dropped drop;
  }}
}}
"""


def by_address(lab: Lab) -> list[Endpoint]:
    """What an API server tells of pods."""
    return [
        Endpoint(
            EndpointKind.POD,
            pod.identity.name,
            {"k8s.pod.name": pod.identity.name},
            addresses=(pod.ipv4, pod.ipv6),
        )
        for pod in lab.pods
    ]


def credited(drops: Counting, port: int = 0) -> Counter[tuple[str, str]]:
    """Packets by the pods of both ends: those that have any, or all from a source port."""
    found = Counter[tuple[str, str]]()
    for batch in drops.metrics:
        assert batch.source is not None
        assert batch.source_rows is not None
        assert batch.destination_rows is not None
        for source_port, source, destination, count in zip(
            batch.source.port.tolist(),
            batch.source_rows.tolist(),
            batch.destination_rows.tolist(),
            values(batch, signals.DROP_PACKETS),
            strict=True,
        ):
            ends = tuple(
                str(drops.identity.attributes(row).get("k8s.pod.name", ""))
                for row in (source, destination)
            )
            if source_port == port if port else any(ends):
                found[ends[0], ends[1]] += count
    return found


def wrong_checksums(lab: Lab, count: int) -> None:
    """Datagrams that a pod takes into a socket's queue and drops when they are read: by then the
    kernel has forgotten device and socket of each."""
    web, api = lab.pod("web"), lab.pod("api")
    datagram = bytearray(packets.udp(web.ipv4, api.ipv4, OTHERS_PORT, 9, bytes(701)))
    datagram[6] ^= 1
    packet = packets.ipv4(web.ipv4, api.ipv4, packets.UDP, bytes(datagram))
    before = snmp(api, "Udp", "InCsumErrors")

    def dropped() -> int:
        with suppress(BlockingIOError):
            while reader.recv(2048, socket.MSG_DONTWAIT):
                raise AssertionError("a datagram with a wrong checksum was delivered")
        return snmp(api, "Udp", "InCsumErrors") - before

    with api.socket(socket.AF_INET, socket.SOCK_DGRAM) as reader:
        reader.bind((api.ipv4, 9))
        traffic.frames(web, [packets.ethernet(api.mac, web.mac, packet)], repeat=count)
        settle(dropped, count)


def test_both_ends_are_known_by_namespace_and_address(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    with counting(lab) as drops:
        drops.identity.update(
            [Endpoint(EndpointKind.CIDR, "web", {"cidr": "by-address"}, addresses=(web.ipv4,))],
            source="address",
        )
        traffic.udp(web, (api.ipv4, DROPPED), packets=11)
        settle(lambda: truth()[0], 11)
        drops.take()
    (batch,) = drops.metrics
    assert batch.source_rows is not None
    assert batch.destination_rows is not None
    attributes = drops.identity.attributes
    assert [attributes(row) for row in batch.source_rows.tolist()] == [{"cidr": "by-address"}]
    assert [attributes(row) for row in batch.destination_rows.tolist()] == [{"k8s.pod.name": "api"}]


def test_on_the_node_a_source_is_known_by_its_wire_and_a_destination_by_its_address(
    lab: Lab,
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(lab.node, INGRESS, "netdev")
    with counting(lab) as drops:
        drops.identity.update(
            [
                Endpoint(EndpointKind.POD, "web", {"by": "wire"}, interfaces=(web.host_ifindex,)),
                Endpoint(EndpointKind.POD, "api", {"by": "address"}, addresses=(api.ipv4,)),
            ],
            source="given",
        )
        traffic.udp(web, (api.ipv4, DROPPED), packets=61)
        settle(lambda: truth()[0], 61)
        drops.take()
    (batch,) = drops.metrics
    assert values(batch, signals.DROP_PACKETS) == [61]
    assert batch.source_rows is not None
    assert batch.destination_rows is not None
    assert drops.identity.attributes(int(batch.source_rows[0])) == {"by": "wire"}
    assert drops.identity.attributes(int(batch.destination_rows[0])) == {"by": "address"}


@pytest.mark.parametrize("where", ["pod", "node"])
def test_drops_of_others_with_the_same_addresses_are_not_credited_to_our_pods(
    lab: Lab, where: str
) -> None:
    with Lab("shop/web", "shop/api") as others:
        truth = firewall(lab.pod("api"))
        theirs = (
            firewall(others.pod("api"))
            if where == "pod"
            else firewall(others.node, INGRESS, "netdev")
        )
        with counting(lab, namespaces="all") as drops:
            drops.identity.update(by_address(lab), source="address")
            to = (lab.pod("api").ipv4, DROPPED)
            assert to == (others.pod("api").ipv4, DROPPED)
            traffic.udp(lab.pod("web"), to, packets=101)
            traffic.udp(others.pod("web"), to, packets=211, source_port=OTHERS_PORT)
            traffic.udp(lab.pod("web"), to, packets=103)
            settle(lambda: truth()[0], 204)
            settle(lambda: theirs()[0], 211)
            drops.take()
    assert credited(drops) == {("web", "api"): 204}
    assert credited(drops, OTHERS_PORT) == {("", ""): 211}


def test_a_drop_in_a_namespace_that_can_not_be_told_is_nobodys(lab: Lab) -> None:
    with counting(lab, namespaces="all") as drops:
        drops.identity.update(by_address(lab), source="address")
        wrong_checksums(lab, 31)
        drops.take()
    assert credited(drops) == {}
    assert credited(drops, OTHERS_PORT) == {("", ""): 31}


def test_where_only_the_nodes_namespaces_count_one_that_can_not_be_told_is_not_ours(
    lab: Lab,
) -> None:
    with counting(lab) as drops:
        drops.take()
        before = drops.ledger.report().not_ours.get("unknown_netns", 0)
        wrong_checksums(lab, 31)
        drops.take()
        assert drops.ledger.report().not_ours["unknown_netns"] - before == 31
    assert drops.metrics == []
