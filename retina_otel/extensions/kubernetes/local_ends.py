"""LocalEnds: which network namespace and interfaces each pod of this node lives behind.

Told by whose processes run in a namespace. Where that can't be seen, by the addresses in it: an
interface belongs to the one live pod of this node that claims one of them and that has no other.
What two pods may mean is nobody's. What was told of a pod stays so until the pod is gone or another
has it, because what is drained last was counted before its namespace went.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from retina_otel.kubernetes.inventory.local import LocalEnd, LocalPod
from retina_otel.model.interfaces import Interface
from retina_otel.model.namespaces import NetworkNamespace

_UID_LENGTH = 36


@dataclass(frozen=True, slots=True)
class _Life:
    """A namespace, for as long as its number is its own."""

    workloads: frozenset[str]
    since_ns: int
    """It may be younger, but no other had the number since then."""


@dataclass(slots=True)
class _Seen:
    netns: dict[int, int] = field(default_factory=dict)
    """Since when, by inode."""
    interfaces: dict[int, None] = field(default_factory=dict)


class LocalEnds:
    """Remembers what it has told. Tick thread."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._lives: dict[int, _Life] = {}
        self._looked_ns = 0

    def by_processes(
        self,
        pods: Iterable[LocalPod],
        namespaces: Iterable[NetworkNamespace],
        interfaces: Iterable[Interface],
        looked_ns: int,
    ) -> Mapping[str, LocalEnd]:
        """Ends by uid of pod. `namespaces` are those there were before `looked_ns`."""
        known, spaces = list(pods), list(namespaces)
        self._look(spaces, looked_ns)
        names = {
            name: pod.uid
            for pod in known
            if not pod.host_network
            for name in (pod.uid, *pod.containers)
        }
        uids = {pod.uid for pod in known}
        wires: dict[int, list[int]] = {}
        for interface in interfaces:
            if is_wire(interface):
                wires.setdefault(interface.peer_netnsid, []).append(interface.ifindex)
        self._forget(known)
        for namespace in spaces:
            owners = {names[name] for name in namespace.workloads if name in names}
            strangers = any(_is_uid(name) and name not in uids for name in namespace.workloads)
            if namespace.host or strangers or len(owners) != 1:
                continue
            (uid,) = owners
            if any(namespace.inode in seen.netns for one, seen in self._seen.items() if one != uid):
                # The kernel gives a number again when its namespace is gone.
                self._take_away(uid, namespace.inode)
            seen = self._seen.setdefault(uid, _Seen())
            seen.netns[namespace.inode] = self._lives[namespace.inode].since_ns
            if namespace.nsid >= 0:
                seen.interfaces.update(dict.fromkeys(wires.get(namespace.nsid, ())))
        return self._told()

    def by_addresses(
        self, pods: Iterable[LocalPod], addresses: Mapping[int, Iterable[str]]
    ) -> Mapping[str, LocalEnd]:
        """As `by_processes`, by the addresses at the other end of each wire (by ifindex)."""
        known = list(pods)
        claims: dict[str, list[str]] = {}
        for pod in known:
            for address in () if pod.host_network else pod.addresses:
                claims.setdefault(address, []).append(pod.uid)
        self._forget(known)
        present = set(addresses)
        for ifindex, there in addresses.items():
            owners = {uid for address in there for uid in claims.get(address, ())}
            had = [uid for uid, seen in self._seen.items() if ifindex in seen.interfaces]
            if len(owners) != 1:
                # A pod whose end was not heard of yet, and its successor: which of them is it?
                for uid in had if owners else ():
                    del self._seen[uid].interfaces[ifindex]
                continue
            (uid,) = owners
            seen = self._seen.setdefault(uid, _Seen())
            if had in ([], [uid]) and not seen.interfaces.keys() - {ifindex}:
                seen.interfaces[ifindex] = None
        for seen in self._seen.values():
            # Another sandbox of the same pod may come only when the wire of the old one is gone.
            if len(seen.interfaces) > 1:
                seen.interfaces = dict.fromkeys(seen.interfaces.keys() & present)
        return self._told()

    def _look(self, namespaces: Iterable[NetworkNamespace], looked_ns: int) -> None:
        """Of a number that was another's at the last look nobody knows when it changed hands; one
        that was nobody's then was nobody else's since."""
        before, self._lives = self._lives, {}
        for one in namespaces:
            life = before.get(one.inode)
            since_ns = self._looked_ns
            if life is not None:
                same = not life.workloads.isdisjoint(one.workloads)
                same |= life.workloads == one.workloads
                since_ns = life.since_ns if same else looked_ns
            self._lives[one.inode] = _Life(one.workloads, since_ns)
        self._looked_ns = looked_ns

    def _forget(self, pods: Iterable[LocalPod]) -> None:
        uids = {pod.uid for pod in pods}
        self._seen = {uid: seen for uid, seen in self._seen.items() if uid in uids}

    def _take_away(self, uid: str, inode: int) -> None:
        for other, seen in self._seen.items():
            if other != uid:
                seen.netns.pop(inode, None)

    def _told(self) -> Mapping[str, LocalEnd]:
        return {
            uid: LocalEnd(
                tuple(seen.netns), tuple(seen.interfaces), max(seen.netns.values(), default=0)
            )
            for uid, seen in self._seen.items()
            if seen.netns or seen.interfaces
        }


def _is_uid(name: str) -> bool:
    """The uid of a pod, and not the id of a container."""
    return len(name) == _UID_LENGTH and name.count("-") == 4


def is_wire(interface: Interface) -> bool:
    """The node's end of a wire into another namespace, and not the way outside."""
    return interface.peer_netnsid >= 0 and not interface.default_route
