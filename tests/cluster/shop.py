"""A shop on a real cluster: workloads whose pods say nothing by themselves, what their interfaces
have counted, and what the agents have."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retina_otel.testing.cluster import Cluster
from retina_otel.testing.cluster.network import WORLD
from retina_otel.testing.cluster.node import Node
from retina_otel.testing.scrape import Sample, fetch, samples

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "retina-otel"
NAMESPACE = "retina-otel"
METRICS_PORT, HEALTH_PORT, WORLD_PORT = 10093, 13134, 8000
INTERVAL_S, SETTLE_S = 1, 2
VALUES = {
    "context": "remote",
    "clusterName": "lab",
    "image": {"repository": "localhost/retina-otel", "pullPolicy": "Never"},
    "receivers": {"flows": {"events": "interval"}},
    "config": {
        "extensions": {"kubernetes": {"settle": f"{SETTLE_S}s"}},
        "service": {
            "interval": f"{INTERVAL_S}s",
            "telemetry": {"metrics": {"interval": f"{INTERVAL_S}s"}},
            "pipelines": {
                "metrics": {
                    "attributes": {
                        "retina.flow.*": [
                            "network.*",
                            "retina.flow.inter_zone",
                            *(
                                f"{end}.{name}"
                                for end in ("source", "destination")
                                for name in (
                                    "k8s.namespace.name",
                                    "k8s.pod.name",
                                    "k8s.owner.*",
                                    "k8s.service.name",
                                    "k8s.node.name",
                                    "k8s.resource.type",
                                )
                            ),
                        ]
                    }
                }
            },
        },
    },
}
POD = """
      terminationGracePeriodSeconds: 0
      containers:
        - {{name: a, image: "localhost/busybox:1", imagePullPolicy: Never, command: {command}}}
"""
"""The specification of a pod that runs one command, as a template has it."""
WORKLOADS = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: shop}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: front, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: front}}}}
  template:
    metadata: {{labels: {{app: front}}}}
    spec:
      nodeSelector: {{kubernetes.io/hostname: node-1}}
      {POD.format(command="[sleep, infinity]").strip()}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: back, namespace: shop}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: back}}}}
  template:
    metadata: {{labels: {{app: back}}}}
    spec:
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {{matchLabels: {{app: back}}}}
      {POD.format(command='[httpd, -f, -p, "8080", -h, /www]').strip()}
---
apiVersion: v1
kind: Service
metadata: {{name: back, namespace: shop}}
spec:
  type: NodePort
  selector: {{app: back}}
  ports: [{{name: http, port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: host, namespace: shop, labels: {{app: host}}}}
spec:
  hostNetwork: true
  nodeSelector: {{kubernetes.io/hostname: node-2}}
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: a, image: "localhost/busybox:1", imagePullPolicy: Never, command: [sleep, infinity]}}
"""
UNICAST_ONLY = """table netdev unicast-{wire} {{
    chain out {{
        type filter hook egress device "{wire}" priority 0
        ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00 drop
    }}
}}"""
"""nftables rules for what a node sends to a pod by its wire."""
ETHERNET, IPV4, TCP = 14, 20, 32  # with the timestamps that Linux puts into every segment


@dataclass(frozen=True, slots=True)
class Shop:
    """The installed agents and the workloads before them."""

    cluster: Cluster
    front: Any
    backs: dict[str, Any]
    """By node."""
    service: str
    """Its address."""
    node_port: int
    places: dict[str, tuple[Node, str]]
    """By pod: its node, and the name of its network namespace there."""

    def exec(self, pod: str, script: str) -> str:
        return self.cluster.exec(f"shop/{pod}", ["sh", "-c", script]).stdout


def namespace_of(node: Node, pod: Any) -> str:
    """The name of a pod's network namespace on its node."""
    for name in _namespaces(node):
        addresses = node.run(["ip", "-n", name, "-o", "addr"]).stdout
        if f" {pod.status.pod_ip}/" in addresses:
            return name
    raise AssertionError(f"no namespace has {pod.status.pod_ip}")


def _namespaces(node: Node) -> list[str]:
    """Names of the network namespaces of the pods on a node."""
    listed = node.run(["ip", "netns", "list"]).stdout.split()
    return [word for word in listed if word.startswith("cni-")]


def hush(shop: Shop) -> None:
    """From now on the shop's pods send no ARP and no IPv6, and get no broadcast or multicast, as a
    bridge passes on of all others. What is left, we send."""
    for node in shop.cluster.nodes:
        bridge = node.run(["ip", "-br", "link", "show", "cni0"]).stdout.split()[2]
        gateway = node.addresses.pod_address(1)[0]
        known = {name: _ends(node, name) for name in _namespaces(node)}
        for name, (wire, mac, address) in known.items():
            node.run(["ip", "neigh", "replace", address, "lladdr", mac, "dev", "cni0"])
            others = [end[1:] for other, end in known.items() if other != name]
            for mac_there, there in [(bridge, gateway), *others]:
                entry = [there, "lladdr", mac_there, "dev", "eth0"]
                node.run(["ip", "-n", name, "neigh", "replace", *entry])
            if (node, name) in shop.places.values():
                off = "net.ipv6.conf.eth0.disable_ipv6=1"
                node.run(["ip", "netns", "exec", name, "sysctl", "-qw", off])
                node.run(["nft", UNICAST_ONLY.format(wire=wire)])


def _ends(node: Node, namespace: str) -> tuple[str, str, str]:
    """Of the wire of a pod's network namespace: its name on the node, and the pod's hardware and
    IPv4 address."""
    (inside,) = json.loads(node.run(["ip", "-n", namespace, "-j", "addr", "show", "eth0"]).stdout)
    (address,) = (one["local"] for one in inside["addr_info"] if one["family"] == "inet")
    (wire,) = (
        link["ifname"]
        for link in json.loads(node.run(["ip", "-j", "link"]).stdout)
        if link["ifindex"] == inside["link_index"]
    )
    return wire, inside["address"], address


def scrape(node: Node) -> list[Sample]:
    return list(samples(fetch(node.namespace, node.addresses.own[0], METRICS_PORT)))


def ends(sample: Sample) -> tuple[str, str, str, str]:
    """Direction, transport, source and destination, each end in all that is said of it."""

    def end(side: str) -> str:
        def get(name: str) -> str:
            return sample.labels.get(f"{side}_k8s_{name}", "")

        if pod := get("pod_name"):
            owner = f"{get('owner_type')}/{get('owner_name')}"
            name = f"{get('namespace_name')}/{pod} of {owner} on {get('node_name')}"
            return f"{name} behind {get('service_name')}" if get("service_name") else name
        if get("service_name"):
            return f"service {get('namespace_name')}/{get('service_name')}"
        return get("node_name") or get("resource_type") or "unknown"

    labels = sample.labels
    return (
        labels["network_interface_direction"],
        labels["network_transport"],
        end("source"),
        end("destination"),
    )


def flows(
    shop: Shop, metric: str, about: str = ""
) -> dict[str, Counter[tuple[str, str, str, str]]]:
    """What each node's agent has counted, by node; `about` must be in the name of an end."""
    found: dict[str, Counter[tuple[str, str, str, str]]] = {}
    for node in shop.cluster.nodes:
        counted: Counter[tuple[str, str, str, str]] = Counter()
        for sample in scrape(node):
            if sample.name == metric and any(about in end for end in ends(sample)[2:]):
                counted[ends(sample)] += int(sample.value)
        found[node.name] = counted
    return found


PACKETS, BYTES = "retina_flow_packets_total", "retina_flow_io_bytes_total"
Totals = dict[str, tuple[int, int, int, int]]
"""By pod: packets and bytes received, packets and bytes sent."""


def counters(shop: Shop) -> Totals:
    """What the pods' own interfaces have counted."""
    found = {}
    for pod in (shop.front, *shop.backs.values()):
        node, name = shop.places[pod.metadata.name]
        text = node.run(["ip", "netns", "exec", name, "cat", "/proc/net/dev"]).stdout
        (line,) = (line for line in text.splitlines() if line.strip().startswith("eth0:"))
        n = [int(word) for word in line.split(":")[1].split()]
        found[pod.metadata.name] = (n[1], n[0], n[9], n[8])
    return found


def counted(shop: Shop) -> Totals:
    """What the agents have counted at the pods' interfaces."""
    packets, volume = flows(shop, PACKETS), flows(shop, BYTES)
    found = {}
    for pod in (shop.front, *shop.backs.values()):
        name, node = f"shop/{pod.metadata.name} of ", pod.spec.node_name

        def total(figures: Any, direction: str, end: int, node: str = node, n: str = name) -> int:
            return sum(
                v for k, v in figures[node].items() if k[0] == direction and k[end].startswith(n)
            )

        found[pod.metadata.name] = (
            total(packets, "ingress", 3),
            total(volume, "ingress", 3),
            total(packets, "egress", 2),
            total(volume, "egress", 2),
        )
    return found


def still(shop: Shop) -> Totals:
    """The interfaces' counters, once neither they nor what the agents tell have moved for as long
    as the agents need to report: what they have told then must be the same."""
    before = counters(shop), flows(shop, PACKETS, "shop/")
    for _ in range(30):
        time.sleep(SETTLE_S + 3 * INTERVAL_S)
        after = counters(shop), flows(shop, PACKETS, "shop/")
        if after == before:
            return after[0]
        before = after
    raise AssertionError("the pods never fall silent")


def grown(after: Totals, before: Totals) -> Totals:
    return {
        pod: tuple(a - b for a, b in zip(after[pod], before[pod], strict=True))  # type: ignore[misc]
        for pod in after
    }


def get(address: str, port: int, path: str = "/") -> str:
    """A script that asks by HTTP/1.0 and prints how many bytes came."""
    return f"printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} {port} | wc -c"


class WorldServer:
    """Answers every connection with a line, beyond the nodes' gateway."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.connections = 0

    def __enter__(self) -> WorldServer:
        self._listener = self._cluster.network.world.socket(2, 1)
        self._listener.bind((WORLD[0], WORLD_PORT))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(2)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.connections += 1
                connection.recv(4096)
                connection.sendall(b"hello from the world\n")


def described(pod: Any, service: str = "") -> str:
    owner = "deployment/front" if pod.metadata.labels["app"] == "front" else "deployment/back"
    name = f"shop/{pod.metadata.name} of {owner} on {pod.spec.node_name}"
    return f"{name} behind {service}" if service else name
