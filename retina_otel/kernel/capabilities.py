"""The capabilities of this process, and the remedy that names those which bpf(2) misses."""

from __future__ import annotations

import os
from pathlib import Path

CAPABILITIES = {
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_ADMIN": 21,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}
_FOR_BPF = ("CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN")
_FORBIDDEN = (
    "The process has the capabilities, so something else forbids bpf(2): look for a seccomp "
    "profile, a user namespace or kernel lockdown"
)


def effective_capabilities() -> int:
    """The mask of the calling process; 0 where /proc does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    except OSError:
        return 0
    return 0


def holds(mask: int, name: str) -> bool:
    """Whether a mask has a capability; CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON."""
    implied = name in ("CAP_BPF", "CAP_PERFMON") and mask >> CAPABILITIES["CAP_SYS_ADMIN"] & 1
    return bool(mask >> CAPABILITIES[name] & 1 or implied)


def missing_for_bpf() -> tuple[str, ...]:
    """Of those that loading, tracing and attaching need, the ones that this process lacks."""
    mask = effective_capabilities()
    return tuple(name for name in _FOR_BPF if not holds(mask, name))


def remedy() -> str:
    """What to do where the kernel says EPERM or EACCES to bpf(2)."""
    missing = missing_for_bpf()
    if not missing:
        return _FORBIDDEN
    names = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
    return f"{'G' if os.geteuid() == 0 else 'Run as root, or g'}ive the process {names}"
