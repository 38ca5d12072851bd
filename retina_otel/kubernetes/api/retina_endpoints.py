"""RetinaEndpoints (`retina.sh/v1alpha1`), which Retina's operator keeps, one for each pod: read as
the pods they stand for.

They tell less: no uid of the pod, no node's name, nothing of its times and of who controls whom by
uid. Their own times are the copy's, so only its creation is taken: the pod had its address by then.
Nothing checks what stands in them, so what is no address is left out.
"""

from __future__ import annotations

import ipaddress
import sys
from datetime import datetime
from typing import Any

from retina_otel.kubernetes.api.decode import Decoder
from retina_otel.kubernetes.api.wire import Document, text, texts
from retina_otel.kubernetes.objects import Meta, OwnerRef, Pod

_S = 1_000_000_000
_MOST_ADDRESSES = 16


def read_retina_endpoint(decoder: Decoder, message: Document) -> Pod:
    """The uid is the RetinaEndpoint's own, the owner has none."""
    meta, spec = _mapping(message.fields.get("metadata")), _mapping(message.fields.get("spec"))
    given = spec.get("podIPs")
    addresses = _addresses(given if isinstance(given, list) and given else [spec.get("podIP")])
    node_addresses = _addresses([spec.get("nodeIP")])
    wanted = decoder.wanted
    return Pod(
        Meta(
            text(meta.get("name")),
            text(meta.get("uid")),
            message.metadata.resource_version,
            sys.intern(text(meta.get("namespace"))),
            _time_ns(meta.get("creationTimestamp")),
            owner=_owner(spec.get("ownerReferences")),
            labels=decoder.chosen(texts(spec.get("labels")), wanted.label_keys),
            annotations=decoder.chosen(texts(spec.get("annotations")), wanted.annotation_keys),
        ),
        # On the host's network a pod has its node's addresses.
        host_network=any(one in addresses for one in node_addresses),
        addresses=addresses,
        node_addresses=node_addresses,
    )


def _owner(references: object) -> OwnerRef | None:
    first = _mapping(references[0]) if isinstance(references, list) and references else {}
    kind, name = text(first.get("kind")), text(first.get("name"))
    if not (kind and name):
        return None
    return OwnerRef(
        sys.intern(text(first.get("apiVersion"))), sys.intern(kind), sys.intern(name), ""
    )


def _addresses(given: list[Any]) -> tuple[str, ...]:
    found = []
    for one in given[:_MOST_ADDRESSES]:
        try:
            found.append(sys.intern(str(ipaddress.ip_address(text(one)))))
        except ValueError:
            continue
    return tuple(found)


def _time_ns(value: object) -> int:
    try:
        return int(datetime.fromisoformat(text(value)).timestamp()) * _S
    except ValueError:
        return 0


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
