"""gateway-enrich-others.yaml against a real API server: what others send gets the names that
Kubernetes knows, what the agent sends stays as it is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retina_otel.encode.otlp import MetricsEncoder
from retina_otel.model.signal_types import Kind, Metric
from retina_otel.model.signals import FLOW_IO, INTERFACE_PACKETS
from retina_otel.pipeline.points import PointBlock, ResourceModel
from retina_otel.testing.backends import Collector, running
from retina_otel.testing.backends.collector import attributes_of
from retina_otel.testing.cluster import ControlPlane
from retina_otel.testing.points import Point, point_block
from tests.e2e.agent import wait_until

AGENT = {"service.name": "network", "telemetry.distro.name": "retina-otel", "k8s.node.name": "n1"}
THEIRS = Metric("requests", Kind.COUNTER, "{request}", "Requests.", scope="shop")


@pytest.fixture
def pod_uid(control_plane: ControlPlane) -> Iterator[str]:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "enriched", "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "web", "image": "none"}]},
    }
    control_plane.apply(json.dumps(pod))
    core = control_plane.core()
    yield core.read_namespaced_pod("enriched", "default").metadata.uid
    core.delete_namespaced_pod("enriched", "default", grace_period_seconds=0)


def one(metric: Metric, source: dict[str, str]) -> PointBlock:
    return point_block(metric, [Point(1, source, start_ns=1, time_ns=time.time_ns())])


def resources(collector: Collector) -> dict[str, dict[str, Any]]:
    """The resource of each metric."""
    return {
        metric["name"]: dict(attributes_of(part["resource"]["attributes"]))
        for line in collector.lines()
        for part in line.get("resourceMetrics", ())
        for scope in part["scopeMetrics"]
        for metric in scope["metrics"]
    }


def test_only_the_telemetry_of_others_is_enriched(
    control_plane: ControlPlane, pod_uid: str, tmp_path: Path
) -> None:
    backend = Collector("first-light", tmp_path)
    gateway = Collector(
        "gateway-enrich-others",
        tmp_path,
        {
            "OTLP_BACKEND_URL": backend.endpoint,
            "KUBE_AUTH": "kubeConfig",
            "KUBECONFIG": str(control_plane.kubeconfig),
        },
    )
    theirs = {"service.name": "shop", "k8s.pod.uid": pod_uid}
    of_pod = {"k8s.pod.uid": pod_uid, "k8s.pod.name": "as it was then"}
    ours = MetricsEncoder(AGENT, resource_model=ResourceModel.ENTITY)
    requests = [
        *MetricsEncoder(theirs).encode([one(THEIRS, {})]),
        *ours.encode([one(FLOW_IO, {"source.k8s.pod.name": "web"})]),
        *ours.encode([one(INTERFACE_PACKETS, of_pod)]),
    ]
    with running(gateway, backend):
        for body in requests:
            gateway.post("/v1/metrics", body)
        wait_until(lambda: len(resources(backend)) == len(requests), "all three")

    assert resources(backend) == {
        THEIRS.name: theirs
        | {
            "k8s.pod.name": "enriched",
            "k8s.namespace.name": "default",
            "k8s.node.name": "n1",
        },
        FLOW_IO.name: AGENT,
        INTERFACE_PACKETS.name: {**of_pod, "k8s.node.name": "n1"},
    }
