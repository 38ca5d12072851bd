"""What the node's NAT made of connections, asked of its own connection tracking."""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from retina_otel.errors import KernelError
from retina_otel.kernel.net.conntrack import ConntrackSocket
from retina_otel.model.namespaces import Tuples
from retina_otel.node.translations import FRESH_NS, NodeTranslations
from retina_otel.testing.lab import NODE4, NODE6, Lab, Pod

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
SERVICE4, SERVICE6 = "10.96.0.10", "fd00:10:96::a"
PORT, NODE_PORT, TARGET = 80, 30080, 8080
Connection = tuple[int, str, int, str, int]
"""Protocol, source, its port, destination, its port."""

_RULES = """
table inet rt_services {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    {rules}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat - 1;
    ct status dnat masquerade
  }}
}}
"""


def rules(backends: Sequence[Pod]) -> str:
    lines = []
    for family, service, node in (("ip", SERVICE4, NODE4), ("ip6", SERVICE6, NODE6)):
        for protocol in ("tcp", "udp"):
            for number, pod in enumerate(backends):
                target = pod.ipv4 if family == "ip" else f"[{pod.ipv6}]"
                turn = f"numgen inc mod {len(backends) - number} 0"
                for address, port in ((service, PORT), (node, NODE_PORT)):
                    lines.append(
                        f"{family} daddr {address} {protocol} dport {port} {turn}"
                        f" dnat {family} to {target}:{TARGET}"
                    )
    return _RULES.format(rules="\n    ".join(lines))


class Server:
    """Answers each connection and datagram of a pod with the address it came to."""

    def __init__(self, pod: Pod) -> None:
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        for family, address in ((socket.AF_INET, pod.ipv4), (socket.AF_INET6, pod.ipv6)):
            for kind, serve in ((socket.SOCK_STREAM, _accept), (socket.SOCK_DGRAM, _echo)):
                one = pod.socket(family, kind)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((address, TARGET))
                if kind == socket.SOCK_STREAM:
                    one.listen(128)
                thread = threading.Thread(target=serve, args=(one, address.encode()))
                thread.start()
                self._sockets.append(one)
                self._threads.append(thread)

    def close(self) -> None:
        for one in self._sockets:
            if one.type == socket.SOCK_STREAM:
                one.shutdown(socket.SHUT_RDWR)
            else:
                with socket.fromfd(one.fileno(), one.family, one.type) as same:
                    same.sendto(b"", one.getsockname())
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()


def _accept(listener: socket.socket, name: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(name)


def _echo(bound: socket.socket, name: bytes) -> None:
    while True:
        data, peer = bound.recvfrom(100)
        if not data:
            return
        bound.sendto(name, peer)


class Services:
    """The lab with a service before two pods, and a clock."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.backends = [lab.add_pod("shop/one"), lab.add_pod("shop/two")]
        lab.node.nft(rules(self.backends))
        lab.outside.ip(f"route add {SERVICE4} via {NODE4}", f"route add {SERVICE6} via {NODE6}")
        self.now_ns = 0
        self.translations = NodeTranslations(lambda: self.now_ns)

    def connect(
        self,
        protocol: int,
        destination: tuple[str, int],
        source_port: int = 0,
        client: Pod | None = None,
    ) -> tuple[Connection, tuple[str, int]]:
        """A connection's addresses, and who answered it."""
        family = socket.AF_INET6 if ":" in destination[0] else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
        with (client or self.lab.outside).socket(family, kind) as one:
            one.settimeout(20)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("::" if ":" in destination[0] else "0.0.0.0", source_port))
            one.connect(destination)
            if protocol == UDP:
                one.send(b"who?")
            answer = one.recv(100).decode()
            source, port = one.getsockname()[:2]
        return (protocol, source, port, *destination), (answer, TARGET)

    def ask(self, *connections: Connection) -> list[tuple[str, int]]:
        """The backend of each, ("", 0) for none; a tick later than before."""
        self.now_ns += FRESH_NS
        hi, lo, port = self.lab.node.call(lambda: self.translations.backends(tuples(*connections)))
        assert self.translations.unavailable == ""
        return list(zip(map(text, hi.tolist(), lo.tolist()), port.tolist(), strict=True))


def tuples(*connections: Connection) -> Tuples:
    protocol, source, source_port, destination, destination_port = zip(*connections, strict=True)
    return Tuples(
        np.array(protocol, np.uint8),
        *halves(source),
        np.array(source_port, np.uint16),
        *halves(destination),
        np.array(destination_port, np.uint16),
    )


def halves(addresses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    numbers = [
        int(address) | (0xFFFF << 32 if address.version == 4 else 0)
        for address in map(ipaddress.ip_address, addresses)
    ]
    return (
        np.array([number >> 64 for number in numbers], np.uint64),
        np.array([number & (1 << 64) - 1 for number in numbers], np.uint64),
    )


def text(hi: int, lo: int) -> str:
    if not hi | lo:
        return ""
    address = ipaddress.IPv6Address(hi << 64 | lo)
    return str(address.ipv4_mapped or address)


@pytest.fixture
def services(lab: Lab) -> Iterator[Services]:
    made = Services(lab)
    servers = [Server(pod) for pod in made.backends]
    yield made
    for server in servers:
        server.close()
    made.translations.close()


@pytest.mark.kernels
def test_the_backend_of_each_connection_is_the_one_that_answered(services):
    each = itertools.product(
        ((SERVICE4, PORT), (SERVICE6, PORT), (NODE4, NODE_PORT), (NODE6, NODE_PORT)),
        (TCP, UDP),
        (None, services.lab.pod("web")),
        range(7),
    )
    # Ports of our own: of those that the kernel chooses two may be the same.
    truth = dict(
        services.connect(protocol, destination, 20_000 + number, client)
        for number, (destination, protocol, client, _) in enumerate(each)
    )

    assert len(truth) == 4 * 2 * 2 * 7
    assert len(set(truth.values())) == 4
    assert services.ask(*truth) == list(truth.values())


def test_what_is_not_translated_has_no_backend(services):
    backend = services.backends[0]
    direct, _ = services.connect(TCP, (backend.ipv4, TARGET))
    direct6, _ = services.connect(UDP, (backend.ipv6, TARGET))
    translated, answered = services.connect(TCP, (SERVICE4, PORT))
    never = (TCP, "192.0.2.1", 1, SERVICE4, PORT)
    echo = (socket.IPPROTO_ICMP, *translated[1:])
    # The other direction, as the backend sees it: its peer is the node, which hides the client.
    back = (TCP, answered[0], TARGET, NODE4, translated[2])

    none = ("", 0)
    assert services.ask(direct, direct6, translated, never, echo, back) == [
        none,
        none,
        answered,
        none,
        none,
        none,
    ]


def test_a_port_that_is_used_again_has_the_new_backend(services):
    told, answered = [], []
    for _ in range(20):
        connection, by = services.connect(UDP, (SERVICE4, PORT), source_port=4444)
        answered.append(by)
        told.extend(services.ask(connection))
        services.lab.node.run(["conntrack", "-D", "-p", "udp", "--orig-port-src", "4444"])

    assert told == answered
    assert len(set(answered)) == 2


def test_what_was_asked_in_a_tick_is_not_asked_again_before_the_next(services):
    connection, by = services.connect(UDP, (SERVICE4, PORT), source_port=4444)
    assert services.ask(connection) == [by]
    services.lab.node.run(["conntrack", "-D", "-p", "udp", "--orig-port-src", "4444"])

    services.now_ns -= 1
    assert services.ask(connection) == [by]
    assert services.ask(connection) == [("", 0)]


def test_look_ups_are_bounded_and_what_is_left_out_is_counted(services):
    services.translations = NodeTranslations(lambda: services.now_ns, lookups=5)
    truth = dict(services.connect(UDP, (SERVICE4, PORT), 20_000 + n) for n in range(8))

    told = services.ask(*truth, *truth)
    assert told[:8] == told[8:]
    assert [one for one in told if one == ("", 0)] == [("", 0)] * 6
    assert all(one in (("", 0), by) for one, by in zip(told, truth.values(), strict=False))
    books = services.translations.ledger.report()
    assert (books.seen, books.drained, books.lost) == (8, 5, {"too_many": 3})
    assert books.difference == 0


def test_without_the_right_it_says_which(services):
    program = """
import numpy as np
from retina_otel.node.translations import NodeTranslations
from tests.netns.test_translations import tuples
made = NodeTranslations(lambda: 0)
print(made.backends(tuples((6, "192.0.2.1", 1, "192.0.2.2", 2)))[1].tolist(), made.unavailable)
"""
    words = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", sys.executable, "-c", program]
    done = subprocess.run(
        words, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "."}
    )
    assert done.stdout.startswith("[0] connections can't be looked up: ")
    assert done.stdout.rstrip().endswith("Give the process CAP_NET_ADMIN")


def test_net_admin_alone_is_enough(services):
    connection, by = services.connect(TCP, (SERVICE4, PORT))
    program = f"""
from retina_otel.node.translations import NodeTranslations
from tests.netns.test_translations import text, tuples
made = NodeTranslations(lambda: 0)
hi, lo, port = made.backends(tuples({connection!r}))
print(text(int(hi[0]), int(lo[0])), port[0])
"""
    kept = "-all,+net_admin"
    words = [
        "setpriv",
        f"--inh-caps={kept}",
        f"--bounding-set={kept}",
        sys.executable,
        "-c",
        program,
    ]
    done = services.lab.node.run(["env", "PYTHONPATH=.", *words])
    assert done.stdout.split() == [by[0], str(by[1])]


def test_a_socket_answers_a_thousand_questions_at_once(services):
    connection, by = services.connect(TCP, (SERVICE4, PORT))
    asked = [(TCP, "192.0.2.1", port, SERVICE4, PORT) for port in range(1, 1001)]
    asked[500] = connection
    one = services.lab.node.call(ConntrackSocket)
    hi, lo, port = one.backends(tuples(*asked))
    one.close()
    assert np.flatnonzero(hi | lo).tolist() == [500]
    assert (text(int(hi[500]), int(lo[500])), int(port[500])) == by


def test_a_question_that_can_not_be_sent_is_an_error_of_ours(services):
    one = services.lab.node.call(ConntrackSocket)
    one.close()
    with pytest.raises(KernelError, match="send"):
        one.backends(tuples((TCP, "192.0.2.1", 1, SERVICE4, PORT)))
