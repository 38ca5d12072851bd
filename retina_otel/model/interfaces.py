"""What a network interface of the node is, as rtnetlink tells it; the registry of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface of the namespace in which the agent runs."""

    ifindex: int
    name: str
    kind: str
    """IFLA_INFO_KIND: "veth", "bridge", "vxlan", ...; "" for hardware."""
    up: bool
    loopback: bool
    mtu: int
    master: int
    """ifindex of the bridge or bond it belongs to, 0 if none."""
    peer_netnsid: int
    """IFLA_LINK_NETNSID: which other namespace its peer lives in, -1 if it has none there."""
    peer: int
    """IFLA_LINK: ifindex of its peer or parent, 0 if none."""
    ethernet: bool = True
    """Its packets start with an Ethernet header; those of tun or WireGuard do not."""
    speed_mbps: int = -1
    default_route: bool = False
    """A default route leaves through it: it is an uplink."""
    addresses: Sequence[str] = ()
    stats: Mapping[str, int] | None = None
    """rtnl_link_stats64 by field name; set on dumps and on removal (where it is the last word)."""


class ChangeKind(Enum):
    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    kind: ChangeKind
    interface: Interface


class InterfaceRegistry(Protocol):
    """The interfaces of the node's namespace, followed as they come and go.

    Subscribers are called on the tick thread, first with ADDED for each interface there is.
    """

    def current(self) -> Mapping[int, Interface]:
        """By ifindex, without reading the kernel again."""

    def addresses_in(self, netnsid: int) -> Sequence[str]:
        """The addresses in another namespace (`Interface.peer_netnsid`), without prefix lengths;
        none if it is gone or the kernel does not tell. Reads the kernel."""

    def subscribe(self, callback: Callable[[Change], None]) -> None: ...

    def unsubscribe(self, callback: Callable[[Change], None]) -> None:
        """No call comes after this. Unknown callbacks are no error."""

    def read_stats(self) -> Mapping[int, Interface]:
        """A fresh dump, with `stats` set."""
