"""A test for each row of the table in docs/where-a-packet-is-counted.md.

Every test looks at all that was reported, so that "once" is not only "at least once": the flows not
expected in a row are none.
"""

from __future__ import annotations

import pytest

from retina_otel.testing import traffic
from retina_otel.testing.lab import GATEWAY4, GATEWAY6, NODE4, NODE6, WORLD4, WORLD6, Lab, Pod
from retina_otel.testing.servers import TcpServer, UdpServer
from tests.netns.flows_in_lab import Flows, flows_in

FAMILIES = pytest.mark.parametrize("family", [4, 6])


def address(pod: Pod, family: int) -> str:
    return pod.ipv6 if family == 6 else pod.ipv4


def places(flows: Flows) -> dict[tuple[str, str], tuple[int, int]]:
    """(packets, bytes) by interface and direction: everything that was reported."""
    return {
        (flow.interface, flow.direction): flows.total(
            interface=flow.interface, direction=flow.direction
        )
        for flow in flows.packets
    }


@FAMILIES
def test_pod_to_pod_on_one_node_is_egress_of_one_and_ingress_of_the_other(
    lab: Lab, family: int
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with TcpServer(api, address(api, family), 8080), flows_in(lab) as flows:
        exchange = traffic.tcp(web, (address(api, family), 8080), requests=53)
        report = flows.settle()
    sent = (exchange.sent.packets, exchange.sent.bytes)
    received = (exchange.received.packets, exchange.received.bytes)
    assert places(flows) == {
        ("veth-web", "egress"): sent,
        ("veth-web", "ingress"): received,
        ("veth-api", "ingress"): sent,
        ("veth-api", "egress"): received,
    }
    assert report.not_ours["counted_elsewhere"] == 0
    assert report.difference == 0


@pytest.mark.kernels
@FAMILIES
def test_pod_to_outside_through_masquerade_is_counted_at_the_pod_only(
    lab: Lab, family: int
) -> None:
    web = lab.pod("web")
    world = WORLD6 if family == 6 else WORLD4
    with TcpServer(lab.outside, world, 8080), flows_in(lab) as flows:
        before = lab.node.counters("uplink0")
        exchange = traffic.tcp(web, (world, 8080), requests=53)
        echo = traffic.icmp_echo(web, world, packets=31)
        report = flows.settle()
        at_uplink = lab.node.counters("uplink0") - before
    sent = exchange.sent + echo.sent
    received = exchange.received + echo.received
    assert places(flows) == {
        ("veth-web", "egress"): (sent.packets, sent.bytes),
        ("veth-web", "ingress"): (received.packets, received.bytes),
    }
    # It did pass the uplink, masqueraded, in both directions.
    assert at_uplink.tx_packets == sent.packets
    assert at_uplink.rx_packets == received.packets
    assert report.not_ours["counted_elsewhere"] == sent.packets + received.packets
    assert (report.difference, report.held) == (0, 0)


@pytest.mark.kernels
@FAMILIES
def test_host_to_outside_is_counted_at_the_uplink(lab: Lab, family: int) -> None:
    world = WORLD6 if family == 6 else WORLD4
    with TcpServer(lab.outside, world, 8080), flows_in(lab) as flows:
        exchange = traffic.tcp(lab.node, (world, 8080), requests=53)
        echo = traffic.icmp_echo(lab.node, world, packets=31)
        report = flows.settle()
    sent = exchange.sent + echo.sent
    received = exchange.received + echo.received
    assert places(flows) == {
        ("uplink0", "egress"): (sent.packets, sent.bytes),
        ("uplink0", "ingress"): (received.packets, received.bytes),
    }
    assert report.not_ours["counted_elsewhere"] == 0
    assert (report.difference, report.held) == (0, 0)


@FAMILIES
def test_outside_to_host_is_counted_at_the_uplink(lab: Lab, family: int) -> None:
    node = NODE6 if family == 6 else NODE4
    with TcpServer(lab.node, node, 8080), UdpServer(lab.node, node, 9), flows_in(lab) as flows:
        exchange = traffic.tcp(lab.outside, (node, 8080), requests=53)
        silent = traffic.udp(lab.outside, (node, 9), packets=101)
        report = flows.settle()
    received = exchange.sent + silent
    assert places(flows) == {
        ("uplink0", "ingress"): (received.packets, received.bytes),
        ("uplink0", "egress"): (exchange.received.packets, exchange.received.bytes),
    }
    assert (report.difference, report.held) == (0, 0)


@FAMILIES
def test_outside_to_a_pod_by_destination_nat_is_counted_at_the_pod_only(
    lab: Lab, family: int
) -> None:
    web = lab.pod("web")
    node = NODE6 if family == 6 else NODE4
    target = f"[{web.ipv6}]" if family == 6 else web.ipv4
    layer = "ip6" if family == 6 else "ip"
    lab.node.nft(
        f"table {layer} forward_port {{ chain in {{ type nat hook prerouting priority dstnat;"
        f" tcp dport 18080 dnat to {target}:8080; }}; }}"
    )
    with TcpServer(web, address(web, family), 8080), flows_in(lab) as flows:
        exchange = traffic.tcp(lab.outside, (node, 18080), requests=53)
        report = flows.settle()
    sent = (exchange.sent.packets, exchange.sent.bytes)
    received = (exchange.received.packets, exchange.received.bytes)
    assert places(flows) == {
        ("veth-web", "ingress"): sent,
        ("veth-web", "egress"): received,
    }
    assert report.not_ours["counted_elsewhere"] == sent[0] + received[0]
    assert (report.difference, report.held) == (0, 0)


@FAMILIES
def test_host_to_a_local_pod_is_counted_at_the_pod_only(lab: Lab, family: int) -> None:
    web = lab.pod("web")
    with TcpServer(web, address(web, family), 8080), flows_in(lab) as flows:
        exchange = traffic.tcp(lab.node, (address(web, family), 8080), requests=53)
        report = flows.settle()
    assert places(flows) == {
        ("veth-web", "ingress"): (exchange.sent.packets, exchange.sent.bytes),
        ("veth-web", "egress"): (exchange.received.packets, exchange.received.bytes),
    }
    assert report.difference == 0


@FAMILIES
def test_pod_to_host_is_counted_at_the_pod_only(lab: Lab, family: int) -> None:
    web = lab.pod("web")
    gateway = GATEWAY6 if family == 6 else GATEWAY4
    with TcpServer(lab.node, gateway, 8080), flows_in(lab) as flows:
        exchange = traffic.tcp(web, (gateway, 8080), requests=53)
        report = flows.settle()
    assert places(flows) == {
        ("veth-web", "egress"): (exchange.sent.packets, exchange.sent.bytes),
        ("veth-web", "ingress"): (exchange.received.packets, exchange.received.bytes),
    }
    assert report.difference == 0


@FAMILIES
def test_loopback_is_not_counted(lab: Lab, family: int) -> None:
    local = "::1" if family == 6 else "127.0.0.1"
    with TcpServer(lab.node, local, 8080), flows_in(lab) as flows:
        traffic.tcp(lab.node, (local, 8080), requests=53)
        report = flows.settle()
    assert places(flows) == {}
    assert report.seen == 0


def test_what_is_held_at_the_end_is_the_node_s_own(lab: Lab) -> None:
    with UdpServer(lab.node, NODE4, 9), flows_in(lab) as flows:
        sent = traffic.udp(lab.outside, (NODE4, 9), packets=101)
        flows.collect()
        assert flows.ledger.report().held == sent.packets
        assert places(flows) == {}
        flows.finish()
        report = flows.ledger.report()
    assert places(flows) == {("uplink0", "ingress"): (sent.packets, sent.bytes)}
    assert (report.difference, report.held) == (0, 0)
