"""A bounded memory of tuples: a small number for each hash of 64 bits, kept between generations.

Entries are forgotten when nobody asked for them for a while, oldest first when there are too many.
Two tuples with one hash would be taken for each other: among 100,000 tuples that happens in one of
3.7 billion memories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_IDLE_GENERATIONS = 120
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class TupleMemory:
    """Sorted arrays; a lookup of n hashes is one merge-like search."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._generation = 0
        self._hashes = np.empty(0, np.uint64)
        self._states = np.empty(0, np.uint8)
        self._used = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._hashes)

    def put(self, hashes: npt.NDArray[np.uint64], state: int | npt.NDArray[np.uint8]) -> None:
        """Remembers `state` (1..255) for each; the last word on a hash wins."""
        if len(hashes) == 0:
            return
        # np.unique keeps the first of equals: newest first.
        every = np.concatenate([hashes[::-1], self._hashes])
        states = np.broadcast_to(np.asarray(state, np.uint8), hashes.shape)[::-1]
        self._hashes, first = np.unique(every, return_index=True)
        self._states = np.concatenate([states, self._states])[first]
        used = np.full(len(hashes), self._generation, np.int64)
        self._used = np.concatenate([used, self._used])[first]

    def get(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        """The state of each, 0 where none is remembered."""
        if len(self._hashes) == 0:
            return np.zeros(len(hashes), np.uint8)
        at = np.searchsorted(self._hashes, hashes)
        at[at == len(self._hashes)] = 0
        found = self._hashes[at] == hashes
        self._used[at[found]] = self._generation
        return np.where(found, self._states[at], np.uint8(0))

    def next_generation(self) -> None:
        """Time passes; forgets what was not used for long."""
        self._generation += 1
        keep = self._used > self._generation - _IDLE_GENERATIONS
        if np.count_nonzero(keep) > self._capacity:
            newest = np.argpartition(self._used, -self._capacity)[-self._capacity :]
            keep = np.zeros(len(keep), np.bool_)
            keep[newest] = True
        if not keep.all():
            self._hashes, self._states, self._used = (
                self._hashes[keep],
                self._states[keep],
                self._used[keep],
            )


@dataclass(frozen=True, slots=True)
class Side:
    """One end of n tuples."""

    hi: npt.NDArray[np.uint64]
    lo: npt.NDArray[np.uint64]
    port: npt.NDArray[Any]


def tuple_hash(near: Side, far: Side, protocol: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """64 bits for each of n directed tuples."""
    small = (
        near.port.astype(np.uint64) << np.uint64(32)
        | far.port.astype(np.uint64) << np.uint64(16)
        | protocol.astype(np.uint64)
    )
    mixed = _mix(near.hi)
    for word in (near.lo, far.hi, far.lo, small):
        mixed = _mix(mixed ^ word)
    return mixed


def address_hash(hi: npt.NDArray[np.uint64], lo: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 bits for each of n addresses."""
    return _mix(_mix(hi) ^ lo)


def _mix(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection that spreads every bit over all."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    mixed: npt.NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed
