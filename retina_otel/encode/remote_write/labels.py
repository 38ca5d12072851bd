"""The labels of series as remote write wants them: sorted over all sets, each name once.

The labels of a set are sorted and encoded once. A series has three sets and labels of its metric;
where each stretch of them goes depends on the names alone, so that is worked out once for each
combination of names, as a layout.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from retina_otel.encode.prometheus.labels import labels
from retina_otel.encode.prometheus.names import TranslationStrategy, label_name, label_value
from retina_otel.encode.set_cache import SetTable
from retina_otel.model.attribute_sets import AttributeSet, AttributeSets
from retina_otel.model.batches import AttributeValue

T = TypeVar("T", bound=SetTable)

NAME, LE = "__name__", "le"
_IDENTIFYING = ("service.namespace", "service.name", "service.instance.id")

Labels = tuple[tuple[str, str], ...]
"""Sorted by name, as bytes."""


class Rank(IntEnum):
    """Who wins where a label of the resource and an attribute of the point have one name."""

    ATTRIBUTE = 0
    YIELDS = 1
    WINS = 2


Names = tuple[tuple[str, Rank], ...]


@dataclass(frozen=True, slots=True)
class ResourceLabels:
    """What a resource adds to each of its series, and the labels of its `target_info`."""

    wins: Mapping[str, str]
    yields: Mapping[str, str]
    target_info: Labels
    """Empty where there is nothing to tell, or nothing to tell it by."""

    @classmethod
    def of(
        cls,
        resource: Mapping[str, AttributeValue],
        promoted: tuple[str, ...],
        external: Mapping[str, str],
        strategy: TranslationStrategy,
    ) -> ResourceLabels:
        """`promoted` are resource attributes that become labels, `external` labels of all
        series."""
        text = {key: label_value(value) for key, value in resource.items()}
        wins = {}
        if job := text.get("service.name"):
            namespace = text.get("service.namespace")
            wins["job"] = job if namespace is None else f"{namespace}/{job}"
        if instance := text.get("service.instance.id"):
            wins["instance"] = instance
        chosen = tuple((key, resource[key]) for key in promoted if key in resource)
        yields = {**external, **labels(chosen, strategy)}
        told = {key: value for key, value in resource.items() if key not in _IDENTIFYING}
        target_info: Labels = ()
        if wins and told:
            named = {**external, **labels(tuple(told.items()), strategy), **wins}
            target_info = in_order({**named, NAME: "target_info"})
        return cls(wins, yields, target_info)

    def rank(self, name: str, attributes: Mapping[str, str]) -> Rank:
        if name in self.wins:
            return Rank.WINS
        return Rank.ATTRIBUTE if name in attributes else Rank.YIELDS


NO_RESOURCE = ResourceLabels({}, {}, ())


def in_order(pairs: Mapping[str, str]) -> Labels:
    # The order of code points is that of bytes in UTF-8.
    return tuple(sorted(pairs.items()))


@dataclass(frozen=True, slots=True)
class Stretch:
    """Labels that stand beside each other in a series: `low` to `high` of a column's set, or
    labels of the metric."""

    column: int = -1
    low: int = 0
    high: int | None = 0
    """None: to the end."""
    fixed: tuple[str, ...] = ()


Layout = tuple[Stretch, ...]


def layout(columns: tuple[Names, ...], fixed: tuple[str, ...]) -> Layout | None:
    """Where the labels of sets with these names go, and those of the metric. None if attributes of
    two sets are one label: they have to be joined row by row."""
    found: dict[str, list[tuple[Rank, int, int]]] = {}
    for column, names in enumerate(columns):
        for place, (name, rank) in enumerate(names):
            found.setdefault(name, []).append((rank, column, place))
    chosen: dict[str, tuple[int, int]] = dict.fromkeys(fixed, (-1, 0))
    for name, candidates in found.items():
        winners = [each for each in candidates if each[0] is Rank.WINS]
        attributes = [each for each in candidates if each[0] is Rank.ATTRIBUTE]
        if not winners and len(attributes) > 1:
            return None
        (_, column, place) = (winners or attributes or candidates)[0]
        chosen.setdefault(name, (column, place))
    out: list[Stretch] = []
    for name in sorted(chosen):
        column, place = chosen[name]
        last = out[-1] if out else Stretch()
        if column == -1:
            if out and last.fixed:
                out[-1] = Stretch(fixed=(*last.fixed, name))
            else:
                out.append(Stretch(fixed=(name,)))
        elif out and not last.fixed and (last.column, last.high) == (column, place):
            out[-1] = Stretch(column, last.low, place + 1)
        else:
            out.append(Stretch(column, place, place + 1))
    return tuple(
        Stretch(each.column, 0, None)
        if not each.fixed and (each.low, each.high) == (0, len(columns[each.column]))
        else each
        for each in out
    )


class NameSets:
    """Sets of label names, numbered: there are few, whatever the number of series."""

    def __init__(self) -> None:
        self._sets: list[Names] = []
        self._number_of: dict[Names, int] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def __getitem__(self, number: int) -> Names:
        return self._sets[number]

    def intern(self, names: Names) -> int:
        number = self._number_of.setdefault(names, len(self._sets))
        if number == len(self._sets):
            self._sets.append(names)
        return number


class LabelColumn:
    """The labels of all sets of one AttributeSets, and what they are encoded as, by stretch."""

    def __init__(
        self,
        sets: AttributeSets,
        strategy: TranslationStrategy,
        names: NameSets,
        resource: ResourceLabels = NO_RESOURCE,
        hidden: Collection[str] = (),
    ) -> None:
        """`resource`: its labels are added to those of each set. `hidden`: labels that stand in no
        series, since another column's win."""
        self.sets = sets
        self.hidden = hidden
        self.index = _Index(sets, self, names)
        self._strategy = strategy
        self._resource = resource
        self._stretches: dict[tuple[int, int | None], Any] = {}

    def stretch(self, low: int, high: int | None, make: Callable[[AttributeSets, Build], T]) -> T:
        """The table of labels `low` to `high` of each set; `make`, always the same, makes it."""
        table: T | None = self._stretches.get((low, high))
        if table is None:
            table = make(self.sets, lambda attributes: self.labels_of(attributes)[low:high])
            self._stretches[low, high] = table
        return table

    def labels_of(self, attributes: AttributeSet) -> Labels:
        return self.merged(labels(attributes, self._strategy))

    def merged(self, own: Mapping[str, str]) -> Labels:
        """Labels of a set with those of the resource."""
        resource = self._resource
        return in_order({**resource.yields, **own, **resource.wins})

    def named(self, attributes: AttributeSet) -> tuple[Names, Labels]:
        own = labels(attributes, self._strategy)
        pairs = self.merged(own)
        return tuple((name, self._resource.rank(name, own)) for name, _ in pairs), pairs


Build = Callable[[AttributeSet], Labels]


class _Index(SetTable):
    """Of each set a number for its names, and a hash of its labels that does not ask for order."""

    def __init__(self, sets: AttributeSets, column: LabelColumn, names: NameSets) -> None:
        super().__init__(sets, lambda pairs: b"")
        self._column = column
        self._name_sets = names
        self.names: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.hashes: npt.NDArray[np.uint64] = np.empty(0, np.uint64)

    def grow(self, size: int) -> None:
        super().grow(size)
        self.names = np.resize(self.names, size)
        self.hashes = np.resize(self.hashes, size)

    def store(self, number: int, attributes: AttributeSet) -> None:
        names, pairs = self._column.named(attributes)
        self.names[number] = self._name_sets.intern(names)
        # Of texts: hashes of tuples add up to the same too often where two ends change places.
        told = (pair for pair in pairs if pair[0] not in self._column.hidden)
        total = sum(hash(f"{name}\0{text}") for name, text in told)
        self.hashes[number] = np.uint64(total & 2**64 - 1)


def bound(value: float) -> str:
    """What `le` says of a bucket: the shortest text without an exponent, as the Collector writes
    it."""
    if np.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return np.format_float_positional(value, trim="-")


def label_of_setting(name: str) -> str:
    """The label name that is meant by a setting; empty if it can't be one."""
    out = label_name(name)
    return "" if out.startswith("exported_") and not name.startswith("exported_") else out
