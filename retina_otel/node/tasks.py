"""One look at the node's processes: their network namespaces, their cgroups, sockets they hold.

The kernel walks its own list of processes, so what is found does not depend on the pid namespace of
the agent, and no process is touched. Needs CAP_BPF and CAP_PERFMON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.kernel.bpf import testrun
from retina_otel.kernel.bpf.maps import HashMap, Variables, mmap_array
from retina_otel.loaders import core, objects
from retina_otel.node import workloads
from retina_otel.node.ends import LocalEnds, local_ends

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Group:
    """Processes of the same cgroups in one network namespace."""

    netns: int
    workloads: tuple[str, ...]
    """The pod's UID or the outermost container's id comes first; empty: none."""


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at one moment."""

    own_netns: int
    """Inode of the namespace of the thread that looked."""
    groups: tuple[Group, ...]
    nsids: dict[int, int]
    """nsid by inode: the namespaces that ours has a number for, with processes or without."""
    sockets: LocalEnds
    """Those that a process of our own namespace holds; `owner` is its place in `groups`."""
    lost: int
    """Groups and sockets for which there was no room, and descriptors beyond what is looked at."""


class TaskWalk:
    """The loaded program. Used by one thread at a time."""

    def __init__(self) -> None:
        """Raises LoadError, MapError."""
        self._loaded = core.load(
            objects.path("tasks"), {"legacy_in_use": workloads.legacy_in_use()}
        )
        try:
            maps = self._loaded.maps
            self._program = self._loaded.programs["tasks_walk"]
            self._variables = Variables(maps[".bss"].fd, self._loaded.btf, ".bss")
            tasks = maps["tasks"]
            self._tasks = HashMap(
                tasks.fd, tasks.key_dtype, tasks.value_dtype, tasks.max_entries, chunk=256
            )
            self._nsids, self._sockets = (
                mmap_array(one.fd, one.value_dtype, one.max_entries)
                for one in (maps["nsids"], maps["sockets"])
            )
        except BaseException:
            self._loaded.close()
            raise

    def close(self) -> None:
        self._loaded.close()

    def look(self, *, sockets: bool) -> Look:
        """Looks, in well under a millisecond for a hundred processes; with `sockets` also at the
        files of processes in our own namespace. Raises KernelError."""
        variables = self._variables
        variables.want_sockets[...] = sockets
        testrun.run(self._program)
        keys, rows = self._tasks.drain()
        groups = tuple(
            Group(netns, names)
            for netns, names in zip(
                keys["netns"].tolist(), workloads.of_paths(rows["paths"]), strict=True
            )
        )
        nsids = self._nsids[: int(variables.nsids_count)]
        return Look(
            own_netns=int(variables.own_netns),
            groups=groups,
            nsids=dict(zip(nsids["netns"].tolist(), nsids["nsid"].tolist(), strict=True)),
            sockets=self._local_ends(keys, int(variables.own_netns)),
            lost=sum(
                int(count)
                for count in (variables.tasks_lost, variables.sockets_lost, variables.fds_lost)
            ),
        )

    def _local_ends(self, keys: Array, own_netns: int) -> LocalEnds:
        rows = self._sockets[: int(self._variables.sockets_count)]
        own = np.flatnonzero(keys["netns"] == own_netns)
        own = own[np.argsort(keys["cgroups"][own])]
        known = keys["cgroups"][own]
        place = np.searchsorted(known, rows["cgroups"])
        # Without a group: there was no room for it.
        found = place < len(known)
        found[found] = known[place[found]] == rows["cgroups"][found]
        return local_ends(rows["end"][found], own[place[found]])
