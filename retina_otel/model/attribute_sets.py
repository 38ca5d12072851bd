"""Interned attribute sets: a small integer stands for a tuple of (key, value) pairs.

Series and encoders speak in these ids, so that attributes are built and encoded once, not per point.
Id 0 is the empty set. Ids of released sets are used again; `version(id)` tells a cache that the
meaning of an id has changed. Written by the tick thread only; readers may hold ids that a snapshot
holds, because a set is released only when no series and no unacknowledged snapshot refers to it.
"""

from __future__ import annotations

from retina_otel.model.batches import AttributeValue

AttributeSet = tuple[tuple[str, AttributeValue], ...]

EMPTY_SET = 0


class AttributeSets:
    """The table of interned sets. Not thread-safe for writers."""

    __slots__ = ("_free", "_id_of", "_references", "_sets", "_versions")

    def __init__(self) -> None:
        self._sets: list[AttributeSet] = [()]
        self._versions: list[int] = [0]
        self._references: list[int] = [1]
        self._id_of: dict[AttributeSet, int] = {(): EMPTY_SET}
        self._free: list[int] = []

    def __len__(self) -> int:
        """How many ids exist, released ones included: every id is below this."""
        return len(self._sets)

    def intern(self, attributes: AttributeSet) -> int:
        """The id of `attributes`, which must be sorted by key. Does not add a reference."""
        known = self._id_of.get(attributes)
        if known is not None:
            return known
        if self._free:
            number = self._free.pop()
            self._sets[number] = attributes
            self._versions[number] += 1
            self._references[number] = 0
        else:
            number = len(self._sets)
            self._sets.append(attributes)
            self._versions.append(0)
            self._references.append(0)
        self._id_of[attributes] = number
        return number

    def get(self, number: int) -> AttributeSet:
        return self._sets[number]

    def version(self, number: int) -> int:
        """Changes whenever the id is given to another set."""
        return self._versions[number]

    def retain(self, number: int, count: int = 1) -> None:
        self._references[number] += count

    def release(self, number: int, count: int = 1) -> None:
        """Gives back references; at none the id is free to mean another set."""
        if number == EMPTY_SET:
            return
        self._references[number] -= count
        if self._references[number] == 0:
            del self._id_of[self._sets[number]]
            self._free.append(number)
