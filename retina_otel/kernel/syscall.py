"""Raw system calls by ctypes: bpf(2), membarrier(2), setns(2). Each failure becomes a KernelError.

Structures here are the part of the kernel's `union bpf_attr` and info structs that we use; the
kernel accepts a shorter struct than its own, so they end where our need ends.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Any

from retina_otel.errors import KernelError
from retina_otel.kernel import capabilities

_NUMBERS = {  # machine: (bpf, membarrier)
    "x86_64": (321, 324),
    "aarch64": (280, 283),
}

MAP_CREATE = 0
MAP_LOOKUP_ELEM = 1
MAP_UPDATE_ELEM = 2
MAP_DELETE_ELEM = 3
MAP_GET_NEXT_KEY = 4
PROG_LOAD = 5
PROG_TEST_RUN = 10
BTF_GET_FD_BY_ID = 19
OBJ_GET_INFO_BY_FD = 15
RAW_TRACEPOINT_OPEN = 17
MAP_LOOKUP_AND_DELETE_ELEM = 21
MAP_LOOKUP_BATCH = 24
MAP_LOOKUP_AND_DELETE_BATCH = 25
MAP_UPDATE_BATCH = 26
MAP_DELETE_BATCH = 27
LINK_CREATE = 28
ENABLE_STATS = 32

_COMMAND_NAMES = {
    MAP_CREATE: "BPF_MAP_CREATE",
    MAP_LOOKUP_ELEM: "BPF_MAP_LOOKUP_ELEM",
    MAP_UPDATE_ELEM: "BPF_MAP_UPDATE_ELEM",
    MAP_DELETE_ELEM: "BPF_MAP_DELETE_ELEM",
    MAP_GET_NEXT_KEY: "BPF_MAP_GET_NEXT_KEY",
    PROG_LOAD: "BPF_PROG_LOAD",
    PROG_TEST_RUN: "BPF_PROG_TEST_RUN",
    BTF_GET_FD_BY_ID: "BPF_BTF_GET_FD_BY_ID",
    OBJ_GET_INFO_BY_FD: "BPF_OBJ_GET_INFO_BY_FD",
    RAW_TRACEPOINT_OPEN: "BPF_RAW_TRACEPOINT_OPEN",
    MAP_LOOKUP_AND_DELETE_ELEM: "BPF_MAP_LOOKUP_AND_DELETE_ELEM",
    MAP_LOOKUP_BATCH: "BPF_MAP_LOOKUP_BATCH",
    MAP_LOOKUP_AND_DELETE_BATCH: "BPF_MAP_LOOKUP_AND_DELETE_BATCH",
    MAP_UPDATE_BATCH: "BPF_MAP_UPDATE_BATCH",
    MAP_DELETE_BATCH: "BPF_MAP_DELETE_BATCH",
    LINK_CREATE: "BPF_LINK_CREATE",
    ENABLE_STATS: "BPF_ENABLE_STATS",
}

STATS_RUN_TIME = 0

MEMBARRIER_QUERY = 0
MEMBARRIER_GLOBAL = 1 << 0
MEMBARRIER_PRIVATE_EXPEDITED = 1 << 3
MEMBARRIER_REGISTER_PRIVATE_EXPEDITED = 1 << 4

ENOTSUPP = 524
"""The kernel's own "not supported", which it should not leak to user space but does from bpf(2)."""

_REMEDIES = {
    errno.ENOMEM: "Raise the memory limit of the process: BPF maps count towards it",
    errno.ENOSYS: "Use a kernel built with CONFIG_BPF_SYSCALL",
    errno.EMFILE: "Raise the limit of open files (ulimit -n)",
    errno.ENFILE: "Raise the limit of open files (sysctl fs.file-max)",
}


class MapElement(ctypes.Structure):
    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class MapBatch(ctypes.Structure):
    _fields_ = (
        ("in_batch", ctypes.c_uint64),
        ("out_batch", ctypes.c_uint64),
        ("keys", ctypes.c_uint64),
        ("values", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
        ("map_fd", ctypes.c_uint32),
        ("elem_flags", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


class MapCreate(ctypes.Structure):
    _fields_ = (
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * 16),
    )


class ProgLoad(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        ("prog_btf_fd", ctypes.c_uint32),
        ("func_info_rec_size", ctypes.c_uint32),
        ("func_info", ctypes.c_uint64),
        ("func_info_cnt", ctypes.c_uint32),
        ("line_info_rec_size", ctypes.c_uint32),
        ("line_info", ctypes.c_uint64),
        ("line_info_cnt", ctypes.c_uint32),
        ("attach_btf_id", ctypes.c_uint32),
    )


class TestRun(ctypes.Structure):
    __test__ = False
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
    )


class RawTracepoint(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_uint64),
        ("prog_fd", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
    )


class LinkCreate(ctypes.Structure):
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("relative_fd", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
        ("expected_revision", ctypes.c_uint64),
    )


class ObjectInfo(ctypes.Structure):
    _fields_ = (
        ("bpf_fd", ctypes.c_uint32),
        ("info_len", ctypes.c_uint32),
        ("info", ctypes.c_uint64),
    )


class MapInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
    )


class BtfInfo(ctypes.Structure):
    _fields_ = (
        ("btf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
    )


class ProgInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("_code", ctypes.c_uint64 * 3),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
        ("_to_run_time", ctypes.c_uint8 * (192 - 80)),
        ("run_time_ns", ctypes.c_uint64),
        ("run_cnt", ctypes.c_uint64),
        ("recursion_misses", ctypes.c_uint64),
        ("verified_insns", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
    )


class EnableStats(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint32),)


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def remedy_for(number: int) -> str:
    """One sentence for errors that mean the same in each call, "" for the others."""
    if number in (errno.EPERM, errno.EACCES):
        return capabilities.remedy()
    return _REMEDIES.get(number, "")


def _number(index: int, call: str) -> int:
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise KernelError(
            call,
            errno.ENOSYS,
            f"Run on one of: {', '.join(_NUMBERS)}",
            detail=f"not known on {machine}",
        )
    return _NUMBERS[machine][index]


_bpf_number: int | None = None


def bpf_try(command: int, attributes: ctypes.Structure) -> int:
    """bpf(2) that returns a result >= 0, or the negative errno. Retries when interrupted."""
    global _bpf_number
    if _bpf_number is None:
        _bpf_number = _number(0, "bpf")
    while True:
        result: int = _syscall(
            _bpf_number, command, ctypes.byref(attributes), ctypes.sizeof(attributes)
        )
        if result >= 0:
            return result
        number = ctypes.get_errno()
        if number not in (errno.EINTR, errno.EAGAIN):
            return -number


def bpf(
    command: int,
    attributes: ctypes.Structure,
    *,
    error: type[KernelError] = KernelError,
    detail: str = "",
    remedy: str = "",
) -> int:
    """bpf(2). Raises `error` with `remedy`, or with the remedy that the errno itself suggests."""
    result = bpf_try(command, attributes)
    if result < 0:
        raise error(command_name(command), -result, remedy or remedy_for(-result), detail=detail)
    return result


def command_name(command: int) -> str:
    """As strace writes it."""
    return f"bpf({_COMMAND_NAMES.get(command, command)})"


def membarrier(command: int) -> int:
    """membarrier(2): the result of a query, 0 for a barrier. Raises KernelError."""
    result: int = _syscall(_number(1, "membarrier"), command, 0, 0)
    if result < 0:
        raise KernelError("membarrier", ctypes.get_errno())
    return result


def setns(fd: int, kind: int) -> None:
    """setns(2) for the calling thread alone. Raises KernelError."""
    if _libc.setns(fd, kind) != 0:
        number = ctypes.get_errno()
        raise KernelError(
            "setns",
            number,
            "Give the process CAP_SYS_ADMIN, or do not enter other namespaces"
            if number == errno.EPERM
            else "",
        )


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread alone. Raises KernelError."""
    if _libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise KernelError(
            "unshare",
            number,
            "Give the process CAP_SYS_ADMIN" if number == errno.EPERM else "",
        )


def object_info(fd: int, info: Any) -> None:
    """Fills an info structure (MapInfo, ProgInfo, BtfInfo). Raises KernelError."""
    bpf(
        OBJ_GET_INFO_BY_FD,
        ObjectInfo(fd, ctypes.sizeof(info), ctypes.addressof(info)),
        detail=f"descriptor {fd}",
    )


def map_info(fd: int) -> MapInfo:
    """What the kernel knows of a map. Raises KernelError."""
    info = MapInfo()
    object_info(fd, info)
    return info


def prog_info(fd: int) -> ProgInfo:
    """What the kernel knows of a program. Raises KernelError.

    `run_cnt` and `run_time_ns` grow while BPF statistics are on; `recursion_misses` are runs
    skipped because the program was already running on that CPU; `verified_insns` is its length
    as the verifier walked it.
    """
    info = ProgInfo()
    object_info(fd, info)
    return info


def enable_run_time_stats() -> int:
    """A descriptor: programs count their runs and time until it is closed (BPF_STATS_RUN_TIME).

    It costs every program on the machine tens of ns a run. Raises KernelError.
    """
    return bpf(ENABLE_STATS, EnableStats(STATS_RUN_TIME))


def close_quietly(fd: int) -> None:
    """Closes a descriptor that nobody can do anything about if closing fails."""
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            return
