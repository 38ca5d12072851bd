"""What a node's object tells of the machine and the cloud it is in, as resource attributes. Pure.

Names and values are the semantic conventions'; what the labels do not tell is left out.
"""

from __future__ import annotations

import re

from retina_otel.kubernetes.inventory.endpoints import REGION_LABELS, ZONE_LABELS, first_label
from retina_otel.kubernetes.objects import Node

_TYPE_LABELS = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_PLATFORMS = {
    "kubernetes.azure.com/cluster": "azure.aks",
    "eks.amazonaws.com/nodegroup": "aws_eks",
    "eks.amazonaws.com/compute-type": "aws_eks",
    "alpha.eksctl.io/cluster-name": "aws_eks",
    "cloud.google.com/gke-nodepool": "gcp_kubernetes_engine",
}
"""By labels that only nodes of that service have."""
NODE_LABELS = frozenset((*REGION_LABELS, *ZONE_LABELS, *_TYPE_LABELS, *_PLATFORMS))
"""The labels of nodes that are read."""

_AZURE = re.compile(
    r"azure://(?P<resource>/subscriptions/(?P<account>[^/]+)/resourceGroups/(?P<group>[^/]+)/.+)"
)
_AWS = re.compile(r"aws://")
_GCP = re.compile(r"gce://(?P<account>[^/]+)/.+")


def node_resource(node: Node) -> dict[str, str | int | bool]:
    """Attributes of the node that an agent runs on."""
    found = {
        "k8s.node.name": node.meta.name,
        "k8s.node.uid": node.meta.uid,
        "cloud.region": first_label(node, REGION_LABELS),
        "cloud.availability_zone": first_label(node, ZONE_LABELS),
        "host.type": first_label(node, _TYPE_LABELS),
        "cloud.platform": next(
            (platform for label, platform in _PLATFORMS.items() if label in node.meta.labels), ""
        ),
        **_by_provider(node.provider_id),
    }
    return {name: value for name, value in found.items() if value}


def _by_provider(provider_id: str) -> dict[str, str]:
    if match := _AZURE.fullmatch(provider_id):
        return {
            "cloud.provider": "azure",
            "cloud.account.id": match["account"],
            "cloud.resource_id": match["resource"],
            "azure.resource_group.name": match["group"],
        }
    if _AWS.match(provider_id):
        return {"cloud.provider": "aws"}
    if match := _GCP.fullmatch(provider_id):
        return {"cloud.provider": "gcp", "cloud.account.id": match["account"]}
    return {}
