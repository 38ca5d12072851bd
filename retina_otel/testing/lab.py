"""A node with pods behind a bridge and a world outside, out of network namespaces on this machine.

        outside (203.0.113.10, 2001:db8:113::10)
           | eth0
           | uplink0                 node: default route, forwarding, masquerade
         br0 (10.244.0.1, fd00:10:244::1)
           | veth-web   | veth-api   ...
           | eth0       | eth0
          pod web      pod api       10.244.0.10, .11, ...; fd00:10:244::a, ::b, ...

Nothing but a test's own packets passes an interface: neighbours and bridge entries are static, ARP,
duplicate address detection, router and multicast discovery are off. So the interfaces' counters can
be compared with a sender's tally for equality.

    with Lab("shop/web", "shop/api") as lab:
        before = lab.pod("web").counters()
        sent = traffic.udp(lab.pod("web"), (lab.pod("api").ipv4, 9), packets=1009)
        assert (lab.pod("web").counters() - before).tx_packets == sent.packets
"""

from __future__ import annotations

import ipaddress
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from retina_otel.errors import RetinaError
from retina_otel.testing.namespaces import (
    Counters,
    Namespace,
    claim_tag,
    folder_of,
    release_tag,
    remove_strays,
)
from retina_otel.testing.offloads import set_offloads

FIRST_POD = 10
LAST_POD = 73
POD_NET4 = ipaddress.ip_network("10.244.0.0/24")
POD_NET6 = ipaddress.ip_network("fd00:10:244::/64")
GATEWAY4, GATEWAY6 = "10.244.0.1", "fd00:10:244::1"
NODE4, NODE6 = "172.30.0.2", "fd00:172:30::2"
UPSTREAM4, UPSTREAM6 = "172.30.0.1", "fd00:172:30::1"
WORLD4, WORLD6 = "203.0.113.10", "2001:db8:113::10"
BRIDGE, UPLINK = "br0", "uplink0"
_GATEWAY_MAC, _UPLINK_MAC, _UPSTREAM_MAC = (
    "02:00:0a:f4:00:01",
    "02:00:ac:1e:00:02",
    "02:00:ac:1e:00:01",
)

_QUIET: dict[str, int | str] = {
    f"ipv6/conf/{which}/{key}": value
    for which in ("all", "default")
    for key, value in {
        "accept_ra": 0,
        "autoconf": 0,
        "router_solicitations": 0,
        "accept_dad": 0,
        "dad_transmits": 0,
        "addr_gen_mode": 1,
    }.items()
}
_QUIET |= {
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    # A reply that has a socket of its own is not also a drop, as one to a raw socket is.
    "ipv4/ping_group_range": "0 2147483647",
    # Segments of a stalled or reordered connection: no SACK blocks, so that all headers of it are
    # of one length, and no retransmission of what was not lost.
    "ipv4/tcp_sack": 0,
    "ipv4/tcp_reordering": 300,
    "ipv4/tcp_rto_min_us": 3_000_000,
}

_FORWARDING = {
    "ipv4/ip_forward": 1,
    "ipv6/conf/all/forwarding": 1,
    # An interface that is born a router joins the routers' group, and reports it.
    "ipv6/conf/default/forwarding": 0,
    "ipv4/conf/all/send_redirects": 0,
    "ipv4/conf/default/send_redirects": 0,
    "bridge/bridge-nf-call-iptables": 0,
    "bridge/bridge-nf-call-ip6tables": 0,
    "bridge/bridge-nf-call-arptables": 0,
}

_MASQUERADE = f"""
table inet rt_lab {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {POD_NET4} oifname "{UPLINK}" masquerade
    ip6 saddr {POD_NET6} oifname "{UPLINK}" masquerade
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """What Kubernetes would know of a pod."""

    namespace: str
    name: str
    uid: str
    owner: tuple[str, str] | None = None
    """Kind and name: ("Deployment", "web")."""
    labels: Mapping[str, str] = field(default_factory=dict)


class Pod(Namespace):
    """A pod: `eth0` inside, `host_interface` on the node's bridge."""

    interface = "eth0"

    def __init__(self, tag: str, identity: PodIdentity, number: int, node: Namespace) -> None:
        super().__init__(tag, identity.name)
        self.identity = identity
        self.number = number
        self.ipv4 = str(POD_NET4[number])
        self.ipv6 = str(POD_NET6[number])
        self.mac = pod_mac(number)
        self.host_interface = f"veth-{identity.name}"
        self.node = node
        """The namespace in which `host_interface` stands."""

    def counters(self, interface: str = "eth0") -> Counters:
        """The pod's side: tx is what the pod sent."""
        return super().counters(interface)

    def host_counters(self) -> Counters:
        """The node's side of the same wire: rx is what the pod sent."""
        return self.node.counters(self.host_interface)

    @property
    def host_ifindex(self) -> int:
        return self.node.interfaces()[self.host_interface]

    def set_offloads(self, on: bool) -> None:
        """TSO and GSO at both ends of the pod's wire; GRO stays as it is (off, for a veth)."""
        set_offloads(self, self.interface, tso=on, gso=on)
        set_offloads(self.node, self.host_interface, tso=on, gso=on)


class Lab:
    """The whole topology, as a context manager. `pods` are written "namespace/name"; names are
    unique.

    `offloads` sets TSO and GSO of all wires; `masquerade` hides pods behind the node's address on
    their way outside. Raises RetinaError without root, or if a tool of the system is missing.
    """

    def __init__(
        self, *pods: str, offloads: bool = False, masquerade: bool = True, node_name: str = "node-1"
    ) -> None:
        self._wanted = pods
        self._offloads = offloads
        self._masquerade = masquerade
        self.node_name = node_name
        self._tag = ""
        self._pods: dict[str, Pod] = {}
        self._next = FIRST_POD
        self.node: Namespace
        self.outside: Namespace

    def __enter__(self) -> Lab:
        if os.geteuid() != 0:
            raise RetinaError(
                "a lab of network namespaces needs root", "Run the command as root, or with sudo"
            )
        remove_strays()
        self._tag = claim_tag()
        try:
            self._build()
            for name in self._wanted:
                self.add_pod(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def tag(self) -> str:
        """Every namespace of this lab is named `rt-<tag>-<name>`."""
        return self._tag

    @property
    def folder(self) -> Path:
        """A private directory for files of this lab, which goes with it."""
        return folder_of(self._tag)

    @property
    def pods(self) -> list[Pod]:
        return list(self._pods.values())

    def pod(self, name: str) -> Pod:
        """By name, with or without its namespace."""
        return self._pods[name.rpartition("/")[2]]

    def add_pod(
        self,
        name: str,
        *,
        owner: tuple[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        number: int | None = None,
    ) -> Pod:
        """A new pod on the bridge, ready to send. `number` is its address's last part (10 to 73):
        given to hand an address of a removed pod to another, else the next one that was never
        used."""
        namespace, _, short = name.rpartition("/")
        if short in self._pods or short in ("node", "outside") or len(short) > 10:
            raise RetinaError(
                f"a pod cannot be named {short!r}", "Choose a new name of at most 10 characters"
            )
        if number is None:
            number, self._next = self._next, self._next + 1
        if not FIRST_POD <= number <= LAST_POD:
            raise RetinaError("the lab has no address left", "Pass number= to use one again")
        identity = PodIdentity(
            namespace=namespace or "default",
            name=short,
            uid=str(uuid.uuid4()),
            owner=owner,
            labels=dict(labels or {}),
        )
        pod = Pod(self._tag, identity, number, self.node)
        self._pods[short] = pod
        pod.sysctl(_QUIET)
        self.node.ip(
            f"link add {pod.host_interface} address {pod_mac(number, host=True)}"
            f" type veth peer name eth0 address {pod.mac} netns {pod.name}",
            f"link set {pod.host_interface} arp off multicast off",
            f"link set {pod.host_interface} master {BRIDGE}",
            f"link set {pod.host_interface} type bridge_slave"
            " learning off flood off mcast_flood off bcast_flood off",
            f"link set {pod.host_interface} up",
            *_neighbours(BRIDGE, {number: (pod.ipv4, pod.ipv6)}),
        )
        self.node.bridge(f"fdb replace {pod.mac} dev {pod.host_interface} master static")
        pod.ip(
            "link set lo up",
            "link set eth0 arp off multicast off",
            f"addr add {pod.ipv4}/24 dev eth0",
            f"addr add {pod.ipv6}/64 dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {GATEWAY4}",
            f"route add default via {GATEWAY6}",
            f"neigh replace {GATEWAY4} lladdr {_GATEWAY_MAC} dev eth0 nud permanent",
            f"neigh replace {GATEWAY6} lladdr {_GATEWAY_MAC} dev eth0 nud permanent",
            *_neighbours("eth0", {n: (str(POD_NET4[n]), str(POD_NET6[n])) for n in _PODS}),
        )
        pod.set_offloads(self._offloads)
        self.node.wait_until_up(BRIDGE, pod.host_interface)
        pod.wait_until_up("eth0")
        return pod

    def remove_pod(self, pod: Pod) -> None:
        """Removes the pod's wire from the node, as a CNI does, then the pod."""
        self.node.ip(f"link del {pod.host_interface}")
        del self._pods[pod.identity.name]
        pod.remove()

    def identity(self) -> dict[str, Any]:
        """The lab as the static identity extension reads it: what is there now."""
        return {
            "node": {
                "name": self.node_name,
                "addresses": [NODE4, NODE6, GATEWAY4, GATEWAY6],
            },
            "pods": [self._pod_entry(pod) for pod in self._pods.values()],
            "services": [],
            "cidrs": [],
        }

    def identity_yaml(self) -> str:
        return yaml.safe_dump(self.identity(), sort_keys=False)

    def write_identity(self, path: Path) -> Path:
        """Writes `identity_yaml()` so that a reader sees the old file or the new, never half of
        one."""
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(self.identity_yaml())
        draft.rename(path)
        return path

    def close(self) -> None:
        """Stops what was started in the lab and removes it. May be called twice."""
        for namespace in [*self._pods.values(), *self._infrastructure()]:
            namespace.remove()
        self._pods.clear()
        release_tag(self._tag)

    def _infrastructure(self) -> list[Namespace]:
        return [getattr(self, name) for name in ("outside", "node") if hasattr(self, name)]

    def _build(self) -> None:
        self.node = Namespace(self._tag, "node")
        self.outside = Namespace(self._tag, "outside")
        for namespace in (self.node, self.outside):
            namespace.sysctl(_QUIET)
        self.node.sysctl(_FORWARDING)
        self.node.ip(
            "link set lo up",
            f"link add {BRIDGE} address {_GATEWAY_MAC} type bridge"
            " stp_state 0 forward_delay 0 mcast_snooping 0 mcast_querier 0",
            f"link set {BRIDGE} arp off multicast off",
            f"addr add {GATEWAY4}/24 dev {BRIDGE}",
            f"addr add {GATEWAY6}/64 dev {BRIDGE} nodad",
            f"link set {BRIDGE} up",
            f"link add {UPLINK} address {_UPLINK_MAC}"
            f" type veth peer name eth0 address {_UPSTREAM_MAC} netns {self.outside.name}",
            f"link set {UPLINK} arp off multicast off",
            f"addr add {NODE4}/24 dev {UPLINK}",
            f"addr add {NODE6}/64 dev {UPLINK} nodad",
            f"link set {UPLINK} up",
            f"route add default via {UPSTREAM4}",
            f"route add default via {UPSTREAM6}",
            f"neigh replace {UPSTREAM4} lladdr {_UPSTREAM_MAC} dev {UPLINK} nud permanent",
            f"neigh replace {UPSTREAM6} lladdr {_UPSTREAM_MAC} dev {UPLINK} nud permanent",
        )
        self.outside.ip(
            "link set lo up",
            "link set eth0 arp off multicast off",
            f"addr add {UPSTREAM4}/24 dev eth0",
            f"addr add {UPSTREAM6}/64 dev eth0 nodad",
            f"addr add {WORLD4}/32 dev lo",
            f"addr add {WORLD6}/128 dev lo nodad",
            "link set eth0 up",
            f"neigh replace {NODE4} lladdr {_UPLINK_MAC} dev eth0 nud permanent",
            f"neigh replace {NODE6} lladdr {_UPLINK_MAC} dev eth0 nud permanent",
            f"route add {POD_NET4} via {NODE4}",
            f"route add {POD_NET6} via {NODE6}",
        )
        set_offloads(self.node, UPLINK, tso=self._offloads, gso=self._offloads)
        set_offloads(self.outside, "eth0", tso=self._offloads, gso=self._offloads)
        if self._masquerade:
            self.node.nft(_MASQUERADE)
        self.node.wait_until_up(UPLINK)
        self.outside.wait_until_up("eth0")

    def _pod_entry(self, pod: Pod) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "namespace": pod.identity.namespace,
            "name": pod.identity.name,
            "uid": pod.identity.uid,
            "node": self.node_name,
            "addresses": [pod.ipv4, pod.ipv6],
            "netns": pod.inode,
            "interface": pod.host_interface,
        }
        if pod.identity.owner:
            kind, name = pod.identity.owner
            entry["owner"] = {"kind": kind, "name": name}
        if pod.identity.labels:
            entry["labels"] = dict(pod.identity.labels)
        return entry


_PODS = range(FIRST_POD, LAST_POD + 1)


def pod_mac(number: int, *, host: bool = False) -> str:
    """The MAC address of the pod with this number, or of the node's end of its wire."""
    return f"02:{int(host):02x}:0a:f4:00:{number:02x}"


def _neighbours(interface: str, addresses: Mapping[int, tuple[str, str]]) -> list[str]:
    return [
        f"neigh replace {address} lladdr {pod_mac(number)} dev {interface} nud permanent"
        for number, pair in addresses.items()
        for address in pair
    ]
