"""What is known without any identity extension: the node itself, and the world outside.

The node is whoever owns the network namespace in which the agent runs: its interfaces but for the
node's ends of pods' wires, and their addresses. Kept up to date as interfaces come and go.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping

from retina_otel.component import Context
from retina_otel.model.attributes import (
    CLOUD_AVAILABILITY_ZONE,
    CLOUD_REGION,
    K8S_NODE_NAME,
    K8S_NODE_UID,
    K8S_RESOURCE_TYPE,
)
from retina_otel.model.batches import AttributeValue
from retina_otel.model.interfaces import Change, ChangeKind, Interface
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind

SOURCE = "node"
"""Under which name the row is kept in the EndpointTable."""

WORLD = Endpoint(EndpointKind.WORLD, "world", {K8S_RESOURCE_TYPE.name: "world"})
"""Every public address that nothing else claims."""


def belongs_to_node(interface: Interface) -> bool:
    """False for the node's end of a wire into another namespace, unless it is the way outside."""
    return interface.peer_netnsid < 0 or interface.default_route


def node_attributes(name: str, uid: str = "") -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        K8S_NODE_NAME.name: name,
        K8S_RESOURCE_TYPE.name: "node",
    }
    if uid:
        attributes[K8S_NODE_UID.name] = uid
    return attributes


def routable(addresses: Iterable[str]) -> tuple[str, ...]:
    """Without prefix lengths, and without those that mean another host in every namespace."""
    found: dict[str, None] = {}
    for text in addresses:
        address = ipaddress.ip_interface(text).ip
        if not (address.is_loopback or address.is_link_local or address.is_unspecified):
            found[str(address)] = None
    return tuple(found)


def node_key(name: str, uid: str = "") -> str:
    return f"node:{uid or name}"


def local_node(
    name: str,
    uid: str,
    interfaces: Iterable[Interface],
    addresses: Iterable[str] = (),
    place: Mapping[str, AttributeValue] | None = None,
) -> Endpoint:
    """The node that owns this network namespace, of whose `interfaces` some may be pods'. `place`
    are attributes beside its name."""
    own = [interface for interface in interfaces if belongs_to_node(interface)]
    found = [address for interface in own for address in interface.addresses]
    return Endpoint(
        kind=EndpointKind.NODE,
        key=node_key(name, uid),
        attributes={**node_attributes(name, uid), **(place or {})},
        addresses=routable([*found, *addresses]),
        interfaces=tuple(interface.ifindex for interface in own),
        netns=(os.stat("/proc/thread-self/ns/net").st_ino,),
    )


class NodeIdentity:
    """Runs in every agent. `start()` and the interface registry's calls are on the tick thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._resource: Mapping[str, AttributeValue] = context.resource
        self._interfaces: dict[int, Interface] = {}
        self._started = False
        self._published: Endpoint | None = None

    def start(self) -> None:
        self._context.interfaces.subscribe(self._changed)
        self._started = True
        self._publish()

    def stop(self) -> None:
        """The row stays: what is drained last still belongs to the node."""
        self._context.interfaces.unsubscribe(self._changed)
        self._started = False

    def learn(self, resource: Mapping[str, AttributeValue]) -> None:
        """What the agent's resource has become: more may be known of the node."""
        self._resource = resource
        if self._started:
            self._publish()

    def _changed(self, change: Change) -> None:
        interface = change.interface
        if change.kind is not ChangeKind.REMOVED and belongs_to_node(interface):
            self._interfaces[interface.ifindex] = interface
        elif self._interfaces.pop(interface.ifindex, None) is None:
            return
        if self._started:
            self._publish()

    def _publish(self) -> None:
        resource = self._resource
        name = str(
            resource.get(K8S_NODE_NAME.name) or resource.get("host.name") or socket.gethostname()
        )
        uid = str(resource.get(K8S_NODE_UID.name, ""))
        place = {
            attribute.name: resource[attribute.name]
            for attribute in (CLOUD_REGION, CLOUD_AVAILABILITY_ZONE)
            if attribute.name in resource
        }
        endpoint = local_node(name, uid, self._interfaces.values(), place=place)
        if endpoint != self._published:
            self._published = endpoint
            self._context.identity.update([endpoint, WORLD], source=SOURCE)
