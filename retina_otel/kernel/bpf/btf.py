"""Types by their BTF: numpy dtypes, enums, variables. What C declares is never written twice.

`Btf` holds the parsed types of one object (a few hundred); the kernel's own 150,000 are never
parsed: `Btf.vmlinux()` asks libbpf for one type at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from retina_otel.errors import KernelError
from retina_otel.kernel import syscall
from retina_otel.kernel.bpf.libbpf import BpfObject, VmlinuxBtf

KIND_INT = 1
KIND_PTR = 2
KIND_ARRAY = 3
KIND_STRUCT = 4
KIND_UNION = 5
KIND_ENUM = 6
KIND_FWD = 7
KIND_TYPEDEF = 8
KIND_VOLATILE = 9
KIND_CONST = 10
KIND_RESTRICT = 11
KIND_FUNC = 12
KIND_FUNC_PROTO = 13
KIND_VAR = 14
KIND_DATASEC = 15
KIND_FLOAT = 16
KIND_DECL_TAG = 17
KIND_TYPE_TAG = 18
KIND_ENUM64 = 19

_TRANSPARENT = frozenset({KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_TYPE_TAG})
# What follows the 12 bytes of a type: (fixed words of 4 bytes, words per vlen).
_TRAILERS = {
    KIND_INT: (1, 0),
    KIND_ARRAY: (3, 0),
    KIND_STRUCT: (0, 3),
    KIND_UNION: (0, 3),
    KIND_ENUM: (0, 2),
    KIND_FUNC_PROTO: (0, 2),
    KIND_VAR: (1, 0),
    KIND_DATASEC: (0, 3),
    KIND_DECL_TAG: (1, 0),
    KIND_ENUM64: (0, 3),
}
_MAGIC = 0xEB9F
_NO_DATA = frozenset({".maps", "license", ".ksyms", ".kconfig"})


class BtfError(KernelError):
    """A type is missing from the BTF, or has no numpy form."""

    def __init__(self, detail: str, remedy: str = "") -> None:
        super().__init__("BTF", 22, remedy, detail=detail)


@dataclass(frozen=True, slots=True)
class Variable:
    """A global of a data section."""

    name: str
    section: str
    offset: int
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: int
    kind_flag: bool
    size_or_type: int
    words: tuple[int, ...]


class Btf:
    """The types of one BPF object."""

    def __init__(self, data: bytes) -> None:
        """`data` is a whole BTF blob. Raises BtfError if it is none."""
        with _reading():
            self._types = _parse(data)
            self._names = _strings(data)
        self._ids: dict[tuple[int, str], int] = {}
        for type_id, one in enumerate(self._types):
            if one.name:
                self._ids.setdefault((one.kind, one.name), type_id)
        self._dtypes: dict[int, np.dtype[Any]] = {}

    @classmethod
    def from_object(cls, path: str) -> Btf:
        """Of an object file, with the offsets of its variables. No privilege needed. LoadError."""
        opened = BpfObject(path)
        try:
            return cls(opened.btf_bytes())
        finally:
            opened.close()

    @classmethod
    def from_id(cls, btf_id: int) -> Btf:
        """Of something that is loaded (`MapInfo.btf_id`). Raises KernelError."""
        fd = syscall.bpf(syscall.BTF_GET_FD_BY_ID, _BtfById(btf_id))
        try:
            info = syscall.BtfInfo()
            syscall.object_info(fd, info)
            blob = ctypes.create_string_buffer(info.btf_size)
            info = syscall.BtfInfo(ctypes.addressof(blob), info.btf_size)
            syscall.object_info(fd, info)
            return cls(blob.raw)
        finally:
            syscall.close_quietly(fd)

    @classmethod
    def empty(cls) -> Btf:
        """No types: of an object that was loaded without any."""
        return cls(struct.pack("<HBBIIIII", _MAGIC, 1, 0, 24, 0, 0, 0, 1) + b"\0")

    @staticmethod
    def vmlinux() -> KernelTypes:
        """The running kernel's types, read on demand."""
        return KernelTypes()

    def dtype(self, name: str) -> np.dtype[Any]:
        """Of a struct, union or typedef: nested structs and arrays nest, padding is kept.

        Members of anonymous structs and unions stand in the parent; members of a union overlap.
        `char[n]` is bytes, a pointer is uint64. Raises BtfError: no such type, or a bit field.
        """
        for kind in (KIND_STRUCT, KIND_UNION, KIND_TYPEDEF):
            type_id = self._ids.get((kind, name))
            if type_id is not None:
                return self.dtype_of(type_id)
        raise BtfError(
            f"no type {name}",
            "Name it in a map definition or in a global variable: clang keeps only used types",
        )

    def dtype_of(self, type_id: int) -> np.dtype[Any]:
        """As `dtype`, by type id; 0 (void) has no bytes."""
        known = self._dtypes.get(type_id)
        if known is None:
            with _reading():
                known = self._dtypes[type_id] = self._make(type_id)
        return known

    def has_form(self, type_id: int) -> bool:
        """Whether `dtype_of` can say what it is (a data section has no form of its own)."""
        return self._types[self._resolve(type_id)].kind != KIND_DATASEC

    def enum(self, name: str) -> dict[int, str]:
        """Value to enumerator. Raises BtfError if there is no such enum."""
        for kind in (KIND_ENUM, KIND_ENUM64):
            type_id = self._ids.get((kind, name))
            if type_id is not None:
                one = self._types[type_id]
                return dict(_enumerators(kind, one.kind_flag, one.words, self._name))
        raise BtfError(f"no enum {name}")

    def variables(self, section: str | None = None) -> dict[str, Variable]:
        """Globals of .data, .bss, .rodata, or of the one `section`; no maps, no extern ones."""
        with _reading():
            return {one.name: one for one in self._variables(section)}

    def section_size(self, section: str) -> int:
        """Bytes of a data section. Raises BtfError if there is none."""
        type_id = self._ids.get((KIND_DATASEC, section))
        if type_id is None:
            raise BtfError(f"no data section {section}")
        return self._types[type_id].size_or_type

    def pointee(self, variable: str) -> np.dtype[Any] | None:
        """What a global pointer points to, None if there is no such variable."""
        type_id = self._ids.get((KIND_VAR, variable))
        if type_id is None:
            return None
        pointer = self._types[self._resolve(self._types[type_id].size_or_type)]
        if pointer.kind != KIND_PTR:
            raise BtfError(f"{variable} is no pointer")
        return self.dtype_of(pointer.size_or_type)

    def _variables(self, section: str | None) -> Iterator[Variable]:
        for datasec in self._types:
            if datasec.kind != KIND_DATASEC or datasec.name in _NO_DATA:
                continue
            if section is not None and datasec.name != section:
                continue
            for at in range(0, len(datasec.words), 3):
                variable = self._types[datasec.words[at]]
                if variable.kind == KIND_VAR:
                    dtype = self.dtype_of(variable.size_or_type)
                    yield Variable(variable.name, datasec.name, datasec.words[at + 1], dtype)

    def _name(self, offset: int) -> str:
        return _name_in(self._names, offset)

    def _resolve(self, type_id: int) -> int:
        for _ in self._types:
            if self._types[type_id].kind not in _TRANSPARENT:
                return type_id
            type_id = self._types[type_id].size_or_type
        raise BtfError("malformed: a type is its own alias")

    def _make(self, type_id: int) -> np.dtype[Any]:
        one = self._types[self._resolve(type_id)]
        match one.kind:
            case 0:
                return np.dtype("V0")
            case 1:  # KIND_INT
                return np.dtype(f"{'i' if one.words[0] >> 24 & 1 else 'u'}{one.size_or_type}")
            case 2:  # KIND_PTR
                return np.dtype("u8")
            case 3:  # KIND_ARRAY
                return self._array(one)
            case 4 | 5:  # KIND_STRUCT, KIND_UNION
                return self._record(one)
            case 6 | 19:  # KIND_ENUM, KIND_ENUM64
                return np.dtype(f"{'i' if one.kind_flag else 'u'}{one.size_or_type}")
            case 16:  # KIND_FLOAT
                return np.dtype(f"f{one.size_or_type}")
            case _:
                raise BtfError(f"{one.name or 'a type'} of kind {one.kind} has no numpy form")

    def _array(self, one: _Type) -> np.dtype[Any]:
        element_id, _, count = one.words
        element = self._types[self._resolve(element_id)]
        if element.kind == KIND_INT and element.name == "char":
            return np.dtype(f"S{count}")
        return np.dtype((self.dtype_of(element_id), (count,)))

    def _record(self, one: _Type) -> np.dtype[Any]:
        names: list[str] = []
        formats: list[np.dtype[Any]] = []
        offsets: list[int] = []
        for name, dtype, offset in self._members(one):
            names.append(name)
            formats.append(dtype)
            offsets.append(offset)
        return np.dtype(
            {
                "names": names,
                "formats": formats,
                "offsets": offsets,
                "itemsize": one.size_or_type,
            }
        )

    def _members(self, one: _Type) -> Iterator[tuple[str, np.dtype[Any], int]]:
        for at in range(0, len(one.words), 3):
            name_offset, type_id, where = one.words[at : at + 3]
            bits = where & 0xFFFFFF if one.kind_flag else where
            name = self._name(name_offset)
            if (one.kind_flag and where >> 24) or bits % 8:
                raise BtfError(f"{one.name}.{name} is a bit field", "Use whole bytes")
            inner = self._types[self._resolve(type_id)]
            if not name and inner.kind in (KIND_STRUCT, KIND_UNION):
                for inner_name, dtype, offset in self._members(inner):
                    yield inner_name, dtype, bits // 8 + offset
            elif not (inner.kind == KIND_ARRAY and inner.words[2] == 0):
                yield name, self.dtype_of(type_id), bits // 8


class KernelTypes:
    """The running kernel's types. Each question opens them for 9 ms; `with` keeps them open."""

    def __init__(self) -> None:
        self._open: VmlinuxBtf | None = None

    def __enter__(self) -> KernelTypes:
        self._open = VmlinuxBtf()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def enum(self, name: str) -> dict[int, str]:
        """Value to enumerator. Raises BtfError if this kernel has no such enum."""
        if self._open is None:
            with self:
                return self.enum(name)
        type_id = self._open.find(name, KIND_ENUM)
        if not type_id:
            raise BtfError(f"no enum {name} in this kernel")
        head, trailer = self._open.type_bytes(type_id, 8)
        flag = bool(head[7] & 0x80)
        words = struct.unpack(f"<{len(trailer) // 4}I", trailer)
        return dict(_enumerators(KIND_ENUM, flag, words, self._open.name_at))

    def has(self, name: str, kind: int = 0) -> bool:
        """Whether the kernel has a type, function or typedef of this name."""
        return self.type_id(name, kind) != 0

    def type_id(self, name: str, kind: int = 0) -> int:
        """What the kernel calls a type by when a program is loaded; 0 if it has none such."""
        if self._open is None:
            with self:
                return self.type_id(name, kind)
        return self._open.find(name, kind)

    def parameters(self, tracepoint: str) -> int:
        """How many values a raw tracepoint hands to its programs; 0 if there is no such one."""
        if self._open is None:
            with self:
                return self.parameters(tracepoint)
        type_id = self._open.find(f"btf_trace_{tracepoint}", KIND_TYPEDEF)
        for _ in range(2):  # typedef -> pointer -> prototype
            if not type_id:
                return 0
            head, _rest = self._open.type_bytes(type_id, 0)
            type_id = int.from_bytes(head[8:12], "little")
        head, _rest = self._open.type_bytes(type_id, 0)
        return int.from_bytes(head[4:6], "little") - 1  # the first is the probe's own data pointer

    def write_header(self, path: str) -> None:
        """Writes all types as C: a vmlinux.h of the running kernel, about 3 MB. KernelError."""
        if self._open is None:
            with self:
                return self.write_header(path)
        self._open.dump_c(path)
        return None


class _BtfById(ctypes.Structure):
    _fields_ = (
        ("btf_id", ctypes.c_uint32),
        ("next_id", ctypes.c_uint32),
        ("open_flags", ctypes.c_uint32),
    )


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Whatever goes wrong in reading bytes that are not what they should be is one error."""
    try:
        yield
    except (struct.error, LookupError, TypeError, ValueError, RecursionError) as error:
        raise BtfError(f"malformed: {error}") from error


def _header(data: bytes) -> tuple[int, int, int, int]:
    magic, _version, _flags, length, types, types_length, strings, strings_length = struct.unpack(
        "<HBBIIIII", data[:24]
    )
    if magic != _MAGIC:
        raise BtfError("no BTF: wrong magic number")
    return length + types, types_length, length + strings, strings_length


def _strings(data: bytes) -> bytes:
    _, _, start, length = _header(data)
    return data[start : start + length]


def _name_in(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode() if offset else ""


def _parse(data: bytes) -> list[_Type]:
    at, length, _, _ = _header(data)
    end = at + length
    if end > len(data):
        raise BtfError("malformed: types end behind the data")
    strings = _strings(data)
    types = [_Type("", 0, False, 0, ())]
    while at < end:
        name_offset, info, size_or_type = struct.unpack_from("<III", data, at)
        kind = info >> 24 & 0x1F
        fixed, each = _TRAILERS.get(kind, (0, 0))
        n_words = fixed + each * (info & 0xFFFF)
        words = struct.unpack_from(f"<{n_words}I", data, at + 12)
        name = _name_in(strings, name_offset)
        types.append(_Type(name, kind, bool(info >> 31), size_or_type, words))
        at += 12 + 4 * n_words
    return types


def _enumerators(
    kind: int, signed: bool, words: tuple[int, ...], name: Any
) -> Iterator[tuple[int, str]]:
    step = 2 if kind == KIND_ENUM else 3
    bits = 32 if kind == KIND_ENUM else 64
    for at in range(0, len(words), step):
        value = words[at + 1] | (words[at + 2] << 32 if step == 3 else 0)
        if signed and value >> (bits - 1):
            value -= 1 << bits
        yield value, name(words[at])
