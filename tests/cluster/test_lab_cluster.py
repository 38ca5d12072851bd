"""The cluster of the tests is a real one: its pods, addresses, services, names, and its world."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retina_otel.testing.cluster import WORKLOADS, Cluster
from retina_otel.testing.cluster.network import WORLD

HELLO = "hello from a pod\n"
REPLICAS = {"web": 2, "client": 1, "db": 1, "collector": 1, "host-web": 1}


@pytest.fixture(scope="module")
def shop(cluster: Cluster) -> Iterator[dict[str, list[Any]]]:
    """The sample workloads, running: their pods by the label `app`."""
    cluster.apply(WORKLOADS)
    yield {app: cluster.wait_for_pods("shop", f"app={app}", n) for app, n in REPLICAS.items()}
    cluster.delete(WORKLOADS)


def addresses(pod: Any) -> list[str]:
    return [each.ip for each in pod.status.pod_ips]


def client_of(shop: dict[str, list[Any]]) -> str:
    return f"shop/{shop['client'][0].metadata.name}"


def fetch(cluster: Cluster, pod: str, url: str) -> str:
    return cluster.exec(pod, ["wget", "-q", "-O", "-", url]).stdout


@pytest.mark.parametrize("app", ["web", "client", "db", "collector"])
def test_pods_of_each_kind_have_an_address_of_each_family_in_their_nodes_ranges(
    cluster: Cluster, shop: dict[str, list[Any]], app: str
) -> None:
    ranges = [ipaddress.ip_network(cidr) for cidr in cluster.node.addresses.pod_cidrs]
    for pod in shop[app]:
        found = [ipaddress.ip_address(each) for each in addresses(pod)]
        assert [each in cidr for each, cidr in zip(found, ranges, strict=True)] == [True, True]


def test_a_host_network_pod_has_the_nodes_addresses(
    cluster: Cluster, shop: dict[str, list[Any]]
) -> None:
    assert addresses(shop["host-web"][0]) == list(cluster.node.addresses.own)
    url = f"http://{cluster.node.addresses.own[0]}:8081"
    assert fetch(cluster, client_of(shop), url) == HELLO


def test_a_job_runs_to_its_end(cluster: Cluster, shop: dict[str, list[Any]]) -> None:
    cluster.kubectl("wait", "-n", "shop", "job/migrate", "--for=condition=complete")
    assert cluster.kubectl("logs", "-n", "shop", "job/migrate").stdout == HELLO


def test_a_cron_job_makes_jobs(cluster: Cluster, shop: dict[str, list[Any]]) -> None:
    cluster.kubectl("create", "job", "-n", "shop", "--from=cronjob/report", "report-now")
    (pod,) = cluster.wait_for_pods("shop", "job-name=report-now", 1)
    assert pod.metadata.owner_references[0].kind == "Job"


@pytest.mark.parametrize("family", [4, 6])
def test_a_service_answers_at_its_cluster_address_of_each_family(
    cluster: Cluster, shop: dict[str, list[Any]], family: int
) -> None:
    service: Any = cluster.core().read_namespaced_service("web", "shop")
    (address,) = (a for a in service.spec.cluster_ips if ipaddress.ip_address(a).version == family)
    host = f"[{address}]" if family == 6 else address
    assert fetch(cluster, client_of(shop), f"http://{host}") == HELLO


def test_a_service_is_found_by_its_name(cluster: Cluster, shop: dict[str, list[Any]]) -> None:
    assert fetch(cluster, client_of(shop), "http://web") == HELLO


def test_a_headless_service_resolves_to_its_pods(
    cluster: Cluster, shop: dict[str, list[Any]]
) -> None:
    said = cluster.exec(client_of(shop), ["nslookup", "db.shop.svc.cluster.local"]).stdout
    answers = [line.split()[1] for line in said.splitlines()[2:] if line.startswith("Address:")]
    assert sorted(answers) == sorted(addresses(shop["db"][0]))


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_a_node_port_answers_to_the_world(
    cluster: Cluster, shop: dict[str, list[Any]], family: int
) -> None:
    node = cluster.node.addresses.own[family]
    with cluster.network.world.call(
        lambda: socket.create_connection(
            (node, 30080), timeout=5, source_address=(WORLD[family], 0)
        )
    ) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer.endswith(HELLO.encode())


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_a_pod_reaches_the_world_by_name_and_with_its_nodes_address(
    cluster: Cluster, shop: dict[str, list[Any]], family: int
) -> None:
    kind = (socket.AF_INET, socket.AF_INET6)[family]
    peers = []

    def accept() -> None:
        connection, peer = server.accept()
        peers.append(peer[0])
        connection.close()

    with cluster.network.world.socket(kind, socket.SOCK_STREAM) as server:
        server.bind((WORLD[family], 0))
        server.listen()
        server.settimeout(10)
        thread = threading.Thread(target=accept)
        thread.start()
        port = str(server.getsockname()[1])
        cluster.exec(client_of(shop), ["nc", "-w", "5", WORLD[family], port])
        thread.join()
    assert peers == [cluster.node.addresses.own[family]]

    found = cluster.exec(client_of(shop), ["nslookup", "world.example"]).stdout
    assert {w in found for w in WORLD} == {True}


def test_the_cgroup_of_a_container_names_its_pod_and_its_container(
    cluster: Cluster, shop: dict[str, list[Any]]
) -> None:
    pod = shop["db"][0]
    container = pod.status.container_statuses[0].container_id.removeprefix("containerd://")
    listed = cluster.node.ctr("tasks", "list").splitlines()
    (pid,) = (line.split()[1] for line in listed if line.startswith(container))
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        path = line.split(":", 2)[2]
        assert path.endswith(f"/kubepods/besteffort/pod{pod.metadata.uid}/{container}"), line


def test_the_host_side_of_a_pod_is_on_the_nodes_bridge(
    cluster: Cluster, shop: dict[str, list[Any]]
) -> None:
    pod = shop["db"][0]
    name = f"shop/{pod.metadata.name}"
    peer = int(cluster.exec(name, ["cat", "/sys/class/net/eth0/iflink"]).stdout)
    links = json.loads(cluster.node.run(["ip", "-j", "link", "show", "master", "cni0"]).stdout)
    assert [link["ifindex"] for link in links].count(peer) == 1
    # The node's /sys shows the node's interfaces, not the machine's.
    shown = cluster.node.run(["ls", "/sys/class/net"]).stdout.split()
    assert {link["ifname"] for link in links} <= set(shown)


def test_a_pod_may_use_its_service_account_against_the_api_server(cluster: Cluster) -> None:
    cluster.kubeconfig_for(
        "asker", [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
    )
    answer = cluster.kubectl(
        "auth", "can-i", "list", "nodes", "--as=system:serviceaccount:default:asker"
    )
    assert answer.stdout == "yes\n"


def test_pods_of_a_pinned_namespace_get_one_address_one_after_the_other(cluster: Cluster) -> None:
    cluster.kubectl("create", "namespace", "pinned")
    cluster.node.pin_addresses("pinned", range(200, 201))
    seen = []
    for number in range(3):
        manifest = POD.format(name=f"one-{number}", namespace="pinned")
        cluster.apply(manifest)
        (pod,) = cluster.wait_for_pods("pinned", "app=sample", 1)
        seen.append(addresses(pod))
        cluster.delete(manifest)
    cluster.kubectl("delete", "namespace", "pinned")
    assert seen == [list(cluster.node.addresses.pod_address(200))] * 3


POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: sample}}}}
spec:
  terminationGracePeriodSeconds: 5
  containers:
    - name: sleep
      image: localhost/busybox:1
      imagePullPolicy: Never
      command: [sh, -c, "trap 'exit 0' TERM; sleep 1000 & wait"]
"""
