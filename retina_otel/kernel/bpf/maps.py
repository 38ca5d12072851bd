"""BPF maps as numpy arrays: batch reads into kept buffers.

A batch call moves thousands of entries in one system call, straight into the memory of the arrays
that are returned; those are views of a buffer that the next call on the same map overwrites.
"""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.errors import MapError
from retina_otel.kernel import syscall
from retina_otel.kernel.bpf.mapping import Variables, mmap_array

__all__ = [
    "ArrayMap",
    "HashMap",
    "Variables",
    "create_map",
    "mmap_array",
    "possible_cpus",
    "set_inner_map",
]

Array = npt.NDArray[Any]

TYPE_HASH = 1
TYPE_ARRAY = 2
TYPE_PERCPU_HASH = 5
TYPE_LRU_HASH = 9
TYPE_LRU_PERCPU_HASH = 10
TYPE_ARRAY_OF_MAPS = 12
TYPE_RINGBUF = 27

ANY = 0
NOEXIST = 1
EXIST = 2
FLAG_MMAPABLE = 1 << 10

_CHUNK = 4096
_TOKEN_BYTES = 64
_IDLE_READS_BEFORE_TRIM = 16


def possible_cpus() -> int:
    """How many values a per-CPU map holds for each key."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().replace(",", "-").rsplit("-", 1)[-1]) + 1


class HashMap:
    """A BPF hash (plain, LRU, per CPU), read in batches. Used by one thread at a time.

    Does not own `fd`. For a per-CPU map `value_dtype` is that of one CPU's value, and values have
    shape (n, cpus).
    """

    def __init__(
        self,
        fd: int,
        key_dtype: npt.DTypeLike,
        value_dtype: npt.DTypeLike,
        max_entries: int,
        *,
        per_cpu: bool = False,
        chunk: int = _CHUNK,
    ) -> None:
        """`chunk` is how many entries a system call reads; it grows when a bucket needs it."""
        self.fd = fd
        self.key_dtype: np.dtype[Any] = np.dtype(key_dtype)
        self.value_dtype: np.dtype[Any] = np.dtype(value_dtype)
        self.max_entries = max_entries
        self._shape: tuple[int, ...] = (possible_cpus(),) if per_cpu else ()
        # The kernel rounds each CPU's value up to 8 bytes, and leaves a single value as it is.
        self._stride = (self.value_dtype.itemsize + 7) & ~7
        n_values = self._shape[0] if self._shape else 0
        self._value_bytes = self._stride * n_values or self.value_dtype.itemsize
        self._chunk = min(chunk, max_entries)
        self._tokens = ctypes.create_string_buffer(max(_TOKEN_BYTES, self.key_dtype.itemsize))
        self._keys: npt.NDArray[np.uint8] | None = None
        self._values: npt.NDArray[np.uint8] | None = None
        self._touched = 0
        self._idle_reads = 0
        self._batches = True

    def drain(self) -> tuple[Array, Array]:
        """Takes all entries out: (keys, values), valid until the next call on this map.

        Entries inserted while it runs may be left for the next time. An increment made meanwhile
        through a pointer that a program already holds is lost: drain what nobody writes to.
        Raises MapError.
        """
        return self._read_all(syscall.MAP_LOOKUP_AND_DELETE_BATCH)

    def read(self) -> tuple[Array, Array]:
        """As `drain`, but leaves the entries in place."""
        return self._read_all(syscall.MAP_LOOKUP_BATCH)

    def get(self, key: Any) -> Any | None:
        """A copy of the value (array of one value per CPU for a per-CPU map), None if absent."""
        raw = np.zeros(self._value_bytes, np.uint8)
        result = _element(
            syscall.MAP_LOOKUP_ELEM, self.fd, _packed(key, self.key_dtype), _address(raw)
        )
        if result == -errno.ENOENT:
            return None
        _check(syscall.MAP_LOOKUP_ELEM, result)
        return self._as_values(raw, 1)[0]

    def put(self, key: Any, value: Any, flags: int = ANY) -> bool:
        """Stores an entry; False if `flags` (NOEXIST, EXIST) forbade it. Raises MapError."""
        stored = np.zeros(self._value_bytes, np.uint8)
        if isinstance(value, bytes) and not self._shape:
            stored = _packed(value, self.value_dtype)
        else:
            self._as_values(stored, 1)[0] = value
        key_at = _packed(key, self.key_dtype)
        result = _element(syscall.MAP_UPDATE_ELEM, self.fd, key_at, _address(stored), flags)
        if flags and result in (-errno.EEXIST, -errno.ENOENT):
            return False
        _check(
            syscall.MAP_UPDATE_ELEM,
            result,
            f"Make the map larger than {self.max_entries} entries"
            if result == -errno.E2BIG
            else "",
        )
        return True

    def delete(self, key: Any) -> bool:
        """False if there was no such entry. Raises MapError."""
        result = _element(syscall.MAP_DELETE_ELEM, self.fd, _packed(key, self.key_dtype), 0)
        if result == -errno.ENOENT:
            return False
        _check(syscall.MAP_DELETE_ELEM, result)
        return True

    def put_many(self, keys: Array, values: Array) -> None:
        """Stores n entries of a map that is not per CPU, overwriting. Raises MapError."""
        keys, values = _contiguous(keys, self.key_dtype), _contiguous(values, self.value_dtype)
        attributes = syscall.MapBatch(
            keys=_address(keys), values=_address(values), count=len(keys), map_fd=self.fd
        )
        if len(keys):
            _check(syscall.MAP_UPDATE_BATCH, syscall.bpf_try(syscall.MAP_UPDATE_BATCH, attributes))

    def delete_many(self, keys: Array) -> int:
        """Deletes those of the keys that are there; how many they were. Raises MapError."""
        keys = _contiguous(keys, self.key_dtype)
        deleted = at = 0
        while at < len(keys):
            attributes = syscall.MapBatch(
                keys=_address(keys[at:]), count=len(keys) - at, map_fd=self.fd
            )
            result = syscall.bpf_try(syscall.MAP_DELETE_BATCH, attributes)
            deleted += int(attributes.count)
            at += int(attributes.count)
            if result == -errno.ENOENT:  # stopped before a key that is not there
                at += 1
            else:
                _check(syscall.MAP_DELETE_BATCH, result)
        return deleted

    def _read_all(self, command: int) -> tuple[Array, Array]:
        keys, values = self._buffers()
        n = self._read_batches(command, keys, values) if self._batches else None
        if n is None:
            self._batches = False
            n = self._read_one_by_one(command, keys, values)
        self._touched = max(self._touched, n)
        self._idle_reads = self._idle_reads + 1 if n * 4 < self._touched else 0
        taken_keys = keys[: n * self.key_dtype.itemsize].view(self.key_dtype)
        return taken_keys, self._as_values(values, n)

    def _as_values(self, raw: npt.NDArray[np.uint8], n: int) -> Array:
        strides = (self._value_bytes, self._stride) if self._shape else (self._value_bytes,)
        return np.ndarray((n, *self._shape), self.value_dtype, raw.data, 0, strides)

    def _buffers(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        # Room for everything costs address space only: pages count once they are written to. After
        # a burst they are given back, when reads have stayed far below it for a while.
        if self._keys is None or self._values is None or self._idle_reads > _IDLE_READS_BEFORE_TRIM:
            rows = self.max_entries + _CHUNK
            self._keys = np.empty(rows * self.key_dtype.itemsize, np.uint8)
            self._values = np.empty(rows * self._value_bytes, np.uint8)
            self._touched = self._idle_reads = 0
        return self._keys, self._values

    def _read_batches(
        self, command: int, keys: npt.NDArray[np.uint8], values: npt.NDArray[np.uint8]
    ) -> int | None:
        """Rows read; None if this kernel or this type of map knows no batches."""
        room = self.max_entries + _CHUNK
        key_at, value_at = _address(keys), _address(values)
        token = ctypes.addressof(self._tokens)
        attributes = syscall.MapBatch(out_batch=token, map_fd=self.fd)
        n = 0
        while n < room:
            attributes.keys = key_at + n * self.key_dtype.itemsize
            attributes.values = value_at + n * self._value_bytes
            attributes.count = min(self._chunk, room - n)
            result = syscall.bpf_try(command, attributes)
            if result == -errno.ENOSPC:  # the next bucket does not fit; the token has not moved
                if self._chunk >= room - n:
                    break
                self._chunk *= 2
                continue
            if n == 0 and result in (-errno.EINVAL, -errno.EOPNOTSUPP, -syscall.ENOTSUPP):
                return None
            if result < 0 and result != -errno.ENOENT:
                _check(command, result)
            n += int(attributes.count)
            if result == -errno.ENOENT:  # the end, and `count` still says what came
                break
            attributes.in_batch = token
        return n

    def _read_one_by_one(
        self, command: int, keys: npt.NDArray[np.uint8], values: npt.NDArray[np.uint8]
    ) -> int:
        deleting = command == syscall.MAP_LOOKUP_AND_DELETE_BATCH
        key_bytes, value_bytes = self.key_dtype.itemsize, self._value_bytes
        n = 0
        previous = 0
        while n < self.max_entries:
            key_at = _address(keys) + n * key_bytes
            result = _element_at(syscall.MAP_GET_NEXT_KEY, self.fd, previous, key_at)
            if result == -errno.ENOENT:
                break
            _check(syscall.MAP_GET_NEXT_KEY, result)
            value_at = _address(values) + n * value_bytes
            result = _element_at(syscall.MAP_LOOKUP_ELEM, self.fd, key_at, value_at)
            if deleting:
                _element_at(syscall.MAP_DELETE_ELEM, self.fd, key_at, 0)
            else:
                previous = key_at
            if result != -errno.ENOENT:  # else it went away between the two calls
                _check(syscall.MAP_LOOKUP_ELEM, result)
                n += 1
        return n


class ArrayMap:
    """A BPF array: entries 0 to `max_entries` - 1, always there. Does not own `fd`."""

    def __init__(self, fd: int, value_dtype: npt.DTypeLike, max_entries: int) -> None:
        self.fd = fd
        self.value_dtype: np.dtype[Any] = np.dtype(value_dtype)
        self.max_entries = max_entries

    def get(self, index: int) -> Any:
        """A copy of one value. Raises MapError: ENOENT behind the end."""
        value = np.zeros(1, self.value_dtype)
        key = np.array([index], np.uint32)
        _check(
            syscall.MAP_LOOKUP_ELEM,
            _element(syscall.MAP_LOOKUP_ELEM, self.fd, key, _address(value)),
        )
        return value[0]

    def put(self, index: int, value: Any) -> None:
        """Raises MapError: E2BIG behind the end."""
        stored = _packed(value, self.value_dtype)
        key = np.array([index], np.uint32)
        _check(
            syscall.MAP_UPDATE_ELEM,
            _element(syscall.MAP_UPDATE_ELEM, self.fd, key, _address(stored)),
        )


def set_inner_map(outer_fd: int, index: int, inner_fd: int) -> None:
    """Puts a map into an array of maps. When it returns, no program uses the one it replaced.

    The inner map must look like the template that the outer one was made with. Raises MapError.
    """
    ArrayMap(outer_fd, np.uint32, 0).put(index, inner_fd)


def create_map(
    map_type: int,
    key_size: int,
    value_size: int,
    max_entries: int,
    *,
    flags: int = 0,
    inner_map_fd: int = 0,
    name: str = "",
) -> int:
    """A new map's descriptor, which the caller closes. Raises MapError."""
    return syscall.bpf(
        syscall.MAP_CREATE,
        syscall.MapCreate(
            map_type,
            key_size,
            value_size,
            max_entries,
            flags,
            inner_map_fd,
            0,
            name.encode()[:15],
        ),
        error=MapError,
        detail=f"type {map_type}, {max_entries} entries",
    )


def _packed(given: Any, dtype: np.dtype[Any]) -> Array:
    """One element as the map holds it, padding zeroed."""
    if isinstance(given, bytes):
        if len(given) != dtype.itemsize:
            raise MapError(
                "bpf", errno.EINVAL, detail=f"{len(given)} bytes given, {dtype.itemsize} needed"
            )
        return np.frombuffer(given, np.uint8)
    packed = np.zeros(1, dtype)
    packed[0] = given
    return packed


def _contiguous(array: Array, dtype: np.dtype[Any]) -> Array:
    """Elements as the map holds them, padding zeroed."""
    if array.dtype.names != dtype.names or (dtype.names is None and array.dtype != dtype):
        raise MapError("bpf", errno.EINVAL, detail=f"{array.dtype} given, {dtype} needed")
    packed = np.zeros(len(array), dtype)
    # A key is compared byte by byte. numpy's copies hold anything in their padding, but assigning
    # goes field by field and leaves the zeros.
    packed[:] = array
    return packed


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _element(command: int, fd: int, key: Array, value_at: int, flags: int = 0) -> int:
    return _element_at(command, fd, _address(key), value_at, flags)


def _element_at(command: int, fd: int, key_at: int, value_at: int, flags: int = 0) -> int:
    return syscall.bpf_try(
        command, syscall.MapElement(map_fd=fd, key=key_at, value=value_at, flags=flags)
    )


def _check(command: int, result: int, remedy: str = "") -> None:
    if result < 0:
        raise MapError(
            syscall.command_name(command), -result, remedy or syscall.remedy_for(-result)
        )
