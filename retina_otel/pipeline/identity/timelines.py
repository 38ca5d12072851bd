"""Timelines: from 64-bit keys to rows by time, a whole column at a time.

A key's newest segment stands beside it, older ones in a block of their own: what was counted lately
costs no search through history, however many owners a key has had. Changing one key costs the same
whatever the number of keys. Readers on other threads need a lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from retina_otel.pipeline.hash_index import MISSING, HashIndex
from retina_otel.pipeline.identity.claims import AMBIGUOUS, NOBODY, Segment

_BEFORE_ALL = np.iinfo(np.int64).min
_MIN_CAPACITY = 64

_Keys = npt.NDArray[np.uint64]
_Rows = npt.NDArray[np.int32]
_Times = npt.NDArray[np.int64]
_Number = TypeVar("_Number", np.int32, np.int64)


class _Blocks:
    """Runs of segments in two arrays, of sizes that are powers of two; freed ones are reused."""

    def __init__(self) -> None:
        self.from_ns: _Times = np.zeros(0, np.int64)
        self.rows: _Rows = np.zeros(0, np.int32)
        self._free: dict[int, list[int]] = {}
        self._end = 0
        self._grow(_MIN_CAPACITY)

    def _grow(self, capacity: int) -> None:
        self.from_ns = _grown(self.from_ns, capacity, 0)
        self.rows = _grown(self.rows, capacity, 0)
        self._one_from, self._one_row = self.from_ns.data, self.rows.data

    def store(self, segments: Sequence[Segment]) -> int:
        """Where they begin."""
        bits = (len(segments) - 1).bit_length()
        free = self._free.get(bits)
        if free:
            start = free.pop()
        else:
            start = self._end
            self._end += 1 << bits
            if self._end > len(self.rows):
                self._grow(self._end * 2)
        from_ns, rows = self._one_from, self._one_row
        for at, segment in enumerate(segments, start):
            from_ns[at], rows[at] = segment
        return start

    def free(self, start: int, count: int) -> None:
        self._free.setdefault((count - 1).bit_length(), []).append(start)


class Timelines:
    """See the module's docstring. A key has an entry for as long as anybody claims it."""

    def __init__(self) -> None:
        self._index = HashIndex()
        self._claimants: list[tuple[int, ...]] = []
        self._free: list[int] = []
        self._blocks = _Blocks()
        self._from: _Times = np.zeros(0, np.int64)
        self._row: _Rows = np.zeros(0, np.int32)
        self._start: _Rows = np.zeros(0, np.int32)
        self._count: _Rows = np.zeros(0, np.int32)
        self._allocate(_MIN_CAPACITY)

    def __len__(self) -> int:
        return len(self._index)

    def entry(self, key: int) -> int:
        """The entry of a key, MISSING if nobody claims it."""
        return self._index.get(key)

    def entries(self, keys: _Keys) -> _Rows:
        """The entry of each key, or MISSING."""
        return self._index.find(keys)

    def claimants(self, entry: int) -> tuple[int, ...]:
        """The rows that claim an entry's key."""
        return self._claimants[entry]

    def add(self, key: int) -> int:
        """A new entry, for a key that has none."""
        if self._free:
            entry = self._free.pop()
        else:
            entry = len(self._claimants)
            self._claimants.append(())
            # The last place is kept as it is: it answers for MISSING, which is -1.
            if entry + 1 >= len(self._row):
                self._allocate(2 * len(self._row))
        self._index.put(key, entry)
        return entry

    def set(self, entry: int, claimants: tuple[int, ...], segments: Sequence[Segment]) -> None:
        """Says whose an entry is. `segments` as `claims.timeline` makes them."""
        self._claimants[entry] = claimants
        count = self._one_count[entry]
        if count:
            self._blocks.free(self._one_start[entry], count)
        older = len(segments) - 1
        if older < 0:
            self._one_from[entry], self._one_row[entry] = _BEFORE_ALL, NOBODY
        else:
            self._one_from[entry], self._one_row[entry] = segments[-1]
        if older > 0:
            self._one_start[entry] = self._blocks.store(segments[:-1])
            self._one_count[entry] = older
        elif count:
            self._one_count[entry] = 0

    def remove(self, key: int, entry: int) -> None:
        """Takes out a key that nobody claims any longer."""
        self.set(entry, (), ())
        self._index.remove(key)
        self._free.append(entry)

    def rekey(self, keys: _Keys, entries: _Rows) -> None:
        """Gives all entries other keys: they must be distinct."""
        self._index = HashIndex.of(keys, entries)

    def rows(
        self, entries: _Rows, first_ns: _Times | None = None, last_ns: _Times | None = None
    ) -> _Rows:
        """Whose each entry was from `first_ns` to `last_ns`, both included; without times, whose it
        is in the end. NOBODY for MISSING; AMBIGUOUS too where that changed in between."""
        rows: _Rows = self._row[entries]
        if first_ns is None:
            return rows
        last_ns = first_ns if last_ns is None else last_ns
        earlier = np.flatnonzero(first_ns < self._from[entries])
        if earlier.size:
            rows[earlier] = self._earlier(entries[earlier], first_ns[earlier], last_ns[earlier])
        return rows

    def _earlier(self, entries: _Rows, first_ns: _Times, last_ns: _Times) -> _Rows:
        """By bisection through the older segments of all entries at once."""
        start = self._start[entries]
        count = self._count[entries]
        from_ns, rows = self._blocks.from_ns, self._blocks.rows
        begun = np.zeros(len(entries), np.int32)
        step = 1 << int(count.max()).bit_length()
        while step := step >> 1:
            further = begun + np.int32(step)
            at = start + np.minimum(further, count) - 1
            begun += np.int32(step) * ((further <= count) & (from_ns[at] <= first_ns))
        found = np.where(begun > 0, rows[start + begun - 1], np.int32(NOBODY))
        until = np.where(begun < count, from_ns[start + begun], self._from[entries])
        found[last_ns >= until] = AMBIGUOUS
        return found

    def _allocate(self, capacity: int) -> None:
        # The last place was never an entry, and must not be one before the arrays grow again.
        self._from = _grown(self._from, capacity, _BEFORE_ALL)
        self._row = _grown(self._row, capacity, NOBODY)
        self._start = _grown(self._start, capacity, 0)
        self._count = _grown(self._count, capacity, 0)
        # One at a time, numpy's own indexing takes three times as long.
        self._one_from = self._from.data
        self._one_row = self._row.data
        self._one_start = self._start.data
        self._one_count = self._count.data


def _grown(array: npt.NDArray[_Number], size: int, fill: int) -> npt.NDArray[_Number]:
    new = np.full(size, fill, array.dtype)
    new[: len(array)] = array
    return new


assert MISSING == NOBODY == -1
