"""The `kubernetes` extension against a real API server: what it reads, and what for want of which
right it can't."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from retina_otel.agent.clock import SystemClock
from retina_otel.component import Context
from retina_otel.errors import ConfigError
from retina_otel.extensions.kubernetes import Kubernetes, KubernetesSettings
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointTable
from retina_otel.pipeline.identity.selection import Selection, View
from retina_otel.pipeline.ledger import Ledger
from retina_otel.testing.cluster import ControlPlane
from retina_otel.testing.exporters import NoInterfaces
from tests.charts.test_chart import one, render
from tests.cluster.objects import status
from tests.e2e.agent import wait_until

ROLLOUTS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "rollouts.argoproj.io"},
    "spec": {
        "group": "argoproj.io",
        "scope": "Namespaced",
        "names": {"plural": "rollouts", "singular": "rollout", "kind": "Rollout"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object"}},
            }
        ],
    },
}
WATCH = ["get", "list", "watch"]
EVERYTHING = [
    {
        "apiGroups": ["", "apps", "batch", "discovery.k8s.io", "argoproj.io", "retina.sh"],
        "resources": ["*"],
        "verbs": WATCH,
    }
]


@dataclass
class Running:
    extension: Kubernetes
    table: EndpointTable
    selection: Selection
    reasons: list[str] = field(default_factory=list)
    learned: dict[str, Any] = field(default_factory=dict)

    def endpoints(self) -> dict[str, Endpoint]:
        """Those that are present, by the name of their pod, node or service."""
        index = self.table.index
        rows = [row for row in range(1, len(index.present)) if index.present[row]]
        found = map(self.table.endpoint, rows)
        return {
            str(
                one.attributes.get("k8s.pod.name")
                or one.attributes.get("k8s.service.name")
                or one.attributes.get("k8s.node.name")
                or one.key
            ): one
            for one in found
        }

    def owner(self, pod: str) -> tuple[object, object] | None:
        endpoint = self.endpoints().get(pod)
        if endpoint is None:
            return None
        return endpoint.attributes["k8s.owner.type"], endpoint.attributes["k8s.owner.name"]

    def reason(self) -> str:
        self.extension.tick(0)
        return self.reasons[-1] if self.reasons else ""


@contextmanager
def running(kubeconfig: Path, **settings: Any) -> Iterator[Running]:
    table, selection = EndpointTable(), Selection()
    reasons: list[str] = []
    learned: dict[str, Any] = {}
    context = Context(
        id="kubernetes",
        clock=SystemClock(),
        logger=logging.getLogger("kubernetes"),
        ledger=Ledger("kubernetes", "things"),
        identity=table,
        interfaces=NoInterfaces(),
        degraded=reasons.append,
        selection=selection,
        learned=learned.update,
    )
    given = {"kubeconfig": kubeconfig, "node_name": "node-a", **settings}
    extension = Kubernetes(KubernetesSettings.model_validate(given), context)
    extension.start()
    try:
        yield Running(extension, table, selection, reasons, learned)
    finally:
        extension.stop()


class Made:
    """Objects made in a namespace of their own."""

    namespace = "who"

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane

    def make(
        self, api_version: str, kind: str, name: str, owner: Any = None, **more: Any
    ) -> Mapping[str, Any]:
        meta: dict[str, Any] = {"name": name, "namespace": self.namespace}
        if owner:
            meta["ownerReferences"] = [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                    "controller": True,
                }
            ]
        manifest = {"apiVersion": api_version, "kind": kind, "metadata": meta, **more}
        done = self._control_plane.kubectl(
            "create", "-f", "-", "-o", "json", stdin=json.dumps(manifest)
        )
        made: Mapping[str, Any] = json.loads(done.stdout)
        return made

    def replica_set(self, name: str, owner: Any = None) -> Mapping[str, Any]:
        labels = {"app": name}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "a", "image": "a"}]},
        }
        spec = {"selector": {"matchLabels": labels}, "template": template}
        return self.make("apps/v1", "ReplicaSet", name, owner, spec=spec)

    def pod(self, name: str, address: str, owner: Any = None, node: str = "node-a") -> None:
        spec = {"nodeName": node, "containers": [{"name": "a", "image": "a"}]}
        self.make("v1", "Pod", name, owner, spec=spec)
        patch = json.dumps({"status": status(address)})
        self._control_plane.kubectl(
            "patch",
            "pod",
            "-n",
            self.namespace,
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            patch,
        )


@pytest.fixture(scope="module")
def objects(control_plane: ControlPlane) -> Iterator[Made]:
    """A pod of a ReplicaSet of a Rollout on each of two nodes, and one of a StatefulSet."""
    namespace = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "who"}}'
    control_plane.apply(json.dumps(ROLLOUTS))
    control_plane.kubectl(
        "wait", "--for=condition=Established", "crd/rollouts.argoproj.io", timeout_s=30
    )
    control_plane.apply(namespace)
    control_plane.apply('{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}')
    made = Made(control_plane)
    rollout = made.make("argoproj.io/v1alpha1", "Rollout", "web")
    replica_set = made.replica_set("web-7d4", rollout)
    made.pod("web-7d4-a", "10.0.0.7", replica_set)
    made.pod("web-7d4-b", "10.0.1.7", replica_set, node="node-b")
    never = {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}
    job = made.make("batch/v1", "Job", "tidy", spec={"template": {"spec": never}})
    made.pod("tidy-a", "10.0.0.8", job)
    yield made
    control_plane.delete(json.dumps(ROLLOUTS))
    control_plane.kubectl(
        "delete", "pod,replicaset,job", "--all", "-n", "who", "--force", "--wait=false"
    )
    control_plane.kubectl("delete", "namespace", "who", "--wait=false")
    control_plane.kubectl("delete", "node", "node-a")


def test_owners_are_read_up_to_a_custom_kind(control_plane: ControlPlane, objects: Made) -> None:
    kubeconfig = control_plane.kubeconfig_for("reader", EVERYTHING)
    with running(kubeconfig) as agent:
        for pod in ("web-7d4-a", "web-7d4-b"):
            wait_until(lambda pod=pod: agent.owner(pod) == ("rollout", "web"), f"owner of {pod}")
        assert "service:default/kubernetes" in {one.key for one in agent.endpoints().values()}
        assert agent.selection.view is View.REMOTE
        assert agent.table.settle_after_ns == 8_000_000_000


def test_owner_that_may_not_be_read_ends_the_chain_and_names_the_right(
    control_plane: ControlPlane, objects: Made
) -> None:
    rights = [EVERYTHING[0] | {"apiGroups": ["", "apps", "batch", "discovery.k8s.io", "retina.sh"]}]
    kubeconfig = control_plane.kubeconfig_for("no-rollouts", rights)
    with running(kubeconfig) as agent:
        wait_until(lambda: agent.owner("web-7d4-a") is not None, "the pod")
        wait_until(lambda: "get rollouts" in agent.reason(), "the right")
        assert agent.owner("web-7d4-a") == ("rollout", "web"), "its name is known, not its owner"


def chart_rights(view: str, without: tuple[str, str] = ("", "")) -> list[dict[str, Any]]:
    """What the chart grants the agents in this view, less one verb on one resource."""
    role = one(render(f"context={view}"), "ClusterRole", "obs-r-agent")
    rules: list[dict[str, Any]] = [
        {
            **rule,
            "resources": [resource],
            "verbs": [verb for verb in rule["verbs"] if (verb, resource) != without],
        }
        for rule in role["rules"]
        for resource in rule["resources"]
    ]
    return [rule for rule in rules if rule["verbs"]]


NODE_RIGHTS = [("get", "namespaces"), ("get", "nodes"), ("watch", "nodes")]
POD_RIGHTS = [
    *NODE_RIGHTS,
    *(("watch", what) for what in ("namespaces", "pods")),
]
OF_VIEW = {
    "node": NODE_RIGHTS,
    "local": [*POD_RIGHTS, ("get", "replicasets"), ("get", "jobs")],
    "remote": [
        *POD_RIGHTS,
        *(("watch", what) for what in ("replicasets", "jobs", "services", "endpointslices")),
    ],
}
"""What each view asks for. MetricsConfigurations are no kind of this API server: there are none,
whatever the rights."""
ALONE = "pods of this node are told by their addresses only: nobody looks at them"
"""What this extension, which has no node around it, lacks anyway."""


def missing(reason: str) -> set[str]:
    return set(re.findall(r"`((?:get|list|watch) \w+)`", reason)) - {"get rollouts"}


def not_heard_of(reason: str) -> int:
    """Of how many kinds there was no list yet."""
    found = re.search(r"not heard of yet: ([^;]+)", reason)
    return len(found[1].split(", ")) if found else 0


@pytest.mark.parametrize("view", list(OF_VIEW))
def test_each_view_needs_no_other_right_than_the_chart_grants(
    control_plane: ControlPlane, objects: Made, view: str
) -> None:
    custom = {"apiGroups": ["argoproj.io"], "resources": ["rollouts"], "verbs": ["get"]}
    kubeconfig = control_plane.kubeconfig_for(f"chart-{view}", [*chart_rights(view), custom])
    with running(kubeconfig, context=view, observe_annotated=True) as agent:
        enough = "" if view == "node" else ALONE
        wait_until(lambda: agent.reason() == enough, f"all that {view} needs")
        wait_until(lambda: "k8s.cluster.uid" in agent.learned, "which cluster it is")


@pytest.mark.parametrize(
    ("view", "verb", "resource"),
    [(view, *right) for view, needed in OF_VIEW.items() for right in needed],
)
def test_a_right_that_is_missing_is_named_and_the_rest_is_there(
    control_plane: ControlPlane, objects: Made, view: str, verb: str, resource: str
) -> None:
    name = f"without-{view}-{verb}-{resource}"
    kubeconfig = control_plane.kubeconfig_for(name, chart_rights(view, (verb, resource)))
    unheard = 1 if verb == "watch" else 0
    with running(kubeconfig, context=view, observe_annotated=True) as agent:
        wait_until(
            lambda: (
                (missing(agent.reason()), not_heard_of(agent.reason()))
                == ({f"{verb} {resource}"}, unheard)
            ),
            f"nothing but `{verb} {resource}` missing",
        )
        assert agent.selection.view is View(view)


def test_a_node_that_is_not_there_is_told(control_plane: ControlPlane, objects: Made) -> None:
    kubeconfig = control_plane.kubeconfig_for("chart-node", chart_rights("node"))
    with running(kubeconfig, context="node", node_name="node-x") as agent:
        told = "there is no node 'node-x': set `node_name` to this node's name"
        wait_until(lambda: agent.reason() == told, told)


def test_local_view_reads_only_the_pods_of_the_node_and_their_owners(
    control_plane: ControlPlane, objects: Made
) -> None:
    kubeconfig = control_plane.kubeconfig_for("reader", EVERYTHING)
    with running(kubeconfig, context="local") as agent:
        wait_until(lambda: agent.owner("web-7d4-a") == ("rollout", "web"), "the owner")
        assert set(agent.endpoints()) == {"web-7d4-a", "tidy-a", "node-a"}
        assert agent.selection.view is View.LOCAL
        assert agent.table.settle_after_ns == 0


def test_cluster_is_known_when_the_extension_has_started(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.kubeconfig_for("reader", EVERYTHING)
    uid = control_plane.core().read_namespace("kube-system").metadata.uid
    with running(kubeconfig, node_name="") as agent:
        assert agent.learned == {"k8s.cluster.uid": uid}


def test_node_must_be_known_to_see_only_its_own_pods(control_plane: ControlPlane) -> None:
    with (
        pytest.raises(ConfigError, match="K8S_NODE_NAME"),
        running(control_plane.kubeconfig, context="local", node_name=""),
    ):
        raise AssertionError


def test_endpoints_go_with_the_extension(control_plane: ControlPlane, objects: Made) -> None:
    kubeconfig = control_plane.kubeconfig_for("reader", EVERYTHING)
    with running(kubeconfig) as agent:
        wait_until(lambda: agent.owner("web-7d4-a") is not None, "the pod")
    assert agent.endpoints() == {}


def test_older_store_leaves_no_identity_that_is_not_in_it(
    control_plane: ControlPlane, objects: Made, tmp_path: Path
) -> None:
    kubeconfig = control_plane.kubeconfig_for("reader", EVERYTHING)
    control_plane.save_store(tmp_path / "store")
    objects.pod("later", "10.0.0.9")
    with running(kubeconfig) as agent:
        wait_until(lambda: {"later", "web-7d4-a"} <= set(agent.endpoints()), "both pods", 60)
        control_plane.restore_store(tmp_path / "store")
        wait_until(lambda: "later" not in agent.endpoints(), "the end of what is not there", 90)
        assert agent.owner("web-7d4-a") == ("rollout", "web")
