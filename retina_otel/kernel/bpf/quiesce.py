"""Waits until every BPF program that is running now has ended.

Between telling programs to write elsewhere and reading what they have written lies this wait: a
program that read the old generation may still hold a pointer into it. Programs run inside an RCU
read section, so waiting for an RCU grace period is enough (sleepable ones excepted: we have none).
"""

from __future__ import annotations

import errno
import threading

from retina_otel.errors import KernelError
from retina_otel.kernel import syscall
from retina_otel.kernel.bpf.maps import TYPE_ARRAY, TYPE_ARRAY_OF_MAPS, create_map, set_inner_map

_lock = threading.Lock()
_fallback: list[int] = []


def wait_for_programs() -> None:
    """Returns when all programs that had begun before the call have ended: 5 to 20 ms.

    The GIL is free meanwhile. Raises KernelError if the kernel offers no way to wait.
    """
    if _fallback:
        wait_by_map()
        return
    try:
        syscall.membarrier(syscall.MEMBARRIER_GLOBAL)
    except KernelError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
            raise
        wait_by_map()


def wait_by_map() -> None:
    """The same by replacing the map inside an array of maps: the kernel waits before it returns.

    For kernels with nohz_full CPUs, whose membarrier knows no global command.
    """
    with _lock:
        if not _fallback:
            inner = create_map(TYPE_ARRAY, 4, 8, 1, name="rt_quiesce")
            try:
                outer = create_map(
                    TYPE_ARRAY_OF_MAPS, 4, 4, 1, inner_map_fd=inner, name="rt_quiesce"
                )
            except KernelError:
                syscall.close_quietly(inner)
                raise
            _fallback.extend((outer, inner))
        set_inner_map(_fallback[0], 0, _fallback[1])
