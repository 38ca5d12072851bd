"""Senders that say exactly what they put on the wire, for tests whose counts are equalities.

Every sender is bounded in count and takes the namespace it sends from. A `Tally` counts frames as
an interface with offloads off counts them: whole frames with their Ethernet header, and the payload
above the transport header. What a sender could not know for sure raises RetinaError instead of
being guessed: a TCP connection with a retransmission, an echo without its reply.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retina_otel.errors import RetinaError
from retina_otel.testing import packets as build
from retina_otel.testing.flow_frames import flow_frames
from retina_otel.testing.lab import Pod
from retina_otel.testing.namespaces import Namespace
from retina_otel.testing.servers import REQUEST
from retina_otel.testing.tally import Exchange, Tally

__all__ = [
    "Destination",
    "Exchange",
    "Tally",
    "flow_frames",
    "frames",
    "icmp_echo",
    "many_flows",
    "tcp",
    "tcp_refused",
    "tcp_unanswered",
    "two_cpus",
    "udp",
    "udp_requests",
]

Destination = tuple[str, int]

_ICMP_HEADER = _UDP_HEADER = 8
_TCP_HEADER = 20
_TIMESTAMPS = 12
"""Options of every segment of an established connection between two Linux hosts."""
_SYN_OPTIONS = 20
_RECVERR4, _RECVERR6 = (socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25)
_BLAST = Path(__file__).with_name("_blast.py")


def udp(
    source: Namespace,
    to: Destination,
    packets: int = 1009,
    payload: int = 101,
    *,
    source_port: int = 0,
    source_address: str = "",
    per_second: float = 0,
    connected: bool = True,
) -> Tally:
    """Sends datagrams of one flow. A connected socket learns of a closed port, and then raises; one
    that is not goes on sending."""
    overhead = build.ETHERNET + _ip_header(to) + _UDP_HEADER
    if payload > 1514 - overhead:
        raise RetinaError(f"{payload} bytes do not fit a packet", "Send fragments with frames()")
    with _udp_socket(source, to, (source_address, source_port), connected) as sender:
        data = bytes(payload)
        pace = _Pace(per_second)
        for number in range(packets):
            pace.wait(number)
            if connected:
                _send(sender, data)
            else:
                sender.sendto(data, to)
    return Tally(packets, packets * (overhead + payload), packets * payload)


def udp_requests(
    source: Namespace, to: Destination, requests: int, request: bytes, *, per_second: float = 0
) -> Exchange:
    """Datagrams each of which waits for one answer. Raises if one does not come within 5 s."""
    overhead = build.ETHERNET + _ip_header(to) + _UDP_HEADER
    answers = 0
    with _udp_socket(source, to, ("", 0), True) as client:
        client.settimeout(5)
        pace = _Pace(per_second)
        for number in range(requests):
            pace.wait(number)
            _send(client, request)
            answers += len(client.recv(65535))
    asked = requests * len(request)
    return Exchange(
        Tally(requests, requests * overhead + asked, asked),
        Tally(requests, requests * overhead + answers, answers),
    )


def two_cpus(
    source: Namespace, to: Destination, packets_each: int = 10007, payload: int = 101
) -> Tally:
    """Two processes, each bound to a CPU of its own, send on one socket: one flow from two CPUs."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        raise RetinaError("this process may use one CPU only", "Run where two are allowed")
    with _udp_socket(source, to, ("", 0), True) as sender:
        children = [
            subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(_BLAST)),
                    *map(str, (sender.fileno(), cpu, packets_each, payload)),
                ],
                pass_fds=[sender.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for cpu in cpus
        ]
        for child in children:
            assert child.stdout
            child.stdout.readline()
        for child in children:
            child.communicate(b"go\n", timeout=60)
    if any(child.returncode for child in children):
        raise RetinaError("a sending process failed")
    total = packets_each * len(cpus)
    size = build.ETHERNET + _ip_header(to) + _UDP_HEADER + payload
    return Tally(total, total * size, total * payload)


def icmp_echo(
    source: Namespace, to: str, packets: int = 101, payload: int = 53, *, per_second: float = 0
) -> Exchange:
    """Pings: each request waits for its reply, which is as large. Raises if one does not come."""
    v6 = ":" in to
    family = socket.AF_INET6 if v6 else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    with source.socket(family, socket.SOCK_DGRAM, protocol) as ping:
        ping.connect((to, 0))
        pace = _Pace(per_second)
        for number in range(packets):
            pace.wait(number)
            # The kernel fills in identifier and checksum.
            ping.send(
                struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 0, number & 0xFFFF) + bytes(payload)
            )
            _await_reply(ping, 129 if v6 else 0, number & 0xFFFF, to)
    size = build.ETHERNET + _ip_header((to, 0)) + _ICMP_HEADER + payload
    one_way = Tally(packets, packets * size, packets * payload)
    return Exchange(one_way, one_way)


def tcp(
    source: Namespace,
    to: Destination,
    requests: int = 101,
    request: int = 211,
    response: int = 1499,
    *,
    connections: int = 1,
    per_second: float = 0,
) -> Exchange:
    """Requests to a TcpServer, one after another, `requests` on each connection.

    Segments are those that the kernel counted for the connection (TCP_INFO), from the SYN to the
    last ACK. Their bytes are right where offloads are off; packets too, for with offloads on an
    interface counts buffers. The client closes first.
    """
    if request < REQUEST.size:
        raise RetinaError(f"a request has at least {REQUEST.size} bytes")
    total = Exchange()
    message = REQUEST.pack(request, response) + bytes(request - REQUEST.size)
    pace = _Pace(per_second)
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    for connection in range(connections):
        with source.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(30)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.connect(to)
            for number in range(requests):
                pace.wait(connection * requests + number)
                client.sendall(message)
                left = response
                while left:
                    got = len(client.recv(min(left, 1 << 16)))
                    if not got:
                        raise RetinaError(f"{to[0]}:{to[1]} closed in the middle of an answer")
                    left -= got
            client.shutdown(socket.SHUT_WR)
            client.recv(1)
            total += _tcp_exchange(client, to, requests * request, requests * response)
    return total


def tcp_refused(source: Namespace, to: Destination, attempts: int = 11) -> Exchange:
    """Connects to a closed port: a SYN out, a RST back, each time."""
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    for _ in range(attempts):
        with source.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(10)
            if client.connect_ex(to) != errno.ECONNREFUSED:
                raise RetinaError(f"{to[0]}:{to[1]} is not closed")
    lowest = build.ETHERNET + _ip_header(to) + _TCP_HEADER
    return Exchange(
        Tally(attempts, attempts * (lowest + _SYN_OPTIONS)), Tally(attempts, attempts * lowest)
    )


def tcp_unanswered(source: Namespace, to: Destination, attempts: int = 7) -> Tally:
    """Connects where a firewall lets nothing through, and gives up before the first repetition."""
    sent = 0
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    for _ in range(attempts):
        with source.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(0.05)
            try:
                client.connect(to)
            except TimeoutError:
                info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
                sent += struct.unpack_from("I", info, 136)[0]
            else:
                raise RetinaError(f"{to[0]}:{to[1]} was let through")
    return Tally(sent, sent * (build.ETHERNET + _ip_header(to) + _TCP_HEADER + _SYN_OPTIONS))


def frames(
    source: Namespace,
    data: Sequence[bytes] | npt.NDArray[np.uint8],
    *,
    interface: str = "eth0",
    repeat: int = 1,
    per_second: float = 0,
) -> Tally:
    """Sends whole frames, `data` (or the rows of an array) `repeat` times over. Payload is not
    known: 0."""
    with source.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        pace = _Pace(per_second)
        sent = 0
        for _ in range(repeat):
            for frame in data:
                pace.wait(sent)
                _send(raw, memoryview(frame))
                sent += 1
    return Tally(sent, repeat * sum(len(frame) for frame in data))


def many_flows(
    source: Pod,
    to: Pod,
    flows: int = 20011,
    packets_each: int = 3,
    payload: int = 18,
    *,
    v6: bool = False,
    port: int = 9,
    repeat: int = 1,
) -> Tally:
    """UDP of many flows to one port of a pod, from as many source addresses and ports.

    All flows are open at once: the first packet of each goes before the second of any. The senders'
    addresses belong to nobody, so let something listen on the port (UdpServer), or each is
    answered.
    """
    rows = flow_frames(source, to, flows, payload, v6=v6, port=port)
    sent = frames(source, rows, repeat=packets_each * repeat)
    return Tally(sent.packets, sent.bytes, sent.packets * payload)


def _ip_header(to: tuple[str, object]) -> int:
    return 40 if ":" in to[0] else 20


def _udp_socket(
    source: Namespace, to: Destination, bound: Destination, connected: bool
) -> socket.socket:
    v6 = ":" in to[0]
    sender = source.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    if any(bound):
        sender.bind((bound[0] or ("::" if v6 else "0.0.0.0"), bound[1]))
    if connected:
        # Without it a packet that the device refused counts as sent: the socket says nothing.
        sender.setsockopt(*(_RECVERR6 if v6 else _RECVERR4), 1)
        sender.connect(to)
    return sender


def _send(sender: socket.socket, data: bytes | memoryview) -> None:
    while True:
        try:
            sender.send(data)
            return
        except OSError as error:
            # The queue in front of the receiving CPU is full; this packet was not delivered.
            if error.errno != errno.ENOBUFS:
                raise
            time.sleep(0.001)


def _await_reply(ping: socket.socket, kind: int, sequence: int, to: str) -> None:
    deadline = time.monotonic() + 5
    while (left := deadline - time.monotonic()) > 0:
        if select.select([ping], [], [], left)[0]:
            found = struct.unpack_from("!BBHHH", ping.recv(65535))
            if (found[0], found[4]) == (kind, sequence):
                return
    raise RetinaError(f"{to} did not answer echo request {sequence} within 5 s")


def _tcp_exchange(client: socket.socket, to: Destination, request: int, response: int) -> Exchange:
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    (retransmitted,) = struct.unpack_from("I", info, 100)
    segments_out, segments_in = struct.unpack_from("II", info, 136)
    if retransmitted:
        raise RetinaError(
            f"{retransmitted} segments to {to[0]}:{to[1]} were sent again: bytes would not be exact"
        )
    header = build.ETHERNET + _ip_header(to) + _TCP_HEADER + _TIMESTAMPS
    more_in_syn = _SYN_OPTIONS - _TIMESTAMPS
    return Exchange(
        Tally(segments_out, segments_out * header + more_in_syn + request, request),
        Tally(segments_in, segments_in * header + more_in_syn + response, response),
    )


class _Pace:
    """Holds a sender to a rate, by the clock and not by adding up pauses."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._start = time.monotonic()

    def wait(self, number: int) -> None:
        if self._per_second:
            ahead = self._start + number / self._per_second - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
