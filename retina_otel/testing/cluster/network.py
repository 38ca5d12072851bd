"""The network of a cluster: a world that routes, the control plane's host, the nodes.

    world ── br0 172.18.0.1, fd00:18::1 ──┬── control  172.18.0.2
      lo 203.0.113.10, 2001:db8::10       ├── node-1   172.18.0.11, fd00:18::11
                                          └── node-2   172.18.0.12, fd00:18::12

Each is a network namespace of its own; the machine's network has no part in it. Pods leave for the
world with their node's address, and for everything else with their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from retina_otel.testing.namespaces import Namespace

POD_CIDRS = ("10.244.0.0/16", "fd00:10:244::/56")
NODE_CIDRS = ("172.18.0.0/24", "fd00:18::/64")
GATEWAY = ("172.18.0.1", "fd00:18::1")
CONTROL = ("172.18.0.2", "fd00:18::2")
WORLD = ("203.0.113.10", "2001:db8::10")
"""Addresses of a host beyond the nodes' gateway."""


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """Where node `number` (from 1) and its pods are."""

    number: int

    @property
    def own(self) -> tuple[str, str]:
        return f"172.18.0.{10 + self.number}", f"fd00:18::{10 + self.number}"

    @property
    def pod_cidrs(self) -> tuple[str, str]:
        return f"10.244.{self.number}.0/24", f"fd00:10:244:{self.number}::/64"

    def pod_address(self, host: int) -> tuple[str, str]:
        """Both addresses number `host` of the node's ranges."""
        return f"10.244.{self.number}.{host}", f"fd00:10:244:{self.number}::{host:x}"


class Network:
    """The namespaces of a cluster of `nodes` nodes. All are removed by `remove`."""

    def __init__(self, tag: str, nodes: int) -> None:
        self._all: list[Namespace] = []
        self.world = self._namespace(tag, "world")
        forwarding = {"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1}
        self.world.sysctl(forwarding)
        self.world.ip(
            "link add br0 type bridge",
            "link set br0 up",
            *(f"addr add {address} dev br0 nodad" for address in _with_prefix(GATEWAY)),
            *(f"addr add {address} dev lo" for address in WORLD),
        )
        self.control = self._namespace(tag, "control")
        self._plug(self.control, "control", CONTROL)
        self.nodes: list[Namespace] = []
        addresses = [NodeAddresses(number) for number in range(1, nodes + 1)]
        for each in addresses:
            node = self._namespace(tag, f"node-{each.number}")
            node.sysctl(forwarding)
            self._plug(node, f"node-{each.number}", each.own)
            node.nft(_MASQUERADE)
            self.nodes.append(node)
            self._route_to_pods(self.control, each)
        for host, own in zip(self.nodes, addresses, strict=True):
            for other in addresses:
                if other is not own:
                    self._route_to_pods(host, other)

    def remove(self) -> None:
        """Removes the namespaces, and what runs in them."""
        for each in reversed(self._all):
            each.remove()

    def _namespace(self, tag: str, name: str) -> Namespace:
        made = Namespace(tag, name)
        made.ip("link set lo up")
        self._all.append(made)
        return made

    def _route_to_pods(self, host: Namespace, node: NodeAddresses) -> None:
        ways = zip(node.pod_cidrs, node.own, strict=True)
        host.ip(*(f"route add {cidr} via {gateway}" for cidr, gateway in ways))

    def _plug(self, host: Namespace, name: str, addresses: tuple[str, str]) -> None:
        """Gives a namespace an eth0 on the bridge, and the world as its way out."""
        self.world.ip(
            f"link add {name} type veth peer name eth0 netns {host.name}",
            f"link set {name} master br0 up",
        )
        host.ip(
            "link set eth0 up",
            *(f"addr add {address} dev eth0 nodad" for address in _with_prefix(addresses)),
            *(f"route add default via {gateway}" for gateway in GATEWAY),
        )


def _with_prefix(addresses: tuple[str, str]) -> tuple[str, str]:
    return f"{addresses[0]}/24", f"{addresses[1]}/64"


_MASQUERADE = f"""
table inet lab {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ip saddr {POD_CIDRS[0]} ip daddr != {{ {POD_CIDRS[0]}, {NODE_CIDRS[0]} }} \\
            oifname "eth0" masquerade
        ip6 saddr {POD_CIDRS[1]} ip6 daddr != {{ {POD_CIDRS[1]}, {NODE_CIDRS[1]} }} \\
            oifname "eth0" masquerade
    }}
}}
"""
