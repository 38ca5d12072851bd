"""Attaches programs to hooks. What is attached is a Link, and is gone when the link is closed.

Everything but clsact is a kernel link: it also goes when the process ends, however it ends.
Programs on tcx and clsact return TC_ACT_UNSPEC (TCX_NEXT), so others behind them see each packet.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Literal, Protocol

from retina_otel.errors import AttachError
from retina_otel.kernel import syscall
from retina_otel.kernel.net.clsact import attach as clsact
from retina_otel.kernel.net.clsact import remove_stray as remove_stray_clsact

__all__ = ["Link", "cgroup", "clsact", "raw_tp", "remove_stray_clsact", "tcx", "tp_btf"]

TCX_INGRESS = 46
TCX_EGRESS = 47
CGROUP_INET_INGRESS = 0
CGROUP_INET_EGRESS = 1
CGROUP_INET_SOCK_CREATE = 2
CGROUP_SOCK_OPS = 3

_F_BEFORE = 1 << 3
_F_AFTER = 1 << 4

Position = Literal["first", "last"]


class Link(Protocol):
    """Something attached. Closing it twice is allowed."""

    def __enter__(self) -> Link: ...

    def __exit__(self, *exception: object) -> None: ...

    def close(self) -> None:
        """Detaches."""


class KernelLink:
    """A link that the kernel holds for a descriptor of ours."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> KernelLink:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Detaches. When the device is gone already, so is the program: that is no error."""
        syscall.close_quietly(self.fd)
        self.fd = -1


def tcx(prog_fd: int, ifindex: int, ingress: bool, position: Position = "first") -> KernelLink:
    """Attaches a tc program to an interface of the calling thread's namespace (kernel 6.6+).

    `position` is relative to the programs there now; later ones choose their own place. Raises
    AttachError: EINVAL where the kernel has no tcx, ENODEV where it has no such interface.
    """
    return KernelLink(
        syscall.bpf(
            syscall.LINK_CREATE,
            syscall.LinkCreate(
                prog_fd=prog_fd,
                target=ifindex,
                attach_type=TCX_INGRESS if ingress else TCX_EGRESS,
                flags=_F_BEFORE if position == "first" else _F_AFTER,
            ),
            error=AttachError,
            detail=f"tcx {'ingress' if ingress else 'egress'} of interface {ifindex}",
        )
    )


def tp_btf(prog_fd: int) -> KernelLink:
    """Attaches a BTF tracepoint program to the tracepoint it was loaded for. Raises AttachError."""
    return KernelLink(
        syscall.bpf(
            syscall.RAW_TRACEPOINT_OPEN,
            syscall.RawTracepoint(name=0, prog_fd=prog_fd),
            error=AttachError,
            detail="tp_btf",
        )
    )


def raw_tp(prog_fd: int, name: str) -> KernelLink:
    """Attaches a raw tracepoint program to the tracepoint `name`. Raises AttachError."""
    buffer = ctypes.create_string_buffer(name.encode())
    return KernelLink(
        syscall.bpf(
            syscall.RAW_TRACEPOINT_OPEN,
            syscall.RawTracepoint(name=ctypes.addressof(buffer), prog_fd=prog_fd),
            error=AttachError,
            detail=f"raw_tp {name}",
        )
    )


def cgroup(prog_fd: int, path: str, attach_type: int) -> KernelLink:
    """Attaches to a cgroup v2 directory and all below it, beside others' programs. AttachError."""
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise AttachError(
            "open", error.errno or errno.EIO, "Mount cgroup v2 and name it", detail=path
        ) from error
    try:
        return KernelLink(
            syscall.bpf(
                syscall.LINK_CREATE,
                syscall.LinkCreate(prog_fd=prog_fd, target=directory, attach_type=attach_type),
                error=AttachError,
                detail=f"cgroup {path}",
            )
        )
    finally:
        os.close(directory)
