"""NodeNamespaces: the node's network namespaces, and whose each of them is.

A namespace belongs to whoever's processes run in it, told by their cgroups; the number that
rtnetlink gives as an interface's `peer_netnsid` leads to it. Numbers are given again, so interfaces
and namespaces must be of one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from retina_otel.model.interfaces import Interface
from retina_otel.model.namespaces import NetworkNamespace
from retina_otel.node.looks import Looks
from retina_otel.node.tasks import Look

_ATTEMPTS = 3
Interfaces = Callable[[], Mapping[int, Interface]]
"""Takes what the kernel has said of interfaces, and gives those there are."""


class NodeNamespaces:
    """A model.namespaces.NamespaceRegistry. Tick thread."""

    def __init__(self, looks: Looks, interfaces: Interfaces) -> None:
        self._looks = looks
        self._interfaces = interfaces
        self._current: Mapping[int, NetworkNamespace] = {}

    def current(self) -> Mapping[int, NetworkNamespace]:
        return self._current

    def refresh(self) -> bool:
        look = self._look()
        if look is None:
            return False
        found: dict[int, set[str]] = {}
        for group in look.groups:
            found.setdefault(group.netns, set()).update(group.workloads)
        current = {
            inode: NetworkNamespace(
                inode=inode,
                nsid=look.nsids.get(inode, -1),
                host=inode == look.own_netns,
                workloads=frozenset(names),
            )
            for inode, names in found.items()
        }
        changed = current != self._current
        self._current = current
        return changed

    def _look(self) -> Look | None:
        """A look during which no interface came or went; without numbers where they never rest."""
        before = self._peers()
        look = self._looks.take(sockets=False)
        for _ in range(_ATTEMPTS):
            after = self._peers()
            if look is None or after == before:
                return look
            before, look = after, self._looks.take(sockets=False)
        return None if look is None else replace(look, nsids={})

    def _peers(self) -> frozenset[tuple[int, int]]:
        return frozenset((one.ifindex, one.peer_netnsid) for one in self._interfaces().values())

    @property
    def unavailable(self) -> str:
        return self._looks.unavailable
