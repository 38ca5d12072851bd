"""ctypes declarations over libbpf.so.1, and an open BPF object with what libbpf said about it.

libbpf opens, relocates (CO-RE) and loads objects; attaching and map access are ours, by bpf(2).
Its messages come through one process-wide callback: loading holds a lock while it listens.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from retina_otel.errors import KernelError, LoadError
from retina_otel.kernel.capabilities import missing_for_bpf
from retina_otel.kernel.syscall import remedy_for

SONAME = "libbpf.so.1"
LIBRARY_REMEDY = (
    "Install libbpf 1.0 or newer (Debian, Ubuntu: libbpf1; Fedora, RHEL: libbpf; Alpine: libbpf)"
)
BTF_REMEDY = "Use a kernel built with CONFIG_DEBUG_INFO_BTF (it has /sys/kernel/btf/vmlinux)"
_LOG_TAIL_LINES = 40
_LIBBPF_ERRNO = 4000
_OPEN_REMEDIES = {
    errno.ENOENT: "Build the BPF objects (make objects)",
    errno.EACCES: "Let the agent read the file",
    errno.ENOEXEC: "The file is damaged: install the package again (in a clone: make objects)",
}

_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_POINTER = ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "libbpf_set_print": (_POINTER, (_PRINT,)),
    "libbpf_major_version": (ctypes.c_uint32, ()),
    "libbpf_minor_version": (ctypes.c_uint32, ()),
    "bpf_object__open_file": (_POINTER, (ctypes.c_char_p, _POINTER)),
    "bpf_object__load": (ctypes.c_int, (_POINTER,)),
    "bpf_object__close": (None, (_POINTER,)),
    "bpf_object__btf": (_POINTER, (_POINTER,)),
    "bpf_object__next_map": (_POINTER, (_POINTER, _POINTER)),
    "bpf_object__next_program": (_POINTER, (_POINTER, _POINTER)),
    "bpf_map__name": (ctypes.c_char_p, (_POINTER,)),
    "bpf_map__fd": (ctypes.c_int, (_POINTER,)),
    "bpf_map__type": (ctypes.c_int, (_POINTER,)),
    "bpf_map__key_size": (ctypes.c_uint32, (_POINTER,)),
    "bpf_map__value_size": (ctypes.c_uint32, (_POINTER,)),
    "bpf_map__max_entries": (ctypes.c_uint32, (_POINTER,)),
    "bpf_map__set_max_entries": (ctypes.c_int, (_POINTER, ctypes.c_uint32)),
    "bpf_map__btf_key_type_id": (ctypes.c_uint32, (_POINTER,)),
    "bpf_map__btf_value_type_id": (ctypes.c_uint32, (_POINTER,)),
    "bpf_map__initial_value": (_POINTER, (_POINTER, ctypes.POINTER(ctypes.c_size_t))),
    "bpf_map__is_internal": (ctypes.c_bool, (_POINTER,)),
    "bpf_program__name": (ctypes.c_char_p, (_POINTER,)),
    "bpf_program__fd": (ctypes.c_int, (_POINTER,)),
    "bpf_program__set_autoload": (ctypes.c_int, (_POINTER, ctypes.c_bool)),
    "btf__raw_data": (_POINTER, (_POINTER, ctypes.POINTER(ctypes.c_uint32))),
    "btf__load_vmlinux_btf": (_POINTER, ()),
    "btf__free": (None, (_POINTER,)),
    "btf__find_by_name_kind": (ctypes.c_int, (_POINTER, ctypes.c_char_p, ctypes.c_uint32)),
    "btf__find_by_name": (ctypes.c_int, (_POINTER, ctypes.c_char_p)),
    "btf__type_by_id": (_POINTER, (_POINTER, ctypes.c_uint32)),
    "btf__name_by_offset": (ctypes.c_char_p, (_POINTER, ctypes.c_uint32)),
    "btf_dump__new": (_POINTER, (_POINTER, _POINTER, _POINTER, _POINTER)),
    "btf_dump__dump_type": (ctypes.c_int, (_POINTER, ctypes.c_uint32)),
    "btf_dump__free": (None, (_POINTER,)),
    "btf__type_cnt": (ctypes.c_uint32, (_POINTER,)),
}


@cache
def library() -> Any:
    """The loaded libbpf, declared. Raises LoadError if the machine has none of version 1."""
    try:
        lib = ctypes.CDLL(SONAME, use_errno=True)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(lib, name)
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError) as error:
        raise LoadError(
            f"dlopen({SONAME})", errno.ENOENT, LIBRARY_REMEDY, detail=str(error)
        ) from error
    lib.libbpf_set_print(_on_message)
    return lib


def version() -> tuple[int, int]:
    """(major, minor) of the library. Raises LoadError."""
    lib = library()
    return int(lib.libbpf_major_version()), int(lib.libbpf_minor_version())


_vasprintf = ctypes.CDLL(None).vasprintf
_vasprintf.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_void_p)
_free = ctypes.CDLL(None).free
_free.argtypes = (ctypes.c_void_p,)
_listening = threading.Lock()
_heard: list[str] = []


def _hear(level: int, text: int | None, arguments: int | None) -> int:
    # Level 2 is debug. A va_list reaches a callee as one pointer on x86-64 and on aarch64 alike.
    if level > 1 or not _listening.locked():
        return 0
    out = ctypes.c_void_p()
    length: int = _vasprintf(ctypes.byref(out), text, arguments)
    if length >= 0 and out.value:
        _heard.append(ctypes.string_at(out.value, length).decode(errors="replace"))
        _free(out)
    return length


_on_message = _PRINT(_hear)


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map as its object declares it; `fd` is -1 until the object is loaded."""

    name: str
    """As in the source; data sections are ".bss", ".data", ".rodata", ".data.x"."""
    type: int
    key_size: int
    value_size: int
    max_entries: int
    key_type_id: int
    value_type_id: int
    fd: int


class BpfObject:
    """An open BPF object: configure, `load()`, read descriptors, `close()` (closes them all)."""

    def __init__(self, path: str) -> None:
        """Raises LoadError if the file can't be read or is no BPF object."""
        self._lib = library()
        self.path = path
        with _listening:
            _heard.clear()
            self._object: int | None = self._lib.bpf_object__open_file(path.encode(), None)
            if not self._object:
                number = _errno()
                raise LoadError(
                    "bpf_object__open_file",
                    number,
                    _OPEN_REMEDIES.get(number, ""),
                    detail=path,
                    log_tail="" if number in _OPEN_REMEDIES else _tail(_heard),
                )

    def btf_bytes(self) -> bytes:
        """The object's BTF, with variable offsets filled in (in the file they are relocations)."""
        size = ctypes.c_uint32()
        data = self._lib.btf__raw_data(self._lib.bpf_object__btf(self._object), ctypes.byref(size))
        if not data:
            raise LoadError(
                "btf__raw_data",
                errno.ENODATA,
                "Build the object with clang -g",
                detail=f"{self.path} has no BTF",
            )
        return ctypes.string_at(data, size.value)

    def maps(self) -> list[MapSpec]:
        """All maps, data sections included."""
        lib = self._lib
        return [
            MapSpec(
                name=_map_name(lib, handle),
                type=lib.bpf_map__type(handle),
                key_size=lib.bpf_map__key_size(handle),
                value_size=lib.bpf_map__value_size(handle),
                max_entries=lib.bpf_map__max_entries(handle),
                key_type_id=lib.bpf_map__btf_key_type_id(handle),
                value_type_id=lib.bpf_map__btf_value_type_id(handle),
                fd=max(lib.bpf_map__fd(handle), -1),
            )
            for handle in self._map_handles()
        ]

    def programs(self) -> dict[str, int]:
        """Program descriptors by function name; -1 for those not loaded."""
        lib = self._lib
        return {
            lib.bpf_program__name(handle).decode(): max(lib.bpf_program__fd(handle), -1)
            for handle in self._program_handles()
        }

    def set_max_entries(self, name: str, max_entries: int) -> None:
        """Before load. Raises LoadError, KeyError if there is no such map."""
        result = self._lib.bpf_map__set_max_entries(self._map_handle(name), max_entries)
        if result != 0:
            raise LoadError("bpf_map__set_max_entries", -result, detail=f"{name} to {max_entries}")

    def set_autoload(self, program: str, enabled: bool) -> None:
        """Before load: leave a program out. Raises KeyError if there is no such program."""
        for handle in self._program_handles():
            if self._lib.bpf_program__name(handle).decode() == program:
                self._lib.bpf_program__set_autoload(handle, enabled)
                return
        raise KeyError(program)

    def write_initial(self, section: str, offset: int, data: bytes) -> None:
        """Before load: overwrite bytes of a data section. Raises KeyError, LoadError."""
        size = ctypes.c_size_t()
        start = self._lib.bpf_map__initial_value(self._map_handle(section), ctypes.byref(size))
        if not start or offset + len(data) > size.value:
            raise LoadError("bpf_map__initial_value", errno.EINVAL, detail=f"{section} at {offset}")
        ctypes.memmove(start + offset, data, len(data))

    def load(self) -> None:
        """Creates the maps and loads the programs. Raises LoadError with the end of the log."""
        with _listening:
            _heard.clear()
            result = self._lib.bpf_object__load(self._object)
            heard = list(_heard)
            _heard.clear()
        if result == 0:
            return
        number = -result
        remedy = load_remedy(number, "".join(heard))
        raise LoadError(
            "bpf_object__load",
            number,
            remedy,
            detail=self.path.rsplit("/", 1)[-1],
            log_tail="" if remedy == remedy_for(errno.EPERM) else _tail(heard),
        )

    def close(self) -> None:
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None

    def _map_handles(self) -> Iterator[int]:
        return _walk(self._lib.bpf_object__next_map, self._object)

    def _program_handles(self) -> Iterator[int]:
        return _walk(self._lib.bpf_object__next_program, self._object)

    def _map_handle(self, name: str) -> int:
        for handle in self._map_handles():
            if _map_name(self._lib, handle) == name:
                return handle
        raise KeyError(name)


def _walk(following: Any, owner: int | None) -> Iterator[int]:
    handle = following(owner, None)
    while handle:
        yield handle
        handle = following(owner, handle)


def _map_name(lib: Any, handle: int) -> str:
    # Data sections are called "<object, cut to 8>.bss": what comes after the dot is what is stable.
    name: str = lib.bpf_map__name(handle).decode()
    return name[name.index(".") :] if lib.bpf_map__is_internal(handle) and "." in name else name


def _tail(messages: list[str]) -> str:
    lines = "".join(messages).splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])


def _errno() -> int:
    # libbpf has numbers of its own for what is wrong with a file.
    number = ctypes.get_errno()
    return errno.ENOEXEC if number >= _LIBBPF_ERRNO else number


def load_remedy(number: int, log: str) -> str:
    """What to do about an object that libbpf could not load, by what it said."""
    if number in (errno.EPERM, errno.EACCES) and missing_for_bpf():
        return remedy_for(number)
    if "invalid func unknown#" in log or "unknown func bpf_" in log:
        return "Use Linux 5.17 or newer: this one lacks a function that the program calls"
    if "BEGIN PROG LOAD LOG" in log:
        return (
            "The kernel's verifier refused a program: report it with the log below and `uname -r`"
        )
    if "failed to find valid kernel BTF" in log:
        return BTF_REMEDY
    return remedy_for(number) or "Check that the kernel is 5.14 or newer"


class VmlinuxBtf:
    """The running kernel's BTF, held by libbpf: 9 ms and 6 MB while it is open, nothing after.

    Use as a context manager. Raises KernelError on open where the kernel has no BTF.
    """

    def __init__(self) -> None:
        self._lib = library()
        self._btf: int | None = self._lib.btf__load_vmlinux_btf()
        if not self._btf:
            raise KernelError(
                "btf__load_vmlinux_btf",
                errno.ENOENT if ctypes.get_errno() == errno.ESRCH else _errno(),
                BTF_REMEDY,
            )

    def __enter__(self) -> VmlinuxBtf:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._btf:
            self._lib.btf__free(self._btf)
            self._btf = None

    def find(self, name: str, kind: int = 0) -> int:
        """Type id, 0 if the kernel has no such type. `kind` 0 means any."""
        if kind:
            found = self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)
        else:
            found = self._lib.btf__find_by_name(self._btf, name.encode())
        return max(int(found), 0)

    def type_bytes(self, type_id: int, extra: int) -> tuple[bytes, bytes]:
        """The 12 bytes of a `struct btf_type`, and what follows it: `extra` bytes per vlen."""
        address = self._lib.btf__type_by_id(self._btf, type_id)
        head = ctypes.string_at(address, 12)
        vlen = int.from_bytes(head[4:6], "little")
        return head, ctypes.string_at(address + 12, vlen * extra)

    def name_at(self, offset: int) -> str:
        name = self._lib.btf__name_by_offset(self._btf, offset)
        return name.decode() if name else ""

    def dump_c(self, path: str) -> None:
        """Writes every type as C into a file: what `bpftool btf dump ... format c` writes."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fopen.restype = ctypes.c_void_p
        libc.fclose.argtypes = (ctypes.c_void_p,)
        stream = libc.fopen(path.encode(), b"w")
        if not stream:
            raise KernelError("fopen", ctypes.get_errno(), detail=path)
        # vfprintf(stream, format, va_list) has the very signature of libbpf's dump callback.
        printer = ctypes.cast(libc.vfprintf, ctypes.c_void_p)
        dump = self._lib.btf_dump__new(self._btf, printer, stream, None)
        try:
            for type_id in range(1, self._lib.btf__type_cnt(self._btf)):
                self._lib.btf_dump__dump_type(dump, type_id)
        finally:
            self._lib.btf_dump__free(dump)
            libc.fclose(stream)
