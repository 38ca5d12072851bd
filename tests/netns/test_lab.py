"""The lab itself: a test's packets are the only ones on its wires, and nothing of it stays
behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from retina_otel.errors import RetinaError
from retina_otel.testing import packets, traffic
from retina_otel.testing.lab import WORLD4, WORLD6, Lab, Pod
from retina_otel.testing.namespaces import Counters, remove_strays
from retina_otel.testing.servers import TcpServer, UdpServer
from retina_otel.testing.traffic import Exchange, Tally

SILENCE = Counters(0, 0, 0, 0, 0, 0, 0, 0)


def address(pod: Pod, family: str) -> str:
    return pod.ipv4 if family == "ipv4" else pod.ipv6


def sent_and_received(pod: Pod, act: Callable[[], object]) -> tuple[Tally, Tally]:
    """What the pod's interface counted during `act`, without payload."""
    before = pod.counters()
    act()
    change = pod.counters() - before
    return Tally(change.tx_packets, change.tx_bytes), Tally(change.rx_packets, change.rx_bytes)


def without_payload(tally: Tally) -> Tally:
    return Tally(tally.packets, tally.bytes)


def left_of(tag: str) -> list[Path]:
    return [
        *Path("/run/netns").glob(f"rt-{tag}-*"),
        *Path("/run").glob(f"rt-{tag}.lab"),
        *Path(tempfile.gettempdir()).glob(f"rt-{tag}"),
    ]


def test_no_interface_of_an_idle_lab_counts_a_packet(lab: Lab) -> None:
    # Longer than the kernel waits with any discovery it would do on its own.
    time.sleep(1.5)
    counted = {
        **{pod.name: (pod.counters(), pod.host_counters()) for pod in lab.pods},
        "uplink0": (lab.node.counters("uplink0"), lab.outside.counters("eth0")),
        "br0": (lab.node.counters("br0"), SILENCE),
    }
    assert counted == dict.fromkeys(counted, (SILENCE, SILENCE))


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_udp_tally_equals_the_counters_of_both_ends_of_the_wire(lab: Lab, family: str) -> None:
    web, api = lab.pods
    before = web.host_counters()
    with UdpServer(api, address(api, family), 9) as server:
        tally = Tally()

        def act() -> None:
            nonlocal tally
            tally = traffic.udp(web, server.to, 10007, 83)
            server.wait_for(10007)

        sent, received = sent_and_received(web, act)
    assert (sent, received) == (without_payload(tally), Tally())
    assert (server.packets, server.payload) == (10007, tally.payload)
    assert (web.host_counters() - before).rx_packets == 10007


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("answer", [1499, 1_000_003])
def test_tcp_tally_equals_the_counters_in_both_directions(
    lab: Lab, family: str, answer: int
) -> None:
    web, api = lab.pods
    with TcpServer(api, address(api, family), 80) as server:
        exchange = Exchange()

        def act() -> None:
            nonlocal exchange
            exchange = traffic.tcp(web, server.to, 7, 1009, answer, connections=3)

        counted = sent_and_received(web, act)
    assert counted == (without_payload(exchange.sent), without_payload(exchange.received))
    assert (exchange.sent.payload, exchange.received.payload) == (21 * 1009, 21 * answer)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_echo_tally_equals_the_counters_in_both_directions(lab: Lab, family: str) -> None:
    web, api = lab.pods
    exchange = Exchange()

    def act() -> None:
        nonlocal exchange
        exchange = traffic.icmp_echo(web, address(api, family), 101, 53)

    counted = sent_and_received(web, act)
    assert counted == (without_payload(exchange.sent), without_payload(exchange.received))


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_refused_connection_is_one_packet_each_way(lab: Lab, family: str) -> None:
    web, api = lab.pods
    exchange = Exchange()

    def act() -> None:
        nonlocal exchange
        exchange = traffic.tcp_refused(web, (address(api, family), 81), 13)

    counted = sent_and_received(web, act)
    assert counted == (without_payload(exchange.sent), without_payload(exchange.received))


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_every_packet_of_20011_flows_arrives_with_a_good_checksum(lab: Lab, family: str) -> None:
    web, api = lab.pods
    with UdpServer(api, address(api, family), 9) as server:
        tally = Tally()

        def act() -> None:
            nonlocal tally
            tally = traffic.many_flows(web, api, 20011, 2, v6=family == "ipv6")
            server.wait_for(40022)

        sent, received = sent_and_received(web, act)
    assert (sent, received) == (without_payload(tally), Tally())
    assert server.packets == 40022


def test_flow_frames_are_of_as_many_flows_as_asked_for(lab: Lab) -> None:
    web, api = lab.pods
    rows = traffic.flow_frames(web, api, 70001, 18)
    assert len({bytes(row[26:36]) for row in rows}) == 70001


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_datagrams_and_their_answers_are_tallied(lab: Lab, family: str) -> None:
    web, api = lab.pods
    exchange = Exchange()
    with UdpServer(api, address(api, family), 53, lambda asked: asked + bytes(83)) as server:

        def act() -> None:
            nonlocal exchange
            exchange = traffic.udp_requests(web, server.to, 101, bytes(37))

        counted = sent_and_received(web, act)
    assert counted == (without_payload(exchange.sent), without_payload(exchange.received))
    assert exchange.received.payload == 101 * 120


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_connection_that_a_firewall_swallows_is_one_packet(lab: Lab, family: str) -> None:
    web, api = lab.pods
    api.nft("table inet wall { chain in { type filter hook input priority 0; policy drop; }; }")
    tally = Tally()

    def act() -> None:
        nonlocal tally
        tally = traffic.tcp_unanswered(web, (address(api, family), 80), 7)

    assert sent_and_received(web, act) == (tally, Tally())
    assert tally.packets == 7


def test_two_processes_send_one_flow(lab: Lab) -> None:
    web, api = lab.pods
    with UdpServer(api, api.ipv4, 9) as server:
        tally = Tally()

        def act() -> None:
            nonlocal tally
            tally = traffic.two_cpus(web, server.to, 5003)
            server.wait_for(tally.packets)

        sent, _ = sent_and_received(web, act)
    assert sent == without_payload(tally)
    assert tally.packets == 2 * 5003


@pytest.mark.parametrize("world", [WORLD4, WORLD6])
def test_a_pod_reaches_the_world_behind_the_address_of_the_node(lab: Lab, world: str) -> None:
    web = lab.pod("web")
    outside = lab.outside.socket(
        socket.AF_INET6 if ":" in world else socket.AF_INET, socket.SOCK_DGRAM
    )
    with outside:
        outside.bind((world, 53))
        outside.settimeout(5)
        traffic.udp(web, (world, 53), 1, 7)
        _, sender = outside.recvfrom(100)
    assert sender[0] == ("fd00:172:30::2" if ":" in world else "172.30.0.2")


def test_offloads_make_an_interface_carry_buffers_of_many_segments(offloaded_lab: Lab) -> None:
    web, api = offloaded_lab.pods
    with TcpServer(api, api.ipv4, 80) as server:
        exchange = Exchange()

        def act() -> None:
            nonlocal exchange
            exchange = traffic.tcp(web, server.to, 1, 1_000_003, 101)

        sent, _ = sent_and_received(web, act)
    assert sent.packets < exchange.sent.packets


@pytest.mark.parametrize("vlans", [(), (100,), (7, 100)])
def test_frames_made_by_hand_are_counted_whole(lab: Lab, vlans: tuple[int, ...]) -> None:
    web, api = lab.pods
    datagram = packets.udp(web.ipv6, api.ipv6, 5, 9, bytes(101))
    packet = packets.ipv6(
        web.ipv6,
        api.ipv6,
        packets.UDP,
        datagram,
        extensions=[
            (packets.HOP_BY_HOP, packets.options_header(16)),
            (packets.DESTINATION_OPTIONS, packets.options_header()),
        ],
    )
    frame = packets.ethernet(api.mac, web.mac, packet, vlans=vlans)
    tally = Tally()

    def act() -> None:
        nonlocal tally
        tally = traffic.frames(web, [frame], repeat=101)

    sent, _ = sent_and_received(web, act)
    assert sent == tally == Tally(101, 101 * (14 + 4 * len(vlans) + 40 + 24 + 8 + 101))


@pytest.mark.parametrize(
    "extensions",
    [
        [(packets.HOP_BY_HOP, packets.options_header(16))],
        [(packets.ROUTING, packets.routing_header())],
        [(packets.DESTINATION_OPTIONS, packets.options_header(24))],
    ],
)
def test_the_kernel_accepts_extension_headers_made_by_hand(
    lab: Lab, extensions: list[tuple[int, bytes]]
) -> None:
    web, api = lab.pods
    datagram = packets.udp(web.ipv6, api.ipv6, 5, 9, bytes(101))
    packet = packets.ipv6(web.ipv6, api.ipv6, packets.UDP, datagram, extensions=extensions)
    with UdpServer(api, api.ipv6, 9) as server:
        traffic.frames(web, [packets.ethernet(api.mac, web.mac, packet)], repeat=3)
        server.wait_for(3)
    assert server.payload == 3 * 101


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_the_kernel_joins_fragments_made_by_hand(lab: Lab, family: str) -> None:
    web, api = lab.pods
    ends = (address(web, family), address(api, family))
    datagram = packets.udp(*ends, 5, 9, bytes(range(256)) * 5)
    halves = [(datagram[:640], 0, True), (datagram[640:], 640, False)]
    if family == "ipv4":
        made = [
            packets.ipv4(
                *ends, packets.UDP, part, identification=7, fragment_offset=at, more_fragments=more
            )
            for part, at, more in halves
        ]
    else:
        made = [
            packets.ipv6(
                *ends,
                packets.UDP,
                part,
                extensions=[(packets.FRAGMENT, packets.fragment_header(at, more))],
            )
            for part, at, more in halves
        ]
    with UdpServer(api, address(api, family), 9) as server:
        traffic.frames(web, [packets.ethernet(api.mac, web.mac, packet) for packet in made])
        server.wait_for(1)
    assert server.payload == 1280


def test_pods_come_and_go_while_others_talk(lab: Lab) -> None:
    web, api = lab.pods
    with UdpServer(api, api.ipv4, 9) as server:
        db = lab.add_pod("shop/db")
        first = traffic.udp(db, server.to, 101)
        lab.remove_pod(db)
        again = lab.add_pod("shop/db", number=db.number)
        second = traffic.udp(again, server.to, 103)
        server.wait_for(first.packets + second.packets)
        assert again.ipv4 == db.ipv4
        assert again.identity.uid != db.identity.uid
        assert again.counters().tx_packets == 103
    assert web.counters() == SILENCE


def test_identity_names_what_is_there_now(lab: Lab) -> None:
    lab.remove_pod(lab.pod("api"))
    db = lab.add_pod("shop/db", owner=("StatefulSet", "db"), labels={"app": "db"})
    written = yaml.safe_load(lab.identity_yaml())
    assert [pod["name"] for pod in written["pods"]] == ["web", "db"]
    assert written["pods"][1] == {
        "namespace": "shop",
        "name": "db",
        "uid": db.identity.uid,
        "node": "node-1",
        "addresses": [db.ipv4, db.ipv6],
        "netns": db.inode,
        "interface": "veth-db",
        "owner": {"kind": "StatefulSet", "name": "db"},
        "labels": {"app": "db"},
    }


def test_two_pods_of_one_name_are_refused(lab: Lab) -> None:
    with pytest.raises(RetinaError, match="'web'"):
        lab.add_pod("other/web")


def test_a_closed_lab_leaves_nothing(lab: Lab) -> None:
    child = lab.pod("web").popen(["sleep", "60"])
    assert len(left_of(lab.tag)) == 6
    lab.close()
    assert left_of(lab.tag) == []
    assert child.returncode == -signal.SIGTERM


def test_a_killed_lab_is_removed_by_the_next(lab: Lab) -> None:
    script = textwrap.dedent("""
        import sys
        from retina_otel.testing.lab import Lab
        with Lab("shop/web") as lab:
            child = lab.pod("web").popen(["sleep", "60"])
            print(lab.tag, child.pid, flush=True)
            sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as creator:
        assert creator.stdout
        tag, child = creator.stdout.readline().decode().split()
        assert len(left_of(tag)) == 5
        creator.kill()
    remove_strays()
    assert left_of(tag) == []
    assert not Path(f"/proc/{child}/exe").exists()
    assert len(left_of(lab.tag)) == 6
