"""The chart on a real cluster of two nodes: who talks to whom, through services, to the world, from
the host's network; and that the numbers are those of the pods' own interfaces, to the byte."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from retina_otel.model.attributes import EVENT_PACKETS
from retina_otel.testing.cluster import Cluster
from retina_otel.testing.cluster.binaries import binary
from retina_otel.testing.cluster.network import WORLD
from retina_otel.testing.cluster.node import Node
from retina_otel.testing.scrape import fetch
from tests.cluster.shop import (
    CHART,
    ETHERNET,
    HEALTH_PORT,
    IPV4,
    NAMESPACE,
    PACKETS,
    ROOT,
    TCP,
    VALUES,
    WORKLOADS,
    WORLD_PORT,
    Shop,
    WorldServer,
    counted,
    counters,
    described,
    flows,
    get,
    grown,
    hush,
    namespace_of,
    scrape,
    still,
)

pytestmark = pytest.mark.timeout(900)  # the first time an image is built from nothing
COUNTERS = ["nft", "-j", "list", "counters", "table", "ip", "truth"]


@pytest.fixture(scope="module")
def installed() -> Iterator[Cluster]:
    """Two nodes with the agent that the chart installs, from the image that the tool builds."""
    image = subprocess.run(
        [ROOT / "tools" / "build-image"], check=True, capture_output=True, text=True
    ).stdout.split()[-1]
    with Cluster(2) as cluster:
        cluster.import_image(Path(image))
        values = Path(cluster.ground.folder) / "values.yaml"
        values.write_text(yaml.safe_dump(VALUES))
        subprocess.run(
            [
                binary("helm"),
                "install",
                "retina",
                str(CHART),
                "--values",
                str(values),
                "--namespace",
                NAMESPACE,
                "--create-namespace",
                "--kubeconfig",
                str(cluster.kubeconfig),
            ],
            check=True,
            capture_output=True,
        )
        cluster.wait_for_rollout("daemonset/retina-agent", NAMESPACE)
        yield cluster


@pytest.fixture(scope="module")
def shop(installed: Cluster) -> Shop:
    installed.apply(WORKLOADS)
    (front,) = installed.wait_for_pods("shop", "app=front", 1)
    backs = installed.wait_for_pods("shop", "app=back", 2)
    installed.wait_for_pods("shop", "app=host", 1)
    service: Any = installed.core().read_namespaced_service("back", "shop")
    nodes = {node.name: node for node in installed.nodes}
    places = {
        pod.metadata.name: (nodes[pod.spec.node_name], namespace_of(nodes[pod.spec.node_name], pod))
        for pod in (front, *backs)
    }
    by_node = {pod.spec.node_name: pod for pod in backs}
    node_port = service.spec.ports[0].node_port
    made = Shop(installed, front, by_node, service.spec.cluster_ip, node_port, places)
    hush(made)
    return made


def health(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fetch(node.namespace, "127.0.0.1", HEALTH_PORT, "/"))
    return found


def states(node: Node) -> dict[str, tuple[str, str]]:
    return {
        f"{kind}/{id_}": (one["state"], one.get("reason", ""))
        for kind, components in health(node)["components"].items()
        for id_, one in components.items()
    }


def test_agents_run_unprivileged_and_are_ready(installed: Cluster) -> None:
    pods: Any = installed.core().list_namespaced_pod(NAMESPACE)
    assert len(pods.items) == 2
    for pod in pods.items:
        security = pod.spec.containers[0].security_context
        assert (security.privileged, security.allow_privilege_escalation) == (False, False)
        assert (security.capabilities.drop, pod.spec.host_pid) == (["ALL"], None)
    for node in installed.nodes:
        # Ready is who counts; what has not been heard of the API server yet is said beside it.
        installed.wait_for(
            lambda node=node: set(states(node).values()) == {("running", "")},  # type: ignore[misc]
            what=f"agent on {node.name} in full: {states(node)}",
        )
        ledgers = health(node)["ledgers"].values()
        assert {ledger["difference"] for ledger in ledgers} == {0}


def test_through_a_service_each_side_is_named_with_the_backend_and_counted_once(
    shop: Shop,
) -> None:
    still(shop)
    before, base = flows(shop, PACKETS), counters(shop)
    shop.exec(shop.front.metadata.name, "; ".join([get(shop.service, 80)] * 30))
    after_counters = still(shop)
    after = flows(shop, PACKETS)

    front, service = described(shop.front), "back"
    expected: dict[str, set[tuple[str, str, str, str]]] = {"node-1": set(), "node-2": set()}
    for node, pod in shop.backs.items():
        behind, back = described(pod, service), described(pod)
        # As the client sees it, and as the pod that answers does.
        expected["node-1"] |= {
            ("egress", "tcp", front, behind),
            ("ingress", "tcp", behind, front),
        }
        expected[node] |= {("ingress", "tcp", front, back), ("egress", "tcp", back, front)}
    moved = {
        node: {key for key, value in found.items() if value > before[node][key]}
        for node, found in after.items()
    }
    ours = {
        node: {key for key in keys if key[1] == "tcp" and "shop/" in key[2] + key[3]}
        for node, keys in moved.items()
    }
    assert ours == expected
    # Nothing but that has passed the pods' interfaces, so that the sums are theirs.
    totals = grown(after_counters, base)
    for pod in (shop.front, *shop.backs.values()):
        found = after[pod.spec.node_name] - before[pod.spec.node_name]
        name = f"shop/{pod.metadata.name} of "
        received = sum(v for k, v in found.items() if k[0] == "ingress" and k[3].startswith(name))
        sent = sum(v for k, v in found.items() if k[0] == "egress" and k[2].startswith(name))
        assert (received, sent) == (totals[pod.metadata.name][0], totals[pod.metadata.name][2])


def test_at_a_nodes_port_it_is_the_service_that_is_asked(shop: Shop) -> None:
    """This node's kube-proxy says which pod answers behind it; another's says so only there."""
    still(shop)
    before, base = flows(shop, PACKETS)["node-1"], counters(shop)
    addresses = [node.addresses.own[0] for node in shop.cluster.nodes]
    for address in addresses:
        shop.exec(shop.front.metadata.name, "; ".join([get(address, shop.node_port)] * 30))
    (received, _, sent, _) = grown(still(shop), base)[shop.front.metadata.name]
    found = flows(shop, PACKETS)["node-1"] - before

    front = described(shop.front)
    asked = {described(pod, "back") for pod in shop.backs.values()} | {"service shop/back"}
    leaving = {key[3]: n for key, n in found.items() if key[:3] == ("egress", "tcp", front)}
    entering = {
        key[2]: n for key, n in found.items() if key[:2] == ("ingress", "tcp") and key[3] == front
    }
    assert leaving.keys() == entering.keys() == asked
    assert (sum(entering.values()), sum(leaving.values())) == (received, sent)


def test_flows_between_zones_are_told_apart(shop: Shop) -> None:
    """The nodes are in different zones."""
    shop.exec(shop.front.metadata.name, "; ".join([get(shop.service, 80)] * 30))
    still(shop)
    said = {
        (sample.labels["retina_flow_inter_zone"], len(nodes))
        for node in shop.cluster.nodes
        for sample in scrape(node)
        if sample.name == PACKETS
        and all(f"{end}_k8s_pod_name" in sample.labels for end in ("source", "destination"))
        and (nodes := {sample.labels[f"{end}_k8s_node_name"] for end in ("source", "destination")})
    }
    assert said == {("false", 1), ("true", 2)}


def test_to_dns_and_to_the_world_by_name_and_by_number(shop: Shop) -> None:
    still(shop)
    before = flows(shop, PACKETS)["node-1"]
    dns: Any = shop.cluster.core().read_namespaced_service("kube-dns", "kube-system")
    name = shop.front.metadata.name
    shop.exec(name, f"nslookup back.shop.svc.cluster.local {dns.spec.cluster_ip}")
    shop.exec(name, f"ping -c 37 -i 0.01 {WORLD[0]}")
    still(shop)
    found = flows(shop, PACKETS)["node-1"] - before

    (coredns,) = shop.cluster.wait_for_pods("kube-system", "k8s-app=kube-dns", 1)
    front = described(shop.front)
    coredns_itself = (
        f"kube-system/{coredns.metadata.name} of deployment/coredns on {coredns.spec.node_name}"
    )
    resolver = f"{coredns_itself} behind kube-dns"
    # What a bridge lets every pod hear of its neighbours' multicast is not theirs.
    ours = {k: v for k, v in found.items() if front in k and k[1] != "icmpv6"}
    # A question for A and one for AAAA, and their answers, at the pod that asks.
    expected = {
        ("egress", "icmp", front, "world"): 37,
        ("ingress", "icmp", "world", front): 37,
        ("egress", "udp", front, resolver): 2,
        ("ingress", "udp", resolver, front): 2,
    }
    if coredns.spec.node_name == "node-1":
        expected |= {
            ("ingress", "udp", front, coredns_itself): 2,
            ("egress", "udp", coredns_itself, front): 2,
        }
    assert ours == expected


def test_a_pod_on_the_hosts_network_is_named_at_the_uplink_and_at_a_pod(shop: Shop) -> None:
    still(shop)
    before = flows(shop, PACKETS)["node-2"]
    node = shop.cluster.nodes[1]
    address, back = node.addresses.own[0], shop.backs["node-2"]
    rules = f"""table ip truth {{
        counter sent {{}}
        counter received {{}}
        chain in {{
            type filter hook prerouting priority -400;
            ip saddr {address} tcp dport {WORLD_PORT} counter name sent
        }}
        chain out {{
            type filter hook output priority 400;
            ip daddr {address} tcp sport {WORLD_PORT} counter name received
        }}
    }}"""
    world = shop.cluster.network.world
    world.nft(rules)
    try:
        with WorldServer(shop.cluster) as server:
            shop.exec("host", "; ".join([get(WORLD[0], WORLD_PORT)] * 11))
            shop.exec("host", "; ".join([get(back.status.pod_ip, 8080)] * 7))
            assert server.connections == 11
        still(shop)
        listed = json.loads(world.run(COUNTERS).stdout)
    finally:
        world.nft("delete table ip truth")
    truth = {
        entry["counter"]["name"]: entry["counter"]["packets"]
        for entry in listed["nftables"]
        if "counter" in entry
    }
    found = flows(shop, PACKETS)["node-2"] - before
    host = "shop/host of pod/host on node-2"
    ours = {key: value for key, value in found.items() if host in key}
    assert ours.pop(("egress", "tcp", host, "world")) == truth["sent"]
    assert ours.pop(("ingress", "tcp", "world", host)) == truth["received"]
    assert set(ours) == {
        ("ingress", "tcp", host, described(back)),
        ("egress", "tcp", described(back), host),
    }


def test_a_long_answer_is_counted_to_the_byte_with_its_repeated_headers(shop: Shop) -> None:
    """Offloaded segments cross a veth as one buffer: the wire would have repeated their headers."""
    still(shop)
    base, base_counted = counters(shop), counted(shop)
    back = shop.backs["node-1"].metadata.name
    shop.exec(back, "dd if=/dev/zero of=/www/long bs=1k count=3000 2>/dev/null")
    script = get(shop.backs["node-1"].status.pod_ip, 8080, "/long")
    received = int(shop.exec(shop.front.metadata.name, script))
    assert received > 3_000_000  # with what HTTP says before it
    truth = grown(still(shop), base)
    agents = grown(counted(shop), base_counted)
    for pod, (rx_packets, rx_bytes, tx_packets, tx_bytes) in truth.items():
        n_received, received_bytes, n_sent, sent_bytes = agents[pod]
        header = ETHERNET + IPV4 + TCP
        assert received_bytes - (n_received - rx_packets) * header == rx_bytes
        assert sent_bytes - (n_sent - tx_packets) * header == tx_bytes
    assert agents[back][2] > truth[back][2]


def test_observe_tells_the_packets_that_every_agent_of_the_cluster_saw(shop: Shop) -> None:
    still(shop)
    before, since = flows(shop, PACKETS), datetime.now(UTC)
    shop.exec(shop.front.metadata.name, "; ".join([get(shop.service, 80)] * 30))
    still(shop)
    after = flows(shop, PACKETS)
    done = subprocess.run(
        [
            *(ROOT / ".venv/bin/retina-otel", "observe"),
            *("--kubeconfig", shop.cluster.kubeconfig, "--agents", NAMESPACE),
            *("--from-pod", "shop/front", "--to-port", "8080", "--verdict", "forwarded"),
            *("--since", since.isoformat(), "-o", "json"),
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    # The pods that answer see their own port; each is on a node of its own.
    told: Counter[tuple[str, str]] = Counter()
    for event in map(json.loads, done.stdout.splitlines()):
        said = event["attributes"]
        assert (event["event"], said["network.interface.direction"]) == ("retina.flow", "ingress")
        told[event["node"], said["destination.k8s.pod.name"]] += said[EVENT_PACKETS.name]
    front = described(shop.front)
    assert told == {
        (node, pod.metadata.name): (after[node] - before[node])[
            "ingress", "tcp", front, described(pod)
        ]
        for node, pod in shop.backs.items()
    }
