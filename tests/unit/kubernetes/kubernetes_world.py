"""Kubernetes objects for tests, and a table that takes an inventory's changes as they come."""

from __future__ import annotations

from collections.abc import Iterable

from retina_otel.kubernetes.inventory.changes import InventoryChange
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
from retina_otel.pipeline.identity.endpoints import Endpoint

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND
ZONE = "topology.kubernetes.io/zone"
REGION = "topology.kubernetes.io/region"


def owner(kind: str, name: str, api_version: str = "apps/v1") -> OwnerRef:
    return OwnerRef(api_version, kind, name, f"{kind.lower()}-{name}")


def meta(name: str, namespace: str = "", uid: str = "", **more: object) -> Meta:
    return Meta(name, uid or f"uid-{namespace}-{name}", "1", namespace, **more)  # type: ignore[arg-type]


def pod(
    name: str,
    *addresses: str,
    node: str = "node-a",
    owned: OwnerRef | None = None,
    uid: str = "",
    namespace: str = "shop",
    started: int = 0,
    running: int = 0,
    ended: int = 0,
    phase: str = "Running",
    deleted: int = 0,
    grace: int = 30,
    host_network: bool = False,
    containers: tuple[str, ...] = (),
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> Pod:
    """Times are in seconds after T0; 0 is not set. `deleted` is when it was asked for."""

    def at(seconds: int) -> int:
        return T0 + seconds * SECOND if seconds else 0

    return Pod(
        meta(
            name,
            namespace,
            uid or f"uid-{name}",
            owner=owned,
            labels=labels or {},
            annotations=annotations or {},
            deletion_ns=at(deleted + grace) if deleted else 0,
            deletion_grace_ns=grace * SECOND if deleted else 0,
        ),
        node=node,
        host_network=host_network,
        phase=phase,
        addresses=addresses,
        started_ns=at(started),
        running_ns=at(running),
        ended_ns=at(ended),
        containers=containers,
    )


def workload(
    kind: str, name: str, owned: OwnerRef | None, api_version: str = "apps/v1"
) -> Workload:
    ref = owner(kind, name, api_version)
    return Workload(meta(name, "shop", ref.uid, owner=owned), api_version, kind)


def node(name: str, *addresses: str, zone: str = "", region: str = "", uid: str = "") -> Node:
    labels = {key: value for key, value in ((ZONE, zone), (REGION, region)) if value}
    return Node(meta(name, uid=uid or f"uid-{name}", labels=labels), addresses)


def service(
    name: str,
    *addresses: str,
    namespace: str = "shop",
    node_port: int = 0,
    uid: str = "",
    created: int = 0,
) -> Service:
    """`created` is in seconds after T0."""
    ports = (ServicePort("", "TCP", 80, node_port),) if node_port else ()
    created_ns = T0 + created * SECOND if created else 0
    made = meta(name, namespace, uid, created_ns=created_ns)
    return Service(made, "ClusterIP", addresses, (), ports)


def endpoint_slice(of: str, *addresses: str, namespace: str = "default") -> EndpointSlice:
    return EndpointSlice(meta(f"{of}-1", namespace), of, addresses)


def namespace(name: str, **annotations: str) -> Namespace:
    return Namespace(meta(name, annotations=annotations))


class Told:
    """What an inventory's changes come to."""

    def __init__(self, *changes: InventoryChange) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.last_words: dict[str, Endpoint] = {}
        for change in changes:
            self.take(change)

    def take(self, change: InventoryChange) -> None:
        for endpoint in change.added:
            self.endpoints[endpoint.key] = endpoint
        for key in change.removed:
            self.last_words[key] = self.endpoints.pop(key)

    def attributes(self, key: str) -> dict[str, object]:
        return dict(self.endpoints[key].attributes)

    def addresses(self) -> dict[str, list[str]]:
        return {key: list(one.addresses) for key, one in self.endpoints.items()}


def seconds(times: Iterable[int]) -> list[float]:
    """After T0, so that tests can say what they mean."""
    return [(time - T0) / SECOND for time in times]
