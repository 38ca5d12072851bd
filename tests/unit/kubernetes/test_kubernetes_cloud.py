"""What the labels and the provider id of a node say of the cloud."""

from __future__ import annotations

import pytest

from retina_otel.kubernetes.cloud import NODE_LABELS, node_resource
from retina_otel.kubernetes.objects import Meta, Node

PLACE = {
    "topology.kubernetes.io/region": "r",
    "topology.kubernetes.io/zone": "r-1",
    "node.kubernetes.io/instance-type": "big",
}
PLACED = {"cloud.region": "r", "cloud.availability_zone": "r-1", "host.type": "big"}
SCALE_SET = (
    "/subscriptions/1111/resourceGroups/mc_shop/providers/Microsoft.Compute/"
    "virtualMachineScaleSets/pool/virtualMachines/0"
)


@pytest.mark.parametrize(
    ("provider_id", "labels", "said"),
    [
        ("", {}, {}),
        ("kind://docker/kind/node", PLACE, PLACED),
        (
            f"azure://{SCALE_SET}",
            PLACE | {"kubernetes.azure.com/cluster": "mc_shop"},
            PLACED
            | {
                "cloud.provider": "azure",
                "cloud.platform": "azure.aks",
                "cloud.account.id": "1111",
                "cloud.resource_id": SCALE_SET,
                "azure.resource_group.name": "mc_shop",
            },
        ),
        (
            "aws:///us-east-1c/i-0abc",
            {"eks.amazonaws.com/nodegroup": "pool"},
            {"cloud.provider": "aws", "cloud.platform": "aws_eks"},
        ),
        (
            "gce://project/us-central1-a/node-1",
            {"cloud.google.com/gke-nodepool": "pool"},
            {
                "cloud.provider": "gcp",
                "cloud.platform": "gcp_kubernetes_engine",
                "cloud.account.id": "project",
            },
        ),
        ("azure://nonsense", {}, {}),
    ],
)
def test_node_tells_its_cloud(
    provider_id: str, labels: dict[str, str], said: dict[str, str]
) -> None:
    assert set(labels) <= NODE_LABELS
    node = Node(Meta("node-a", "n-1", "1", labels=labels), provider_id=provider_id)
    assert node_resource(node) == said | {"k8s.node.name": "node-a", "k8s.node.uid": "n-1"}
