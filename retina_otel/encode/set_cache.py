"""What is encoded once per attribute set: tables from set id to bytes, refreshed by version.

A table is right for the ids of the block it was last refreshed for, and only as long as that
block's snapshot is held; `AttributeSets.version` tells when an id was given to another set.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSet, AttributeSets

A = TypeVar("A", bound=np.generic)
T = TypeVar("T")

MAX_TABLES = 16
"""Tables kept by one encoder: one for each accumulator it has been given points of."""


class SetTable:
    """Bytes of the sets of one AttributeSets, by id. An id costs 16 bytes beside its blob."""

    def __init__(self, sets: AttributeSets, build: Callable[[AttributeSet], bytes]) -> None:
        self.sets = sets
        self.blobs: npt.NDArray[np.object_] = np.empty(0, object)
        self.lengths: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._versions: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._build = build

    def refresh(self, *columns: npt.NDArray[np.int32]) -> None:
        """Makes `blobs[id]` and `lengths[id]` right for every id in `columns`."""
        used = np.zeros(max(len(self.sets), len(self.blobs)), bool)
        for ids in columns:
            used[ids] = True
        if len(used) > len(self.blobs):
            self.grow(max(len(used), len(self.blobs) * 5 // 4))
        wanted = np.flatnonzero(used)
        versions = self.sets.versions(wanted)
        stale = self._versions[wanted] != versions
        for number in wanted[stale].tolist():
            self.store(number, self.sets.get(number))
        self._versions[wanted] = versions

    def grow(self, size: int) -> None:
        self.blobs = _grown(self.blobs, size, None)
        self.lengths = _grown(self.lengths, size, 0)
        self._versions = _grown(self._versions, size, -1)

    def store(self, number: int, attributes: AttributeSet) -> None:
        blob = self._build(attributes)
        self.blobs[number] = blob
        self.lengths[number] = len(blob)


class SetCache(Generic[T]):
    """The tables of one encoder, the least recently used dropped first."""

    def __init__(self, make: Callable[[AttributeSets], T]) -> None:
        self._make = make
        self._tables: OrderedDict[int, T] = OrderedDict()

    def table(self, sets: AttributeSets) -> T:
        """The table of `sets`, which it holds on to, so that its identity stays its own."""
        table = self._tables.get(id(sets))
        if table is None:
            table = self._tables[id(sets)] = self._make(sets)
            if len(self._tables) > MAX_TABLES:
                self._tables.popitem(last=False)
        else:
            self._tables.move_to_end(id(sets))
        return table


def _grown(array: npt.NDArray[A], size: int, fill: int | None) -> npt.NDArray[A]:
    out = np.full(size, fill, array.dtype)
    out[: len(array)] = array
    return out
