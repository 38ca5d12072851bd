"""A whole cluster: a control plane with controllers, nodes with real pods, CoreDNS, and a world."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from retina_otel.errors import RetinaError
from retina_otel.testing.cluster.control_plane import ControlPlane, Place
from retina_otel.testing.cluster.ground import Ground
from retina_otel.testing.cluster.images import write_busybox, write_coredns
from retina_otel.testing.cluster.network import CONTROL, Network
from retina_otel.testing.cluster.node import Node

ADDONS = Path(__file__).with_name("addons.yaml")
WORKLOADS = Path(__file__).with_name("workloads.yaml")
"""One of each kind of workload and of Service, in the namespace shop."""


class Cluster(ControlPlane):
    """A control plane and `nodes` nodes, ready inside a `with` block; nothing is left after it.

    `node` is the first one; `network.world` is the namespace beyond the nodes' gateway.
    """

    def __init__(self, nodes: int = 1) -> None:
        self.ground = Ground()
        try:
            self.network = Network(self.ground.tag, nodes)
            self._build(Place(self.network.control, CONTROL[0]))
            self.nodes = [
                Node(self.ground, self, namespace, number)
                for number, namespace in enumerate(self.network.nodes, start=1)
            ]
        except BaseException:
            self.close()
            raise

    @property
    def node(self) -> Node:
        return self.nodes[0]

    def start(self) -> None:
        """Returns when every node is ready and CoreDNS answers."""
        for node in self.nodes:
            node.prepare()
        self.store.start()
        self._api_server.start()
        for archive in (write_busybox(self.ground.folder), write_coredns(self.ground.folder)):
            self.import_image(archive)
        self.wait_for_api_server()
        self.start_controllers()
        self.apply("\n---\n".join(json.dumps(node.manifest()) for node in self.nodes))
        for node in self.nodes:
            node.start()
        self.apply(ADDONS)
        for node in self.nodes:
            self.wait_for_node(node.name)
        self.wait_for_rollout("deployment/coredns", "kube-system")

    def close(self) -> None:
        self.close_clients()
        # Pods live in namespaces of their own: they end by their cgroup, with all else.
        self.ground.end_processes()
        if hasattr(self, "network"):
            self.network.remove()
        self.ground.close()

    def import_image(self, archive: Path) -> None:
        """Makes the images of a docker-archive known to every node. Pods that use them say
        `imagePullPolicy: Never`."""
        for node in self.nodes:
            node.import_image(archive)

    def apply(self, manifest: str | Path) -> None:
        """Creates or changes the objects of a YAML text or file. A namespace that is being deleted
        takes with it all that is put there: it must have gone first. And a controller makes the
        ServiceAccount that a new one's pods need; it may be late, above all after an outage of the
        API server."""
        text = manifest.read_text() if isinstance(manifest, Path) else manifest
        namespaces = [one for one in yaml.safe_load_all(text) if one and one["kind"] == "Namespace"]
        if namespaces:
            names = [one["metadata"]["name"] for one in namespaces]
            self._wait_until_none_ends(names)
            super().apply(yaml.safe_dump_all(namespaces))
            for name in names:
                self._wait_for_account(name)
        super().apply(text)

    def _wait_until_none_ends(self, namespaces: Sequence[str]) -> None:
        core = self.core()

        def gone() -> bool:
            listed: Any = core.list_namespace()
            return not any(
                one.metadata.deletion_timestamp and one.metadata.name in namespaces
                for one in listed.items
            )

        self.wait_for(gone, what=f"end of the namespaces {', '.join(namespaces)} that were")

    def _wait_for_account(self, namespace: str) -> None:
        core = self.core()

        def made() -> Any:
            return core.read_namespaced_service_account("default", namespace)

        self.wait_for(made, what=f"default ServiceAccount of {namespace}")

    # ------------------------------------------------------------------------------------ waiting

    def wait_for_node(self, name: str) -> None:
        """Returns when the node is ready for pods."""
        core = self.core()

        def ready() -> bool:
            node: Any = core.read_node(name)
            conditions = {each.type: each.status for each in node.status.conditions or ()}
            return conditions.get("Ready") == "True" and not node.spec.taints

        self.wait_for(ready, what=f"node {name}")

    def wait_for_rollout(self, workload: str, namespace: str, *, timeout_s: float = 60) -> None:
        """Returns when a `deployment/`, `statefulset/` or `daemonset/` has all its pods ready."""
        arguments = ["rollout", "status", "-n", namespace, workload, f"--timeout={timeout_s:g}s"]
        done = self.kubectl(*arguments, check=False, timeout_s=timeout_s + 10)
        if done.returncode != 0:
            said = done.stderr + self.describe(namespace)
            raise RetinaError(f"{workload} is not ready: {said}\n{self.logs()}")

    def wait_for_pods(
        self, namespace: str, selector: str, count: int, *, timeout_s: float = 60
    ) -> list[Any]:
        """The pods that match, once there are exactly `count` and all are ready."""
        core = self.core()

        def ready() -> list[Any] | None:
            found: Any = core.list_namespaced_pod(namespace, label_selector=selector)
            return found.items if [is_ready(p) for p in found.items] == [True] * count else None

        what = f"{count} ready pods {selector} in {namespace}"
        return self.wait_for(ready, what=what, timeout_s=timeout_s)

    def describe(self, namespace: str) -> str:
        """The pods of a namespace and what happened to them, for a failure's report."""
        pods = self.kubectl("get", "pods", "-o", "wide", "-n", namespace, check=False)
        events = self.kubectl("get", "events", "-n", namespace, check=False)
        return f"{pods.stdout}{events.stdout}"

    # ------------------------------------------------------------------------------------- inside

    def exec(
        self,
        pod: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        container: str = "",
        timeout_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a pod, named `namespace/name`, to its end."""
        namespace, _, name = pod.partition("/")
        where = ["-c", container] if container else []
        return self.kubectl(
            "exec", "-n", namespace, name, *where, "--", *argv, check=check, timeout_s=timeout_s
        )


def is_ready(pod: Any) -> bool:
    """Whether a pod runs, is ready, and is not about to end."""
    if pod.metadata.deletion_timestamp or pod.status.phase != "Running":
        return False
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())
