"""Three pods that talk and lose packets, and the truth about it by the senders' own tallies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from retina_otel.model.signals import FLOW_IO, FLOW_PACKETS
from retina_otel.testing import traffic
from retina_otel.testing.lab import WORLD4, Lab, Pod
from retina_otel.testing.servers import TcpServer, UdpServer

FIREWALL = """
table inet rt_e2e {{
  chain forward {{
    type filter hook forward priority 0;
    udp dport {port} drop
  }}
}}
"""
DROPS = (
    '"retina.drop*": [source.k8s.pod.name, destination.port, retina.drop.reason, retina.event.*]'
)

Sums = Counter[tuple[str, str, str, str, str]]
"""Amount by metric, source pod, destination pod, transport, direction."""


@contextmanager
def shop() -> Iterator[Lab]:
    """Pods web, api and db, and a firewall that drops UDP to `blocked_port`."""
    with Lab("shop/web", "shop/api", "shop/db") as lab:
        lab.node.nft(FIREWALL.format(port=blocked_port(lab)))
        yield lab


def blocked_port(lab: Lab) -> int:
    """A port of this lab's own: the kernel tells of drops in any other namespace as well."""
    return 20_000 + int(lab.tag, 16) % 40_000


class Truth:
    """What the senders say they sent, as the sums that the Collector must end with."""

    def __init__(self) -> None:
        self.sums: Sums = Counter()

    def add(self, source: Pod, destination: Pod, transport: str, tally: traffic.Tally) -> None:
        for direction in ("egress", "ingress"):
            key = (source.identity.name, destination.identity.name, transport, direction)
            self.sums[FLOW_PACKETS.name, *key] += tally.packets
            self.sums[FLOW_IO.name, *key] += tally.bytes

    def exchange(self, source: Pod, destination: Pod, transport: str, both: Any) -> None:
        self.add(source, destination, transport, both.sent)
        self.add(destination, source, transport, both.received)


def talk(lab: Lab, truth: Truth, n: int) -> None:
    """Traffic of every kind between web and api; `n` scales it."""
    web, api = lab.pod("web"), lab.pod("api")
    with TcpServer(api, api.ipv4, 8080) as shop, UdpServer(api, api.ipv6, 5353) as names:
        truth.exchange(web, api, "tcp", traffic.tcp(web, shop.to, requests=n))
        truth.add(web, api, "udp", traffic.udp(web, names.to, packets=n))
    truth.exchange(api, web, "icmp", traffic.icmp_echo(api, web.ipv4, packets=n))


def lose(lab: Lab, n: int) -> int:
    """Packets that the firewall drops."""
    return traffic.udp(lab.pod("web"), (WORLD4, blocked_port(lab)), packets=n).packets
