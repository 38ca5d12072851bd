"""RetinaEndpoints on a real API server, in place of the pods of other nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from retina_otel.testing.cluster import ControlPlane
from tests.cluster.test_identity_extension import WATCH, Made, running
from tests.e2e.agent import wait_until

TEXT, TEXTS = {"type": "string"}, {"type": "object", "additionalProperties": {"type": "string"}}


def items(**properties: Any) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "object", "properties": properties}}


DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "retinaendpoints.retina.sh"},
    "spec": {
        "group": "retina.sh",
        "scope": "Namespaced",
        "names": {
            "plural": "retinaendpoints",
            "singular": "retinaendpoint",
            "kind": "RetinaEndpoint",
            "shortNames": ["ke"],
        },
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "containers": items(id=TEXT, name=TEXT),
                                    "ownerReferences": items(apiVersion=TEXT, kind=TEXT, name=TEXT),
                                    "nodeIP": TEXT,
                                    "podIP": TEXT,
                                    "podIPs": {"type": "array", "items": TEXT},
                                    "labels": TEXTS,
                                    "annotations": TEXTS,
                                },
                            },
                            "status": {"type": "object"},
                        },
                    }
                },
            }
        ],
    },
}
NODES = {"node-a": "172.30.0.1", "node-b": "172.30.0.2"}
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": WATCH}
ENDPOINTS = {"apiGroups": ["retina.sh"], "resources": ["retinaendpoints"], "verbs": WATCH}
OTHERS = [
    {"apiGroups": [""], "resources": ["nodes", "services", "namespaces"], "verbs": WATCH},
    {"apiGroups": ["apps"], "resources": ["replicasets"], "verbs": WATCH},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": WATCH},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": WATCH},
    {"apiGroups": ["retina.sh"], "resources": ["metricsconfigurations"], "verbs": WATCH},
]


class Mirror(Made):
    """Pods, and RetinaEndpoints as Retina's operator writes them."""

    namespace = "mirrored"

    def endpoint(self, name: str, address: str, node: str, **spec: Any) -> None:
        given = {"podIP": address, "podIPs": [address], "nodeIP": NODES[node], **spec}
        self.make("retina.sh/v1alpha1", "RetinaEndpoint", name, spec=given)

    def patch(self, name: str, **spec: Any) -> None:
        text = json.dumps({"spec": spec})
        self._control_plane.kubectl(
            "patch", "retinaendpoints", "-n", self.namespace, name, "--type=merge", "-p", text
        )

    def delete(self, name: str) -> None:
        self._control_plane.kubectl("delete", "ke", "-n", self.namespace, name)


@pytest.fixture(scope="module")
def objects(control_plane: ControlPlane) -> Iterator[Mirror]:
    """A pod on each of two nodes, and a RetinaEndpoint for each."""
    control_plane.apply(json.dumps(DEFINITION))
    control_plane.kubectl(
        "wait", "--for=condition=Established", "crd/retinaendpoints.retina.sh", timeout_s=30
    )
    control_plane.apply(
        '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mirrored"}}'
    )
    for name, address in NODES.items():
        meta = {"name": name, "labels": {"topology.kubernetes.io/zone": f"zone-{name[-1]}"}}
        made = {"apiVersion": "v1", "kind": "Node", "metadata": meta}
        control_plane.apply(json.dumps(made))
        status = {"status": {"addresses": [{"type": "InternalIP", "address": address}]}}
        control_plane.kubectl(
            "patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status)
        )
    mirror = Mirror(control_plane)
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    deployment["metadata"]["uid"] = "00000000-0000-0000-0000-000000000001"  # type: ignore[index]
    replica_set = mirror.replica_set("web-7d4", deployment)
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4"}
    for name, address, node in (("web-a", "10.0.0.7", "node-a"), ("web-b", "10.0.1.7", "node-b")):
        mirror.pod(name, address, replica_set, node=node)
        mirror.endpoint(name, address, node, ownerReferences=[owner], labels={"app": "web"})
    yield mirror
    control_plane.delete(json.dumps(DEFINITION))
    control_plane.kubectl(
        "delete", "pod,replicaset", "--all", "-n", "mirrored", "--force", "--wait=false"
    )
    control_plane.kubectl("delete", "node", *NODES)
    control_plane.kubectl("delete", "namespace", "mirrored", "--wait=false")


def test_pods_elsewhere_are_told_by_their_endpoints_and_own_ones_by_themselves(
    control_plane: ControlPlane, objects: Mirror
) -> None:
    kubeconfig = control_plane.kubeconfig_for("mirrored", [PODS, ENDPOINTS, *OTHERS])
    with running(kubeconfig, pods_from="retina_endpoints", labels=["app"]) as agent:
        wait_until(lambda: agent.owner("web-b") == ("deployment", "web"), "the pod elsewhere")
        wait_until(lambda: agent.owner("web-a") == ("deployment", "web"), "the own pod")
        there = agent.endpoints()["web-b"]
        assert dict(there.attributes) == {
            "k8s.namespace.name": "mirrored",
            "k8s.pod.name": "web-b",
            "k8s.node.name": "node-b",
            "k8s.owner.name": "web",
            "k8s.owner.type": "deployment",
            "k8s.resource.type": "pod",
            "k8s.pod.label.app": "web",
            "cloud.availability_zone": "zone-b",
        }
        assert there.addresses == ("10.0.1.7",)
        assert "k8s.pod.uid" in agent.endpoints()["web-a"].attributes
        wait_until(lambda: "not heard of" not in agent.reason(), "all lists")
        assert "may be unknown" not in agent.reason()

        objects.endpoint("later", "10.0.1.8", "node-b")
        wait_until(lambda: agent.owner("later") == ("pod", "later"), "one that comes")
        objects.patch("later", podIP="10.0.1.9", podIPs=["10.0.1.9"])
        wait_until(lambda: agent.endpoints()["later"].addresses == ("10.0.1.9",), "its new address")
        objects.delete("later")
        wait_until(lambda: "later" not in agent.endpoints(), "the end of one that goes")
    assert agent.endpoints() == {}


def test_endpoints_are_told_anew_from_a_store_that_was_compacted(
    control_plane: ControlPlane, objects: Mirror
) -> None:
    kubeconfig = control_plane.kubeconfig_for("mirrored", [PODS, ENDPOINTS, *OTHERS])
    with running(kubeconfig, pods_from="retina_endpoints") as agent:
        wait_until(lambda: "web-b" in agent.endpoints(), "the pod elsewhere")
        objects.endpoint("gone", "10.0.1.8", "node-b")
        wait_until(lambda: "gone" in agent.endpoints(), "one that will go")
        control_plane.stop_api_server()
        control_plane.start_api_server()
        control_plane.wait_for_api_server()
        objects.delete("gone")
        control_plane.compact()
        wait_until(lambda: "gone" not in agent.endpoints(), "the end of one that went", 60)
        assert "web-b" in agent.endpoints()


def test_a_right_that_is_missing_and_what_it_costs_are_named(
    control_plane: ControlPlane, objects: Mirror
) -> None:
    kubeconfig = control_plane.kubeconfig_for("unmirrored", [PODS, *OTHERS])
    with running(kubeconfig, pods_from="retina_endpoints") as agent:
        wait_until(lambda: agent.owner("web-a") == ("deployment", "web"), "the own pod")
        wait_until(lambda: "pods of other nodes may be unknown" in agent.reason(), "what it costs")
        assert "retinaendpoints" in agent.reason()
        assert "web-b" not in agent.endpoints()
