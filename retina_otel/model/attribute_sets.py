"""Interned attribute sets: a small integer stands for a tuple of (key, value) pairs.

Series and encoders speak in these ids, so that attributes are built and encoded once, not per
point. Id 0 is the empty set.

Written by the tick thread only, read by exporter threads that encode an older export. So an id
never changes its meaning under a reader: when its last reference is gone it is put aside under the
present `generation`, and `reclaim(before)` gives back only what was put aside before a generation
that every export in hand, and every one that can still be taken, is younger than. Whoever owns the
table (an accumulator, an event buffer) counts generations and knows the exports in hand. A set that
never had a reference was in no export, so it need not wait for any.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.model.batches import AttributeValue

AttributeSet = tuple[tuple[str, AttributeValue], ...]

EMPTY_SET = 0

_Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]


class AttributeSets:
    """The table of interned sets. One writer; any number of readers of ids they were given."""

    __slots__ = (
        "_aside",
        "_aside_since",
        "_digests",
        "_free",
        "_fresh",
        "_id_of",
        "_references",
        "_sets",
        "_versions",
        "generation",
    )

    def __init__(self) -> None:
        self.generation = 0
        self._sets: list[AttributeSet] = [()]
        self._versions: npt.NDArray[np.int32] = np.zeros(64, np.int32)
        self._references: npt.NDArray[np.int64] = np.zeros(64, np.int64)
        self._references[EMPTY_SET] = 1
        self._digests: npt.NDArray[np.int64] = np.zeros(64, np.int64)
        self._fresh: list[int] = []
        self._id_of: dict[Any, int] = {(): EMPTY_SET}
        self._free: list[int] = []
        self._aside: deque[tuple[int, int]] = deque()
        self._aside_since: list[int] = [-1]

    def __len__(self) -> int:
        """How many ids exist, released ones included: every id is below this."""
        return len(self._sets)

    @property
    def in_use(self) -> int:
        """How many sets are interned now, those that wait for `reclaim` included."""
        return len(self._id_of)

    def intern(self, attributes: AttributeSet) -> int:
        """The id of `attributes`, which must be sorted by key. Does not add a reference.

        Without a reference it lives until the next `reclaim`.
        """
        identity = _identity(attributes)
        known = self._id_of.get(identity)
        if known is not None:
            return known
        if self._free:
            number = self._free.pop()
            self._sets[number] = attributes
        else:
            number = len(self._sets)
            if number == len(self._references):
                self._references = np.concatenate(
                    [self._references, np.zeros_like(self._references)]
                )
                self._versions = np.concatenate([self._versions, np.zeros_like(self._versions)])
                self._digests = np.concatenate([self._digests, np.zeros_like(self._digests)])
            self._sets.append(attributes)
            self._aside_since.append(-1)
        self._id_of[identity] = number
        self._digests[number] = hash(identity)
        self._fresh.append(number)
        return number

    def get(self, number: int) -> AttributeSet:
        return self._sets[number]

    def version(self, number: int) -> int:
        """Changes whenever the id stops meaning its set."""
        return int(self._versions[number])

    def versions(self, numbers: _Ids) -> npt.NDArray[np.int32]:
        """As `version`, for a column of ids."""
        return self._versions[numbers]

    def digests(self, numbers: _Ids) -> npt.NDArray[np.uint64]:
        """64 bits of what each set says: the same whenever it is interned again in this process."""
        return self._digests[numbers].view(np.uint64)

    def retain(self, number: int, count: int = 1) -> None:
        self._references[number] += count

    def retain_all(self, numbers: _Ids) -> None:
        """A reference for each element, repeated ones too."""
        np.add.at(self._references, numbers, 1)

    def release(self, number: int, count: int = 1) -> None:
        """Gives back references. An id without any waits for `reclaim`."""
        if number == EMPTY_SET:
            return
        self._references[number] -= count
        if self._references[number] == 0:
            self._put_aside(number)

    def release_all(self, numbers: _Ids) -> None:
        """Gives back a reference for each element, repeated ones too."""
        kept = numbers[numbers != EMPTY_SET]
        np.subtract.at(self._references, kept, 1)
        for number in np.unique(kept[self._references[kept] == 0]).tolist():
            self._put_aside(number)

    def reclaim(self, before: int) -> None:
        """Frees ids that have no reference and were put aside under a generation below `before`,
        and those that were interned for nothing."""
        fresh, self._fresh = self._fresh, []
        for number in fresh:
            if self._references[number] == 0 and self._aside_since[number] < 0:
                self._give_back(number)
        while self._aside and self._aside[0][0] < before:
            generation, number = self._aside.popleft()
            if self._aside_since[number] != generation:
                continue
            self._aside_since[number] = -1
            if self._references[number] == 0:
                self._give_back(number)

    def _give_back(self, number: int) -> None:
        del self._id_of[_identity(self._sets[number])]
        self._sets[number] = ()
        self._versions[number] += 1
        self._free.append(number)

    def _put_aside(self, number: int) -> None:
        if self._aside_since[number] != self.generation:
            self._aside_since[number] = self.generation
            self._aside.append((self.generation, number))


def _identity(attributes: AttributeSet) -> Any:
    """What makes two sets the same. Types count where values compare equal across them (1,
    True)."""
    for _, value in attributes:
        if not isinstance(value, str):
            return tuple((key, type(value), value) for key, value in attributes)
    return attributes
