"""The flows programs on single packets, by PROG_TEST_RUN: what each frame is counted as.

The object under test is an instance of its own: a test run and real traffic must not share tables.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from retina_otel.kernel.bpf import testrun
from retina_otel.receivers.flows.rows import ECE
from retina_otel.receivers.flows.tables import FlowTables, slot_bits
from retina_otel.testing import packets as build
from tests.kernel.conftest import Namespace

MAC_A, MAC_B = "02:00:00:00:00:01", "02:00:00:00:00:02"
FOUR = ("10.0.0.1", "10.0.0.2")
SIX = ("fd00::1", "fd00::2")
LOOPBACK = 1
SKB_IFINDEX = 40  # offset of ifindex in struct __sk_buff


@pytest.fixture
def tables() -> Iterator[FlowTables]:
    made = FlowTables(cache_bytes=1 << 20, max_flows=4096, ring_bytes=1 << 16)
    yield made
    made.close()


def frame(packet: bytes, vlans: tuple[int, ...] = ()) -> bytes:
    return build.ethernet(MAC_B, MAC_A, packet, vlans=vlans)


TCP4 = build.ipv4(*FOUR, 6, build.tcp(*FOUR, 40000, 443, 0x10, payload=b"p" * 20))
GOLDEN = {
    "tcp over ipv4": (frame(TCP4), (6, 40000, 443)),
    "ipv4 with options": (
        frame(build.ipv4(*FOUR, 6, build.tcp(*FOUR, 40001, 443, 0x10), options=b"\x01" * 8)),
        (6, 40001, 443),
    ),
    "first fragment": (
        frame(build.ipv4(*FOUR, 17, build.udp(*FOUR, 40002, 9, b"f" * 32), more_fragments=True)),
        (17, 40002, 9),
    ),
    "later fragment": (
        frame(build.ipv4(*FOUR, 17, b"f" * 32, fragment_offset=1480)),
        (17, 0, 0),
    ),
    "tag in the data": (frame(TCP4, (5,)), (6, 40000, 443)),
    "two tags": (frame(TCP4, (5, 7)), (6, 40000, 443)),
    "echo request": (
        frame(build.ipv4(*FOUR, 1, build.icmp_echo(*FOUR, 77, 1, b"e" * 8))),
        (1, 8 << 8, 77),
    ),
    "sctp": (frame(build.ipv4(*FOUR, 132, build.sctp(40003, 443, b"s" * 8))), (132, 40003, 443)),
    "udp over ipv6": (frame(build.ipv6(*SIX, 17, build.udp(*SIX, 40004, 9, b""))), (17, 40004, 9)),
    "three extension headers": (
        frame(
            build.ipv6(
                *SIX,
                6,
                build.tcp(*SIX, 40005, 443, 0x10),
                extensions=[
                    (0, build.options_header(8)),
                    (60, build.options_header(24)),
                    (51, build.authentication_header(24)),
                ],
            )
        ),
        (6, 40005, 443),
    ),
    "first fragment of ipv6": (
        frame(
            build.ipv6(
                *SIX,
                17,
                build.udp(*SIX, 40006, 9, b"x" * 8),
                extensions=[(44, build.fragment_header(0, True))],
            )
        ),
        (17, 40006, 9),
    ),
    "later fragment of ipv6": (
        frame(build.ipv6(*SIX, 17, b"x" * 8, extensions=[(44, build.fragment_header(8, False))])),
        (17, 0, 0),
    ),
    "icmpv6 behind a routing header": (
        frame(
            build.ipv6(
                *SIX,
                58,
                build.icmp_echo(*SIX, 78, 1, b"e" * 8),
                extensions=[(43, build.routing_header(8))],
            )
        ),
        (58, 128 << 8, 78),
    ),
    "esp": (frame(build.ipv6(*SIX, 50, bytes(16))), (50, 0, 0)),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_frame_is_counted_under_its_protocol_and_ports(tables: FlowTables, name: str) -> None:
    data, (protocol, source_port, destination_port) = GOLDEN[name]
    testrun.run(tables.programs["flows_pod_in"], data, repeat=7)
    rows = tables.take().rows
    assert rows.packets.tolist() == [7]
    assert rows.bytes.tolist() == [7 * len(data)]
    assert rows.protocol.tolist() == [protocol]
    assert rows.source_port.tolist() == [source_port]
    assert rows.destination_port.tolist() == [destination_port]
    assert rows.ifindex.tolist() == [LOOPBACK]
    assert rows.at_egress_hook.tolist() == [False]
    assert rows.ipv6.tolist() == [":" in (SIX[0] if data[12:14] == b"\x86\xdd" else FOUR[0])]


def test_the_four_programs_tell_direction(tables: FlowTables) -> None:
    data = GOLDEN["tcp over ipv4"][0]
    for name, count in (
        ("flows_pod_in", 2),
        ("flows_pod_out", 3),
        ("flows_host_in", 5),
        ("flows_host_out", 7),
    ):
        testrun.run(tables.programs[name], data, repeat=count)
    rows = tables.take().rows
    by_direction = {
        egress: int(rows.packets[rows.at_egress_hook == egress].sum()) for egress in (False, True)
    }
    assert by_direction == {False: 2 + 5, True: 3 + 7}
    # A test run's packet comes from a socket; only an uplink's egress asks for it.
    assert int(rows.packets[rows.local_socket].sum()) == 7


@pytest.mark.parametrize("program", ["flows_pod_in", "flows_host_out"])
def test_every_truncation_and_20000_garbage_frames_are_counted_somewhere(
    tables: FlowTables, program: str
) -> None:
    fd = tables.programs[program]
    draw = random.Random(7)
    sent = 0
    # The kernel refuses to test-run IPv4 under 34 bytes and IPv6 under 54.
    for data, _ in GOLDEN.values():
        least = 54 if data[12:14] == b"\x86\xdd" else 34 if data[12:14] == b"\x08\x00" else 14
        for length in range(least, len(data) + 1):
            testrun.run(fd, data[:length])
            sent += 1
    for _ in range(20_000):
        data = bytearray(draw.randbytes(54 + draw.randrange(120)))
        shape = draw.randrange(4)
        if shape == 1:
            data[12:14], data[14] = b"\x08\x00", 0x40 | draw.randrange(16)
        elif shape == 2:
            data[12:14] = b"\x86\xdd"
            data[20] = draw.choice((0, 43, 44, 51, 60))
        testrun.run(fd, bytes(data))
        sent += 1
    generation = tables.take()
    rows = generation.rows
    assert generation.seen_packets == sent
    assert int(rows.packets.sum()) + generation.not_ip_packets + generation.lost_packets == sent


def test_a_packet_to_be_segmented_counts_as_its_segments_with_repeated_headers(
    tables: FlowTables,
) -> None:
    payload, size = 14 * 200 + 100, 200
    data = frame(build.ipv4(*FOUR, 6, build.tcp(*FOUR, 1, 2, 0x10, payload=b"d" * payload)))
    header = len(data) - payload
    for segments in (15, 0):  # 0: left to whoever segments it
        context = testrun.sk_buff(gso_size=size, gso_segs=segments)
        testrun.run(tables.programs["flows_pod_in"], data, repeat=3, context=context)
        rows = tables.take().rows
        assert rows.packets.tolist() == [3 * 15]
        assert rows.bytes.tolist() == [3 * (len(data) + 14 * header)]


def test_table_ring_and_counter_take_what_the_one_before_has_no_room_for() -> None:
    tables = FlowTables(cache_bytes=0, max_flows=64, ring_bytes=4096)
    try:
        fd = tables.programs["flows_pod_in"]
        flows = 8192
        for port in range(flows):
            segment = build.udp(*FOUR, 1 + port, 9, b"")
            testrun.run(fd, frame(build.ipv4(*FOUR, 17, segment)), repeat=2)
        generation = tables.take()
        rows = generation.rows
        counted = generation.cache_packets + generation.hash_packets + generation.ring_packets
        assert generation.hash_packets == 2 * 64
        assert generation.ring_packets == 4096 // (112 + 8)
        assert counted == int(rows.packets.sum())
        assert counted + generation.lost_packets == generation.seen_packets == 2 * flows
        again = tables.take()
        assert (len(again.rows), again.seen_packets, again.lost_packets) == (0, 0, 0)
    finally:
        tables.close()


def test_without_per_cpu_tables_everything_goes_to_the_shared_ones() -> None:
    tables = FlowTables(cache_bytes=0, max_flows=64, ring_bytes=4096, shared_cpus=True)
    try:
        testrun.run(tables.programs["flows_pod_in"], GOLDEN["tcp over ipv4"][0], repeat=11)
        generation = tables.take()
        assert generation.cache_packets == 0
        assert generation.rows.packets.tolist() == [11]
        assert generation.seen_packets == 11
    finally:
        tables.close()


def test_flags_that_find_no_room_are_counted_as_lost_and_their_packets_are_not() -> None:
    tables = FlowTables(cache_bytes=1 << 20, max_flows=16, ring_bytes=4096)
    try:
        for port in range(101):
            segment = build.tcp(*FOUR, 40000 + port, 443, 0x50)
            testrun.run(tables.programs["flows_pod_in"], frame(build.ipv4(*FOUR, 6, segment)))
        generation = tables.take()
        assert (int(generation.rows.packets.sum()), generation.lost_packets) == (101, 0)
        # ECE has no room in a slot: 16 rows of the HASH and as many records as the ring holds.
        assert int(generation.rows.flags[:, ECE].sum()) == 16 + 4096 // (112 + 8)
        assert tables.lost_flags == 101 - (16 + 4096 // (112 + 8))
    finally:
        tables.close()


@pytest.mark.parametrize("shared_cpus", [False, True])
def test_an_interface_that_was_forgotten_begins_at_zero_and_the_books_go_on(
    shared_cpus: bool,
) -> None:
    tables = FlowTables(cache_bytes=1 << 20, max_flows=64, ring_bytes=4096, shared_cpus=shared_cpus)
    try:
        for count in (7, 11, 13):
            testrun.run(tables.programs["flows_pod_in"], GOLDEN["esp"][0], repeat=count)
            assert tables.take().seen_packets == count
            assert tables.ledger()[LOOPBACK, False]["packets"] == count
            tables.forget({LOOPBACK})
            assert tables.ledger() == {}
        assert [tables.take().seen_packets for _ in range(3)] == [0, 0, 0]
    finally:
        tables.close()


def test_interfaces_that_share_a_place_in_the_ledger_are_kept_apart(
    tables: FlowTables, namespace: Namespace
) -> None:
    shared = LOOPBACK + 256
    namespace.ip(f"link add rt0 index {shared} type bridge")

    def seen(ifindex: int, count: int) -> int:
        skb = bytes(SKB_IFINDEX) + struct.pack("=I", ifindex)
        fd, data = tables.programs["flows_pod_in"], GOLDEN["esp"][0]
        namespace.run(lambda: testrun.run(fd, data, repeat=count, context=skb))
        return tables.take().seen_packets

    def counted() -> dict[int, int]:
        return {ifindex: counts["packets"] for (ifindex, _), counts in tables.ledger().items()}

    assert (seen(LOOPBACK, 7), seen(shared, 11), seen(LOOPBACK, 13)) == (7, 11, 13)
    assert counted() == {LOOPBACK: 20, shared: 11}
    tables.forget({LOOPBACK})
    assert counted() == {shared: 11}
    # Now it has the place of the other, and its first packets still stand where they were counted.
    assert (seen(shared, 17), seen(shared, 19)) == (17, 19)
    assert counted() == {shared: 47}
    tables.forget({shared})
    assert (counted(), seen(shared, 23)) == ({}, 23)


@pytest.mark.parametrize("pattern", ["ports", "addresses", "both"])
def test_sequential_ports_and_addresses_spread_over_the_slots(pattern: str) -> None:
    """As many flows as slots: at random 63 % of them have one; sequences must do as well."""
    tables = FlowTables(cache_bytes=2 << 20, max_flows=131072, ring_bytes=4096)
    try:
        slots = 1 << slot_bits(2 << 20, tables.cpus)
        fd = tables.programs["flows_pod_in"]
        for number in range(slots):
            port = 1024 + (number if pattern != "addresses" else 0)
            low = number if pattern != "ports" else 0
            ends = (f"10.1.{low >> 8}.{low & 255}", FOUR[1])
            testrun.run(fd, frame(build.ipv4(*ends, 17, build.udp(*ends, port, 9, b""))))
        generation = tables.take()
        assert generation.cache_packets + generation.hash_packets == slots
        share = generation.cache_packets / slots
        assert 0.60 < share < 1.0
    finally:
        tables.close()


def test_a_slot_s_stamps_are_the_kernel_s_jiffies(tables: FlowTables) -> None:
    fd = tables.programs["flows_pod_in"]
    testrun.run(fd, GOLDEN["tcp over ipv4"][0])
    first = tables.take().rows
    testrun.run(fd, GOLDEN["tcp over ipv4"][0])
    second = tables.take().rows
    elapsed = (second.first - first.first).astype(np.uint32)
    assert (first.first == first.last).all()
    assert int(elapsed[0]) < 1 << 31
