"""What the agent knows of an address or a pod, and how."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind, EndpointTable


def identities(table: EndpointTable, about: Sequence[str], node: str) -> Iterator[dict[str, Any]]:
    """A line for each endpoint that is meant by `about`: addresses, or namespace/name of pods
    (either part may be left out). Nothing given: every pod."""
    present = table.index.present
    for row in np.flatnonzero(present).tolist():
        endpoint = table.endpoint(row)
        if about:
            found = [how for one in about if (how := _how(endpoint, one))]
            if not found:
                continue
        elif endpoint.kind is not EndpointKind.POD:
            continue
        else:
            found = [_local(endpoint)]
        yield {
            "node": node,
            "kind": endpoint.kind.name.lower(),
            "how": found[0],
            "addresses": list(endpoint.addresses),
            "interfaces": list(endpoint.interfaces),
            "netns": list(endpoint.netns),
            "attributes": dict(sorted(endpoint.attributes.items())),
        }


def _how(endpoint: Endpoint, wanted: str) -> str:
    """By what `wanted` means this endpoint; empty if it does not."""
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError:
        namespace, slash, name = wanted.rpartition("/")
        attributes = endpoint.attributes
        if slash and namespace and attributes.get("k8s.namespace.name") != namespace:
            return ""
        names = ("k8s.pod.name", "k8s.service.name", "k8s.node.name")
        own = next((str(attributes[key]) for key in names if key in attributes), "")
        return _local(endpoint) if name and own == name else ""
    if str(address) in endpoint.addresses:
        return "address" if not endpoint.interfaces else _local(endpoint)
    networks = [ipaddress.ip_network(text) for text in endpoint.addresses if "/" in text]
    return "network" if any(address in network for network in networks) else ""


def _local(endpoint: Endpoint) -> str:
    """The surest way in which this node tells it: an address can be anybody's."""
    if endpoint.interfaces:
        return "interface"
    if endpoint.netns:
        return "network namespace"
    return "address" if endpoint.addresses else "socket"
