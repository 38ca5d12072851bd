"""NodeNamespaces: the node's network namespaces, and whose each of them is.

A namespace belongs to whoever's processes run in it, told by their cgroups; the number that
rtnetlink gives as an interface's `peer_netnsid` leads to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from retina_otel.model.namespaces import NetworkNamespace
from retina_otel.node.looks import Looks


class NodeNamespaces:
    """A model.namespaces.NamespaceRegistry. Tick thread."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._current: Mapping[int, NetworkNamespace] = {}

    def current(self) -> Mapping[int, NetworkNamespace]:
        return self._current

    def refresh(self) -> bool:
        look = self._looks.take(sockets=False)
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

    @property
    def unavailable(self) -> str:
        return self._looks.unavailable
