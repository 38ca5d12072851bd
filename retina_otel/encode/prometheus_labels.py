"""Labels of attribute sets as text, by id; tells where two attributes became one label."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt

from retina_otel.encode.prometheus_names import (
    DEFAULT_STRATEGY,
    TranslationStrategy,
    escaped,
    label_name,
    label_value,
)
from retina_otel.encode.protobuf import utf8
from retina_otel.encode.set_cache import SetTable
from retina_otel.model.attribute_sets import AttributeSet, AttributeSets


def labels(
    pairs: AttributeSet, strategy: TranslationStrategy = DEFAULT_STRATEGY
) -> dict[str, str]:
    """Labels of attributes. Values of keys that become one label are joined by `;`, in key order.

    An empty value is left out: to Prometheus it is the same as no label.
    """
    out: dict[str, str] = {}
    for key, value in sorted(pairs):
        name = label_name(key, strategy)
        text = label_value(value)
        if name and text:
            out[name] = f"{out[name]};{text}" if name in out else text
    return out


def label_text(pairs: dict[str, str]) -> bytes:
    """Each label after a comma."""
    return utf8("".join(f',{name}="{escaped(value)}"' for name, value in pairs.items()))


class LabelTable(SetTable):
    """Label text of each set, a hash of it, and a number for the names that it holds."""

    def __init__(self, sets: AttributeSets, names: LabelNames) -> None:
        super().__init__(sets, lambda pairs: label_text(labels(pairs)))
        self.hashes: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._names_of: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._names = names

    def grow(self, size: int) -> None:
        super().grow(size)
        self.hashes = np.resize(self.hashes, size)
        self._names_of = np.resize(self._names_of, size)

    def store(self, number: int, attributes: AttributeSet) -> None:
        super().store(number, attributes)
        pairs = labels(attributes)
        self.hashes[number] = np.uint64(sum(map(hash, pairs.items())) & 2**64 - 1)
        self._names_of[number] = self._names.intern(frozenset(pairs))

    def texts(self, *columns: npt.NDArray[np.int32]) -> list[npt.NDArray[np.object_]]:
        """The label text of each row, in one part for each column of set ids.

        Where sets of one row share a label, the row's first part holds all its labels, merged.
        """
        self.refresh(*columns)
        parts = [self.blobs[ids] for ids in columns]
        width = len(self._names)
        combined = np.zeros(len(columns[0]), np.int64)
        for ids in columns:
            combined = combined * width + self._names_of[ids]
        for combination in np.unique(combined).tolist():
            held = []
            rest = combination
            for _ in columns:
                rest, number = divmod(rest, width)
                held.append(self._names[number])
            if any(one & other for one, other in combinations(held, 2)):
                for row in np.flatnonzero(combined == combination).tolist():
                    pairs = [pair for ids in columns for pair in self.sets.get(int(ids[row]))]
                    parts[0][row] = label_text(labels(tuple(pairs)))
                    for part in parts[1:]:
                        part[row] = b""
        return parts

    def keys(self, *columns: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
        """A number for each row that is equal where its labels are equal, and rarely elsewhere.

        A sum over labels: it does not matter in which column a label stands.
        """
        out = np.zeros(len(columns[0]), np.uint64)
        for ids in columns:
            out += self.hashes[ids]
        return out


class LabelNames:
    """Sets of label names, numbered: there are few, whatever the number of series."""

    def __init__(self) -> None:
        self._sets: list[frozenset[str]] = []
        self._number_of: dict[frozenset[str], int] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def __getitem__(self, number: int) -> frozenset[str]:
        return self._sets[number]

    def intern(self, names: frozenset[str]) -> int:
        number = self._number_of.setdefault(names, len(self._sets))
        if number == len(self._sets):
            self._sets.append(names)
        return number
