"""What an accumulator publishes at the end of a window: all series as they are, never changed
again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from retina_otel.model.attribute_sets import AttributeSets
from retina_otel.model.batches import Histogram, Values
from retina_otel.model.signals import Metric
from retina_otel.pipeline.columns import Amount, Sums
from retina_otel.pipeline.once import Once

LIVE = int(np.iinfo(np.int64).max)
"""`ended` of a series that has not."""

OVERFLOW_ROW = 0
"""The row that takes what the cardinality limit leaves no series for."""

OVERFLOW_SET = (("otel.metric.overflow", True),)

_Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SeriesKeys:
    """Which series is in which row. Shared by snapshots between which no series came or went."""

    source: npt.NDArray[np.int32]
    destination: npt.NDArray[np.int32]
    own: npt.NDArray[np.int32]
    start_ns: _Longs
    born: _Longs
    """Number of the first snapshot that has it; 0 in a free row."""


@dataclass(frozen=True, slots=True)
class PublishedColumn:
    """The values of one metric."""

    values: Values
    present: npt.NDArray[np.bool_]
    """By row: the metric has been reported for this series."""
    sums: Sums


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """All rows of one table, free ones too."""

    keys: SeriesKeys
    ended: _Longs
    """Number of the snapshot in which the series ended, LIVE if it has not."""
    ended_ns: _Longs
    """Time of that snapshot: the time of its final value."""
    columns: Mapping[Metric, PublishedColumn]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All series of an accumulator. Times of snapshots grow, whatever the wall clock does."""

    sequence: int
    time_ns: int
    tables: tuple[TableSnapshot, ...]
    """In the order in which they were made: a table keeps its place."""
    sets: AttributeSets
    once: Once = field(default_factory=Once, compare=False, repr=False)
    """Exports of it, for the readers that would make the same."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Where all that was added to a counter (or counted by a histogram) is. Zero for gauges."""

    live: Amount
    retired: Amount
    """In series that have ended, freed ones included."""
    overflow: Amount
    total: Amount
    """Summed when it came in: live + retired + overflow = total."""


def totals(snapshot: Snapshot) -> dict[Metric, Totals]:
    """The books of each metric at the end of a window."""
    return {
        metric: _totals(table, column)
        for table in snapshot.tables
        for metric, column in table.columns.items()
    }


def _totals(table: TableSnapshot, column: PublishedColumn) -> Totals:
    if not column.sums.adds_up:
        return Totals(0, 0, 0, 0)
    values = column.values
    amounts = values.counts.sum(axis=1) if isinstance(values, Histogram) else values
    live = table.ended == LIVE
    live[OVERFLOW_ROW] = False
    overflow = amounts[OVERFLOW_ROW].item()
    living = amounts[live].sum().item()
    ended = amounts.sum().item() - overflow - living
    return Totals(living, column.sums.retired + ended, overflow, column.sums.total)
