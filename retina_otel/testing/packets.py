"""Frames by hand: what no socket of the kernel would send, byte for byte.

Each function returns bytes and takes what stands inside it: `ethernet(to, by, ipv4(a, b, 17,
udp(...)))`. Lengths and checksums are right unless a caller breaks them on purpose.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

ETHERNET = 14
ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION_OPTIONS = 0, 43, 44, 51, 60
NO_NEXT_HEADER = 59


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def address(text: str) -> bytes:
    """4 or 16 bytes."""
    return ipaddress.ip_address(text).packed


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(
    destination: str, source: str, packet: bytes, *, ethertype: int = 0, vlans: Sequence[int] = ()
) -> bytes:
    """A frame. The EtherType follows from an IP packet's version; `vlans` are tags from the outside
    in, the outer one of two with the EtherType of 802.1ad."""
    kind = ethertype or (0x86DD if packet[0] >> 4 == 6 else 0x0800)
    tags = b"".join(
        struct.pack("!HH", 0x88A8 if position + 1 < len(vlans) else 0x8100, vlan)
        for position, vlan in enumerate(vlans)
    )
    return mac(destination) + mac(source) + tags + struct.pack("!H", kind) + packet


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    options: bytes = b"",
    identification: int = 0,
    fragment_offset: int = 0,
    more_fragments: bool = False,
    ttl: int = 64,
) -> bytes:
    """`options` are padded to whole words; `fragment_offset` is in bytes, a multiple of 8."""
    options += b"\0" * (-len(options) % 4)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | 5 + len(options) // 4,
        0,
        20 + len(options) + len(payload),
        identification,
        fragment_offset // 8 | more_fragments << 13,
        ttl,
        protocol,
        0,
        address(source),
        address(destination),
    )
    header += options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def ipv6(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    extensions: Sequence[tuple[int, bytes]] = (),
    hop_limit: int = 64,
) -> bytes:
    """`extensions` are (header type, header) in order; each header's first byte, the type of what
    follows, is filled in here. `options_header`, `fragment_header` and others make them."""
    types = [*(kind for kind, _ in extensions), protocol]
    chain = b"".join(
        bytes([following]) + header[1:]
        for following, (_, header) in zip(types[1:], extensions, strict=True)
    )
    return (
        struct.pack("!IHBB", 6 << 28, len(chain) + len(payload), types[0], hop_limit)
        + address(source)
        + address(destination)
        + chain
        + payload
    )


def options_header(length: int = 8) -> bytes:
    """A hop-by-hop or destination options header of `length` bytes, a multiple of 8.

    It holds one experimental option (RFC 3692) that receivers skip: Linux refuses long padding.
    """
    return bytes([0, length // 8 - 1, 0x1E, length - 4]) + b"\0" * (length - 4)


def routing_header(length: int = 8) -> bytes:
    """A routing header with no segments left, which every host accepts."""
    return bytes([0, length // 8 - 1, 253, 0]) + b"\0" * (length - 4)


def authentication_header(length: int = 24) -> bytes:
    """An IPsec authentication header; its length is counted in words of 4 bytes, less two."""
    return bytes([0, length // 4 - 2]) + b"\0" * (length - 2)


def fragment_header(offset: int, more: bool, identification: int = 1) -> bytes:
    """`offset` is in bytes, a multiple of 8."""
    return struct.pack("!BBHI", 0, 0, offset | int(more), identification)


def udp(source: str, destination: str, source_port: int, port: int, payload: bytes) -> bytes:
    datagram = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload
    found = _transport_checksum(source, destination, UDP, datagram) or 0xFFFF
    return datagram[:6] + struct.pack("!H", found) + datagram[8:]


def tcp(
    source: str,
    destination: str,
    source_port: int,
    port: int,
    flags: int,
    *,
    payload: bytes = b"",
    sequence: int = 0,
    acknowledgement: int = 0,
    options: bytes = b"",
) -> bytes:
    """`flags` are ORed of FIN to CWR; `options` are padded to whole words."""
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4
    segment = (
        struct.pack(
            "!HHIIBBHHH",
            source_port,
            port,
            sequence,
            acknowledgement,
            words << 4,
            flags,
            65535,
            0,
            0,
        )
        + options
        + payload
    )
    found = _transport_checksum(source, destination, TCP, segment)
    return segment[:16] + struct.pack("!H", found) + segment[18:]


def icmp_echo(
    source: str, destination: str, identifier: int, sequence: int, payload: bytes
) -> bytes:
    """An echo request of the family of `source`."""
    v6 = len(address(source)) == 16
    message = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, identifier, sequence) + payload
    found = _transport_checksum(source, destination, ICMPV6, message) if v6 else checksum(message)
    return message[:2] + struct.pack("!H", found) + message[4:]


def sctp(source_port: int, port: int, payload: bytes) -> bytes:
    """A common header and what follows it; the CRC is left zero, for no one here checks it."""
    return struct.pack("!HHII", source_port, port, 1, 0) + payload


def _transport_checksum(source: str, destination: str, protocol: int, segment: bytes) -> int:
    ends = address(source) + address(destination)
    return checksum(ends + struct.pack("!II", len(segment), protocol) + segment)
