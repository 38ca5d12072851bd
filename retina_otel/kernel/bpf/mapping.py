"""The memory of BPF arrays and globals, mapped: a read is a load, programs see a store at once."""

from __future__ import annotations

import errno
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.errors import MapError
from retina_otel.kernel.bpf.btf import Btf

Array = npt.NDArray[Any]


def mmap_array(
    fd: int, dtype: npt.DTypeLike, n: int, writable: bool = False, *, first: int = 0
) -> Array:
    """The live memory of a BPF_F_MMAPABLE array as n elements from `first`; what programs write
    shows at once.

    The mapping lives as long as the array or a view of it, also after the map's descriptor is
    closed. All of it counts as resident memory, touched or not. Elements lie at multiples of 8
    bytes: a smaller dtype is padded. Raises MapError.
    """
    wanted: np.dtype[Any] = np.dtype(dtype)
    stride = (wanted.itemsize + 7) & ~7
    start = stride * first // mmap.PAGESIZE * mmap.PAGESIZE
    skipped = stride * first - start
    length = -(-(skipped + stride * n) // mmap.PAGESIZE) * mmap.PAGESIZE
    try:
        mapping = mmap.mmap(
            fd,
            length,
            flags=mmap.MAP_SHARED,
            prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0),
            offset=start,
        )
    except OSError as error:
        raise MapError(
            "mmap",
            error.errno or errno.EINVAL,
            "Declare the array with BPF_F_MMAPABLE (frozen ones can only be read)",
            detail=f"{n} entries of {stride} bytes",
        ) from error
    if stride == wanted.itemsize:
        return np.frombuffer(mapping, wanted, n, skipped)
    padded = np.dtype({"names": ["value"], "formats": [wanted], "offsets": [0], "itemsize": stride})
    padded_array: Array = np.frombuffer(mapping, padded, n, skipped)["value"]
    return padded_array


class Variables:
    """Globals of a loaded object by name, live: 0-d views for scalars (`v.generation[...] = 1`).

    `.rodata` is frozen by loading and can only be read. Raises MapError, BtfError.
    """

    def __init__(self, fd: int, btf: Btf, section: str, *, writable: bool = True) -> None:
        size = btf.section_size(section)
        memory = mmap_array(fd, np.uint8, 0) if size == 0 else _bytes_of(fd, size, writable)
        self._views: dict[str, Array] = {
            one.name: _view_at(memory, one.offset, one.dtype)
            for one in btf.variables(section).values()
        }

    def __getattr__(self, name: str) -> Array:
        try:
            return self._views[name]
        except KeyError:
            raise AttributeError(f"no global {name}") from None

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __contains__(self, name: str) -> bool:
        return name in self._views


def _bytes_of(fd: int, size: int, writable: bool) -> Array:
    words = mmap_array(fd, np.uint64, (size + 7) // 8, writable)
    return words.view(np.uint8)[:size]


def _view_at(memory: Array, offset: int, dtype: np.dtype[Any]) -> Array:
    base, shape = dtype.subdtype or (dtype, ())
    return np.ndarray(shape, base, memory.data, offset)
