"""What a node of the real cluster knows of its pods' namespaces, sockets and connections."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from retina_otel.kernel.net.rtnetlink import InterfaceMonitor
from retina_otel.model.namespaces import Tuples
from retina_otel.node.facts import NodeFacts
from retina_otel.testing.cluster import WORKLOADS, Cluster

TCP = 6
NONE = ("::", 0)


@pytest.fixture(scope="module")
def pods(cluster: Cluster) -> Iterator[dict[str, list[Any]]]:
    """The sample workloads, running: their pods by the label `app`."""
    cluster.apply(WORKLOADS)
    replicas = {"web": 2, "client": 1, "db": 1, "collector": 1, "host-web": 1}
    yield {app: cluster.wait_for_pods("shop", f"app={app}", n) for app, n in replicas.items()}
    cluster.delete(WORKLOADS)


class Facts:
    """What the node knows, asked in its namespace; each time in another tick."""

    def __init__(self, cluster: Cluster) -> None:
        self._call = cluster.node.namespace.call
        self._now_ns = 0
        self._monitor = self._call(InterfaceMonitor)
        self.facts = NodeFacts(lambda: self._now_ns, self.interfaces)

    def interfaces(self) -> Any:
        self._monitor.poll()
        return self._monitor.current()

    def refresh(self) -> None:
        self._call(self.facts.namespaces.refresh)

    def owners(self, *ends: tuple[str, int]) -> list[frozenset[str]]:
        self._now_ns += 10**9
        hi, lo = map(np.concatenate, zip(*(halves(address) for address, _ in ends), strict=True))
        protocol = np.full(len(ends), TCP, np.uint8)
        port = np.array([port for _, port in ends], np.uint16)
        found = self._call(lambda: self.facts.sockets.owners(protocol, hi, lo, port))
        workloads = self.facts.sockets.workloads
        return [workloads[one] if one >= 0 else frozenset() for one in found.tolist()]

    def backend(self, source: tuple[str, int], destination: tuple[str, int]) -> tuple[str, int]:
        self._now_ns += 10**9
        asked = Tuples(
            np.array([TCP], np.uint8),
            *halves(source[0]),
            np.array([source[1]], np.uint16),
            *halves(destination[0]),
            np.array([destination[1]], np.uint16),
        )
        hi, lo, port = self._call(lambda: self.facts.translations.backends(asked))
        address = ipaddress.IPv6Address(int(hi[0]) << 64 | int(lo[0]))
        return str(address.ipv4_mapped or address), int(port[0])

    def close(self) -> None:
        self.facts.close()
        self._monitor.close()


def halves(address: str) -> tuple[np.ndarray, np.ndarray]:
    parsed = ipaddress.ip_address(address)
    number = int(parsed) | (0xFFFF << 32 if parsed.version == 4 else 0)
    return np.array([number >> 64], np.uint64), np.array([number & (1 << 64) - 1], np.uint64)


@pytest.fixture
def node(cluster: Cluster) -> Iterator[Facts]:
    made = Facts(cluster)
    yield made
    made.close()


def name(pod: Any) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def names(pod: Any) -> set[str]:
    """By which its cgroups may call it; what pauses in it has an id that no API tells."""
    ids = {one.container_id.partition("://")[2] for one in pod.status.container_statuses}
    return {pod.metadata.uid, *ids}


def tracked(cluster: Cluster, address: str, port: int) -> list[tuple[Any, Any, Any]]:
    """(source, destination, who replies) of connections to there, as `conntrack` prints them."""
    family = "ipv6" if ":" in address else "ipv4"
    words = ["conntrack", "-L", "-f", family, "-p", "tcp", "-d", address, "--dport", str(port)]
    ends = []
    for line in cluster.node.run(words).stdout.splitlines():
        found = re.findall(r"(src|dst|sport|dport)=(\S+)", line)
        source, destination, sport, dport, reply, _, reply_port, _ = (value for _, value in found)
        ends.append(((source, int(sport)), (destination, int(dport)), (reply, int(reply_port))))
    return ends


def test_the_namespace_of_each_pod_leads_to_its_interface(
    cluster: Cluster, pods: dict[str, list[Any]], node: Facts
) -> None:
    node.refresh()
    found = {
        uid: one
        for one in node.facts.namespaces.current().values()
        for uid in one.workloads
        if not one.host
    }
    by_nsid = {one.peer_netnsid: one.ifindex for one in node.interfaces().values()}

    for app in ("web", "client", "db", "collector"):
        for pod in pods[app]:
            told = cluster.exec(name(pod), ["cat", "/sys/class/net/eth0/iflink"]).stdout
            namespace = found[pod.metadata.uid]
            assert names(pod) < namespace.workloads
            assert by_nsid[namespace.nsid] == int(told)


def test_sockets_of_a_pod_on_the_nodes_network_are_its_own(
    cluster: Cluster, pods: dict[str, list[Any]], node: Facts
) -> None:
    (host,), (db,), web = pods["host-web"], pods["db"], pods["web"]
    server, kubelet = ((cluster.node.addresses.own[0], port) for port in (8081, 10250))
    node.owners(server)

    # Short connections are seen when they are closed. Probes are the kubelet's, not a pod's.
    for _ in range(7):
        cluster.exec(name(host), ["sh", "-c", f"echo hi | nc {db.status.pod_ip} 5432"])
    asked = [source for source, _, _ in tracked(cluster, db.status.pod_ip, 5432)]
    probes = [each for pod in web for each, _, _ in tracked(cluster, pod.status.pod_ip, 8080)]

    assert len(asked) == 7
    owners = node.owners(server, *asked, kubelet, *probes)
    assert [names(host) <= owner for owner in owners[:8]] == [True] * 8
    assert set(owners[8:]) == {frozenset()}


@pytest.mark.parametrize("family", [4, 6])
def test_the_backend_behind_a_service_is_the_pod_that_replies(
    cluster: Cluster, pods: dict[str, list[Any]], node: Facts, family: int
) -> None:
    service: Any = cluster.core().read_namespaced_service("web", "shop")
    (address,) = (a for a in service.spec.cluster_ips if ipaddress.ip_address(a).version == family)
    url = f"http://{f'[{address}]' if family == 6 else address}"
    for _ in range(7):
        cluster.exec(name(pods["client"][0]), ["wget", "-q", "-O", "-", url])

    truth = tracked(cluster, address, 80)
    told = [node.backend(source, destination) for source, destination, _ in truth]

    # A connection from before there were rules is translated to nothing.
    backends = {(each.ip, 8080) for pod in pods["web"] for each in pod.status.pod_ips}
    replied = [reply if reply != destination else NONE for _, destination, reply in truth]
    assert set(told) - {NONE}
    assert told == replied
    assert set(told) <= backends | {NONE}
