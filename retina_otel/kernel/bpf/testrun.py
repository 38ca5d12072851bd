"""Runs a loaded program on bytes we give it (BPF_PROG_TEST_RUN): golden packets and benchmarks."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from retina_otel.errors import KernelError
from retina_otel.kernel import syscall


class Ran(NamedTuple):
    """What a run returned, and the mean time of one run in ns as the kernel measured it."""

    retval: int
    """Unsigned: TC_ACT_UNSPEC (-1) is 0xffffffff."""
    ns: int


def run(prog_fd: int, data: bytes = b"", repeat: int = 1, *, context: bytes = b"") -> Ran:
    """Runs a program `repeat` times on one packet or context. Raises KernelError.

    `data` is the frame for tc, XDP, cgroup_skb and socket filters (the kernel refuses IPv4 frames
    under 34 bytes and IPv6 under 54); `context` is a `struct __sk_buff` for them, if given, and the
    whole argument of "syscall" programs. The GIL is free while it runs.
    """
    data_in = ctypes.create_string_buffer(data, len(data)) if data else None
    context_in = ctypes.create_string_buffer(context, len(context)) if context else None
    attributes = syscall.TestRun(
        prog_fd=prog_fd,
        data_size_in=len(data),
        data_in=ctypes.addressof(data_in) if data_in else 0,
        repeat=repeat if data else 0,
        ctx_size_in=len(context),
        ctx_in=ctypes.addressof(context_in) if context_in else 0,
    )
    result = syscall.bpf_try(syscall.PROG_TEST_RUN, attributes)
    if result < 0:
        raise KernelError(
            syscall.command_name(syscall.PROG_TEST_RUN),
            -result,
            syscall.remedy_for(-result),
            detail=f"{len(data)} bytes, {repeat} times",
        )
    return Ran(int(attributes.retval), int(attributes.duration))


_SK_BUFF_SIZE = 192
_SK_BUFF_OFFSETS = {
    "mark": 8,
    "priority": 32,
    "ingress_ifindex": 36,
    "ifindex": 40,
    "cb": 48,
    "tstamp": 152,
    "wire_len": 160,
    "gso_segs": 164,
    "gso_size": 176,
}


def sk_buff(**fields: int) -> bytes:
    """A `struct __sk_buff` for `run(context=...)`; the kernel takes these fields: mark, priority,
    ifindex, wire_len, gso_segs, gso_size, tstamp (ns). Raises KeyError for another."""
    packed = bytearray(_SK_BUFF_SIZE)
    for name, value in fields.items():
        size = 8 if name == "tstamp" else 4
        at = _SK_BUFF_OFFSETS[name]
        packed[at : at + size] = value.to_bytes(size, "little")
    return bytes(packed)
