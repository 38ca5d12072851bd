"""Interfaces, addresses and default routes as rtnetlink tells them, without following them."""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

from retina_otel.kernel.net import netlink
from retina_otel.kernel.net.netlink import Message, RouteSocket
from retina_otel.model.interfaces import Interface

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

STATS_FIELDS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
    "rx_otherhost_dropped",
)
"""rtnl_link_stats64 in its order; an older kernel sends fewer."""

_IFINFO = struct.Struct("=BxHiII")
_ARPHRD_ETHER = 1
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_OPERSTATE = 16
_IFLA_LINKINFO = 18
_IFLA_STATS64 = 23
_IFLA_LINK_NETNSID = 37
_IFLA_INFO_KIND = 1
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_IFA_TARGET_NETNSID = 10
_RTA_OIF = 4
_RTA_MULTIPATH = 9
_RTA_TABLE = 15
_RTN_UNICAST = 1
_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_OPERSTATE_UNKNOWN = 0
_OPERSTATE_UP = 6
_MAIN_TABLES = frozenset({253, 254})
_RTNEXTHOP = struct.Struct("=HBBi")

_SIOCETHTOOL = 0x8946
_ETHTOOL_GSET = 1
_ETHTOOL_CMD_BYTES = 44
_SPEED_UNKNOWN = frozenset({0, 0xFFFF, 0xFFFFFFFF})


class Address(NamedTuple):
    """An address of an interface."""

    ifindex: int
    text: str


class DefaultRoute(NamedTuple):
    """A default route's way out, and whether the main table has it or one of policy routing."""

    ifindex: int
    main: bool


def dump_links(route: RouteSocket) -> dict[int, Interface]:
    """All interfaces by ifindex, with `stats`, without what comes from elsewhere: speed,
    addresses, default route. Raises KernelError."""
    found = (
        parse_link(message) for message in route.dump(RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0))
    )
    return {one.ifindex: one for one in found if one is not None}


def dump_addresses(route: RouteSocket) -> list[Address]:
    """All addresses, IPv4 and IPv6. Raises KernelError."""
    messages = route.dump(RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0))
    return [one for one in map(parse_address, messages) if one is not None]


def dump_addresses_of(route: RouteSocket, netnsid: int) -> list[Address]:
    """All addresses in the namespace with that number (`Interface.peer_netnsid`), which is not
    entered. `route` is a strict socket. Raises KernelError."""
    target = netlink.attribute(_IFA_TARGET_NETNSID, struct.pack("=i", netnsid))
    messages = route.dump(RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0) + target)
    return [one for one in map(parse_address, messages) if one is not None]


def dump_default_routes(route: RouteSocket) -> set[DefaultRoute]:
    """Where default routes leave, IPv4 and IPv6. Raises KernelError."""
    found: set[DefaultRoute] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        for message in route.dump(RTM_GETROUTE, body):
            found.update(parse_default_route(message))
    return found


def parse_link(message: Message) -> Interface | None:
    """An interface from RTM_NEWLINK or RTM_DELLINK; None if the message is about something else."""
    if message.type not in (RTM_NEWLINK, RTM_DELLINK) or len(message.body) < _IFINFO.size:
        return None
    family, hardware, ifindex, flags, _change = _IFINFO.unpack_from(message.body)
    found = dict(netlink.attributes(message.body, _IFINFO.size))
    # Bridges announce their ports as AF_BRIDGE links, and leaving one as a deleted link; wireless
    # drivers send links that have only events in them.
    if family != socket.AF_UNSPEC or _IFLA_IFNAME not in found or _IFLA_MTU not in found:
        return None
    info = dict(netlink.attributes(found.get(_IFLA_LINKINFO, b"")))
    state = _u32(found.get(_IFLA_OPERSTATE, b""))
    admin_up = bool(flags & _IFF_UP)
    return Interface(
        ifindex=ifindex,
        name=_text(found[_IFLA_IFNAME]),
        kind=_text(info.get(_IFLA_INFO_KIND, b"")),
        up=admin_up and state in (_OPERSTATE_UP, _OPERSTATE_UNKNOWN),
        loopback=bool(flags & _IFF_LOOPBACK),
        mtu=_u32(found[_IFLA_MTU]),
        master=_u32(found.get(_IFLA_MASTER, b"")),
        peer_netnsid=_i32(found.get(_IFLA_LINK_NETNSID, b""), -1),
        peer=_u32(found.get(_IFLA_LINK, b"")),
        ethernet=hardware == _ARPHRD_ETHER,
        stats=_stats(found.get(_IFLA_STATS64)),
    )


def parse_address(message: Message) -> Address | None:
    """From RTM_NEWADDR or RTM_DELADDR."""
    if message.type not in (RTM_NEWADDR, RTM_DELADDR) or len(message.body) < _IFADDR.size:
        return None
    family, _prefix, _flags, _scope, ifindex = _IFADDR.unpack_from(message.body)
    found = dict(netlink.attributes(message.body, _IFADDR.size))
    # On a point-to-point interface IFA_ADDRESS is the other end's.
    raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    sizes = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}
    if raw is None or sizes.get(family) != len(raw):
        return None
    return Address(ifindex, socket.inet_ntop(family, raw))


def is_default_route(message: Message) -> bool:
    """Whether a route message is about a default route, of any type and table."""
    return (
        message.type in (RTM_NEWROUTE, RTM_DELROUTE)
        and len(message.body) >= _RTMSG.size
        and message.body[1] == 0
    )


def parse_default_route(message: Message) -> list[DefaultRoute]:
    """The ways out of a default route; none for blackholes and for other routes."""
    if not is_default_route(message):
        return []
    _, _, _, _, small_table, _, _, kind, _ = _RTMSG.unpack_from(message.body)
    if kind != _RTN_UNICAST:
        return []
    found = dict(netlink.attributes(message.body, _RTMSG.size))
    table = _u32(found.get(_RTA_TABLE, b"")) or small_table
    ifindexes = [_u32(found[_RTA_OIF])] if _RTA_OIF in found else []
    hops = found.get(_RTA_MULTIPATH, b"")
    at = 0
    while at + _RTNEXTHOP.size <= len(hops):
        length, _, _, ifindex = _RTNEXTHOP.unpack_from(hops, at)
        if length < _RTNEXTHOP.size:
            break
        ifindexes.append(ifindex)
        at += (length + 3) & ~3
    return [DefaultRoute(ifindex, table in _MAIN_TABLES) for ifindex in ifindexes]


class SpeedReader:
    """Link speeds by ethtool's ioctl, in the namespace of the thread that makes it (/sys shows the
    namespace in which it was mounted, which may be another)."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        self._socket.close()

    def mbps(self, name: str) -> int:
        """-1 where the device knows none (most virtual ones), or is gone."""
        command = ctypes.create_string_buffer(_ETHTOOL_CMD_BYTES)
        struct.pack_into("=I", command, 0, _ETHTOOL_GSET)
        request = struct.pack("=16sQ16x", name.encode(), ctypes.addressof(command))
        try:
            fcntl.ioctl(self._socket.fileno(), _SIOCETHTOOL, request)
        except OSError:
            return -1
        low = struct.unpack_from("=H", command, 12)[0]
        high = struct.unpack_from("=H", command, 28)[0]
        speed = high << 16 | low
        return -1 if speed in _SPEED_UNKNOWN else speed


def _stats(raw: bytes | None) -> Mapping[str, int] | None:
    if raw is None:
        return None
    count = min(len(raw) // 8, len(STATS_FIELDS))
    return dict(zip(STATS_FIELDS, struct.unpack_from(f"={count}Q", raw), strict=False))


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _u32(raw: bytes) -> int:
    return int.from_bytes(raw[:4], "little")


def _i32(raw: bytes, absent: int) -> int:
    return int.from_bytes(raw[:4], "little", signed=True) if raw else absent
