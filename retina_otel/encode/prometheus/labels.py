"""Labels of attribute sets as bytes, by id; tells where two attributes became one label."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from retina_otel.encode import protobuf
from retina_otel.encode.prometheus.escaping import Escaping, Naming, is_classic
from retina_otel.encode.prometheus.names import (
    DEFAULT_STRATEGY,
    TranslationStrategy,
    escaped,
    label_value,
)
from retina_otel.encode.set_cache import SetTable
from retina_otel.model.attribute_sets import AttributeSet, AttributeSets

Blob = Callable[[Mapping[str, str]], bytes]
"""Labels in the bytes of a format, so that those of several sets can stand beside each other."""


def labels(pairs: AttributeSet, strategy: TranslationStrategy = DEFAULT_STRATEGY) -> dict[str, str]:
    """Labels of attributes that nobody wants escaped, see `named_labels`."""
    return named_labels(pairs, _unescaped(strategy))


@functools.cache
def _unescaped(strategy: TranslationStrategy) -> Naming:
    return Naming(strategy, Escaping.ALLOW_UTF8)


def named_labels(pairs: AttributeSet, naming: Naming) -> dict[str, str]:
    """Labels of attributes. Values of keys that become one label are joined by `;`, in key order.

    An empty value is left out: to Prometheus it is the same as no label.
    """
    out: dict[str, str] = {}
    for key, value in sorted(pairs, key=itemgetter(0)):
        name = naming.label(key)
        text = label_value(value)
        if name and text:
            out[name] = f"{out[name]};{text}" if name in out else text
    return out


def label_text(pairs: Mapping[str, str]) -> bytes:
    """Each label after a comma, as text and OpenMetrics have it."""
    return protobuf.utf8(
        "".join(f',{quoted(name, label=True)}="{escaped(value)}"' for name, value in pairs.items())
    )


def label_pairs(pairs: Mapping[str, str]) -> bytes:
    """Each label as field 1, a LabelPair, of a protobuf Metric. An empty one is none."""
    return b"".join(
        protobuf.delimited(1, _name_field(name) + protobuf.string(2, value))
        for name, value in pairs.items()
        if value
    )


def quoted(name: str, *, label: bool = False) -> str:
    """A name of the classic character set as it is, any other in quotes."""
    return name if is_classic(name, label=label) else f'"{escaped(name)}"'


@functools.lru_cache(maxsize=4096)
def _name_field(name: str) -> bytes:
    return protobuf.string(1, name)


class LabelTable(SetTable):
    """Bytes of each set's labels, a hash of them, and a number for the names that it holds."""

    def __init__(self, sets: AttributeSets, naming: Naming, blob: Blob, names: LabelNames) -> None:
        super().__init__(sets, lambda pairs: blob(named_labels(pairs, naming)))
        self.hashes: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._names_of: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._naming = naming
        self._blob = blob
        self._names = names

    def grow(self, size: int) -> None:
        super().grow(size)
        self.hashes = np.resize(self.hashes, size)
        self._names_of = np.resize(self._names_of, size)

    def store(self, number: int, attributes: AttributeSet) -> None:
        pairs = named_labels(attributes, self._naming)
        blob = self._blob(pairs)
        self.blobs[number] = blob
        self.lengths[number] = len(blob)
        self.hashes[number] = _hash(pairs)
        self._names_of[number] = self._names.intern(frozenset(pairs))

    def parts(
        self, *columns: npt.NDArray[np.int32]
    ) -> tuple[list[npt.NDArray[np.object_]], npt.NDArray[np.int64]]:
        """The labels of each row in one part for each column of set ids, and their bytes in all.

        Where sets of one row share a label, the row's first part holds all its labels, merged.
        """
        self.refresh(*columns)
        parts = [self.blobs[ids] for ids in columns]
        lengths = self.lengths[columns[0]].astype(np.int64)
        for ids in columns[1:]:
            lengths += self.lengths[ids]
        for row in self._shared(*columns):
            merged = self._blob(self._joined(row, columns))
            parts[0][row] = merged
            lengths[row] = len(merged)
            for part in parts[1:]:
                part[row] = b""
        return parts, lengths

    def keys(self, *columns: npt.NDArray[np.int32]) -> npt.NDArray[np.uint64]:
        """A number for each row that is equal where its labels are equal, and rarely elsewhere.

        A sum over labels: it does not matter in which column a label stands.
        """
        self.refresh(*columns)
        out = np.zeros(len(columns[0]), np.uint64)
        for ids in columns:
            out += self.hashes[ids]
        for row in self._shared(*columns):
            out[row] = _hash(self._joined(row, columns))
        return out

    def _joined(self, row: int, columns: Sequence[npt.NDArray[np.int32]]) -> dict[str, str]:
        """The labels of one row."""
        pairs = [pair for ids in columns for pair in self.sets.get(int(ids[row]))]
        return named_labels(tuple(pairs), self._naming)

    def _shared(self, *columns: npt.NDArray[np.int32]) -> list[int]:
        """Rows whose sets share a label."""
        width = len(self._names)
        used = [
            np.flatnonzero(np.bincount(self._names_of[ids], minlength=width)) for ids in columns
        ]
        names = [frozenset[str]().union(*(self._names[n] for n in one.tolist())) for one in used]
        if not any(one & other for one, other in combinations(names, 2)):
            return []
        combined = np.zeros(len(columns[0]), np.int64)
        for ids in columns:
            combined = combined * width + self._names_of[ids]
        found: list[int] = []
        for combination in np.unique(combined).tolist():
            held = []
            rest = combination
            for _ in columns:
                rest, number = divmod(rest, width)
                held.append(self._names[number])
            if any(one & other for one, other in combinations(held, 2)):
                found += np.flatnonzero(combined == combination).tolist()
        return found


def _hash(pairs: Mapping[str, str]) -> np.uint64:
    # Of one text for each label: sums of hashes of pairs are often equal where ends swap places.
    total = sum(hash(f"{name}\0{value}") for name, value in pairs.items())
    return np.uint64(total & 2**64 - 1)


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
