"""Flow packets and bytes = interface counters = the sender's tally; no offloads, prime counts."""

from __future__ import annotations

import threading

import pytest

from retina_otel.testing import packets as build
from retina_otel.testing import traffic
from retina_otel.testing.lab import Lab, Pod
from retina_otel.testing.servers import TcpServer, UdpServer
from tests.netns.flows_in_lab import Flows, flipping, flows_in

ETHERNET = 14


def address(pod: Pod, family: int) -> str:
    return pod.ipv6 if family == 6 else pod.ipv4


def assert_books_close(flows: Flows) -> None:
    report = flows.settle()
    assert report.difference == 0
    assert sum(report.lost.values()) == 0
    assert report.held == 0


@pytest.mark.kernels
@pytest.mark.parametrize("family", [4, 6])
def test_udp_between_pods_is_counted_once_at_each_end(lab: Lab, family: int) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, address(api, family), 9), flows_in(lab) as flows:
        before = web.counters(), api.counters()
        sent = traffic.udp(web, (address(api, family), 9), packets=1009)
        assert_books_close(flows)
        carried = web.counters() - before[0], api.counters() - before[1]
    assert flows.total(interface="veth-web", direction="egress") == (sent.packets, sent.bytes)
    assert flows.total(interface="veth-api", direction="ingress") == (sent.packets, sent.bytes)
    assert (carried[0].tx_packets, carried[0].tx_bytes) == (sent.packets, sent.bytes)
    assert (carried[1].rx_packets, carried[1].rx_bytes) == (sent.packets, sent.bytes)
    assert len(flows.packets) == 2
    assert {flow.transport for flow in flows.packets} == {"udp"}


@pytest.mark.kernels
@pytest.mark.parametrize("family", [4, 6])
def test_pings_between_pods_are_counted_in_both_directions(lab: Lab, family: int) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with flows_in(lab) as flows:
        exchange = traffic.icmp_echo(web, address(api, family), packets=101)
        assert_books_close(flows)
    sent, received = exchange.sent, exchange.received
    assert flows.total(interface="veth-web", direction="egress") == (sent.packets, sent.bytes)
    assert flows.total(interface="veth-web", direction="ingress") == (
        received.packets,
        received.bytes,
    )
    assert flows.total(interface="veth-api", direction="ingress") == (sent.packets, sent.bytes)
    assert flows.total(interface="veth-api", direction="egress") == (
        received.packets,
        received.bytes,
    )
    assert {flow.transport for flow in flows.packets} == {"icmpv6" if family == 6 else "icmp"}


@pytest.mark.kernels
@pytest.mark.parametrize("family", [4, 6])
def test_tcp_between_pods_equals_both_interfaces_and_the_connection_s_own_count(
    lab: Lab, family: int
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with TcpServer(api, address(api, family), 8080), flows_in(lab) as flows:
        before = web.counters(), api.counters()
        exchange = traffic.tcp(web, (address(api, family), 8080), requests=101, connections=7)
        assert_books_close(flows)
        carried = web.counters() - before[0], api.counters() - before[1]
    out = flows.total(interface="veth-web", direction="egress")
    back = flows.total(interface="veth-web", direction="ingress")
    assert out == (exchange.sent.packets, exchange.sent.bytes)
    assert back == (exchange.received.packets, exchange.received.bytes)
    assert out == (carried[0].tx_packets, carried[0].tx_bytes)
    assert back == (carried[0].rx_packets, carried[0].rx_bytes)
    assert flows.total(interface="veth-api", direction="ingress") == out
    assert flows.total(interface="veth-api", direction="egress") == back
    assert flows.flags["veth-web", "egress", "syn"] == 7
    assert flows.flags["veth-web", "ingress", "syn_ack"] == 7
    assert flows.flags["veth-web", "egress", "fin"] == 7
    assert flows.flags["veth-web", "ingress", "fin"] == 7
    # Everything but the SYNs of the client acknowledges.
    assert flows.flags["veth-web", "egress", "ack"] == out[0] - 7
    assert flows.flags["veth-web", "ingress", "ack"] == back[0] - 7
    for flow, initiator in flows.initiators.items():
        assert initiator == ("destination" if flow.source_port == 8080 else "source")


def test_flags_of_single_segments_are_counted_each(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    wanted = {
        "urg": (0x30, 3),
        "ece": (0x50, 5),
        "cwr": (0x90, 7),
        "psh": (0x18, 11),
        "rst": (0x14, 13),
        "fin": (0x11, 17),
        "syn": (0x02, 19),
        "syn_ack": (0x12, 23),
    }
    with flows_in(lab) as flows:
        for flags, count in (*wanted.values(), (0x00, 29), (0x04, 31)):
            segment = build.tcp(web.ipv4, api.ipv4, 40000, 50000, flags)
            frame = build.ethernet(api.mac, web.mac, build.ipv4(web.ipv4, api.ipv4, 6, segment))
            traffic.frames(web, [frame] * count)
        assert_books_close(flows)
    counted = {
        name: count
        for (interface, direction, name), count in flows.flags.items()
        if (interface, direction) == ("veth-web", "egress")
    }
    expected = {name: count for name, (_, count) in wanted.items()}
    expected["rst"] += 31
    # ACK stands in all but the bare SYN, the null segment and the bare RST.
    expected["ack"] = 3 + 5 + 7 + 11 + 13 + 17
    assert counted == expected


@pytest.mark.parametrize("family", [4, 6])
def test_two_cpus_on_one_flow_lose_nothing_while_generations_flip(lab: Lab, family: int) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, address(api, family), 9), flows_in(lab) as flows:
        before = web.counters(), api.counters()
        with flipping(flows, 0.05):
            sent = traffic.two_cpus(web, (address(api, family), 9), packets_each=100_003)
        assert_books_close(flows)
        carried = web.counters() - before[0], api.counters() - before[1]
    assert flows.collections > 10
    assert flows.total(interface="veth-web", direction="egress") == (sent.packets, sent.bytes)
    assert flows.total(interface="veth-api", direction="ingress") == (sent.packets, sent.bytes)
    assert (carried[0].tx_packets, carried[1].rx_packets) == (sent.packets, sent.packets)


@pytest.mark.parametrize("family", [4, 6])
def test_twenty_thousand_flows_at_once_are_each_counted(lab: Lab, family: int) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with UdpServer(api, address(api, family), 9), flows_in(lab) as flows:
        before = web.counters()
        sent = traffic.many_flows(web, api, flows=20_011, packets_each=3, v6=family == 6)
        assert_books_close(flows)
        carried = web.counters() - before
    assert flows.total(interface="veth-web", direction="egress") == (sent.packets, sent.bytes)
    assert flows.total(interface="veth-api", direction="ingress") == (sent.packets, sent.bytes)
    assert carried.tx_packets == sent.packets
    of_web = {f: n for f, n in flows.packets.items() if f.interface == "veth-web"}
    assert len(of_web) == 20_011
    assert set(of_web.values()) == {3}


@pytest.mark.parametrize("family", [4, 6])
def test_a_full_table_overflows_to_the_ring_and_then_to_the_counter_of_the_lost(
    lab: Lab, family: int
) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    small = {
        "max_flows": 1024,
        "cache_bytes": 2 * 2 * 160 * 64,
        "ring_bytes": 65536,
        "interfaces": {"pods": ["veth-web"]},
    }
    with UdpServer(api, address(api, family), 9), flows_in(lab, **small) as flows:
        before = web.counters()
        sent = traffic.many_flows(web, api, flows=20_011, packets_each=3, v6=family == 6)
        report = flows.settle()
        carried = web.counters() - before
    counted, _ = flows.total(interface="veth-web", direction="egress")
    lost = report.lost["table_full"]
    assert report.difference == 0
    assert lost > 0
    assert counted + lost == sent.packets == carried.tx_packets == report.seen
    assert counted == report.drained


@pytest.mark.kernels
def test_unusual_packets_are_counted_with_their_headers(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    four, six = (web.ipv4, api.ipv4), (web.ipv6, api.ipv6)

    def eth(packet: bytes, **more: object) -> bytes:
        return build.ethernet(api.mac, web.mac, packet, **more)  # type: ignore[arg-type]

    frames = {
        ("udp", 1111, 9): eth(
            build.ipv4(*four, 17, build.udp(*four, 1111, 9, b"x" * 31), options=bytes(8))
        ),
        ("sctp", 2222, 9): eth(build.ipv4(*four, 132, build.sctp(2222, 9, b"y" * 40))),
        ("udp", 0, 0): eth(build.ipv4(*four, 17, b"z" * 64, fragment_offset=1480)),
        ("gre", 0, 0): eth(build.ipv4(*four, 47, b"g" * 64)),
        ("253", 0, 0): eth(build.ipv4(*four, 253, b"e" * 64)),
        ("udp", 3333, 9): eth(
            build.ipv6(
                *six,
                17,
                build.udp(*six, 3333, 9, b"x" * 31),
                extensions=[
                    (0, build.options_header(16)),
                    (43, build.routing_header(8)),
                    (60, build.options_header(8)),
                ],
            )
        ),
        ("udp", 4444, 9): eth(
            build.ipv6(
                *six,
                17,
                build.udp(*six, 4444, 9, b"x" * 31),
                extensions=[(44, build.fragment_header(0, True))],
            )
        ),
        ("tcp", 0, 0): eth(
            build.ipv6(*six, 6, b"t" * 64, extensions=[(44, build.fragment_header(1232, False))])
        ),
    }
    with flows_in(lab) as flows:
        expected = {}
        for number, (key, frame) in enumerate(frames.items()):
            count = 11 + number
            traffic.frames(web, [frame] * count)
            expected[key] = (count, count * len(frame))
        # ARP is not IP: in the ledger, not among the flows.
        arp = build.ethernet(api.mac, web.mac, bytes(46), ethertype=0x0806)
        traffic.frames(web, [arp] * 5)
        report = flows.settle()
    seen = {
        (f.transport, f.source_port, f.destination_port): (flows.packets[f], flows.bytes[f])
        for f in flows.packets
        if (f.interface, f.direction) == ("veth-web", "egress")
    }
    assert seen == expected
    assert report.difference == 0
    assert report.not_ours["not_ip"] == 10  # five at each pod's interface


@pytest.mark.parametrize("family", [4, 6])
def test_two_senders_that_open_the_same_flows_at_once_lose_nothing(lab: Lab, family: int) -> None:
    """Both CPUs insert the same rows at the same time: whoever comes second must find the row."""
    web, api = lab.pod("web"), lab.pod("api")
    tiny = {"cache_bytes": 0, "interfaces": {"pods": ["veth-web"]}}
    sent: list[traffic.Tally] = []

    def send() -> None:
        sent.append(traffic.many_flows(web, api, flows=20_011, packets_each=2, v6=family == 6))

    with UdpServer(api, address(api, family), 9), flows_in(lab, **tiny) as flows:
        before = web.counters()
        senders = [threading.Thread(target=send) for _ in range(2)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert_books_close(flows)
        carried = web.counters() - before
    total = sent[0] + sent[1]
    assert flows.total(interface="veth-web", direction="egress") == (total.packets, total.bytes)
    assert carried.tx_packets == total.packets
    assert set(flows.packets.values()) == {4}
