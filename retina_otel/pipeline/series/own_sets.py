"""OwnSets: from the own attributes of a batch to interned sets.

Columns are dictionary-encoded, so a set is built for each combination that occurs, not for each
row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import EMPTY_SET, AttributeSet, AttributeSets
from retina_otel.model.batches import AttributeValue, Column

_Ids = npt.NDArray[np.int32]

_DENSE = 1 << 20
"""Up to so many possible combinations, those that occur are marked in a table."""
_MIXED = 1 << 62
"""Up to so many, a combination is one number of 64 bits."""
_MAX_CACHED = 1 << 17


class OwnSets:
    """The chosen own attributes of batches, as ids in `sets`."""

    def __init__(self, sets: AttributeSets, chosen: Callable[[str], bool]) -> None:
        self._sets = sets
        self._chosen_of = chosen
        self._chosen: dict[str, bool] = {}
        self._cache: dict[Any, tuple[int, int]] = {}

    def ids(self, count: int, own: Mapping[str, Column | npt.NDArray[np.int64]]) -> _Ids:
        """The set of each of `count` rows; columns of plain integers are left out."""
        columns = [
            (name, column)
            for name, column in sorted(own.items())
            if isinstance(column, Column) and self._is_chosen(name)
        ]
        if not columns or count == 0:
            return np.full(count, EMPTY_SET, np.int32)
        names = tuple(name for name, _ in columns)
        radices = [len(column.values) + 1 for _, column in columns]
        possible = math.prod(radices)
        if possible > _MIXED:
            rows = np.stack([column.codes for _, column in columns], axis=1)
            unique, place = np.unique(rows, axis=0, return_inverse=True)
            return self._intern(names, (unique + 1).tolist(), columns)[place.reshape(-1)]
        mixed: npt.NDArray[np.int64] = np.zeros(count, np.int64)
        # Code -1, absent, becomes 0.
        for (_, column), radix in zip(columns, radices, strict=True):
            mixed *= radix
            mixed += column.codes
            mixed += 1
        if possible <= _DENSE:
            occurs = np.zeros(possible, np.bool_)
            occurs[mixed] = True
            used = np.flatnonzero(occurs)
            table: _Ids = np.zeros(possible, np.int32)
            table[used] = self._intern(names, self._digits(used, radices), columns)
            return table[mixed]
        used, place = np.unique(mixed, return_inverse=True)
        return self._intern(names, self._digits(used, radices), columns)[place]

    def _is_chosen(self, name: str) -> bool:
        chosen = self._chosen.get(name)
        if chosen is None:
            chosen = self._chosen[name] = self._chosen_of(name)
        return chosen

    @staticmethod
    def _digits(mixed: npt.NDArray[np.int64], radices: list[int]) -> list[list[int]]:
        digits = np.empty((len(mixed), len(radices)), np.int64)
        for place in range(len(radices) - 1, -1, -1):
            mixed, digits[:, place] = np.divmod(mixed, radices[place])
        return digits.tolist()

    def _intern(
        self,
        names: tuple[str, ...],
        combinations: list[list[int]],
        columns: list[tuple[str, Column]],
    ) -> _Ids:
        sets, cache = self._sets, self._cache
        if len(cache) > _MAX_CACHED:
            cache.clear()
        tables: list[list[AttributeValue | None]] = [
            [None, *column.values] for _, column in columns
        ]
        ids = np.empty(len(combinations), np.int32)
        for place, codes in enumerate(combinations):
            values = tuple([table[code] for table, code in zip(tables, codes, strict=True)])
            key = (names, values, tuple(map(type, values)))
            number, version = cache.get(key, (EMPTY_SET, -1))
            if version < 0 or sets.version(number) != version:
                number = sets.intern(_present(names, values))
                cache[key] = (number, sets.version(number))
            ids[place] = number
        return ids


def _present(names: tuple[str, ...], values: tuple[AttributeValue | None, ...]) -> AttributeSet:
    return tuple(
        (name, value) for name, value in zip(names, values, strict=True) if value is not None
    )
