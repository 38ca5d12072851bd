"""The agent on a real node, with a MetricsConfiguration: only what it names is counted and told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from retina_otel.testing.cluster import Cluster
from retina_otel.testing.scrape import Sample
from tests.cluster.metrics_configurations import OURS
from tests.cluster.test_identity import (
    kubeconfig,
    pods_of,
    said_of,
    wait_until_told,
    watched,
    world,
)

__all__ = ["kubeconfig", "world"]

OTHER = """
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: Pod
metadata: {name: stranger, namespace: other, labels: {app: stranger}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: a
      image: localhost/busybox:1
      imagePullPolicy: Never
      command: [sleep, infinity]
"""
CONFIGURATION: dict[str, Any] = {
    "apiVersion": "retina.sh/v1alpha1",
    "kind": "MetricsConfiguration",
    "metadata": {"name": "one"},
    "spec": {
        "contextOptions": [
            {
                "metricName": "forward_count",
                "sourceLabels": ["podname"],
                "destinationLabels": ["podname"],
            }
        ],
        "namespaces": {"exclude": ["other"]},
    },
}


@pytest.fixture
def strangers(world: Cluster) -> Iterator[Cluster]:
    definition = OURS.read_text()
    world.apply(OTHER)
    world.apply(definition)
    world.wait_for_pods("other", "app=stranger", 1)
    yield world
    world.delete(OTHER)
    world.delete(definition)


def ends(sample: Sample) -> tuple[str | None, str | None]:
    return (
        said_of(sample, "source").get("k8s_pod_name"),
        said_of(sample, "destination").get("k8s_pod_name"),
    )


def test_only_what_an_object_names_is_counted_and_told_until_it_is_deleted(
    strangers: Cluster, kubeconfig: Path, tmp_path: Path
) -> None:
    servers = [p for n, p in pods_of(strangers, "who").items() if n.startswith("server")]
    server, address = servers[0].metadata.name, servers[0].status.pod_ip

    def talk() -> None:
        for client in ("who/client-0", "other/stranger"):
            strangers.exec(client, ["wget", "-q", "-O", "-", f"http://{address}:8080/"])

    with watched(strangers, tmp_path, kubeconfig) as agent:
        agent.wait_until_all_is_well()

        def counted_at() -> set[tuple[str | None, str | None, str]]:
            """Both ends, and at which of them it was counted."""
            return {
                (*ends(one), one.labels["network_interface_direction"]) for one in agent.flows()
            }

        def names() -> set[str]:
            return {one.name for one in agent.scrape() if one.name.startswith("retina_flow")}

        talk()
        at_the_stranger = ("stranger", server, "egress")
        wait_until_told(lambda: at_the_stranger in counted_at(), "series of the stranger")
        assert "retina_flow_io_bytes_total" in names()

        strangers.apply(yaml.safe_dump(CONFIGURATION))
        # Not by what is absent alone: an exporter that is being exchanged has nothing at all.
        wait_until_told(lambda: names() == {"retina_flow_packets_total"}, "the overlay")
        wait_until_told(lambda: at_the_stranger not in counted_at(), "the end of the stranger's")
        talk()
        wanted = {("client-0", server, "egress"), ("stranger", server, "ingress")}
        wait_until_told(lambda: wanted <= counted_at(), f"series {wanted}")
        assert at_the_stranger not in counted_at()
        for one in agent.flows():
            kept = {key for key in one.labels if key.startswith(("source_", "destination_"))}
            assert kept <= {"source_k8s_pod_name", "destination_k8s_pod_name"}

        strangers.delete(yaml.safe_dump(CONFIGURATION))
        # CoreDNS is asked for its health all the time.
        wait_until_told(lambda: "retina_flow_io_bytes_total" in names(), "all metrics again")
        talk()
        wait_until_told(lambda: at_the_stranger in counted_at(), "series of the stranger again")
