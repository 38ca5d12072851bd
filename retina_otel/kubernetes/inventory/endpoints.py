"""Endpoints made of Kubernetes objects: attributes, keys, addresses. Pure.

A cluster has tens of thousands of pods, so what they have in common (workload, node) is one mapping
for all that share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from retina_otel.kubernetes.inventory.times import service_validity
from retina_otel.kubernetes.objects import Node, Pod, Service
from retina_otel.model.attributes import (
    CIDR,
    CLOUD_AVAILABILITY_ZONE,
    CLOUD_REGION,
    K8S_NAMESPACE_NAME,
    K8S_NODE_NAME,
    K8S_NODE_UID,
    K8S_OWNER_NAME,
    K8S_OWNER_TYPE,
    K8S_POD_NAME,
    K8S_POD_UID,
    K8S_RESOURCE_TYPE,
    K8S_SERVICE_NAME,
)
from retina_otel.model.batches import AttributeValue
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind

POD_LABEL = "k8s.pod.label."
POD_ANNOTATION = "k8s.pod.annotation."
API_SERVER_KEY = "service:default/kubernetes"
REGION_LABELS = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
ZONE_LABELS = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}

Attributes = Mapping[str, AttributeValue]
NOTHING: Attributes = MappingProxyType({})


class PodAttributes(Mapping[str, AttributeValue]):
    """A pod's own name and uid, if it is known, before what it shares with others. Never
    changes."""

    __slots__ = ("asked", "name", "node", "uid", "workload")

    def __init__(
        self, name: str, uid: str, workload: Attributes, node: Attributes, asked: Attributes
    ) -> None:
        self.name = name
        self.uid = uid
        self.workload = workload
        self.node = node
        self.asked = asked

    def __getitem__(self, key: str) -> AttributeValue:
        if key == K8S_POD_NAME.name:
            return self.name
        if key == K8S_POD_UID.name and self.uid:
            return self.uid
        for part in (self.workload, self.node, self.asked):
            if key in part:
                return part[key]
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        yield K8S_POD_NAME.name
        if self.uid:
            yield K8S_POD_UID.name
        yield from self.workload
        yield from self.node
        yield from self.asked

    def __len__(self) -> int:
        return 1 + bool(self.uid) + len(self.workload) + len(self.node) + len(self.asked)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PodAttributes):
            return (
                self.uid == other.uid
                and self.name == other.name
                and self.workload == other.workload
                and self.node == other.node
                and self.asked == other.asked
            )
        return dict(self.items()) == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(dict(self.items()))


def workload_attributes(namespace: str, owner: tuple[str, str]) -> Attributes:
    return {
        K8S_NAMESPACE_NAME.name: namespace,
        K8S_OWNER_NAME.name: owner[0],
        K8S_OWNER_TYPE.name: owner[1],
        K8S_RESOURCE_TYPE.name: "pod",
    }


def asked_attributes(pod: Pod, hidden: str = "") -> Attributes:
    """Labels and annotations: the object holds only those that were asked for. `hidden` is an
    annotation that is only for us."""
    if not pod.meta.labels and not pod.meta.annotations:
        return NOTHING
    return {POD_LABEL + key: value for key, value in pod.meta.labels.items()} | {
        POD_ANNOTATION + key: value for key, value in pod.meta.annotations.items() if key != hidden
    }


def place_attributes(node: Node) -> Attributes:
    """What a pod has of the node it runs on."""
    attributes: dict[str, AttributeValue] = {K8S_NODE_NAME.name: node.meta.name}
    for attribute, labels in (
        (CLOUD_REGION, REGION_LABELS),
        (CLOUD_AVAILABILITY_ZONE, ZONE_LABELS),
    ):
        if value := first_label(node, labels):
            attributes[attribute.name] = value
    return attributes


def first_label(node: Node, keys: Iterable[str]) -> str:
    return next((node.meta.labels[key] for key in keys if node.meta.labels.get(key)), "")


def node_key(name: str) -> str:
    return f"node:{name}"


def node_endpoint(node: Node) -> Endpoint:
    return Endpoint(
        EndpointKind.NODE,
        node_key(node.meta.name),
        {
            **place_attributes(node),
            K8S_NODE_UID.name: node.meta.uid,
            K8S_RESOURCE_TYPE.name: "node",
        },
        addresses=node.addresses,
    )


def service_endpoint(service: Service) -> Endpoint:
    return Endpoint(
        EndpointKind.SERVICE,
        service.meta.uid,
        _service_attributes(service.meta.namespace, service.meta.name),
        addresses=tuple(dict.fromkeys(service.cluster_addresses + service.external_addresses)),
        valid=service_validity(service),
        node_ports=tuple(
            number << 16 | port.node_port
            for port in service.ports
            if port.node_port and (number := _PROTOCOLS.get(port.protocol)) is not None
        ),
    )


def api_server_endpoint(addresses: Iterable[str]) -> Endpoint:
    """The service `default/kubernetes`, with every address under which the API server is known."""
    return Endpoint(
        EndpointKind.SERVICE,
        API_SERVER_KEY,
        _service_attributes("default", "kubernetes"),
        addresses=tuple(dict.fromkeys(addresses)),
    )


def cidr_endpoint(name: str, network: str) -> Endpoint:
    return Endpoint(
        EndpointKind.CIDR,
        f"cidr:{network}",
        {CIDR.name: name, K8S_RESOURCE_TYPE.name: "cidr"},
        addresses=(network,),
    )


def _service_attributes(namespace: str, name: str) -> Attributes:
    return {
        K8S_NAMESPACE_NAME.name: namespace,
        K8S_SERVICE_NAME.name: name,
        K8S_RESOURCE_TYPE.name: "service",
    }
