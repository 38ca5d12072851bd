"""Kubernetes' protobuf wire format, reduced to the fields that `objects` has, decoded by upb.

The descriptors are built at run time from the table below, so that neither generated code nor the
official client's models are loaded. Field numbers are those of the public API (`generated.proto` of
k8s.io/api and k8s.io/apimachinery): they never change. What is not in the table is skipped.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from retina_otel.errors import RetinaError

MAGIC = b"k8s\x00"
"""In front of each object: what follows is a runtime.Unknown."""

# message -> fields as "name number type", a `*` behind the type for repeated ones. `map` is a map
# of strings to strings.
_MESSAGES: dict[str, tuple[str, ...]] = {
    # k8s.io/apimachinery runtime and meta/v1
    "Unknown": ("type 1 TypeMeta", "raw 2 bytes"),
    "TypeMeta": ("api_version 1 string", "kind 2 string"),
    "RawExtension": ("raw 1 bytes",),
    "WatchEvent": ("type 1 string", "object 2 RawExtension"),
    "Time": ("seconds 1 int64",),
    "OwnerReference": (
        "kind 1 string", "name 3 string", "uid 4 string", "api_version 5 string",
        "controller 6 bool",
    ),
    "ObjectMeta": (
        "name 1 string", "namespace 3 string", "uid 5 string", "resource_version 6 string",
        "created 8 Time", "deletion 9 Time", "deletion_grace 10 int64", "labels 11 map",
        "annotations 12 map", "owners 13 OwnerReference*",
    ),
    "ListMeta": ("resource_version 2 string", "continue_token 3 string"),
    "StatusDetails": ("retry_after_seconds 5 int32",),
    "Status": (
        "status 2 string", "message 3 string", "reason 4 string", "details 5 StatusDetails",
        "code 6 int32",
    ),
    "PartialObjectMetadata": ("metadata 1 ObjectMeta",),
    # k8s.io/api core/v1
    "Pod": ("metadata 1 ObjectMeta", "spec 2 PodSpec", "status 3 PodStatus"),
    "PodSpec": ("node 10 string", "host_network 11 bool"),
    "PodStatus": (
        "phase 1 string", "host_ip 5 string", "pod_ip 6 string", "start 7 Time",
        "containers 8 ContainerStatus*", "init_containers 10 ContainerStatus*",
        "pod_ips 12 Address*", "ephemeral_containers 13 ContainerStatus*", "host_ips 16 Address*",
    ),
    "Address": ("ip 1 string",),
    "ContainerStatus": ("state 2 ContainerState", "id 8 string"),
    "ContainerState": ("running 2 ContainerRunning", "terminated 3 ContainerTerminated"),
    "ContainerRunning": ("started 1 Time",),
    "ContainerTerminated": ("started 5 Time", "finished 6 Time"),
    "Service": ("metadata 1 ObjectMeta", "spec 2 ServiceSpec", "status 3 ServiceStatus"),
    "ServiceSpec": (
        "ports 1 ServicePort*", "cluster_ip 3 string", "type 4 string", "external_ips 5 string*",
        "cluster_ips 18 string*",
    ),
    "ServicePort": (
        "name 1 string", "protocol 2 string", "port 3 int32", "node_port 5 int32",
    ),
    "ServiceStatus": ("load_balancer 1 LoadBalancer",),
    "LoadBalancer": ("ingress 1 Address*",),
    "Node": ("metadata 1 ObjectMeta", "spec 2 NodeSpec", "status 3 NodeStatus"),
    "NodeSpec": ("pod_cidr 1 string", "provider_id 3 string", "pod_cidrs 7 string*"),
    "NodeStatus": ("addresses 5 NodeAddress*",),
    "NodeAddress": ("type 1 string", "address 2 string"),
    "Namespace": ("metadata 1 ObjectMeta",),
    # k8s.io/api discovery/v1
    "EndpointSlice": (
        "metadata 1 ObjectMeta", "endpoints 2 SliceEndpoint*", "ports 3 EndpointPort*",
    ),
    "SliceEndpoint": ("addresses 1 string*",),
    "EndpointPort": ("port 3 int32",),
}  # fmt: skip
_LISTED = ("Pod", "Service", "Node", "Namespace", "EndpointSlice", "PartialObjectMetadata")

_PACKAGE = "retina_otel.kubernetes"
_FieldType = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _FieldType.TYPE_STRING,
    "bytes": _FieldType.TYPE_BYTES,
    "bool": _FieldType.TYPE_BOOL,
    "int32": _FieldType.TYPE_INT32,
    "int64": _FieldType.TYPE_INT64,
}


class WireError(RetinaError):
    """Bytes that are no object of the kind that was asked for."""


@cache
def message_class(name: str) -> Any:
    """The class of a message of the table, or of `<name>List` for those that are listed."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


def parse(name: str, data: bytes) -> Any:
    """Raises WireError."""
    try:
        return message_class(name).FromString(data)
    except DecodeError as error:
        raise _unreadable(name) from error


def unwrap(data: bytes) -> tuple[str, bytes]:
    """The kind and the bytes of an object in its envelope. Raises WireError."""
    if data[: len(MAGIC)] != MAGIC:
        raise _unreadable("object")
    envelope = parse("Unknown", data[len(MAGIC) :])
    return envelope.type.kind, envelope.raw


def _unreadable(what: str) -> WireError:
    return WireError(
        f"The API server sent {what} that is no Kubernetes protobuf",
        "Look for a proxy between the agent and the API server that changes content",
    )


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    # proto2, as the API's own: whether a field is there can be asked.
    file = descriptor_pb2.FileDescriptorProto(
        name="retina_otel/kubernetes.proto", package=_PACKAGE, syntax="proto2"
    )
    lists = {f"{name}List": ("metadata 1 ListMeta", f"items 2 {name}*") for name in _LISTED}
    for name, fields in (_MESSAGES | lists).items():
        message = file.message_type.add(name=name)
        for text in fields:
            _add_field(message, *text.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add_field(
    message: descriptor_pb2.DescriptorProto, name: str, number: str, type_name: str
) -> None:
    repeated = type_name.endswith("*") or type_name == "map"
    type_name = type_name.rstrip("*")
    field = message.field.add(
        name=name,
        number=int(number),
        label=_FieldType.LABEL_REPEATED if repeated else _FieldType.LABEL_OPTIONAL,
    )
    if type_name in _SCALARS:
        field.type = _SCALARS[type_name]
        return
    field.type = _FieldType.TYPE_MESSAGE
    if type_name == "map":
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", "1", "string")
        _add_field(entry, "value", "2", "string")
        type_name = f"{message.name}.{entry.name}"
    field.type_name = f".{_PACKAGE}.{type_name}"
