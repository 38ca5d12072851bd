"""What this kernel and this process can do: one frozen report, each point found out by trying it.

Nothing is attached to an interface of the machine: programs are loaded and dropped, links are asked
for on an interface that does not exist, qdiscs are tried in an empty network namespace.
"""

from __future__ import annotations

import ctypes
import errno
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from retina_otel.errors import AttachError, KernelError
from retina_otel.kernel import syscall
from retina_otel.kernel.bpf import attach, maps
from retina_otel.kernel.bpf.btf import Btf
from retina_otel.kernel.bpf.libbpf import BTF_REMEDY, library, version
from retina_otel.kernel.capabilities import effective_capabilities, holds
from retina_otel.kernel.net import clsact, netns

_PROG_TYPE_SCHED_CLS = 3
_PROG_TYPE_TRACING = 26
_ATTACH_TRACE_RAW_TP = 23
_NO_SUCH_IFINDEX = 0x7FFFFFF0
_LOOPBACK_IFINDEX = 1
_RETURN_ZERO = bytes.fromhex("b7000000000000009500000000000000")
_PROBED = "kfree_skb"
_REASONS_PARAMETERS = 3

_CAPABILITY_USES = {
    "CAP_NET_ADMIN": "attach to interfaces",
    "CAP_NET_RAW": "capture packets",
    "CAP_SYS_ADMIN": "enter other network namespaces",
    "CAP_PERFMON": "trace the kernel",
    "CAP_BPF": "load BPF programs",
}


@dataclass(frozen=True, slots=True)
class Feature:
    """Whether something works here. `reason` says how that is known, `remedy` what would help."""

    available: bool
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class KernelReport:
    """What was found. Every field but `release` and `machine` is a Feature."""

    release: str
    machine: str
    cap_bpf: Feature
    cap_perfmon: Feature
    cap_net_admin: Feature
    cap_net_raw: Feature
    cap_sys_admin: Feature
    libbpf: Feature
    btf: Feature
    programs: Feature
    """Any BPF program can be loaded."""
    tcx: Feature
    clsact: Feature
    ringbuf: Feature
    batch: Feature
    mmapable_array: Feature
    map_in_map: Feature
    tp_btf: Feature
    drop_reasons: Feature
    membarrier_global: Feature
    bpffs: Feature
    jit: Feature

    def features(self) -> Iterator[tuple[str, Feature]]:
        """(name, feature) of each, in the order of the fields."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Feature):
                yield one.name, value


def probe() -> KernelReport:
    """Tries everything, in about 50 ms. Never raises: what fails is a feature that is not there."""
    mask = effective_capabilities()
    return KernelReport(
        release=platform.release(),
        machine=platform.machine(),
        cap_bpf=_capability(mask, "CAP_BPF"),
        cap_perfmon=_capability(mask, "CAP_PERFMON"),
        cap_net_admin=_capability(mask, "CAP_NET_ADMIN"),
        cap_net_raw=_capability(mask, "CAP_NET_RAW"),
        cap_sys_admin=_capability(mask, "CAP_SYS_ADMIN"),
        libbpf=_try(_libbpf),
        btf=_btf(),
        programs=_try(_programs),
        tcx=_try(_tcx, "Use a kernel of 6.6 or newer; below, clsact is used"),
        clsact=_try(_clsact, "Use a kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF"),
        ringbuf=_try(_ringbuf, "Use a kernel of 5.8 or newer"),
        batch=_try(_batch, "Use a kernel of 5.6 or newer; below, maps are read one by one"),
        mmapable_array=_try(_mmapable_array, "Use a kernel of 5.5 or newer"),
        map_in_map=_try(_map_in_map),
        tp_btf=_try(_tp_btf, "Use a kernel built with CONFIG_DEBUG_INFO_BTF and tracepoints"),
        drop_reasons=_try(_drop_reasons, "Use a kernel of 5.17 or newer"),
        membarrier_global=_try(_membarrier_global, "None needed: a map update waits as well"),
        bpffs=_bpffs(),
        jit=_jit(),
    )


def _capability(mask: int, name: str) -> Feature:
    if holds(mask, name):
        return Feature(True, "in the effective set")
    return Feature(
        False,
        "not in the effective set",
        f"Give the process {name} to {_CAPABILITY_USES[name]}",
    )


def _try(attempt: Callable[[], str], remedy: str = "") -> Feature:
    """An attempt returns how it knows, or raises KernelError."""
    try:
        return Feature(True, attempt())
    except KernelError as error:
        denied = error.errno in (errno.EPERM, errno.EACCES)
        detail = KernelError(error.call, error.errno)
        return Feature(False, detail.message, error.remedy if denied or not remedy else remedy)


def _libbpf() -> str:
    return "libbpf {}.{}".format(*version())


def _btf() -> Feature:
    path = Path("/sys/kernel/btf/vmlinux")
    if path.exists():
        return Feature(True, f"{path} is there")
    return Feature(False, f"{path} is missing", BTF_REMEDY)


def _load(prog_type: int, expected_attach_type: int = 0, attach_btf_id: int = 0) -> int:
    code = ctypes.create_string_buffer(_RETURN_ZERO, len(_RETURN_ZERO))
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    return syscall.bpf(
        syscall.PROG_LOAD,
        syscall.ProgLoad(
            prog_type=prog_type,
            insn_cnt=len(_RETURN_ZERO) // 8,
            insns=ctypes.addressof(code),
            license=ctypes.addressof(licence),
            prog_name=b"rt_probe",
            expected_attach_type=expected_attach_type,
            attach_btf_id=attach_btf_id,
        ),
    )


def _programs() -> str:
    syscall.close_quietly(_load(_PROG_TYPE_SCHED_CLS))
    return "a program was loaded"


def _tcx() -> str:
    prog_fd = _load(_PROG_TYPE_SCHED_CLS)
    try:
        attach.tcx(prog_fd, _NO_SUCH_IFINDEX, ingress=True).close()
    except AttachError as error:
        # A kernel that knows tcx looks for the interface; an older one stops before.
        if error.errno != errno.ENODEV:
            raise
    finally:
        syscall.close_quietly(prog_fd)
    return "the kernel knows the attach type"


def _clsact() -> str:
    prog_fd = _load(_PROG_TYPE_SCHED_CLS)
    try:
        netns.run_in_new(lambda: clsact.try_out(prog_fd, _LOOPBACK_IFINDEX))
    finally:
        syscall.close_quietly(prog_fd)
    return "a filter was attached in an empty namespace"


def _ringbuf() -> str:
    syscall.close_quietly(maps.create_map(maps.TYPE_RINGBUF, 0, 0, 4096))
    return "a ring was made"


def _batch() -> str:
    fd = maps.create_map(maps.TYPE_HASH, 4, 8, 1)
    key, value, token = (np.zeros(1, np.uint64) for _ in range(3))
    try:
        result = syscall.bpf_try(
            syscall.MAP_LOOKUP_AND_DELETE_BATCH,
            syscall.MapBatch(
                out_batch=token.ctypes.data,
                keys=key.ctypes.data,
                values=value.ctypes.data,
                count=1,
                map_fd=fd,
            ),
        )
    finally:
        syscall.close_quietly(fd)
    if result != -errno.ENOENT:
        raise KernelError(syscall.command_name(syscall.MAP_LOOKUP_AND_DELETE_BATCH), -result)
    return "an empty hash was drained"


def _mmapable_array() -> str:
    fd = maps.create_map(maps.TYPE_ARRAY, 4, 8, 1, flags=maps.FLAG_MMAPABLE)
    try:
        maps.mmap_array(fd, np.uint64, 1)
    finally:
        syscall.close_quietly(fd)
    return "an array was mapped"


def _map_in_map() -> str:
    inner = maps.create_map(maps.TYPE_ARRAY, 4, 8, 1)
    try:
        outer = maps.create_map(maps.TYPE_ARRAY_OF_MAPS, 4, 4, 1, inner_map_fd=inner)
        syscall.close_quietly(outer)
    finally:
        syscall.close_quietly(inner)
    return "an array of maps was made"


def _tp_btf() -> str:
    library()
    with Btf.vmlinux() as kernel:
        type_id = kernel.type_id(f"btf_trace_{_PROBED}")
    if not type_id:
        raise KernelError("BTF", errno.ENOENT, detail=_PROBED)
    syscall.close_quietly(_load(_PROG_TYPE_TRACING, _ATTACH_TRACE_RAW_TP, type_id))
    return f"a program for {_PROBED} was loaded"


def _drop_reasons() -> str:
    with Btf.vmlinux() as kernel:
        if kernel.parameters(_PROBED) < _REASONS_PARAMETERS:
            raise KernelError("BTF", errno.ENOENT)
        return f"{len(kernel.enum('skb_drop_reason'))} reasons in the kernel's BTF"


def _membarrier_global() -> str:
    if not syscall.membarrier(syscall.MEMBARRIER_QUERY) & syscall.MEMBARRIER_GLOBAL:
        raise KernelError("membarrier", errno.EINVAL)
    return "membarrier(2) offers it"


def _bpffs() -> Feature:
    try:
        mounts = Path("/proc/self/mounts").read_text()
    except OSError:
        mounts = ""
    for line in mounts.splitlines():
        _device, where, kind, *_ = line.split(" ")
        if kind == "bpf":
            return Feature(True, f"mounted at {where}")
    return Feature(False, "not mounted", "mount -t bpf bpf /sys/fs/bpf")


def _jit() -> Feature:
    try:
        enabled = Path("/proc/sys/net/core/bpf_jit_enable").read_text().strip() != "0"
    except OSError:
        return Feature(True, "always on: the kernel has no switch for it")
    if enabled:
        return Feature(True, "net.core.bpf_jit_enable is on")
    return Feature(False, "net.core.bpf_jit_enable is 0", "sysctl net.core.bpf_jit_enable=1")
