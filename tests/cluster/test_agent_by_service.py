"""The whole agent on a real node, told by the identity service: the API server, which counts the
requests of the agents' user, is asked for nothing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from retina_otel.identity_service.server import Limits
from retina_otel.identity_service.service import Options, Service
from retina_otel.kubernetes.api.access import Access
from retina_otel.testing.cluster import Cluster, ControlPlane
from retina_otel.testing.scrape import Sample
from tests.cluster.identity_service_lab import AUDIENCE, CRD, RULES
from tests.cluster.shop import POD
from tests.cluster.test_identity import (
    RIGHTS,
    Watched,
    rule,
    said_of,
    wait_until_told,
    watched,
)
from tests.cluster.test_identity_extension import ROLLOUTS, Made, objects, running
from tests.e2e.agent import wait_until

__all__ = ["objects"]

LOGGER = logging.getLogger("retina_otel.test.identity")
CUSTOM = rule("argoproj.io", "rollouts", verbs=("get",))
COUNTED = "agents-of-the-test"
FLOW_SCHEMA = {
    "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
    "kind": "FlowSchema",
    "metadata": {"name": COUNTED},
    "spec": {
        "matchingPrecedence": 100,
        "priorityLevelConfiguration": {"name": "workload-low"},
        "rules": [
            {
                "subjects": [
                    {
                        "kind": "ServiceAccount",
                        "serviceAccount": {"name": "told", "namespace": "default"},
                    }
                ],
                "resourceRules": [
                    {
                        "verbs": ["*"],
                        "apiGroups": ["*"],
                        "resources": ["*"],
                        "clusterScope": True,
                        "namespaces": ["*"],
                    }
                ],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            }
        ],
    },
}
"""All that the agents' user asks for, and nothing else."""
NAMESPACE = "ask"
PODS = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: {NAMESPACE}}}
spec: {POD.format(command="[sleep, infinity]")}
"""
NAMES_ONLY = {
    "apiVersion": "retina.sh/v1alpha1",
    "kind": "MetricsConfiguration",
    "metadata": {"name": "names-only"},
    "spec": {
        "contextOptions": [
            {
                "metricName": "forward_count",
                "sourceLabels": ["podname"],
                "destinationLabels": ["podname"],
            }
        ],
        "namespaces": {"include": [NAMESPACE]},
    },
}
PINGS = 5


class World:
    """A client, and pods of a ReplicaSet of a custom kind, on a cluster that counts requests."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.apply(json.dumps(ROLLOUTS))
        cluster.apply(CRD)
        for name in ("rollouts.argoproj.io", "metricsconfigurations.retina.sh"):
            cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}", timeout_s=30)
        cluster.apply(PODS)
        rollout = self._made("argoproj.io/v1alpha1", "Rollout", "web")
        labels = {"app": "web"}
        container = {
            "name": "a",
            "image": "localhost/busybox:1",
            "imagePullPolicy": "Never",
            "command": ["sleep", "infinity"],
        }
        template = {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
        }
        owner = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Rollout",
            "name": "web",
            "uid": rollout["metadata"]["uid"],
            "controller": True,
        }
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        self._made("apps/v1", "ReplicaSet", "web-1", spec=spec, owners=[owner])
        cluster.wait_for_pods(NAMESPACE, "app=web", 1)
        cluster.kubectl("wait", "--for=condition=Ready", "pod/client", "-n", NAMESPACE)
        self.pinged: dict[str, int] = {}

    def _made(
        self, version: str, kind: str, name: str, *, owners: Any = (), **more: Any
    ) -> dict[str, Any]:
        meta = {"name": name, "namespace": NAMESPACE, "ownerReferences": list(owners)}
        manifest = {"apiVersion": version, "kind": kind, "metadata": meta, **more}
        done = self.cluster.kubectl("create", "-f", "-", "-ojson", stdin=json.dumps(manifest))
        made: dict[str, Any] = json.loads(done.stdout)
        return made

    def scale(self, replicas: int) -> None:
        self.cluster.kubectl("scale", "rs/web-1", "-n", NAMESPACE, f"--replicas={replicas}")
        self.cluster.wait_for_pods(NAMESPACE, "app=web", replicas)
        # Its start is told in whole seconds: from the next one on its address is surely its own.
        time.sleep(1)

    def addresses(self) -> dict[str, str]:
        listed: Any = self.cluster.core().list_namespaced_pod(NAMESPACE, label_selector="app=web")
        return {pod.metadata.name: pod.status.pod_ip for pod in listed.items}

    def ping(self) -> None:
        """From the client to each of the others."""
        for name, address in self.addresses().items():
            self.cluster.exec(f"{NAMESPACE}/client", ["ping", "-q", "-c", str(PINGS), address])
            self.pinged[name] = self.pinged.get(name, 0) + PINGS

    def requests(self) -> int:
        """Of the agents' user, as the API server has counted them."""
        text = self.cluster.kubectl("get", "--raw", "/metrics").stdout
        lines = [
            line
            for line in text.splitlines()
            if line.startswith("apiserver_flowcontrol_dispatched_requests_total{")
            and f'flow_schema="{COUNTED}"' in line
        ]
        return sum(int(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[World]:
    cluster.apply(json.dumps(FLOW_SCHEMA))
    yield World(cluster)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    cluster.kubectl("delete", "flowschema", COUNTED)
    cluster.delete(CRD)
    cluster.delete(json.dumps(ROLLOUTS))


@contextmanager
def service(cluster: ControlPlane, listen: str) -> Iterator[Service]:
    kubeconfig = cluster.kubeconfig_for("identity-service", [*RULES, CUSTOM])
    options = Options(
        listen=listen,
        health="",
        service_accounts=["default/told"],
        limits=Limits(batch_s=0.05, heartbeat_s=1.0),
    )
    running = Service(options, Access.from_settings(kubeconfig), LOGGER)
    running.start()
    try:
        wait_until(lambda: not running.sources.unsynced(), "the first lists", 60)
        yield running
    finally:
        running.stop()


def told_by(listen: str, token: Path, **more: Any) -> dict[str, Any]:
    """Settings of the extension."""
    given = {"endpoint": listen, "insecure": True, "token_file": str(token), **more}
    return {"service": given}


def to_pods(agent: Watched) -> list[Sample]:
    """Of packets from the client, where they leave it."""
    return [
        one
        for one in agent.flows()
        if one.labels.get("source_k8s_pod_name") == "client"
        and one.labels.get("destination_k8s_pod_name", "").startswith("web-")
        and one.labels["network_interface_direction"] == "egress"
    ]


def counted(agent: Watched) -> dict[str, float]:
    return {one.labels["destination_k8s_pod_name"]: one.value for one in to_pods(agent)}


def owners(agent: Watched) -> set[tuple[str, str]]:
    found = (said_of(one, "destination") for one in to_pods(agent))
    return {(one.get("k8s_owner_type", ""), one.get("k8s_owner_name", "")) for one in found}


@pytest.mark.timeout(400)
def test_agents_ask_the_api_server_for_nothing_but_while_the_service_is_away(
    world: World, tmp_path: Path
) -> None:
    cluster = world.cluster
    kubeconfig = cluster.kubeconfig_for("told", [*RIGHTS, CUSTOM], inner=True)
    token = tmp_path / "token"
    token.write_text(cluster.token_for("told", audiences=[AUDIENCE]))
    listen = f"unix:{tmp_path}/identity"
    # Pods are pinged as soon as they run: what is told of them later than this comes too late.
    settings = told_by(listen, token, fall_back_after="2s") | {"settle": "5s"}

    def all_is_counted_by_name() -> None:
        world.ping()
        wait_until_told(lambda: counted(agent) == world.pinged, f"{world.pinged} by name", 30)
        assert owners(agent) == {("rollout", "web")}

    with ExitStack() as stack:
        before = world.requests()
        with service(cluster, listen):
            agent = stack.enter_context(watched(cluster, tmp_path, kubeconfig, **settings))
            agent.wait_until_all_is_well()
            all_is_counted_by_name()
            resource = agent.resource()
            uid = cluster.core().read_namespace("kube-system").metadata.uid
            assert resource["k8s_cluster_uid"] == uid
            assert resource["k8s_node_uid"] == cluster.core().read_node("node-1").metadata.uid
            assert resource["cloud_region"] == "lab-1"
            world.scale(2)
            all_is_counted_by_name()
            assert world.requests() == before
        wait_until(lambda: world.requests() > before, "requests of an agent that is left alone")
        world.scale(3)
        all_is_counted_by_name()
        assert "what the identity service tells may be unknown" in agent.reason()
        with service(cluster, listen) as second:
            wait_until(lambda: second.server.streams == 1, "the agent's return")
            agent.wait_until_all_is_well()
            before = world.requests()
            world.scale(4)
            all_is_counted_by_name()
            cluster.apply(json.dumps(NAMES_ONLY))
            wait_until_told(lambda: owners(agent) == set(), "an end of the series with all labels")
            world.ping()
            wait_until_told(
                lambda: owners(agent) == {("", "")}, "only the labels that are asked for"
            )
            assert world.requests() == before


@pytest.mark.parametrize("view", ["remote", "local"])
def test_an_agent_that_never_falls_back_needs_no_kubeconfig_and_no_right(
    control_plane: ControlPlane, objects: Made, tmp_path: Path, view: str
) -> None:
    control_plane.set_rights("told", [])
    token = tmp_path / "token"
    token.write_text(control_plane.token_for("told", audiences=[AUDIENCE]))
    listen = f"unix:{tmp_path}/identity"
    settings = told_by(listen, token, fall_back=False)
    here = {"web-7d4-a", "tidy-a", "node-a"}
    expected = here | {"web-7d4-b", "kubernetes"}
    with (
        service(control_plane, listen),
        running(tmp_path / "nowhere", context=view, **settings) as agent,
    ):
        wait_until(lambda: agent.owner("web-7d4-a") == ("rollout", "web"), "the owner", 30)
        assert set(agent.endpoints()) == (expected if view == "remote" else here)
        core = control_plane.core()
        assert agent.learned["k8s.cluster.uid"] == core.read_namespace("kube-system").metadata.uid
        assert agent.learned["k8s.node.uid"] == core.read_node("node-a").metadata.uid


def test_owners_of_custom_kinds_are_kept_for_as_long_as_anything_names_them(
    control_plane: ControlPlane, objects: Made, tmp_path: Path
) -> None:
    with service(control_plane, f"unix:{tmp_path}/identity") as told_of:

        def owners() -> int:
            return told_of.store.counts().get("owners", 0)

        wait_until(lambda: owners() == 1, "the Rollout of the first pods", 30)
        rollout = objects.make("argoproj.io/v1alpha1", "Rollout", "other")
        objects.pod("other-1-a", "10.0.0.9", objects.replica_set("other-1", rollout))
        wait_until(lambda: owners() == 2, "another Rollout")
        for what in ("pod/other-1-a", "replicaset/other-1"):
            assert owners() == 2
            how = ["--force", "--cascade=background", "--wait=false"]
            control_plane.kubectl("delete", what, "-n", "who", *how)
        wait_until(lambda: owners() == 1, "an end of the other Rollout")
