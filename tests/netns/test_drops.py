"""Every packet that the kernel drops is counted once, with its reason, its bytes and its two ends.

The truth is the sender's tally, a firewall rule's own counter, or the namespace's SNMP counters.
The receiver sees the whole machine; `namespaces: node` leaves it the lab's.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from contextlib import suppress

import numpy as np
import pytest

from retina_otel.errors import MapError
from retina_otel.model import signals
from retina_otel.model.batches import Column, RawEnds
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind
from retina_otel.testing import packets, traffic
from retina_otel.testing.lab import WORLD4, WORLD6, Lab
from tests.netns.drops_in_lab import (
    DROPPED,
    address,
    counting,
    firewall,
    settle,
    snmp,
    texts,
    values,
)

FAMILIES = ["ipv4", "ipv6"]
IP_HEADER = {"ipv4": 20, "ipv6": 40}
UDP_HEADER = 8
CLOSED = 7
RING_RECORD = 96
"""A record of rt_drop_record with its header."""


@pytest.mark.kernels
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_firewall_drops_equals_the_rules_own_counter(lab: Lab, family: str) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    with counting(lab) as drops:
        sent = traffic.udp(web, (address(api, family), DROPPED), packets=1009, payload=101)
        settle(lambda: truth()[0], sent.packets)
        counted = drops.counted()
    ends = (address(web, family), address(api, family))
    assert counted == {("netfilter_drop", "udp", *ends): truth()}
    assert truth() == (1009, 1009 * (IP_HEADER[family] + UDP_HEADER + 101))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_closed_udp_port_is_no_socket(lab: Lab, family: str) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    group = "Udp" if family == "ipv4" else "Udp6"
    with counting(lab) as drops:
        before = snmp(api, group, "NoPorts")
        traffic.udp(web, (address(api, family), CLOSED), packets=503, payload=97, connected=False)
        settle(lambda: snmp(api, group, "NoPorts") - before, 503)
        counted = drops.counted()
    row = ("no_socket", "udp", address(web, family), address(api, family))
    assert counted[row] == (503, 503 * (IP_HEADER[family] + UDP_HEADER + 97))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_refused_tcp_connection_is_no_socket(lab: Lab, family: str) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    with counting(lab) as drops:
        exchange = traffic.tcp_refused(web, (address(api, family), CLOSED), attempts=31)
        counted = drops.counted()
    row = ("no_socket", "tcp", address(web, family), address(api, family))
    assert counted[row] == (31, exchange.sent.bytes - 31 * packets.ETHERNET)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_whose_hops_are_used_up_is_dropped_by_the_node(lab: Lab, family: str) -> None:
    web = lab.pod("web")
    world = WORLD4 if family == "ipv4" else WORLD6
    group = "Ip" if family == "ipv4" else "Ip6"
    source = address(web, family)
    datagram = packets.udp(source, world, 1031, 9, bytes(61))
    packet = (
        packets.ipv4(source, world, packets.UDP, datagram, ttl=1)
        if family == "ipv4"
        else packets.ipv6(source, world, packets.UDP, datagram, hop_limit=1)
    )
    frame = packets.ethernet("02:00:0a:f4:00:01", web.mac, packet)
    with counting(lab) as drops:
        before = snmp(lab.node, group, "InHdrErrors")
        traffic.frames(web, [frame], repeat=211)
        settle(lambda: snmp(lab.node, group, "InHdrErrors") - before, 211)
        counted = drops.counted()
    assert counted[("ip_inhdr", "udp", source, world)] == (211, 211 * len(packet))


def test_ports_are_found_behind_options_and_extension_headers(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    v4 = packets.udp(web.ipv4, api.ipv4, 1031, DROPPED, bytes(13))
    v6 = packets.udp(web.ipv6, api.ipv6, 1033, DROPPED, bytes(13))
    frames = [
        packets.ethernet(api.mac, web.mac, packet)
        for packet in (
            packets.ipv4(web.ipv4, api.ipv4, packets.UDP, v4, options=b"\x01" * 8),
            packets.ipv6(
                web.ipv6,
                api.ipv6,
                packets.UDP,
                v6,
                extensions=[(0, packets.options_header(16)), (60, packets.options_header())],
            ),
        )
    ]
    with counting(lab) as drops:
        sent = traffic.frames(web, frames, repeat=101)
        settle(lambda: truth()[0], 202)
        drops.take()
    ports = Counter[tuple[int, int]]()
    for batch in drops.metrics:
        assert batch.source is not None
        assert batch.destination is not None
        pairs = zip(batch.source.port.tolist(), batch.destination.port.tolist(), strict=True)
        for pair, count in zip(pairs, values(batch, signals.DROP_PACKETS), strict=True):
            ports[pair] += count
    assert ports == {(1031, DROPPED): 101, (1033, DROPPED): 101}
    total = sum(sum(values(batch, signals.DROP_IO)) for batch in drops.metrics)
    assert total == sent.bytes - 202 * packets.ETHERNET


def test_what_is_not_ip_has_a_reason_but_no_addresses(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    frame = packets.ethernet(api.mac, web.mac, bytes(46), ethertype=0x88B5)
    with counting(lab) as drops:
        traffic.frames(web, [frame], repeat=103)
        settle(lambda: api.counters().rx_dropped, 103)
        counted = drops.counted()
    assert counted == {("unhandled_proto", "", "::", "::"): (103, 103 * 46)}


def test_a_full_receive_buffer_is_told_with_its_namespace(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    queued = 0
    reader = api.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def arrived() -> int:
        nonlocal queued
        with suppress(BlockingIOError):
            while reader.recv(2048, socket.MSG_DONTWAIT):
                queued += 1
        return queued + snmp(api, "Udp", "RcvbufErrors")

    with reader, counting(lab) as drops:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.bind((api.ipv4, 9))
        traffic.udp(web, (api.ipv4, 9), packets=401, payload=701)
        settle(arrived, 401)
        counted = drops.counted()
    overflowed = 401 - queued
    assert counted == {
        ("socket_rcvbuff", "udp", web.ipv4, api.ipv4): (overflowed, overflowed * (28 + 701))
    }
    assert {inode for batch in drops.metrics for inode in namespaces(batch.destination)} == {
        api.inode
    }


def namespaces(ends: RawEnds | None) -> list[int]:
    assert ends is not None
    assert ends.netns is not None
    return [int(inode) for inode in ends.netns]


def test_a_full_table_goes_to_the_ring_then_to_the_lost_count(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    flows, entries, ring = 1009, 16, 4096
    in_ring = (ring - 1) // RING_RECORD
    with counting(lab, max_entries=entries, ring_size=ring) as drops:
        rows = traffic.flow_frames(web, api, flows, 18, port=DROPPED)
        traffic.frames(web, rows)
        settle(lambda: truth()[0], flows)
        drops.take()
        (batch,) = drops.metrics
        assert len(batch) == entries + in_ring
        assert sum(values(batch, signals.DROP_PACKETS)) == entries + in_ring
        assert drops.ledger.report().lost == {"table_full": flows - entries - in_ring}
        # The next generation finds room again.
        traffic.frames(web, rows[:11])
        settle(lambda: truth()[0], flows + 11)
        drops.take()
        assert sum(values(drops.metrics[1], signals.DROP_PACKETS)) == 11


def test_books_close_at_every_tick_under_load_from_two_cpus(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    done = threading.Event()
    with counting(lab, events=False) as drops:

        def tick() -> None:
            while not done.wait(0.02):
                drops.take()

        ticking = threading.Thread(target=tick)
        ticking.start()
        sent = traffic.two_cpus(web, (api.ipv4, DROPPED), packets_each=20011)
        settle(lambda: truth()[0], sent.packets)
        done.set()
        ticking.join()
        counted = drops.counted()
        misses = drops.ledger.report().beside["recursion_misses"]
    assert (counted, misses) == ({("netfilter_drop", "udp", web.ipv4, api.ipv4): truth()}, 0)


def test_an_excluded_reason_is_counted_as_not_ours(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    with counting(lab, exclude_reasons=["netfilter_drop", "consumed"]) as drops:
        traffic.udp(web, (api.ipv4, DROPPED), packets=307)
        settle(lambda: truth()[0], 307)
        assert drops.counted() == {}
        assert drops.ledger.report().not_ours["netfilter_drop"] == 307


@pytest.mark.parametrize(("scope", "seen"), [("node", 0), ("all", 211)])
def test_the_scope_says_whose_namespaces_count(lab: Lab, scope: str, seen: int) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    # A port of its own tells these packets from those of other labs on this machine.
    with counting(lab, web, namespaces=scope) as drops:
        traffic.udp(web, (api.ipv4, DROPPED), packets=211, source_port=50021)
        settle(lambda: truth()[0], 211)
        drops.take()
    counted = [
        count
        for batch in drops.metrics
        if batch.source is not None
        for port, count in zip(
            batch.source.port.tolist(), values(batch, signals.DROP_PACKETS), strict=True
        )
        if port == 50021
    ]
    assert sum(counted) == seen


def test_namespaces_that_do_not_fit_fail_a_tick_and_lose_nothing(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    with counting(lab) as drops:
        traffic.udp(web, (api.ipv4, DROPPED), packets=307)
        settle(lambda: truth()[0], 307)
        crowd = Endpoint(EndpointKind.POD, "crowd", {}, netns=range(1, 5000))
        drops.identity.update([crowd], source="later")
        with pytest.raises(MapError):
            drops.take()
        assert drops.counted() == {("netfilter_drop", "udp", web.ipv4, api.ipv4): truth()}


def test_a_pod_that_becomes_known_counts_from_then_on(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    with counting(lab, web) as drops:
        drops.identity.update(
            [Endpoint(EndpointKind.POD, "api", {}, netns=(api.inode,))], source="later"
        )
        drops.take()
        traffic.udp(web, (api.ipv4, DROPPED), packets=101)
        settle(lambda: truth()[0], 101)
        assert drops.counted() == {("netfilter_drop", "udp", web.ipv4, api.ipv4): truth()}


def test_one_event_stands_for_a_pair_reason_and_function(lab: Lab) -> None:
    web, api = lab.pod("web"), lab.pod("api")
    truth = firewall(api)
    with counting(lab) as drops:
        started = time.time_ns()
        for port in (50023, 50027):
            traffic.udp(web, (api.ipv4, DROPPED), packets=103, source_port=port)
        settle(lambda: truth()[0], 206)
        drops.take()
        ended = time.time_ns()
    (batch,) = drops.events
    assert len(batch) == 1
    assert batch.source is not None
    assert batch.destination is not None
    assert (batch.source.port.tolist(), batch.destination.port.tolist()) == ([0], [DROPPED])
    integers = {n: c.tolist() for n, c in batch.own.items() if isinstance(c, np.ndarray)}
    first, last = integers["retina.event.first_seen"][0], integers["retina.event.last_seen"][0]
    assert started < first < last < ended
    assert integers["retina.event.packets"] == [206]
    assert integers["retina.event.bytes"] == [truth()[1]]
    symbol = batch.own[signals.DROP_SYMBOL.name]
    assert isinstance(symbol, Column)
    # Which of them frees the packet depends on the kernel's version.
    assert texts(symbol)[0] in ("nf_hook_slow", "nft_do_chain")
