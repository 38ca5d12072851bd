"""Which workloads a cgroup belongs to, by the names that kubelets and container runtimes give.

A cgroup of a pod is named after the pod's UID, and in it stand those of its containers:
`kubepods/burstable/pod<uid>/<id>` (cgroupfs), or with underscores for dashes
`kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope` (systemd).
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

_POD = re.compile(
    rb"(?:^|-)pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
    # A static pod's is a digest of its manifest.
    rb"|[0-9a-f]{32})(?:\.slice)?$"
)
# Not of `crio-conmon-<id>`: that one watches the container, from outside of it.
_CONTAINER = re.compile(rb"(?:^|[-:])(?<!-conmon-)([0-9a-f]{64})(?:\.scope)?$")
_CACHED = 1 << 14


def legacy_in_use() -> bool:
    """Whether a controller is in a cgroup hierarchy of version 1."""
    try:
        lines = Path("/proc/cgroups").read_text().splitlines()
    except OSError:
        return True
    # Name, number of the hierarchy (0: version 2, or none), groups in it, enabled.
    return any(line.split()[1] != "0" for line in lines if not line.startswith("#"))


def of_cgroup(names: tuple[bytes, ...]) -> tuple[str, ...]:
    """The workloads of a cgroup, given by its name and those of the cgroups above it.

    The pod's UID, if there is one, then ids of containers from the outermost inwards. What stands
    above the innermost pod is not told: the node itself may be a container.
    """
    containers: list[str] = []
    for name in names:
        if found := _CONTAINER.search(name):
            containers.append(found[1].decode())
        elif found := _POD.search(name):
            containers.append(found[1].decode().replace("_", "-"))
            break
    return tuple(reversed(containers))


def of_paths(paths: npt.NDArray[Any]) -> list[tuple[str, ...]]:
    """The workloads of processes by their cgroups in version 2 and in version 1, which may know
    less (records `struct rt_cgroup_paths`): the first of them is the one that tells owners apart.
    """
    return [
        _of_both(tuple(unified), tuple(legacy))
        for unified, legacy in zip(
            paths["unified"]["names"].tolist(), paths["legacy"]["names"].tolist(), strict=True
        )
    ]


@lru_cache(_CACHED)
def _of_both(unified: tuple[bytes, ...], legacy: tuple[bytes, ...]) -> tuple[str, ...]:
    found = of_cgroup(unified), of_cgroup(legacy)
    # A UID is shorter than an id of a container: whichever hierarchy has the pod comes first.
    first, second = sorted(found, key=lambda names: len(names[0]) if names else 1 << 16)
    return tuple(dict.fromkeys(first + second))
