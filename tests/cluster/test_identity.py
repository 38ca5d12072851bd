"""The agent on a real node names both ends of what real pods say to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from retina_otel.errors import RetinaError
from retina_otel.testing.cluster import Cluster
from retina_otel.testing.scrape import Sample, fetch, samples
from tests.cluster.shop import POD
from tests.e2e.agent import Agent, wait_until

SCRAPED, HEALTH = 19093, 13133
WORLD = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: who}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: server, namespace: who}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: server}}}}
  template:
    metadata: {{labels: {{app: server}}}}
    spec: {POD.format(command='[httpd, -f, -p, "8080", -h, /www]')}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: client, namespace: who}}
spec:
  serviceName: client
  selector: {{matchLabels: {{app: client}}}}
  template:
    metadata: {{labels: {{app: client}}}}
    spec: {POD.format(command="[sleep, infinity]")}
"""


def rule(group: str, *resources: str, verbs: tuple[str, ...]) -> dict[str, list[str]]:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


WELL = {"state": "running", "failures": 0}
INTRODUCED = {"k8s_cluster_uid", "k8s_node_uid"}
WATCH = ("get", "list", "watch")
RIGHTS = [
    rule("", "pods", "services", "nodes", "namespaces", verbs=WATCH),
    rule("discovery.k8s.io", "endpointslices", verbs=WATCH),
    rule("apps", "replicasets", verbs=WATCH),
    rule("batch", "jobs", verbs=WATCH),
    rule("retina.sh", "metricsconfigurations", verbs=WATCH),
]


class Watched:
    """The agent on the first node, and what it exports."""

    def __init__(self, cluster: Cluster, folder: Path, kubeconfig: Path, **settings: Any) -> None:
        self.cluster = cluster
        config = {
            "extensions": {
                "kubernetes": {
                    "kubeconfig": str(kubeconfig),
                    "node_name": cluster.node.name,
                    "settle": "1s",
                    **settings,
                },
                "health_check": {"endpoint": f"127.0.0.1:{HEALTH}"},
            },
            "receivers": {"flows": {}},
            "processors": {"identity": {}},
            "exporters": {
                # Series that have ended are looked for, and not found.
                "prometheus": {"endpoint": f"127.0.0.1:{SCRAPED}", "linger": "0s"}
            },
            "service": {
                "interval": "500ms",
                "extensions": ["kubernetes", "health_check"],
                "pipelines": {
                    "metrics": {
                        "receivers": ["flows"],
                        "processors": ["identity"],
                        "exporters": ["prometheus"],
                        "attributes": {
                            "retina.flow.*": ["default", "*.k8s.*", "*.cloud.*", "*.address"]
                        },
                    }
                },
            },
        }
        path = folder / "agent.yaml"
        path.write_text(yaml.safe_dump(config))
        self.agent = Agent(cluster.node, path)  # type: ignore[arg-type]

    def health(self) -> dict[str, Any]:
        return self.agent_health()["components"]["extensions"]["kubernetes"]  # type: ignore[no-any-return]

    def reason(self) -> str:
        return str(self.health().get("reason", ""))

    def wait_until_all_is_well(self) -> None:
        """Every list has come, nothing is missing, and the exporter is the one that says which
        cluster and node it is: no other comes in its place."""
        wait_until_told(
            lambda: self.health() == WELL and self.resource().keys() >= INTRODUCED,
            "an extension to which nothing is missing",
            60,
        )

    def agent_health(self) -> dict[str, Any]:
        text = fetch(self.cluster.node.namespace, "127.0.0.1", HEALTH, "/")
        found: dict[str, Any] = yaml.safe_load(text)
        return found

    def scrape(self) -> list[Sample]:
        return list(samples(fetch(self.cluster.node.namespace, "127.0.0.1", SCRAPED)))

    def resource(self) -> Mapping[str, str]:
        """Empty before there is one."""
        found = [one.labels for one in self.scrape() if one.name == "target_info"]
        return found[0] if found else {}

    def flows(self) -> list[Sample]:
        return [one for one in self.scrape() if one.name == "retina_flow_packets_total"]


def wait_until_told(holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """As `wait_until`, of what the agent says. Nobody answers for a moment where its exporters
    change into others: into those that say which node it is, for one."""

    def told() -> bool:
        with suppress(RetinaError):
            return holds()
        return False

    wait_until(told, what, seconds)


@contextmanager
def watched(cluster: Cluster, folder: Path, kubeconfig: Path, **settings: Any) -> Iterator[Watched]:
    made = Watched(cluster, folder, kubeconfig, **settings)
    made.agent.start()
    try:
        yield made
    finally:
        made.agent.stop()


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[Cluster]:
    cluster.apply(WORLD)
    cluster.wait_for_pods("who", "app=server", 2)
    cluster.wait_for_pods("who", "app=client", 1)
    yield cluster
    cluster.kubectl("delete", "namespace", "who", "--wait=false")


@pytest.fixture
def kubeconfig(cluster: Cluster) -> Path:
    return cluster.kubeconfig_for("agent", RIGHTS, inner=True)


def pods_of(cluster: Cluster, namespace: str) -> dict[str, Any]:
    listed: Any = cluster.core().list_namespaced_pod(namespace)
    return {pod.metadata.name: pod for pod in listed.items}


def said_of(sample: Sample, end: str) -> dict[str, str]:
    prefix = f"{end}_"
    return {k.removeprefix(prefix): v for k, v in sample.labels.items() if k.startswith(prefix)}


def expected_of(pod: Any, owner: tuple[str, str]) -> dict[str, str]:
    return {
        "k8s_namespace_name": pod.metadata.namespace,
        "k8s_pod_name": pod.metadata.name,
        "k8s_pod_uid": pod.metadata.uid,
        "k8s_node_name": pod.spec.node_name,
        "k8s_owner_name": owner[0],
        "k8s_owner_type": owner[1],
        "k8s_resource_type": "pod",
        "cloud_availability_zone": "lab-1a",
        "cloud_region": "lab-1",
    }


def test_both_ends_have_their_pod_owner_node_and_place(
    world: Cluster, kubeconfig: Path, tmp_path: Path
) -> None:
    pods = pods_of(world, "who")
    with watched(world, tmp_path, kubeconfig) as agent:
        agent.wait_until_all_is_well()
        servers = [pod for name, pod in pods.items() if name.startswith("server")]
        for server in servers:
            for address in server.status.pod_ips:
                url = f"http://{f'[{address.ip}]' if ':' in address.ip else address.ip}:8080/"
                world.exec("who/client-0", ["wget", "-q", "-O", "-", url])
        client = expected_of(pods["client-0"], ("client", "statefulset"))
        known = {
            name: client if name == "client-0" else expected_of(pod, ("server", "deployment"))
            for name, pod in pods.items()
        }

        def ends() -> list[tuple[dict[str, str], dict[str, str]]]:
            return [(said_of(s, "source"), said_of(s, "destination")) for s in agent.flows()]

        wanted = {(s.metadata.name, "client-0") for s in servers}
        wanted |= {(to, of) for of, to in wanted}

        def pairs() -> set[tuple[str | None, str | None]]:
            return {(s.get("k8s_pod_name"), d.get("k8s_pod_name")) for s, d in ends()}

        wait_until_told(lambda: wanted <= pairs(), f"series between {wanted}")
        for source, destination in ends():
            for end in (source, destination):
                end.pop("address", None)
                if end.get("k8s_namespace_name") == "who":
                    assert end == known[end["k8s_pod_name"]]
        assert agent.health() == WELL


def test_resource_says_which_cluster_and_node_it_is(
    cluster: Cluster, kubeconfig: Path, tmp_path: Path
) -> None:
    cluster_uid = cluster.core().read_namespace("kube-system").metadata.uid
    node = cluster.core().read_node(cluster.node.name)
    with watched(cluster, tmp_path, kubeconfig) as agent:
        # Each is learned by itself.
        wait_until_told(lambda: agent.resource().keys() >= INTRODUCED, "the uids")
        labels = agent.resource()
        assert labels["k8s_cluster_uid"] == cluster_uid
        assert labels["k8s_node_uid"] == node.metadata.uid
        assert labels["k8s_node_name"] == cluster.node.name
        assert labels["cloud_availability_zone"] == "lab-1a"
        assert labels["cloud_region"] == "lab-1"


def test_missing_right_is_named_with_what_it_costs(cluster: Cluster, tmp_path: Path) -> None:
    rights = [rule("", "pods", "services", "namespaces", verbs=WATCH), *RIGHTS[1:]]
    lacking = cluster.kubeconfig_for("without-nodes", rights, inner=True)
    with watched(cluster, tmp_path, lacking) as agent:
        said = {
            "Grant `watch nodes`",
            "this node's uid and cloud are unknown: grant `get nodes`",
            "other nodes and the zones of pods may be unknown or out of date",
        }
        # Whoever asks for the one does not wait for who asks for the other.
        wait_until_told(lambda: all(one in agent.reason() for one in said), f"all of {said}", 30)
        assert agent.health()["state"] == "degraded"
        cluster.set_rights("without-nodes", RIGHTS)
        agent.wait_until_all_is_well()


def test_agent_starts_and_counts_while_the_api_server_is_away(
    world: Cluster, kubeconfig: Path, tmp_path: Path
) -> None:
    pods = pods_of(world, "who")
    (server, *_) = (pod for name, pod in pods.items() if name.startswith("server"))
    address = server.status.pod_ip
    world.stop_api_server()
    away = True
    try:
        with watched(world, tmp_path, kubeconfig) as agent:
            wait_until_told(lambda: "Check that it runs" in agent.reason(), "the remedy", 60)
            world.start_api_server()
            away = False
            agent.wait_until_all_is_well()
            world.exec("who/client-0", ["wget", "-q", "-O", "-", f"http://{address}:8080/"])
            wait_until_told(
                lambda: any(
                    one.labels.get("source_k8s_pod_name") == "client-0"
                    and one.labels.get("destination_k8s_pod_name") == server.metadata.name
                    for one in agent.flows()
                ),
                "a series with both names",
            )
    finally:
        if away:
            world.start_api_server()
