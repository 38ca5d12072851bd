"""Reduced Kubernetes objects as blocks of compressed columns, and back.

A block holds objects of one class: `{"class": "Pod", "count": n, "columns": {...}}` as JSON in one
zstd frame; columns are named as the fields of `kubernetes.objects` and coded as `columns` says. A
column that is missing means the field's default and one that is not known is passed over, so that
either side may be newer. The reader gets shared strings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Any

import zstandard

from retina_otel.errors import RetinaError
from retina_otel.identity_service.columns import (
    BOOLEAN,
    INTEGERS,
    STRING,
    STRINGS,
    TIME,
    Type,
    decode,
    encode,
)
from retina_otel.kubernetes.objects import (
    EndpointSlice,
    Meta,
    Namespace,
    Node,
    Object,
    OwnerRef,
    Pod,
    RawMetricsConfiguration,
    Service,
    ServicePort,
    Workload,
)

MOST_BYTES = 16 << 20
"""Of one block's JSON: more is refused, so that a small message can't fill the memory."""
MOST_OBJECTS = 50_000

_MOST_SHARED = 1 << 15
_LEVEL = 6  # level 1 is five times as quick, and 6 % larger


class CodecError(RetinaError):
    """A block is not what this version reads."""

    def __init__(self, message: str) -> None:
        super().__init__(
            f"the identity service sent what can't be read: {message}",
            "Run the same version of retina-otel in the identity service and in the agents",
        )


def _owner_to_json(owner: OwnerRef) -> list[str]:
    return [owner.api_version, owner.kind, owner.name, owner.uid]


def _owner(value: Any) -> OwnerRef:
    api_version, kind, name, uid = value
    if not set(map(type, value)) <= {str}:
        raise ValueError("an owner is four strings")
    return _shared_owner(sys.intern(api_version), sys.intern(kind), name, uid)


@lru_cache(_MOST_SHARED)
def _shared_owner(api_version: str, kind: str, name: str, uid: str) -> OwnerRef:
    """One for all pods that it owns, in whichever block: agents keep it with each of them."""
    return OwnerRef(api_version, kind, name, uid)


def _ports_to_json(ports: Iterable[ServicePort]) -> list[list[str | int]]:
    return [[port.name, port.protocol, port.port, port.node_port] for port in ports]


def _ports(value: Any) -> tuple[ServicePort, ...]:
    ports = tuple(ServicePort(*one) for one in value)
    for port in ports:
        if [*map(type, (port.name, port.protocol, port.port, port.node_port))] != _PORT_TYPES:
            raise ValueError("a port is two strings and two integers")
    return ports


_PORT_TYPES = [str, str, int, int]
_OWNER = Type(OwnerRef, None, _owner_to_json, _owner)
_PORTS = Type(tuple, (), _ports_to_json, _ports)
_LABEL = Type(str, None)


@dataclass(frozen=True, slots=True)
class _Class:
    build: Callable[..., Object]
    columns: Mapping[str, Type]
    """In the order of the fields after `meta`."""


_META: Mapping[str, Type] = {
    "name": STRING,
    "uid": STRING,
    "resource_version": STRING,
    "namespace": STRING,
    "created_ns": TIME,
    "deletion_ns": TIME,
    "deletion_grace_ns": TIME,
    "owner": _OWNER,
}
_CLASSES: Mapping[str, _Class] = {
    "Pod": _Class(
        Pod,
        {
            "node": STRING,
            "host_network": BOOLEAN,
            "phase": STRING,
            "addresses": STRINGS,
            "node_addresses": STRINGS,
            "started_ns": TIME,
            "running_ns": TIME,
            "ended_ns": TIME,
            "containers": STRINGS,
        },
    ),
    "Service": _Class(
        Service,
        {
            "type": STRING,
            "cluster_addresses": STRINGS,
            "external_addresses": STRINGS,
            "ports": _PORTS,
        },
    ),
    "EndpointSlice": _Class(
        EndpointSlice, {"service": STRING, "addresses": STRINGS, "ports": INTEGERS}
    ),
    "Node": _Class(Node, {"addresses": STRINGS, "pod_networks": STRINGS, "provider_id": STRING}),
    "Namespace": _Class(Namespace, {}),
    "Workload": _Class(Workload, {"api_version": STRING, "kind": STRING}),
    "RawMetricsConfiguration": _Class(
        RawMetricsConfiguration, {"spec": STRING, "last_known_spec": STRING}
    ),
}


def encode_block(objects: Sequence[Object], *, without: Collection[str] = ()) -> bytes:
    """Objects of one class as a block; `without` names columns to leave out."""
    name = type(objects[0]).__name__
    columns: dict[str, Any] = {}
    for prefix, of in (("meta.", _META), ("", _CLASSES[name].columns)):
        for column, type_ in of.items():
            if column in without:
                continue
            coded = encode(list(map(attrgetter(prefix + column), objects)), type_)
            if coded is not None:
                columns[prefix + column] = coded
    for field in ("labels", "annotations"):
        maps = list(map(attrgetter(f"meta.{field}"), objects))
        for key in sorted({key for one in maps for key in one}):
            columns[f"meta.{field}.{key}"] = encode([one.get(key) for one in maps], _LABEL)
    block = {"class": name, "count": len(objects), "columns": columns}
    text = json.dumps(block, ensure_ascii=False, separators=(",", ":"))
    return zstandard.compress(text.encode("utf-8", "replace"), _LEVEL)


def decode_block(
    data: bytes, labels: Collection[str], annotations: Collection[str]
) -> list[Object]:
    """The objects of a block, with those labels and annotations only. Raises
    CodecError."""
    try:
        return _decode(_inflate(data), labels, annotations)
    except (ValueError, zstandard.ZstdError, RecursionError) as error:
        raise CodecError(str(error)) from error


def _inflate(data: bytes) -> Any:
    size = zstandard.frame_content_size(data)
    if not 0 <= size <= MOST_BYTES:
        raise ValueError(f"a block has at most {MOST_BYTES} bytes, this one says {size}")
    return json.loads(zstandard.decompress(data))


def _decode(block: Any, labels: Collection[str], annotations: Collection[str]) -> list[Object]:
    if type(block) is not dict or type(block.get("columns")) is not dict:
        raise ValueError("a block is an object with columns")
    name, count, columns = block.get("class"), block.get("count"), block["columns"]
    class_ = _CLASSES.get(name) if type(name) is str else None
    if class_ is None:
        return []
    if type(count) is not int or not 0 <= count <= MOST_OBJECTS:
        raise ValueError(f"a block has 0 to {MOST_OBJECTS} objects")
    metas = map(
        Meta,
        *(decode(columns.get(f"meta.{name}"), of, count) for name, of in _META.items()),
        _maps(columns, "meta.labels.", labels, count),
        _maps(columns, "meta.annotations.", annotations, count),
    )
    values = [decode(columns.get(name), of, count) for name, of in class_.columns.items()]
    # Constants have no end of their own: the metas do.
    bounded = [meta for meta, _ in zip(metas, range(count), strict=False)]
    return list(map(class_.build, bounded, *values))


_NOTHING: Mapping[str, str] = {}


def _maps(
    columns: dict[str, Any], prefix: str, wanted: Collection[str], count: int
) -> Iterable[Mapping[str, str]]:
    """One map for each object, the same one for all that have nothing."""
    by_key = [
        (key, decode(columns[prefix + key], _LABEL, count))
        for key in wanted
        if prefix + key in columns
    ]
    if not by_key:
        return repeat(_NOTHING, count)
    keys = [key for key, _ in by_key]
    return [
        {key: value for key, value in zip(keys, values, strict=True) if value is not None}
        or _NOTHING
        for values in zip(*(column for _, column in by_key), strict=True)
    ]
