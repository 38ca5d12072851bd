"""The kinds of objects that are watched: where they are in the API, and how they are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from retina_otel.kubernetes.api.decode import Decoder
from retina_otel.kubernetes.api.retina_endpoints import read_retina_endpoint
from retina_otel.kubernetes.api.wire import Json, Page, Protobuf, Wire
from retina_otel.kubernetes.objects import Kind, Object


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of objects, cluster-wide."""

    path: str
    """Of its collection: `/api/v1/pods`."""
    message: str
    """In `protobuf`; its list's name has `List` behind. Of no meaning in JSON."""
    decode: Callable[[Decoder, Any], Object]
    wire: Wire = field(default_factory=Protobuf)

    @property
    def plural(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def list_accept(self) -> str:
        return self.wire.accept(self.message, watch=False)

    @property
    def watch_accept(self) -> str:
        return self.wire.accept(self.message, watch=True)

    def page(self, body: bytes) -> Page:
        """Raises WireError."""
        return self.wire.page(self.message, body)


def metadata_of(group: str, version: str, plural: str, kind: str) -> Resource:
    """Objects of which only metadata is read: owners, also of kinds that a CRD defines."""
    api_version = f"{group}/{version}" if group else version
    return Resource(
        f"/apis/{api_version}/{plural}" if group else f"/api/{version}/{plural}",
        "PartialObjectMetadata",
        lambda decoder, message: decoder.workload(message, api_version, kind),
    )


RESOURCES: Mapping[Kind, Resource] = {
    Kind.POD: Resource("/api/v1/pods", "Pod", Decoder.pod),
    Kind.SERVICE: Resource("/api/v1/services", "Service", Decoder.service),
    Kind.ENDPOINT_SLICE: Resource(
        "/apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice", Decoder.endpoint_slice
    ),
    Kind.NODE: Resource("/api/v1/nodes", "Node", Decoder.node),
    Kind.NAMESPACE: Resource("/api/v1/namespaces", "Namespace", Decoder.namespace),
    Kind.REPLICA_SET: metadata_of("apps", "v1", "replicasets", "ReplicaSet"),
    Kind.JOB: metadata_of("batch", "v1", "jobs", "Job"),
}
"""What every cluster has."""

RETINA_ENDPOINTS = Resource(
    "/apis/retina.sh/v1alpha1/retinaendpoints", "", read_retina_endpoint, Json()
)
