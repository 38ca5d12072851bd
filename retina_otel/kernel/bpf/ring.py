"""A BPF ring buffer as numpy arrays of one record type.

The kernel marks a record busy in its header until the producer commits it. Headers are therefore
read from the live mapping first, and payloads copied after: a copy of both at once may hold a
payload older than its header. One ring carries records of one length, so a span is an array.
"""

from __future__ import annotations

import errno
import mmap
import platform
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.errors import RingError
from retina_otel.kernel import syscall

_BUSY = np.uint32(1 << 31)
_DISCARDED = np.uint32(1 << 30)
_LENGTH = np.uint32((1 << 30) - 1)
_HEADER_BYTES = 8
_LOADS_ARE_ORDERED = platform.machine() == "x86_64"


class Ring:
    """The consumer's end of a ring buffer map. One reader for each map; does not own `fd`.

    `fd` can be polled. Drain by a timer as well: a wake-up may be missed between two of them.
    """

    def __init__(self, fd: int, dtype: npt.DTypeLike, n_bytes: int) -> None:
        """`n_bytes` is the map's max_entries. Raises RingError."""
        self.fd = fd
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._n_bytes = n_bytes
        self._stride = (self.dtype.itemsize + _HEADER_BYTES + 7) & ~7
        page = mmap.PAGESIZE
        try:
            self._consumer_page = mmap.mmap(fd, page, flags=mmap.MAP_SHARED)
            # The data pages are mapped twice in a row, so no record is ever cut at the end.
            self._producer_pages = mmap.mmap(
                fd, page + 2 * n_bytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ, offset=page
            )
        except (OSError, ValueError) as error:
            raise RingError(
                "mmap",
                getattr(error, "errno", None) or errno.EINVAL,
                "Check that the map is a ring buffer of this size",
                detail=f"ring of {n_bytes} bytes",
            ) from error
        self._consumed: npt.NDArray[np.uint64] = np.frombuffer(self._consumer_page, np.uint64, 1)
        self._produced: npt.NDArray[np.uint64] = np.frombuffer(self._producer_pages, np.uint64, 1)
        self._data: npt.NDArray[np.uint8] = np.frombuffer(
            self._producer_pages, np.uint8, 2 * n_bytes, page
        )
        self._payloads: npt.NDArray[Any] = np.empty(0, self.dtype)
        if not _LOADS_ARE_ORDERED:
            syscall.membarrier(syscall.MEMBARRIER_REGISTER_PRIVATE_EXPEDITED)

    def drain(self) -> npt.NDArray[Any]:
        """All committed records, oldest first, without discarded ones; frees their room.

        The array is valid until the next call. Raises RingError on a record of another length: the
        object and the record type do not belong together.
        """
        consumed = int(self._consumed[0])
        n_ready = 0
        n_kept = 0
        # What is produced while this copies is taken too, but at most one ring's worth in all.
        while n_ready * self._stride < self._n_bytes:
            taken, kept = self._take(consumed, n_kept)
            if taken == 0:
                break
            n_ready += taken
            n_kept += kept
            consumed += taken * self._stride
            self._order_accesses()
            self._consumed[0] = consumed
        return self._payloads[:n_kept]

    def close(self) -> None:
        """Drops the mappings; arrays returned before stay valid."""
        empty = np.empty(0, np.uint64)
        self._consumed = self._produced = empty
        self._data = np.empty(0, np.uint8)
        self._consumer_page.close()
        self._producer_pages.close()

    def _take(self, consumed: int, at: int) -> tuple[int, int]:
        """Copies the committed records of one span to `at`: (records passed, records kept)."""
        span, cut = divmod(int(self._produced[0]) - consumed, self._stride)
        if span == 0 and cut == 0:
            return 0, 0
        self._order_accesses()
        offset = consumed & (self._n_bytes - 1)
        headers = np.ndarray(
            (span + (cut > 0),), np.uint32, self._data.data, offset, strides=(self._stride,)
        ).copy()
        busy = headers & _BUSY
        ready = int(busy.argmax()) if busy.any() else len(headers)
        if ready == 0:
            return 0, 0
        headers = headers[:ready]
        if (headers & _LENGTH != self.dtype.itemsize).any():
            wrong = headers[headers & _LENGTH != self.dtype.itemsize][0] & _LENGTH
            raise RingError(
                "ring",
                errno.EPROTO,
                "Rebuild the BPF objects (make objects): they do not match this version",
                detail=f"a record of {int(wrong)} bytes, not {self.dtype.itemsize}",
            )
        self._order_accesses()
        records = np.ndarray(
            (ready, self.dtype.itemsize),
            np.uint8,
            self._data.data,
            offset + _HEADER_BYTES,
            strides=(self._stride, 1),
        )
        discarded = headers & _DISCARDED != 0
        if discarded.any():
            records = records[~discarded]
        kept = len(records)
        self._reserve(at + kept, at)
        target = self._payloads.view(np.uint8).reshape(-1, self.dtype.itemsize)
        target[at : at + kept] = records
        return ready, kept

    def _reserve(self, n: int, keep: int) -> None:
        if n > len(self._payloads):
            grown = np.empty(max(n, 2 * keep), self.dtype)
            grown.view(np.uint8).reshape(-1, self.dtype.itemsize)[:keep] = self._payloads.view(
                np.uint8
            ).reshape(-1, self.dtype.itemsize)[:keep]
            self._payloads = grown

    def _order_accesses(self) -> None:
        if not _LOADS_ARE_ORDERED:
            syscall.membarrier(syscall.MEMBARRIER_PRIVATE_EXPEDITED)
