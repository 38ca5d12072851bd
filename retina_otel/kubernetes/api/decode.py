"""From a decoded protobuf message to a reduced object, one function for each kind.

Strings that many objects share (node, namespace, owner) are kept once, because tens of thousands of
objects stay in memory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from retina_otel.kubernetes.objects import (
    EndpointSlice,
    Meta,
    Namespace,
    Node,
    OwnerRef,
    Pod,
    Service,
    ServicePort,
    Workload,
)

_S = 1_000_000_000
_NOTHING: Mapping[str, str] = MappingProxyType({})
_MOST_SHARED = 100_000
"""Shared mappings and owners are forgotten beyond this: values may be unique to each object."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of an object is kept beside what every agent needs."""

    label_keys: frozenset[str] = frozenset()
    annotation_keys: frozenset[str] = frozenset()
    containers_of_node: str | None = None
    """Ids of containers are kept for pods of this node only; None: for all pods."""


@dataclass(slots=True)
class Decoder:
    """Turns messages into objects. Each watcher has its own: it is not for many threads."""

    wanted: Wanted = field(default_factory=Wanted)
    _owners: dict[str, OwnerRef] = field(default_factory=dict)
    _mappings: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = field(default_factory=dict)

    def pod(self, message: Any) -> Pod:
        spec, status = message.spec, message.status
        node = sys.intern(spec.node)
        phase = sys.intern(status.phase)
        addresses = tuple([one.ip for one in status.pod_ips])
        if not addresses and status.pod_ip:
            addresses = (status.pod_ip,)
        hosts = tuple([sys.intern(one.ip) for one in status.host_ips])
        if not hosts and status.host_ip:
            hosts = (sys.intern(status.host_ip),)
        ended = phase in {"Succeeded", "Failed"}
        running_ns = ended_ns = 0
        ids: list[str] = []
        keep_ids = self.wanted.containers_of_node in (None, node)
        for statuses in (status.init_containers, status.containers, status.ephemeral_containers):
            for one in statuses:
                if keep_ids and one.id:
                    ids.append(one.id.rpartition("//")[2])
                started_s = one.state.running.started.seconds
                if ended:
                    started_s = started_s or one.state.terminated.started.seconds
                    ended_ns = max(ended_ns, one.state.terminated.finished.seconds * _S)
                if started_s:
                    started_ns = (started_s + 1) * _S
                    running_ns = min(running_ns, started_ns) if running_ns else started_ns
        return Pod(
            self.meta(message.metadata),
            node,
            spec.host_network,
            phase,
            addresses,
            hosts,
            status.start.seconds * _S,
            running_ns,
            ended_ns,
            tuple(ids),
        )

    def service(self, message: Any) -> Service:
        spec = message.spec
        cluster = tuple(spec.cluster_ips) or (spec.cluster_ip,)
        external = [*spec.external_ips, *(one.ip for one in message.status.load_balancer.ingress)]
        return Service(
            self.meta(message.metadata),
            sys.intern(spec.type or "ClusterIP"),
            tuple(one for one in cluster if one not in {"", "None"}),
            tuple(dict.fromkeys(one for one in external if one)),
            tuple(
                ServicePort(
                    sys.intern(one.name),
                    sys.intern(one.protocol or "TCP"),
                    one.port,
                    one.node_port,
                )
                for one in spec.ports
            ),
        )

    def endpoint_slice(self, message: Any) -> EndpointSlice:
        return EndpointSlice(
            self.meta(message.metadata),
            message.metadata.labels.get("kubernetes.io/service-name", ""),
            tuple(address for one in message.endpoints for address in one.addresses),
            tuple(one.port for one in message.ports if one.port),
        )

    def node(self, message: Any) -> Node:
        spec = message.spec
        networks = tuple(spec.pod_cidrs) or ((spec.pod_cidr,) if spec.pod_cidr else ())
        return Node(
            self.meta(message.metadata),
            tuple(
                dict.fromkeys(
                    one.address
                    for one in message.status.addresses
                    if one.type in {"InternalIP", "ExternalIP"}
                )
            ),
            networks,
            spec.provider_id,
        )

    def namespace(self, message: Any) -> Namespace:
        return Namespace(self.meta(message.metadata))

    def workload(self, message: Any, api_version: str, kind: str) -> Workload:
        return Workload(self.meta(message.metadata), api_version, kind)

    def meta(self, message: Any) -> Meta:
        wanted = self.wanted
        return Meta(
            message.name,
            message.uid,
            message.resource_version,
            sys.intern(message.namespace),
            message.created.seconds * _S,
            message.deletion.seconds * _S,
            message.deletion_grace * _S,
            self._owner(message),
            self.chosen(message.labels, wanted.label_keys) if wanted.label_keys else _NOTHING,
            self.chosen(message.annotations, wanted.annotation_keys)
            if wanted.annotation_keys
            else _NOTHING,
        )

    def _owner(self, message: Any) -> OwnerRef | None:
        for one in message.owners:
            if one.controller:
                known = self._owners.get(one.uid)
                if known is None:
                    if len(self._owners) >= _MOST_SHARED:
                        self._owners.clear()
                    known = OwnerRef(
                        sys.intern(one.api_version), sys.intern(one.kind), one.name, one.uid
                    )
                    self._owners[one.uid] = known
                return known
        return None

    def chosen(self, all_of_them: Any, keys: frozenset[str]) -> Mapping[str, str]:
        """Those of labels or annotations that have one of `keys`; equal ones are one object."""
        pairs = tuple([(key, all_of_them[key]) for key in keys if key in all_of_them])
        if not pairs:
            return _NOTHING
        known = self._mappings.get(pairs)
        if known is None:
            if len(self._mappings) >= _MOST_SHARED:
                self._mappings.clear()
            known = self._mappings[pairs] = MappingProxyType(dict(pairs))
        return known
