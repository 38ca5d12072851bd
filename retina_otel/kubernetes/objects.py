"""Kubernetes objects, reduced to what identity needs. Frozen: a change is another object.

Times are ns of wall time since 1970; 0 stands for a time that is not set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """What is listed and watched, each on its own."""

    POD = "pods"
    SERVICE = "services"
    ENDPOINT_SLICE = "endpointslices"
    NODE = "nodes"
    NAMESPACE = "namespaces"
    REPLICA_SET = "replicasets"
    JOB = "jobs"
    OWNER = "owners"
    """Workloads of any other kind, read one by one as they are met."""
    METRICS_CONFIGURATION = "metricsconfigurations"
    RETINA_ENDPOINT = "retinaendpoints"
    """Retina's copies of pods, as `Pod`."""


@dataclass(frozen=True, slots=True)
class OwnerRef:
    """The controller that an object belongs to."""

    api_version: str
    kind: str
    name: str
    uid: str
    """Empty where a RetinaEndpoint says it, which tells names only."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What every object has. Labels and annotations hold only the keys that were asked for.

    Two states of an object are equal when all that is kept of them is: a heartbeat changes its
    resource version and nothing else.
    """

    name: str
    uid: str
    resource_version: str = field(compare=False)
    namespace: str = ""
    created_ns: int = 0
    deletion_ns: int = 0
    """deletionTimestamp: when it was asked to go plus its grace period."""
    deletion_grace_ns: int = 0
    owner: OwnerRef | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pod:
    meta: Meta
    node: str = ""
    host_network: bool = False
    phase: str = ""
    addresses: tuple[str, ...] = ()
    """status.podIPs."""
    node_addresses: tuple[str, ...] = ()
    """status.hostIPs."""
    started_ns: int = 0
    """status.startTime: the kubelet has seen it; it has no address yet."""
    running_ns: int = 0
    """The first container's start: it surely has its addresses by then. Whole seconds, rounded
    up."""
    ended_ns: int = 0
    """All containers have ended; set only in phase Succeeded or Failed. Whole seconds, rounded
    down."""
    containers: tuple[str, ...] = ()
    """Ids of its containers, without `containerd://`."""


@dataclass(frozen=True, slots=True)
class ServicePort:
    name: str
    protocol: str  # "TCP", "UDP", "SCTP"
    port: int
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    meta: Meta
    type: str = "ClusterIP"
    cluster_addresses: tuple[str, ...] = ()
    """clusterIPs, without "None"."""
    external_addresses: tuple[str, ...] = ()
    """externalIPs and those of load balancers."""
    ports: tuple[ServicePort, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    meta: Meta
    service: str
    """The label kubernetes.io/service-name; of the same namespace."""
    addresses: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    meta: Meta
    addresses: tuple[str, ...] = ()
    """InternalIP and ExternalIP."""
    pod_networks: tuple[str, ...] = ()
    provider_id: str = ""


@dataclass(frozen=True, slots=True)
class Namespace:
    meta: Meta


@dataclass(frozen=True, slots=True)
class Workload:
    """A ReplicaSet, Job or any other owner, of which only metadata is read."""

    meta: Meta
    api_version: str
    kind: str


@dataclass(frozen=True, slots=True)
class RawMetricsConfiguration:
    """A MetricsConfiguration as it came: whoever uses it reads and checks it."""

    meta: Meta
    spec: str = ""
    """JSON; empty where there is none."""
    last_known_spec: str = ""
    """JSON of `status.lastKnownSpec`; empty where there is none."""


Object = Pod | Service | EndpointSlice | Node | Namespace | Workload | RawMetricsConfiguration
