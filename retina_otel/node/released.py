"""ReleasedSockets: the sockets of our own namespace that were closed since the last time one asked.

Between two looks at the processes a socket may come and go; who closes it, owned it. Needs CAP_BPF,
CAP_PERFMON, CAP_NET_ADMIN and the root of cgroup version 2, which a container sees only where it is
mounted from the host.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.errors import KernelError
from retina_otel.kernel.bpf import attach
from retina_otel.kernel.bpf.maps import HashMap, Variables
from retina_otel.kernel.net import netns
from retina_otel.loaders import core, objects
from retina_otel.loaders.base import MapHandle
from retina_otel.node import workloads
from retina_otel.node.ends import LocalEnds, local_ends

_ROOT_INODE = 1
_SOCK_RELEASE = 34
_MAX_KNOWN = 1 << 14
_Owner = tuple[int, int, int, int]
Array = npt.NDArray[Any]


class ReleasedSockets:
    """The attached program. Used by one thread, of whose namespace it speaks."""

    def __init__(self) -> None:
        """Raises KernelError."""
        root = find_root()
        constants = {
            "own_netns": netns.own_inode(),
            "legacy_in_use": workloads.legacy_in_use(),
        }
        self._loaded = core.load(objects.path("sockets"), constants)
        try:
            maps = self._loaded.maps
            self._released, self._owners = (_hash(maps[name]) for name in ("released", "owners"))
            self._variables = Variables(maps[".bss"].fd, self._loaded.btf, ".bss")
            program = self._loaded.programs["sockets_released"]
            self._link = attach.cgroup(program, str(root), _SOCK_RELEASE)
        except BaseException:
            self._loaded.close()
            raise
        self._known: dict[_Owner, tuple[str, ...]] = {}
        self._untold = 0

    @property
    def lost(self) -> int:
        """Sockets, since it was made, for which there was no room, or whose owner was not yet
        written down when they were taken."""
        return int(self._variables.lost) + self._untold

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
        complete = rows["complete"] != 0
        names = workloads.of_paths(rows["paths"][complete])
        self._known.update(zip(owners[complete].tolist(), names, strict=True))
        distinct, place = _distinct(keys["owner"])
        known = [self._known.get(owner) for owner in distinct.tolist()]
        told = np.array([one is not None for one in known], np.bool_)[place]
        self._untold += len(told) - int(np.count_nonzero(told))
        return local_ends(keys["end"][told], place[told]), [one or () for one in known]


def find_root() -> Path:
    """Where the root of cgroup version 2 is mounted. Raises KernelError."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, point, kind, *_ = line.split(" ")
        # In a cgroup namespace a mount begins at the namespace's own group.
        if kind == "cgroup2" and _inode(point) == _ROOT_INODE:
            return Path(point)
    raise KernelError(
        "open",
        errno.ENOENT,
        "Mount the host's /sys/fs/cgroup into the agent's container",
        detail="the root of cgroup version 2",
    )


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _hash(handle: MapHandle) -> HashMap:
    return HashMap(handle.fd, handle.key_dtype, handle.value_dtype, handle.max_entries, chunk=1024)


def _distinct(owners: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """Each owner once, and for each row the place of its owner among these."""
    order = np.lexsort((owners["hierarchy"], owners["legacy"], owners["unified"]))
    ordered = owners[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = False
    for name in ("hierarchy", "legacy", "unified"):
        first[1:] |= ordered[name][1:] != ordered[name][:-1]
    place = np.empty(len(order), np.intp)
    place[order] = np.cumsum(first) - 1
    return ordered[first], place
