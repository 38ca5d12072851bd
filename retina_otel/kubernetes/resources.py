"""The kinds of objects that are watched: where they are in the API, and how they are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from retina_otel.kubernetes.decode import Decoder
from retina_otel.kubernetes.objects import Kind, Object

_PROTOBUF = "application/vnd.kubernetes.protobuf"
_METADATA = "as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of objects, cluster-wide."""

    path: str
    """Of its collection: `/api/v1/pods`."""
    message: str
    """In `protobuf`; its list's name has `List` behind."""
    decode: Callable[[Decoder, Any], Object]

    @property
    def plural(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def list_accept(self) -> str:
        if self.message == "PartialObjectMetadata":
            return f"{_PROTOBUF};{_METADATA.format('List')}"
        return _PROTOBUF

    @property
    def watch_accept(self) -> str:
        if self.message == "PartialObjectMetadata":
            return f"{_PROTOBUF};stream=watch;{_METADATA.format('')}"
        return f"{_PROTOBUF};stream=watch"


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
