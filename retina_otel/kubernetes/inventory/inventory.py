"""Inventory: who is who, by the Kubernetes objects there are. Pure: no I/O and no clock.

Objects come in any order, from whichever source; what they come to is the same. Each change tells
which endpoints have become what. Not for several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from retina_otel.kubernetes.inventory.changes import Changes, InventoryChange
from retina_otel.kubernetes.inventory.elsewhere import Elsewhere
from retina_otel.kubernetes.inventory.endpoints import (
    NOTHING,
    Attributes,
    PodAttributes,
    asked_attributes,
    cidr_endpoint,
    node_endpoint,
    node_key,
    place_attributes,
    workload_attributes,
)
from retina_otel.kubernetes.inventory.local import LocalEnd, LocalPod
from retina_otel.kubernetes.inventory.owners import Missing, Owners
from retina_otel.kubernetes.inventory.services import Services
from retina_otel.kubernetes.inventory.times import TERMINAL_PHASES, ended, validity
from retina_otel.kubernetes.metrics_configuration.observed import ANNOTATION, asks_for_observation
from retina_otel.kubernetes.objects import (
    EndpointSlice,
    Kind,
    Namespace,
    Node,
    Object,
    OwnerRef,
    Pod,
    Service,
    Workload,
)
from retina_otel.model.attributes import K8S_NAMESPACE_NAME, K8S_NODE_NAME
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind

_SHARED_BEFORE_SWEEP = 4096

AnyObject = TypeVar("AnyObject")


@dataclass(slots=True)
class _Pod:
    endpoint: Endpoint
    owner: OwnerRef | None
    observe: bool = False
    host_network: bool = False
    published: bool = False


class Inventory:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        node_name: str = "",
        cidrs: Mapping[str, str] | None = None,
        api_server: Iterable[str] = (),
        observe_annotated: bool = False,
        retina_endpoints: bool = False,
    ) -> None:
        """`node_name` is the node whose pods are local; `cidrs` are networks by name; `api_server`
        are addresses of the API server that are known from elsewhere. `observe_annotated`: Retina's
        annotation on pods and namespaces is heeded; it is no attribute then.
        `retina_endpoints`: RetinaEndpoints will come, and pods of this node only."""
        self._node_name = node_name
        self._observe_annotated = observe_annotated
        self._services = Services(tuple(api_server))
        self._named = [cidr_endpoint(name, network) for name, network in (cidrs or {}).items()]
        self._owners = Owners()
        self._pods: dict[str, _Pod] = {}
        self._finished: set[str] = set()
        self._local: dict[str, None] = {}
        self._local_ends: Mapping[str, LocalEnd] = {}
        self._pods_listed = False
        self._nodes: dict[str, Node] = {}
        self._places: dict[str, Attributes] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._shared: dict[tuple[str, str, str], Attributes] = {}
        self._elsewhere = Elsewhere(node_name, self._describe) if retina_endpoints else None

    def __len__(self) -> int:
        """How many pods are known."""
        return len(self._pods) + (len(self._elsewhere) if self._elsewhere else 0)

    @property
    def missing_owners(self) -> Mapping[str, Missing]:
        """Owners whose own owner is not known, by uid: once it is, `apply` it."""
        return self._owners.missing

    @property
    def own_node(self) -> Node | None:
        return self._nodes.get(self._node_name)

    @property
    def observed_pods(self) -> frozenset[str]:
        """UIDs of the pods whose annotations ask for it."""
        return frozenset(uid for uid, pod in self._pods.items() if pod.observe)

    @property
    def observed_namespaces(self) -> frozenset[str]:
        """Names of the namespaces whose annotations ask for it."""
        return frozenset(
            name
            for name, known in self._namespaces.items()
            if self._observe_annotated and asks_for_observation(known.meta.annotations)
        )

    @property
    def finished(self) -> frozenset[str]:
        """UIDs of pods that will not run again and whose objects are there, as Jobs keep them."""
        return frozenset(self._finished)

    def local_pods(self) -> Iterator[LocalPod]:
        """The pods of this node."""
        for uid in self._local:
            pod = self._pods[uid]
            yield LocalPod(
                uid, tuple(pod.endpoint.aliases), tuple(pod.endpoint.addresses), pod.host_network
            )

    def start(self) -> InventoryChange:
        """What is known before anything has been heard."""
        changes = Changes()
        for endpoint in self._named:
            changes.put(endpoint)
        self._services.tell_api_server(changes)
        return changes.done()

    def apply(
        self,
        kind: Kind,
        upserts: Iterable[Object],
        deletes: Iterable[Object],
        now_ns: int,
        full: bool = False,
        *,
        listed: frozenset[str] | None = None,
    ) -> InventoryChange:
        """Takes in what is new of one kind, heard at `now_ns`. What is in both is gone. `full`: all
        that there are have the uids `listed`; None: they are `upserts`."""
        changes = Changes()
        if full and listed is None:
            upserts = list(upserts)
            listed = frozenset(one.meta.uid for one in upserts)
        there = listed if full else None
        if kind is Kind.POD:
            self._apply_pods(_of(Pod, upserts), _of(Pod, deletes), now_ns, there, changes)
        elif kind is Kind.RETINA_ENDPOINT and self._elsewhere is not None:
            pods = _of(Pod, upserts), _of(Pod, deletes)
            self._elsewhere.apply(*pods, now_ns, there, changes)
        elif kind is Kind.NODE:
            self._apply_nodes(_of(Node, upserts), _of(Node, deletes), there, changes)
        elif kind is Kind.SERVICE:
            self._services.apply(_of(Service, upserts), _of(Service, deletes), there, changes)
        elif kind is Kind.ENDPOINT_SLICE:
            slices = _of(EndpointSlice, upserts), _of(EndpointSlice, deletes)
            self._services.apply_slices(*slices, there, changes)
        elif kind is Kind.NAMESPACE:
            self._apply_namespaces(_of(Namespace, upserts), _of(Namespace, deletes), there)
        else:
            workloads = _of(Workload, upserts), _of(Workload, deletes)
            self._apply_workloads(kind, *workloads, there, changes)
        return changes.done()

    def _apply_workloads(
        self,
        kind: Kind,
        upserts: list[Workload],
        deletes: list[Workload],
        there: frozenset[str] | None,
        changes: Changes,
    ) -> None:
        owners = self._owners
        if changed := owners.apply(kind, upserts, deletes, there):
            self._refresh(
                lambda pod: pod.owner is not None and owners.leads_through(pod.owner, changed),
                changes,
            )
            if self._elsewhere is not None:
                self._elsewhere.refresh(changes)
        if self._elsewhere is not None:
            self._elsewhere.know_owners(upserts, deletes, changes)
        if self._owners.sweep_due():
            used = [pod.owner for pod in self._pods.values() if pod.owner]
            if self._elsewhere is not None:
                used += self._elsewhere.owners()
            self._owners.sweep(used)

    def bind(self, ends: Mapping[str, LocalEnd]) -> InventoryChange:
        """Says where the pods of this node live, by uid; in place of what was said before."""
        before, self._local_ends = self._local_ends, ends
        changes = Changes()
        for uid in before.keys() | ends.keys():
            end = ends.get(uid, LocalEnd())
            pod = self._pods.get(uid)
            if pod is not None and before.get(uid, LocalEnd()) != end:
                self._put(uid, pod, _at(pod.endpoint, end), changes)
        return changes.done()

    def _apply_pods(
        self,
        upserts: Iterable[Pod],
        deletes: Iterable[Pod],
        now_ns: int,
        there: frozenset[str] | None,
        changes: Changes,
    ) -> None:
        for pod in upserts:
            if pod.phase in TERMINAL_PHASES:
                self._end(pod.meta.uid, pod, now_ns, changes)
            else:
                self._finished.discard(pod.meta.uid)  # an older store was restored
                self._take(pod, now_ns, changes)
        for pod in deletes:
            self._end(pod.meta.uid, pod, now_ns, changes)
            self._finished.discard(pod.meta.uid)
        if there is not None:
            for uid in self._pods.keys() - there:
                self._end(uid, None, now_ns, changes)
            self._finished &= there
            self._pods_listed = True

    def _take(self, pod: Pod, now_ns: int, changes: Changes) -> None:
        uid = pod.meta.uid
        known = self._pods.get(uid)
        local = bool(self._node_name) and pod.node == self._node_name
        addresses = () if pod.host_network else pod.addresses
        if not set(addresses).isdisjoint(pod.node_addresses):
            addresses = ()  # a node for each pod, as Fargate has them
        before = known.endpoint if known else None
        same = before is not None and before.addresses == addresses
        endpoint = Endpoint(
            EndpointKind.POD,
            uid,
            self._describe(pod, pod.node, uid),
            addresses=addresses,
            aliases=pod.containers if local else (),
            valid=validity(
                pod,
                now_ns,
                before.valid if before and same else None,
                moved=before is not None and not same and bool(before.addresses),
            ),
        )
        if end := self._local_ends.get(uid):
            endpoint = _at(endpoint, end)
        if known is None:
            known = self._pods[uid] = _Pod(endpoint, pod.meta.owner)
        known.owner = pod.meta.owner
        known.host_network = pod.host_network
        known.observe = self._observe_annotated and asks_for_observation(pod.meta.annotations)
        if local:
            self._local[uid] = None
        # Elsewhere a pod without an address of its own can't be met.
        if local or addresses or known.published:
            known.published = True
            self._put(uid, known, endpoint, changes, new=before is None or not same)
        else:
            known.endpoint = endpoint

    def _end(self, uid: str, pod: Pod | None, now_ns: int, changes: Changes) -> None:
        # Its object stays and changes, and says an address that is another's by now.
        if uid in self._finished:
            return
        if pod is not None and pod.phase in TERMINAL_PHASES:
            self._finished.add(uid)
        # An address may be heard of together with its end: it was had all the same. Those of the
        # first list ended before there was anything to name.
        before = self._pods.get(uid)
        if pod is not None and pod.addresses and not pod.host_network:
            unheard = before is None or before.endpoint.addresses != pod.addresses
            if unheard and (before or self._pods_listed):
                self._take(pod, now_ns, changes)
        known = self._pods.pop(uid, None)
        self._local.pop(uid, None)
        if known is None or not known.published:
            return
        last = known.endpoint
        final = replace(last, valid=ended(last.valid, pod, now_ns))
        changes.end(uid, final)

    def _put(
        self, uid: str, pod: _Pod, endpoint: Endpoint, changes: Changes, *, new: bool = False
    ) -> None:
        if new or endpoint != pod.endpoint:
            pod.endpoint = endpoint
            if pod.published:
                changes.put(endpoint)

    def _apply_nodes(
        self,
        upserts: Iterable[Node],
        deletes: Iterable[Node],
        there: frozenset[str] | None,
        changes: Changes,
    ) -> None:
        moved: set[str] = set()
        for node in upserts:
            name = node.meta.name
            before = self._nodes.get(name)
            self._nodes[name] = node
            endpoint = node_endpoint(node)
            if before is None or node_endpoint(before) != endpoint:
                changes.put(endpoint)
            place = place_attributes(node)
            if self._places.get(name) != place:
                moved |= {name} if name in self._places else set()
                self._places[name] = place
        gone = [
            node.meta.name
            for node in deletes
            if (known := self._nodes.get(node.meta.name)) and known.meta.uid == node.meta.uid
        ]
        if there is not None:
            gone += [name for name, node in self._nodes.items() if node.meta.uid not in there]
        for name in gone:
            del self._nodes[name]
            changes.end(node_key(name))
        # Pods outlive their node's object for a while, and go on to say where they are.
        if len(self._places) > max(_SHARED_BEFORE_SWEEP, 2 * len(self._nodes)):
            self._places = {name: self._places[name] for name in self._nodes}
        if moved:
            self._refresh(lambda pod: _node_of(pod.endpoint) in moved, changes)
        if self._elsewhere is not None:
            nodes = self._nodes.values()
            names = {one: node.meta.name for node in nodes for one in node.addresses}
            self._elsewhere.know_nodes(names, changes)
            if moved:
                self._elsewhere.refresh(changes)

    def _apply_namespaces(
        self,
        upserts: Iterable[Namespace],
        deletes: Iterable[Namespace],
        there: frozenset[str] | None,
    ) -> None:
        for namespace in upserts:
            self._namespaces[namespace.meta.name] = namespace
        for namespace in deletes:
            known = self._namespaces.get(namespace.meta.name)
            if known is not None and known.meta.uid == namespace.meta.uid:
                del self._namespaces[namespace.meta.name]
        if there is not None:
            known_ones = self._namespaces.items()
            self._namespaces = {name: one for name, one in known_ones if one.meta.uid in there}

    def _refresh(self, concerns: Callable[[_Pod], bool], changes: Changes) -> None:
        """Works out anew what pods have of their owners and nodes."""
        for uid, pod in self._pods.items():
            if not concerns(pod):
                continue
            known = pod.endpoint.attributes
            assert isinstance(known, PodAttributes)
            namespace = str(known[K8S_NAMESPACE_NAME.name])
            attributes = PodAttributes(
                known.name,
                uid,
                self._workload(namespace, known.name, pod.owner),
                self._place(_node_of(pod.endpoint)),
                known.asked,
            )
            if attributes != known:
                self._put(uid, pod, replace(pod.endpoint, attributes=attributes), changes)

    def _describe(self, pod: Pod, node: str, uid: str = "") -> PodAttributes:
        meta = pod.meta
        return PodAttributes(
            meta.name,
            uid,
            self._workload(meta.namespace, meta.name, meta.owner),
            self._place(node),
            asked_attributes(pod, hidden=ANNOTATION if self._observe_annotated else ""),
        )

    def _workload(self, namespace: str, pod_name: str, owner: OwnerRef | None) -> Attributes:
        # A pod without owner is its own, and so is a static one (the node owns it), so that nothing
        # is lost where one asks by owner.
        top = self._owners.top(namespace, owner) if owner else (pod_name, "pod")
        if owner is None or owner.kind == "Node":
            return workload_attributes(namespace, (pod_name, "pod"))
        key = (namespace, *top)
        if key not in self._shared:
            if len(self._shared) > max(_SHARED_BEFORE_SWEEP, 2 * len(self._pods)):
                self._shared.clear()
            self._shared[key] = workload_attributes(namespace, top)
        return self._shared[key]

    def _place(self, node: str) -> Attributes:
        if not node:
            return NOTHING
        if node not in self._places:
            self._places[node] = {K8S_NODE_NAME.name: node}
        return self._places[node]


def _at(endpoint: Endpoint, end: LocalEnd) -> Endpoint:
    return replace(
        endpoint, netns=end.netns, interfaces=end.interfaces, netns_since_ns=end.since_ns
    )


def _node_of(pod: Endpoint) -> str:
    return str(pod.attributes.get(K8S_NODE_NAME.name, ""))


def _of(type_: type[AnyObject], objects: Iterable[Object]) -> list[AnyObject]:
    return [one for one in objects if isinstance(one, type_)]
