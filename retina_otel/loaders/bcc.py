"""The other loader: BCC compiles a C text on this machine, in a child process that then exits.

For kernels without what `core` needs, and for users' own programs. BCC costs 155 MB and a second
while it compiles; none of it stays. Kernel structs are read by the offsets of the running kernel:
its BTF stands in for kernel headers.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retina_otel.errors import LoadError
from retina_otel.kernel import syscall
from retina_otel.kernel.bpf.btf import Btf
from retina_otel.kernel.bpf.maps import TYPE_RINGBUF
from retina_otel.loaders.base import Loaded, MapHandle

REMEDY = (
    "Install the distribution's BCC for Python (Debian, Ubuntu: python3-bpfcc; Fedora, RHEL: "
    "python3-bcc); the package of that name on PyPI is something else"
)
_CHILD = Path(__file__).with_name("bcc_child.py")
_NO_BCC = 3
_MAX_ANSWER_BYTES = 1 << 16
_MAX_DESCRIPTORS = 253  # SCM_MAX_FD
_PATIENCE_S = 60.0
_LOG_TAIL_LINES = 40
_KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")

_EMPTY_HEADERS = (
    "linux/types.h",
    "linux/version.h",
    "linux/log2.h",
    "linux/bpf.h",
    "linux/skbuff.h",
    "linux/netdevice.h",
    "uapi/linux/bpf.h",
    "uapi/linux/if_packet.h",
)
_KCONFIG = """\
#ifndef RT_STAND_IN_KCONFIG
#define RT_STAND_IN_KCONFIG
#define BPF_NO_PRESERVE_ACCESS_INDEX
#define CONFIG_BPF_SYSCALL 1
#define __BPF_TRACING__ 1
#define LINUX_VERSION_CODE {version_code}
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define _UAPI__LINUX_BPF_H__
#include <vmlinux.h>
#define __packed __attribute__((packed))
#define __force
#define __user
#define __percpu
#define __rcu
#ifndef NULL
#define NULL ((void *)0)
#endif
#endif
"""
_PAGE = """\
#ifndef RT_STAND_IN_PAGE
#define RT_STAND_IN_PAGE
#define PAGE_SHIFT {shift}
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#endif
"""


def load(
    text: str,
    programs: Mapping[str, str] | None = None,
    defines: Mapping[str, int] | None = None,
    interpreters: Sequence[str] = (),
) -> Loaded:
    """Compiles and loads a text in BCC's dialect of C; attaches nothing.

    `programs` gives the type of each function that is a program ("SCHED_CLS", "RAW_TRACEPOINT",
    "XDP", as bcc.BPF calls them); BCC's own macros say it themselves (RAW_TRACEPOINT_PROBE makes
    raw_tracepoint__NAME). `defines` are preprocessor constants, for sizes and settings. For the
    record of a ring `events` declare BPF_ARRAY(rt_ring__events, struct ..., 1): a map's types come
    from its BTF. `interpreters` are Pythons to try, by default ours and the system's. Raises
    LoadError, with the compiler's or verifier's last words.
    """
    job: dict[str, Any] = {"text": text, "programs": dict(programs or {})}
    with tempfile.TemporaryDirectory(prefix="retina-otel-bcc-") as directory:
        environment = dict(os.environ)
        job["flags"] = [f"-D{name}={value}" for name, value in (defines or {}).items()]
        if _KERNEL_BTF.exists():
            _write_headers(Path(directory))
            environment["BCC_KERNEL_SOURCE"] = directory
        elif not _own_headers():
            raise LoadError(
                "bcc",
                errno.ENOENT,
                "Use a kernel with BTF, or install the headers of this very kernel",
                detail=f"neither BTF nor headers of {platform.release()}",
            )
        for interpreter in interpreters or _interpreters():
            loaded = _run(interpreter, job, environment)
            if loaded is not None:
                return loaded
    raise LoadError("import bcc", errno.ENOENT, REMEDY, detail="no Python here has it")


def _interpreters() -> Iterator[str]:
    found = (sys.executable, "/usr/bin/python3", shutil.which("python3"))
    return iter(dict.fromkeys(one for one in found if one and os.path.exists(one)))


def _own_headers() -> bool:
    # BCC would take headers of another release as well, and read the wrong offsets in silence.
    return Path(f"/lib/modules/{platform.release()}/build").exists()


def _write_headers(root: Path) -> None:
    include = root / "include"
    for name in _EMPTY_HEADERS:
        (include / name).parent.mkdir(parents=True, exist_ok=True)
        (include / name).write_text("")
    (include / "asm").mkdir(exist_ok=True)
    (include / "asm/page.h").write_text(
        _PAGE.format(shift=os.sysconf("SC_PAGE_SIZE").bit_length() - 1)
    )
    (include / "linux/kconfig.h").write_text(_KCONFIG.format(version_code=_version_code()))
    Btf.vmlinux().write_header(str(include / "vmlinux.h"))


def _version_code() -> int:
    numbers = [0, 0, 0]
    for at, part in enumerate(platform.release().split("-")[0].split(".")[:3]):
        digits = "".join(letter for letter in part if letter.isdigit())
        numbers[at] = int(digits or 0)
    major, minor, patch = numbers
    return (major << 16) + (minor << 8) + min(patch, 255)


def _run(interpreter: str, job: Mapping[str, Any], environment: Mapping[str, str]) -> Loaded | None:
    """What the child made; None if this interpreter has no bcc. Raises LoadError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        try:
            done = subprocess.run(
                # Isolated: else the folder of the child, with this very bcc.py, comes first.
                [interpreter, "-I", str(_CHILD), str(theirs.fileno()), json.dumps(job)],
                pass_fds=(theirs.fileno(),),
                env=dict(environment),
                capture_output=True,
                timeout=_PATIENCE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LoadError(
                "bcc", getattr(error, "errno", None) or errno.ETIMEDOUT, detail=str(error)
            ) from error
        if done.returncode == _NO_BCC:
            return None
        theirs.close()
        message, fds, _flags, _address = socket.recv_fds(ours, _MAX_ANSWER_BYTES, _MAX_DESCRIPTORS)
    log = done.stderr.decode(errors="replace").splitlines()
    answer: dict[str, Any] = (
        json.loads(message) if message else {"error": f"exit status {done.returncode}"}
    )
    if "error" in answer:
        raise LoadError(
            "bcc",
            errno.EINVAL,
            "Correct the program's text: the compiler or the verifier refused it",
            detail=answer["error"],
            log_tail="\n".join(log[-_LOG_TAIL_LINES:]),
        )
    return _loaded(answer, fds)


def _loaded(answer: Mapping[str, list[str]], fds: Sequence[int]) -> Loaded:
    map_names = answer["maps"]
    map_fds = dict(zip(map_names, fds, strict=False))
    program_fds = dict(zip(answer["programs"], fds[len(map_names) :], strict=True))

    def release() -> None:
        while fds_left:
            syscall.close_quietly(fds_left.pop())

    fds_left = list(fds)
    try:
        handles = {name: _handle(fd) for name, fd in map_fds.items()}
        for name, handle in handles.items():
            record = handles.get(f"rt_ring__{name}")
            if handle.type == TYPE_RINGBUF and record is not None:
                handles[name] = MapHandle(
                    handle.fd, handle.type, handle.key_dtype, record.value_dtype, handle.max_entries
                )
        btf = _first_btf(map_fds.values())
    except BaseException:
        release()
        raise
    return Loaded(maps=handles, programs=program_fds, btf=btf, release=release)


def _handle(fd: int) -> MapHandle:
    info = syscall.map_info(fd)
    btf = Btf.from_id(info.btf_id) if info.btf_id else None
    return MapHandle(
        fd=fd,
        type=int(info.type),
        key_dtype=_dtype(btf, info.btf_key_type_id, info.key_size),
        value_dtype=_dtype(btf, info.btf_value_type_id, info.value_size),
        max_entries=int(info.max_entries),
    )


def _dtype(btf: Btf | None, type_id: int, size: int) -> np.dtype[Any]:
    if btf is not None and type_id:
        return btf.dtype_of(type_id)
    return np.dtype(f"V{size}")


def _first_btf(fds: Any) -> Btf:
    for fd in fds:
        btf_id = syscall.map_info(fd).btf_id
        if btf_id:
            return Btf.from_id(btf_id)
    return Btf.empty()
