"""Pods of other nodes as RetinaEndpoints tell them: found by node address and names, not by uids.

A RetinaEndpoint of this node stands for a pod that is known better. So none is told before the own
node's addresses are known: which of them are of this node could not be said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from retina_otel.kubernetes.inventory.changes import Changes
from retina_otel.kubernetes.inventory.endpoints import PodAttributes
from retina_otel.kubernetes.inventory.owners import OWNER_KINDS, kind_of
from retina_otel.kubernetes.inventory.times import ended, validity
from retina_otel.kubernetes.objects import OwnerRef, Pod, Workload
from retina_otel.pipeline.identity.endpoints import Endpoint, EndpointKind

_OwnerName = tuple[str, str, str, str]
"""Namespace, API version, kind, name."""
Describe = Callable[[Pod, str], PodAttributes]


@dataclass(slots=True)
class _Known:
    pod: Pod
    endpoint: Endpoint
    published: bool = False


class Elsewhere:
    """Part of the inventory."""

    def __init__(self, own_node: str, describe: Describe) -> None:
        """`describe`: what is said of a pod that runs on a node, by name (empty: not known)."""
        self._own_node = own_node
        self._describe = describe
        self._known: dict[str, _Known] = {}
        self._nodes: Mapping[str, str] = {}
        self._knows_own_node = False
        self._uids: dict[_OwnerName, str] = {}
        self._waiting: dict[_OwnerName, set[str]] = {}
        """Whose owner's uid is not known yet."""

    def __len__(self) -> int:
        return len(self._known)

    def owners(self) -> Iterable[OwnerRef]:
        return (one.pod.meta.owner for one in self._known.values() if one.pod.meta.owner)

    def apply(
        self,
        upserts: Iterable[Pod],
        deletes: Iterable[Pod],
        now_ns: int,
        there: frozenset[str] | None,
        changes: Changes,
    ) -> None:
        for pod in upserts:
            self._take(pod, now_ns, changes)
        for pod in deletes:
            self._end(pod.meta.uid, now_ns, changes)
        if there is not None:
            for uid in self._known.keys() - there:
                self._end(uid, now_ns, changes)

    def know_nodes(self, names: Mapping[str, str], changes: Changes) -> None:
        """Nodes' names by their addresses."""
        if names != self._nodes:
            self._nodes = names
            self._knows_own_node = self._own_node in names.values()
            self.refresh(changes)

    def know_owners(
        self, upserts: Iterable[Workload], deletes: Iterable[Workload], changes: Changes
    ) -> None:
        """After `Owners`, which knows workloads by uid only."""
        for one in upserts:
            name = (one.meta.namespace, one.api_version, one.kind, one.meta.name)
            self._uids[name] = one.meta.uid
            for uid in self._waiting.pop(name, ()):
                self._tell(uid, self._known[uid], changes)
        for one in deletes:
            name = (one.meta.namespace, one.api_version, one.kind, one.meta.name)
            if self._uids.get(name) == one.meta.uid:
                del self._uids[name]

    def refresh(self, changes: Changes) -> None:
        """Says anew what nodes and owners have become."""
        for uid, known in self._known.items():
            self._tell(uid, known, changes)

    def _tell(self, uid: str, known: _Known, changes: Changes) -> None:
        known.pod = self._owned(known.pod)
        attributes = self._attributes(known.pod)
        endpoint = known.endpoint
        if attributes != endpoint.attributes:
            endpoint = replace(endpoint, attributes=attributes)
        self._put(uid, known, endpoint, changes)

    def _take(self, pod: Pod, now_ns: int, changes: Changes) -> None:
        uid = pod.meta.uid
        known = self._known.get(uid)
        pod = self._owned(pod)
        addresses = () if pod.host_network else pod.addresses
        before = known.endpoint if known else None
        same = before is not None and before.addresses == addresses
        endpoint = Endpoint(
            EndpointKind.POD,
            uid,
            self._attributes(pod),
            addresses=addresses,
            valid=validity(
                pod,
                now_ns,
                before.valid if before and same else None,
                moved=before is not None and not same and bool(before.addresses),
            ),
        )
        if known is None:
            known = self._known[uid] = _Known(pod, endpoint)
        known.pod = pod
        self._put(uid, known, endpoint, changes)

    def _put(self, uid: str, known: _Known, endpoint: Endpoint, changes: Changes) -> None:
        told = self._is_elsewhere(known.pod) and bool(endpoint.addresses)
        if told and not (known.published and endpoint == known.endpoint):
            changes.put(endpoint)
        elif known.published and not told:
            changes.end(uid, known.endpoint)
        known.endpoint, known.published = endpoint, told

    def _end(self, uid: str, now_ns: int, changes: Changes) -> None:
        known = self._known.pop(uid, None)
        if known is not None and (name := _name_of_owner(known.pod)) in self._waiting:
            self._waiting[name].discard(uid)
        if known is not None and known.published:
            valid = ended(known.endpoint.valid, None, now_ns)
            changes.end(uid, replace(known.endpoint, valid=valid))

    def _is_elsewhere(self, pod: Pod) -> bool:
        if not self._own_node:
            return True
        return self._knows_own_node and self._node(pod) != self._own_node

    def _node(self, pod: Pod) -> str:
        return next((self._nodes[one] for one in pod.node_addresses if one in self._nodes), "")

    def _attributes(self, pod: Pod) -> PodAttributes:
        return self._describe(pod, self._node(pod))

    def _owned(self, pod: Pod) -> Pod:
        """With the uid of its owner, as soon as one of that name is known."""
        owner, name = pod.meta.owner, _name_of_owner(pod)
        if owner is None or owner.uid or kind_of(owner) not in OWNER_KINDS.values():
            return pod
        uid = self._uids.get(name)
        if uid is None:
            self._waiting.setdefault(name, set()).add(pod.meta.uid)
            return pod
        return replace(pod, meta=replace(pod.meta, owner=replace(owner, uid=uid)))


def _name_of_owner(pod: Pod) -> _OwnerName:
    owner = pod.meta.owner
    if owner is None:
        return "", "", "", ""
    return pod.meta.namespace, owner.api_version, owner.kind, owner.name
