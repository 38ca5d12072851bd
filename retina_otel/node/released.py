"""ReleasedSockets: the sockets of our own namespace that were closed since the last time one asked.

Between two looks at the processes a socket may come and go; who closes it, owned it. Needs CAP_BPF,
CAP_PERFMON, CAP_NET_ADMIN and the root of cgroup version 2, which a container sees only where it is
mounted from the host.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np

from retina_otel.errors import KernelError
from retina_otel.kernel import attach, netns
from retina_otel.kernel.maps import HashMap
from retina_otel.loaders import core, objects
from retina_otel.loaders.base import MapHandle
from retina_otel.node import workloads
from retina_otel.node.ends import LocalEnds, local_ends

_ROOT_INODE = 1
_SOCK_RELEASE = 34
_MAX_KNOWN = 1 << 14
_Owner = tuple[int, int, int, int]


class ReleasedSockets:
    """The attached program. Used by one thread, of whose namespace it speaks."""

    def __init__(self) -> None:
        """Raises KernelError."""
        root = find_root()
        constants = {"own_netns": netns.own_inode()}
        self._loaded = core.load(objects.path("sockets"), constants)
        try:
            maps = self._loaded.maps
            self._released, self._owners = (_hash(maps[name]) for name in ("released", "owners"))
            program = self._loaded.programs["sockets_released"]
            self._link = attach.cgroup(program, str(root), _SOCK_RELEASE)
        except BaseException:
            self._loaded.close()
            raise
        self._known: dict[_Owner, tuple[str, ...]] = {}

    def close(self) -> None:
        self._link.close()
        self._loaded.close()

    def take(self) -> tuple[LocalEnds, list[tuple[str, ...]]]:
        """The sockets, and the workloads that their `owner` counts. Raises MapError."""
        keys, _ = self._released.drain()
        keys = keys.copy()
        owners, rows = self._owners.drain()
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        for owner, row in zip(owners.tolist(), rows, strict=True):
            if row["complete"]:
                self._known[owner] = workloads.of_paths(row["paths"])
        index: dict[_Owner, int] = {}
        place = [index.setdefault(owner, len(index)) for owner in keys["owner"].tolist()]
        known = np.array([owner in self._known for owner in index], np.bool_)
        owner_of = np.array(place, np.intp)
        told = known[owner_of] if len(owner_of) else np.zeros(0, np.bool_)
        names = [self._known.get(owner, ()) for owner in index]
        return local_ends(keys["end"][told], owner_of[told]), names


def find_root() -> Path:
    """Where the root of cgroup version 2 is mounted. Raises KernelError."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, point, kind, *_ = line.split(" ")
        # In a cgroup namespace a mount begins at the namespace's own group.
        if kind == "cgroup2" and os.stat(point).st_ino == _ROOT_INODE:
            return Path(point)
    raise KernelError(
        "open",
        errno.ENOENT,
        "Mount the host's /sys/fs/cgroup into the agent's container",
        detail="the root of cgroup version 2",
    )


def _hash(handle: MapHandle) -> HashMap:
    return HashMap(handle.fd, handle.key_dtype, handle.value_dtype, handle.max_entries, chunk=1024)
