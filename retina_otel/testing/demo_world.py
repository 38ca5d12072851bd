"""The small shop that the demo watches: pods that talk, firewalls that do not let them, and
tallies.

    shop/web --> shop/api --> shop/db      requests, each connection a few of them
    shop/web, shop/api --> infra/dns       queries
    shop/api --> shop/db                   datagrams one way; an upload that is read slowly
    shop/web --> outside                   through masquerade
    node-1   --> shop/web                  probes, as a kubelet's
    shop/web --> shop/db:9999              closed port
    shop/web --> shop/db:5432              firewall in the pod of the database
    shop/api --> outside:514               firewall of the node

All of it is bounded in rate, and every sender keeps a tally, so that the sums can be checked.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from retina_otel.errors import RetinaError
from retina_otel.testing import traffic
from retina_otel.testing.lab import GATEWAY4, WORLD4, WORLD6, Lab, Pod
from retina_otel.testing.servers import TcpServer, UdpServer
from retina_otel.testing.tally import Exchange

OUTSIDE = "outside"
NODE = "node-1"
NETFILTER_DROP, NO_SOCKET = "netfilter_drop", "no_socket"

_HTTP, _SQL, _UPLOAD, _FORBIDDEN, _CLOSED, _DNS, _STATS, _SYSLOG = (
    8080,
    5433,
    5434,
    5432,
    9999,
    53,
    8125,
    514,
)

_POD_FIREWALL = f"""
table inet rt_demo {{
  chain input {{
    type filter hook input priority filter;
    tcp dport {_FORBIDDEN} drop
  }}
}}
"""
_NODE_FIREWALL = f"""
table inet rt_demo {{
  chain forward {{
    type filter hook forward priority filter;
    udp dport {_SYSLOG} drop
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Talk:
    """What one pair of ends does, again and again."""

    what: str
    source: str
    destination: str
    transport: str
    act: Callable[[], Exchange]
    every_s: float
    dropped_as: str = ""
    """The reason for which the kernel drops every packet that the source sends."""


class Sender:
    """A talk that goes on in a thread of its own, and the sum of its tallies."""

    def __init__(self, talk: Talk, stop: threading.Event) -> None:
        self.talk = talk
        self.total = Exchange()
        """What has been sent and received; complete when `join` has returned."""
        self.failure: RetinaError | OSError | None = None
        self._stop = stop
        self._thread = threading.Thread(target=self._run, name=talk.what, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.total += self.talk.act()
            except (RetinaError, OSError) as error:
                self.failure = error
                return
            self._stop.wait(self.talk.every_s)


class DemoWorld:
    """The lab with its servers, as a context manager; `start` and `stop` are for the senders."""

    def __init__(self) -> None:
        self.lab = Lab(node_name=NODE)
        self.senders: list[Sender] = []
        self._stop = threading.Event()
        self._exits = ExitStack()

    def __enter__(self) -> DemoWorld:
        with ExitStack() as exits:
            lab = exits.enter_context(self.lab)
            web = lab.add_pod("shop/web", owner=("Deployment", "web"), labels={"app": "web"})
            api = lab.add_pod("shop/api", owner=("Deployment", "api"), labels={"app": "api"})
            db = lab.add_pod("shop/db", owner=("StatefulSet", "db"), labels={"app": "db"})
            dns = lab.add_pod("infra/dns", owner=("DaemonSet", "dns"), labels={"app": "dns"})
            db.nft(_POD_FIREWALL)
            lab.node.nft(_NODE_FIREWALL)
            for server in (
                TcpServer(web, web.ipv4, _HTTP),
                TcpServer(api, api.ipv4, _HTTP),
                TcpServer(db, db.ipv6, _SQL),
                TcpServer(db, db.ipv4, _UPLOAD, read_pause_s=0.005),
                UdpServer(db, db.ipv6, _STATS),
                UdpServer(dns, dns.ipv4, _DNS, dns_answer),
                UdpServer(dns, dns.ipv6, _DNS, dns_answer),
                TcpServer(lab.outside, WORLD4, _HTTP),
                TcpServer(lab.outside, WORLD6, _HTTP),
            ):
                exits.enter_context(server)
            self.senders = [Sender(talk, self._stop) for talk in _talks(lab, web, api, db, dns)]
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            self._exits.close()

    def identity(self) -> dict[str, Any]:
        """What the static identity extension is given: the lab, and a name for what is outside."""
        return self.lab.identity() | {
            "cidrs": [
                {"name": OUTSIDE, "cidr": f"{WORLD4}/32"},
                {"name": OUTSIDE, "cidr": f"{WORLD6}/128"},
            ]
        }

    def start(self) -> None:
        for sender in self.senders:
            sender.start()

    def stop(self) -> None:
        """Ends all senders after what they are at, so that every connection is closed."""
        self._stop.set()
        for sender in self.senders:
            sender.join()


def pod_name(pod: Pod) -> str:
    return f"{pod.identity.namespace}/{pod.identity.name}"


def _talks(lab: Lab, web: Pod, api: Pod, db: Pod, dns: Pod) -> list[Talk]:
    w, a, d, n = map(pod_name, (web, api, db, dns))

    def one_way(tally: traffic.Tally) -> Exchange:
        return Exchange(sent=tally)

    return [
        Talk("requests", w, a, "tcp", lambda: traffic.tcp(web, (api.ipv4, _HTTP), 7), 0.1),
        Talk(
            "queries of the database", a, d, "tcp",
            lambda: traffic.tcp(api, (db.ipv6, _SQL), 5, 149, 4001), 0.1,
        ),
        Talk(
            "names", w, n, "udp",
            lambda: traffic.udp_requests(web, (dns.ipv4, _DNS), 3, dns_query("api.shop")), 0.2,
        ),
        Talk(
            "names", a, n, "udp",
            lambda: traffic.udp_requests(api, (dns.ipv6, _DNS), 2, dns_query("db.shop")), 0.2,
        ),
        Talk(
            "statistics", a, d, "udp",
            lambda: one_way(traffic.udp(api, (db.ipv6, _STATS), 11, 101)), 0.1,
        ),
        Talk(
            "slow reader", a, d, "tcp",
            lambda: traffic.tcp(api, (db.ipv4, _UPLOAD), 1, 200_003, 17), 0.5,
        ),
        Talk(
            "to the outside", w, OUTSIDE, "tcp",
            lambda: traffic.tcp(web, (WORLD4, _HTTP), 3, 307, 12_007), 0.2,
        ),
        Talk(
            "to the outside, IPv6", w, OUTSIDE, "tcp",
            lambda: traffic.tcp(web, (WORLD6, _HTTP), 3, 307, 12_007), 0.2,
        ),
        Talk(
            "probes", NODE, w, "tcp",
            lambda: traffic.tcp(lab.node, (web.ipv4, _HTTP), 1, 61, 113), 0.5,
        ),
        Talk("pings", w, a, "icmp", lambda: traffic.icmp_echo(web, api.ipv4, 3), 0.5),
        Talk(
            "closed port", w, d, "tcp",
            lambda: traffic.tcp_refused(web, (db.ipv4, _CLOSED), 1), 0.3, NO_SOCKET,
        ),
        Talk(
            "firewall of the pod", w, d, "tcp",
            lambda: one_way(traffic.tcp_unanswered(web, (db.ipv4, _FORBIDDEN), 1)), 0.2,
            NETFILTER_DROP,
        ),
        Talk(
            "firewall of the node", a, OUTSIDE, "udp",
            lambda: one_way(traffic.udp(api, (WORLD4, _SYSLOG), 5, 67)), 0.2, NETFILTER_DROP,
        ),
    ]  # fmt: skip


def dns_query(name: str) -> bytes:
    """A query for the IPv4 address of `name`."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def dns_answer(query: bytes) -> bytes:
    """Answers any query with one address, as a cluster's DNS does for a service."""
    identifier = query[:2]
    header = identifier + struct.pack("!5H", 0x8180, 1, 1, 0, 0)
    address = bytes(map(int, GATEWAY4.split(".")))
    return header + query[12:] + struct.pack("!3HIH", 0xC00C, 1, 1, 30, 4) + address
