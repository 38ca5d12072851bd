"""The agent on a node, of a lab of namespaces or of a cluster: what it knows, and all that it has
ever counted."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from retina_otel.errors import RetinaError
from retina_otel.observe.socket import ask
from retina_otel.testing.cluster.node import Node
from retina_otel.testing.namespaces import Namespace
from retina_otel.testing.otlp_data import ReceivedPoint, points_of
from retina_otel.testing.scrape import fetch
from tests.cluster.test_identity import WELL
from tests.e2e.agent import Agent, wait_until

NODE = "node-1"
HEALTH = 13233


def configuration(folder: Path, kubeconfig: Path, settle_s: int) -> Path:
    """Everything that tells one flow from another is on its points."""
    keys = ["network.*", "*.k8s.pod.name", "*.address", "*.port"]
    identified = {"receivers": ["flows"], "processors": ["identity"]}
    config = {
        "extensions": {
            "kubernetes": {
                "kubeconfig": str(kubeconfig),
                "node_name": NODE,
                "settle": f"{settle_s}s",
            },
            "health_check": {"endpoint": f"127.0.0.1:{HEALTH}"},
        },
        "receivers": {"flows": {"events": "interval"}},
        "processors": {"identity": {}},
        "exporters": {
            "file": {"path": str(folder / "out.json"), "interval": "5s"},
            "observe": {"socket": str(folder / "observe.sock")},
        },
        "service": {
            "interval": "250ms",
            "extensions": ["kubernetes", "health_check"],
            "pipelines": {
                "metrics": {
                    **identified,
                    "exporters": ["file"],
                    "attributes": {"retina.flow.*": keys},
                },
                "logs": {**identified, "exporters": ["observe"]},
            },
        },
    }
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


class LabAgent:
    """See the module's docstring."""

    def __init__(
        self, node: Namespace | Node, folder: Path, kubeconfig: Path, *, settle_s: int
    ) -> None:
        self._socket = folder / "observe.sock"
        self._out = folder / "out.json"
        self._settle_s = settle_s
        self._network = node.namespace if isinstance(node, Node) else node
        config = configuration(folder, kubeconfig, settle_s)
        self.agent = Agent(node, config)  # type: ignore[arg-type]

    def start(self) -> None:
        """Returns when it has heard of everything."""
        self.agent.start()
        self.wait_until_well()

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(fetch(self._network, "127.0.0.1", HEALTH, "/"))
        return found

    def extension(self) -> dict[str, Any]:
        found: dict[str, Any] = self.health()["components"]["extensions"]["kubernetes"]
        return found

    def wait_until_well(self) -> None:
        def well() -> bool:
            # Not ready for a moment, when the exporters change to another resource.
            with suppress(RetinaError):
                return self.extension() == WELL
            return False

        wait_until(well, "a well extension", 90)

    def knows(self, about: str) -> list[dict[str, Any]]:
        """What it knows of an address, or of a pod by namespace/name."""
        return list(ask(self._socket, {"what": "identities", "about": [about]}))

    def wait_until_bound(self, pod: str, ifindex: int) -> None:
        """Until it knows that the pod lives behind this interface."""

        def bound() -> bool:
            return [one["interfaces"] for one in self.knows(pod)] == [[ifindex]]

        wait_until(bound, f"{pod} behind its interface")

    def wait_until_whose(self, address: str, *pods: str) -> None:
        """Until it knows that an address belongs to these."""

        def named() -> bool:
            found = self.knows(address)
            return [one["attributes"]["k8s.pod.name"] for one in found] == list(pods)

        wait_until(named, f"{address} of {pods}", 60)

    def wait_until_settled(self) -> None:
        """Until nothing waits to be credited any longer."""

        def settled() -> bool:
            return bool(self.health()["ledgers"]["pipeline/metrics"]["held"] == 0)

        wait_until(settled, "an end of what waits", self._settle_s + 20)

    def stop(self) -> list[ReceivedPoint]:
        """The last point of each series that there ever was."""
        assert self.agent.stop() == 0, self.agent.log()
        last: dict[object, ReceivedPoint] = {}
        for line in self._out.read_bytes().splitlines():
            request = json_format.Parse(line, ExportMetricsServiceRequest())
            for point in points_of([request]):
                if not point.no_value:
                    last[*point.series, point.start_ns] = point
        return list(last.values())


def books(points: list[ReceivedPoint], metric: str, **wanted: str) -> Counter[str]:
    """What the agent says of its books, by ledger."""
    found: Counter[str] = Counter()
    for one in points:
        said = {key.removeprefix("retina.ledger."): value for key, value in one.attributes.items()}
        if one.metric == f"retina.ledger.{metric}" and wanted.items() <= said.items():
            found[said["name"]] += one.value
    return found
