"""What each attribute costs in series: how many there are, and how many without it.

Computed on demand, off the tick thread, from one snapshot. The caller holds a reader of the
snapshot, so that its ids mean what they say. Counted are live series: those that there is no room
for have no attributes here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSet, AttributeSets
from retina_otel.pipeline.series.folding import FoldedOf
from retina_otel.pipeline.snapshots import LIVE, OVERFLOW_ROW, Snapshot, TableSnapshot

_Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AttributeCost:
    """One attribute of a metric."""

    name: str
    values: int
    """Distinct values now."""
    series_without: int
    """Series that there would be without it: what is told apart by it alone is summed."""


@dataclass(frozen=True, slots=True)
class MetricCardinality:
    """The series of one metric."""

    metric: str
    series: int
    limit: int
    folded: int
    """Series that there was no room for in the newest window."""
    attributes: tuple[AttributeCost, ...]
    """Those that cost most first."""


def cardinality(
    snapshot: Snapshot, limit: int, folded: Mapping[FoldedOf, int]
) -> tuple[MetricCardinality, ...]:
    """The metrics of a snapshot, those with most series first."""
    found = [one for table in snapshot.tables for one in _of_table(table, snapshot, limit, folded)]
    return tuple(sorted(found, key=lambda one: (-one.series, one.metric)))


def _of_table(
    table: TableSnapshot, snapshot: Snapshot, limit: int, folded: Mapping[FoldedOf, int]
) -> Iterator[MetricCardinality]:
    live = (table.keys.born > 0) & (table.ended == LIVE)
    live[OVERFLOW_ROW] = False
    known: dict[bytes, tuple[AttributeCost, ...]] = {}
    for metric, column in table.columns.items():
        rows = np.flatnonzero(live & column.present)
        # Metrics of one receiver have the same series as a rule.
        if (same := rows.tobytes()) not in known:
            ends = [_End(ids[rows], snapshot.sets) for ids in _ids(table)]
            known[same] = tuple(
                sorted(_costs(ends), key=lambda one: (one.series_without, one.name))
            )
        yield MetricCardinality(
            metric.name,
            len(rows),
            limit,
            sum(count for (name, _), count in folded.items() if name == metric.name),
            known[same],
        )


def _ids(table: TableSnapshot) -> tuple[npt.NDArray[np.int32], ...]:
    return table.keys.source, table.keys.destination, table.keys.own


class _End:
    """The sets of one end, or the own sets, of all series, by small numbers."""

    def __init__(self, ids: npt.NDArray[np.int32], sets: AttributeSets) -> None:
        distinct, self.numbers = np.unique(ids, return_inverse=True)
        self.sets = [sets.get(number) for number in distinct.tolist()]
        self.values: dict[str, set[object]] = {}
        for one in self.sets:
            for name, value in one:
                self.values.setdefault(name, set()).add(value)

    def without(self, name: str) -> _Longs:
        """The numbers of the sets that are left if an attribute is dropped."""
        left: dict[AttributeSet, int] = {}
        merged = np.empty(len(self.sets), np.int64)
        for number, one in enumerate(self.sets):
            rest = tuple(pair for pair in one if pair[0] != name)
            merged[number] = left.setdefault(rest, len(left))
        numbers: _Longs = merged[self.numbers]
        return numbers


def _costs(ends: list[_End]) -> Iterator[AttributeCost]:
    whole = [end.numbers for end in ends]
    for place, end in enumerate(ends):
        for name, values in end.values.items():
            parts = [*whole]
            parts[place] = end.without(name)
            yield AttributeCost(name, len(values), _distinct(parts))


def _distinct(parts: list[_Longs]) -> int:
    """How many combinations there are."""
    mixed = np.zeros(len(parts[0]), np.int64)
    for numbers in parts:
        # Numbered anew, so that the product stays below 2**63 however many parts there are.
        _, mixed = np.unique(
            mixed * (int(numbers.max(initial=0)) + 1) + numbers, return_inverse=True
        )
    return int(mixed.max(initial=-1)) + 1
